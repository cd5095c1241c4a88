//! What all processors together have done: proc(5), `cpu` of `stat`, in hundredths of a second.

use std::time::Duration;

use super::Result;

/// CPU time that all processes together have used, interrupts and the hypervisor's theft included.
pub(crate) fn cpu_time() -> Result<Duration> {
    // user, nice, system, idle, iowait, irq, softirq, steal; guests are part of user
    columns(|column| column < 3 || (5..8).contains(&column))
}

/// The part of it that softirqs have used, as the kernel's tick saw it.
pub(crate) fn softirq_time() -> Result<Duration> {
    columns(|column| column == 6)
}

fn columns(is_wanted: impl Fn(usize) -> bool) -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let ticks = stat.lines().next().unwrap_or_default().split_whitespace().skip(1).enumerate();
    let wanted = ticks.filter(|&(column, _)| is_wanted(column)).map(|(_, ticks)| ticks.parse().unwrap_or(0));
    Ok(Duration::from_millis(10 * wanted.sum::<u64>()))
}
