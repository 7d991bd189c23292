//! The body of `PUT /v1/txn`: a list of objects, each with one operation.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use lictor_model::node::Node;
use lictor_model::revision::Revision;
use lictor_notation::decode::{self, Fields, Problems};
use lictor_notation::json;
use lictor_notation::tree::{Object, Tree};
use lictor_state::writer::{KvVerb, TxnOp, Verb};

use super::{RULES, catalog_spelling, check, named, service, text};

/// Reads the operations. One that says nothing is left out; one of an unknown kind fails when it is its turn.
pub(crate) fn transaction(body: &[u8]) -> Result<Vec<TxnOp>, String> {
    let ops = match json::decode_first(body)? {
        Tree::List(ops) => ops,
        Tree::Null => Vec::new(),
        Tree::Object(_) => return Err("json: cannot unmarshal object into Go value of type api.TxnOps".into()),
        _ => return Err("json: cannot unmarshal value into Go value of type api.TxnOps".into()),
    };
    let mut read = Vec::new();
    let mut problems = Problems::new();
    let empty = Object::default();
    for (position, op) in ops.iter().enumerate() {
        let op = match op {
            Tree::Object(op) => op,
            Tree::Null => &empty,
            _ => return Err(format!("[{position}] is no object")),
        };
        let rules = RULES.spelled(catalog_spelling);
        let found = decode::object(op, &format!("[{position}]"), rules, &mut problems, |fields| {
            let kv = fields.object("KV", kv);
            let node = fields.object("Node", node_op);
            let service = fields.object("Service", service_op);
            let check = fields.object("Check", check_op);
            kv.or(node).or(service).or(check)
        });
        read.extend(found.transpose()?);
    }
    if problems.is_empty() { Ok(read) } else { Err(problems.listed("decoding")) }
}

fn index(fields: &mut Fields<'_, '_>, name: &'static str) -> Revision {
    Revision(unsigned(fields, name))
}

fn unsigned(fields: &mut Fields<'_, '_>, name: &'static str) -> u64 {
    fields.natural(name).unwrap_or_default()
}

fn kv(fields: &mut Fields<'_, '_>) -> Result<TxnOp, String> {
    let verb = text(fields, "Verb");
    let encoded = text(fields, "Value");
    let (key, flags, index, session) =
        (text(fields, "Key"), unsigned(fields, "Flags"), index(fields, "Index"), named(fields, "Session"));
    let value = STANDARD.decode(&encoded).map_err(|error| format!("value of key {key:?} is not base64: {error}"))?;
    Ok(match KvVerb::parse(&verb) {
        Some(verb) => TxnOp::Kv { verb, key, value: Bytes::from(value), flags, index, session },
        None => TxnOp::Invalid(format!("unknown KV verb {verb:?}")),
    })
}

fn node_op(fields: &mut Fields<'_, '_>) -> Result<TxnOp, String> {
    let verb = text(fields, "Verb");
    let node = fields.object("Node", |fields| {
        let node = Node {
            id: named(fields, "ID"),
            name: named(fields, "Node").into(),
            address: text(fields, "Address"),
            tagged_addresses: fields.text_map("TaggedAddresses"),
            meta: fields.text_map("Meta"),
        };
        (node, index(fields, "ModifyIndex"))
    });
    let (node, index) = node.unwrap_or_default();
    Ok(match Verb::parse(&verb) {
        Some(verb) => TxnOp::Node { verb, node, index },
        None => TxnOp::Invalid(format!("unknown Node operation {verb:?}")),
    })
}

fn service_op(fields: &mut Fields<'_, '_>) -> Result<TxnOp, String> {
    let verb = text(fields, "Verb");
    let node = named(fields, "Node").into();
    let service = fields.object("Service", |fields| {
        let index = index(fields, "ModifyIndex");
        (service(fields), index)
    });
    let (service, index) = service.unwrap_or_default();
    Ok(match Verb::parse(&verb) {
        Some(verb) => TxnOp::Service { verb, node, service, index },
        None => TxnOp::Invalid(format!("unknown Service operation {verb:?}")),
    })
}

fn check_op(fields: &mut Fields<'_, '_>) -> Result<TxnOp, String> {
    let verb = text(fields, "Verb");
    let check = fields.object("Check", |fields| {
        let index = index(fields, "ModifyIndex");
        (check(fields), index)
    });
    let (check, index) = check.unwrap_or_default();
    Ok(match Verb::parse(&verb) {
        Some(verb) => TxnOp::Check { verb, check, index },
        None => TxnOp::Invalid(format!("unknown Check operation {verb:?}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_read_in_order() {
        let ops = transaction(
            br#"[{"KV": {"Verb": "cas", "Key": "a", "Value": "MQ==", "Flags": 7, "Index": 3}},
                {"Node": {"Verb": "set", "Node": {"Node": "n1", "Address": "10.0.0.1"}}},
                {"Service": {"Verb": "delete", "Node": "n1", "Service": {"ID": "w", "Service": "web"}}},
                {"Check": {"Verb": "delete-cas", "Check": {"Node": "n1", "CheckID": "c", "ModifyIndex": 9}}},
                {"KV": {"Verb": "zap", "Key": "a"}}, {}]"#,
        )
        .unwrap();
        assert_eq!(ops.len(), 5);
        let TxnOp::Kv { verb: KvVerb::Cas, key, value, flags: 7, index: Revision(3), .. } = &ops[0] else { panic!() };
        assert_eq!((key.as_str(), value.as_ref()), ("a", &b"1"[..]));
        assert!(matches!(&ops[1], TxnOp::Node { verb: Verb::Set, node, .. } if node.address == "10.0.0.1"));
        assert!(matches!(&ops[2], TxnOp::Service { service, .. } if service.name.as_str() == "web"));
        assert!(matches!(&ops[3], TxnOp::Check { index: Revision(9), check, .. } if check.id.as_str() == "c"));
        assert!(matches!(&ops[4], TxnOp::Invalid(text) if text == "unknown KV verb \"zap\""));
    }

    #[test]
    fn what_is_no_list_of_operations_is_refused() {
        for body in ["", "{}", "[1]", "\"x\"", r#"[{"KV": {"Verb": "set", "Value": "%"}}]"#, r#"[{"KV": {"Verb": 1}}]"#]
        {
            assert!(transaction(body.as_bytes()).is_err(), "{body}");
        }
        assert_eq!(transaction(b"[]").unwrap().len(), 0);
    }
}
