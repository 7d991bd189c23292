//! The HTTP contract: JSON shapes, header names, and a typed client; no server.
//!
//! A shape is what travels, field by field in the order clients have always seen; it is made from the nouns of
//! `model` and knows nothing of how they are stored. Shapes borrow from the nouns when an answer is written and own
//! their text when the [`client`] reads one, so each exists once.
//!
//! This room must not know the store, the agent or any socket but the client's. Start reading at [`agent`]; how text
//! becomes bytes is in [`json`].

pub mod acl;
pub mod agent;
pub mod catalog;
pub mod client;
pub mod connect;
pub mod coordinate;
pub mod definition;
pub mod event;
pub mod header;
pub mod health;
pub mod host;
pub mod intention;
pub mod internal;
pub mod json;
pub mod kv;
pub mod metrics;
pub mod operator;
pub mod process;
pub mod query;
pub mod session;
pub mod status;
pub mod time;
pub mod txn;

mod base64;

use lictor_model::revision::Revision;
use serde::{Deserialize, Serialize};

/// When something was first written and last changed; becomes the last two keys of most objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Indexes {
    /// The revision of the first write.
    pub created: Revision,
    /// The revision of the last change.
    pub modified: Revision,
}

/// The answer to a creation: the id that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Created<'a> {
    /// A UUID.
    #[serde(rename = "ID")]
    pub id: std::borrow::Cow<'a, str>,
}

/// Reads `null` as the type's default; the original writes `null` for lists and maps that nobody filled.
fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Whether a number is left out of an answer.
fn is_zero<T: Default + PartialEq>(number: &T) -> bool {
    *number == T::default()
}
