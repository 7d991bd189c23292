//! What is wrong with a tree, each with its path, all of it collected.

use std::fmt;

/// Which kind of mistake a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// A key nobody knows.
    UnknownKey,
    /// A label of an HCL block, which has no meaning here.
    Label,
    /// A value of the wrong type.
    Type,
    /// Something that must be given once is given several times.
    Repeated,
    /// A text that is no duration, or a map that is no header: found before types are looked at.
    Form,
    /// A value of the right type that makes no sense.
    Value,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Which kind of mistake.
    pub mistake: Mistake,
    /// The field, as a dotted path with list positions: `services[0].connect.proxy`.
    pub path: String,
    /// Line in the source, from 1; 0 when unknown.
    pub line: u32,
    /// What is wrong, complete with the path, in the words clients know.
    pub text: String,
}

/// All that is wrong, in the order found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// Nothing is wrong yet.
    pub fn new() -> Problems {
        Problems::default()
    }

    /// Adds one.
    pub fn push(&mut self, problem: Problem) {
        self.0.push(problem);
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// All, in the order found.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }

    /// The first of a kind.
    pub fn first(&self, mistake: Mistake) -> Option<&Problem> {
        self.0.iter().find(|problem| problem.mistake == mistake)
    }

    /// `2 error(s) <verb>:`, a blank line, and one line with a star for each problem, sorted.
    pub fn listed(&self, verb: &str) -> String {
        let mut texts: Vec<&str> = self.0.iter().map(|problem| problem.text.as_str()).collect();
        texts.sort_unstable();
        listed(verb, &texts)
    }
}

impl IntoIterator for Problems {
    type Item = Problem;
    type IntoIter = std::vec::IntoIter<Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.listed("occurred"))
    }
}

/// The original's form of a list of errors.
pub fn listed(verb: &str, texts: &[impl AsRef<str>]) -> String {
    let mut list = format!("{} error(s) {verb}:\n", texts.len());
    for text in texts {
        list.push_str("\n* ");
        list.push_str(text.as_ref());
    }
    list
}
