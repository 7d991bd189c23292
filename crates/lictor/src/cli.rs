//! The commands: one table from which dispatch, help, suggestions, completion, and the reference come.

mod acl;
mod agent;
mod catalog;
pub(crate) mod child;
pub(crate) mod client;
mod command;
mod complete;
mod connect_ca;
mod connect_proxy;
mod demo;
mod event;
mod info;
mod intention;
mod keygen;
mod keyring;
mod kv;
mod lock;
mod maint;
mod members;
mod membership;
mod monitor;
mod operator;
pub(crate) mod output;
mod processes;
mod reference;
mod reload;
mod restart_proxies;
mod rtt;
mod services;
mod snapshot;
mod store;
pub(crate) mod suggest;
mod tls;
mod unavailable;
mod validate;
pub(crate) mod version;
pub(crate) mod watch;

use std::io::Write;
use std::process::ExitCode;

use command::Command;

/// All commands: each file lists its own. A new one needs its file above, its line here, and, when it has two words, a
/// group below; `cargo xtask reference` writes it into the documentation.
const COMMANDS: &[&[Command]] = &[
    acl::COMMANDS,
    agent::COMMANDS,
    catalog::COMMANDS,
    complete::COMMANDS,
    connect_ca::COMMANDS,
    connect_proxy::COMMANDS,
    demo::COMMANDS,
    event::COMMANDS,
    info::COMMANDS,
    intention::COMMANDS,
    keygen::COMMANDS,
    keyring::COMMANDS,
    kv::COMMANDS,
    lock::COMMANDS,
    maint::COMMANDS,
    members::COMMANDS,
    membership::COMMANDS,
    monitor::COMMANDS,
    operator::COMMANDS,
    processes::COMMANDS,
    reload::COMMANDS,
    restart_proxies::COMMANDS,
    rtt::COMMANDS,
    services::COMMANDS,
    snapshot::COMMANDS,
    store::COMMANDS,
    tls::COMMANDS,
    unavailable::COMMANDS,
    validate::COMMANDS,
    version::COMMANDS,
    watch::COMMANDS,
];

/// Words that stand before several commands, and what these have in common; sorted.
const GROUPS: &[(&str, &str)] = &[
    ("acl", "Manages tokens and policies of access control"),
    ("acl policy", "Manages policies of access control"),
    ("acl token", "Manages tokens of access control"),
    ("catalog", "Lists what is registered in the cluster"),
    ("connect", "Runs proxies of the mesh and manages its certificate authority"),
    ("connect ca", "Manages the certificate authority of the mesh"),
    ("intention", "Manages which service may connect to which"),
    ("kv", "Reads and writes the key-value store"),
    ("operator", "Shows and changes how the cluster itself works"),
    ("operator autopilot", "Shows and changes how servers are looked after"),
    ("operator raft", "Shows and changes the set of servers"),
    ("services", "Registers services with the agent and removes them"),
    ("snapshot", "Saves, restores and shows the state of the cluster"),
    ("store", "Looks the store through and moves it"),
    ("tls", "Makes certificates for the agents' own traffic"),
    ("tls ca", "Makes the CA of the agents' own traffic"),
    ("tls cert", "Makes certificates for agents and their clients"),
];

/// All commands, sorted by name.
fn commands() -> Vec<&'static Command> {
    let mut commands: Vec<&Command> = COMMANDS.iter().copied().flatten().collect();
    commands.sort_by_key(|command| command.name);
    commands
}

/// Refuses a command line whose argument at this place is no text. It may be a secret and is not shown.
pub(crate) fn no_text(place: usize) -> ExitCode {
    complain(&format!("Error! Argument {place} is not UTF-8, as all names, keys and values of a command line are"));
    ExitCode::FAILURE
}

