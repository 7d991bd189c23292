//! `lictor agent`: runs an agent.

use std::process::ExitCode;

use super::command::Command;
use super::{complain, print};
use crate::{config, limits, log, settings};

/// The command.
pub(crate) const COMMANDS: &[Command] =
    &[Command::words("agent", "Runs an agent", run).flags_made(config::agent_flags::known)];

/// Runs an agent with the flags of the command line.
fn run(words: &[String]) -> ExitCode {
    let sources = match settings::Sources::from_flags(words) {
        Ok(sources) => sources,
        Err(settings::FlagProblem::Help(options)) => {
            print(&format!("Usage: lictor agent [options]\n\n  Runs an agent.\n\nOptions:\n\n{options}"));
            return ExitCode::SUCCESS;
        }
        Err(settings::FlagProblem::Wrong(text)) => {
            complain(&text);
            return ExitCode::FAILURE;
        }
    };
    let plan = match settings::load(&sources) {
        Ok(plan) => plan,
        Err(text) => {
            complain(&format!("==> {text}"));
            return ExitCode::FAILURE;
        }
    };
    for warning in &plan.warnings {
        print(warning);
    }
    print("==> Starting Consul agent...");
    let log = log::start(plan.log_level, log::Keep::Lines);
    if let Err(text) = log.copy(&plan.log) {
        complain(&format!("==> {text}"));
        return ExitCode::FAILURE;
    }
    for notice in &plan.notices {
        tracing::info!("{notice}");
    }
    limits::raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 8)))
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("==> cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(crate::run::run(plan, log)) {
        Ok(code) => code,
        Err(error) => {
            complain(&format!("==> Error starting agent: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
