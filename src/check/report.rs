//! Turns the findings of `tubular-echo check` into text. Nothing here asks the kernel.

use std::fmt::{self, Display, Formatter};
use std::net::SocketAddr;

use ipnet::IpNet;

use super::walk::{CLOSED_IN_A_ROW_MAX, Refusal, receives, register};
use crate::kernel::pidfd::InetSocket;
use crate::kernel::sys::Protocol;

/// The facts that the report is made of.
#[derive(Debug)]
pub struct Findings {
    /// The checked process.
    pub pid: u32,
    /// Its name, from `/proc/PID/comm`.
    pub name: String,
    /// The internet sockets that the walk reached, by rising descriptor.
    pub reached: Vec<(i32, InetSocket)>,
    /// The internet sockets that the walk did not reach.
    pub beyond: Vec<(i32, InetSocket)>,
    /// The number of `pidfd_getfd(2)` calls that the walk took.
    pub calls: u32,
    /// The first descriptor that the walk did not look at.
    pub end_fd: i32,
    /// The process lives in another network namespace than the check.
    pub other_namespace: bool,
    /// The walk was cut short at this descriptor: no registration of this process can succeed.
    pub cut_short: Option<(i32, CutShort)>,
    /// This kernel computes other BPF program tags than a released tubectl.
    pub foreign_tags: bool,
}

/// Why the walk ended early.
#[derive(Debug)]
pub enum CutShort {
    /// `pidfd_getfd(2)` answered EPERM.
    NoAccess {
        /// `kernel.yama.ptrace_scope`, 0 to 3; `None` without Yama.
        ptrace_scope: Option<u8>,
    },
    /// The descriptor was opened with `O_PATH`.
    PathOnly,
    /// Anything else: the step and the kernel's answer.
    Other(String),
}

/// The options for the commands of `tubectl`.
#[derive(Debug)]
pub struct Wishes {
    /// The label that stands between bindings and sockets.
    pub label: String,
    /// Prefixes to steer.
    pub prefixes: Vec<IpNet>,
    /// Port to steer, 0 for all ports; `None` for the served port.
    pub bind_port: Option<u16>,
}

/// The finished text.
#[derive(Debug)]
pub struct Report {
    /// The report. Each line ends with a newline.
    pub text: String,
    /// The commands that register the served sockets, one per line.
    pub registrations: String,
    /// Whether tubectl would refuse anything.
    pub refused: bool,
}

/// How register-pid treats one socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Registers,
    GroupMember { first_fd: i32 },
    PassedOver,
    Unreachable,
    NotListening,
    Connected { peer: SocketAddr },
    DualStack,
    Foreign,
    Duplicate { first_fd: i32, same_socket: bool },
    Behind { fd: i32 },
}

impl Verdict {
    fn is_refusal(self) -> bool {
        !matches!(self, Self::Registers | Self::GroupMember { .. } | Self::PassedOver)
    }
}

/// Judges every socket, and writes the commands for those that would register.
pub fn report(findings: &Findings, wishes: &Wishes) -> Report {
    let mut lines = vec![format!(
        "process {} ({}): {} descriptors walked, {} pidfd_getfd calls",
        findings.pid, findings.name, findings.end_fd, findings.calls
    )];
    let judged: Vec<(i32, InetSocket, Verdict)> = findings
        .reached
        .iter()
        .map(|(fd, socket)| (*fd, *socket, judge(findings, *fd, socket)))
        .chain(findings.beyond.iter().map(|(fd, socket)| (*fd, *socket, judge_unreached(socket))))
        .collect();
    for (fd, socket, verdict) in &judged {
        if *verdict != Verdict::PassedOver {
            let what = format!("{} {}", socket.protocol, socket.local);
            lines.push(format!("  fd {fd:<4} {what:<30} {}", Reason(*verdict, findings.end_fd)));
        }
    }
    let passed_over = judged.iter().filter(|(.., verdict)| *verdict == Verdict::PassedOver).count();
    if passed_over > 0 {
        lines.push(format!("  {passed_over} connections and unbound sockets, which tubectl passes over"));
    }

    let served = served(&judged);
    let nothing = served.is_empty() && findings.cut_short.is_none();
    if nothing {
        lines.push("refused: no sockets: nothing here that register-pid would take".to_string());
    }
    if findings.other_namespace {
        lines.push(format!(
            "refused: the process runs in another network namespace; `tubectl -netns /proc/{}/ns/net` \
             reaches a dispatcher that was loaded there",
            findings.pid
        ));
    }
    if let Some((fd, cut_short)) = &findings.cut_short {
        lines.push(format!("refused, every socket: the walk ends at fd {fd}: {cut_short}"));
    }
    let steering = Steering::new(findings, wishes, &served);
    if !served.is_empty() {
        lines.push("to steer traffic here:".to_string());
    }
    lines.extend(steering.bind.iter().chain(&steering.register).map(|command| format!("  {command}")));
    if findings.foreign_tags {
        lines.push(FOREIGN_TAGS.to_string());
    }
    Report {
        text: lines.join("\n") + "\n",
        registrations: steering.register.join("\n") + "\n",
        refused: nothing
            || findings.other_namespace
            || findings.cut_short.is_some()
            || judged.iter().any(|(.., verdict)| verdict.is_refusal()),
    }
}

