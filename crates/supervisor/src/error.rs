//! What can go wrong when keeping processes.

use std::io;
use std::path::PathBuf;

/// A failed operation of this room.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory of the supervisor cannot be used.
    #[error("cannot use the supervisor directory {path:?}")]
    Directory {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others could read or change what the supervisor trusts.
    #[error(
        "the supervisor directory {path:?} must belong to user {wanted_user} alone (chmod 700), it belongs to user {user} with mode {mode:03o}"
    )]
    Exposed {
        /// Which one.
        path: PathBuf,
        /// Who it should belong to.
        wanted_user: u32,
        /// Who it belongs to.
        user: u32,
        /// Its permission bits.
        mode: u32,
    },
    /// Another supervisor works on the same directory.
    #[error("another agent is using {path:?}")]
    InUse {
        /// Which one.
        path: PathBuf,
    },
    /// The socket on which processes report cannot be opened.
    #[error("cannot listen for readiness on {path:?}")]
    Notify {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A record cannot be written.
    #[error("cannot write the record {path:?}")]
    Record {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What the kernel tells about a process cannot be read.
    #[error("cannot identify process {pid}")]
    Identify {
        /// Which one.
        pid: i32,
        /// Why.
        source: io::Error,
    },
    /// It cannot be told whether a process that an earlier agent started still runs.
    #[error("cannot tell whether pid {pid} of the last agent still runs")]
    Unsure {
        /// Which one.
        pid: i32,
        /// Why.
        source: io::Error,
    },
    /// A record cannot be read.
    #[error("cannot read the record {path:?} of a process that may still run")]
    Unread {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A process of an earlier agent says nothing to this one, so it can hand nothing over.
    #[error("pid {pid} was not heard since it was adopted")]
    Unheard {
        /// Which one.
        pid: i32,
    },
    /// The operating system did not start the program.
    #[error("cannot start {program:?}")]
    Start {
        /// Its path.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Error {
    /// The error and its causes in one line.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}
