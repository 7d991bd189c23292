//! Who is asking, and what they may do.
//!
//! A secret becomes a [`Caller`] in one place (`state::tokens`); everything behind it asks the caller, never the
//! secret. Rules follow the original's 1.4 system: exact rules beat prefix rules, longer prefixes beat shorter ones,
//! and what no rule speaks of is decided by the default policy.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use crate::intention::Action;
use crate::name::{ServiceId, ServiceName};
use crate::prefix;

/// How much a rule grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Access {
    /// Nothing, explicitly.
    Deny,
    /// Reading one thing at a time.
    Read,
    /// Reading, and listing what is below a prefix (keys only).
    List,
    /// Everything.
    Write,
}

impl Access {
    /// Reads the word of a rule; `list` is only good for keys, which the caller checks.
    pub fn parse(text: &str) -> Option<Access> {
        match text {
            "deny" => Some(Access::Deny),
            "read" => Some(Access::Read),
            "list" => Some(Access::List),
            "write" => Some(Access::Write),
            _ => None,
        }
    }

    /// The word of a rule.
    pub fn as_str(self) -> &'static str {
        match self {
            Access::Deny => "deny",
            Access::Read => "read",
            Access::List => "list",
            Access::Write => "write",
        }
    }

    /// Of two rules for the same name in different policies: deny wins, then the wider grant.
    fn merged(self, other: Access) -> Access {
        if self == Access::Deny || other == Access::Deny { Access::Deny } else { self.max(other) }
    }
}

/// What a rule can be about, where the rule names something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// An agent, by node name.
    Agent,
    /// User events, by event name.
    Event,
    /// Keys of the key-value store.
    Key,
    /// Nodes of the catalog.
    Node,
    /// Prepared queries, by query name.
    Query,
    /// Services.
    Service,
    /// Sessions, by node name.
    Session,
    /// Intentions, by destination service; written inside service rules.
    Intention,
}

/// What a rule can be about as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Realm {
    /// Tokens and policies.
    Acl,
    /// Gossip keys (there are none here; the right is kept).
    Keyring,
    /// Cluster operation.
    Operator,
}

/// The rules of one or several policies, ready to be asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    exact: Named,
    prefix: Named,
    realms: BTreeMap<Realm, Access>,
}

/// Rules by what they are about and by name or prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Named(BTreeMap<Resource, BTreeMap<String, Access>>);

impl Rules {
    /// Adds a rule for exactly this name.
    pub fn add_exact(&mut self, resource: Resource, name: &str, access: Access) {
        self.exact.add(resource, name, access);
    }

    /// Adds a rule for all names that begin so.
    pub fn add_prefix(&mut self, resource: Resource, prefix: &str, access: Access) {
        self.prefix.add(resource, prefix, access);
    }

    /// Adds a rule for a whole realm.
    pub fn add_realm(&mut self, realm: Realm, access: Access) {
        merge(&mut self.realms, realm, access);
    }

    /// Adds all rules of another policy.
    pub fn add_all(&mut self, other: &Rules) {
        self.exact.add_all(&other.exact);
        self.prefix.add_all(&other.prefix);
        for (realm, access) in &other.realms {
            merge(&mut self.realms, *realm, *access);
        }
    }

    /// What the rules grant for a name; nothing when no rule speaks of it.
    ///
    /// A rule for a service that does not mention intentions grants reading them to whoever may read the service; it
    /// counts where it stands, before any shorter prefix that does mention them.
    fn granted(&self, resource: Resource, name: &str) -> Option<Access> {
        let implied = |of_service: Access| of_service.min(Access::Read);
        if resource != Resource::Intention {
            let exact = self.exact.get(resource, name);
            return exact.or_else(|| Some(self.prefix.longest(resource, name)?.1));
        }
        let exact = self.exact.get(resource, name);
        if let Some(access) = exact.or_else(|| self.exact.get(Resource::Service, name).map(implied)) {
            return Some(access);
        }
        match (self.prefix.longest(resource, name), self.prefix.longest(Resource::Service, name)) {
            (Some((own, access)), Some((service, _))) if own >= service => Some(access),
            (_, Some((_, of_service))) => Some(implied(of_service)),
            (own, None) => Some(own?.1),
        }
    }

    /// Whether everything below `prefix` is granted: the longest rule for the prefix is, and none below it is less.
    fn grants_whole(&self, resource: Resource, prefix: &str, wanted: Access, default: bool) -> bool {
        let above = self.prefix.longest(resource, prefix).map_or(default, |(_, access)| access >= wanted);
        let mut below = self.exact.below(resource, prefix).chain(self.prefix.below(resource, prefix));
        above && below.all(|access| access >= wanted)
    }
}

