//! Commands of the original that are not offered: each says why, and what to use instead.

use std::process::ExitCode;

use super::command::Command;
use super::{complain, print};

/// The commands.
pub(crate) const COMMANDS: &[Command] = &[
    Command::words("connect envoy", "Not offered: starts Envoy as a proxy of the mesh", |words| {
        refuse(
            words,
            "connect envoy: there is no Envoy integration in this version. Use the built-in proxy: `connect { proxy {} }` \
             in the service's definition makes the agent run it, `connect { sidecar_service {} }` with `lictor connect \
             proxy -sidecar-for ID` runs it by hand.",
        )
    }),
    Command::words("debug", "Not offered: collects diagnostic data of the agent", |words| {
        refuse(
            words,
            "debug: this agent has no profiler to collect from. Use `lictor info`, `lictor monitor -log-level=debug` and \
             `curl http://127.0.0.1:8500/v1/agent/metrics`.",
        )
    }),
    Command::words("exec", "Not offered: runs a command on remote nodes", |words| {
        refuse(
            words,
            "exec: remote execution is not offered, and agents ignore it as those with `disable_remote_exec = true` (the \
             default) do. Use ssh, or an event with a watch: `lictor event -name=deploy` and `lictor watch -type=event \
             -name=deploy COMMAND`.",
        )
    }),
];

fn refuse(words: &[String], text: &str) -> ExitCode {
    if words.iter().any(|word| matches!(word.as_str(), "-h" | "-help" | "--help")) {
        print(text);
        return ExitCode::SUCCESS;
    }
    complain(text);
    ExitCode::FAILURE
}
