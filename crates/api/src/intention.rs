//! Intentions: which service may open a connection to which.

use std::borrow::Cow;
use std::collections::BTreeMap;

use lictor_model::intention::{self, Party};
use lictor_model::meta::Meta;
use lictor_model::revision::Revision;
use serde::{Deserialize, Serialize};

use crate::nullable;
use crate::time::Time;

/// An intention; all keys are always present.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Intention<'a> {
    /// A UUID.
    #[serde(rename = "ID")]
    pub id: Cow<'a, str>,
    /// For people.
    pub description: Cow<'a, str>,
    /// Namespace of who connects, or `*`.
    #[serde(rename = "SourceNS")]
    pub source_ns: Cow<'a, str>,
    /// Who connects, or `*`.
    pub source_name: Cow<'a, str>,
    /// Namespace of who is connected to, or `*`.
    #[serde(rename = "DestinationNS")]
    pub destination_ns: Cow<'a, str>,
    /// Who is connected to, or `*`.
    pub destination_name: Cow<'a, str>,
    /// `consul`.
    pub source_type: Cow<'a, str>,
    /// `allow` or `deny`.
    pub action: Cow<'a, str>,
    /// Without meaning.
    pub default_addr: Cow<'a, str>,
    /// Without meaning.
    pub default_port: i64,
    /// Metadata; never null.
    #[serde(deserialize_with = "nullable")]
    pub meta: Cow<'a, Meta>,
    /// How specific it is, 9 to 1.
    pub precedence: u8,
    /// When it was made.
    pub created_at: Time,
    /// When it was last changed.
    pub updated_at: Time,
    /// First written.
    pub create_index: u64,
    /// Last changed.
    pub modify_index: u64,
}

impl<'a> From<&'a intention::Intention> for Intention<'a> {
    fn from(intention: &'a intention::Intention) -> Intention<'a> {
        let intention::Intention {
            id,
            description,
            source,
            destination,
            source_type,
            action,
            default_addr,
            default_port,
            meta,
            created_at,
            updated_at,
            created,
            modified,
        } = intention;
        Intention {
            id: id.into(),
            description: description.into(),
            source_ns: (&source.namespace).into(),
            source_name: (&source.name).into(),
            destination_ns: (&destination.namespace).into(),
            destination_name: (&destination.name).into(),
            source_type: source_type.into(),
            action: action.into(),
            default_addr: default_addr.into(),
            default_port: *default_port,
            meta: Cow::Borrowed(meta),
            precedence: intention.precedence(),
            created_at: Time::from_nanos(*created_at),
            updated_at: Time::from_nanos(*updated_at),
            create_index: created.0,
            modify_index: modified.0,
        }
    }
}

impl From<Intention<'_>> for intention::Intention {
    fn from(shape: Intention<'_>) -> intention::Intention {
        let Intention {
            id,
            description,
            source_ns,
            source_name,
            destination_ns,
            destination_name,
            source_type,
            action,
            default_addr,
            default_port,
            meta,
            precedence: _, // Follows from the parties.
            created_at,
            updated_at,
            create_index,
            modify_index,
        } = shape;
        intention::Intention {
            id: id.into_owned(),
            description: description.into_owned(),
            source: Party { namespace: source_ns.into_owned(), name: source_name.into_owned() },
            destination: Party { namespace: destination_ns.into_owned(), name: destination_name.into_owned() },
            source_type: source_type.into_owned(),
            action: action.into_owned(),
            default_addr: default_addr.into_owned(),
            default_port,
            meta: meta.into_owned(),
            created_at: created_at.nanos(),
            updated_at: updated_at.nanos(),
            created: Revision(create_index),
            modified: Revision(modify_index),
        }
    }
}

/// `GET /v1/connect/intentions/match`: what speaks of each name, in the order that decides; null where nothing does.
pub type Matches<'a> = BTreeMap<Cow<'a, str>, Option<Vec<Intention<'a>>>>;

/// `GET /v1/connect/intentions/check`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Checked {
    /// Whether a connection would be allowed.
    pub allowed: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::{Layout, to_vec};

    fn noun() -> intention::Intention {
        intention::Intention {
            id: "bce7801b".into(),
            description: "dd".into(),
            source: Party::service("aa"),
            destination: Party::service("bb"),
            source_type: "consul".into(),
            action: "deny".into(),
            default_addr: String::new(),
            default_port: 0,
            meta: Meta::new(),
            created_at: 1_551_822_472_520_962_797,
            updated_at: 1_551_822_472_520_964_700,
            created: Revision(274),
            modified: Revision(275),
        }
    }

    #[test]
    fn every_key_of_an_intention_is_shown() {
        let text = to_vec(&Intention::from(&noun()), Layout::Compact).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            r#"{"ID":"bce7801b","Description":"dd","SourceNS":"default","SourceName":"aa","DestinationNS":"default","DestinationName":"bb","SourceType":"consul","Action":"deny","DefaultAddr":"","DefaultPort":0,"Meta":{},"Precedence":9,"CreatedAt":"2019-03-05T21:47:52.520962797Z","UpdatedAt":"2019-03-05T21:47:52.5209647Z","CreateIndex":274,"ModifyIndex":275}"#
        );
    }

    #[test]
    fn an_intention_survives_the_wire() {
        let text = to_vec(&Intention::from(&noun()), Layout::Pretty).unwrap();
        let shape: Intention<'static> = serde_json::from_slice(&text).unwrap();
        assert_eq!(intention::Intention::from(shape), noun());
    }

    #[test]
    fn a_name_without_matches_is_null() {
        let noun = noun();
        let matches = Matches::from([("bb".into(), Some(vec![Intention::from(&noun)])), ("cc".into(), None)]);
        let text = String::from_utf8(to_vec(&matches, Layout::Compact).unwrap()).unwrap();
        assert!(text.starts_with(r#"{"bb":[{"ID""#) && text.ends_with(r#"],"cc":null}"#), "{text}");
        assert_eq!(serde_json::from_str::<Matches<'static>>(&text).unwrap(), matches);
    }
}
