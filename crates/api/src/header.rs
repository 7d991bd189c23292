//! Names of the headers that carry meaning, in the spelling the original sends.

/// Position of the answer in the history; what a blocking read passes as `index` next time.
pub const INDEX: &str = "X-Consul-Index";
/// Whether the cluster has a leader.
pub const KNOWN_LEADER: &str = "X-Consul-Knownleader";
/// Milliseconds since the answering server heard from the leader.
pub const LAST_CONTACT: &str = "X-Consul-Lastcontact";
/// The consistency an answer was read with.
pub const EFFECTIVE_CONSISTENCY: &str = "X-Consul-Effective-Consistency";
/// Hash of an agent-local answer; what a blocking read passes as `hash` next time.
pub const CONTENT_HASH: &str = "X-Consul-Contenthash";
/// Why an agent-local health answer has its status code.
pub const REASON: &str = "X-Consul-Reason";
/// That node addresses of other datacenters were translated.
pub const TRANSLATE_ADDRESSES: &str = "X-Consul-Translate-Addresses";
/// Whether the agent's cache had the answer.
pub const CACHE: &str = "X-Cache";
/// The secret of the caller.
pub const TOKEN: &str = "X-Consul-Token";
/// What is decided for connections no intention speaks of: `allow` or `deny`. Only lictor sends it, beside the
/// intentions of a destination, so that a proxy can decide without asking again.
pub const DEFAULT_DECISION: &str = "X-Lictor-Default-Decision";
/// What the order of an executed query's instances means. Only lictor sends it, and only to clients that pass an
/// index: where it stands, the answer's index can be waited on.
pub const RANKING: &str = "X-Lictor-Ranking";
/// The value of [`RANKING`] when the first ones are nearer.
pub const RANKING_NEAREST: &str = "nearest";
/// The value of [`RANKING`] when they were shuffled.
pub const RANKING_RANDOM: &str = "random";
/// Set beside a leaf certificate that has expired and could not be renewed. Only lictor sends it.
pub const CERT_EXPIRED: &str = "Lictor-Cert-Expired";
