//! Errors of the command line. The test puts a second mistake, a wrong condition, behind each value. The program
//! reports only the first mistake. So if it reports the second one, the value is right.

use std::process::Command;

use super::support::{Launch, Server, bounded, private_network};
use super::{blaster, cured, number_behind, refused, stderr};

/// The words that follow each value.
const NEXT_MISTAKE: &str = "--fail-if nonsense";

/// The error about a value, which is one line.
fn complaint(flags: &str) -> String {
    let output = blaster(flags);
    let text = stderr(&output);
    assert!(output.status.code() == Some(2) && text.lines().count() == 1, "{flags}: {text}");
    text
}

/// The examples in a message.
fn examples(text: &str) -> Vec<String> {
    let (_, rest) = text.split_once("(example").expect("examples");
    let (list, _) = rest.split_once(": ").and_then(|(_, list)| list.split_once(')')).expect("examples");
    list.split(", ").map(|example| example.replace(' ', "\u{a0}")).collect()
}

/// A wrong value of an option, the error about it, and right values; `…` stands for the examples in the message.
const VALUES: [(&str, &str, &str, &str); 32] = [
    ("--rate", "x", "is not a number", "…"),
    ("--timeout", "soon", "is not a duration", "…"),
    ("--steps", "1k", "is not RATE:TIME", "…"),
    ("--find-max --loss", "much", "is not a percentage", "…"),
    ("--source", "here", "is not a source", "…"),
    ("--count", "1.5", "a whole number is wanted", "2"),
    ("--flows", "0", "at least 1 is wanted", "1"),
    ("--duration", "0s", "more than zero is wanted", "1ms"),
    ("--timeout", "100", "100 has no unit: say 100s or 100ms", "100ms"),
    ("--warmup", "0", "0 has no unit: say 0s or 0ms", "0s"),
    ("--steps", "1k:10", "10 has no unit: say 10s or 10ms", "1k:10s"),
    ("--duration", "11years", "ten years is the most", "10years"),
    ("--rate", "0", "more than zero is wanted", "0.001"),
    ("--rate", "2G", "1G per second is the most", "1G"),
    ("--rate", "0.0001", "thousandths are the finest", "0.001"),
    ("--find-max --repeat", "101", "at most 100 is wanted", "100"),
    ("--find-max --precision", "0%", "more than zero is wanted", "1%"),
    ("--count", "99999999999999999999", "is not a number", "1000000"),
    ("--flows", "5G", "too large", "5M"),
    ("--size", "31", "has no room for the header of 32 bytes", "32"),
    ("--size", "65528", "is more than one message carries (65527)", "65527"),
    ("--size", "100-50", "the size range 100-50 is empty", "50-100"),
    ("--source", "224.0.0.1", "stands for many hosts", "127.0.0.1"),
    ("--source", "ff02::/64", "stands for many hosts", "::1"),
    ("--source", "255.255.255.255", "stands for many hosts", "127.0.0.1"),
    ("--source", "127.0.0.1/8", "has bits set behind its prefix: say 127.0.0.0/8 for", "127.0.0.0/8"),
    ("--gro", "maybe", "possible values: on, off", "on"),
    ("--mode", "fast", "possible values: open, closed, flood", "flood"),
    ("--threads", "-1", "is not a number", "2"),
    ("--burst", "20M/1s", "16777216 is the largest burst", "16777216/1s"),
    ("--burst", "10/10", "10 has no unit: say 10s or 10ms", "10/10ms"),
    ("--gaps", "random", "possible values: even, poisson", "poisson"),
];

#[test]
fn values_of_blaster() {
    for (option, wrong, words, right) in VALUES {
        let with = |value: &str| complaint(&format!("udp 127.0.0.1:9 {option}={value} {NEXT_MISTAKE}"));
        let text = with(wrong);
        assert!(text.contains(words), "{option}={wrong}: {text}");
        let rights = if right == "…" { examples(&text) } else { vec![right.to_owned()] };
        assert!(!rights.is_empty(), "{text}");
        for right in rights {
            let text = with(&right);
            assert!(text.contains("is not NAME>VALUE"), "{option}={right}, as told: {text}");
        }
    }
}

