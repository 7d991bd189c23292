//! The nouns of the mesh and the pure rules between them.
//!
//! This room knows no IO, no clock, no async, and no wire shape: the JSON that clients see is `api`'s, the bytes on
//! disk are `state`'s. The one borrowed type is [`Opaque`], the tree of values that users may put into `config` maps
//! and that nobody here interprets.
//!
//! Start reading at [`service`], then [`intention`].

pub mod acl;
pub mod health;
pub mod identity;
pub mod intention;
pub mod meta;
pub mod name;
pub mod node;
pub mod prefix;
pub mod query;
pub mod revision;
pub mod root;
pub mod secret;
pub mod service;
pub mod text;
pub mod token;

/// A map whose keys and values belong to the user (`config` of a proxy or an upstream); carried, never interpreted.
pub type Opaque = serde_json::Map<String, serde_json::Value>;
