//! May this peer connect to our service? Decided here, from intentions held and kept current, so that no connection
//! waits for the agent and none fails for want of it.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use lictor_model::intention::{Action, Intention, Otherwise, decide};
use lictor_tls::{Gate, Peer, Refusal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::control::{Authorized, Matched};

/// What is decided about a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It may.
    Allowed,
    /// It may not; the reason is for the log.
    Denied(String),
    /// The intentions are not held: the agent must be asked.
    Unknown,
}

/// The intentions that speak of one service: ours, for as long as the proxy stands for it.
#[derive(Default)]
pub(crate) struct Policy {
    held: ArcSwapOption<Held>,
    /// Why nobody may connect any more: the proxy stands for another service. For good.
    over: OnceLock<String>,
}

struct Held {
    intentions: Vec<Intention>,
    otherwise: Action,
}

impl Policy {
    /// Takes what the agent said. An agent that does not say what holds where no intention matches cannot be decided
    /// for.
    pub(crate) fn update(&self, matched: Matched) {
        let Matched { intentions, otherwise } = matched;
        self.held.store(otherwise.map(|otherwise| Held { intentions, otherwise }.into()));
    }

    /// Denies everybody from now on.
    fn end(&self, reason: String) {
        // Once it is over it stays so, for the first reason.
        let _ = self.over.set(reason);
    }

    /// Why nobody may connect any more, if that is so.
    pub(crate) fn over(&self) -> Option<&String> {
        self.over.get()
    }

    pub(crate) fn decide(&self, peer: &Peer) -> Verdict {
        if let Some(reason) = self.over() {
            return Verdict::Denied(reason.clone());
        }
        let held = self.held.load();
        let Some(held) = held.as_ref() else { return Verdict::Unknown };
        let decision = decide(
            &held.intentions,
            &peer.identity.namespace,
            peer.identity.service.as_str(),
            Otherwise::AclDefault(held.otherwise),
        );
        if decision.is_allowed() { Verdict::Allowed } else { Verdict::Denied(decision.reason) }
    }
}

/// The policy of the service that the proxy stands for now. What was begun for a service keeps that service's policy, so
/// that nothing is ever decided under the name of another one.
#[derive(Default)]
pub(crate) struct Policies {
    current: ArcSwap<Policy>,
}

impl Policies {
    pub(crate) fn current(&self) -> Arc<Policy> {
        self.current.load_full()
    }

    /// The service is ours no more: whatever was begun for it is denied from now on.
    pub(crate) fn end(&self, reason: String) {
        self.current.load().end(reason);
    }

    /// Begins with another service, of which nothing is known yet.
    pub(crate) fn begin(&self) {
        self.current.store(Arc::default());
    }
}

impl Gate for Policies {
    fn admit(&self, client: &Peer) -> Result<(), Refusal> {
        match self.current.load().decide(client) {
            Verdict::Denied(reason) => Err(Refusal::Denied(reason)),
            // What is unknown is asked behind the handshake, where waiting is possible.
            Verdict::Allowed | Verdict::Unknown => Ok(()),
        }
    }
}

/// A question for the agent about one connection.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) uri: String,
    pub(crate) serial: String,
    pub(crate) answer: oneshot::Sender<Authorized>,
}

/// Questions that may wait for the agent. Each belongs to a connection that waits no longer than its limit; more of them
/// than this are not worth queueing.
pub(crate) const QUESTIONS: usize = 1024;

/// Asks the agent about one connection. Whatever goes wrong means no, and so does an answer that does not come in time.
pub(crate) async fn ask(questions: &mpsc::Sender<Question>, peer: &Peer, limit: Duration) -> Authorized {
    let (answer, answered) = oneshot::channel();
    let question = Question { uri: peer.identity.to_string(), serial: peer.serial.clone(), answer };
    let refused = |reason: &str| Authorized { allowed: false, reason: reason.to_owned() };
    match questions.try_send(question) {
        Ok(()) => match timeout(limit, answered).await {
            Ok(answer) => answer.unwrap_or_else(|_| refused("the agent gave no answer")),
            Err(_) => refused("the agent gave no answer in time"),
        },
        Err(_) => refused("too many connections wait for the agent"),
    }
}

/// The next question that somebody still waits for: the others are not worth the agent's time.
pub(crate) async fn next_question(questions: &mut mpsc::Receiver<Question>) -> Option<Question> {
    loop {
        let question = questions.recv().await?;
        if !question.answer.is_closed() {
            return Some(question);
        }
    }
}

