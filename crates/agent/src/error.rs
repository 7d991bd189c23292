//! What can go wrong with a use case, by whose fault it is.

/// An error of this room. Its text reaches clients as it is; the texts are the original's where it has one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request makes no sense; the client must change it.
    #[error("{0}")]
    BadRequest(String),
    /// The request was understood and cannot be carried out. Many of the original's validation errors are of this
    /// kind, because clients know them as such.
    #[error("{0}")]
    Refused(String),
    /// The thing asked for does not exist.
    #[error("{0}")]
    NotFound(String),
    /// The caller lacks the right.
    #[error("Permission denied")]
    Denied,
    /// The caller lacks the right, and the reason is worth telling.
    #[error("Permission denied: {0}")]
    Forbidden(&'static str),
    /// The secret is no token known here.
    #[error("ACL not found")]
    UnknownToken,
    /// Access control is off, and the request is about it.
    #[error("ACL support disabled")]
    AclDisabled,
    /// Too much at once; try again later.
    #[error("{0}")]
    RateLimited(String),
    /// The cluster's state could not be read or written.
    #[error(transparent)]
    State(lictor_state::Error),
    /// Something of the machine failed: a file, a process.
    #[error("cannot {operation}")]
    Machine {
        /// What was being done, with its subject.
        operation: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}

impl From<lictor_state::Error> for Error {
    fn from(error: lictor_state::Error) -> Error {
        match error {
            lictor_state::Error::Denied => Error::Denied,
            lictor_state::Error::UnknownToken => Error::UnknownToken,
            error => Error::State(error),
        }
    }
}

/// An error with its causes, for one log line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