const FOREIGN_TAGS: &str = "\
note: this kernel hashes BPF programs with SHA-256 (Linux 6.18 and newer), a released tubectl with SHA-1: there
  every command after `load` that changes something fails with \"differing tag\". It takes a kernel before
  6.18, or a tubectl built without the comparison in internal/compatible.go.";

fn judge(findings: &Findings, fd: i32, socket: &InetSocket) -> Verdict {
    if socket.local.port() == 0 {
        return Verdict::PassedOver;
    }
    if !receives(socket) {
        return match (socket.protocol, socket.peer) {
            (Protocol::Udp, Some(peer)) => Verdict::Connected { peer },
            (_, Some(_)) => Verdict::PassedOver,
            (_, None) => Verdict::NotListening,
        };
    }
    if let Some((end_fd, _)) = findings.cut_short {
        return Verdict::Behind { fd: end_fd };
    }
    let all = findings.reached.iter().map(|(fd, socket)| (*fd, socket));
    let outcome = register(all.clone(), socket.protocol, socket.local);
    match outcome.refused {
        Some(Refusal::Duplicate { fd: second_fd, first_fd }) if second_fd == fd => {
            let same_socket =
                all.clone().any(|(other, first)| other == first_fd && first.cookie == socket.cookie);
            Verdict::Duplicate { first_fd, same_socket }
        }
        Some(Refusal::DualStack { fd: refused_fd }) if refused_fd == fd => Verdict::DualStack,
        Some(Refusal::Protocol { fd: refused_fd, .. }) if refused_fd == fd => Verdict::Foreign,
        Some(
            Refusal::Duplicate { fd: refused_fd, .. }
            | Refusal::DualStack { fd: refused_fd }
            | Refusal::Protocol { fd: refused_fd, .. },
        ) => Verdict::Behind { fd: refused_fd },
        None | Some(Refusal::NoSocket) => match outcome.registered.first() {
            Some(first_fd) if *first_fd != fd => Verdict::GroupMember { first_fd: *first_fd },
            _ => Verdict::Registers,
        },
    }
}

fn judge_unreached(socket: &InetSocket) -> Verdict {
    if receives(socket) && socket.local.port() != 0 { Verdict::Unreachable } else { Verdict::PassedOver }
}

/// A verdict in words, with the cure. The number is the descriptor at which the walk ended.
struct Reason(Verdict, i32);

impl Display for Reason {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Verdict::Registers => f.write_str("registers"),
            Verdict::GroupMember { first_fd } => {
                write!(f, "registers with fd {first_fd}, whose SO_REUSEPORT group it shares")
            }
            Verdict::PassedOver => f.write_str("passed over"),
            Verdict::Unreachable => write!(
                f,
                "refused: out of reach, the walk ended before fd {}, after {CLOSED_IN_A_ROW_MAX} closed \
                 descriptors in a row or an error; open listening sockets before anything else",
                self.1
            ),
            Verdict::NotListening => f.write_str("refused: bound, but not in LISTEN"),
            Verdict::Connected { peer } => {
                write!(f, "refused: connected to {peer}; register-pid takes UDP sockets without a peer")
            }
            Verdict::DualStack => {
                f.write_str("refused: dual stack; set IPV6_V6ONLY before bind, and bind IPv4 on its own")
            }
            Verdict::Foreign => f.write_str("refused: neither plain TCP nor plain UDP"),
            Verdict::Duplicate { first_fd, same_socket: true } => {
                write!(f, "refused: a duplicate of fd {first_fd}; close one of the two")
            }
            Verdict::Duplicate { first_fd, same_socket: false } => {
                write!(f, "refused: bound where fd {first_fd} is; set SO_REUSEPORT on both or close one")
            }
            Verdict::Behind { fd } => write!(f, "refused: register-pid for this address fails at fd {fd}"),
        }
    }
}

impl Display for CutShort {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAccess { ptrace_scope: Some(3) } => f.write_str(
                "pidfd_getfd is forbidden to everybody, root included, while kernel.yama.ptrace_scope is 3; \
                 it takes a reboot with a smaller value",
            ),
            Self::NoAccess { ptrace_scope } => {
                f.write_str("pidfd_getfd is not permitted; run this, and tubectl, as root")?;
                match ptrace_scope {
                    Some(scope) => write!(f, " (kernel.yama.ptrace_scope is {scope})"),
                    None => Ok(()),
                }
            }
            Self::PathOnly => f.write_str(
                "it is open with O_PATH and answers getsockopt with EBADF; close it or open it without O_PATH",
            ),
            Self::Other(answer) => f.write_str(answer),
        }
    }
}