/// Names come from whoever asks, who may have no right at all and send long ones: nothing here may cost more than a look
/// at the name and at the rules that it could meet.
impl Named {
    fn add(&mut self, resource: Resource, name: &str, access: Access) {
        merge(self.0.entry(resource).or_default(), name.to_owned(), access);
    }

    fn add_all(&mut self, other: &Named) {
        for (resource, rules) in &other.0 {
            for (name, access) in rules {
                self.add(*resource, name, *access);
            }
        }
    }

    fn get(&self, resource: Resource, name: &str) -> Option<Access> {
        self.0.get(&resource)?.get(name).copied()
    }

    /// The rule with the longest prefix of a name, and that prefix's length.
    fn longest(&self, resource: Resource, name: &str) -> Option<(usize, Access)> {
        let (prefix, access) = prefix::longest(self.0.get(&resource)?, name)?;
        Some((prefix.len(), *access))
    }

    /// What the rules say for names that begin so.
    fn below<'a>(&'a self, resource: Resource, prefix: &'a str) -> impl Iterator<Item = Access> + 'a {
        let below = move |rules: &'a BTreeMap<String, Access>| {
            let from = rules.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
            from.take_while(move |(name, _)| name.starts_with(prefix)).map(|(_, access)| *access)
        };
        self.0.get(&resource).into_iter().flat_map(below)
    }
}

fn merge<K: Ord>(rules: &mut BTreeMap<K, Access>, key: K, access: Access) {
    rules.entry(key).and_modify(|present| *present = present.merged(access)).or_insert(access);
}

/// What a managed proxy may do with the token its agent gave it: nothing but what a proxy needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyRights {
    /// The proxy's own service id.
    pub proxy_id: ServiceId,
    /// The service it speaks for.
    pub service: ServiceName,
    /// Services it may discover, folded: its upstreams, and its own.
    pub upstreams: BTreeSet<String>,
    /// Prepared queries it may execute, by name or id.
    pub queries: BTreeSet<String>,
}

/// Who asks.
#[derive(Clone, Debug)]
pub struct Caller(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    rights: Rights,
    proxy: Option<ProxyRights>,
    accessor: String,
}

#[derive(Clone, Debug)]
enum Rights {
    /// Access control is off.
    Disabled,
    /// The agent acting for itself.
    All,
    /// The rules of a token over a default policy.
    Rules { rules: Rules, default_policy: Action, enforcement: Enforcement },
}

/// What the rules of tokens are asked about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Enforcement {
    /// Everything.
    #[default]
    Full,
    /// Not agents, nodes, services, sessions and queries, as the original before its version 0.8. Identities in the mesh
    /// and intentions are asked about even so: they came later.
    BeforeVersion8,
}

impl Enforcement {
    fn exempts(self, resource: Resource) -> bool {
        let later = matches!(
            resource,
            Resource::Agent | Resource::Node | Resource::Service | Resource::Session | Resource::Query
        );
        self == Enforcement::BeforeVersion8 && later
    }
}

impl Caller {
    /// Access control is off: everyone may do everything.
    pub fn acls_disabled() -> Caller {
        Caller(Arc::new(Inner { rights: Rights::Disabled, proxy: None, accessor: String::new() }))
    }

    /// A caller with every right: a management token, or the agent itself.
    pub fn management(accessor: &str) -> Caller {
        Caller(Arc::new(Inner { rights: Rights::All, proxy: None, accessor: accessor.to_owned() }))
    }

    /// A caller with the rules of its token.
    pub fn with_rules(accessor: &str, rules: Rules, default_policy: Action) -> Caller {
        Caller::enforced(accessor, rules, default_policy, Enforcement::Full)
    }

    /// A caller with the rules of its token, asked about what the configuration says.
    pub fn enforced(accessor: &str, rules: Rules, default_policy: Action, enforcement: Enforcement) -> Caller {
        Caller(Arc::new(Inner {
            rights: Rights::Rules { rules, default_policy, enforcement },
            proxy: None,
            accessor: accessor.to_owned(),
        }))
    }

    /// A managed proxy: it acts within its [`ProxyRights`], and what it reads is filtered by its parent's rights.
    pub fn proxy(parent: &Caller, proxy: ProxyRights) -> Caller {
        Caller(Arc::new(Inner { rights: parent.0.rights.clone(), proxy: Some(proxy), accessor: String::new() }))
    }

