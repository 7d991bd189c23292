//! Sessions: their use cases, and the reconciler that ends those whose time is over.

use std::sync::Arc;
use std::time::Duration;

use lictor_model::acl::{Access, Caller, Resource};
use lictor_state::answer::Topic;
use lictor_state::session::Session;
use tokio::time::Instant;

use crate::agent::Inner;
use crate::{Agent, Error};

/// How often expiry is looked at at least: it also finishes what a transaction was too small for, or another process
/// left half done.
const AT_LEAST: Duration = Duration::from_secs(5);
/// And how often at most, however many sessions end at different moments.
const AT_MOST: Duration = Duration::from_millis(100);

impl Agent {
    /// Creates a session, on the node that it names, and gives its id.
    pub async fn create_session(&self, caller: &Caller, mut session: Session) -> Result<String, Error> {
        let config = &self.inner.config;
        if !caller.may(Access::Write, Resource::Session, session.node.as_str()) {
            return Err(Error::Denied);
        }
        session.id = uuid::Uuid::new_v4().to_string();
        let id = session.id.clone();
        self.inner.writer.create_session(session, config.shortest_session_ttl).await?;
        Ok(id)
    }

    /// Ends a session with all it holds.
    pub async fn destroy_session(&self, caller: &Caller, id: &str) -> Result<(), Error> {
        self.may_end(caller, id)?;
        Ok(self.inner.writer.destroy_session(id).await?)
    }

    /// Gives a session its whole time again; `None` when there is none.
    pub async fn renew_session(&self, caller: &Caller, id: &str) -> Result<Option<Arc<Session>>, Error> {
        if let Some(session) = self.any_session(id)
            && !caller.may(Access::Write, Resource::Session, session.node.as_str())
        {
            return Err(Error::Denied);
        }
        Ok(self.inner.writer.renew_session(id).await?)
    }

    fn may_end(&self, caller: &Caller, id: &str) -> Result<(), Error> {
        match self.any_session(id) {
            Some(session) if !caller.may(Access::Write, Resource::Session, session.node.as_str()) => Err(Error::Denied),
            None if !caller.is_unrestricted() => Err(Error::Refused(format!("Unknown session {id:?}"))),
            _ => Ok(()),
        }
    }

    /// A session whoever asks, to decide about its rights.
    fn any_session(&self, id: &str) -> Option<Arc<Session>> {
        self.reader(&Caller::management("")).session(id).value
    }
}

impl Inner {
    /// Ends sessions whose time is over, while this agent leads, until told to stop. Each end is conditional on the session not having been
    /// renewed, so several agents over one store may do this at once; and a session's time starts anew in a process
    /// that has just started, so a restart ends nobody's session.
    pub(crate) async fn expire_sessions(self: Arc<Self>) {
        let reader = self.cluster.reader(&Caller::management(""));
        loop {
            let seen = reader.current();
            let now = Instant::now();
            let next = match self.leads() {
                // Who was cut off knows nothing of renewals. It does not lead any more, and must not judge.
                false => None,
                true => self.writer.expire_sessions(now).await.unwrap_or_else(|error| {
                    tracing::error!("agent: cannot expire sessions: {}", crate::error::chain(&error));
                    None
                }),
            };
            let due = next.map_or(now + AT_LEAST, |next| next.min(now + AT_LEAST)).max(now + AT_MOST);
            tokio::select! {
                () = tokio::time::sleep_until(due) => {}
                // A new session may end before all those known so far.
                () = reader.changed(&[Topic::Sessions], seen) => {
                    if self.stop.or_stopped(tokio::time::sleep(AT_MOST)).await.is_none() {
                        return;
                    }
                }
                () = self.stop.requested() => return,
            }
        }
    }
}
