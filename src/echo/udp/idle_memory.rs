//! When the memory of a socket's buffers goes back to the system: after some seconds without a datagram.

/// Whether a socket's buffers hold memory of the system, and for how long they were idle. Updated once a second.
#[derive(Clone, Copy, Debug)]
pub(super) struct IdleMemory {
    /// The buffers' mark at the last look: it changes with every receive.
    mark: u16,
    /// Looks since something was received; `None`: everything was given back.
    idle_ticks: Option<u32>,
}

impl IdleMemory {
    /// The buffers are new and hold none.
    pub(super) fn new(mark: u16) -> Self {
        Self { mark, idle_ticks: None }
    }

    /// A second has passed: whether anything is held that can be given back one day.
    pub(super) fn tick(&mut self, mark: u16) -> bool {
        if mark != self.mark {
            *self = Self { mark, idle_ticks: Some(0) };
        } else if let Some(idle_ticks) = &mut self.idle_ticks {
            *idle_ticks += 1;
        }
        self.idle_ticks.is_some()
    }

    /// No datagram was received for so many ticks, nor since the last one: the memory can be given back.
    pub(super) fn is_idle(&self, mark: u16, ticks: u32) -> bool {
        self.mark == mark && self.idle_ticks.is_some_and(|idle_ticks| idle_ticks >= ticks)
    }

    pub(super) fn given_back(&mut self) {
        self.idle_ticks = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_idle_after_so_many_seconds_without_a_receive() {
        let mut memory = IdleMemory::new(7);
        assert!(!memory.tick(7) && !memory.is_idle(7, 0), "nothing was received yet");
        assert!(memory.tick(8) && !memory.is_idle(8, 2));
        assert!(memory.tick(8) && !memory.is_idle(8, 2));
        assert!(memory.tick(8) && memory.is_idle(8, 2));
        assert!(!memory.is_idle(9, 2), "something was received since the last tick");
        assert!(memory.tick(9) && !memory.is_idle(9, 2), "which counts anew");
        memory.given_back();
        assert!(!memory.tick(9) && !memory.is_idle(9, 0), "there is nothing more to give back");
    }
}
