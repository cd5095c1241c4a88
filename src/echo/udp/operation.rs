//! The operations of the UDP datapath, and what their tokens say: which operation it was, and for which socket, group,
//! message slot or clock.

use crate::kernel::ring::Token;

/// A group of datagrams that leave together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GroupId {
    /// The number of the socket that received them.
    pub(super) socket: u16,
    /// The group's first buffer there.
    pub(super) first: u16,
}

impl GroupId {
    fn to_index(self) -> u32 {
        u32::from(self.socket) << 16 | u32::from(self.first)
    }

    fn from_index(index: u32) -> Self {
        Self { socket: (index >> 16) as u16, first: index as u16 }
    }
}

/// The message that a send carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// The message of a group: all its datagrams, or the next one.
    Group(GroupId),
    /// One datagram of a split train, in this message slot.
    Datagram(u16),
}

/// The purpose of a clock's tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tick {
    /// To find idle reply sockets.
    ReplySockets = 0,
    /// To read what the kernel has dropped.
    Drops = 1,
}

impl Tick {
    pub(super) fn of(token: Token) -> Self {
        if token.index() == Self::ReplySockets as u32 { Self::ReplySockets } else { Self::Drops }
    }
}

/// The numbers of the operations that this datapath submits.
#[derive(Clone, Copy, Debug)]
pub struct Operations {
    /// Receive of datagrams; the index is the socket's.
    pub receive: u8,
    /// Send of a group's message; the index is the group's.
    pub send_group: u8,
    /// Send of one datagram of a split train; the index is the message slot's.
    pub send_datagram: u8,
    /// Cancellation of a receive.
    pub cancel: u8,
    /// A tick of one of the clocks; the index says which.
    pub tick: u8,
}

impl Operations {
    pub(super) fn receive(self, socket: u16) -> Token {
        Token::new(self.receive, 0, socket.into())
    }

    pub(super) fn send_group(self, id: GroupId) -> Token {
        Token::new(self.send_group, 0, id.to_index())
    }

    pub(super) fn send_datagram(self, slot: u16) -> Token {
        Token::new(self.send_datagram, 0, slot.into())
    }

    pub(super) fn cancel(self) -> Token {
        Token::new(self.cancel, 0, 0)
    }

    pub(super) fn tick(self, tick: Tick) -> Token {
        Token::new(self.tick, 0, tick as u32)
    }

    /// The message that the send of this token carried.
    pub(super) fn sent(self, token: Token) -> Sent {
        if token.operation() == self.send_datagram {
            Sent::Datagram(token.index() as u16)
        } else {
            debug_assert_eq!(token.operation(), self.send_group, "the token of a send");
            Sent::Group(GroupId::from_index(token.index()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPERATIONS: Operations =
        Operations { receive: 1, send_group: 2, send_datagram: 3, cancel: 4, tick: 5 };

    #[test]
    fn a_token_names_its_group_or_its_slot() {
        for (socket, first) in [(0, 0), (0, 127), (1, 0), (u16::MAX, u16::MAX), (255, 16)] {
            let id = GroupId { socket, first };
            assert_eq!(OPERATIONS.sent(OPERATIONS.send_group(id)), Sent::Group(id));
        }
        for slot in [0, 1, 255, u16::MAX] {
            assert_eq!(OPERATIONS.sent(OPERATIONS.send_datagram(slot)), Sent::Datagram(slot));
        }
    }

    #[test]
    #[should_panic(expected = "the token of a send")]
    fn a_token_of_another_operation_is_no_send() {
        OPERATIONS.sent(OPERATIONS.receive(1));
    }

    #[test]
    fn a_tick_is_told_from_the_other() {
        for tick in [Tick::ReplySockets, Tick::Drops] {
            assert_eq!(Tick::of(OPERATIONS.tick(tick)), tick);
        }
    }
}
