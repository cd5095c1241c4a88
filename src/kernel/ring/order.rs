//! Whether completions come in the order in which the kernel fills an incremental buffer, found by trying it.
//!
//! All connections of a worker receive into one ring of provided buffers, and of an incremental buffer no completion
//! says where in it its bytes are: they follow those of the completion before. That holds only while completions come
//! in the order in which the buffer is filled. Linux 6.12 to 6.12.28, 6.13, and 6.14 to 6.14.6 keep what ends by its
//! own submission, as a receive does that may not wait, until everything is submitted, and post at once what a
//! multishot brings: the later part comes first, and each of two peers would get the other's bytes.
//!
//! So each worker tries its ring before it serves, with streams whose bytes it knows: receives of both kinds in one
//! submission and in either order, receives that find nothing, multishots that are woken beside a submission, a
//! buffer that is used up, and streams that end. Where anything is out of order, or can't be tried, buffers are whole:
//! then each receive has one for itself, and the order does not matter.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Mutex;

use super::buffers::{BufferConfig, BufferRing};
use super::files::Descriptors;
use super::{Completion, Errno, File, Ring, RingError, Token, Wait};
use crate::kernel::sys;

/// Buffers of the trial's own, so small that one is used up in it.
const BUFFERS: BufferConfig = BufferConfig { count: 4, buffer_bytes: 4096, incremental: true };
/// More than a buffer holds.
const ONCE_BYTES_MAX: u32 = 64 << 10;
/// What may go wrong in passing (memory is short for a moment, operations are not submitted together) is tried again.
const ATTEMPTS: u32 = 8;
/// By then everything has completed that ever does: nothing here has to be waited for.
const TURNS: u32 = 64;

/// Why streams are received into whole buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WholeBuffers {
    /// The kernel has no others.
    #[error("this kernel has no buffers that are used in parts, as Linux 6.12 has")]
    NotIncremental,
    /// Parts of a buffer could be taken for one another.
    #[error(
        "this kernel tells of the parts of a buffer out of order (Linux 6.12 to 6.12.28, 6.13, 6.14 to 6.14.6 do); all \
         is served, and a newer kernel takes less memory for it"
    )]
    OutOfOrder,
    /// Whether that could happen is not known.
    #[error(
        "whether this kernel tells of the parts of a buffer in order can't be tried: {0}; allow socketpair in seccomp \
         filters, or raise RLIMIT_NOFILE (LimitNOFILE= in a unit)"
    )]
    Untried(Errno),
}

impl From<io::Error> for WholeBuffers {
    fn from(error: io::Error) -> Self {
        Self::Untried(error.into())
    }
}

/// A receive of the trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Receive {
    Once,
    Multishot,
}

// The streams, by what receives from them.
const FIRST_ONCE: usize = 0;
const READY: usize = 1;
const SECOND_ONCE: usize = 2;
const WOKEN: usize = 3;
const STREAMS: usize = 4;

/// A stream of known bytes.
struct Stream {
    theirs: OwnedFd,
    sent: usize,
    received: usize,
    receiving: Option<Receive>,
    /// A multishot has brought bytes and goes on.
    posted: bool,
}

/// Tries whether `ring` may use incremental buffers for streams. Nothing was queued in it before. What it queues bears
/// `token`, with an index of its own; nothing is left behind.
pub fn try_order(ring: &mut Ring, token: Token) -> Result<(), WholeBuffers> {
    // one worker at a time: descriptors may be few
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock();
    assert!(!ring.uring.has_queued(), "completions of others would be lost here");
    let mut buffers = BufferRing::new(ring, BUFFERS).map_err(|RingError { errno, .. }| match errno.0 {
        libc::EINVAL => WholeBuffers::NotIncremental,
        _ => WholeBuffers::Untried(errno),
    })?;
    // the streams need no place in the ring's own table, whatever that is
    let table = ring.descriptors.replace(Descriptors::new(STREAMS as u32));
    let mut outcome = Err(WholeBuffers::Untried(Errno(libc::EAGAIN)));
    for attempt in 0..ATTEMPTS {
        outcome =
            Trial::new(ring, &mut buffers, Token::new(token.operation(), attempt, 0)).and_then(Trial::run);
        if outcome != Err(WholeBuffers::Untried(Errno(libc::EAGAIN))) {
            break;
        }
    }
    ring.descriptors = table;
    buffers.unregister(ring);
    outcome
}

/// The byte at a place of a stream: no stream has one of another's, and none the same a few places on.
fn byte(stream: usize, place: usize) -> u8 {
    ((stream << 6) | (place % 61)) as u8
}

fn content(stream: usize, from: usize, bytes: usize) -> impl Iterator<Item = u8> {
    (from..from + bytes).map(move |place| byte(stream, place))
}

struct Trial<'a> {
    ring: &'a mut Ring,
    buffers: &'a mut BufferRing,
    token: Token,
    streams: [Stream; STREAMS],
    completions: Vec<Completion>,
}

impl<'a> Trial<'a> {
    fn new(ring: &'a mut Ring, buffers: &'a mut BufferRing, token: Token) -> Result<Self, WholeBuffers> {
        let mut stream = |number: usize| {
            let (ours, theirs) = sys::stream_pair()?;
            ring.take_file(File(number as u32), ours)
                .map_err(|error| io::Error::from_raw_os_error(error.errno.0))?;
            Ok::<_, io::Error>(Stream { theirs, sent: 0, received: 0, receiving: None, posted: false })
        };
        let streams = [stream(FIRST_ONCE)?, stream(READY)?, stream(SECOND_ONCE)?, stream(WOKEN)?];
        Ok(Self { ring, buffers, token, streams, completions: Vec::new() })
    }

