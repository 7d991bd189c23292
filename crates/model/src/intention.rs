//! Intentions: which service may open a connection to which.

use std::cmp::Reverse;
use std::fmt;

use crate::acl::{Access, Caller, Resource};
use crate::identity::DEFAULT_NAMESPACE;
use crate::meta::Meta;
use crate::revision::Revision;

/// What an intention says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// The connection may be made.
    Allow,
    /// It may not.
    Deny,
}

impl Action {
    /// Reads `allow` or `deny`, exactly so.
    pub fn parse(text: &str) -> Option<Action> {
        match text {
            "allow" => Some(Action::Allow),
            "deny" => Some(Action::Deny),
            _ => None,
        }
    }

    /// The word in definitions and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Allow => "allow",
            Action::Deny => "deny",
        }
    }

    /// The word in reasons shown to people.
    pub fn shouted(self) -> &'static str {
        match self {
            Action::Allow => "ALLOW",
            Action::Deny => "DENY",
        }
    }
}

/// One side of an intention: a namespace and a name, each exact or `*`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Party {
    /// Namespace or `*`.
    pub namespace: String,
    /// Service name or `*`.
    pub name: String,
}

impl Party {
    /// A service of the default namespace.
    pub fn service(name: &str) -> Party {
        Party { namespace: DEFAULT_NAMESPACE.to_owned(), name: name.to_owned() }
    }

    /// Whether this side of an intention speaks of the given service. Names have no (ASCII) case: the original
    /// compared sources exactly, so that an intention for `WEB` blocked creating one for `web` yet never matched it.
    pub fn covers(&self, namespace: &str, name: &str) -> bool {
        (self.namespace == WILDCARD || self.namespace.eq_ignore_ascii_case(namespace))
            && (self.name == WILDCARD || self.name.eq_ignore_ascii_case(name))
    }

    fn exactness(&self) -> u8 {
        match (self.namespace == WILDCARD, self.name == WILDCARD) {
            (false, false) => 3,
            (false, true) => 2,
            (true, _) => 1,
        }
    }

