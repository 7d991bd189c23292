//! Finding and reading configuration files, and turning their text into layers.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lictor_notation::decode::Rules;
use lictor_notation::{SyntaxError, Tree, hcl, json};

use super::layer::{self, Layer};
use super::report::{Notice, Origin, Problem, Stage, Weight, cause};

/// Files larger than this are not configuration but a mistake (a log, a device).
const MAX_SIZE: u64 = 64 << 20;

/// The language of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Language {
    Hcl,
    Json,
}

impl Language {
    /// By the name of a file.
    fn of(path: &Path) -> Option<Language> {
        match path.extension()?.to_str()? {
            "hcl" => Some(Language::Hcl),
            "json" => Some(Language::Json),
            _ => None,
        }
    }

    /// By the value of `-config-format`.
    fn named(name: &str) -> Option<Language> {
        match name {
            "hcl" => Some(Language::Hcl),
            "json" => Some(Language::Json),
            _ => None,
        }
    }
}

/// What reading came to.
#[derive(Default)]
pub(crate) struct Read {
    pub(crate) layers: Vec<Layer>,
    pub(crate) problems: Vec<Problem>,
    pub(crate) notices: Vec<Notice>,
}

impl Read {
    /// Reads files and directories in the order given.
    pub(crate) fn paths(&mut self, paths: &[PathBuf], format: Option<&str>) {
        let forced = match format.filter(|format| !format.is_empty()) {
            None => None,
            Some(name) => match Language::named(name) {
                Some(language) => Some(language),
                None => {
                    self.problems.push(Problem {
                        stage: Stage::Sources,
                        origin: Origin::Flag("config-format"),
                        key: String::new(),
                        text: "config: -config-format must be either 'hcl' or 'json'".into(),
                        remedy: "write hcl or json, or leave it out to go by the names of the files".into(),
                        group: None,
                    });
                    None
                }
            },
        };
        for path in paths {
            match fs::metadata(path) {
                Ok(metadata) if metadata.is_dir() => self.directory(path, forced),
                Ok(_) => match forced.or_else(|| Language::of(path)) {
                    Some(language) => self.file(path, language),
                    None => self.notices.push(Notice {
                        weight: Weight::Info,
                        text: format!(
                            "config: {} is not read: its name ends neither in .hcl nor in .json (see -config-format)",
                            path.display()
                        ),
                    }),
                },
                Err(error) => self.unreadable(path, "Open", "open", &error),
            }
        }
    }

    /// Reads a fragment of the command line.
    pub(crate) fn fragment(&mut self, position: usize, text: &str) {
        self.text(&format!("flags-{position}.hcl").into(), text, Language::Hcl);
    }

    fn directory(&mut self, path: &Path, forced: Option<Language>) {
        let entries = fs::read_dir(path).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
        let mut files: Vec<PathBuf> = match entries {
            Ok(entries) => entries.into_iter().map(|entry| entry.path()).collect(),
            Err(error) => return self.unreadable(path, "Readdir", "open", &error),
        };
        files.sort();
        for file in files {
            let Some(language) = forced.or_else(|| Language::of(&file)) else { continue };
            // Links are followed; one that leads nowhere is worth a word, a directory inside is not looked into.
            match fs::metadata(&file) {
                Ok(metadata) if metadata.is_dir() => {}
                Ok(_) => self.file(&file, language),
                Err(error) => self.unreadable(&file, "Stat", "stat", &error),
            }
        }
    }

    fn file(&mut self, path: &Path, language: Language) {
        let mut bytes = Vec::new();
        let read = fs::File::open(path).and_then(|file| file.take(MAX_SIZE + 1).read_to_end(&mut bytes));
        if let Err(error) = read {
            return self.unreadable(path, "ReadFile", "open", &error);
        }
        let name: Arc<str> = path.display().to_string().into();
        let not_text = |text: &str, remedy: &str| Problem {
            stage: Stage::Parse,
            origin: Origin::File { name: name.clone(), line: 0 },
            key: String::new(),
            text: format!("Error parsing {name}: {text}"),
            remedy: remedy.into(),
            group: None,
        };
        if bytes.len() as u64 > MAX_SIZE {
            self.problems.push(not_text("larger than 64 MiB", "name a configuration file"));
            return;
        }
        match String::from_utf8(bytes) {
            Ok(text) => self.text(&name, &text, language),
            Err(error) => {
                let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
                let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
                self.problems.push(not_text(&format!("illegal UTF-8 encoding in line {line}"), "save it as UTF-8"));
            }
        }
    }

    fn text(&mut self, name: &Arc<str>, text: &str, language: Language) {
        if text.is_empty() {
            return;
        }
        let parsed = match language {
            Language::Hcl => hcl::parse(text).map(Tree::Object).map_err(|error| ("At ", error)),
            Language::Json => json::parse(text).map_err(|error| ("", error)),
        };
        let rules = if language == Language::Hcl { Rules::HCL } else { Rules::JSON };
        match parsed {
            Ok(Tree::Object(object)) => self.layers.push(layer::read(&object, rules, name, &mut self.problems)),
            Ok(Tree::Null) => {}
            Ok(_) => self.problems.push(Problem {
                stage: Stage::Parse,
                origin: Origin::File { name: name.clone(), line: 1 },
                key: String::new(),
                text: format!("Error parsing {name}: '' expected a map, got something else"),
                remedy: "write one object: { … }".into(),
                group: None,
            }),
            Err((at, SyntaxError { line, column, text })) => self.problems.push(Problem {
                stage: Stage::Parse,
                origin: Origin::File { name: name.clone(), line },
                key: format!("column {column}"),
                text: format!("Error parsing {name}: {at}{line}:{column}: {text}"),
                remedy: "correct the syntax there".into(),
                group: None,
            }),
        }
    }

    fn unreadable(&mut self, path: &Path, operation: &str, call: &str, error: &io::Error) {
        let shown = path.display();
        let remedy = match error.kind() {
            io::ErrorKind::NotFound => "correct the path, or create it",
            io::ErrorKind::PermissionDenied => "give the agent's user the right to read it",
            _ => "make it readable, or leave it out",
        };
        self.problems.push(Problem {
            stage: Stage::Sources,
            origin: Origin::File { name: shown.to_string().into(), line: 0 },
            key: String::new(),
            text: format!("config: {operation} failed on {shown}. {call} {shown}: {}", cause(error)),
            remedy: remedy.into(),
            group: None,
        });
    }
}
