//! The door: the `lictor` binary, its commands, its configuration, and the one place that joins the rooms.
//!
//! [`cli`] has one file per command; [`config`] turns files and flags into settings that are always valid; [`run`]
//! builds the rooms of an agent in order and stops them in reverse.

mod cli;
mod client;
mod config;
mod limits;
mod log;
mod memory;
mod names;
mod notify;
mod prepared;
mod process;
mod run;
mod settings;
mod storage;
mod telemetry;
mod users;
mod watches;

use std::process::ExitCode;

fn main() -> ExitCode {
    let words = (1..).zip(std::env::args_os().skip(1)).map(|(place, word)| word.into_string().map_err(|_| place));
    match words.collect::<Result<Vec<String>, usize>>() {
        Ok(words) => cli::main(&words),
        Err(place) => cli::no_text(place),
    }
}
