//! What secrets stand for, as servers said, and for how long that is believed.

use std::collections::HashMap;
use std::time::Duration;

use lictor_model::acl::{Caller, Rules};
use lictor_model::intention::Action;
use parking_lot::Mutex;
use tokio::time::Instant;

/// What holds for a secret while no server can be asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DownPolicy {
    /// Everything is allowed.
    Allow,
    /// Nothing is.
    Deny,
    /// What was known goes on to hold, however old it is; who is not known may do nothing.
    #[default]
    ExtendCache,
    /// The same, and what is too old is used at once while it is asked for anew.
    AsyncCache,
}

impl DownPolicy {
    const ALL: [DownPolicy; 4] = [DownPolicy::Allow, DownPolicy::Deny, DownPolicy::ExtendCache, DownPolicy::AsyncCache];

    /// Reads the word of the configuration.
    pub fn parse(text: &str) -> Option<DownPolicy> {
        DownPolicy::ALL.into_iter().find(|policy| policy.as_str() == text)
    }

    /// The word of the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            DownPolicy::Allow => "allow",
            DownPolicy::Deny => "deny",
            DownPolicy::ExtendCache => "extend-cache",
            DownPolicy::AsyncCache => "async-cache",
        }
    }
}

/// More secrets than a node has users. They come from requests, so there is a most of them.
const MOST: usize = 4096;

/// What is remembered.
pub struct Tokens {
    ttl: Duration,
    policy: DownPolicy,
    known: Mutex<HashMap<String, Known>>,
}

#[derive(Clone)]
struct Known {
    /// `None` for a secret that is no token.
    caller: Option<Caller>,
    /// When a server said so; `None` where none could be asked.
    since: Option<Instant>,
    /// When that was last tried.
    tried: Instant,
}

/// How current what is known of a secret is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    /// As current as it has to be.
    Fresh,
    /// To be asked for anew, but good enough meanwhile.
    Usable,
    /// To be asked for.
    Stale,
}

/// After a try that failed servers are asked again for the same secret after this.
const RETRY: Duration = Duration::from_secs(1);

impl Tokens {
    /// Nothing is known yet.
    pub fn new(ttl: Duration, policy: DownPolicy) -> Tokens {
        Tokens { ttl, policy, known: Mutex::default() }
    }

    /// How current what is known of a secret is.
    pub fn age(&self, secret: &str) -> Age {
        let known = self.known.lock();
        let Some(known) = known.get(secret) else { return Age::Stale };
        match known.since {
            Some(since) if since.elapsed() < self.ttl => Age::Fresh,
            // Not for each request while servers are away.
            _ if known.tried.elapsed() < RETRY => Age::Fresh,
            Some(_) if self.policy == DownPolicy::AsyncCache => Age::Usable,
            _ => Age::Stale,
        }
    }

    /// Whether something is known that holds when servers cannot be asked.
    pub fn is_known(&self, secret: &str) -> bool {
        self.known.lock().get(secret).is_some_and(|known| known.since.is_some())
    }

    /// The caller; `None` for one that is no token, or of whom nothing was learned.
    pub fn caller(&self, secret: &str) -> Option<Caller> {
        self.known.lock().get(secret)?.caller.clone()
    }

    /// Takes in what a server has said.
    pub fn learned(&self, secret: &str, caller: Option<Caller>) {
        let now = Instant::now();
        self.put(secret, Known { caller, since: Some(now), tried: now });
    }

    /// No server could be asked.
    pub fn unreachable(&self, secret: &str) {
        self.unsaid(secret, self.policy);
    }

    /// Servers are there, and do not say now. That allows nobody anything that was not known.
    pub fn withheld(&self, secret: &str) {
        let policy = if self.policy == DownPolicy::Allow { DownPolicy::ExtendCache } else { self.policy };
        self.unsaid(secret, policy);
    }

