//! The lines about keys that load but do nothing, or that have a newer name.

use std::collections::BTreeMap;

use super::check::Role;
use super::keys::{Disposition, Reason};
use super::merge::Settings;
use super::report::{Notice, Weight};

/// One line for each reason, naming all keys the user set, never a value; and one for all old names.
pub(crate) fn of_keys(settings: &Settings, role: Role) -> Vec<Notice> {
    let mut without_effect: BTreeMap<Reason, Vec<&str>> = BTreeMap::new();
    for key in settings.changed_by_user() {
        let reason = match key.disposition {
            Disposition::NoEffect(reason) => reason,
            Disposition::NoEffectOnServers(reason) if role == Role::Server => reason,
            _ => continue,
        };
        // An old name is shown as the user wrote it.
        let written = settings.aliases.iter().find(|(_, target)| *target == key.path);
        without_effect.entry(reason).or_default().push(written.map_or(key.path, |(alias, _)| alias));
    }
    let mut notices: Vec<Notice> = without_effect
        .into_iter()
        .map(|(reason, keys)| Notice {
            weight: Weight::Info,
            text: format!("config: no effect here: {} ({})", keys.join(", "), reason.text()),
        })
        .collect();
    // The original's own words for the one it warns about.
    if settings.is_given("acl_datacenter") {
        notices.push(Notice {
            weight: Weight::Warn,
            text: "The 'acl_datacenter' field is deprecated. Use the 'primary_datacenter' field instead.".into(),
        });
    }
    let others: Vec<String> = settings
        .aliases
        .iter()
        .filter(|(alias, _)| *alias != "acl_datacenter")
        .map(|(alias, target)| format!("{alias} (now {target})"))
        .collect();
    if !others.is_empty() {
        let text = format!("config: deprecated keys: {}", others.join(", "));
        notices.push(Notice { weight: Weight::Warn, text });
    }
    notices
}
