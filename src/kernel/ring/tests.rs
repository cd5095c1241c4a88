//! Against the real kernel, over loopback.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use io_uring::types::Fixed;
use io_uring::{opcode, squeue};

use super::*;
use crate::kernel::cmsg;
use crate::kernel::sys::{self, IntOption};

const LISTENER: File = File(0);
const RECEIVE: Token = Token::new(1, 0, 0);
const SEND: Token = Token::new(2, 0, 0);

const CONFIG: RingConfig = RingConfig {
    submission_entries: 8,
    completion_entries: 64,
    files: 16,
    file_table: FileTable::Registered,
    busy_poll: Duration::ZERO,
};

fn ring() -> Ring {
    Ring::new(CONFIG).unwrap()
}

/// Takes turns until there is a completion with `token`, and returns all that came meanwhile.
fn until(ring: &mut Ring, token: Token) -> Vec<Completion> {
    let mut completions = Vec::new();
    for _ in 0..100 {
        ring.turn(Wait::Timeout(Duration::from_millis(100)), &mut completions).unwrap();
        if completions.iter().any(|completion| completion.token() == token) {
            return completions;
        }
    }
    panic!("no completion with {token:?}");
}

/// The one completion with `token`, the next that comes.
fn next(ring: &mut Ring, token: Token) -> Completion {
    let mut completions = until(ring, token);
    assert_eq!(completions.len(), 1, "{completions:?}");
    completions.remove(0)
}

fn datagrams(count: u16) -> (Ring, BufferRing, Arc<UdpSocket>, UdpSocket) {
    let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").unwrap());
    sys::set_option(socket.as_fd(), IntOption::ORIGDST_V4, 1).unwrap();
    let mut ring = ring();
    ring.register_file(LISTENER, Arc::clone(&socket)).unwrap();
    let config = BufferConfig { count, buffer_bytes: 4096, incremental: false };
    let buffers = BufferRing::new(&mut ring, config).unwrap();
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    peer.connect(socket.local_addr().unwrap()).unwrap();
    (ring, buffers, socket, peer)
}

#[test]
fn a_datagram_comes_with_its_name_and_origdst_and_goes_back_from_its_buffer() {
    let (mut ring, mut buffers, socket, peer) = datagrams(4);
    ring.receive_datagrams(LISTENER, &buffers, RECEIVE);
    peer.send(b"hello").unwrap();
    let completion = next(&mut ring, RECEIVE);
    assert!(completion.more());
    let part = buffers.take(&completion).unwrap();
    let datagram = buffers.datagram(&part).unwrap();
    assert_eq!(crate::kernel::addr::decode(datagram.name), Some(peer.local_addr().unwrap()));
    assert_eq!(cmsg::decode(datagram.control).origdst, Some(socket.local_addr().unwrap()));

    let mut messages = Messages::<2>::new(1);
    let payload = buffers.pinned(&part).part(datagram.payload_offset, datagram.payload_bytes);
    messages.push(0, payload);
    messages.push(0, payload);
    let transmit = Transmit {
        peer: peer.local_addr().unwrap(),
        source: Some(socket.local_addr().unwrap()),
        segment_bytes: None,
        dscp: 0,
        hops: 0,
    };
    let message = messages.finish(0, &transmit);
    ring.send_message(LISTENER, message, Patience::Inline, SEND);
    assert_eq!(next(&mut ring, SEND).result(), Ok(10));
    buffers.recycle(part);
    assert_eq!(buffers.available(), 4);
    let mut received = [0; 16];
    let len = peer.recv(&mut received).unwrap();
    assert_eq!(&received[..len], b"hellohello");
}

