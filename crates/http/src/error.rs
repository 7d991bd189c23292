//! Why a request fails, and which status that is: the only place that turns errors into status codes.

use std::borrow::Cow;
use std::error::Error as _;
use std::path::PathBuf;

use http::{Method, StatusCode};

/// Why this face cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address, or the path of a Unix socket.
        address: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A socket file cannot be given its mode or owner.
    #[error("cannot set mode or owner of {path}")]
    SocketFile {
        /// The socket file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A configured response header is none.
    #[error("invalid response header {name:?}")]
    Header {
        /// Its name as configured.
        name: String,
    },
    /// Certificates that are to be used from now on cannot be.
    #[error("the certificates of the HTTPS listeners cannot be used")]
    Certificate(#[source] lictor_tls::Error),
}

/// Why one request fails. The text is the body of the answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Agent(#[from] lictor_agent::Error),
    #[error(transparent)]
    State(#[from] lictor_state::Error),
    /// The client said something that makes no sense.
    #[error("{0}")]
    Invalid(Cow<'static, str>),
    /// The same, where clients know it as an error of the server.
    #[error("{0}")]
    Refused(Cow<'static, str>),
    /// What is asked for does not exist.
    #[error("{0}")]
    NotFound(String),
    /// The path is not for this method (the first), but for another.
    #[error("method {0} not allowed")]
    Method(Method, Method),
    /// The caller lacks the right.
    #[error("Permission denied")]
    Denied,
    /// The request names a datacenter that is not ours.
    #[error("No path to datacenter")]
    Datacenter,
    /// Nobody shall know where nodes are.
    #[error("Coordinate support disabled")]
    CoordinatesDisabled,
    /// The body is larger than we hold.
    #[error("request body exceeds {0} byte limit")]
    TooLarge(u64),
    /// Bodies of others take all the room that there is for them.
    #[error("too many large request bodies at once, try again")]
    Crowded,
    /// This agent asks its servers more than it may. The original says nothing with it.
    #[error("")]
    Throttled,
    /// Somebody else is restoring a snapshot.
    #[error("a snapshot is being restored already, try again")]
    Restoring,
    /// The answer would be larger than we make one.
    #[error("answer exceeds {0} byte limit, ask for less at once")]
    AnswerTooLarge(u64),
    /// The client stopped in the middle of its body.
    #[error("request body did not arrive in time")]
    TooSlow,
    /// The connection broke in the middle of the body.
    #[error("cannot read request body")]
    Body(#[source] hyper::Error),
    /// The answer has no JSON form.
    #[error("cannot encode answer")]
    Encode(#[source] serde_json::Error),
}

impl Failure {
    pub(crate) fn invalid(text: impl Into<Cow<'static, str>>) -> Failure {
        Failure::Invalid(text.into())
    }

    pub(crate) fn refused(text: impl Into<Cow<'static, str>>) -> Failure {
        Failure::Refused(text.into())
    }

    /// The status code.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Failure::Agent(error) => of_agent(error),
            Failure::State(error) => of_state(error),
            Failure::Invalid(_) | Failure::Body(_) => StatusCode::BAD_REQUEST,
            Failure::Refused(_) | Failure::Datacenter | Failure::Encode(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Failure::NotFound(_) => StatusCode::NOT_FOUND,
            Failure::Method(..) => StatusCode::METHOD_NOT_ALLOWED,
            Failure::Denied => StatusCode::FORBIDDEN,
            Failure::CoordinatesDisabled => StatusCode::UNAUTHORIZED,
            Failure::TooLarge(_) | Failure::AnswerTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Failure::Crowded | Failure::Restoring => StatusCode::SERVICE_UNAVAILABLE,
            Failure::Throttled => StatusCode::TOO_MANY_REQUESTS,
            Failure::TooSlow => StatusCode::REQUEST_TIMEOUT,
        }
    }

    /// The body: the error and its causes.
    pub(crate) fn text(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }

    /// Whether the failure arose before anything was read, or nothing was found: answers then say nothing of how
    /// current they are.
    pub(crate) fn before_reading(&self) -> bool {
        matches!(
            self,
            Failure::Invalid(_)
                | Failure::NotFound(_)
                | Failure::CoordinatesDisabled
                | Failure::Agent(lictor_agent::Error::AclDisabled)
        )
    }

    /// Whether something of ours broke, as opposed to a request that cannot be carried out.
    pub(crate) fn is_ours(&self) -> bool {
        match self {
            Failure::Agent(lictor_agent::Error::Machine { .. }) | Failure::Encode(_) => true,
            Failure::State(error) | Failure::Agent(lictor_agent::Error::State(error)) => {
                use lictor_state::Error;
                !matches!(error, Error::Refused(_) | Error::Denied | Error::UnknownToken | Error::Bootstrapped(_))
            }
            _ => false,
        }
    }
}

fn of_agent(error: &lictor_agent::Error) -> StatusCode {
    use lictor_agent::Error;
    match error {
        Error::BadRequest(_) => StatusCode::BAD_REQUEST,
        Error::Refused(_) | Error::Machine { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        Error::NotFound(_) => StatusCode::NOT_FOUND,
        Error::Denied | Error::Forbidden(_) | Error::UnknownToken => StatusCode::FORBIDDEN,
        Error::AclDisabled => StatusCode::UNAUTHORIZED,
        Error::RateLimited(_) => StatusCode::TOO_MANY_REQUESTS,
        Error::State(error) => of_state(error),
    }
}

fn of_state(error: &lictor_state::Error) -> StatusCode {
    use lictor_state::Error;
    match error {
        Error::Denied | Error::UnknownToken | Error::Bootstrapped(_) => StatusCode::FORBIDDEN,
        Error::Refused(_) | Error::Store { .. } | Error::Record { .. } | Error::Format { .. } => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_the_ones_that_client_libraries_act_on() {
        use lictor_agent::Error;
        let check = |failure: Failure, status: u16, text: &str| {
            assert_eq!((failure.status().as_u16(), failure.text().as_str()), (status, text));
        };
        check(Error::Denied.into(), 403, "Permission denied");
        check(Error::UnknownToken.into(), 403, "ACL not found");
        check(Error::AclDisabled.into(), 401, "ACL support disabled");
        check(Error::BadRequest("Missing service name".into()).into(), 400, "Missing service name");
        check(Error::Refused("ServiceID missing".into()).into(), 500, "ServiceID missing");
        check(Error::State(lictor_state::Error::Denied).into(), 403, "Permission denied");
        check(lictor_state::Error::Refused("Must provide node".into()).into(), 500, "Must provide node");
        check(Failure::Datacenter, 500, "No path to datacenter");
        check(Failure::TooLarge(7), 413, "request body exceeds 7 byte limit");
        check(Failure::AnswerTooLarge(7), 413, "answer exceeds 7 byte limit, ask for less at once");
        check(Failure::Crowded, 503, "too many large request bodies at once, try again");
    }

    #[test]
    fn causes_are_part_of_the_text() {
        let source = std::io::Error::other("disk full");
        let failure = Failure::from(lictor_agent::Error::Machine { operation: "write service web".into(), source });
        assert_eq!(failure.text(), "cannot write service web: disk full");
        assert!(failure.is_ours());
    }
}