    /// The rights of a managed proxy, if the caller is one.
    pub fn as_proxy(&self) -> Option<&ProxyRights> {
        self.0.proxy.as_ref()
    }

    /// The public id of the token, empty for the anonymous one and for the agent itself.
    pub fn accessor(&self) -> &str {
        &self.0.accessor
    }

    /// Whether access control is off.
    pub fn is_unrestricted(&self) -> bool {
        matches!(self.0.rights, Rights::Disabled)
    }

    /// Whether there is nothing to ask: access control is off, or the caller has every right.
    pub fn may_do_everything(&self) -> bool {
        !matches!(self.0.rights, Rights::Rules { .. })
    }

    /// Whether the two are known to have the same rights. Equal rules of two readings of a token do not count.
    pub fn is_same(&self, other: &Caller) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
            || (self.may_do_everything()
                && other.may_do_everything()
                && self.0.proxy.is_none()
                && other.0.proxy.is_none())
    }

    /// Whether the caller may do this with the named thing.
    pub fn may(&self, access: Access, resource: Resource, name: &str) -> bool {
        match &self.0.rights {
            Rights::Rules { enforcement, .. } if enforcement.exempts(resource) => true,
            _ => self.strictly_may(access, resource, name),
        }
    }

    /// The same without exemptions.
    fn strictly_may(&self, access: Access, resource: Resource, name: &str) -> bool {
        match &self.0.rights {
            Rights::Disabled | Rights::All => true,
            Rights::Rules { rules, default_policy, .. } => match rules.granted(resource, name) {
                Some(granted) => granted >= access,
                None => *default_policy == Action::Allow,
            },
        }
    }

    /// Whether the caller may do this with everything below a prefix.
    pub fn may_whole(&self, access: Access, resource: Resource, prefix: &str) -> bool {
        match &self.0.rights {
            Rights::Disabled | Rights::All => true,
            Rights::Rules { rules, default_policy, .. } => {
                rules.grants_whole(resource, prefix, access, *default_policy == Action::Allow)
            }
        }
    }

    /// Whether the caller may do this in a whole realm. Tokens and policies are never open by default.
    pub fn may_in(&self, access: Access, realm: Realm) -> bool {
        match &self.0.rights {
            Rights::Disabled | Rights::All => true,
            Rights::Rules { rules, default_policy, .. } => match rules.realms.get(&realm) {
                Some(granted) => *granted >= access,
                None => realm != Realm::Acl && *default_policy == Action::Allow,
            },
        }
    }

    /// Whether the caller may act as a service in the mesh: have its certificate, decide who connects to it.
    pub fn speaks_for(&self, service: &str) -> bool {
        self.strictly_may(Access::Write, Resource::Service, service)
    }

    /// Whether the caller may see a service.
    pub fn reads_service(&self, name: &str) -> bool {
        self.may(Access::Read, Resource::Service, name)
    }

    /// Whether the caller may change a service.
    pub fn writes_service(&self, name: &str) -> bool {
        self.may(Access::Write, Resource::Service, name)
    }

    /// Whether the caller may see a node.
    pub fn reads_node(&self, name: &str) -> bool {
        self.may(Access::Read, Resource::Node, name)
    }

    /// Whether the caller may change a node.
    pub fn writes_node(&self, name: &str) -> bool {
        self.may(Access::Write, Resource::Node, name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(build: impl FnOnce(&mut Rules)) -> Caller {
        let mut rules = Rules::default();
        build(&mut rules);
        Caller::with_rules("a", rules, Action::Deny)
    }

    #[test]
    fn exact_rules_beat_prefixes_and_longer_prefixes_beat_shorter_ones() {
        let caller = caller(|rules| {
            rules.add_prefix(Resource::Service, "", Access::Read);
            rules.add_prefix(Resource::Service, "web", Access::Write);
            rules.add_exact(Resource::Service, "web-admin", Access::Deny);
        });
        assert!(caller.reads_service("db") && !caller.writes_service("db"));
        assert!(caller.writes_service("web-1"));
        assert!(!caller.reads_service("web-admin"));
        assert!(!caller.reads_node("n1"));
    }

    /// By trying every prefix, the longest first.
    fn longest_by_hand(rules: &Rules, name: &str) -> Option<(usize, Access)> {
        let ends = (0..=name.len()).rev().filter(|end| name.is_char_boundary(*end));
        ends.map(|end| (end, rules.prefix.get(Resource::Key, &name[..end])))
            .find_map(|(end, access)| Some((end, access?)))
    }

    #[test]
    fn the_longest_prefix_is_found_among_all_that_look_like_it() {
        let letters = ["a", "b", "ä", "ö"];
        let word = |mut number: usize| {
            let mut word = String::new();
            while number > 0 {
                word.push_str(letters[number % 4]);
                number /= 4;
            }
            word
        };
        for seed in 0..200_usize {
            let mut rules = Rules::default();
            for n in 0..seed % 12 {
                let access = if n % 2 == 0 { Access::Read } else { Access::Write };
                rules.add_prefix(Resource::Key, &word((seed * 7919 + n * 104_729) % 1024), access);
            }
            for number in 0..1024 {
                let name = word(number);
                let found = rules.prefix.longest(Resource::Key, &name);
                assert_eq!(found, longest_by_hand(&rules, &name), "{name} in {rules:?}");
            }
        }
    }

    #[test]
    fn a_long_name_costs_no_more_than_its_length() {
        let name = "x".repeat(32 << 20);
        let caller = caller(|rules| {
            rules.add_prefix(Resource::Service, "", Access::Read);
            rules.add_prefix(Resource::Service, "xxxx", Access::Write);
            rules.add_prefix(Resource::Service, "xxxy", Access::Deny);
        });
        // A look at every prefix of it would take weeks.
        assert!(caller.writes_service(&name) && caller.may(Access::Read, Resource::Intention, &name));
        assert!(!caller.may(Access::Read, Resource::Key, &name));
        assert!(caller.may_whole(Access::Write, Resource::Service, &name));
    }

    #[test]
    fn the_same_name_in_several_policies_is_merged_with_deny_first() {
        let mut rules = Rules::default();
        rules.add_exact(Resource::Key, "k", Access::Read);
        rules.add_exact(Resource::Key, "k", Access::Write);
        assert_eq!(rules.granted(Resource::Key, "k"), Some(Access::Write));
        rules.add_exact(Resource::Key, "k", Access::Deny);
        assert_eq!(rules.granted(Resource::Key, "k"), Some(Access::Deny));
    }

    #[test]
    fn intentions_are_readable_by_whoever_reads_the_service() {
        let caller = caller(|rules| rules.add_exact(Resource::Service, "db", Access::Write));
        assert!(caller.may(Access::Read, Resource::Intention, "db"));
        assert!(!caller.may(Access::Write, Resource::Intention, "db"));
    }

    #[test]
    fn a_rule_without_intentions_stands_before_a_shorter_one_that_has_them() {
        let caller = caller(|rules| {
            rules.add_exact(Resource::Service, "db", Access::Read);
            rules.add_prefix(Resource::Service, "", Access::Deny);
            rules.add_prefix(Resource::Intention, "", Access::Write);
        });
        assert!(!caller.may(Access::Write, Resource::Intention, "db"));
        assert!(caller.may(Access::Read, Resource::Intention, "db"));
        assert!(caller.may(Access::Write, Resource::Intention, "web"), "denied services can have open intentions");
        assert!(!caller.reads_service("web"));
    }

    #[test]
    fn before_version_8_only_keys_events_and_identities_are_asked_about() {
        let caller = Caller::enforced("a", Rules::default(), Action::Deny, Enforcement::BeforeVersion8);
        assert!(caller.writes_node("n1") && caller.writes_service("web"));
        assert!(caller.may(Access::Write, Resource::Session, "n1") && caller.may(Access::Read, Resource::Query, "q"));
        assert!(!caller.may(Access::Read, Resource::Key, "k") && !caller.may(Access::Write, Resource::Event, "e"));
        assert!(!caller.speaks_for("web") && !caller.may(Access::Read, Resource::Intention, "web"));
        assert!(!caller.may_in(Access::Read, Realm::Operator));
    }

    #[test]
    fn a_whole_prefix_needs_every_rule_below_it() {
        let rules = |below| {
            caller(|rules| {
                rules.add_prefix(Resource::Key, "app/", Access::Write);
                rules.add_exact(Resource::Key, "app/secret", below);
            })
        };
        assert!(rules(Access::Write).may_whole(Access::Write, Resource::Key, "app/"));
        assert!(!rules(Access::Read).may_whole(Access::Write, Resource::Key, "app/"));
        assert!(!rules(Access::Write).may_whole(Access::Write, Resource::Key, ""));
    }

    #[test]
    fn tokens_are_never_open_by_default() {
        let open = Caller::with_rules("", Rules::default(), Action::Allow);
        assert!(open.may_in(Access::Write, Realm::Operator));
        assert!(!open.may_in(Access::Read, Realm::Acl));
    }
}
