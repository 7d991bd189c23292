//! Flags in the style of Go: `-name value`, `-name=value`, `--name`; the first word that is no flag ends them.
//!
//! Bool flags take a value only after `=`. Every flag may be repeated: the last value counts, or all of them where
//! the reader asks for all. The texts of errors are the ones users know.

use std::fmt::Write as _;

use crate::cli::suggest;

/// What a flag's value must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FlagKind {
    /// Present or absent, or `=true`, `=false`.
    Bool,
    /// A whole number.
    Int,
    /// A duration such as `1m30s`.
    Duration,
    /// Any text.
    Text,
}

/// One flag that a command knows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flag {
    /// Its name without the dash.
    pub(crate) name: &'static str,
    /// What its value must be.
    pub(crate) kind: FlagKind,
    /// What it does, in one sentence.
    pub(crate) doc: &'static str,
}

impl Flag {
    /// A flag without a value.
    pub(crate) const fn bool(name: &'static str, doc: &'static str) -> Flag {
        Flag { name, kind: FlagKind::Bool, doc }
    }

    /// A flag with a whole number.
    pub(crate) const fn int(name: &'static str, doc: &'static str) -> Flag {
        Flag { name, kind: FlagKind::Int, doc }
    }

    /// A flag with a duration.
    pub(crate) const fn duration(name: &'static str, doc: &'static str) -> Flag {
        Flag { name, kind: FlagKind::Duration, doc }
    }

    /// A flag with a text.
    pub(crate) const fn text(name: &'static str, doc: &'static str) -> Flag {
        Flag { name, kind: FlagKind::Text, doc }
    }

    /// Whether a word of its own follows it, unless its value stands behind `=`.
    pub(crate) fn takes_value(&self) -> bool {
        self.kind != FlagKind::Bool
    }
}