    fn folded(&self) -> Party {
        Party { namespace: self.namespace.to_ascii_lowercase(), name: self.name.to_ascii_lowercase() }
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

const WILDCARD: &str = "*";
const MAX_DESCRIPTION: usize = 512;
const MAX_META_PAIRS: usize = 64;
const MAX_META_KEY: usize = 128;
const MAX_META_VALUE: usize = 512;

/// Says whether connections from one party to another are allowed.
#[derive(Clone, Debug, PartialEq)]
pub struct Intention {
    /// A UUID given at creation.
    pub id: String,
    /// For people, up to 512 bytes.
    pub description: String,
    /// Who connects.
    pub source: Party,
    /// Who is connected to.
    pub destination: Party,
    /// `consul` is the only type of source.
    pub source_type: String,
    /// The decision, as text: an invalid one can be submitted and must be named.
    pub action: String,
    /// Kept and shown, without meaning.
    pub default_addr: String,
    /// Kept and shown, without meaning.
    pub default_port: i64,
    /// Metadata with its own limits.
    pub meta: Meta,
    /// Nanoseconds since the Unix epoch.
    pub created_at: i64,
    /// Nanoseconds since the Unix epoch.
    pub updated_at: i64,
    /// When it was first written.
    pub created: Revision,
    /// When it was last changed.
    pub modified: Revision,
}

impl Intention {
    /// How specific it is, 9 to 1; the destination counts more than the source.
    pub fn precedence(&self) -> u8 {
        3 * (self.destination.exactness() - 1) + self.source.exactness()
    }

    /// The decision; anything but `allow` denies.
    pub fn decision(&self) -> Action {
        Action::parse(&self.action).unwrap_or(Action::Deny)
    }

    /// Whether a caller may write it: who connects to a service is decided by who may decide for that service.
    pub fn is_written_by(&self, caller: &Caller) -> bool {
        caller.may(Access::Write, Resource::Intention, &self.destination.name)
    }

    /// The key by which lists are ordered: the first match of a list in this order decides.
    pub fn order(&self) -> impl Ord + use<> {
        (Reverse(self.precedence()), self.source.clone(), self.destination.clone())
    }

    /// The pair that must be unique, without case.
    pub fn pair(&self) -> (Party, Party) {
        (self.source.folded(), self.destination.folded())
    }

    /// All that is wrong with it, in the texts that clients know; empty when it can be stored.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (name, value) in [("SourceNS", &self.source.namespace), ("DestinationNS", &self.destination.namespace)] {
            if value.is_empty() {
                problems.push(format!("{name} must be set"));
            }
        }
        for (name, value) in [("SourceName", &self.source.name), ("DestinationName", &self.destination.name)] {
            if value.is_empty() {
                problems.push(format!("{name} must be set"));
            }
        }
        for (name, value) in [
            ("SourceNS", &self.source.namespace),
            ("SourceName", &self.source.name),
            ("DestinationNS", &self.destination.namespace),
            ("DestinationName", &self.destination.name),
        ] {
            if value.contains('*') && value != WILDCARD {
                problems.push(format!("{name}: wildcard character '*' cannot be used with partial values"));
            }
        }
        for (name, party) in [("SourceName", &self.source), ("DestinationName", &self.destination)] {
            if party.namespace == WILDCARD && party.name != WILDCARD {
                problems.push(format!("{name}: exact value cannot follow wildcard namespace"));
            }
        }
        if self.description.len() > MAX_DESCRIPTION {
            problems.push(format!("Description exceeds maximum length {MAX_DESCRIPTION}"));
        }
        if self.meta.len() > MAX_META_PAIRS {
            problems.push(format!("Meta exceeds maximum element count {MAX_META_PAIRS}"));
        }
        for (key, value) in &self.meta {
            if key.len() > MAX_META_KEY {
                problems.push(format!("Meta key {key:?} exceeds maximum length {MAX_META_KEY}"));
            }
            if value.len() > MAX_META_VALUE {
                problems.push(format!("Meta value for key {key:?} exceeds maximum length {MAX_META_VALUE}"));
            }
        }
        if Action::parse(&self.action).is_none() {
            problems.push("Action must be set to 'allow' or 'deny'".into());
        }
        if self.source_type != "consul" {
            problems.push("SourceType must be set to 'consul'".into());
        }
        problems
    }
}

/// `ALLOW default/web => default/db (ID: .., Precedence: 9)`, as reasons and duplicates show it.
impl fmt::Display for Intention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} => {} (ID: {}, Precedence: {})",
            self.decision().shouted(),
            self.source,
            self.destination,
            self.id,
            self.precedence()
        )
    }
}

/// What is decided when no intention speaks of a connection, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Otherwise {
    /// Access control is off: everything is allowed.
    AclsDisabled,
    /// The default policy of access control.
    AclDefault(Action),
}

impl Otherwise {
    /// The decision.
    pub fn action(self) -> Action {
        match self {
            Otherwise::AclsDisabled => Action::Allow,
            Otherwise::AclDefault(action) => action,
        }
    }
}

/// A decision about one connection and its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Allowed or not.
    pub action: Action,
    /// The text clients see.
    pub reason: String,
    /// The intention that decided, if one did.
    pub intention: Option<String>,
}

impl Decision {
    /// Whether the connection may be made.
    pub fn is_allowed(&self) -> bool {
        self.action == Action::Allow
    }
}

