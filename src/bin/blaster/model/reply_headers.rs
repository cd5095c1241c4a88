//! The headers that right replies came with, each distinct value counted.

/// The counts of each traffic class and each TTL. Nothing is counted unless the sockets ask for them.
#[derive(Clone, Debug)]
pub(crate) struct ReplyHeaders {
    classes: Box<[u64; 256]>,
    ttls: Box<[u64; 256]>,
}

/// What a received datagram came with, as far as the socket asks for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReceivedHeaders {
    pub(crate) traffic_class: Option<u8>,
    pub(crate) ttl: Option<u8>,
}

impl ReplyHeaders {
    pub(crate) fn new() -> Self {
        Self { classes: Box::new([0; 256]), ttls: Box::new([0; 256]) }
    }

    pub(crate) fn note(&mut self, received: ReceivedHeaders) {
        if let Some(class) = received.traffic_class {
            self.classes[usize::from(class)] += 1;
        }
        if let Some(ttl) = received.ttl {
            self.ttls[usize::from(ttl)] += 1;
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        let add = |sums: &mut [u64; 256], parts: &[u64; 256]| {
            sums.iter_mut().zip(parts).for_each(|(sum, part)| *sum += part);
        };
        add(&mut self.classes, &other.classes);
        add(&mut self.ttls, &other.ttls);
    }

    /// The traffic classes that came, and their counts.
    pub(crate) fn classes(&self) -> impl Iterator<Item = (u8, u64)> {
        seen(&self.classes)
    }

    /// The TTLs that came, and their counts.
    pub(crate) fn ttls(&self) -> impl Iterator<Item = (u8, u64)> {
        seen(&self.ttls)
    }
}

fn seen(counts: &[u64; 256]) -> impl Iterator<Item = (u8, u64)> {
    (0..=u8::MAX).zip(counts).filter(|(_, count)| **count > 0).map(|(value, count)| (value, *count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_is_counted_and_sums_add_up() {
        let received = |traffic_class, ttl| ReceivedHeaders { traffic_class, ttl };
        let mut counts = ReplyHeaders::new();
        for (class, ttl) in [(Some(0xb8), Some(64)), (Some(0xb8), Some(63)), (None, None), (Some(0xff), None)]
        {
            counts.note(received(class, ttl));
        }
        let mut other = ReplyHeaders::new();
        other.note(received(Some(0), Some(64)));
        counts.merge(&other);
        assert_eq!(counts.classes().collect::<Vec<_>>(), [(0, 1), (0xb8, 2), (0xff, 1)]);
        assert_eq!(counts.ttls().collect::<Vec<_>>(), [(63, 1), (64, 2)]);
    }
}