    fn run(mut self) -> Result<(), WholeBuffers> {
        let tried = self.submission().and_then(|together| Ok(together & self.woken()? & self.nothing()?));
        let ended = self.end();
        match (tried?, ended?) {
            (_, false) => Err(WholeBuffers::Untried(Errno(libc::EBUSY))),
            (false, true) => Err(WholeBuffers::Untried(Errno(libc::EAGAIN))),
            (true, true) => Ok(()),
        }
    }

    /// Ready receives of both kinds in one submission, each before the other; a multishot that finds nothing. True
    /// if that was tried.
    fn submission(&mut self) -> Result<bool, WholeBuffers> {
        self.send(FIRST_ONCE, 1000)?;
        self.send(READY, 700)?;
        self.send(SECOND_ONCE, 900)?;
        let together = self.receive(&[
            (WOKEN, Receive::Multishot),
            (FIRST_ONCE, Receive::Once),
            (READY, Receive::Multishot),
            (SECOND_ONCE, Receive::Once),
        ])?;
        Ok(together && self.streams[READY].posted)
    }

    /// Multishots that are woken beside a submission of two ready receives; the buffer that was used before is used up.
    /// True if that was tried.
    fn woken(&mut self) -> Result<bool, WholeBuffers> {
        self.send(WOKEN, 400)?;
        self.send(READY, 800)?;
        self.send(FIRST_ONCE, 300)?;
        self.send(SECOND_ONCE, 600)?;
        let together = self.receive(&[(FIRST_ONCE, Receive::Once), (SECOND_ONCE, Receive::Once)])?;
        Ok(together && self.streams[READY].posted && self.streams[WOKEN].posted)
    }

    /// A receive that finds nothing, and what comes after it. True if that was tried.
    fn nothing(&mut self) -> Result<bool, WholeBuffers> {
        self.send(READY, 100)?;
        let together = self.receive(&[(FIRST_ONCE, Receive::Once)])?;
        Ok(together && self.streams[READY].posted)
    }

    fn send(&mut self, stream: usize, bytes: usize) -> Result<(), WholeBuffers> {
        let Stream { theirs, sent, .. } = &mut self.streams[stream];
        let content: Vec<u8> = content(stream, *sent, bytes).collect();
        let taken = sys::send_now(theirs.as_fd(), &content)?;
        *sent += taken;
        if taken < bytes { Err(io::Error::from_raw_os_error(libc::ENOBUFS).into()) } else { Ok(()) }
    }

    fn token(&self, stream: usize) -> Token {
        Token::new(self.token.operation(), self.token.generation(), stream as u32)
    }

    /// Receives in this order, and takes what comes. True if all was submitted together, and everything came that
    /// was sent.
    fn receive(&mut self, receives: &[(usize, Receive)]) -> Result<bool, WholeBuffers> {
        for stream in &mut self.streams {
            stream.posted = false;
        }
        for &(stream, receive) in receives {
            let (file, token) = (File(stream as u32), self.token(stream));
            self.streams[stream].receiving = Some(receive);
            match receive {
                Receive::Once => self.ring.receive_once(file, self.buffers, ONCE_BYTES_MAX, token),
                Receive::Multishot => self.ring.receive(file, self.buffers, token),
            }
        }
        let together = self.ring.submit_together(receives.len(), &mut self.completions)?;
        for _ in 0..TURNS {
            self.take()?;
            let once = self.streams.iter().any(|stream| stream.receiving == Some(Receive::Once));
            if !once && self.streams.iter().all(|stream| stream.received == stream.sent) {
                return Ok(together);
            }
            self.ring.turn(Wait::No, &mut self.completions)?;
        }
        Ok(false)
    }

    /// Looks at what has come.
    fn take(&mut self) -> Result<(), WholeBuffers> {
        let mut in_order = true;
        for completion in self.completions.drain(..) {
            let number = completion.token().index() as usize;
            // a cancellation's own completion says nothing
            let Some(stream) = self.streams.get_mut(number) else { continue };
            if !completion.more() {
                stream.receiving = None;
            }
            match self.buffers.try_take(&completion) {
                Err(_) => in_order = false,
                Ok(None) => {}
                Ok(Some(part)) => {
                    let bytes = self.buffers.bytes(&part);
                    in_order &= bytes.iter().copied().eq(content(number, stream.received, bytes.len()));
                    stream.received += bytes.len();
                    stream.posted |= completion.more();
                    self.buffers.recycle(part);
                }
            }
        }
        if in_order { Ok(()) } else { Err(WholeBuffers::OutOfOrder) }
    }

    /// Ends everything; false if something stays in flight.
    fn end(&mut self) -> Result<bool, WholeBuffers> {
        for stream in &self.streams {
            let _ = sys::end_stream(stream.theirs.as_fd());
        }
        if self.until_all_have_ended()? {
            return Ok(true);
        }
        for stream in 0..STREAMS {
            self.ring.cancel(self.token(stream), self.token(STREAMS));
        }
        self.until_all_have_ended()
    }

    fn until_all_have_ended(&mut self) -> Result<bool, WholeBuffers> {
        let mut seen = Ok(());
        for _ in 0..TURNS {
            seen = seen.and(self.take());
            if self.streams.iter().all(|stream| stream.receiving.is_none()) {
                return seen.map(|()| true);
            }
            self.ring.turn(Wait::No, &mut self.completions)?;
        }
        seen.map(|()| false)
    }
}