/// The addresses of the sockets that register, each once, in the order of their descriptors.
fn served(judged: &[(i32, InetSocket, Verdict)]) -> Vec<(Protocol, SocketAddr)> {
    let registering = judged.iter().filter(|(.., verdict)| *verdict == Verdict::Registers);
    registering.map(|(_, socket, _)| (socket.protocol, socket.local)).collect()
}

/// The exact commands, for a shell.
struct Steering {
    bind: Vec<String>,
    register: Vec<String>,
}

impl Steering {
    fn new(findings: &Findings, wishes: &Wishes, served: &[(Protocol, SocketAddr)]) -> Self {
        let tubectl = if findings.other_namespace {
            format!("tubectl -netns /proc/{}/ns/net", findings.pid)
        } else {
            "tubectl".to_string()
        };
        let (mut bind, mut register) = (Vec::new(), Vec::new());
        for (at, (protocol, local)) in served.iter().enumerate() {
            let same_destination = served[..at]
                .iter()
                .filter(|(other, address)| other == protocol && address.is_ipv4() == local.is_ipv4())
                .count();
            // a label holds one socket per family and protocol, so a second address needs a second label
            let label = match same_destination {
                0 => shell_word(&wishes.label),
                before => shell_word(&format!("{}-{}", wishes.label, before + 1)),
            };
            let port = wishes.bind_port.unwrap_or(local.port());
            let of_family = |prefix: &&IpNet| prefix.addr().is_ipv4() == local.is_ipv4();
            for prefix in wishes.prefixes.iter().filter(of_family) {
                bind.push(format!("{tubectl} bind {label} {protocol} {} {port}", prefix.trunc()));
            }
            let (pid, ip, served_port) = (findings.pid, local.ip(), local.port());
            register.push(format!("{tubectl} register-pid {pid} {label} {protocol} {ip} {served_port}"));
        }
        Self { bind, register }
    }
}

