//! The smallest and the largest value of each option: the server serves, or prints one line with the reason.

mod support;

use support::tcp::{connect, echo};
use support::udp::UdpClient;
use support::{Launch, bounded};

/// Numbers at which 16, 32 and 64 bits may overflow, with and without a sign.
const NUMBERS: [&str; 12] = [
    "0",
    "1",
    "4097",
    "32768",
    "65535",
    "65536",
    "2147483648",
    "4294963200",
    "4294967295",
    "4294967296",
    "18446744073709551615",
    "18446744073709551616",
];

/// Durations at which a clock, a kernel timer or a count of microseconds may overflow.
const DURATIONS: [&str; 10] = [
    "0s",
    "1ns",
    "10ms",
    "72min",
    "25days",
    "100years",
    "292years",
    "584years",
    "9223372036854775807s",
    "18446744073709551615s",
];

/// Limit of the address space, so that an absurd reservation of memory fails and does not stop the machine.
const MEMORY_BYTES: u64 = 6 << 30;

/// The server serves, or ends with exactly one line `error: …` that contains one of these texts.
fn serves_or_says_why_not(arguments: &[&str], named: &[&str]) {
    let launch = Launch::new(&[&["--listen", "127.0.0.1:0"], arguments].concat());
    match launch.limit(libc::RLIMIT_AS, MEMORY_BYTES).outcome() {
        Ok(server) => {
            // only one datagram, because the smallest rate allows no more
            UdpClient::beside(server.udp()).echo(server.udp(), &[100], 1);
            echo(&mut connect(server.tcp()), b"served");
            server.stop();
        }
        Err(refusal) => {
            let text = refusal.stderr.join("\n");
            assert!(matches!(refusal.code, Some(1 | 2)), "{arguments:?}: {:?}\n{text}", refusal.code);
            assert!(!text.contains("panicked") && !text.contains("overflow"), "{arguments:?}: {text}");
            let errors: Vec<_> = refusal.stderr.iter().filter(|line| line.starts_with("error: ")).collect();
            assert_eq!(errors.len(), 1, "{arguments:?}: {text}");
            assert!(named.iter().any(|word| errors[0].contains(word)), "{arguments:?}: {text}");
        }
    }
}

#[test]
fn numbers() {
    bounded(|| {
        for option in [
            "--workers",
            "--max-connections",
            "--max-connections-per-prefix",
            "--udp-prefix-rate",
            "--udp-reply-rate",
            "--reply-sockets",
            "--reply-socket-rate",
        ] {
            for number in NUMBERS {
                serves_or_says_why_not(&[option, number], &[option]);
            }
        }
    });
}

#[test]
fn durations() {
    bounded(|| {
        for option in [
            "--idle-timeout",
            "--tcp-user-timeout",
            "--tcp-keepalive",
            "--stats-interval",
            "--drain-timeout",
            "--reply-socket-idle",
            "--busy-poll",
        ] {
            for duration in DURATIONS {
                serves_or_says_why_not(&[option, duration], &[option]);
            }
        }
    });
}

/// Options that are each within bounds, but ask for too much together.
#[test]
fn numbers_that_multiply() {
    bounded(|| {
        for arguments in [
            ["--workers", "4096", "--reply-sockets", "30000"],
            ["--workers", "2", "--max-connections", "18446744073709551615"],
            ["--udp-reply-rate", "4294967295", "--workers", "3"],
        ] {
            serves_or_says_why_not(&arguments, &["--reply-sockets", "--max-connections"]);
        }
    });
}

/// Extreme values of the service manager's variables.
#[test]
fn watchdogs() {
    bounded(|| {
        for usec in ["0", "18446744073709551615"] {
            let server = Launch::new(&["--listen", "127.0.0.1:0"]).env("WATCHDOG_USEC", usec).ready();
            UdpClient::beside(server.udp()).echo(server.udp(), &[100; 3], 1);
            server.stop();
        }
    });
}
