//! The operations of a worker: the numbers that tokens carry.
//!
//! Both datapaths submit to one ring. The number in a completion's token says which of them it belongs to.

use crate::kernel::ring::Token;

/// What a completion belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Operation {
    /// Poll of the file that wakes the worker.
    Wake,
    /// Cancellation of another operation, which has a completion of its own.
    Cancel,
    /// Receive of datagrams; the index is the socket's.
    UdpReceive,
    /// Send of a group's message.
    UdpSendGroup,
    /// Send of one datagram of a split train.
    UdpSendDatagram,
    /// Accept; the index is the listener's.
    TcpAccept,
    /// Receive on a connection; the index is its file. So it is for all operations on connections.
    TcpReceive,
    /// Send on a connection.
    TcpSend,
    /// Shutdown of a connection.
    TcpShutdown,
    /// Close of a connection; it completes only if it fails.
    TcpClose,
    /// Poll of a connection that has nothing to receive.
    TcpReadable,
    /// Poll of a connection whose send buffer is full.
    TcpWritable,
    /// An ordinary descriptor is made of a connection.
    TcpInstall,
    /// A tick of the clock that finds idle connections.
    TcpTick,
    /// A tick of one of UDP's clocks; the index says which.
    UdpTick,
}

impl Operation {
    const ALL: [Self; 15] = [
        Self::Wake,
        Self::Cancel,
        Self::UdpReceive,
        Self::UdpSendGroup,
        Self::UdpSendDatagram,
        Self::TcpAccept,
        Self::TcpReceive,
        Self::TcpSend,
        Self::TcpShutdown,
        Self::TcpClose,
        Self::TcpReadable,
        Self::TcpWritable,
        Self::TcpInstall,
        Self::TcpTick,
        Self::UdpTick,
    ];

    /// The operation that a token was made for.
    pub fn of(token: Token) -> Self {
        Self::ALL[usize::from(token.operation())]
    }

    /// The token of this operation on object `index` in its `generation`.
    pub const fn token(self, generation: u32, index: u32) -> Token {
        Token::new(self as u8, generation, index)
    }

    /// The token of an operation on no object.
    pub const fn alone(self) -> Token {
        self.token(0, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_found_by_its_number() {
        for (number, operation) in Operation::ALL.into_iter().enumerate() {
            assert_eq!(operation as usize, number);
            assert_eq!(Operation::of(operation.token(7, 9)), operation);
        }
    }
}
