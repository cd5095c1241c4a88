//! Makes numbers from bytes, for checks whose input is not bytes.

/// Bytes that numbers are taken from. Behind the end, all bytes are zero.
pub struct Input<'a>(pub &'a [u8]);

impl Input<'_> {
    /// Whether bytes are left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let (head, rest) = self.0.split_at(self.0.len().min(N));
        self.0 = rest;
        let mut bytes = [0; N];
        bytes[..head.len()].copy_from_slice(head);
        bytes
    }

    /// Eight bits.
    pub fn u8(&mut self) -> u8 {
        self.bytes::<1>()[0]
    }

    /// Sixteen bits.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.bytes())
    }

    /// 32 bits.
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes())
    }

    /// 64 bits.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }
}