    fn unsaid(&self, secret: &str, policy: DownPolicy) {
        let now = Instant::now();
        let before = self.known.lock().get(secret).cloned().filter(|before| before.since.is_some());
        let known = match (policy, before) {
            (DownPolicy::Allow, _) => Known { caller: Some(Caller::management("")), since: None, tried: now },
            (DownPolicy::ExtendCache | DownPolicy::AsyncCache, Some(before)) => Known { tried: now, ..before },
            (DownPolicy::Deny, _) | (_, None) => {
                let nobody = Caller::with_rules("", Rules::default(), Action::Deny);
                Known { caller: Some(nobody), since: None, tried: now }
            }
        };
        self.put(secret, known);
    }

    fn put(&self, secret: &str, known: Known) {
        let mut all = self.known.lock();
        if all.len() >= MOST && !all.contains_key(secret) {
            // The one that was asked about longest ago.
            let oldest = all.iter().min_by_key(|(_, known)| known.tried).map(|(secret, _)| secret.clone());
            oldest.and_then(|oldest| all.remove(&oldest));
        }
        all.insert(secret.to_owned(), known);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(30);

    fn may(tokens: &Tokens, secret: &str) -> bool {
        tokens.caller(secret).is_some_and(|caller| caller.writes_service("web"))
    }

    #[tokio::test(start_paused = true)]
    async fn what_servers_said_holds_for_its_time() {
        let tokens = Tokens::new(TTL, DownPolicy::ExtendCache);
        assert_eq!(tokens.age("s"), Age::Stale);
        tokens.learned("s", Some(Caller::management("")));
        tokens.learned("no", None);
        assert_eq!((tokens.age("s"), tokens.age("no")), (Age::Fresh, Age::Fresh));
        assert!(may(&tokens, "s") && tokens.caller("no").is_none());
        tokio::time::advance(TTL).await;
        assert_eq!(tokens.age("s"), Age::Stale);
    }

    #[tokio::test(start_paused = true)]
    async fn while_no_server_answers_the_policy_decides() {
        for (policy, known, unknown) in [
            (DownPolicy::Allow, true, true),
            (DownPolicy::Deny, false, false),
            (DownPolicy::ExtendCache, true, false),
            (DownPolicy::AsyncCache, true, false),
        ] {
            let tokens = Tokens::new(TTL, policy);
            tokens.learned("known", Some(Caller::management("")));
            for _ in 0..3 {
                tokio::time::advance(TTL).await;
                assert_eq!(tokens.age("known") == Age::Usable, policy == DownPolicy::AsyncCache);
                tokens.unreachable("known");
                tokens.unreachable("unknown");
                assert_eq!((may(&tokens, "known"), may(&tokens, "unknown")), (known, unknown), "{policy:?}");
                assert_eq!(tokens.age("unknown"), Age::Fresh, "not asked for again at once");
            }
            // A server is back.
            tokio::time::advance(RETRY).await;
            assert_eq!(tokens.age("unknown"), Age::Stale);
            tokens.learned("known", None);
            assert!(tokens.caller("known").is_none(), "{policy:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_does_not_say_gives_no_rights() {
        for (policy, known) in [
            (DownPolicy::Allow, true),
            (DownPolicy::Deny, false),
            (DownPolicy::ExtendCache, true),
            (DownPolicy::AsyncCache, true),
        ] {
            let tokens = Tokens::new(TTL, policy);
            tokens.learned("known", Some(Caller::management("")));
            tokens.withheld("known");
            tokens.withheld("unknown");
            assert_eq!((may(&tokens, "known"), may(&tokens, "unknown")), (known, false), "{policy:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_is_remembered_than_there_is_room_for() {
        let tokens = Tokens::new(TTL, DownPolicy::Deny);
        for number in 0..MOST + 10 {
            tokens.learned(&number.to_string(), None);
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert_eq!(tokens.known.lock().len(), MOST);
        assert_eq!(tokens.age("0"), Age::Stale);
    }
}
