//! `lictor version`: what this is, and what it is compatible with.

use std::process::ExitCode;

use super::command::{Command, done};

/// The version whose behaviour clients see.
pub(crate) const COMPATIBLE: &str = "1.4.3";

/// The command.
pub(crate) const COMMANDS: &[Command] = &[Command::new("version", "Prints the version", |_| {
    print_version();
    done()
})];

/// Prints the version. The second line is the original's: scripts read it.
pub(crate) fn print_version() -> ExitCode {
    super::print(&format!(
        "lictor {} (compatible with Consul {COMPATIBLE})\nProtocol 2 spoken by default, understands 2 to 3 (agent will \
         automatically use protocol >2 when speaking to compatible agents)",
        env!("CARGO_PKG_VERSION")
    ));
    ExitCode::SUCCESS
}
