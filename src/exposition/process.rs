//! The standard `process_…` metrics of Prometheus's client libraries. Values that /proc does not show are left out.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::kernel::sys;

/// One `process_…` metric.
pub(super) struct Metric {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) is_counter: bool,
    pub(super) value: f64,
}

/// Seconds since 1970, now.
pub fn now_s() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// The metrics of this process. It started at `start_s` (seconds since 1970); `open_files_max` is its limit of open
/// files.
pub(super) fn metrics(start_s: f64, open_files_max: Option<u64>) -> Vec<Metric> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bytes = |field| field_of(&status, field).map(|kib| kib * 1024.0);
    // this thread has its own descriptor table, so this does not count the directory's descriptor
    let open_files = fs::read_dir("/proc/self/fd").ok().map(|fds| fds.count() as f64);
    let all = [
        (
            "process_cpu_seconds_total",
            "User and system CPU time spent.",
            Some(sys::process_cpu_time().as_secs_f64()),
        ),
        ("process_start_time_seconds", "Start time since the Unix epoch.", Some(start_s)),
        ("process_resident_memory_bytes", "Memory in RAM.", bytes("VmRSS:")),
        ("process_virtual_memory_bytes", "Memory mapped.", bytes("VmSize:")),
        ("process_threads", "Threads.", field_of(&status, "Threads:")),
        ("process_open_fds", "Open file descriptors; connections and rings' own files are none.", open_files),
        ("process_max_fds", "Limit of open file descriptors.", open_files_max.map(|max| max as f64)),
    ];
    let known = |(name, help, value): (&'static str, _, Option<f64>)| {
        value.map(|value| Metric { name, help, is_counter: name.ends_with("_total"), value })
    };
    all.into_iter().filter_map(known).collect()
}

/// A number from proc_pid_status(5).
fn field_of(status: &str, field: &str) -> Option<f64> {
    let rest = status.lines().find_map(|line| line.strip_prefix(field))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_threads_memory_and_files() {
        let found = metrics(now_s(), Some(9));
        assert_eq!(found.len(), 7);
        for metric in found {
            assert!(metric.value > 0.0, "{}", metric.name);
        }
    }

    #[test]
    fn what_is_not_there_is_not_told() {
        assert_eq!(field_of("VmRSS:\t  12 kB\nThreads:\t3\n", "Threads:"), Some(3.0));
        assert_eq!(field_of("VmRSS:\t  12 kB\n", "VmSize:"), None);
    }
}