#[test]
fn lists_have_spaces_behind_their_commas_or_not() {
    for list in
        ["--size=64,\u{a0}512", "--steps=1k:1s,\u{a0}2k:1s", "--fail-if=ok>1,\u{a0}lost>2", "--size=64,512"]
    {
        let text = complaint(&format!("udp 127.0.0.1:9 {list} --flows 0"));
        assert!(text.contains("at least 1 is wanted"), "{list}: {text}");
    }
}

#[test]
fn conditions_of_blaster() {
    for (wrong, words, right) in [
        ("p99", "is not NAME>VALUE (or >=, <, <=)", "p99>1ms"),
        ("p98>1ms", "is not a measure: use one of", "…"),
        ("loss>much%", "number before %", "loss>1%"),
        ("ok>much", "whole number, or a percentage", "ok>1"),
        ("loss>-1%", "percentage of at least 0", "loss>0%"),
        ("p99>soon", "duration, as in 500us or 1ms", "p99>500us"),
    ] {
        let text = complaint(&format!("udp 127.0.0.1:9 --fail-if={wrong} --flows 0"));
        assert!(text.contains(words), "{wrong}: {text}");
        let (_, measures) = text.split_once("one of ").unwrap_or(("", ""));
        let first = measures.split([',', ' ']).next().unwrap_or_default();
        let right = if right == "…" { format!("{first}>1") } else { right.to_owned() };
        let text = complaint(&format!("udp 127.0.0.1:9 --fail-if={right} --flows 0"));
        assert!(text.contains("at least 1 is wanted"), "{right}, as told: {text}");
    }
}

/// Runs against a live server with the arguments that the message names.
fn runs(flags: &str, words: &str) {
    let output = blaster(&format!("{flags} --quiet"));
    let text = stderr(&output);
    assert!(output.status.success() && !text.contains(words), "{flags}: {text}");
}

#[test]
fn options_of_blaster_that_do_not_go_together() {
    bounded(|| {
        let server = Server::start(&["--listen", "127.0.0.1:0"]);
        let target = format!("udp {}", server.udp());
        let told = |flags: &str, words: &str| {
            let text = complaint(&format!("{target} {flags}"));
            assert!(text.contains(words), "{flags}: {text}");
            text
        };
        // the right value leads to the next mistake: a search takes long
        let search = "--find-max --duration 2s --linger 2s";
        told(
            &format!("{search} --search-time 1s"),
            "--search-time 1s is less than one run may take: say 4s or more",
        );
        told(&format!("{search} --search-time 4s --gso 129"), "is more than one call may carry");
        for (wrong, words, right) in [
            ("--mode open", "--mode open needs a --rate", "--mode open --rate 100 --duration 100ms"),
            ("--mode flood --rate 1k", "--mode flood has no schedule", "--rate 1k --duration 100ms"),
            ("--mode closed --rate 1k", "--rate makes an open loop", "--mode closed --count 10"),
            ("--rate 1k --in-flight 2", "--in-flight is for the closed loop", "--in-flight 2 --count 10"),
            ("--mode flood --in-flight 2", "with --mode flood nothing waits", "--in-flight 2 --count 10"),
            ("--count 0", "--count 0 measures nothing", "--count 1"),
            ("--each-once --duration 5s", "--duration can only be forever", "--each-once"),
            (
                "--find-max --duration forever",
                "--find-max and --steps need an end",
                "--rate 1k --duration 100ms",
            ),
            ("--each-once=20k", "--each-once=20000 is more than 10000 visits of each", "--each-once=2"),
            (
                "--each-once --sample 1M",
                "--sample 1000000 is more than blaster remembers: 262144",
                "--each-once --sample 2",
            ),
            ("--source ::1", "can't reach", "--source 127.0.0.1 --count 1"),
            (
                "--gso 129",
                "is more than one call may carry: 128 datagrams (before Linux 6.9: 64)",
                "--gso 64 --count 64",
            ),
        ] {
            told(wrong, words);
            runs(&format!("{target} {right}"), words);
        }
        let text = told("--gso 64 --size 1400", "a train of 64 datagrams of 1400 bytes");
        let train = number_behind(&text, "one call carries") / 1400;
        runs(&format!("{target} --gso {train} --size 1400 --count {train}"), "a train of");
        let text = told("--size 65520", "a datagram of 65520 bytes");
        let most = number_behind(&text, "IPv4 carries");
        runs(&format!("{target} --size {most} --count 1"), "a datagram of");
        let text = told("--in-flight 5M --flows 1", "datagrams in flight for each flow");
        assert_eq!(number_behind(&text, "blaster remembers"), 1 << 22);
        runs(&format!("{target} --in-flight 64 --flows 1 --count 100"), "in flight");
        let tcp = format!("tcp {} --size 65528 {NEXT_MISTAKE}", server.tcp());
        assert!(complaint(&tcp).contains("is more than one message carries"));
        server.stop();
    });
}