/// Carries out a command line (without the program's name).
pub(crate) fn main(words: &[String]) -> ExitCode {
    if let Some(code) = complete::asked() {
        return code;
    }
    match words.first().map(String::as_str) {
        Some("-v" | "-version" | "--version") => return version::print_version(),
        Some("-h" | "-help" | "--help") => {
            print(&overview());
            return ExitCode::SUCCESS;
        }
        Some("-autocomplete-install" | "--autocomplete-install") => return complete::install(),
        Some("-autocomplete-uninstall" | "--autocomplete-uninstall") => return complete::uninstall(),
        _ => {}
    }
    if words.first().map(String::as_str) == Some(reference::COMMAND.name) {
        return reference::COMMAND.run(&words[1..]);
    }
    let commands = commands();
    let given = |name: &str| {
        let mut given = words.iter();
        name.split(' ').all(|word| given.next().is_some_and(|given| given == word))
    };
    if let Some(command) =
        commands.iter().filter(|command| given(command.name)).max_by_key(|command| command.name.len())
    {
        return command.run(&words[command.name.split(' ').count()..]);
    }
    let group = GROUPS.iter().filter(|(name, _)| given(name)).max_by_key(|(name, _)| name.len());
    let (usage, rest) = match group {
        Some((name, summary)) => (group_usage(name, summary), &words[name.split(' ').count()..]),
        None => (overview(), words),
    };
    let group = group.map_or("", |(name, _)| name);
    match rest.first().map(String::as_str) {
        Some("-h" | "-help" | "--help") => {
            print(&usage);
            ExitCode::SUCCESS
        }
        word => {
            complain(&usage);
            if let Some(word) = word.filter(|word| !word.starts_with('-')) {
                let known = next_words(group);
                let near = suggest::nearest(word, known.iter().map(|(word, _)| word.as_str()));
                let whole = if group.is_empty() { word.to_owned() } else { format!("{group} {word}") };
                let near = near.map(|near| if group.is_empty() { near.to_owned() } else { format!("{group} {near}") });
                // The very word, as people say it who know what they want: `ps` for `connect ps`.
                let elsewhere = || commands.iter().find(|command| command.name.rsplit(' ').next() == Some(word));
                let near = elsewhere().map(|command| command.name.to_owned()).or(near);
                match near {
                    Some(near) => complain(&format!("\nThere is no command {whole:?}; did you mean {near:?}?")),
                    None => complain(&format!("\nThere is no command {whole:?}.")),
                }
            }
            ExitCode::FAILURE
        }
    }
}

/// The words that may follow a group (the empty one is the program itself), each with its summary.
fn next_words(group: &str) -> Vec<(String, &'static str)> {
    let prefix = if group.is_empty() { String::new() } else { format!("{group} ") };
    let commands = commands();
    let all = GROUPS.iter().copied().chain(commands.iter().map(|command| (command.name, command.summary)));
    let mut words: Vec<(String, &str)> = all
        .filter_map(|(name, summary)| Some((name.strip_prefix(&prefix)?, summary)))
        .filter(|(rest, _)| !rest.contains(' '))
        .map(|(rest, summary)| (rest.to_owned(), summary))
        .collect();
    words.sort();
    words.dedup_by(|a, b| a.0 == b.0);
    words
}

/// One line for each of the words.
fn listed(words: &[(String, &str)]) -> String {
    let width = words.iter().map(|(word, _)| word.len()).max().unwrap_or_default();
    words.iter().map(|(word, summary)| format!("    {word:width$}    {summary}\n")).collect()
}

fn overview() -> String {
    let lines = listed(&next_words(""));
    format!("Usage: lictor [--version] [--help] <command> [<args>]\n\nAvailable commands are:\n{lines}")
}

fn group_usage(name: &str, summary: &str) -> String {
    let lines = listed(&next_words(name));
    format!("Usage: lictor {name} <subcommand> [options] [args]\n\n  {summary}.\n\nSubcommands:\n\n{lines}")
}

/// Prints a result. A reader that has gone away is not our failure.
pub(crate) fn print(text: &str) {
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end_matches('\n'));
}