/// Decides whether the service `source` may connect to the destination that `intentions` were selected for.
///
/// `intentions` holds those whose destination covers the target, in the order of [`Intention::order`]. The first whose
/// source covers the client decides. Trust domain and datacenter of the client do not count, as in the original.
pub fn decide<'a>(
    intentions: impl IntoIterator<Item = &'a Intention>,
    source_namespace: &str,
    source: &str,
    otherwise: Otherwise,
) -> Decision {
    match intentions.into_iter().find(|intention| intention.source.covers(source_namespace, source)) {
        Some(intention) => Decision {
            action: intention.decision(),
            reason: format!("Matched intention: {intention}"),
            intention: Some(intention.id.clone()),
        },
        None => Decision {
            action: otherwise.action(),
            reason: match otherwise {
                Otherwise::AclsDisabled => "ACLs disabled, access is allowed by default".into(),
                Otherwise::AclDefault(_) => "Default behavior configured by ACLs".into(),
            },
            intention: None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intention(source: (&str, &str), destination: (&str, &str), action: &str) -> Intention {
        let party = |(namespace, name): (&str, &str)| Party { namespace: namespace.into(), name: name.into() };
        Intention {
            id: "i".into(),
            description: String::new(),
            source: party(source),
            destination: party(destination),
            source_type: "consul".into(),
            action: action.into(),
            default_addr: String::new(),
            default_port: 0,
            meta: Meta::new(),
            created_at: 0,
            updated_at: 0,
            created: Revision::ZERO,
            modified: Revision::ZERO,
        }
    }

    #[test]
    fn the_nine_combinations_have_precedence_nine_to_one() {
        let sides = [("default", "a"), ("default", "*"), ("*", "*")];
        let all: Vec<u8> = sides
            .iter()
            .flat_map(|destination| sides.iter().map(|source| intention(*source, *destination, "allow").precedence()))
            .collect();
        assert_eq!(all, [9, 8, 7, 6, 5, 4, 3, 2, 1]);
    }

    #[test]
    fn the_most_specific_intention_decides() {
        let mut list = [
            intention(("default", "*"), ("default", "db"), "deny"),
            intention(("default", "web"), ("default", "db"), "allow"),
        ];
        list.sort_by_key(|i| i.order());
        let decide = |source| decide(&list, "default", source, Otherwise::AclsDisabled);
        assert!(decide("web").is_allowed());
        assert!(decide("WEB").is_allowed());
        assert!(!decide("api").is_allowed());
        assert_eq!(decide("web").reason, "Matched intention: ALLOW default/web => default/db (ID: i, Precedence: 9)");
    }

    #[test]
    fn without_a_match_access_control_decides() {
        let none = |otherwise| decide([], "default", "web", otherwise);
        assert_eq!(none(Otherwise::AclsDisabled).reason, "ACLs disabled, access is allowed by default");
        let denied = none(Otherwise::AclDefault(Action::Deny));
        assert!(!denied.is_allowed());
        assert_eq!(denied.reason, "Default behavior configured by ACLs");
    }

    #[test]
    fn what_cannot_be_stored_is_named() {
        let problems = |source, destination, action| intention(source, destination, action).problems();
        assert!(problems(("default", "a"), ("default", "b"), "allow").is_empty());
        assert_eq!(problems(("default", ""), ("default", "b"), "allow"), ["SourceName must be set"]);
        assert_eq!(
            problems(("default", "a*"), ("default", "b"), "allow"),
            ["SourceName: wildcard character '*' cannot be used with partial values"]
        );
        assert_eq!(
            problems(("*", "a"), ("default", "b"), "allow"),
            ["SourceName: exact value cannot follow wildcard namespace"]
        );
        assert_eq!(problems(("default", "a"), ("default", "b"), "Allow"), ["Action must be set to 'allow' or 'deny'"]);
    }

    /// Only what happens in here is counted.
    #[inline(never)]
    fn measured<T>(work: impl FnOnce() -> T) -> T {
        std::hint::black_box(work())
    }

    #[test]
    #[ignore = "a workload for counting instructions, see docs/performance.md"]
    fn weigh_a_thousand_decisions_among_a_hundred_intentions() {
        let names: Vec<String> = (0..100).map(|index| format!("service-{index}")).collect();
        let intentions: Vec<Intention> =
            names.iter().map(|name| intention(("default", name), ("default", "db"), "allow")).collect();
        let allowed = measured(|| {
            (0..1000)
                .filter(|turn| {
                    let source = names.get(turn % 128).map_or("stranger", String::as_str);
                    decide(&intentions, "default", source, Otherwise::AclDefault(Action::Deny)).is_allowed()
                })
                .count()
        });
        assert_eq!(allowed, 800);
    }
}