/// The mistake is made in a process of its own, which must not survive it.
#[cfg(ring_poison)]
#[allow(unsafe_code)] // the mistake
#[test]
fn touching_what_the_kernel_has_is_caught() {
    const MISTAKE: &str = "RING_POISON_MISTAKE";
    let name = "kernel::ring::tests::touching_what_the_kernel_has_is_caught";
    if let Ok(mistake) = std::env::var(MISTAKE) {
        let (mut ring, mut buffers, _socket, peer) = datagrams(4);
        ring.receive_datagrams(LISTENER, &buffers, RECEIVE);
        peer.send(b"hello").unwrap();
        let part = buffers.take(&next(&mut ring, RECEIVE)).unwrap();
        let received = buffers.pinned(&part).as_ptr();
        let behind = u64::from(part.bytes()) as usize + 64;
        // SAFETY: the whole buffer is mapped; that it is the kernel's to write is the mistake
        let byte = unsafe {
            match mistake.as_str() {
                "none" => received.read_volatile(),
                "beyond what was received" => received.add(behind).read_volatile(),
                "recycled" => {
                    buffers.recycle(part);
                    received.read_volatile()
                }
                _ => panic!("{mistake}?"),
            }
        };
        println!("{byte} was read");
        return;
    }
    for (mistake, caught) in [("none", false), ("beyond what was received", true), ("recycled", true)] {
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args([name, "--exact", "--nocapture"])
            .env(MISTAKE, mistake)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stderr);
        assert_eq!(said.contains("use-after-poison"), caught, "{mistake}: {said}");
        assert_eq!(child.status.success(), !caught, "{mistake}: {said}");
    }
}

#[test]
fn an_empty_datagram_is_valid_and_ends_the_multishot() {
    let (mut ring, mut buffers, _socket, peer) = datagrams(4);
    ring.receive_datagrams(LISTENER, &buffers, RECEIVE);
    peer.send(b"").unwrap();
    let completion = next(&mut ring, RECEIVE);
    assert!(!completion.more());
    let part = buffers.take(&completion).unwrap();
    assert_eq!(buffers.datagram(&part).unwrap().payload_bytes, 0);
    buffers.recycle(part);
}

#[test]
fn no_buffers_end_the_multishot_and_lose_nothing() {
    let (mut ring, mut buffers, _socket, peer) = datagrams(2);
    for byte in 0..3 {
        peer.send(&[byte]).unwrap();
    }
    ring.receive_datagrams(LISTENER, &buffers, RECEIVE);
    let completions = until(&mut ring, RECEIVE);
    let parts: Vec<_> = completions.iter().filter_map(|completion| buffers.take(completion)).collect();
    assert_eq!((parts.len(), buffers.available()), (2, 0));
    let last = completions.last().unwrap();
    assert_eq!((last.result(), last.more()), (Err(Errno(libc::ENOBUFS)), false));
    for part in parts {
        buffers.recycle(part);
    }
    ring.receive_datagrams(LISTENER, &buffers, RECEIVE);
    let part = buffers.take(&next(&mut ring, RECEIVE)).unwrap();
    assert_eq!(buffers.bytes(&part)[DATAGRAM_HEADER_BYTES..], [2]);
    buffers.recycle(part);
}

#[test]
fn buffers_are_given_back_only_while_nothing_received_is_untold() {
    let (mut ring, mut buffers, _socket, peer) = datagrams(4);
    assert!(ring.has_quiet());
    peer.send(b"filled, and not told of").unwrap();
    ring.receive_datagrams(LISTENER, &buffers, RECEIVE);
    ring.flush();
    assert!(ring.quiet().is_none());
    let part = buffers.take(&next(&mut ring, RECEIVE)).unwrap();
    let payload =
        |buffers: &BufferRing, part: &ReceivedPart| buffers.bytes(part)[DATAGRAM_HEADER_BYTES..].to_vec();
    assert!(!buffers.give_back(ring.quiet().unwrap()), "a buffer is out");
    assert_eq!(payload(&buffers, &part), b"filled, and not told of");
    buffers.recycle(part);
    assert!(buffers.give_back(ring.quiet().unwrap()));
    for text in ["into new pages", "and again"] {
        peer.send(text.as_bytes()).unwrap();
        let part = buffers.take(&next(&mut ring, RECEIVE)).unwrap();
        assert_eq!(payload(&buffers, &part), text.as_bytes());
        buffers.recycle(part);
    }
}

#[test]
fn a_payload_larger_than_its_buffer_is_told() {
    let (mut ring, mut buffers, _socket, peer) = datagrams(2);
    ring.receive_datagrams(LISTENER, &buffers, RECEIVE);
    peer.send(&[0; 4096]).unwrap();
    let part = buffers.take(&next(&mut ring, RECEIVE)).unwrap();
    assert_eq!(buffers.datagram(&part).unwrap_err(), Unusable::PayloadTruncated);
    buffers.recycle(part);
}

