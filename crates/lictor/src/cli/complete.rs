//! Shell completion: the candidates themselves, and what makes a shell ask for them.
//!
//! A shell runs this program with the line so far in `COMP_LINE` and takes one candidate per line of its output, which
//! bash does by itself (`complete -C`), and for which zsh and fish need a line or two. So there is one list of commands
//! and options for all of them, and it is always the program's own.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};

use super::command::{Command, Outcome, done};
use super::{GROUPS, commands, complain, next_words, print};
use crate::config::flags::Parsed;

/// The command.
pub(crate) const COMMANDS: &[Command] =
    &[Command::new("completion", "Prints what makes a shell complete commands", run)
        .operands("bash | zsh | fish")
        .about(
            "\nbash:  source <(lictor completion bash)\nzsh:   source <(lictor completion zsh)\n\
         fish:  lictor completion fish | source\n\n\
         `lictor -autocomplete-install` writes it into the files these shells read at their start.",
        )];

/// The shells that are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Shell {
    const ALL: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

    /// What it must be told. `program` is the path of this program.
    fn script(self, program: &str) -> String {
        match self {
            Shell::Bash => format!("complete -C {program} lictor"),
            Shell::Zsh => {
                format!("autoload -U +X bashcompinit && bashcompinit\ncomplete -o nospace -C {program} lictor")
            }
            Shell::Fish => format!("complete -f -c lictor -a '(env COMP_LINE=(commandline -cp) {program})'"),
        }
    }

    /// The file it reads at its start, below the user's home; for fish one of our own.
    fn file(self, home: &Path) -> PathBuf {
        match self {
            Shell::Bash => home.join(".bashrc"),
            Shell::Zsh => home.join(".zshrc"),
            Shell::Fish => home.join(".config/fish/completions/lictor.fish"),
        }
    }
}

fn run(flags: &Parsed) -> Outcome {
    let shell = match flags.operands.as_slice() {
        [name] => match name.as_str() {
            "bash" => Shell::Bash,
            "zsh" => Shell::Zsh,
            "fish" => Shell::Fish,
            other => bail!("There is no completion for {other:?}: use bash, zsh or fish"),
        },
        _ => bail!("One shell must be named: bash, zsh or fish"),
    };
    print(&shell.script("lictor"));
    done()
}

/// Answers a shell that asks for candidates; nothing when none does.
pub(super) fn asked() -> Option<ExitCode> {
    let line = std::env::var("COMP_LINE").ok()?;
    let point = std::env::var("COMP_POINT").ok().and_then(|point| point.parse::<usize>().ok());
    let line = point.and_then(|point| line.get(..point)).unwrap_or(&line);
    print(&candidates(line).join("\n"));
    Some(ExitCode::SUCCESS)
}

/// What may stand in the place of the last word of a line.
fn candidates(line: &str) -> Vec<String> {
    let mut words: Vec<&str> = line.split_whitespace().skip(1).collect();
    let last = if line.ends_with(char::is_whitespace) { "" } else { words.pop().unwrap_or_default() };
    // Options before a command are the program's own.
    let typed: Vec<&str> = words.iter().copied().take_while(|word| !word.starts_with('-')).collect();
    let given = |name: &str| {
        let mut typed = typed.iter();
        name.split(' ').all(|word| typed.next().is_some_and(|typed| *typed == word))
    };
    let command = commands().into_iter().filter(|command| given(command.name)).max_by_key(|command| command.name.len());
    let all: Vec<String> = match command {
        Some(command) => {
            if last.starts_with('-') || last.is_empty() {
                command.all_flags().iter().map(|flag| format!("-{}", flag.name)).chain(["-help".to_owned()]).collect()
            } else {
                Vec::new()
            }
        }
        None => {
            let whole = typed.join(" ");
            if !whole.is_empty() && GROUPS.iter().all(|(name, _)| *name != whole) {
                return Vec::new();
            }
            let words = next_words(&whole).into_iter().map(|(word, _)| word);
            let own: &[&str] = match (whole.is_empty(), last.starts_with('-')) {
                (true, true) => &["-autocomplete-install", "-autocomplete-uninstall", "-help", "-version"],
                (false, true) => &["-help"],
                _ => &[],
            };
            words.chain(own.iter().map(|flag| (*flag).to_owned())).collect()
        }
    };
    // An option may be written with two dashes.
    let wanted = last.strip_prefix('-').filter(|rest| rest.starts_with('-')).unwrap_or(last);
    let dash = if wanted == last { "" } else { "-" };
    all.into_iter().filter(|word| word.starts_with(wanted)).map(|word| format!("{dash}{word}")).collect()
}

/// `-autocomplete-install`: makes every shell that the user has complete our commands.
pub(super) fn install() -> ExitCode {
    report(
        "install",
        each_file(|shell, file, program| {
            let script = shell.script(program);
            let old = fs::read_to_string(file).unwrap_or_default();
            if script.lines().all(|line| old.lines().any(|known| known == line)) {
                return Ok(false);
            }
            // A copy that was installed under another path is replaced.
            let mut text = without_ours(&old);
            if !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
            text.push_str(&script);
            text.push('\n');
            write(file, &text)?;
            Ok(true)
        }),
    )
}

