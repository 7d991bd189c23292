//! What a command is: its words, its help, its flags, and what carries it out.

use std::process::ExitCode;

use anyhow::Result;

use super::{client, complain, print};
use crate::config::flags::{self, Flag, FlagError, Parsed};

/// How a command ended; an error is printed behind no prefix but its own.
pub(crate) type Outcome = Result<ExitCode>;

/// It worked.
pub(crate) fn done() -> Outcome {
    Ok(ExitCode::SUCCESS)
}

/// One command.
#[derive(Clone, Copy)]
pub(crate) struct Command {
    /// Its words, `connect proxy`.
    pub(crate) name: &'static str,
    /// One line for overviews.
    pub(crate) summary: &'static str,
    /// What follows the options, `SRC DST`.
    pub(crate) operands: &'static str,
    /// More than the summary, when there is more to say.
    pub(crate) about: &'static str,
    /// Its own options.
    flags: Flags,
    /// Whom it needs.
    asks: Asks,
    /// The exit code of every error.
    failure: u8,
    run: Run,
}

/// Where the options of a command are listed.
#[derive(Clone, Copy)]
enum Flags {
    Listed(&'static [Flag]),
    Made(fn() -> Vec<Flag>),
}

/// Whom a command needs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asks {
    /// Nobody.
    Nobody,
    /// An agent, found by the options that all such commands share.
    Agent,
}

/// What carries a command out.
#[derive(Clone, Copy)]
enum Run {
    /// Reads its words itself.
    Words(fn(&[String]) -> ExitCode),
    /// Gets options and operands.
    Parsed(fn(&Parsed) -> Outcome),
}

impl Command {
    /// A command whose options are read before it runs, and whose errors are printed after it.
    pub(crate) const fn new(name: &'static str, summary: &'static str, run: fn(&Parsed) -> Outcome) -> Command {
        Command {
            name,
            summary,
            operands: "",
            about: "",
            flags: Flags::Listed(&[]),
            asks: Asks::Nobody,
            failure: 1,
            run: Run::Parsed(run),
        }
    }

    /// A command that reads its words itself; its options are given for help and completion.
    pub(crate) const fn words(name: &'static str, summary: &'static str, run: fn(&[String]) -> ExitCode) -> Command {
        Command { run: Run::Words(run), ..Command::new(name, summary, |_| done()) }
    }

    /// What follows the options.
    pub(crate) const fn operands(self, operands: &'static str) -> Command {
        Command { operands, ..self }
    }

    /// More than the summary.
    pub(crate) const fn about(self, about: &'static str) -> Command {
        Command { about, ..self }
    }

    /// Its own options.
    pub(crate) const fn flags(self, flags: &'static [Flag]) -> Command {
        Command { flags: Flags::Listed(flags), ..self }
    }

    /// Its own options, when they come from another table.
    pub(crate) const fn flags_made(self, flags: fn() -> Vec<Flag>) -> Command {
        Command { flags: Flags::Made(flags), ..self }
    }

    /// It needs an agent, and has the options for that.
    pub(crate) const fn asks_agent(self) -> Command {
        Command { asks: Asks::Agent, ..self }
    }

    /// The exit code of every error, where it is not 1.
    pub(crate) const fn failure(self, failure: u8) -> Command {
        Command { failure, ..self }
    }

    /// Its own options.
    pub(crate) fn own_flags(&self) -> Vec<Flag> {
        let mut flags = match self.flags {
            Flags::Listed(flags) => flags.to_vec(),
            Flags::Made(make) => make(),
        };
        flags.sort_by_key(|flag| flag.name);
        flags
    }

    /// The options for reaching an agent, if it needs one.
    pub(crate) fn client_flags(&self) -> &'static [Flag] {
        match self.asks {
            Asks::Nobody => &[],
            Asks::Agent => &client::FLAGS,
        }
    }

    /// All options.
    pub(crate) fn all_flags(&self) -> Vec<Flag> {
        let mut flags = self.own_flags();
        flags.extend(self.client_flags());
        flags
    }

    /// How it is called, without the name of the program.
    pub(crate) fn synopsis(&self) -> String {
        let options = if self.all_flags().is_empty() { "" } else { " [options]" };
        let operands = if self.operands.is_empty() { String::new() } else { format!(" {}", self.operands) };
        format!("{}{options}{operands}", self.name)
    }

    /// Its help.
    pub(crate) fn usage(&self) -> String {
        let mut text = format!("Usage: lictor {}\n\n  {}.\n", self.synopsis(), self.summary);
        for line in self.about.lines() {
            text.push_str(&format!("{}\n", format!("  {line}").trim_end()));
        }
        for (title, flags) in
            [("Options", self.own_flags()), ("Options for reaching the agent", self.client_flags().to_vec())]
        {
            if !flags.is_empty() {
                text.push_str(&format!("\n{title}:\n\n{}", flags::usage(&flags)));
            }
        }
        text
    }

    /// What to say when an option stands behind an argument, where it counts as one; a value may begin with a dash, so
    /// this is said only of what has failed.
    fn late_option(&self, parsed: &Parsed) -> Option<String> {
        let is_option = |word: &&String| {
            let name = word.trim_start_matches('-').split('=').next().unwrap_or_default();
            word.starts_with('-') && self.all_flags().iter().any(|flag| flag.name == name)
        };
        let late = parsed.operands.iter().skip(1).find(is_option)?;
        Some(format!(
            "{late} stands behind an argument and counts as one: write options first, lictor {}",
            self.synopsis()
        ))
    }

    /// Carries it out with the words behind its name.
    pub(crate) fn run(&self, words: &[String]) -> ExitCode {
        let run = match self.run {
            Run::Words(run) => return run(words),
            Run::Parsed(run) => run,
        };
        let parsed = match flags::parse(&self.all_flags(), words) {
            Ok(parsed) => parsed,
            Err(FlagError::Help) => {
                print(&self.usage());
                return ExitCode::SUCCESS;
            }
            Err(error) => {
                complain(&error.told(&self.all_flags(), &self.synopsis()));
                return ExitCode::from(self.failure);
            }
        };
        match run(&parsed) {
            Ok(code) => code,
            Err(error) => {
                complain(&format!("{error:#}"));
                if let Some(late) = self.late_option(&parsed) {
                    complain(&late);
                }
                ExitCode::from(self.failure)
            }
        }
    }
}
