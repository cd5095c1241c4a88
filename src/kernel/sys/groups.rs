//! Which socket of an `SO_REUSEPORT` group receives: by the kernel's hash, or by the processor that received.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::BorrowedFd;

use libc::{
    BPF_A, BPF_ABS, BPF_ADD, BPF_ALU, BPF_JA, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_SUB, BPF_W,
    sock_filter,
};

use super::options;

/// A number that no socket of a group has. The kernel then chooses by the hash of addresses and ports.
const BY_HASH: u32 = u32::MAX;
/// The processor that runs the program, as an address of a load.
const THIS_PROCESSOR: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_CPU) as u32;

/// Lets the socket with number `i` of the group receive what the kernel receives on processor `processors[i]`. The hash
/// chooses for all other processors. `member` is any socket of the group (`SO_ATTACH_REUSEPORT_CBPF`, socket(7)).
pub fn receive_by_processor(member: BorrowedFd<'_>, processors: &[usize]) -> io::Result<()> {
    let mut program = program(processors);
    let too_long = |_| io::Error::from_raw_os_error(libc::E2BIG);
    let len = u16::try_from(program.len()).map_err(too_long)?;
    let program = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    options::set(member, libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF, &program)
}

/// Lets the hash choose, whatever an earlier process has set (`SO_DETACH_REUSEPORT_BPF`, Linux 5.3).
pub fn receive_by_hash(member: BorrowedFd<'_>) -> io::Result<()> {
    match options::set(member, libc::SOL_SOCKET, libc::SO_DETACH_REUSEPORT_BPF, &0) {
        // there is no program, or no group
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) => Ok(()),
        outcome => outcome,
    }
}

/// Successive processors whose sockets have successive numbers.
#[derive(Clone, Copy)]
struct Range {
    first: u32,
    count: u32,
    /// The number of the first processor's socket.
    socket: u32,
}

/// A program that returns the number of the socket, or [`BY_HASH`]. It has one range if processors and sockets have the
/// same order, as usual. Several ranges are found by a binary search.
fn program(processors: &[usize]) -> Vec<sock_filter> {
    let mut program = vec![instruction(BPF_LD | BPF_W | BPF_ABS, THIS_PROCESSOR)];
    program.extend(search(&ranges(processors)));
    program
}

fn ranges(processors: &[usize]) -> Vec<Range> {
    // of several sockets for one processor, the first one receives
    let mut sockets: BTreeMap<u32, u32> = BTreeMap::new();
    for (socket, &processor) in (0..).zip(processors) {
        sockets.entry(processor as u32).or_insert(socket);
    }
    let mut ranges: Vec<Range> = Vec::new();
    for (processor, socket) in sockets {
        match ranges.last_mut() {
            Some(Range { first, count, socket: start })
                if *first + *count == processor && *start + *count == socket =>
            {
                *count += 1;
            }
            _ => ranges.push(Range { first: processor, count: 1, socket }),
        }
    }
    ranges
}

/// Finds the range of the processor in the accumulator.
fn search(ranges: &[Range]) -> Vec<sock_filter> {
    match *ranges {
        [] => vec![instruction(BPF_RET | BPF_K, BY_HASH)],
        [Range { first, count, socket }] => vec![
            instruction(BPF_ALU | BPF_SUB | BPF_K, first),
            // smaller ones have become very large ones
            branch(count, 2),
            instruction(BPF_ALU | BPF_ADD | BPF_K, socket),
            instruction(BPF_RET | BPF_A, 0),
            instruction(BPF_RET | BPF_K, BY_HASH),
        ],
        _ => {
            let (lower, upper) = ranges.split_at(ranges.len() / 2);
            let lower = search(lower);
            let jump = instruction(BPF_JMP | BPF_JA, lower.len() as u32);
            // a branch reaches only 255 instructions; a jump reaches any
            let over_the_jump = sock_filter { jf: 1, ..branch(upper[0].first, 0) };
            [vec![over_the_jump, jump], lower, search(upper)].concat()
        }
    }
}