#[test]
fn schedules_of_blaster() {
    bounded(|| {
        let server = Server::start(&["--listen", "127.0.0.1:0"]);
        let target = format!("udp {}", server.udp());
        for (wrong, words, right) in [
            ("--rate 1k..2k", "\"1k..2k\" has no time: only the last of several", "--rate 1k..2k:100ms"),
            ("--rate 0:1s", "\"0:1s\" never sends anything", "--rate 0:50ms,1k:50ms"),
            ("--gaps poisson", "--gaps poisson needs a --rate", "--gaps poisson --rate 1k --count 10"),
            (
                "--burst 10",
                "--burst 10 needs a --rate, or a time: --burst 10/10ms",
                "--burst 10/10ms --count 10",
            ),
            ("--burst 10/10ms --in-flight 2", "with --burst nothing waits", "--in-flight 2 --count 10"),
            (
                "--mode closed --burst 10/10ms",
                "--burst makes an open loop; --mode closed has",
                "--burst 10/10ms --count 10",
            ),
            (
                "--burst 10/10ms --rate 1k",
                "leave out --rate, or say --burst 10",
                "--burst 10 --rate 1k --count 10",
            ),
            (
                "--burst 10/10ms --steps 1k:1s",
                "leave out --steps, or say --burst 10",
                "--burst 10 --steps 1k:100ms",
            ),
            (
                "--burst 10/10ms --find-max",
                "leave out --find-max, or say --burst 10",
                "--burst 10/10ms --count 10",
            ),
            (
                "--burst 10/10ms --gaps poisson",
                "say --burst 10 --rate RATE --gaps poisson",
                "--burst 10 --rate 1k --gaps poisson --count 10",
            ),
            (
                "--burst 10 --gso 4 --rate 1k",
                "--burst 10 is no whole number of trains of 4 datagrams (--gso)",
                "--burst 8 --gso 4 --rate 1k --count 8",
            ),
            (
                "--find-max --rate 1k..2k:1s",
                "--find-max starts with one rate; 1k..2k:1s changes",
                "--rate 1k..2k:100ms",
            ),
        ] {
            let text = complaint(&format!("{target} {wrong}"));
            assert!(text.contains(words), "{wrong}: {text}");
            runs(&format!("{target} {right}"), words);
        }
        let many = vec!["1k:1s"; 1_001].join(",");
        assert!(
            complaint(&format!("{target} --rate {many}"))
                .contains("1001 rates are more than blaster remembers: 1000")
        );
        runs(
            &format!("{target} --rate {},1k:1ms --count 1", "1k:1ms,".repeat(99).trim_end_matches(',')),
            "remembers",
        );
        server.stop();
    });
}

