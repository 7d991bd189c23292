//! Prepared queries: a stored question for instances of a service, answered by name.

use crate::acl::{Access, Caller, Resource};
use crate::meta::Meta;
use crate::revision::Revision;
use crate::service::Service;

/// A stored question. Absent and empty lists are kept apart, since answers show the difference.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Query {
    /// A UUID given at creation.
    pub id: String,
    /// What it is executed by; empty for one that is executed by its id, and for the template that takes every name.
    pub name: String,
    /// The session it lives with; empty for none.
    pub session: String,
    /// ACL token to execute it with instead of the caller's; a secret.
    pub token: String,
    /// Whether it is a pattern for many names.
    pub template: Template,
    /// What is asked.
    pub service: Question,
    /// How long DNS answers hold, as given (`10s`); empty means the agent's setting.
    pub dns_ttl: String,
    /// First written.
    pub created: Revision,
    /// Last changed.
    pub modified: Revision,
}

/// What makes a query a pattern.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template {
    /// `name_prefix_match`; empty for an ordinary query.
    pub kind: String,
    /// Whose groups the texts of the question may use.
    pub regexp: String,
    /// Whether tags that turn out empty are dropped.
    pub remove_empty_tags: bool,
}

impl Template {
    /// The one kind there is.
    pub const NAME_PREFIX: &str = "name_prefix_match";

    /// Whether the query is a pattern.
    pub fn is_used(&self) -> bool {
        !self.kind.is_empty()
    }
}

/// Which instances are asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Question {
    /// Name of the service.
    pub service: String,
    /// Where to ask when nothing is left here.
    pub failover: Failover,
    /// Whether warning instances are left out, too.
    pub only_passing: bool,
    /// Checks whose state does not count, by exact id.
    pub ignore_check_ids: Option<Vec<String>>,
    /// Node to sort by distance from, or `_agent`, or `_ip`.
    pub near: String,
    /// Tags that an instance must have, or with a `!` before them must not have; no case.
    pub tags: Option<Vec<String>>,
    /// Metadata that the node must have.
    pub node_meta: Option<Meta>,
    /// Metadata that the instance must have.
    pub service_meta: Option<Meta>,
    /// Whether the service's mesh instances are meant.
    pub connect: bool,
}

/// Other datacenters to ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failover {
    /// First so many of the nearest.
    pub nearest: i64,
    /// Then these, in order.
    pub datacenters: Option<Vec<String>>,
}

impl Query {
    /// The name that rights are asked for; `None` for an unnamed query, which only its id leads to.
    pub fn acl_name(&self) -> Option<&str> {
        (!self.name.is_empty() || self.template.is_used()).then_some(self.name.as_str())
    }

    /// Whether a caller may write it. Who knows the id of an unnamed query may change it: it is bound to a session, and
    /// gone with it.
    pub fn is_written_by(&self, caller: &Caller) -> bool {
        self.acl_name().is_none_or(|name| caller.may(Access::Write, Resource::Query, name))
    }
}

impl Question {
    /// Whether an instance has what is required and nothing of what is forbidden; its health is not looked at.
    pub fn takes(&self, node_meta: Option<&Meta>, service: &Service) -> bool {
        holds(self.node_meta.as_ref(), node_meta)
            && holds(self.service_meta.as_ref(), service.meta.as_ref())
            && self.tags.iter().flatten().all(|wanted| {
                let has = |tag: &str| service.tags.iter().flatten().any(|own| own.eq_ignore_ascii_case(tag));
                match wanted.strip_prefix('!') {
                    Some(forbidden) => !has(forbidden),
                    None => has(wanted),
                }
            })
    }

    /// Whether the state of a check counts.
    pub fn minds(&self, check_id: &str) -> bool {
        !self.ignore_check_ids.iter().flatten().any(|ignored| ignored == check_id)
    }
}

fn holds(wanted: Option<&Meta>, present: Option<&Meta>) -> bool {
    wanted.is_none_or(|wanted| {
        wanted.iter().all(|(key, value)| present.and_then(|present| present.get(key)) == Some(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(list: &[&str]) -> Option<Vec<String>> {
        Some(list.iter().map(|text| (*text).to_owned()).collect())
    }

    #[test]
    fn plain_tags_are_required_and_negated_ones_forbidden() {
        let service = Service { tags: texts(&["V1", "primary"]), ..Service::default() };
        let takes = |tags: &[&str]| Question { tags: texts(tags), ..Question::default() }.takes(None, &service);
        assert!(takes(&[]) && takes(&["v1"]) && takes(&["v1", "!old"]));
        assert!(!takes(&["v1", "!PRIMARY"]) && !takes(&["v2"]));
    }

    #[test]
    fn metadata_must_match_exactly() {
        let meta = |key: &str| Some(Meta::from([(key.to_owned(), "1".to_owned())]));
        let service = Service { meta: meta("v"), ..Service::default() };
        let question = |key| Question { service_meta: meta(key), ..Question::default() };
        assert!(question("v").takes(None, &service));
        assert!(!question("V").takes(None, &service));
        let by_node = Question { node_meta: meta("rack"), ..Question::default() };
        assert!(by_node.takes(meta("rack").as_ref(), &service) && !by_node.takes(None, &service));
    }

    #[test]
    fn ignored_checks_are_named_exactly() {
        let question = Question { ignore_check_ids: texts(&["x"]), ..Question::default() };
        assert!(!question.minds("x") && question.minds("X"));
    }

    #[test]
    fn only_named_queries_have_a_name_to_have_rights_for() {
        let mut query = Query::default();
        assert_eq!(query.acl_name(), None);
        query.template.kind = Template::NAME_PREFIX.into();
        assert_eq!(query.acl_name(), Some(""));
    }
}