/// `None` on a kernel without incremental buffers (6.12).
fn connection(incremental: bool) -> Option<(Ring, BufferRing, File, TcpStream)> {
    let listener = Arc::new(TcpListener::bind("127.0.0.1:0").unwrap());
    let mut ring = ring();
    ring.register_file(LISTENER, Arc::clone(&listener)).unwrap();
    let config = BufferConfig { count: 2, buffer_bytes: 4096, incremental };
    let buffers = match BufferRing::new(&mut ring, config) {
        Err(error) if incremental && error.errno == Errno(libc::EINVAL) => return None,
        made => made.unwrap(),
    };
    let accept = Token::new(9, 0, 0);
    ring.accept(LISTENER, accept);
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let file = File(next(&mut ring, accept).result().unwrap());
    assert_ne!(file, LISTENER);
    ring.receive(file, &buffers, RECEIVE);
    Some((ring, buffers, file, peer))
}

#[test]
fn a_stream_goes_out_from_its_buffer_and_ends_with_a_fin() {
    let (mut ring, mut buffers, file, mut peer) = connection(false).unwrap();
    peer.write_all(b"stream").unwrap();
    let part = buffers.take(&next(&mut ring, RECEIVE)).unwrap();
    ring.send(file, buffers.pinned(&part), SEND);
    assert_eq!(next(&mut ring, SEND).result(), Ok(6));
    buffers.recycle(part);
    ring.shutdown(file, SEND);
    assert_eq!(next(&mut ring, SEND).result(), Ok(0));
    let mut received = String::new();
    peer.read_to_string(&mut received).unwrap();
    assert_eq!(received, "stream");
}

#[test]
fn parts_of_an_incremental_buffer_do_not_overlap_and_return_it_together() {
    let Some((mut ring, mut buffers, _file, mut peer)) = connection(true) else {
        println!("this kernel has no incremental buffers (6.12): nothing to test");
        return;
    };
    let mut parts = Vec::new();
    for text in [b"one".as_slice(), b"two", &[3; 4090], b"four"] {
        peer.write_all(text).unwrap();
        let part = buffers.take(&next(&mut ring, RECEIVE)).unwrap();
        assert_eq!(buffers.bytes(&part), text);
        parts.push(part);
    }
    // the first buffer is used up to the last byte, the second one is in use by the kernel as well
    assert_eq!(buffers.available(), 1);
    for (part, available) in parts.into_iter().zip([1, 1, 2, 2]) {
        buffers.recycle(part);
        assert_eq!(buffers.available(), available);
    }
}

#[test]
fn a_cancelled_multishot_says_so() {
    let (mut ring, buffers, _file, _peer) = connection(false).unwrap();
    let cancel = Token::new(3, 0, 0);
    ring.cancel(RECEIVE, cancel);
    let completions = until(&mut ring, RECEIVE);
    let ended = completions.iter().find(|completion| completion.token() == RECEIVE).unwrap();
    assert_eq!((ended.result(), ended.more()), (Err(Errno(libc::ECANCELED)), false));
    drop(buffers);
}

#[test]
fn more_operations_than_the_queue_holds_are_all_submitted() {
    let (mut ring, mut buffers, _socket, peer) = datagrams(4);
    peer.send(b"x").unwrap();
    ring.receive_datagrams(LISTENER, &buffers, RECEIVE);
    let part = buffers.take(&next(&mut ring, RECEIVE)).unwrap();
    let payload = buffers.pinned(&part).part(DATAGRAM_HEADER_BYTES as u32, 1);
    let mut messages = Messages::<1>::new(1);
    messages.push(0, payload);
    let transmit =
        Transmit { peer: peer.local_addr().unwrap(), source: None, segment_bytes: None, dscp: 0, hops: 0 };
    let message = messages.finish(0, &transmit);
    // more than the completion queue holds, too
    for index in 0..200 {
        ring.send_message(LISTENER, message, Patience::Inline, Token::new(2, 0, index));
    }
    let mut seen: Vec<_> =
        until(&mut ring, Token::new(2, 0, 199)).iter().map(|completion| completion.token().index()).collect();
    seen.sort_unstable();
    assert_eq!(seen, (0..200).collect::<Vec<_>>());
    buffers.recycle(part);
}

#[test]
fn an_arena_gives_out_each_chunk_once() {
    let mut arena = Arena::new(2, 4).unwrap();
    let first = arena.keep(b"abcdef").unwrap();
    assert_eq!(first.bytes(), 4);
    let second = arena.keep(b"x").unwrap();
    assert_ne!(first, second);
    assert_eq!(arena.keep(b"y"), None);
    arena.release(first);
    assert!(arena.keep(b"z").is_some());
    arena.release(second);
}

