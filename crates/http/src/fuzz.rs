//! What the fuzzer calls: bodies and targets of requests.

use http::Uri;
use lictor_api::definition;
use lictor_model::service::{Definition, ProxySpec};
use lictor_notation::duration::GoDuration;
use lictor_notation::json;

use crate::query::{Query, redacted};
use crate::{decode, path};

/// No body is too much for any endpoint, and a definition that is written and read again is the same.
pub fn body(bytes: &[u8]) {
    let _ = json::decode_first(bytes);
    if let Ok(mut read) = definition::service_from_http(bytes) {
        leave_out_what_says_nothing(&mut read);
        let written = definition::service_to_http(&read).to_string();
        let again = definition::service_from_http(written.as_bytes());
        assert_eq!(again.as_ref(), Ok(&read), "{written}");
    }
    let _ = definition::check_from_http(bytes);
    let _ = decode::catalog_entry(bytes);
    let _ = decode::catalog_removal(bytes);
    let _ = decode::intention(bytes);
    let _ = decode::ca_settings(bytes);
    let _ = decode::question(bytes);
    let _ = decode::check_report(bytes);
    let _ = decode::session(bytes);
    let _ = decode::coordinate(bytes);
    let _ = decode::autopilot(bytes);
    let _ = decode::gossip_key(bytes);
    let _ = decode::token(bytes);
    let _ = decode::policy(bytes);
    let _ = decode::acl_token(bytes);
    let _ = decode::legacy_token(bytes);
    let _ = decode::query(bytes);
    let _ = decode::transaction(bytes);
}

/// An object without a word says as much as none, and is not written.
fn leave_out_what_says_nothing(definition: &mut Definition) {
    let service = &mut definition.service;
    let (proxy, managed) = (service.proxy.as_mut(), definition.managed_proxy.as_mut());
    let proxy = proxy.map(|proxy| (&mut proxy.config, &mut proxy.upstreams));
    let managed = managed.map(|managed| (&mut managed.config, &mut managed.upstreams));
    for (config, upstreams) in [proxy, managed].into_iter().flatten() {
        for config in std::iter::once(config).chain(upstreams.iter_mut().map(|upstream| &mut upstream.config)) {
            *config = config.take().filter(|config| !config.is_empty());
        }
    }
    service.proxy = service.proxy.take().filter(|proxy| *proxy != ProxySpec::default());
    service.tags = service.tags.take().filter(|tags| !tags.is_empty());
    service.meta = service.meta.take().filter(|meta| !meta.is_empty());
    definition.check = definition.check.take().filter(|check| !check.is_empty());
    if let Some(sidecar) = &mut definition.sidecar {
        leave_out_what_says_nothing(sidecar);
    }
}

/// What stands for a secret in a log.
const HIDDEN: &str = "<hidden>";

/// A target is read as it is, cleaned paths stay clean, and no log shows a token.
pub fn target(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(duration) = text.parse::<GoDuration>() {
        assert_eq!(duration.to_string().parse(), Ok(duration));
    }
    if let Some(decoded) = path::decode(text) {
        let cleaned = path::clean(&decoded);
        assert_eq!(path::clean(&cleaned), cleaned);
        assert_eq!(path::decode(&path::encode(&decoded)).as_deref(), Some(&*decoded));
        let _ = path::is_printable(&decoded);
    }
    // What the server shows comes from a URI that it could read.
    let Ok(uri) = text.parse::<Uri>() else { return };
    let Ok(query) = Query::parse(uri.query().unwrap_or_default()) else {
        let _ = redacted(text);
        return;
    };
    assert!(!query.shown().split('&').any(|pair| pair.starts_with("token=")));
    let shown = redacted(text);
    let shown = shown.split_once('?').map_or("", |(_, query)| query);
    if let Ok(shown) = Query::parse(shown) {
        assert!(shown.all("token").all(|value| value == HIDDEN || value.is_empty()), "{text}");
    }
}

#[cfg(test)]
mod tests {
    use lictor_testkit::corpus;

    #[test]
    fn what_the_fuzzer_keeps_for_bodies_breaks_no_promise() {
        corpus::replay("json", super::body);
    }

    #[test]
    fn what_the_fuzzer_keeps_for_targets_breaks_no_promise() {
        corpus::replay("query", super::target);
    }
}
