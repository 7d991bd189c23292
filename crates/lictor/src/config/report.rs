//! What is said about a configuration: problems that stop it, each with place, key and remedy, and notices.

use std::fmt;
use std::io;
use std::sync::Arc;

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Nowhere: it is built in.
    Default,
    /// Nowhere: `-dev` brings it.
    Dev,
    /// On the command line, under this flag.
    Flag(&'static str),
    /// In a file, or in a fragment of the command line (`flags-0.hcl`); line 0 means the whole of it.
    File {
        /// The path as it was given or found.
        name: Arc<str>,
        /// The line, from 1.
        line: u32,
    },
}

impl Origin {
    /// Whether the user wrote it.
    pub(crate) fn is_user(&self) -> bool {
        matches!(self, Origin::Flag(_) | Origin::File { .. })
    }

    /// The file it stands in.
    pub(crate) fn file(&self) -> Option<&str> {
        match self {
            Origin::File { name, .. } => Some(name),
            _ => None,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::Dev => f.write_str("-dev"),
            Origin::Flag(name) => write!(f, "-{name}"),
            Origin::File { name, line: 0 } => f.write_str(name),
            Origin::File { name, line } => write!(f, "{name}:{line}"),
        }
    }
}

/// When a problem is found by the original, which stops at its first: ours are sorted by this, so that both begin
/// with the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Files and directories that cannot be read.
    Sources,
    /// Syntax, types, and unknown keys.
    Parse,
    /// Port ranges.
    Ports,
    /// Bind and advertise addresses, templates.
    Addresses,
    /// Everything else that is judged before the start.
    Rules,
    /// What the original finds only when it starts.
    Start,
}

/// Problems that the original shows under one heading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    /// What stands before the list: `Error parsing web.hcl`.
    pub(crate) head: String,
    /// `occurred` or `decoding`.
    pub(crate) verb: &'static str,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// When the original would find it.
    pub(crate) stage: Stage,
    /// Where it is written; the default's place when it is missing.
    pub(crate) origin: Origin,
    /// The key, as a dotted path.
    pub(crate) key: String,
    /// What is wrong, in the words the original uses.
    pub(crate) text: String,
    /// What to do about it.
    pub(crate) remedy: String,
    /// The heading it belongs to.
    pub(crate) group: Option<Group>,
}

/// All that is wrong with a configuration, at least one thing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ConfigErrors(Vec<Problem>);

impl ConfigErrors {
    /// Sorts problems as the original would meet them; `None` when there are none.
    pub(crate) fn new(mut problems: Vec<Problem>) -> Option<ConfigErrors> {
        problems.sort_by_key(|problem| problem.stage);
        (!problems.is_empty()).then_some(ConfigErrors(problems))
    }

    /// All of them, in that order.
    #[cfg(test)]
    pub(crate) fn problems(&self) -> &[Problem] {
        &self.0
    }

    /// What the original would print.
    pub(crate) fn headline(&self) -> String {
        let Some(first) = self.0.first() else { return String::new() };
        match &first.group {
            None => first.text.clone(),
            Some(group) => {
                let same: Vec<&str> = self
                    .0
                    .iter()
                    .filter(|problem| problem.group.as_ref() == Some(group))
                    .map(|problem| problem.text.as_str())
                    .collect();
                format!("{}: {}", group.head, lictor_notation::decode::listed(group.verb, &same))
            }
        }
    }
}

impl std::error::Error for ConfigErrors {}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.headline())?;
        let count = self.0.len();
        write!(f, "\n\n{count} problem{} to solve:\n", if count == 1 { "" } else { "s" })?;
        for problem in &self.0 {
            match &problem.origin {
                Origin::Default | Origin::Dev => write!(f, "\n  {}", problem.key)?,
                origin if problem.key.is_empty() => write!(f, "\n  {origin}")?,
                origin => write!(f, "\n  {origin}: {}", problem.key)?,
            }
            write!(f, "\n      {}\n      remedy: {}", problem.text, problem.remedy)?;
        }
        Ok(())
    }
}

