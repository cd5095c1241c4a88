//! A faulty cable between two network namespaces, with exact counts of its faults. Each end is a tap device, and a thread
//! carries the frames between them (Documentation/networking/tuntap.rst).
#![allow(unsafe_code, reason = "a tap device is made by an ioctl")]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{io, mem};

use super::netns::Netns;
use super::sys::{poll, poll_entry};

/// A fault that happens to a datagram or segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mischief {
    /// It does not arrive.
    Lose,
    /// It arrives twice.
    Double,
    /// It arrives after the next one.
    Swap,
    /// A byte of its payload changes, so that its checksum is wrong.
    Flip,
    /// Two words of its payload change places, which no Internet checksum detects.
    Shuffle,
}

/// The frames of one direction that have a fault: number `first`, and each `every`th from there on. Frames without UDP or
/// TCP payload always pass and are not counted.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// The fault.
    pub mischief: Mischief,
    /// The first frame with the fault, counted from 0.
    pub first: u64,
    /// The distance from one faulty frame to the next.
    pub every: u64,
}

#[derive(Default)]
struct Direction {
    rules: Mutex<Vec<Rule>>,
    seen: AtomicU64,
    done: AtomicU64,
}

/// A cable. Dropping it removes it.
pub struct Relay {
    directions: Arc<[Direction; 2]>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Makes a cable between the device `near` of the calling thread's namespace and `far` of the other one. Both devices
    /// are down at first.
    pub fn lay(near: &str, far: &str, other: &Netns) -> Self {
        let ends = [tap(near), other.run(|| tap(far))];
        let ends = ends.map(|end| end.expect("make a tap device: /dev/net/tun, and root"));
        let directions: Arc<[Direction; 2]> = Arc::default();
        let end = Arc::new(AtomicBool::new(false));
        let (rules, until) = (Arc::clone(&directions), Arc::clone(&end));
        let thread = thread::spawn(move || carry(ends, &rules, &until));
        Self { directions, end, thread: Some(thread) }
    }

    /// Applies new rules for frames from the near end, and for frames to it. The counts begin at zero again.
    pub fn rule(&self, leaving: &[Rule], coming: &[Rule]) {
        for (direction, rules) in self.directions.iter().zip([leaving, coming]) {
            let mut place = direction.rules.lock().unwrap();
            *place = rules.to_vec();
            direction.seen.store(0, Ordering::Relaxed);
            direction.done.store(0, Ordering::Relaxed);
        }
    }

    /// Number of faults in frames from the near end, and in frames to it.
    pub fn done(&self) -> [u64; 2] {
        [0, 1].map(|direction| self.directions[direction].done.load(Ordering::Relaxed))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(thread::panicking() || ended.is_some_and(|ended| ended.is_ok()), "the relay's thread failed");
    }
}

/// Makes a tap device in the calling thread's namespace. It vanishes when the file is closed.
fn tap(name: &str) -> io::Result<File> {
    let file = File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    // SAFETY: ifreq is plain data, for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *place = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as i16;
    // SAFETY: TUNSETIFF reads and writes an ifreq, which outlives the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(file) }
}

fn carry(mut ends: [File; 2], directions: &[Direction; 2], until: &AtomicBool) {
    let mut frame = vec![0; 65_536];
    let mut kept: [Option<Vec<u8>>; 2] = [None, None];
    while !until.load(Ordering::Relaxed) {
        let mut entries = [poll_entry(&ends[0], libc::POLLIN), poll_entry(&ends[1], libc::POLLIN)];
        if poll(&mut entries, Duration::from_millis(20)) == 0 {
            continue;
        }
        for from in 0..2 {
            // the device is down, or there is no frame
            while let Ok(len) = ends[from].read(&mut frame) {
                let frame = &mut frame[..len];
                let mischief = payload_of(frame).and_then(|_| directions[from].strike());
                let mut send = |frame: &[u8]| drop(ends[1 - from].write(frame)); // the frame is lost if the far end is down
                match mischief {
                    Some(Mischief::Lose) => {}
                    Some(Mischief::Swap) => kept[from] = Some(frame.to_vec()),
                    Some(Mischief::Double) => {
                        send(frame);
                        send(frame);
                    }
                    other => {
                        match other {
                            Some(Mischief::Flip) => flip(frame),
                            Some(Mischief::Shuffle) => shuffle(frame),
                            _ => {}
                        }
                        send(frame);
                        if payload_of(frame).is_some()
                            && let Some(kept) = kept[from].take()
                        {
                            send(&kept);
                        }
                    }
                }
            }
        }
    }
}

impl Direction {
    /// The fault of the next frame, if any.
    fn strike(&self) -> Option<Mischief> {
        let rules = self.rules.lock().unwrap();
        let number = self.seen.fetch_add(1, Ordering::Relaxed);
        let hit = |rule: &&Rule| number >= rule.first && (number - rule.first).is_multiple_of(rule.every);
        let mischief = rules.iter().find(hit).map(|rule| rule.mischief);
        self.done.fetch_add(mischief.is_some().into(), Ordering::Relaxed);
        mischief
    }
}

/// The offset of the payload, if the frame holds a whole datagram or segment (RFC 791, 8200, 768, 9293).
fn payload_of(frame: &[u8]) -> Option<usize> {
    const ETHERNET: usize = 14;
    let (protocol, transport) = match frame.get(12..ETHERNET)? {
        [0x08, 0x00] => {
            let is_fragment = u16::from_be_bytes([*frame.get(20)?, *frame.get(21)?]) & 0x3fff != 0;
            let header = usize::from(frame[ETHERNET] & 15) * 4;
            (if is_fragment { 0 } else { *frame.get(ETHERNET + 9)? }, ETHERNET + header)
        }
        [0x86, 0xdd] => (*frame.get(ETHERNET + 6)?, ETHERNET + 40),
        _ => return None,
    };
    let payload = match i32::from(protocol) {
        libc::IPPROTO_UDP => transport + 8,
        libc::IPPROTO_TCP => transport + usize::from(frame.get(transport + 12)? >> 4) * 4,
        _ => return None,
    };
    (payload < frame.len()).then_some(payload)
}

fn flip(frame: &mut [u8]) {
    *frame.last_mut().expect("a frame with a payload") ^= 0x10;
}

/// Swaps the last two different words of the payload. A payload of equal words does not change.
fn shuffle(frame: &mut [u8]) {
    let start = payload_of(frame).expect("a frame with a payload");
    let payload = &mut frame[start..];
    let words = payload.len() / 2;
    let word = |payload: &[u8], number: usize| [payload[2 * number], payload[2 * number + 1]];
    let Some(last) = words.checked_sub(1) else { return };
    let other = (0..last).rev().find(|number| word(payload, *number) != word(payload, last));
    if let Some(other) = other {
        let (one, two) = (word(payload, other), word(payload, last));
        payload[2 * other..][..2].copy_from_slice(&two);
        payload[2 * last..][..2].copy_from_slice(&one);
    }
}