/// What `misuse` ends with.
fn refusal<T>(misuse: impl FnOnce() -> T) -> String {
    let Err(payload) = catch_unwind(AssertUnwindSafe(misuse)) else { panic!("misuse is not refused") };
    payload.downcast_ref::<String>().cloned().unwrap_or_default()
}

#[test]
fn a_buffer_ring_takes_its_own_completions_and_each_once() {
    let (mut ring, mut buffers, _socket, peer) = datagrams(4);
    let config = BufferConfig { count: 4, buffer_bytes: 4096, incremental: false };
    let mut others = BufferRing::new(&mut ring, config).unwrap();
    ring.receive_datagrams(LISTENER, &buffers, RECEIVE);
    peer.send(b"once").unwrap();
    let completion = next(&mut ring, RECEIVE);
    assert!(refusal(|| others.take(&completion)).contains("another buffer ring"), "nothing receives into it");
    ring.receive_datagrams(File(1), &others, Token::new(1, 0, 1));
    assert!(refusal(|| others.take(&completion)).contains("another buffer ring"), "that is another receive");
    let part = buffers.take(&completion).unwrap();
    assert_eq!(buffers.take(&completion), None, "it is taken");
    buffers.recycle(part);

    // the same numbers, of another ring
    let (mut other_ring, mut foreign, _socket, _peer) = datagrams(4);
    other_ring.receive_datagrams(LISTENER, &foreign, RECEIVE);
    peer.send(b"another").unwrap();
    let mut completions = until(&mut ring, RECEIVE).into_iter(); // and there is no file for the other receive
    let completion = completions.find(|completion| completion.token() == RECEIVE).unwrap();
    assert!(refusal(|| foreign.take(&completion)).contains("another buffer ring"));
    assert!(refusal(|| ring.receive(File(2), &foreign, Token::new(1, 0, 2))).contains("another ring"));
    assert!(refusal(|| foreign.give_back(ring.quiet().unwrap())).contains("another ring"));
    assert!(refusal(|| ring.receive_datagrams(LISTENER, &others, RECEIVE)).contains("two buffer rings"));
    // one bit apart from both: nobody could tell whose it is
    assert!(
        refusal(|| ring.receive_datagrams(LISTENER, &others, Token::new(1, 1, 0)))
            .contains("two buffer rings")
    );
}

#[test]
fn a_part_is_one_of_its_buffer_ring() {
    let (mut ring, mut buffers, _socket, peer) = datagrams(4);
    let (_, mut foreign, _socket, _peer) = datagrams(4);
    ring.receive_datagrams(LISTENER, &buffers, RECEIVE);
    peer.send(b"ours").unwrap();
    let part = buffers.take(&next(&mut ring, RECEIVE)).unwrap();
    assert!(refusal(|| foreign.bytes(&part).len()).contains("a part of another buffer ring"));
    assert!(refusal(|| foreign.pinned(&part)).contains("a part of another buffer ring"));
    assert!(refusal(|| foreign.recycle(part)).contains("a part of another buffer ring"));
}

#[test]
fn a_chunk_is_one_of_its_arena() {
    let (mut arena, mut foreign) = (Arena::new(2, 4).unwrap(), Arena::new(2, 4).unwrap());
    let chunk = arena.keep(b"ours").unwrap();
    assert!(refusal(|| foreign.pinned(&chunk)).contains("a chunk of another arena"));
    assert!(refusal(|| foreign.release(chunk)).contains("a chunk of another arena"));
}

#[test]
fn only_an_accept_of_this_ring_brings_a_file() {
    for file_table in [FileTable::Registered, FileTable::Ordinary] {
        let made = || Ring::new(RingConfig { file_table, ..CONFIG }).unwrap();
        let (mut ring, mut other) = (made(), made());
        let accept = Token::new(9, 0, 0);
        other.accept(LISTENER, accept);
        ring.cancel(RECEIVE, SEND);
        let completion = next(&mut ring, SEND);
        assert!(refusal(|| ring.accepted(completion)).contains("no accept"), "of another operation");
        ring.accept(LISTENER, accept);
        let completion = next(&mut ring, accept); // there is no such file
        assert!(refusal(|| other.accepted(completion)).contains("no accept"), "of another ring");
        assert!(refusal(|| ring.cancel(RECEIVE, accept)).contains("brings different things"));
    }
}