/// Why arguments were not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FlagError {
    /// `-h` or `-help`: not an error for the user, who gets the usage and exit code 0.
    #[error("flag: help requested")]
    Help,
    /// No such flag.
    #[error("flag provided but not defined: -{0}")]
    Unknown(String),
    /// The last word is a flag that needs a value.
    #[error("flag needs an argument: -{0}")]
    MissingValue(&'static str),
    /// `-=x`, `---x`.
    #[error("bad flag syntax: {0}")]
    Syntax(String),
    /// A bool that is none.
    #[error("invalid boolean value {value:?} for -{name}: {why}")]
    Bool { name: &'static str, value: String, why: String },
    /// A number or duration that is none.
    #[error("invalid value {value:?} for flag -{name}: {why}")]
    Value { name: &'static str, value: String, why: String },
}

impl FlagError {
    /// The error as the last thing that the user reads: with what was probably meant, and how to see all flags, which are
    /// too many to stand below it.
    pub(crate) fn told(&self, known: &[Flag], synopsis: &str) -> String {
        let command = synopsis.split(" [").next().unwrap_or(synopsis);
        let hint = self.hint(known).map_or_else(String::new, |hint| format!("; {hint}"));
        format!("{self}{hint}\n\nUsage: lictor {synopsis}\n\nlictor {command} -h lists the options.")
    }

    /// What was probably meant.
    pub(crate) fn hint(&self, known: &[Flag]) -> Option<String> {
        match self {
            FlagError::Unknown(name) => {
                let near = suggest::nearest(name, known.iter().map(|flag| flag.name))?;
                Some(format!("did you mean -{near}?"))
            }
            FlagError::Value { value, why, .. } if why.contains("missing unit") => Some(format!("write {value}s")),
            _ => None,
        }
    }
}

/// What was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Parsed {
    /// Flags in the order given, bools as `true` or `false`.
    values: Vec<(&'static str, String)>,
    /// What follows the flags.
    pub(crate) operands: Vec<String>,
}

/// Reads arguments (without the names of program and command).
pub(crate) fn parse(known: &[Flag], arguments: &[String]) -> Result<Parsed, FlagError> {
    let mut parsed = Parsed::default();
    let mut rest = arguments.iter();
    while let Some(word) = rest.next() {
        if word == "--" {
            break;
        }
        let dashless = match word.strip_prefix("--").or_else(|| word.strip_prefix('-')) {
            Some(dashless) if !dashless.is_empty() => dashless,
            _ => {
                parsed.operands.push(word.clone());
                break;
            }
        };
        if dashless.starts_with(['-', '=']) {
            return Err(FlagError::Syntax(word.clone()));
        }
        let (name, given) = match dashless.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (dashless, None),
        };
        let Some(flag) = known.iter().find(|flag| flag.name == name) else {
            let help = matches!(name, "h" | "help");
            return Err(if help { FlagError::Help } else { FlagError::Unknown(name.to_owned()) });
        };
        let value = match (flag.kind, given) {
            (FlagKind::Bool, None) => "true".to_owned(),
            (_, Some(value)) => value,
            (_, None) => rest.next().ok_or(FlagError::MissingValue(flag.name))?.clone(),
        };
        parsed.values.push((flag.name, checked(flag, value)?));
    }
    parsed.operands.extend(rest.cloned());
    Ok(parsed)
}

fn checked(flag: &Flag, value: String) -> Result<String, FlagError> {
    let name = flag.name;
    match flag.kind {
        FlagKind::Text => Ok(value),
        FlagKind::Bool => match value.as_str() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok("true".to_owned()),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok("false".to_owned()),
            _ => {
                let why = format!("strconv.ParseBool: parsing {value:?}: invalid syntax");
                Err(FlagError::Bool { name, value, why })
            }
        },
        FlagKind::Int => match value.parse::<i64>() {
            Ok(number) => Ok(number.to_string()),
            Err(error) => {
                let range =
                    matches!(error.kind(), std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow);
                let why = if range { "value out of range" } else { "invalid syntax" };
                let why = format!("strconv.ParseInt: parsing {value:?}: {why}");
                Err(FlagError::Value { name, value, why })
            }
        },
        FlagKind::Duration => match value.parse::<lictor_notation::duration::GoDuration>() {
            Ok(_) => Ok(value),
            Err(error) => Err(FlagError::Value { name, value, why: error.to_string() }),
        },
    }
}

impl Parsed {
    /// The last value of a flag, if it was given.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.texts(name).last()
    }

    /// All values of a flag, in the order given.
    pub(crate) fn texts<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        self.values.iter().filter(move |(given, _)| *given == name).map(|(_, value)| value.as_str())
    }

    /// The value of a bool flag, if it was given.
    pub(crate) fn bool(&self, name: &str) -> Option<bool> {
        self.text(name).map(|value| value == "true")
    }

    /// Whether a bool flag was given and is true.
    pub(crate) fn is_set(&self, name: &str) -> bool {
        self.bool(name) == Some(true)
    }

    /// The value of an int flag, if it was given.
    pub(crate) fn int(&self, name: &str) -> Option<i64> {
        self.text(name).and_then(|value| value.parse().ok())
    }

    /// The value of a duration flag, if it was given.
    pub(crate) fn duration(&self, name: &str) -> Option<std::time::Duration> {
        self.text(name).and_then(|value| lictor_notation::duration::parse(value).ok())
    }

    /// All flags in the order given.
    pub(crate) fn given(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.values.iter().map(|(name, value)| (*name, value.as_str()))
    }
}

