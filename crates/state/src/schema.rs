//! Where everything lies in the store: the one place that knows keys.
//!
//! All keys begin with `state/`, then a table, then the parts that name one thing. A table holds one record per object;
//! tables whose name ends in `-of` only keep something unique and point at the owner.
//!
//! | key | record |
//! | --- | --- |
//! | `format` | version of all this |
//! | `node/<name>` | a node |
//! | `node-of/<id>` | the node with this id |
//! | `service/<node>␀<id>` | an instance |
//! | `check/<node>␀<id>` | a check |
//! | `coordinate/<node>␀<segment>` | a network coordinate |
//! | `intention/<id>` | an intention |
//! | `intention-of/<ns>␀<source>␀<ns>␀<destination>` | the intention for this pair |
//! | `ca/config`, `ca/root/<id>`, `ca/key/<id>` | the CA; keys are sealed |
//! | `kv/<key>` | an entry of the key-value store |
//! | `lock-delay/<key>` | until when a key cannot be locked |
//! | `session/<id>` | a session |
//! | `session-alive/<id>` | rewritten whenever the session is renewed, and, with another value, whenever something comes to depend on it |
//! | `query/<id>`, `query-of/<name>` | a prepared query |
//! | `acl/token/<accessor>`, `acl/policy/<id>`, `acl/policy-of/<name>` | access control |
//! | `acl/bootstrap`, `acl/supplied` | guards, see `writer/tokens` |
//! | `autopilot` | the operator's configuration |
//! | `restoring`, `restored` | which snapshot is being, and which was last restored |
//! | `restore-step/<restore>/<number>` | a part of a restore that is still to be done |
//! | `event/<id>` | a user event |
//! | `alive/<node>` | an agent that is alive; hangs on its lease |
//! | `lead` | the server that does what one must do; hangs on its lease |
//!
//! Names are stored folded (ASCII lower case), so two spellings are one thing. Parts before the last are closed by a
//! zero byte, and zero bytes inside names are escaped, so no name reaches into another one's keys. The last part is
//! taken as it is: what is below `kv/` sorts as the keys themselves do.

use std::sync::Arc;

use crate::Error;

/// The version of keys and records that this code writes.
pub(crate) const FORMAT: u32 = 1;

/// Below which everything lies.
pub(crate) const ROOT: &[u8] = b"state/";

/// Longest name of a node, service, check, query or policy. The store backends take far more, but a key is held in
/// memory several times; no name that works in DNS or a certificate comes near it.
const LONGEST_NAME: usize = 4096;

/// Longest key of the key-value store.
const LONGEST_KEY: usize = 64 * 1024;

/// The place of one record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    Format,
    Node(Arc<str>),
    NodeOf(Arc<str>),
    Service { node: Arc<str>, id: Arc<str> },
    Check { node: Arc<str>, id: Arc<str> },
    Coordinate { node: Arc<str>, segment: Arc<str> },
    Intention(Arc<str>),
    IntentionOf { source: (Arc<str>, Arc<str>), destination: (Arc<str>, Arc<str>) },
    CaConfig,
    Root(Arc<str>),
    Sealed(Arc<str>),
    Kv(Arc<str>),
    LockDelay(Arc<str>),
    Session(Arc<str>),
    SessionAlive(Arc<str>),
    Query(Arc<str>),
    QueryOf(Arc<str>),
    Token(Arc<str>),
    Policy(Arc<str>),
    PolicyOf(Arc<str>),
    AclBootstrap,
    AclSupplied,
    Autopilot,
    Restoring,
    Restored,
    RestoreStep(Arc<str>),
    Event(Arc<str>),
    Alive(Arc<str>),
    Lead,
}

