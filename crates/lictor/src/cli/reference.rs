//! The reference of all commands, as a manual page and as a page of the documentation.

use anyhow::bail;

use super::command::{Command, Outcome, done};
use super::{GROUPS, commands, print};
use crate::config::flags::{Flag, FlagKind, Parsed};

/// The command; it is for packagers and for the project itself, so overviews do not list it.
pub(super) const COMMAND: Command =
    Command::new("reference", "Prints the reference of all commands", run).operands("man | markdown");

fn run(flags: &Parsed) -> Outcome {
    match flags.operands.as_slice() {
        [form] if form == "man" => print(&man()),
        [form] if form == "markdown" => print(&markdown()),
        _ => bail!("One form must be named: man or markdown"),
    }
    done()
}

/// Variables that commands read, each with what it says.
const VARIABLES: [(&str, &str); 13] = [
    ("CONSUL_HTTP_ADDR", "Address of the agent: host:port, http://…, https://… or unix:///path."),
    ("CONSUL_HTTP_TOKEN", "ACL token of requests."),
    ("CONSUL_HTTP_TOKEN_FILE", "File that holds it; goes before CONSUL_HTTP_TOKEN."),
    ("CONSUL_HTTP_AUTH", "user:password for a proxy in front of the agent."),
    ("CONSUL_HTTP_SSL", "Whether an address without a scheme means HTTPS."),
    ("CONSUL_HTTP_SSL_VERIFY", "Whether the agent's certificate is checked; true unless set."),
    ("CONSUL_CACERT", "Certificates to trust."),
    ("CONSUL_CAPATH", "Folder of such files."),
    ("CONSUL_CLIENT_CERT", "Own certificate."),
    ("CONSUL_CLIENT_KEY", "Its key."),
    ("CONSUL_TLS_SERVER_NAME", "Name that the agent's certificate must have."),
    ("CONNECT_PROXY_ID, CONNECT_SIDECAR_FOR", "What lictor connect proxy is, when no option says it."),
    ("CONNECT_PROXY_TOKEN", "Its token, when no option says it."),
];

/// Exit codes, each with what it means.
const CODES: [(&str, &str); 4] = [
    ("0", "It worked."),
    (
        "1",
        "It did not; what went wrong is on standard error. Also: intention check found that the connection is denied.",
    ),
    (
        "2",
        "members found nobody with that status; intention check could not find out; the child of lock -child-exit-code \
           failed; connect why found something; connect proxy did not get its port.",
    ),
    ("3", "connect proxy did not hear from its agent for as long as it may."),
];

fn value(flag: &Flag) -> &'static str {
    match flag.kind {
        FlagKind::Bool => "",
        FlagKind::Int => "=<int>",
        FlagKind::Duration => "=<duration>",
        FlagKind::Text => "=<value>",
    }
}

/// The manual page, in the language of man(7).
fn man() -> String {
    let mut text = format!(
        ".TH LICTOR 1 \"\" \"lictor {}\" \"lictor\"\n.SH NAME\nlictor \\- service mesh with managed proxies, in one binary\n\
         .SH SYNOPSIS\n.B lictor\n.RI [ --version ] \" \" [ --help ] \" command \" [ args ]\n.SH DESCRIPTION\n\
         One binary is the agent, the proxy and the command line. Options are written \\fB\\-name value\\fR or \
         \\fB\\-name=value\\fR and stand before other arguments; \\fB\\-help\\fR explains any command.\n.SH COMMANDS\n",
        env!("CARGO_PKG_VERSION")
    );
    for command in commands() {
        text.push_str(&format!(
            ".SS {}\n{}.\n",
            roff(&format!("lictor {}", command.synopsis())),
            roff(command.summary)
        ));
        let about = command.about.trim_matches('\n');
        if !about.is_empty() {
            text.push_str(&format!(".PP\n.nf\n{}\n.fi\n", about.lines().map(roff).collect::<Vec<_>>().join("\n")));
        }
        for flag in command.own_flags() {
            let name = roff(&format!("-{}{}", flag.name, value(&flag)));
            text.push_str(&format!(".TP\n.B {name}\n{}.\n", roff(flag.doc.trim_end_matches('.'))));
        }
        if !command.client_flags().is_empty() {
            text.push_str(".PP\nThe options for reaching the agent, see below.\n");
        }
    }
    text.push_str(".SH OPTIONS FOR REACHING THE AGENT\n");
    for flag in &super::client::FLAGS {
        let name = roff(&format!("-{}{}", flag.name, value(flag)));
        text.push_str(&format!(".TP\n.B {name}\n{}.\n", roff(flag.doc)));
    }
    text.push_str(".SH ENVIRONMENT\nAn option beats the variable.\n");
    for (name, meaning) in VARIABLES {
        text.push_str(&format!(".TP\n.B {}\n{}\n", roff(name), roff(meaning)));
    }
    text.push_str(".SH EXIT STATUS\n");
    for (code, meaning) in CODES {
        text.push_str(&format!(".TP\n.B {code}\n{}\n", roff(meaning)));
    }
    text
}