fn instruction(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

/// Skips `skip` instructions if the accumulator is at least `least`.
fn branch(least: u32, skip: u8) -> sock_filter {
    sock_filter { jt: skip, ..instruction(BPF_JMP | BPF_JGE | BPF_K, least) }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, UdpSocket};
    use std::os::fd::AsFd;
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::kernel::sys::{self, IntOption, Protocol, pin_thread, receive_queue_bytes, set_option};

    /// What the program returns on this processor.
    fn run(program: &[sock_filter], processor: usize) -> u32 {
        let (mut at, mut a) = (0, 0_u32);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            match u32::from(code) {
                code if code == BPF_LD | BPF_W | BPF_ABS && k == THIS_PROCESSOR => a = processor as u32,
                code if code == BPF_ALU | BPF_SUB | BPF_K => a = a.wrapping_sub(k),
                code if code == BPF_ALU | BPF_ADD | BPF_K => a = a.wrapping_add(k),
                code if code == BPF_JMP | BPF_JA => at += k as usize,
                code if code == BPF_JMP | BPF_JGE | BPF_K => at += usize::from(if a >= k { jt } else { jf }),
                code if code == BPF_RET | BPF_A => return a,
                code if code == BPF_RET | BPF_K => return k,
                code => panic!("instruction {code:#x}"),
            }
        }
    }

    #[test]
    fn each_processor_has_its_socket_and_others_have_none() {
        let cases: [&dyn Fn(usize) -> Vec<usize>; 6] = [
            &|count| (0..count).collect(),
            &|count| (0..count).rev().collect(),
            &|count| (0..count).map(|i| 2 * i).collect(),
            // every second one first, then the others
            &|count| (0..count).step_by(2).chain((1..count).step_by(2)).collect(),
            &|count| (0..count).map(|i| 7 + 5 * i + i % 3).collect(),
            &|count| (0..count).map(|i| if i < count / 2 { i } else { 10_000 + i }).collect(),
        ];
        for count in [0, 1, 2, 3, 8, 64, 300] {
            for case in cases {
                let processors = case(count);
                let program = program(&processors);
                for processor in 0..2 * count + 20 {
                    let socket = processors.iter().position(|&of_socket| of_socket == processor);
                    assert_eq!(run(&program, processor), socket.map_or(BY_HASH, |socket| socket as u32));
                }
                for (socket, &processor) in processors.iter().enumerate() {
                    assert_eq!(run(&program, processor), socket as u32);
                }
            }
        }
    }

    #[test]
    fn processors_in_order_take_six_instructions_however_many_there_are() {
        let processors: Vec<usize> = (16..80).collect();
        assert_eq!(program(&processors).len(), 6);
    }

    /// UDP sockets of one group, numbered in the order of their binding.
    fn group(count: usize) -> Vec<UdpSocket> {
        let mut addr: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let bound = (0..count).map(|_| {
            let socket = sys::socket(Protocol::Udp, addr).unwrap();
            set_option(socket.as_fd(), IntOption::REUSE_PORT, 1).unwrap();
            sys::bind(socket.as_fd(), addr).unwrap();
            let socket = UdpSocket::from(socket);
            addr = socket.local_addr().unwrap();
            socket
        });
        bound.collect()
    }

    /// Sends from a processor, on which the loopback device receives, too. Returns the numbers of the sockets that have
    /// received a datagram, and empties them.
    fn receivers(group: &[UdpSocket], processor: usize) -> Vec<usize> {
        let addr = group[0].local_addr().unwrap();
        let send = move || {
            pin_thread(processor).unwrap();
            for _ in 0..64 {
                UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"here", addr).unwrap();
            }
        };
        thread::spawn(send).join().unwrap();
        let queued = |socket: &UdpSocket| receive_queue_bytes(socket.as_fd()).unwrap() > 0;
        let receivers = (0..group.len()).filter(|&number| queued(&group[number])).collect();
        for socket in group {
            socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
            while queued(socket) {
                socket.recv(&mut [0; 4]).unwrap();
            }
        }
        receivers
    }

    #[test]
    fn the_kernel_runs_the_program_for_each_datagram() {
        let group = group(4);
        let (first, last) = {
            let processors = sys::processors().unwrap();
            (processors[0], processors[processors.len() - 1])
        };
        assert_eq!(receivers(&group, first), [0, 1, 2, 3], "64 flows by hash");
        // no flow comes from processor 9999
        receive_by_processor(group[3].as_fd(), &[9999, last, first]).unwrap();
        assert_eq!(receivers(&group, first), [if first == last { 1 } else { 2 }]);
        assert_eq!(receivers(&group, last), [1]);
        receive_by_processor(group[0].as_fd(), &[9999, 9999, first]).unwrap();
        assert_eq!(receivers(&group, first), [2]);
        if first != last {
            assert_eq!(receivers(&group, last), [0, 1, 2, 3], "no socket has this processor: by hash");
        }
        receive_by_hash(group[1].as_fd()).unwrap();
        assert_eq!(receivers(&group, first), [0, 1, 2, 3]);
        receive_by_hash(group[1].as_fd()).expect("there is nothing to take away");
    }

    #[test]
    fn a_long_program_is_taken_too() {
        let processors: Vec<usize> = (0..300).map(|i| 2 * i + 1).collect();
        receive_by_processor(group(2)[0].as_fd(), &processors).unwrap();
    }

    #[test]
    fn a_socket_without_a_group_has_nothing_to_choose() {
        let alone = UdpSocket::bind("127.0.0.1:0").unwrap();
        receive_by_hash(alone.as_fd()).unwrap();
        assert!(receive_by_processor(alone.as_fd(), &[0]).is_err());
    }
}