/// The list of flags for a command's usage, sorted by name.
pub(crate) fn usage(known: &[Flag]) -> String {
    let mut sorted: Vec<&Flag> = known.iter().collect();
    sorted.sort_by_key(|flag| flag.name);
    let mut text = String::new();
    for flag in sorted {
        let value = match flag.kind {
            FlagKind::Bool => "",
            FlagKind::Int => "=<int>",
            FlagKind::Duration => "=<duration>",
            FlagKind::Text => "=<value>",
        };
        let _ = write!(text, "  -{}{value}\n     {}\n\n", flag.name, flag.doc);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[Flag] = &[
        Flag::bool("server", "Be a server."),
        Flag::text("join", "Whom to join."),
        Flag::int("http-port", "Port."),
        Flag::duration("wait", "How long."),
    ];

    fn read(line: &str) -> Result<Parsed, FlagError> {
        parse(KNOWN, &line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    fn error(line: &str) -> String {
        read(line).unwrap_err().to_string()
    }

    #[test]
    fn flags_have_all_spellings_of_go() {
        let parsed = read("-server --join a -join=b --http-port=7 -wait 1m30s x -join c").unwrap();
        assert!(parsed.is_set("server"));
        assert_eq!(parsed.texts("join").collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!((parsed.text("join"), parsed.int("http-port")), (Some("b"), Some(7)));
        assert_eq!(parsed.duration("wait"), Some(std::time::Duration::from_secs(90)));
        assert_eq!(parsed.operands, ["x", "-join", "c"]);
    }

    #[test]
    fn bools_take_a_value_only_after_an_equals_sign() {
        assert_eq!(read("-server=false").unwrap().bool("server"), Some(false));
        assert_eq!(read("-server=T").unwrap().bool("server"), Some(true));
        let parsed = read("-server false").unwrap();
        assert_eq!((parsed.bool("server"), parsed.operands), (Some(true), vec!["false".to_owned()]));
        assert_eq!(read("").unwrap().bool("server"), None);
    }

    #[test]
    fn the_first_operand_and_a_double_dash_end_the_flags() {
        assert_eq!(read("-- -server").unwrap().operands, ["-server"]);
        assert_eq!(read("- -server").unwrap().operands, ["-", "-server"]);
        assert_eq!(read("-join -server").unwrap().text("join"), Some("-server"));
    }

    #[test]
    fn errors_have_the_texts_users_know() {
        assert_eq!(error("-bogus"), "flag provided but not defined: -bogus");
        assert_eq!(error("--bogus=1"), "flag provided but not defined: -bogus");
        assert_eq!(error("-join"), "flag needs an argument: -join");
        assert_eq!(error("-=x"), "bad flag syntax: -=x");
        assert_eq!(error("---join"), "bad flag syntax: ---join");
        assert_eq!(
            error("-server=x"),
            "invalid boolean value \"x\" for -server: strconv.ParseBool: parsing \"x\": invalid syntax"
        );
        assert_eq!(
            error("-http-port x"),
            "invalid value \"x\" for flag -http-port: strconv.ParseInt: parsing \"x\": invalid syntax"
        );
        assert_eq!(
            error("-http-port 99999999999999999999"),
            "invalid value \"99999999999999999999\" for flag -http-port: \
             strconv.ParseInt: parsing \"99999999999999999999\": value out of range"
        );
        assert_eq!(error("-wait zz"), "invalid value \"zz\" for flag -wait: time: invalid duration \"zz\"");
        assert_eq!(read("-h"), Err(FlagError::Help));
        assert_eq!(read("--help"), Err(FlagError::Help));
    }

    #[test]
    fn errors_say_what_was_probably_meant_and_do_not_drown_in_flags() {
        let told = |line: &str| read(line).unwrap_err().told(KNOWN, "agent [options]");
        assert_eq!(
            told("-htpp-port=1"),
            "flag provided but not defined: -htpp-port; did you mean -http-port?\n\nUsage: lictor agent [options]\n\n\
             lictor agent -h lists the options."
        );
        assert!(told("-wait 5").starts_with("invalid value \"5\" for flag -wait: "), "{}", told("-wait 5"));
        assert!(told("-wait 5").contains("; write 5s\n"), "{}", told("-wait 5"));
    }

    #[test]
    fn the_usage_is_sorted() {
        let usage = usage(KNOWN);
        assert!(usage.starts_with("  -http-port=<int>\n     Port.\n\n  -join=<value>\n"), "{usage}");
    }
}
