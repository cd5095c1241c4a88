//! Panels of a process, of whichever program.

use super::grafana::{Panel, graph, query};

/// A family that all processes export, of the one program that has the family `program`.
pub fn of_process(family: &str, program: &str) -> String {
    format!("{family}{{@}} and on (job, instance) {program}")
}

/// Processors in use.
pub fn processors(matchers: &str, range: &str, program: &str) -> String {
    format!("rate(process_cpu_seconds_total{matchers}{range}) and on (job, instance) {program}")
}

pub fn memory(program: &str) -> Panel {
    graph(
        "Memory",
        "resident: in RAM. mapped: mostly never touched.",
        "bytes",
        [
            query("{{instance}} resident", of_process("process_resident_memory_bytes", program)),
            query("{{instance}} mapped", of_process("process_virtual_memory_bytes", program)),
        ],
    )
}

pub fn running_for(program: &str, help: &'static str) -> Panel {
    let started = of_process("process_start_time_seconds", program);
    graph("Running for", help, "s", [query("{{instance}}", format!("time() - ({started})"))])
}
