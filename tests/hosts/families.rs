//! Hosts without IPv6, or without IPv4.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use crate::support::netns::{ip, setting};
use crate::support::{Launch, private_network};

use crate::{all_answer, answer, warnings};

/// The addresses in the delivered files: the unit, its settings, the image, the documents.
fn shipped_addresses() -> Vec<String> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files =
        ["dist/tubular-echo.service", "dist/tubular-echo.default", "dist/Containerfile", "docs/fleet.md"];
    let mut found = Vec::new();
    for file in files {
        let text = fs::read_to_string(directory.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        let values = text.match_indices("TUBULAR_ECHO_LISTEN=").map(|(at, name)| &text[at + name.len()..]);
        let of_file: Vec<_> = values
            .map(|rest| rest.split(|c: char| c.is_whitespace() || "'\"".contains(c)).next().unwrap())
            .map(|value| value.trim_end_matches(['.', ';']).to_owned())
            .collect();
        assert!(!of_file.is_empty(), "{file} names no addresses");
        found.extend(of_file);
    }
    found.sort();
    found.dedup();
    assert!(found.iter().all(|value| value.contains('[') && value.contains(',')), "both families: {found:?}");
    found
}

/// On a host without the family `absent`, the delivered settings serve the other one with one warning. If only
/// addresses of `absent` are named, the start fails.
fn serves_the_other_family(absent: &str, prepare: fn(Launch) -> Launch) {
    for shipped in shipped_addresses() {
        let server = prepare(Launch::new::<&str>(&[]).env("TUBULAR_ECHO_LISTEN", &shipped)).ready();
        let family = |address: &SocketAddr| address.is_ipv4() == absent.starts_with("127");
        let (absent, present): (Vec<_>, Vec<_>) =
            server.addresses().iter().copied().partition(|(_, address)| family(address));
        assert!(absent.iter().all(|(_, address)| address.ip().is_unspecified()), "{absent:?}");
        assert_eq!(present.len(), 2);
        answer(&present);
        let end = server.stop();
        let warnings = warnings(&end.stderr);
        // 0.0.0.0 and [::] can be bound on a host without any address
        let any = usize::from(shipped.contains("127"));
        assert!((any..=1).contains(&warnings.len()), "{shipped}: {warnings:#?}");
        assert!(warnings.iter().all(|line| line.contains("not serving")), "{shipped}: {warnings:#?}");
    }
    let refusal = prepare(Launch::new(&["--listen", absent])).refused();
    assert_eq!(refusal.code, Some(1));
    let error = refusal.stderr.last().expect("a line");
    assert!(error.starts_with("error:") && error.contains(absent), "{error}");
}

#[test]
#[ignore = "needs root"]
fn what_is_shipped_serves_ipv4_where_ipv6_is_switched_off() {
    private_network(|| {
        setting("ipv6/conf/all/disable_ipv6", "1");
        serves_the_other_family("[::1]:1234", |launch| launch);
    });
}

#[test]
#[ignore = "needs root"]
fn what_is_shipped_serves_ipv4_where_there_is_no_ipv6_loopback() {
    private_network(|| {
        ip("addr del ::1/128 dev lo");
        for shipped in shipped_addresses().iter().filter(|shipped| shipped.contains("127")) {
            let server = Launch::new::<&str>(&[]).env("TUBULAR_ECHO_LISTEN", shipped).ready();
            all_answer(&server);
            assert_eq!(warnings(&server.stop().stderr).len(), 1);
        }
    });
}

#[test]
#[ignore = "needs root"]
fn what_is_shipped_serves_ipv4_where_ipv6_is_filtered() {
    private_network(|| {
        serves_the_other_family("[::1]:1234", |launch| launch.without_family(libc::AF_INET6));
    });
}

#[test]
#[ignore = "needs root"]
fn what_is_shipped_serves_ipv6_where_ipv4_is_filtered() {
    private_network(|| {
        serves_the_other_family("127.0.0.1:1234", |launch| launch.without_family(libc::AF_INET));
    });
}

#[test]
#[ignore = "needs root"]
fn a_named_address_of_a_missing_family_is_an_error() {
    private_network(|| {
        let launch = Launch::new(&["--listen=127.0.0.1:1234", "--listen=[2001:db8::1]:1234"]);
        let refusal = launch.without_family(libc::AF_INET6).refused();
        let error = refusal.stderr.last().expect("a line");
        assert!(error.contains("[2001:db8::1]:1234") && error.contains("the other one"), "{error}");
    });
}
