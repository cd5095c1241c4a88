//! The processors that this process may run on.

#![allow(unsafe_code)] // masks of any length: the libraries' own ends at 1,024 processors

use std::io;

use super::check;

/// The processors that this process may run on (sched_getaffinity(2)).
pub fn processors() -> io::Result<Vec<usize>> {
    processors_told_by(|mask| {
        // SAFETY: sched_getaffinity(2) writes at most the size of a live mask of unsigned longs
        check(unsafe { libc::sched_getaffinity(0, size_of_val(mask), mask.as_mut_ptr().cast()) }).map(drop)
    })
}

/// Processors in one word of a mask.
const MASK_BITS: usize = libc::c_ulong::BITS as usize;

/// The same with a mask that grows while the kernel says `EINVAL`: it knows of more processors, and `cpu_set_t` ends
/// at 1,024.
fn processors_told_by(ask: impl Fn(&mut [libc::c_ulong]) -> io::Result<()>) -> io::Result<Vec<usize>> {
    const WORDS_MAX: usize = (1 << 20) / MASK_BITS;
    let mut mask = vec![0; 1024 / MASK_BITS];
    loop {
        match ask(&mut mask) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && mask.len() < WORDS_MAX => {
                mask.resize(2 * mask.len(), 0);
            }
            outcome => break outcome?,
        }
    }
    let is_set = |&processor: &usize| mask[processor / MASK_BITS] >> (processor % MASK_BITS) & 1 != 0;
    Ok((0..mask.len() * MASK_BITS).filter(is_set).collect())
}

/// Keeps the calling thread on one processor (sched_setaffinity(2)).
pub fn pin_thread(processor: usize) -> io::Result<()> {
    let mut mask: Vec<libc::c_ulong> = vec![0; processor / MASK_BITS + 1];
    mask[processor / MASK_BITS] = 1 << (processor % MASK_BITS);
    // SAFETY: sched_setaffinity(2) reads a live mask of unsigned longs, in its length
    check(unsafe { libc::sched_setaffinity(0, size_of_val(&mask[..]), mask.as_ptr().cast()) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_of_processors_grows_with_the_machine() {
        for processors in [2, 1024, 1025, 5000] {
            let told = processors_told_by(|mask| {
                if mask.len() * MASK_BITS < processors {
                    return Err(io::Error::from_raw_os_error(libc::EINVAL));
                }
                for processor in [1, processors - 1] {
                    mask[processor / MASK_BITS] |= 1 << (processor % MASK_BITS);
                }
                Ok(())
            });
            let mut expected = vec![1, processors - 1];
            expected.dedup();
            assert_eq!(told.unwrap(), expected);
        }
        let never = processors_told_by(|_| Err(io::Error::from_raw_os_error(libc::EINVAL)));
        assert_eq!(never.unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }
}
