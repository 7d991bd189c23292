//! The language of ACL rules: from what an administrator wrote to rules that can be asked.
//!
//! Rules are HCL or JSON. Keys have no case, and what stands under a key nobody knows is ignored, as in the original;
//! who stores such rules gets to hear of it. Everything else that is not understood is refused: a rule that is lost
//! might have been one that denies.

mod translate;

use lictor_model::acl::{Access, Realm, Resource, Rules};
use lictor_notation::hcl;
use lictor_notation::tree::{Member, Object, Tree};

pub use translate::translate;

/// How rules are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Syntax {
    /// As policies are: a name means exactly it, unless the key ends in `_prefix`.
    Current,
    /// As tokens of the older form are: every name is a prefix.
    Legacy,
}

impl Syntax {
    /// Tokens of the older form could not manage others by their rules, only by being of the kind that may everything.
    fn knows(self, realm: Realm) -> bool {
        self == Syntax::Current || realm != Realm::Acl
    }
}

/// Rules that were read.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Parsed {
    pub(crate) rules: Rules,
    /// Keys that say nothing, as written.
    pub(crate) ignored: Vec<String>,
}

/// Whether a rule is about a name or about all that begin so.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    Exact,
    Prefix,
}

/// The words for what a rule can be about.
const RESOURCES: [(&str, Resource); 7] = [
    ("agent", Resource::Agent),
    ("event", Resource::Event),
    ("key", Resource::Key),
    ("node", Resource::Node),
    ("query", Resource::Query),
    ("service", Resource::Service),
    ("session", Resource::Session),
];

const REALMS: [(&str, Realm); 3] = [("acl", Realm::Acl), ("keyring", Realm::Keyring), ("operator", Realm::Operator)];

/// Reads the text of rules; the error is the text that clients know.
pub(crate) fn parse(text: &str, syntax: Syntax) -> Result<Parsed, String> {
    let object = hcl::parse(text).map_err(|error| failed(&format!("At {error}")))?;
    let mut parsed = Parsed::default();
    for (written, member) in object.iter() {
        let key = written.to_ascii_lowercase();
        if let Some((_, realm)) = REALMS.iter().find(|(word, realm)| *word == key && syntax.knows(*realm)) {
            read_realm(&mut parsed.rules, &key, *realm, member)?;
        } else if let Some((resource, reach)) = subject(&key, syntax) {
            for value in member.elements() {
                read_blocks(&mut parsed.rules, &key, (resource, reach), value)?;
            }
        } else {
            parsed.ignored.push(written.to_owned());
        }
    }
    Ok(parsed)
}

fn subject(key: &str, syntax: Syntax) -> Option<(Resource, Reach)> {
    let (word, reach) = match (syntax, key.strip_suffix("_prefix")) {
        (Syntax::Current, Some(word)) => (word, Reach::Prefix),
        (Syntax::Current, None) => (key, Reach::Exact),
        (Syntax::Legacy, _) => (key, Reach::Prefix),
    };
    let (_, resource) = RESOURCES.iter().find(|(known, _)| *known == word)?;
    Some((*resource, reach))
}

/// `acl = "read"` and its relatives; an empty word says nothing.
fn read_realm(rules: &mut Rules, key: &str, realm: Realm, member: &Member) -> Result<(), String> {
    let Tree::Text(word) = member.last() else {
        return Err(failed(&format!("At {}:1: {key}: expected text", member.line)));
    };
    match Access::parse(word) {
        _ if word.is_empty() => {}
        Some(access) if access != Access::List => rules.add_realm(realm, access),
        _ => return Err(format!("Invalid {key} policy: {word:?}")),
    }
    Ok(())
}

/// What stands under a key: names with what they grant.
fn read_blocks(rules: &mut Rules, key: &str, subject: (Resource, Reach), value: &Tree) -> Result<(), String> {
    let Tree::Object(names) = value else {
        return Err(failed(&format!("{key}: expected blocks with names, as in {key} \"name\" {{ … }}")));
    };
    for (name, member) in names.iter() {
        for block in member.elements() {
            match block {
                Tree::Object(block) => read_block(rules, key, subject, name, block)?,
                _ => {
                    let text = format!("At {}:1: {key}: {name:?} is no name with a block", member.line);
                    return Err(failed(&text));
                }
            }
        }
    }
    Ok(())
}

fn read_block(
    rules: &mut Rules,
    key: &str,
    (resource, reach): (Resource, Reach),
    name: &str,
    block: &Object,
) -> Result<(), String> {
    let (mut policy, mut intentions) = (None, None);
    for (field, member) in block.iter() {
        let slot = match field.to_ascii_lowercase().as_str() {
            "policy" => &mut policy,
            "intentions" if resource == Resource::Service => &mut intentions,
            // Fields of other products, which the original reads and does not mind here.
            _ => continue,
        };
        let Tree::Text(word) = member.last() else {
            return Err(failed(&format!("At {}:1: {key} {name:?}: {field}: expected text", member.line)));
        };
        *slot = Some(word.as_str());
    }
    let mut add = |resource, access| match reach {
        Reach::Exact => rules.add_exact(resource, name, access),
        Reach::Prefix => rules.add_prefix(resource, name, access),
    };
    let word = policy.unwrap_or_default();
    match Access::parse(word) {
        Some(access) if access != Access::List || resource == Resource::Key => add(resource, access),
        _ => return Err(format!("Invalid {key} policy: {word:?} for {name:?}")),
    }
    match intentions.map(|word| (word, Access::parse(word))) {
        None | Some(("", _)) => {}
        Some((_, Some(access))) if access != Access::List => add(Resource::Intention, access),
        Some((word, _)) => return Err(format!("Invalid {key} intentions policy: {word:?} for {name:?}")),
    }
    Ok(())
}

fn failed(why: &str) -> String {
    format!("Failed to parse ACL rules: {why}")
}

#[cfg(test)]
mod tests;
