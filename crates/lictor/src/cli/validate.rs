//! `lictor validate`: checks configuration files and says what of them has an effect.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use serde::Serialize;

use super::command::{Command, Outcome, done};
use super::output::{self, FORMAT, Format, columns, row};
use super::{complain, print};
use crate::config::check::Role;
use crate::config::flags::{Flag, Parsed};
use crate::config::keys::{Disposition, Reload};
use crate::config::report::{Notice, Origin};
use crate::config::{self, Loaded, Sources, Weight};
use crate::settings::unusable_certificates;

/// The command.
pub(crate) const COMMANDS: &[Command] = &[Command::new("validate", "Checks configuration files", run)
    .operands("FILE_OR_DIRECTORY...")
    .about(
        "\nAll problems are shown at once, each with its place and a remedy. Of a valid configuration it says what has no\n\
         effect and why; with -explain it says of every key and definition where it stands and what becomes of it.",
    )
    .flags(&[
        Flag::text("config-format", "Read all files as this format: hcl or json"),
        Flag::bool("explain", "Say of every key and definition what becomes of it"),
        FORMAT,
        Flag::bool("quiet", "Print nothing when the configuration is valid"),
    ])];

/// Validates the files and folders named.
fn run(flags: &Parsed) -> Outcome {
    let format = Format::of(flags)?;
    if flags.operands.is_empty() {
        bail!("Must specify at least one config file or directory");
    }
    let paths = flags.operands.iter().map(PathBuf::from);
    let sources = Sources::from_paths(paths, flags.text("config-format").map(str::to_owned));
    let mut loaded = match config::validate(&sources) {
        Ok(loaded) => loaded,
        Err(errors) => {
            complain(&format!("Config validation failed: {errors}"));
            return Ok(ExitCode::FAILURE);
        }
    };
    if flags.is_set("quiet") {
        return done();
    }
    let unusable = unusable_certificates(&loaded.config).into_iter();
    loaded.notices.extend(unusable.map(|text| Notice { weight: Weight::Warn, text }));
    match (format, flags.is_set("explain")) {
        (Format::Json, _) => print(&output::json(&explained(&loaded))?),
        (Format::Pretty, explain) => pretty(&loaded, explain)?,
    }
    done()
}

fn pretty(loaded: &Loaded, explain: bool) -> Result<()> {
    if explain {
        let mut rows = vec![row(["Where", "What", "Effect", "Reload"])];
        rows.extend(explained(loaded).iter().map(|fate| row([&fate.origin, &fate.what, &fate.effect, fate.reload])));
        print(&columns(&rows));
    }
    for notice in &loaded.notices {
        let word = match notice.weight {
            Weight::Warn => "WARN",
            Weight::Info => "INFO",
        };
        print(&format!("[{word}] {}", notice.text));
    }
    print("Configuration is valid!");
    Ok(())
}

/// What becomes of one thing that the user wrote. Never its value, which may be a secret.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Fate {
    origin: String,
    what: String,
    effect: String,
    reload: &'static str,
}

/// What becomes of everything that the user wrote and that is not the default anyway.
fn explained(loaded: &Loaded) -> Vec<Fate> {
    let Loaded { config, services, checks, watches, notices: _, settings } = loaded;
    let is_server = config.node.role == Role::Server;
    let mut fates: Vec<Fate> = settings
        .changed_by_user()
        .map(|key| {
            // An old name is shown as the user wrote it.
            let alias = settings.aliases.iter().find(|(_, target)| *target == key.path);
            let effect = match key.disposition {
                Disposition::NoEffect(reason) => format!("none: {}", reason.text()),
                Disposition::NoEffectOnServers(reason) if is_server => format!("none on servers: {}", reason.text()),
                _ => match alias {
                    Some(_) => format!("honoured as {}", key.path),
                    None => "honoured".to_owned(),
                },
            };
            Fate {
                origin: settings.origin(key.path).to_string(),
                what: alias.map_or(key.path, |(alias, _)| alias).to_owned(),
                effect,
                reload: match key.reload {
                    Reload::Applied => "yes",
                    Reload::NeedsRestart => "restart",
                },
            }
        })
        .collect();
    let mut define = |origin: &Origin, path: &str, name: &str, effect: &str| {
        let what = if name.is_empty() { path.to_owned() } else { format!("{path} ({name})") };
        fates.push(Fate { origin: origin.to_string(), what, effect: effect.to_owned(), reload: "yes" });
    };
    for service in services {
        define(&service.origin, &service.path, service.value.service.name.as_str(), "honoured");
    }
    for check in checks {
        define(&check.origin, &check.path, &check.value.name, "honoured");
    }
    for watch in watches {
        define(&watch.origin, &watch.path, &watch.value.kind, "honoured");
    }
    fates
}
