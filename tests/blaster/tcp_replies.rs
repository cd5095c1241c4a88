//! TCP: each byte of each reply is checked.

use crate::misbehaving::{TcpConduct, tcp_server};
use crate::{counts, number, report, which};

#[test]
fn tcp_in_each_mode() {
    for bind in ["127.0.0.1:0", "[::1]:0"] {
        let addr = tcp_server(bind, TcpConduct::Good);
        for mode in ["ping-pong", "stream", "connect"] {
            let flags =
                format!("tcp {addr} --mode {mode} --connections 5 --threads 2 --size 32-3000 --count 500");
            let found = report(&flags);
            assert_eq!(counts(&found), [("sent", 500), ("ok", 500)], "{flags}");
            let connections = if mode == "connect" { 500 } else { 5 };
            assert_eq!(number(&found["connections"]["established"]), connections, "{flags}");
            assert_eq!(number(&found["totals"]["bytes_sent"]), number(&found["totals"]["bytes_received"]));
            assert!(number(&found["latency"]["from_intended"]["p50_ns"]) > 0);
        }
    }
}

#[test]
fn tcp_sees_each_flipped_bit() {
    let addr = tcp_server("127.0.0.1:0", TcpConduct::Flips(100));
    for mode in ["ping-pong", "stream"] {
        let found = report(&format!("tcp {addr} --mode {mode} --connections 1 --size 100 --count 500"));
        assert_eq!(counts(&found), [("sent", 500), ("ok", 450), ("corrupted", 50)], "{mode}");
        let shown: Vec<_> = found["examples"].as_array().unwrap().iter().map(which).collect();
        assert_eq!(
            shown,
            [
                ("corrupted", 100, 9, Some(1)),
                ("corrupted", 100, 19, Some(2)),
                ("corrupted", 100, 29, Some(3))
            ]
        );
    }
}

#[test]
fn tcp_sees_bytes_that_nobody_has_asked_for() {
    let addr = tcp_server("127.0.0.1:0", TcpConduct::Babbles(100));
    let found = report(&format!("tcp {addr} --mode connect --connections 1 --size 100 --count 20"));
    assert_eq!(counts(&found), [("sent", 20), ("ok", 20), ("unattributed", 20)]);
    let shown: Vec<_> =
        found["examples"].as_array().unwrap().iter().map(|example| number(&example["came_bytes"])).collect();
    assert_eq!(shown, [8; 3]);
}

#[test]
fn tcp_tells_a_cut_message_from_a_whole_one() {
    let addr = tcp_server("127.0.0.1:0", TcpConduct::HangsUp(100));
    let found = report(&format!("tcp {addr} --connections 3 --size 100 --count 500"));
    assert_eq!(counts(&found), [("sent", 30), ("ok", 27), ("truncated", 3)]);
    let shown: Vec<_> = found["examples"].as_array().unwrap().iter().map(which).collect();
    assert_eq!(shown, [("truncated", 50, 9, None); 3]);
    assert_eq!(number(&found["connections"]["broken"]), 3);
    assert!(found["warnings"].to_string().contains("3 broke"), "{}", found["warnings"]);
}
