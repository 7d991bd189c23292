//! What a prepared query must be like, and what is made of it at creation.

pub(crate) mod template;

use lictor_model::meta::{self, Meta};
use lictor_model::query::Query;
use lictor_notation::duration::GoDuration;

/// What is shown of a token to who may not see it.
pub const HIDDEN: &str = "<hidden>";

/// Checks that a query makes sense; the texts are the ones clients know.
pub(crate) fn validate(query: &Query) -> Result<(), String> {
    problem(query).map_or(Ok(()), |why| Err(format!("Invalid prepared query: {why}")))
}

fn problem(query: &Query) -> Option<String> {
    if query.name.is_empty() && !query.template.is_used() && query.session.is_empty() {
        return Some("Must be bound to a session".into());
    }
    if query.token == HIDDEN {
        let why = "it looks like a query definition with a redacted token was submitted";
        return Some(format!("Bad Token '{HIDDEN}', {why}"));
    }
    if query.service.service.is_empty() {
        return Some("Must provide a Service name to query".into());
    }
    let nearest = query.service.failover.nearest;
    if nearest < 0 {
        return Some(format!("Bad NearestN '{nearest}', must be >= 0"));
    }
    // Our own keys may be asked for, though nobody else may set them.
    let own = |key: &String| !key.starts_with("consul-");
    let others: Meta = query
        .service
        .node_meta
        .iter()
        .flatten()
        .filter(|(key, _)| own(key))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    if let Err(why) = meta::validate(&others) {
        return Some(why);
    }
    if !query.dns_ttl.is_empty() {
        match query.dns_ttl.parse::<GoDuration>() {
            Err(why) => return Some(format!("Bad DNS TTL '{}': {why}", query.dns_ttl)),
            Ok(ttl) if ttl.nanos() < 0 => return Some(format!("DNS TTL '{}', must be >=0", ttl.nanos())),
            Ok(_) => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use lictor_model::query::{Failover, Question};

    use super::*;

    fn query() -> Query {
        Query {
            name: "q".into(),
            service: Question { service: "db".into(), ..Question::default() },
            ..Query::default()
        }
    }

    #[test]
    fn each_problem_has_its_text() {
        let text = |query: Query| validate(&query).unwrap_err();
        let unnamed = Query { name: String::new(), ..query() };
        assert_eq!(text(unnamed), "Invalid prepared query: Must be bound to a session");
        let nothing = Query { service: Question::default(), ..query() };
        assert_eq!(text(nothing), "Invalid prepared query: Must provide a Service name to query");
        let ttl = |ttl: &str| Query { dns_ttl: ttl.into(), ..query() };
        assert_eq!(text(ttl("-5s")), "Invalid prepared query: DNS TTL '-5000000000', must be >=0");
        assert!(text(ttl("soon")).starts_with("Invalid prepared query: Bad DNS TTL 'soon': time: "));
        let mut far = query();
        far.service.failover = Failover { nearest: -1, datacenters: None };
        assert_eq!(text(far), "Invalid prepared query: Bad NearestN '-1', must be >= 0");
        let redacted = Query { token: HIDDEN.into(), ..query() };
        assert!(text(redacted).starts_with("Invalid prepared query: Bad Token '<hidden>', it looks like"));
        let mut labelled = query();
        labelled.service.node_meta = Some([("a b".to_owned(), "1".to_owned())].into());
        assert!(text(labelled).ends_with("Couldn't load metadata pair ('a b', '1'): Key contains invalid characters"));
        let mut ours = query();
        ours.service.node_meta = Some([("consul-network-segment".to_owned(), String::new())].into());
        assert_eq!(validate(&ours), Ok(()));
    }
}