impl Key {
    /// The bytes in the store; refused when a name is too long to be one.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, Error> {
        let mut bytes = Bytes::with_room(self.table(), self.parts());
        match self {
            Key::Format
            | Key::CaConfig
            | Key::AclBootstrap
            | Key::AclSupplied
            | Key::Autopilot
            | Key::Restoring
            | Key::Restored
            | Key::Lead => {}
            Key::Kv(key) | Key::LockDelay(key) => bytes.last(key, LONGEST_KEY)?,
            Key::Node(last)
            | Key::NodeOf(last)
            | Key::Intention(last)
            | Key::Root(last)
            | Key::Sealed(last)
            | Key::Session(last)
            | Key::SessionAlive(last)
            | Key::Query(last)
            | Key::QueryOf(last)
            | Key::Token(last)
            | Key::Policy(last)
            | Key::PolicyOf(last)
            | Key::RestoreStep(last)
            | Key::Event(last)
            | Key::Alive(last) => bytes.last(last, LONGEST_NAME)?,
            Key::Service { node, id: last }
            | Key::Check { node, id: last }
            | Key::Coordinate { node, segment: last } => {
                bytes.part(node)?;
                bytes.last(last, LONGEST_NAME)?;
            }
            Key::IntentionOf { source, destination } => {
                bytes.part(&source.0)?;
                bytes.part(&source.1)?;
                bytes.part(&destination.0)?;
                bytes.last(&destination.1, LONGEST_NAME)?;
            }
        }
        Ok(bytes.0)
    }

    /// About how long all is that is behind the table.
    fn parts(&self) -> usize {
        match self {
            Key::Service { node, id: last }
            | Key::Check { node, id: last }
            | Key::Coordinate { node, segment: last } => node.len() + 1 + last.len(),
            Key::Node(last) | Key::NodeOf(last) | Key::Kv(last) | Key::SessionAlive(last) => last.len(),
            _ => 0,
        }
    }

    fn table(&self) -> &'static str {
        match self {
            Key::Format => "format",
            Key::Node(_) => "node/",
            Key::NodeOf(_) => "node-of/",
            Key::Service { .. } => "service/",
            Key::Check { .. } => "check/",
            Key::Coordinate { .. } => "coordinate/",
            Key::Intention(_) => "intention/",
            Key::IntentionOf { .. } => "intention-of/",
            Key::CaConfig => "ca/config",
            Key::Root(_) => "ca/root/",
            Key::Sealed(_) => "ca/key/",
            Key::Kv(_) => "kv/",
            Key::LockDelay(_) => "lock-delay/",
            Key::Session(_) => "session/",
            Key::SessionAlive(_) => "session-alive/",
            Key::Query(_) => "query/",
            Key::QueryOf(_) => "query-of/",
            Key::Token(_) => "acl/token/",
            Key::Policy(_) => "acl/policy/",
            Key::PolicyOf(_) => "acl/policy-of/",
            Key::AclBootstrap => "acl/bootstrap",
            Key::AclSupplied => "acl/supplied",
            Key::Autopilot => "autopilot",
            Key::Restoring => "restoring",
            Key::Restored => "restored",
            Key::RestoreStep(_) => "restore-step/",
            Key::Event(_) => "event/",
            Key::Alive(_) => "alive/",
            Key::Lead => "lead",
        }
    }

    /// Reads a key of the store; `None` for one that this version does not know.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Key> {
        let text = std::str::from_utf8(bytes.strip_prefix(ROOT)?).ok()?;
        match text {
            "format" => return Some(Key::Format),
            "ca/config" => return Some(Key::CaConfig),
            "acl/bootstrap" => return Some(Key::AclBootstrap),
            "acl/supplied" => return Some(Key::AclSupplied),
            "autopilot" => return Some(Key::Autopilot),
            "restoring" => return Some(Key::Restoring),
            "restored" => return Some(Key::Restored),
            "lead" => return Some(Key::Lead),
            _ => {}
        }
        let (table, rest) = text.split_once('/')?;
        let one = |make: fn(Arc<str>) -> Key| Some(make(rest.into()));
        match table {
            "node" => one(Key::Node),
            "node-of" => one(Key::NodeOf),
            "service" => pair(rest).map(|(node, id)| Key::Service { node, id }),
            "check" => pair(rest).map(|(node, id)| Key::Check { node, id }),
            "coordinate" => pair(rest).map(|(node, segment)| Key::Coordinate { node, segment }),
            "intention" => one(Key::Intention),
            "intention-of" => {
                let mut parts = rest.splitn(4, '\0');
                let (a, b, c, d) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
                Some(Key::IntentionOf { source: (unescape(a), unescape(b)), destination: (unescape(c), d.into()) })
            }
            "kv" => one(Key::Kv),
            "lock-delay" => one(Key::LockDelay),
            "session" => one(Key::Session),
            "session-alive" => one(Key::SessionAlive),
            "query" => one(Key::Query),
            "query-of" => one(Key::QueryOf),
            "restore-step" => one(Key::RestoreStep),
            "event" => one(Key::Event),
            "alive" => one(Key::Alive),
            "ca" | "acl" => {
                let (table, rest) = rest.split_once('/')?;
                match table {
                    "root" => Some(Key::Root(rest.into())),
                    "key" => Some(Key::Sealed(rest.into())),
                    "token" => Some(Key::Token(rest.into())),
                    "policy" => Some(Key::Policy(rest.into())),
                    "policy-of" => Some(Key::PolicyOf(rest.into())),
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

/// A part of a table that is deleted with a single operation, however much it is.
pub(crate) enum Below<'a> {
    /// All instances of a node.
    Services(&'a str),
    /// All checks of a node.
    Checks(&'a str),
    /// All coordinates of a node.
    Coordinates(&'a str),
    /// All keys of the key-value store that begin so.
    Kv(&'a str),
    /// All that is still to be done of a restore.
    RestoreSteps,
}

impl Below<'_> {
    /// The prefix in the store.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, Error> {
        let (table, node) = match self {
            Below::Services(node) => ("service/", node),
            Below::Checks(node) => ("check/", node),
            Below::Coordinates(node) => ("coordinate/", node),
            Below::RestoreSteps => return Ok(Bytes::new("restore-step/").0),
            Below::Kv(prefix) => {
                let mut bytes = Bytes::new("kv/");
                bytes.last(prefix, LONGEST_KEY)?;
                return Ok(bytes.0);
            }
        };
        let mut bytes = Bytes::new(table);
        bytes.part(node)?;
        Ok(bytes.0)
    }
}

/// A key being put together.
struct Bytes(Vec<u8>);

impl Bytes {
    fn new(table: &str) -> Bytes {
        Bytes::with_room(table, 0)
    }

    /// With room for what comes behind the table. It matters only that most keys are put together in one piece.
    fn with_room(table: &str, more: usize) -> Bytes {
        let mut bytes = Vec::with_capacity(ROOT.len() + table.len() + more);
        bytes.extend_from_slice(ROOT);
        bytes.extend_from_slice(table.as_bytes());
        Bytes(bytes)
    }

    /// A part with something behind it.
    fn part(&mut self, part: &str) -> Result<(), Error> {
        check_length(part, LONGEST_NAME)?;
        if part.bytes().all(|byte| byte > 1) {
            self.0.extend_from_slice(part.as_bytes());
        } else {
            for byte in part.bytes() {
                match byte {
                    0 => self.0.extend_from_slice(&[1, 1]),
                    1 => self.0.extend_from_slice(&[1, 2]),
                    byte => self.0.push(byte),
                }
            }
        }
        self.0.push(0);
        Ok(())
    }

    /// The last part, which may hold anything.
    fn last(&mut self, part: &str, limit: usize) -> Result<(), Error> {
        check_length(part, limit)?;
        self.0.extend_from_slice(part.as_bytes());
        Ok(())
    }
}

fn check_length(part: &str, limit: usize) -> Result<(), Error> {
    if part.len() <= limit {
        return Ok(());
    }
    let start: String = part.chars().take(32).collect();
    Err(Error::Refused(format!("name {start:?}... is too long ({} bytes, limit: {limit})", part.len())))
}

fn pair(rest: &str) -> Option<(Arc<str>, Arc<str>)> {
    rest.split_once('\0').map(|(first, last)| (unescape(first), last.into()))
}

fn unescape(part: &str) -> Arc<str> {
    if !part.contains('\u{1}') {
        return part.into();
    }
    let mut plain = String::with_capacity(part.len());
    let mut chars = part.chars();
    while let Some(char) = chars.next() {
        match char {
            '\u{1}' => plain.push(if chars.next() == Some('\u{1}') { '\0' } else { '\u{1}' }),
            char => plain.push(char),
        }
    }
    plain.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_read_back_as_it_was_written() {
        let name = |text: &str| -> Arc<str> { text.into() };
        let odd = || name("a\0b\u{1}c/ü");
        for key in [
            Key::Format,
            Key::Node(odd()),
            Key::NodeOf(name("id")),
            Key::Service { node: odd(), id: odd() },
            Key::Check { node: name(""), id: name("") },
            Key::Coordinate { node: odd(), segment: name("") },
            Key::Intention(name("i")),
            Key::IntentionOf { source: (odd(), odd()), destination: (name("*"), odd()) },
            Key::CaConfig,
            Key::Root(name("aa:bb")),
            Key::Sealed(name("aa:bb")),
            Key::Kv(odd()),
            Key::Kv(name("")),
            Key::LockDelay(odd()),
            Key::Session(name("s")),
            Key::SessionAlive(name("s")),
            Key::Query(name("q")),
            Key::QueryOf(name("")),
            Key::Token(name("t")),
            Key::Policy(name("p")),
            Key::PolicyOf(name("p")),
            Key::AclBootstrap,
            Key::AclSupplied,
            Key::Autopilot,
            Key::Restoring,
            Key::Restored,
            Key::RestoreStep(name("00000001")),
            Key::Event(name("e")),
            Key::Alive(name("n")),
            Key::Lead,
        ] {
            assert_eq!(Key::parse(&key.encode().unwrap()), Some(key.clone()), "{key:?}");
        }
    }

    fn service(node: &str, id: &str) -> Key {
        Key::Service { node: node.into(), id: id.into() }
    }

    #[test]
    fn no_name_reaches_below_another_nodes_prefix() {
        let below = Below::Services("n1").encode().unwrap();
        for other in ["n", "n1\0", "n1\0x", "n1/", "n11", "n1\u{1}"] {
            assert!(!service(other, "s").encode().unwrap().starts_with(&below), "{other:?}");
        }
        assert!(service("n1", "s").encode().unwrap().starts_with(&below));
    }

    #[test]
    fn a_name_that_is_too_long_is_refused() {
        let error = Key::Node("n".repeat(LONGEST_NAME + 1).into()).encode().unwrap_err();
        assert!(error.to_string().contains("is too long (4097 bytes, limit: 4096)"), "{error}");
    }

    #[test]
    fn foreign_keys_are_nobodys() {
        for foreign in
            [&b"other/node/x"[..], b"state/unknown/x", b"state/ca/x", b"state/service/no-separator", b"state/\xff"]
        {
            assert_eq!(Key::parse(foreign), None);
        }
    }
}