#[test]
fn schedules_of_tcp() {
    bounded(|| {
        let server = Server::start(&["--listen", "127.0.0.1:0"]);
        let tcp = format!("tcp {}", server.tcp());
        for (wrong, words, right) in [
            (
                "--mode stream --burst 5/10ms",
                "--burst makes an open loop; --mode stream has",
                "--burst 5/10ms -n 10",
            ),
            (
                "--mode connect --gaps poisson",
                "--gaps poisson needs a --rate",
                "--gaps poisson --rate 1k -n 10",
            ),
            (
                "--mode connect --find-max --duration 2s --linger 2s --search-time 5s",
                "--search-time 5s is less than one run may take: say 6s or more",
                "--mode connect --steps 100:100ms",
            ),
        ] {
            let text = complaint(&format!("{tcp} {wrong}"));
            assert!(text.contains(words), "{wrong}: {text}");
            runs(&format!("{tcp} {right}"), words);
        }
        server.stop();
    });
}

#[test]
fn recordings_of_blaster() {
    bounded(|| {
        let server = Server::start(&["--listen", "127.0.0.1:0"]);
        let file = std::env::temp_dir().join(format!("blaster-recordings-{}", std::process::id()));
        let load = format!("udp {} --replay {}", server.udp(), file.display());
        for (wrong, words, right) in [
            ("# nothing\n", "has no line of a time and a size in bytes", "0.00125 64\n"),
            (
                "0 64\n0.00125\n",
                "line 2: 1 columns instead of a time and a size in bytes (example: 0.00125 64)",
                "0.00125 64\n",
            ),
            (
                "soon 64\n",
                "line 1: \"soon\" is not a time (examples: 0.00125, which is in seconds, or 1.25ms)",
                "0.00125 64\n1.25ms 64\n",
            ),
            (
                "2 64\n1 64\n",
                "line 2: its time 1 is before that of the line above (sort -n FILE",
                "1.9 64\n2 64\n",
            ),
            ("0 64B\n", "line 1: \"64B\" is not a size in bytes (example: 64)", "0 64\n"),
            ("0 70000\n", "line 1: 70000 bytes are more than one message carries: 65527", "0 65507\n"),
        ] {
            std::fs::write(&file, wrong).expect("write the recording");
            let text = complaint(&load);
            assert!(text.contains(words) && text.contains(&*file.to_string_lossy()), "{wrong:?}: {text}");
            std::fs::write(&file, right).expect("write the recording");
            runs(&load, words);
        }
        // the command that the message names makes small datagrams larger
        std::fs::write(&file, "0 64\n0.01 20\n").expect("write the recording");
        let text = complaint(&load);
        assert!(text.contains("line 2: 20 bytes have no room for the header of 32 bytes"), "{text}");
        let (_, advice) = text.split_once('(').expect("advice");
        let (command, _) = advice.split_once(" makes them larger").expect("advice");
        let command = command.replace("FILE", &file.to_string_lossy());
        let larger = Command::new("sh").args(["-c", &command]).output().expect("run awk");
        std::fs::write(&file, larger.stdout).expect("write the recording");
        runs(&load, "no room");
        for (wrong, words, right) in [
            (
                "--count 3",
                "has one time only, so that it can't be repeated: --count 3 is more than its 2",
                "--count 2",
            ),
            ("--gso 2", "with its own size; trains (--gso 2) have one of each", ""),
        ] {
            std::fs::write(&file, "1 64\n1 64\n").expect("write the recording");
            let text = complaint(&format!("{load} {wrong}"));
            assert!(text.contains(words), "{wrong}: {text}");
            runs(format!("{load} {right}").trim_end(), words);
        }
        std::fs::remove_file(&file).expect("remove the recording");
        assert!(complaint(&load).contains(&format!("reading {}: No such file", file.display())));
        server.stop();
    });
}

