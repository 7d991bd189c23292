//! Where an answer is not the recorded one.

use std::fmt;

/// One difference: the first that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    /// Where in the answer: `status`, `header X`, `body.Nodes[0].ID`.
    pub(crate) place: String,
    expected: String,
    actual: String,
}

/// Beyond this a value is cut when it is shown.
const SHOWN: usize = 1200;

impl Difference {
    pub(crate) fn new(place: &str, expected: impl ToString, actual: impl ToString) -> Difference {
        Difference { place: place.to_owned(), expected: expected.to_string(), actual: actual.to_string() }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cut = |text: &str| text.chars().take(SHOWN).collect::<String>();
        let Difference { place, expected, actual } = self;
        write!(f, "at {place}\n    expected: {}\n    actual:   {}", cut(expected), cut(actual))
    }
}