/// Prints what went wrong.
pub(crate) fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", text.trim_end_matches('\n'));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_there_once_and_every_group_has_commands() {
        let commands = commands();
        for pair in commands.windows(2) {
            assert_ne!(pair[0].name, pair[1].name);
        }
        assert!(GROUPS.is_sorted());
        for command in &commands {
            if let Some((group, _)) = command.name.rsplit_once(' ') {
                assert!(GROUPS.iter().any(|(name, _)| *name == group), "{} has no group", command.name);
            }
        }
        for (name, _) in GROUPS {
            assert!(commands.iter().any(|command| command.name.starts_with(&format!("{name} "))), "{name} is empty");
        }
    }

    #[test]
    fn every_command_has_a_summary_without_a_full_stop_and_options_with_a_text() {
        for command in commands() {
            assert!(!command.summary.is_empty() && !command.summary.ends_with('.'), "{}", command.name);
            let flags = command.all_flags();
            for flag in &flags {
                assert!(!flag.doc.is_empty(), "{} -{}", command.name, flag.name);
                assert_eq!(
                    flags.iter().filter(|other| other.name == flag.name).count(),
                    1,
                    "{} -{}",
                    command.name,
                    flag.name
                );
            }
        }
    }

    #[test]
    fn the_page_about_compatibility_tells_of_every_command_and_of_none_that_is_not_there() {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/compatibility.md");
        let page = std::fs::read_to_string(&file).unwrap();
        let section = page.split_once("## Command line").unwrap().1.split_once("\n## ").unwrap().0;
        let rows: Vec<(&str, &str)> = section
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split_once(" | "))
            .map(|(names, rest)| (names, rest.split(" |").next().unwrap()))
            .collect();
        // Words in one cell share the words before the last with the first of them: `kv delete`, `export`.
        let mut told: Vec<(String, &str)> = Vec::new();
        for (names, verdict) in rows {
            let mut group = "";
            for name in names.trim_end_matches('`').split("`, `") {
                let whole = match name.rsplit_once(' ') {
                    Some((before, _)) => {
                        group = before;
                        name.to_owned()
                    }
                    None if group.is_empty() => name.to_owned(),
                    None => format!("{group} {name}"),
                };
                told.push((whole, verdict));
            }
        }
        // What the text below the table calls lictor's own.
        let of_the_original = ["connect ca get-config", "connect ca set-config", "connect envoy", "connect proxy"];
        let is_own = |name: &str| {
            let below_connect = name.starts_with("connect ") && !of_the_original.contains(&name);
            ["completion", "demo"].contains(&name) || name.starts_with("store ") || below_connect
        };
        let covers = |told: &str, name: &str| match told.strip_suffix(" …") {
            Some(group) => name.starts_with(&format!("{group} ")),
            None => told == name,
        };
        let names: Vec<&str> = commands().iter().map(|command| command.name).collect();
        for name in &names {
            let rows = told.iter().filter(|(told, _)| covers(told, name)).count();
            assert_eq!(rows, usize::from(!is_own(name)), "docs/compatibility.md: rows that tell of {name}");
        }
        for (told, _) in &told {
            assert!(names.iter().any(|name| covers(told, name)), "docs/compatibility.md promises {told}");
        }
        // What is not offered is a command all the same, which says so.
        let refused = |name: &str| unavailable::COMMANDS.iter().any(|command| command.name == name);
        for (told, verdict) in &told {
            assert_eq!(refused(told), *verdict == "not offered", "{told}: {verdict}");
        }
    }

    #[test]
    fn the_overview_names_groups_and_commands_of_one_word() {
        let words: Vec<String> = next_words("").into_iter().map(|(word, _)| word).collect();
        for word in ["acl", "agent", "connect", "kv", "version", "watch"] {
            assert!(words.iter().any(|known| known == word), "{word}");
        }
        let words: Vec<String> = next_words("acl").into_iter().map(|(word, _)| word).collect();
        assert_eq!(words, ["bootstrap", "policy", "set-agent-token", "token", "translate-rules"]);
    }
}