#[test]
fn a_registered_file_stays_open_as_long_as_it_is_known() {
    for file_table in [FileTable::Registered, FileTable::Ordinary] {
        let mut ring = Ring::new(RingConfig { file_table, ..CONFIG }).unwrap();
        let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        ring.register_file(LISTENER, Arc::new(ours)).unwrap();
        assert!(theirs.read(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
        ring.unregister_file(LISTENER);
        assert!(theirs.read(&mut [0]).is_ok_and(|bytes| bytes == 0), "{file_table:?}: it is closed");
    }
}

#[test]
fn a_datagram_made_here_reaches_the_address_it_bears() {
    let (mut ring, _buffers, _socket, peer) = datagrams(1);
    let mut outgoing = Outgoing::new(2, 100).unwrap();
    outgoing.payload(1)[..5].copy_from_slice(b"hello");
    let datagram = outgoing.address(1, peer.local_addr().unwrap(), 5);
    ring.send_to(LISTENER, datagram, SEND);
    let mut completions = Vec::new();
    ring.turn(Wait::No, &mut completions).unwrap();
    assert!(completions.is_empty(), "success is silent: {completions:?}");
    let mut received = [0; 16];
    let len = peer.recv(&mut received).unwrap();
    assert_eq!(&received[..len], b"hello");
}

#[test]
fn a_datagram_that_can_not_be_sent_says_so_at_once() {
    let (mut ring, _buffers, _socket, _peer) = datagrams(1);
    let mut outgoing = Outgoing::new(1, 65_536).unwrap();
    // one byte more than IPv4 carries
    let datagram = outgoing.address(0, "127.0.0.1:9".parse().unwrap(), 65_508);
    ring.send_to(LISTENER, datagram, SEND);
    let mut completions = Vec::new();
    ring.turn(Wait::No, &mut completions).unwrap();
    let results: Vec<_> = completions.iter().map(|it| (it.token(), it.result())).collect();
    assert_eq!(results, [(SEND, Err(Errno(libc::EMSGSIZE)))]);
}

#[test]
fn only_a_send_that_was_cut_short_has_a_completion() {
    const POLL: Token = Token::new(3, 0, 0);
    const ALL: u32 = 4 << 20;
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut ring = ring();
    ring.register_file(LISTENER, Arc::new(ours)).unwrap();
    let mut slots = Outgoing::new(1, ALL).unwrap();
    slots.payload(0).fill(7);
    let mut completions = Vec::new();
    ring.send_all(LISTENER, slots.filled(0, 64), SEND);
    ring.turn(Wait::No, &mut completions).unwrap();
    assert!(completions.is_empty() && !ring.has_queued(), "{completions:?}");
    theirs.read_exact(&mut [0; 64]).unwrap();

    ring.send_all(LISTENER, slots.filled(0, ALL), SEND);
    let taken = next(&mut ring, SEND).result().unwrap();
    assert!(taken > 0 && taken < ALL, "{taken}");
    ring.send_all(LISTENER, slots.filled(0, 64), SEND);
    assert_eq!(next(&mut ring, SEND).result(), Err(Errno(libc::EAGAIN)));

    ring.poll_writable(LISTENER, POLL);
    ring.turn(Wait::No, &mut completions).unwrap();
    assert!(completions.is_empty(), "{completions:?}");
    let mut came = vec![0; taken as usize];
    theirs.read_exact(&mut came).unwrap();
    assert!(came.iter().all(|byte| *byte == 7));
    assert!(!next(&mut ring, POLL).more());
}

#[test]
fn a_socket_set_to_segments_cuts_a_train() {
    let (mut ring, _buffers, socket, peer) = datagrams(1);
    sys::set_option(socket.as_fd(), IntOption::SEGMENT, 40).unwrap();
    let mut outgoing = Outgoing::new(1, 100).unwrap();
    let datagram = outgoing.address(0, peer.local_addr().unwrap(), 100);
    ring.send_to(LISTENER, datagram, SEND);
    ring.turn(Wait::No, &mut Vec::new()).unwrap();
    let mut received = [0; 128];
    let lens: Vec<_> = (0..3).map(|_| peer.recv(&mut received).unwrap()).collect();
    assert_eq!(lens, [40, 40, 20]);
}

#[test]
fn what_ends_by_its_own_submission_does_not_keep_polling_alive() {
    let mut ring = Ring::new(RingConfig { busy_poll: Duration::from_micros(1), ..CONFIG }).unwrap();
    for _ in 0..10 {
        ring.cancel(RECEIVE, SEND); // there is nothing to cancel: it ends at once
        assert_eq!(next(&mut ring, SEND).result(), Err(Errno(libc::ENOENT)));
        ring.turn(Wait::Timeout(Duration::from_millis(1)), &mut Vec::new()).unwrap();
    }
    assert_eq!(ring.polling.duration(), None, "after so many fruitless polls");
}

#[test]
fn a_ring_does_what_it_has_words_for_and_nothing_else() {
    let (mut ring, _buffers, file, _peer) = connection(false).unwrap();
    let refused = Err(Errno(libc::EACCES));
    let foreign = io_uring::opcode::Nop::new().build();
    let shutdown = opcode::Shutdown::new(Fixed(file.0), libc::SHUT_WR).build();
    for (number, entry) in (0..).zip([foreign, shutdown.flags(squeue::Flags::ASYNC)]) {
        let token = Token::new(8, 0, number);
        ring.push(entry, token);
        assert_eq!(next(&mut ring, token).result(), refused);
    }
    let error = ring.uring().probe().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EACCES), "a registration that is not on the list");
}