/// Quotes `word` for a shell, if needed.
fn shell_word(word: &str) -> String {
    if word.chars().all(|c| c.is_ascii_alphanumeric() || "._-:@%+,/".contains(c)) {
        word.to_string()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn four_sockets() -> Vec<(i32, InetSocket)> {
        vec![
            (3, InetSocket::serving(Protocol::Tcp, "127.0.0.1:1234")),
            (4, InetSocket::serving(Protocol::Tcp, "[::1]:1234")),
            (5, InetSocket::serving(Protocol::Udp, "127.0.0.1:1234")),
            (6, InetSocket::serving(Protocol::Udp, "[::1]:1234")),
        ]
    }

    fn findings(reached: Vec<(i32, InetSocket)>) -> Findings {
        Findings {
            pid: 4242,
            name: "tubular-echo".to_string(),
            reached,
            beyond: Vec::new(),
            calls: 41,
            end_fd: 41,
            other_namespace: false,
            cut_short: None,
            foreign_tags: false,
        }
    }

    fn wishes() -> Wishes {
        Wishes {
            label: "echo".to_string(),
            prefixes: vec!["127.0.0.129/25".parse().unwrap(), "2001:db8::/64".parse().unwrap()],
            bind_port: None,
        }
    }

    #[track_caller]
    fn refuses(findings: &Findings, why: &str) {
        let Report { text, refused, .. } = report(findings, &wishes());
        assert!(refused && text.contains(why), "no {why:?} in\n{text}");
    }

    #[test]
    fn all_good_prints_the_exact_lines() {
        let Report { text, refused, .. } = report(&findings(four_sockets()), &wishes());
        assert!(!refused, "{text}");
        assert_eq!(text.matches("registers\n").count(), 4, "{text}");
        let lines = "\
to steer traffic here:
  tubectl bind echo tcp 127.0.0.128/25 1234
  tubectl bind echo tcp 2001:db8::/64 1234
  tubectl bind echo udp 127.0.0.128/25 1234
  tubectl bind echo udp 2001:db8::/64 1234
  tubectl register-pid 4242 echo tcp 127.0.0.1 1234
  tubectl register-pid 4242 echo tcp ::1 1234
  tubectl register-pid 4242 echo udp 127.0.0.1 1234
  tubectl register-pid 4242 echo udp ::1 1234
";
        assert!(text.ends_with(lines), "{text}");
    }

    #[test]
    fn a_second_address_of_one_destination_gets_its_own_label() {
        let second = (7, InetSocket::serving(Protocol::Tcp, "127.0.0.2:80"));
        let all: Vec<_> = four_sockets().into_iter().chain([second]).collect();
        let Report { text, refused, .. } = report(&findings(all), &wishes());
        assert!(!refused, "{text}");
        assert!(text.contains("register-pid 4242 echo-2 tcp 127.0.0.2 80\n"), "{text}");
    }

    #[test]
    fn workers_of_one_group_register_with_the_first() {
        let mut all = four_sockets();
        all.extend(four_sockets().into_iter().map(|(fd, socket)| (fd + 4, socket)));
        for (fd, socket) in &mut all {
            socket.reuseport = true;
            socket.cookie = *fd as u64;
        }
        let Report { text, refused, .. } = report(&findings(all), &wishes());
        assert!(!refused, "{text}");
        assert!(text.contains("registers with fd 3,"), "{text}");
        assert_eq!(text.matches("register-pid").count(), 4, "{text}");
    }

    #[test]
    fn a_socket_behind_a_gap_is_refused() {
        let mut all = findings(four_sockets());
        all.beyond = vec![(77, InetSocket::serving(Protocol::Tcp, "127.0.0.1:80"))];
        refuses(&all, "refused: out of reach, the walk ended before fd 41");
    }

    #[test]
    fn dual_stack_is_refused() {
        let mut all = four_sockets();
        all[1].1.v6only = false;
        refuses(&findings(all), "refused: dual stack");
    }

    #[test]
    fn a_duplicate_is_refused_and_so_is_the_first() {
        let mut all = four_sockets();
        all.push((7, all[0].1));
        refuses(&findings(all.clone()), "refused: a duplicate of fd 3");
        refuses(&findings(all.clone()), "refused: register-pid for this address fails at fd 7");
        all[4].1.cookie = 2;
        refuses(&findings(all), "refused: bound where fd 3 is");
    }

    #[test]
    fn connected_and_silent_sockets_are_refused_and_connections_passed_over() {
        let mut all = four_sockets();
        all[2].1.peer = Some("192.0.2.1:53".parse().unwrap());
        refuses(&findings(all), "refused: connected to 192.0.2.1:53");

        let mut all = four_sockets();
        all[0].1.listening = false;
        refuses(&findings(all.clone()), "refused: bound, but not in LISTEN");

        all[0].1 = four_sockets()[0].1;
        let mut accepted = all[0].1;
        accepted.listening = false;
        accepted.peer = Some("127.0.0.9:9".parse().unwrap());
        all.push((9, accepted));
        let Report { text, refused, .. } = report(&findings(all), &wishes());
        assert!(!refused && text.contains("1 connections and unbound"), "{text}");
    }

    #[test]
    fn another_protocol_and_an_empty_process_are_refused() {
        let mut mptcp = InetSocket::serving(Protocol::Tcp, "127.0.0.1:80");
        mptcp.foreign_protocol = Some(262);
        refuses(&findings(vec![(3, mptcp)]), "refused: neither plain TCP nor plain UDP");
        refuses(&findings(Vec::new()), "refused: no sockets");
    }

    #[test]
    fn what_refuses_every_socket_says_so() {
        let mut all = findings(four_sockets());
        all.cut_short = Some((9, CutShort::PathOnly));
        refuses(&all, "refused, every socket: the walk ends at fd 9: it is open with O_PATH");
        refuses(&all, "refused: register-pid for this address fails at fd 9");
        assert!(!report(&all, &wishes()).text.contains("to steer"));
        all.cut_short = Some((0, CutShort::NoAccess { ptrace_scope: Some(3) }));
        refuses(&all, "kernel.yama.ptrace_scope is 3; it takes a reboot");
        all.cut_short = Some((0, CutShort::NoAccess { ptrace_scope: Some(1) }));
        refuses(&all, "as root (kernel.yama.ptrace_scope is 1)");
        all.cut_short = Some((2, CutShort::Other("EIO".to_string())));
        refuses(&all, "the walk ends at fd 2: EIO");
    }

    #[test]
    fn another_namespace_is_refused_and_the_lines_name_it() {
        let mut all = findings(four_sockets());
        all.other_namespace = true;
        refuses(&all, "another network namespace");
        refuses(&all, "  tubectl -netns /proc/4242/ns/net register-pid 4242 echo udp ::1 1234\n");
    }

    #[test]
    fn foreign_tags_are_a_note_and_no_refusal() {
        let mut all = findings(four_sockets());
        all.foreign_tags = true;
        let Report { text, refused, .. } = report(&all, &wishes());
        assert!(!refused && text.contains("differing tag"), "{text}");
    }

    #[test]
    fn a_label_survives_the_shell() {
        assert_eq!(shell_word("echo-1"), "echo-1");
        assert_eq!(shell_word("it's"), r"'it'\''s'");
    }
}
