//! What can go wrong with a read or a write of the cluster's state.

/// An error of this room.
///
/// The texts of [`Error::Refused`] reach clients as they are; they are the original's.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request cannot be carried out as it is; the text says why, in the words clients know.
    #[error("{0}")]
    Refused(String),
    /// The caller lacks the right.
    #[error("Permission denied")]
    Denied,
    /// The secret is that of no token.
    #[error("ACL not found")]
    UnknownToken,
    /// The first token was given away already; the revision is what a reset must name.
    #[error("Permission denied: ACL bootstrap no longer allowed (reset index: {0})")]
    Bootstrapped(lictor_model::revision::Revision),
    /// The store failed.
    #[error("store failed to {operation}")]
    Store {
        /// What was being done.
        operation: &'static str,
        /// Why it failed.
        #[source]
        source: lictor_store::Error,
    },
    /// The store was written by a version of lictor that this one does not know.
    #[error("state has format {found}, this lictor knows format {known}: use the version that wrote it")]
    Format {
        /// The format it says it has.
        found: u32,
        /// The format this version reads and writes.
        known: u32,
    },
    /// A stored record cannot be read.
    #[error("record {key:?} is unreadable")]
    Record {
        /// Its key.
        key: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

impl Error {
    /// Names what was being done when the store failed.
    pub(crate) fn store(operation: &'static str) -> impl FnOnce(lictor_store::Error) -> Error {
        move |source| Error::Store { operation, source }
    }

    /// A refusal in the words clients know.
    pub(crate) fn refused(text: impl Into<String>) -> Error {
        Error::Refused(text.into())
    }

    /// A refusal with what was being done before its text; other errors as they are.
    pub(crate) fn within(self, operation: &str) -> Error {
        match self {
            Error::Refused(why) => Error::Refused(format!("{operation}: {why}")),
            other => other,
        }
    }

    /// A refusal with the node behind its text; other errors as they are.
    pub(crate) fn on_node(self, node: &str) -> Error {
        match self {
            Error::Refused(why) => Error::Refused(format!("{why} on node {node:?}")),
            other => other,
        }
    }
}

/// An error with its causes, as one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}