#[test]
fn an_accept_of_one_names_its_peer() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let listener = Arc::new(TcpListener::bind(address).unwrap());
        let mut ring = ring();
        ring.register_file(LISTENER, Arc::clone(&listener)).unwrap();
        let mut name = PeerName::default();
        assert_eq!(name.get(), None);
        for _ in 0..2 {
            ring.accept_one(LISTENER, &mut name, RECEIVE);
            let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let completion = next(&mut ring, RECEIVE);
            assert!(!completion.more());
            assert_ne!(File(completion.result().unwrap()), LISTENER);
            assert_eq!(name.get(), Some(peer.local_addr().unwrap()));
        }
    }
}

#[test]
fn an_interval_passes_before_it_is_told() {
    let mut ring = ring();
    let interval = Duration::from_millis(10);
    let begun = std::time::Instant::now();
    ring.wake_after(Interval::new(interval), RECEIVE);
    assert_eq!(next(&mut ring, RECEIVE).result(), Err(Errno(libc::ETIME)));
    assert!(begun.elapsed() >= interval);
}

/// Whether this kernel is among those that [`order`] names.
fn is_named_as_out_of_order() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    let version: [u32; 3] = std::array::from_fn(|_| numbers.next().unwrap_or(0));
    matches!(version, [6, 12, ..=28] | [6, 13, _] | [6, 14, ..=6])
}

#[test]
fn the_order_of_completions_is_kept_and_the_trial_leaves_nothing_behind() {
    for file_table in [FileTable::Registered, FileTable::Ordinary] {
        let mut ring = Ring::new(RingConfig { file_table, ..CONFIG }).unwrap();
        // in a queue of eight entries, and again and again: nothing of the one before is in the way
        for _ in 0..20 {
            match try_order(&mut ring, RECEIVE) {
                Ok(()) => {}
                Err(WholeBuffers::NotIncremental) => {
                    println!("this kernel has no incremental buffers (6.12)");
                }
                Err(WholeBuffers::OutOfOrder) if is_named_as_out_of_order() => {}
                Err(reason) => panic!("{reason}"),
            }
            let mut completions = Vec::new();
            ring.turn(Wait::No, &mut completions).unwrap();
            assert!(completions.is_empty() && !ring.uring.has_queued(), "{completions:?}");
            assert_eq!(ring.descriptors.is_none(), file_table == FileTable::Registered);
        }
    }
}

#[test]
fn an_order_that_can_not_be_tried_is_not_trusted() {
    // one operation at a time: never two in one submission
    let mut ring = Ring::new(RingConfig { submission_entries: 1, ..CONFIG }).unwrap();
    match try_order(&mut ring, RECEIVE) {
        Err(WholeBuffers::Untried(errno)) => assert_eq!(errno, Errno(libc::EAGAIN)),
        Err(WholeBuffers::NotIncremental) => println!("this kernel has no incremental buffers (6.12)"),
        other => panic!("{other:?}"),
    }
}