#[test]
#[ignore = "needs root"]
fn targets_of_blaster() {
    private_network(|| {
        let server = Launch::new(&["--listen", "127.0.0.1:1234", "--listen", "[::1]:1234"]).ready();
        // the program accepts the text behind "say"
        for wrong in [
            "127.0.0.1",
            "::1",
            "[::1]",
            "::1:1234",
            "[127.0.0.1]:1234",
            "localhost",
            "localhost/8:1234",
            "udp://127.0.0.1:1234",
        ] {
            let text = complaint(&format!("udp {wrong} --count 1"));
            let (_, advice) = text.split_once("say ").unwrap_or_else(|| panic!("{wrong}: {text}"));
            for right in advice.split(' ').filter(|word| word.contains(':')) {
                runs(&format!("udp {right} --count 1"), "target");
            }
        }
        let text = complaint("udp 127.0.0.1/8:1234 --count 1");
        let (_, advice) = text.split_once("say ").expect("advice");
        let prefix = advice.split(' ').next().expect("a prefix");
        assert!(complaint(&format!("udp {prefix} {NEXT_MISTAKE}")).contains("NAME>VALUE"), "{prefix}");
        runs("udp 127.0.0.1:1234 --count 1", "bits set behind its prefix"); // "or leave the length out"
        for (wrong, words, right) in [
            (
                "udp 127.0.0.1:0 --count 1",
                "is not a port (1-65535), a range LOW-HIGH or `any`",
                "udp 127.0.0.1:1234 --count 1",
            ),
            ("udp 127.0.0.1:9-8 --count 1", "a range LOW-HIGH", "udp 127.0.0.1:1234-1234 --count 1"),
            (
                "udp 127.1:1234 --count 1",
                "is neither an IP address, nor a prefix, nor a name",
                "udp 127.0.0.1/32:1234 --count 1",
            ),
            ("udp 127.0.0.1:7:8 --count 1", "IPv6 goes in brackets, as in", "udp 127.0.0.1:1234 --count 1"),
            (
                "udp [::1%nosuch]:1234 --count 1",
                "no interface is named \"nosuch\"",
                "udp [::1%lo]:1234 --count 1",
            ),
            (
                "udp 127.0.0.1:1234 [::1]:1234 --spray --count 2",
                "need targets of one address family",
                "udp 127.0.0.1:1234 [::1]:1234 --count 2",
            ),
            ("udp 224.0.0.1:1234 --count 1", "which are never loaded", "udp 127.0.0.1:1234 --count 1"),
            (
                "udp 2001:db8::/64:1234 --count 1",
                "IPv6 goes in brackets, as in [2001:db8::1]:1234",
                "udp [::1/128]:1234 --count 1",
            ),
            (
                "udp nonsense? --count 1",
                "is not ADDR:PORT, NAME:PORT, PREFIX:PORT, PREFIX:LOW-HIGH or PREFIX:any",
                "udp 127.0.0.1:1234 --count 1",
            ),
        ] {
            let text = complaint(wrong);
            assert!(text.contains(words), "{wrong}: {text}");
            runs(right, words);
        }
        // with --allow-public the datagrams are sent, and in this network they reach only this host
        super::support::netns::ip("route add local 192.88.99.0/24 dev lo");
        let all = Launch::new(&["--udp", "192.88.99.1:1234", "--public"]).ready();
        assert!(complaint("udp 192.88.99.1:1234 --count 1").contains("is public"));
        runs("udp 192.88.99.1:1234 --count 1 --allow-public", "is public");
        all.stop();
        server.stop();
    });
}

#[test]
#[ignore = "needs root"]
fn addresses_of_the_server() {
    private_network(|| {
        for wrong in [
            "127.0.0.1",
            "::1",
            "[::1]",
            "::1:7",
            "[127.0.0.1]:7",
            "localhost:7",
            "localhost",
            ":7",
            "7",
            "*:7",
            "127.0.0.1:echo",
            "[::1]:70000",
            "udp://127.0.0.1:7",
            "\"127.0.0.1:7\"",
            "192.0.2.0/24:7",
            "",
            "?",
        ] {
            for option in ["--listen", "--tcp", "--udp", "--metrics"] {
                let text = refused(Launch::new(&[&format!("{option}={wrong}")]), "say ");
                let (_, advice) = text.split_once("say ").expect("advice");
                let rights: Vec<_> = advice.split([' ', ',']).filter(|word| word.contains(':')).collect();
                assert!(!rights.is_empty(), "{text}");
                for right in rights {
                    // the metrics address is none of the served ones
                    let served: &[&str] = if option == "--metrics" { &["--udp", "127.0.0.1:9"] } else { &[] };
                    cured(Launch::new(&[served, &[option, right]].concat()), "say ");
                }
            }
        }
        let text = refused(Launch::new(&["--listen", "lo.example:7"]), "names are not looked up");
        assert!(super::command_in(&text, "getent ahosts").ends_with("lo.example"), "{text}");
        // the host's own name is in its /etc/hosts, as this one is
        let found = super::shell("getent ahosts localhost");
        let address = found.split_whitespace().next().expect("an address");
        let address = if address.contains(':') { format!("[{address}]:7") } else { format!("{address}:7") };
        cured(Launch::new(&["--listen", &address]), "say ");
        // a name that `ip -6 address` shows
        for wrong in ["[::1%]:7", "[::1%a/b]:7"] {
            let text = refused(Launch::new(&["--listen", wrong]), "of an interface");
            assert!(text.contains("say [::1"), "{text}");
            let shown = super::shell(super::command_in(&text, "ip -6 address"));
            assert!(shown.contains("1: lo:"), "{shown}");
        }
        cured(Launch::new(&["--listen", "[::1%lo]:7"]), "of an interface");
        let twice = ["--listen", "127.0.0.1:7", "--tcp", "127.0.0.1:7"];
        refused(Launch::new(&twice), "named twice for the same protocol; name each address once");
        cured(Launch::new(&twice[..2]), "named twice");
    });
}