/// A text without a meaning in man(7).
fn roff(text: &str) -> String {
    let escaped = text.replace('\\', "\\e").replace('-', "\\-");
    match escaped.as_bytes().first() {
        Some(b'.' | b'\'') => format!("\\&{escaped}"),
        _ => escaped,
    }
}

/// The page of the documentation.
fn markdown() -> String {
    let mut text = String::from(
        "# Command line\n\nGenerated from the program by `cargo xtask reference`; a test compares.\n\n\
         Options are written `-name value`, `-name=value` or with two dashes, and stand before other arguments. Results go \
         to standard output, errors to standard error.\n\n",
    );
    text.push_str("| exit code | meaning |\n| --- | --- |\n");
    for (code, meaning) in CODES {
        text.push_str(&format!("| {code} | {meaning} |\n"));
    }
    text.push_str(
        "\n## Reaching the agent\n\nCommands marked with * have these options too. An option beats the variable.\n\n",
    );
    text.push_str(&table(&super::client::FLAGS));
    text.push_str("\n| variable | meaning |\n| --- | --- |\n");
    for (name, meaning) in VARIABLES {
        text.push_str(&format!("| `{name}` | {meaning} |\n"));
    }
    text.push_str("\n## Groups\n\n");
    for (name, summary) in GROUPS {
        text.push_str(&format!("* `lictor {name}`: {summary}.\n"));
    }
    for command in commands() {
        let star = if command.client_flags().is_empty() { "" } else { " *" };
        text.push_str(&format!("\n## {}{star}\n\n", command.name));
        text.push_str(&format!("    lictor {}\n\n{}.\n", command.synopsis(), command.summary));
        let about = command.about.trim_matches('\n');
        if !about.is_empty() {
            text.push_str(&format!("\n{about}\n"));
        }
        let flags = command.own_flags();
        if !flags.is_empty() {
            text.push_str(&format!("\n{}", table(&flags)));
        }
    }
    text
}

fn table(flags: &[Flag]) -> String {
    let mut text = String::from("| option | meaning |\n| --- | --- |\n");
    for flag in flags {
        let doc = flag.doc.trim_end_matches('.').replace('|', "\\|");
        text.push_str(&format!("| `-{}{}` | {doc} |\n", flag.name, value(flag)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_names_every_command_and_every_option() {
        let (man, markdown) = (man(), markdown());
        for command in commands() {
            assert!(man.contains(&roff(&format!("lictor {}", command.name))), "{}", command.name);
            assert!(markdown.contains(&format!("\n## {}", command.name)), "{}", command.name);
            for flag in command.all_flags() {
                assert!(man.contains(&roff(&format!("-{}", flag.name))), "{} -{}", command.name, flag.name);
                assert!(markdown.contains(&format!("| `-{}", flag.name)), "{} -{}", command.name, flag.name);
            }
        }
    }

    #[test]
    fn the_pages_of_the_documentation_are_current() {
        let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs");
        for (file, text) in [("cli.md", markdown()), ("man/lictor.1", man())] {
            let written = std::fs::read_to_string(format!("{docs}/{file}")).unwrap_or_default();
            assert!(written == text, "docs/{file} is not what the program says: run cargo xtask reference");
        }
    }
}
