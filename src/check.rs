//! `tubular-echo check PID` shows whether `tubectl register-pid` can register a process, and the commands that do it.
//!
//! It replays register-pid's walk over the process's descriptors and changes nothing. [`mod@walk`] asks the kernel;
//! [`mod@report`] turns the answers into text.

pub mod report;
pub mod walk;

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use ipnet::IpNet;

use crate::kernel::pidfd::{self, PidFd};
use crate::kernel::sys;
use report::{CutShort, Findings, Report, Wishes, report};
use walk::{Aborted, Found, sockets_beyond, walk};

const AFTER_HELP: &str = "\
The check changes nothing. It needs the same rights as tubectl, and the same network namespace.

Exit status:
  0 everything would register   1 something would be refused   2 wrong usage";

/// Options of `tubular-echo check`.
#[derive(Args, Clone, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct CheckOptions {
    /// Process to look at, such as systemd's $MAINPID
    #[arg(value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pub pid: u32,

    /// Label that stands between bindings and sockets, in the printed commands
    #[arg(long, default_value = "echo", value_parser = NonEmptyStringValueParser::new())]
    pub label: String,

    /// Prefix to steer, in the printed commands; may be repeated
    #[arg(long = "prefix", value_name = "PREFIX", default_values = ["127.0.0.128/25", "2001:db8::/64"])]
    pub prefixes: Vec<IpNet>,

    /// Port to steer, in the printed commands: 0 is every port [default: the port served]
    #[arg(long, value_name = "PORT")]
    pub bind_port: Option<u16>,

    /// Print only the commands that register the served sockets, for a shell. If tubectl would refuse anything, print
    /// no command, and write the report to standard error
    #[arg(long)]
    pub commands: bool,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The process could not be opened.
    #[error("check {pid}: pidfd_open: {source}; is it the number of a running process, not of a thread?")]
    Open {
        /// The number asked for.
        pid: u32,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The process is the check itself.
    #[error("check {0}: that is this very command; name the server's process")]
    OwnProcess(u32),
    /// The report could not be written.
    #[error("check: write the report: {0}")]
    Output(#[source] io::Error),
}

/// Looks at the process, prints the report on stdout, and tells whether everything would register.
pub fn run(options: &CheckOptions) -> Result<ExitCode, CheckError> {
    let findings = look(options.pid)?;
    let wishes = Wishes {
        label: options.label.clone(),
        prefixes: options.prefixes.clone(),
        bind_port: options.bind_port,
    };
    let Report { text, registrations, refused } = report(&findings, &wishes);
    let written = match (options.commands, refused) {
        (false, _) => io::stdout().write_all(text.as_bytes()),
        (true, false) => io::stdout().write_all(registrations.as_bytes()),
        (true, true) => io::stderr().write_all(text.as_bytes()),
    };
    written.map_err(CheckError::Output)?;
    Ok(if refused { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn look(pid: u32) -> Result<Findings, CheckError> {
    // the walk would meet the duplicates that it makes, and never end
    if pid == std::process::id() {
        return Err(CheckError::OwnProcess(pid));
    }
    let process = PidFd::open(pid).map_err(|source| CheckError::Open { pid, source })?;
    let walk = walk(&process);
    // if /proc is not readable, the walk has failed for the same reason and reports it
    let beyond = sockets_beyond(&process, pid, walk.end_fd).unwrap_or_default();
    let sockets = |found: Vec<Found>| found.into_iter().map(|found| (found.fd, found.socket)).collect();
    Ok(Findings {
        pid,
        name: fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_string(),
        reached: sockets(walk.found),
        beyond: sockets(beyond),
        calls: walk.calls,
        end_fd: walk.end_fd,
        other_namespace: other_namespace(pid),
        cut_short: walk.aborted.map(cut_short),
        foreign_tags: foreign_tags(),
    })
}

fn cut_short(Aborted { fd, refused }: Aborted) -> (i32, CutShort) {
    let why = if refused.path_only {
        CutShort::PathOnly
    } else if refused.source.kind() == io::ErrorKind::PermissionDenied {
        let ptrace_scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").ok();
        CutShort::NoAccess { ptrace_scope: ptrace_scope.and_then(|scope| scope.trim().parse().ok()) }
    } else {
        CutShort::Other(refused.to_string())
    };
    (fd, why)
}

/// Whether the process lives in another network namespace. If the links can't be read, the walk has failed for the same
/// reason and reports it.
fn other_namespace(pid: u32) -> bool {
    let own = fs::read_link("/proc/self/ns/net").ok();
    let theirs = fs::read_link(Path::new("/proc").join(pid.to_string()).join("ns/net")).ok();
    matches!((own, theirs), (Some(own), Some(theirs)) if own != theirs)
}

/// Whether this kernel's program tags differ from those of a released tubectl. The check loads a BPF program of two
/// instructions. Without the right to do so, the kernel's version decides.
fn foreign_tags() -> bool {
    match pidfd::kernel_program_tag() {
        Ok(tag) => tag != pidfd::TAG_BY_SHA1,
        Err(_) => kernel_version(&sys::kernel_release()) >= Some((6, 18)),
    }
}

/// Major and minor of a release such as `6.1.0-49-cloud-amd64`.
fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let (major, rest) = release.split_once('.')?;
    let minor = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_order_as_versions_do() {
        assert_eq!(kernel_version("6.1.0-49-cloud-amd64\n"), Some((6, 1)));
        assert_eq!(kernel_version("6.18.44\n"), Some((6, 18)));
        assert!(kernel_version("6.9.1") < Some((6, 18)));
        assert_eq!(kernel_version("linux"), None);
    }

    #[test]
    fn the_own_process_is_an_error_and_not_an_endless_walk() {
        assert!(matches!(look(std::process::id()), Err(CheckError::OwnProcess(_))));
    }

    #[test]
    fn a_process_that_never_was_is_an_error() {
        // Beyond PID_MAX_LIMIT (4 Mi), which no kernel hands out.
        assert!(matches!(look(1 << 30), Err(CheckError::Open { .. })));
    }
}