#[test]
fn values_of_the_server() {
    bounded(|| {
        let with = |option: &str, value: &str| Launch::new(&["--listen", "127.0.0.1:0", option, value]);
        let text = refused(with("--workers", "4097"), "must be a number from 1 to");
        assert_eq!(number_behind(&text, "from 1 to"), 4096);
        for (option, wrong, words, rights) in [
            ("--workers", "0", "must be a number from 1 to 4096, or `auto`", &["1", "auto"][..]),
            ("--busy-poll", "2ms", "must be at most 1ms", &["1ms"]),
            ("--stats-interval", "1ms", "must be at least 10ms", &["10ms"]),
            ("--tcp-keepalive", "1ms", "must be at least 1s and at most 9h, or 0s", &["1s", "0s"]),
            ("--idle-timeout", "1ms", "must be at least 10ms, or 0s", &["10ms", "0s"]),
            ("--drain-timeout", "5", "5 has no unit: say 5s or 5ms", &["5s", "5ms"]),
            ("--idle-timeout", "0", "0 has no unit: say 0s or 0ms", &["0s", "0ms"]),
            ("--tcp-keepalive", "30", "30 has no unit: say 30s or 30ms", &["30s"]),
            ("--drain-timeout", "101years", "must be at most 100 years", &["100years"]),
        ] {
            refused(with(option, wrong), words);
            for right in rights {
                cured(with(option, right), words);
            }
        }
        let text =
            refused(with("--reply-ports-except", "0"), "is neither a port (1-65535) nor a range of them");
        let (_, example) = text.split_once("as in ").expect("an example");
        cured(with("--reply-ports-except", example.trim()), "neither a port");
        let both = |keepalive, timeout| {
            let options =
                ["--listen", "127.0.0.1:0", "--tcp-keepalive", keepalive, "--tcp-user-timeout", timeout];
            Launch::new(&options)
        };
        let steered =
            |more: &[&str]| Launch::new(&[&["--listen", "127.0.0.1:0", "--workers", "1"], more].concat());
        let words = "--steer cpu and --join exclude each other";
        assert!(refused(steered(&["--steer", "cpu", "--join"]), words).contains("leave out one of them"));
        cured(steered(&["--steer", "cpu"]), words);
        cured(steered(&["--join"]), words);
        let words = "is not shorter than --tcp-user-timeout";
        refused(both("3min", "2min"), words);
        for (keepalive, timeout) in [("1min", "2min"), ("3min", "4min"), ("3min", "0s")] {
            cured(both(keepalive, timeout), words);
        }
        // the error names the variable of the value
        let variable = |value| Launch::new(&["--listen", "127.0.0.1:0"]).env("TUBULAR_ECHO_WORKERS", value);
        refused(variable("many"), "The value is that of TUBULAR_ECHO_WORKERS in the environment.");
        cured(variable("1"), "The value");
    });
}