/// `-autocomplete-uninstall`: takes that back.
pub(super) fn uninstall() -> ExitCode {
    report(
        "uninstall",
        each_file(|shell, file, _| {
            let Ok(old) = fs::read_to_string(file) else { return Ok(false) };
            let text = without_ours(&old);
            if text == old {
                return Ok(false);
            }
            match shell {
                Shell::Fish => fs::remove_file(file).with_context(|| format!("cannot remove {}", file.display()))?,
                Shell::Bash | Shell::Zsh => write(file, &text)?,
            }
            Ok(true)
        }),
    )
}

/// A start file without the lines that are ours. The line that prepares zsh goes only with one of ours behind it.
fn without_ours(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let ours = |line: &str| {
        (line.starts_with("complete -C ") || line.starts_with("complete -o nospace -C ")) && line.ends_with(" lictor")
            || line.starts_with("complete -f -c lictor ")
    };
    let mut kept = String::new();
    for (at, line) in lines.iter().enumerate() {
        let prepares = *line == "autoload -U +X bashcompinit && bashcompinit";
        if ours(line) || (prepares && lines.get(at + 1).is_some_and(|next| ours(next))) {
            continue;
        }
        kept.push_str(line);
        kept.push('\n');
    }
    if kept.trim_end_matches('\n') == text.trim_end_matches('\n') { text.to_owned() } else { kept }
}

/// Does something with the file of every shell that the user has.
fn each_file(change: impl Fn(Shell, &Path, &str) -> Result<bool>) -> Result<Vec<PathBuf>> {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty()).ok_or_else(|| anyhow!("HOME is not set"))?;
    let home = PathBuf::from(home);
    let program = std::env::current_exe().context("cannot find the path of this program")?;
    let program = program.to_str().ok_or_else(|| anyhow!("the path of this program is not text"))?;
    let mut changed = Vec::new();
    let mut known = false;
    for shell in Shell::ALL {
        let file = shell.file(&home);
        let there = match shell {
            Shell::Fish => home.join(".config/fish").is_dir(),
            Shell::Bash | Shell::Zsh => file.is_file(),
        };
        if there {
            known = true;
            if change(shell, &file, program)? {
                changed.push(file);
            }
        }
    }
    if !known {
        bail!("no ~/.bashrc, ~/.zshrc or ~/.config/fish found; use `lictor completion SHELL`");
    }
    Ok(changed)
}

/// Replaces a file as a whole, keeping who may read it.
fn write(file: &Path, text: &str) -> Result<()> {
    let failed = || format!("cannot write {}", file.display());
    // A link to a file elsewhere stays one.
    let target = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    if let Some(folder) = target.parent() {
        fs::create_dir_all(folder).with_context(failed)?;
    }
    let fresh = target.with_extension("lictor-new");
    let mode = fs::metadata(&target).ok().map(|meta| meta.permissions());
    let mut new =
        fs::File::options().write(true).create(true).truncate(true).mode(0o644).open(&fresh).with_context(failed)?;
    if let Some(mode) = mode {
        new.set_permissions(mode).with_context(failed)?;
    }
    new.write_all(text.as_bytes()).and_then(|()| new.sync_all()).with_context(failed)?;
    fs::rename(&fresh, &target).with_context(failed)
}

fn report(what: &str, outcome: Result<Vec<PathBuf>>) -> ExitCode {
    match outcome {
        Ok(files) => {
            for file in files {
                print(&format!("changed {}", file.display()));
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain(&format!("Error executing autocomplete {what}: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_are_the_words_and_options_that_may_follow() {
        assert_eq!(candidates("lictor inte"), ["intention"]);
        assert_eq!(candidates("lictor intention "), ["check", "create", "delete", "get", "match"]);
        assert_eq!(candidates("lictor intention cr"), ["create"]);
        assert_eq!(candidates("lictor intention create -al"), ["-allow"]);
        assert_eq!(candidates("lictor intention create --al"), ["--allow"]);
        assert_eq!(candidates("lictor intention create -deny web d"), [""; 0]);
        assert_eq!(candidates("lictor acl token "), ["clone", "create", "delete", "list", "read", "update"]);
        assert_eq!(candidates("lictor -v"), ["-version"]);
        assert_eq!(candidates("lictor nothing x"), [""; 0]);
        assert!(candidates("lictor ").contains(&"kv".to_owned()));
    }

    #[test]
    fn what_was_installed_is_taken_back_and_nothing_else() {
        let before = "alias ll='ls -l'\nautoload -U +X bashcompinit && bashcompinit\n";
        let after = format!("{before}{}\n", Shell::Zsh.script("/usr/bin/lictor"));
        assert_eq!(without_ours(&after), before);
        assert_eq!(without_ours("complete -C /usr/bin/consul consul"), "complete -C /usr/bin/consul consul");
        assert_eq!(without_ours(&format!("x\n{}\n", Shell::Bash.script("/a b/lictor"))), "x\n");
    }
}
