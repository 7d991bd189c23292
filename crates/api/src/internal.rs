//! What client agents ask of servers beyond what everyone may ask: `/v1/internal/agent/…`, at the port that servers open
//! for agents and nowhere else. Secrets travel in headers, never here.

use std::collections::BTreeMap;

use lictor_model::meta::Meta;
use serde::{Deserialize, Serialize};

use crate::is_zero;
use crate::time::{Span, Time};

/// `GET /v1/internal/agent/token`: what the secret of the request stands for. From it a client agent makes the same caller
/// as the server has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TokenAnswer {
    /// Whether access is controlled at the server.
    pub enabled: bool,
    /// The token's public name; empty for the anonymous one.
    #[serde(rename = "AccessorID")]
    pub accessor_id: String,
    /// Its rules, each text as a policy holds it.
    pub rules: Vec<RuleText>,
    /// What holds where they say nothing: `allow` or `deny`.
    pub default_policy: String,
    /// Whether rules hold in full, or only those that the original enforced before its version 0.8.
    pub enforce_version_8: bool,
}

/// The rules of one policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RuleText {
    /// HCL or JSON.
    pub text: String,
    /// Whether it is in the words of access control as it was before policies.
    pub legacy: bool,
}

/// `PUT /v1/internal/agent/sign`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct SignRequest {
    /// The request for a certificate; PEM.
    #[serde(rename = "CSR")]
    pub csr: String,
}

/// What was signed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Signed {
    /// Colon-separated hex.
    pub serial_number: String,
    /// The leaf, then intermediates; PEM.
    #[serde(rename = "CertPEM")]
    pub cert_pem: String,
    /// The service it was issued for.
    pub service: String,
    /// The identity it carries.
    #[serde(rename = "ServiceURI")]
    pub service_uri: String,
    /// Valid from.
    pub valid_after: Time,
    /// Valid until.
    pub valid_before: Time,
    /// The root that signed it.
    #[serde(rename = "RootID")]
    pub root_id: String,
}

/// `PUT /v1/internal/agent/alive`: this node is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Alive {
    /// What it is called.
    pub node: String,
    /// Its UUID.
    #[serde(rename = "ID")]
    pub id: String,
    /// `host:port` at which others reach it.
    pub address: String,
    /// Further addresses by use.
    pub tagged_addresses: BTreeMap<String, String>,
    /// Metadata.
    pub meta: Meta,
    /// The lease that a server gave for it; 0 for none yet.
    pub lease: u64,
    /// `host:port` at which it answers datagrams that measure the distance to it; empty when it does not.
    pub ping: String,
    /// Whether it asks for [`AliveAnswer::peers`].
    pub wants_peers: bool,
}

/// For how long that holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AliveAnswer {
    /// To be said again with the next [`Alive`], whichever server that goes to.
    pub lease: u64,
    /// After this without another the node counts as lost.
    #[serde(rename = "TTL")]
    pub ttl: Span,
    /// `host:port` of all servers that are there.
    pub servers: Vec<String>,
    /// Some other agents that answer who measures how far away they are; those who ask for them get them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<Peer>,
    /// How many agents there are.
    #[serde(skip_serializing_if = "is_zero")]
    pub agents: u64,
}

/// An agent that answers who measures how far away it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Peer {
    /// What its node is called.
    pub node: String,
    /// `host:port` at which it answers datagrams.
    pub ping: String,
}

/// `PUT /v1/internal/agent/gone`: this node leaves in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Gone {
    /// What it is called.
    pub node: String,
}