#[cfg(test)]
mod tests {
    use lictor_model::identity::{ServiceIdentity, TrustDomain};
    use lictor_model::intention::Party;
    use lictor_model::revision::Revision;

    use super::*;

    fn peer(service: &str) -> Peer {
        let identity = ServiceIdentity::new(&TrustDomain::new("x.consul"), "dc1", service.into());
        Peer { uri: identity.to_string(), identity, serial: "01".into(), not_before: 0, not_after: i64::MAX }
    }

    const LONG: Duration = Duration::from_secs(20);

    fn deny(source: &str) -> Intention {
        Intention {
            id: "i".into(),
            description: String::new(),
            source: Party::service(source),
            destination: Party::service("db"),
            source_type: "consul".into(),
            action: "deny".into(),
            default_addr: String::new(),
            default_port: 0,
            meta: Default::default(),
            created_at: 0,
            updated_at: 0,
            created: Revision::ZERO,
            modified: Revision::ZERO,
        }
    }

    #[test]
    fn nothing_is_decided_before_the_intentions_and_the_default_are_known() {
        let policy = Policy::default();
        assert_eq!(policy.decide(&peer("web")), Verdict::Unknown);
        assert!(Policies::default().admit(&peer("web")).is_ok());
        policy.update(Matched { intentions: vec![deny("web")], otherwise: None });
        assert_eq!(policy.decide(&peer("web")), Verdict::Unknown);
    }

    #[test]
    fn what_is_held_decides() {
        let policies = Policies::default();
        let policy = policies.current();
        policy.update(Matched { intentions: vec![deny("web")], otherwise: Some(Action::Allow) });
        assert!(matches!(policy.decide(&peer("web")), Verdict::Denied(reason) if reason.contains("default/web")));
        assert!(matches!(policies.admit(&peer("web")), Err(Refusal::Denied(_))));
        assert_eq!(policy.decide(&peer("api")), Verdict::Allowed);
        policy.update(Matched { intentions: vec![], otherwise: Some(Action::Deny) });
        assert_eq!(policy.decide(&peer("api")), Verdict::Denied("Default behavior configured by ACLs".into()));
    }

    #[test]
    fn what_was_begun_for_a_service_is_denied_when_the_proxy_stands_for_another_one_and_stays_so() {
        let policies = Policies::default();
        let before = policies.current();
        before.update(Matched { intentions: vec![], otherwise: Some(Action::Allow) });
        policies.end("another service".into());
        assert!(matches!(policies.admit(&peer("web")), Err(Refusal::Denied(_))), "nothing is known of the next one");
        policies.begin();
        assert_eq!(policies.current().decide(&peer("web")), Verdict::Unknown);
        // A late answer about the service before.
        before.update(Matched { intentions: vec![], otherwise: Some(Action::Allow) });
        assert_eq!(before.decide(&peer("web")), Verdict::Denied("another service".into()));
        policies.current().update(Matched { intentions: vec![], otherwise: Some(Action::Allow) });
        assert_eq!(before.decide(&peer("web")), Verdict::Denied("another service".into()));
        assert_eq!(policies.current().decide(&peer("web")), Verdict::Allowed);
    }

    #[tokio::test]
    async fn an_agent_that_does_not_answer_means_no() {
        let (questions, asked) = mpsc::channel(1);
        drop(asked);
        assert!(!ask(&questions, &peer("web"), LONG).await.allowed);
        let (questions, mut asked) = mpsc::channel(1);
        let web = peer("web");
        let (answer, ()) = tokio::join!(ask(&questions, &web, LONG), async {
            drop(asked.recv().await.unwrap());
        });
        assert!(!answer.allowed);
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_is_waited_for_no_longer_than_the_limit_and_not_asked_for_whoever_has_gone() {
        let (questions, mut asked) = mpsc::channel(2);
        let answer = timeout(2 * LONG, ask(&questions, &peer("web"), LONG)).await.expect("it is waited for");
        assert!(!answer.allowed && answer.reason.contains("in time"));
        let cache = peer("cache");
        let (answer, question) = tokio::join!(ask(&questions, &cache, LONG), async {
            let question = next_question(&mut asked).await.unwrap();
            let _ = question.answer.send(Authorized { allowed: true, reason: String::new() });
            question.uri
        });
        assert!(answer.allowed && question == cache.uri, "{question} was asked");
    }
}
