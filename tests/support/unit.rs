//! Services of the real systemd that the tests run beside (tests/support/systemd-rig).

use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// A service, by its name without `.service`.
pub struct Unit(pub String);

impl Unit {
    /// Starts a transient service with this command. Returns when it is active, or returns the error.
    pub fn run(name: &str, properties: &[&str], command: &[&str]) -> Result<Self, String> {
        let mut run = Command::new("systemd-run");
        run.args(["--quiet", "--unit", name]);
        run.args(properties.iter().flat_map(|property| ["-p", property])).arg("--").args(command);
        succeeded(&run.output().expect("run systemd-run")).map(|_| Self(name.to_owned()))
    }

    /// Starts an installed service.
    pub fn start(name: &str) -> Result<Self, String> {
        succeeded(&systemctl(&["start", name])).map(|_| Self(name.to_owned()))
    }

    /// A property of the service, as the manager shows it.
    pub fn show(&self, property: &str) -> String {
        let name = format!("{}.service", self.0);
        succeeded(&systemctl(&["show", "--value", "--property", property, &name])).expect("a property")
    }

    /// A property that is a number.
    pub fn number(&self, property: &str) -> u64 {
        let value = self.show(property);
        value.parse().unwrap_or_else(|_| panic!("{property}={value} of {}", self.0))
    }

    /// The main process.
    pub fn main_pid(&self) -> u32 {
        self.number("MainPID") as u32
    }

    /// Stops the service and forgets it. Returns how long that took.
    pub fn stop(self) -> Duration {
        let begun = Instant::now();
        succeeded(&systemctl(&["stop", &self.0])).expect("the service stops");
        begun.elapsed()
    }

    /// Forgets a service that failed.
    pub fn forget(self) {
        succeeded(&systemctl(&["reset-failed", &self.0])).expect("a failed service");
    }

    /// The output of the service's processes, without the manager's own lines.
    pub fn journal(&self) -> Vec<String> {
        let own = format!("_SYSTEMD_UNIT={}.service", self.0);
        succeeded(&run("journalctl", &["--sync"])).expect("the journal is written");
        let lines = succeeded(&run("journalctl", &["--quiet", "--output=cat", &own])).expect("the journal");
        lines.lines().map(str::to_owned).collect()
    }
}

/// Runs `systemctl`.
pub fn systemctl(arguments: &[&str]) -> Output {
    run("systemctl", arguments)
}

/// Runs a program to its end.
pub fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("run {program}: {error}"))
}

/// The output of a program without its last newline, or its error output if it failed.
pub fn succeeded(output: &Output) -> Result<String, String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(format!("{}: {}{}", output.status, text(&output.stdout), text(&output.stderr)))
    }
}
