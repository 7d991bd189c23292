//! `lictor connect proxy`: runs a proxy that speaks mutual TLS for a service.
//!
//! Three ways to say what it shall do, in this order: the id of a proxy registered with the agent (flag or
//! environment), the service a sidecar was registered for, or plain flags.

mod flags;
mod heritage;
mod life;
mod numbers;
mod sandbox;

use std::process::ExitCode;

use flags::{Mode, Wanted};

use super::command::Command;
use super::{client, complain, print};
use crate::config::flags::{Flag, Parsed};
use crate::log;

/// The command.
pub(crate) const COMMANDS: &[Command] =
    &[Command::new("connect proxy", "Runs a proxy that speaks mutual TLS for a service", |flags| Ok(run(flags)))
        .about(
            "\nIts configuration comes from the agent (-proxy-id, -sidecar-for) or from the other options.\n\
             CONNECT_PROXY_ID, CONNECT_SIDECAR_FOR and CONNECT_PROXY_TOKEN stand for options that are not given.\n\
             \n\
             Exit codes: 0 when it was asked to end, 1 when it cannot start, 2 and 3 as said below.",
        )
        .flags(&FLAGS)
        .asks_agent()];

/// The command's own flags; those of all clients come on top.
const FLAGS: [Flag; 13] = [
    Flag::text("proxy-id", "Take the configuration of this proxy service from the agent"),
    Flag::text("sidecar-for", "Find the one sidecar registered for this service id and be it"),
    Flag::text("service", "Name of the service to represent"),
    Flag::text("service-addr", "host:port of the application; needed with -listen"),
    Flag::text("listen", "host:port where other proxies connect"),
    Flag::text("upstream", "name[.type]:[addr:]port of a service to reach; may be given several times"),
    Flag::bool("register", "Register the proxy with the local agent; needs -service and -listen"),
    Flag::text("register-id", "Suffix for the id it is registered under"),
    Flag::text("log-level", "Log level: TRACE, DEBUG, INFO, WARN or ERR"),
    Flag::duration("bind-timeout", "Exit with 2 when -listen cannot be had for this long; tried for ever without it"),
    Flag::duration("agent-timeout", "Exit with 3 when the agent has said nothing of the proxy after this time"),
    Flag::duration("agent-lease", "Drain and exit with 3 when the agent has not answered for this long"),
    Flag::text("pprof-addr", "Accepted for compatibility; there is no profiling server"),
];

/// Runs a proxy.
fn run(parsed: &Parsed) -> ExitCode {
    if !parsed.operands.is_empty() {
        complain("Should have no non-flag arguments.");
        return ExitCode::FAILURE;
    }
    let level = match log::parse_level(parsed.text("log-level").unwrap_or("INFO")) {
        Ok(level) => level,
        Err(text) => {
            complain(&text);
            return ExitCode::FAILURE;
        }
    };
    print("==> Consul Connect proxy starting...");
    let readable = client::readable_environment().map_err(|error| error.to_string());
    let wanted = match readable.and_then(|()| Wanted::read(parsed, |name| std::env::var(name).ok())) {
        Ok(wanted) => wanted,
        Err(text) => {
            complain(&format!("==> Error preparing configuration: {text}"));
            return ExitCode::FAILURE;
        }
    };
    for line in wanted.banner() {
        print(&line);
    }
    if parsed.text("pprof-addr").is_some() {
        complain("-pprof-addr: there is no profiling server in this program; the flag has no effect");
    }
    life::run(wanted, level)
}

/// What a mode is called in the banner.
fn mode_name(mode: &Mode) -> &'static str {
    match mode {
        Mode::ProxyId(_) | Mode::SidecarFor(_) => "Agent API",
        Mode::Flags { .. } => "Flags",
    }
}
