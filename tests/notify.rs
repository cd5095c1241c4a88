//! The messages to the service manager.

mod support;

use support::udp::UdpClient;
use support::{Launch, Server, bounded};

#[test]
fn ready_once_at_a_path() {
    bounded(|| {
        let server = Server::start(&["--listen", "127.0.0.1:0"]);
        tells_ready_and_where(server);
    });
}

#[test]
fn ready_once_at_an_abstract_name() {
    bounded(|| {
        let server = Launch::new(&["--listen", "127.0.0.1:0"]).notify_abstract().ready();
        tells_ready_and_where(server);
    });
}

#[test]
fn ready_once_with_several_workers() {
    bounded(|| {
        let server = Server::start(&["--listen", "127.0.0.1:0", "--workers", "4"]);
        tells_ready_and_where(server);
    });
}

/// Serves a little, stops, and checks all messages. [`Server::stop`] counts READY=1.
fn tells_ready_and_where(server: Server) {
    let address = server.udp();
    UdpClient::beside(address).echo(address, &[1; 100], 10);
    let end = server.stop();
    assert_eq!(end.ready_count, 1);
    let status = end.messages.iter().find(|line| line.starts_with("STATUS=")).expect("a status");
    assert!(status.contains(&address.to_string()), "{status}");
}

/// A timeout of more than 32 bits of microseconds, which are 71 minutes.
#[test]
fn the_end_may_take_as_long_as_it_was_allowed_to() {
    bounded(|| {
        for (timeout, timeout_s) in [("10s", 10), ("72min", 72 * 60), ("100years", 3_155_760_000)] {
            let end = Server::start(&["--listen", "127.0.0.1:0", "--drain-timeout", timeout]).stop();
            // two more seconds until the process ends without its workers, and one for the readers of the log
            let extension = format!("EXTEND_TIMEOUT_USEC={}", (timeout_s + 3) * 1_000_000_u64);
            assert!(end.messages.contains(&extension), "{extension} in {:?}", end.messages);
        }
    });
}

#[test]
fn without_a_service_manager_it_serves_all_the_same() {
    bounded(|| {
        let server = Launch::new(&["--listen", "127.0.0.1:0"]).notify_nobody(None).ready();
        let address = server.udp();
        UdpClient::beside(address).echo(address, &[1; 100], 10);
        server.stop();
    });
}

#[test]
fn an_unreachable_service_manager_is_an_error() {
    bounded(|| {
        for name in ["/nonexistent/notify", "@tubular-echo-test/nobody-listens", "no-path-and-no-name"] {
            let refusal = Launch::new(&["--listen", "127.0.0.1:0"]).notify_nobody(Some(name)).refused();
            assert_eq!(refusal.code, Some(1), "{name:?}: {:?}", refusal.stderr);
            let errors: Vec<_> = refusal.stderr.iter().filter(|line| line.starts_with("error:")).collect();
            assert_eq!(errors.len(), 1, "{name:?}: {:?}", refusal.stderr);
            assert!(errors[0].contains("NOTIFY_SOCKET") && errors[0].contains(name), "{}", errors[0]);
        }
    });
}
