//! Project tasks: the gate that every change passes, and what is needed around it.
//!
//! `cargo xtask test` is the whole gate and does its own set-up; everything else is a part of it or a tool for people.

mod bench;
mod cargo;
mod clients;
mod cluster;
mod deb;
mod fuzz;
mod layers;
mod reference;
mod sanitize;
mod servers;
mod steps;
mod unsteady;
mod vm;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};

const USAGE: &str = "\
Usage: cargo xtask <task>

  test      the whole gate: format, lints, docs, layers, all tests (installs test servers where it may)
  check     the quick part of it: format, lints, layers
  soak      random changes and operations under load for 10 minutes, or `--minutes N`, and 10 GB through a mesh for each
  layers    only whether the arrows between our crates are the ones in ARCHITECTURE.md
  reference writes the pages of the documentation that the program itself prints: command line, manual page
  deb       a Debian package of the release build, in target/debian [-binary FILE] [-out FOLDER] [-version VERSION]
             [-uncompressed]
  vm        the package under a real systemd, in a virtual machine that is made for it: [-binary FILE] [-suite NAME];
             skipped where QEMU or mmdebstrap are missing
  cluster   three members of etcd and three servers on this machine, to try it, until interrupted; with --measure
             the figures of one instead, in some six minutes
  histories twenty random histories of five clients against three servers with faults, each checked
  fuzz      looks for inputs that break a promise, for a minute a target: [TARGET] [--minutes N]
  sanitize  the tests that reach unsafe code, with AddressSanitizer
  bench     instructions of fixed workloads against the baseline; proxies beside those of others and an agent by itself,
             as tables and plots in target/bench (see `bench --help`)
  servers   only what the tests need from the system: what is there, what was installed, what is missing
";

/// How long a soak lasts unless somebody says otherwise.
const SOAK_MINUTES: f64 = 10.0;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(2).collect();
    let task = std::env::args().nth(1).unwrap_or_default();
    match run(&task, &words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("xtask {task}: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(task: &str, words: &[String]) -> Result<()> {
    match task {
        "test" => {
            steps::format()?;
            layers::check()?;
            fuzz::locked()?;
            steps::lints()?;
            steps::docs()?;
            let mut missing = servers::ensure();
            missing.extend(clients::ensure());
            let unsteady = steps::tests()?;
            for server in missing {
                say(&format!("xtask: SKIPPED tests that need {server}"));
            }
            for test in unsteady {
                say(&format!("xtask: UNSTEADY {test}: failed among the others and passed alone; this is a bug"));
            }
            Ok(())
        }
        "check" => {
            steps::format()?;
            layers::check()?;
            fuzz::locked()?;
            steps::lints()
        }
        "soak" => {
            let words: Vec<String> = std::env::args().skip(2).collect();
            let minutes = match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
                [] => Some(SOAK_MINUTES),
                ["--minutes", minutes] => minutes.parse().ok().filter(|minutes| *minutes > 0.0),
                _ => None,
            };
            steps::soak(minutes.context("soak takes --minutes N and nothing else")?)
        }
        "cluster" => match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            [] => cluster::run(),
            ["--measure"] => steps::cluster_figures(),
            _ => bail!("cluster takes --measure or nothing"),
        },
        "bench" => match words {
            [word] if word == "--help" => {
                say(bench::USAGE);
                Ok(())
            }
            words => bench::run(words),
        },
        // Asked by `bench` of itself, under Valgrind.
        "features" => {
            print(&bench::seen_features());
            Ok(())
        }
        "histories" => steps::histories(),
        "layers" => layers::check(),
        "reference" => reference::write(),
        "deb" => deb::build(words),
        "vm" => vm::run(words),
        "fuzz" => fuzz::run(words),
        "sanitize" => sanitize::run(),
        "servers" => {
            for server in servers::ensure().into_iter().chain(clients::ensure()) {
                say(&format!("missing: {server}"));
            }
            Ok(())
        }
        _ => {
            say(USAGE);
            bail!("no such task")
        }
    }
}

/// Prints a line for a program that reads it.
#[expect(clippy::print_stdout, reason = "the one place where xtask answers")]
fn print(line: &str) {
    println!("{line}");
}

/// Prints a line for the person or the CI that watches.
#[expect(clippy::print_stderr, reason = "the one place where xtask speaks")]
fn say(line: &str) {
    eprintln!("{line}");
}