/// Leaves out what is only the consequence of another problem: what seems to be missing while a file that may hold it
/// could not be read, or because it stands there mistyped.
pub(crate) fn first_causes(problems: Vec<Problem>) -> Vec<Problem> {
    let unread = |problem: &Problem| {
        let whole = problem.stage == Stage::Sources || problem.stage == Stage::Parse && problem.group.is_none();
        whole && matches!(problem.origin, Origin::File { .. })
    };
    let something_unread = problems.iter().any(unread);
    let misread: Vec<(Origin, String, String)> = problems
        .iter()
        .filter(|problem| problem.stage == Stage::Parse && problem.group.is_some())
        .map(|problem| (problem.origin.clone(), problem.key.clone(), problem.remedy.clone()))
        .collect();
    let is_consequence = |problem: &Problem| match &problem.origin {
        Origin::Default | Origin::Dev => something_unread && problem.stage > Stage::Parse,
        Origin::File { name, .. } if problem.stage > Stage::Parse => misread.iter().any(|(origin, key, remedy)| {
            let in_same_file = matches!(origin, Origin::File { name: other, .. } if other == name);
            let (around, _) = key.rsplit_once('.').unwrap_or(("", key));
            let (problem_around, leaf) = problem.key.rsplit_once('.').unwrap_or(("", problem.key.as_str()));
            // A whole check that says too little, or one field that another was meant to be.
            let whole = !around.is_empty() && around == problem.key;
            let field = around == problem_around && *remedy == format!("did you mean {leaf}?");
            in_same_file && (whole || field)
        }),
        _ => false,
    };
    problems.into_iter().filter(|problem| !is_consequence(problem)).collect()
}

/// How much a notice matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weight {
    /// For information.
    Info,
    /// Something the user should change.
    Warn,
}

/// A line to print before the start, or by `validate`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Notice {
    /// How much it matters.
    pub(crate) weight: Weight,
    /// The line.
    pub(crate) text: String,
}

/// The cause of a failed call, in the words the original's users know: no number, no capital letter.
pub(crate) fn cause(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut characters = text.chars();
    match characters.next() {
        Some(first) => first.to_lowercase().chain(characters).collect(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(stage: Stage, text: &str, group: Option<Group>) -> Problem {
        Problem {
            stage,
            origin: Origin::File { name: "a.hcl".into(), line: 3 },
            key: "k".into(),
            text: text.into(),
            remedy: "do this".into(),
            group,
        }
    }

    #[test]
    fn the_first_line_is_the_originals_and_all_problems_follow() {
        let group = Some(Group { head: "Error parsing a.hcl".into(), verb: "occurred" });
        let errors = ConfigErrors::new(vec![
            problem(Stage::Rules, "data_dir cannot be empty", None),
            problem(Stage::Parse, "invalid config key x", group.clone()),
            problem(Stage::Parse, "invalid config key y", group),
        ])
        .unwrap();
        let text = errors.to_string();
        assert!(
            text.starts_with(
                "Error parsing a.hcl: 2 error(s) occurred:\n\n* invalid config key x\n* invalid config key y\n\n\
                 3 problems to solve:\n\n  a.hcl:3: k\n      invalid config key x\n      remedy: do this\n"
            ),
            "{text}"
        );
        assert!(ConfigErrors::new(Vec::new()).is_none());
    }

    #[test]
    fn what_follows_from_another_problem_is_not_said() {
        let group = || Some(Group { head: "Error parsing a.hcl".into(), verb: "occurred" });
        let keyed = |stage, key: &str, remedy: &str, group| Problem {
            key: key.into(),
            remedy: remedy.into(),
            ..problem(stage, key, group)
        };
        let missing = || Problem { origin: Origin::Default, ..keyed(Stage::Rules, "data_dir", "", None) };
        let keys = |problems: Vec<Problem>| -> Vec<String> {
            first_causes(problems).into_iter().map(|problem| problem.key).collect()
        };
        assert_eq!(keys(vec![keyed(Stage::Parse, "column 3", "", None), missing()]), ["column 3"]);
        let mistyped = vec![
            keyed(Stage::Parse, "service.check.htpp", "did you mean http?", group()),
            keyed(Stage::Parse, "service.prot", "did you mean port?", group()),
            missing(),
            keyed(Stage::Start, "service.check", "", None),
            keyed(Stage::Rules, "service.port", "", None),
            keyed(Stage::Rules, "service.weights", "", None),
        ];
        assert_eq!(keys(mistyped), ["service.check.htpp", "service.prot", "data_dir", "service.weights"]);
    }
}
