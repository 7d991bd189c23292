//! The key-value store.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// One key; `GET /v1/kv/...` answers with a list of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Entry<'a> {
    /// How often it was locked.
    pub lock_index: u64,
    /// The key.
    pub key: Cow<'a, str>,
    /// A number for the client's own use.
    pub flags: u64,
    /// The value, in base64; null when it is empty.
    #[serde(with = "crate::base64")]
    pub value: Cow<'a, [u8]>,
    /// The session that holds the lock; left out when nobody does.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub session: Cow<'a, str>,
    /// First written.
    pub create_index: u64,
    /// Last written.
    pub modify_index: u64,
}

/// `GET /v1/kv/...?keys`: names alone.
pub type Keys<'a> = Vec<Cow<'a, str>>;

/// One key of an export file, which `kv import` reads again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Exported<'a> {
    /// The key.
    pub key: Cow<'a, str>,
    /// A number for the client's own use.
    pub flags: u64,
    /// The value, in base64.
    pub value: Cow<'a, str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(entry: &Entry<'_>) -> String {
        serde_json::to_string(entry).unwrap()
    }

    #[test]
    fn a_value_is_base64_and_an_empty_one_null() {
        let entry = Entry { key: "a/b".into(), value: b"hello"[..].into(), create_index: 75, ..Entry::default() };
        let expected = r#"{"LockIndex":0,"Key":"a/b","Flags":0,"Value":"aGVsbG8=","CreateIndex":75,"ModifyIndex":0}"#;
        assert_eq!(text(&entry), expected);
        assert_eq!(serde_json::from_str::<Entry<'static>>(expected).unwrap(), entry);
        let locked = Entry { session: "s".into(), ..Entry::default() };
        let expected =
            r#"{"LockIndex":0,"Key":"","Flags":0,"Value":null,"Session":"s","CreateIndex":0,"ModifyIndex":0}"#;
        assert_eq!(text(&locked), expected);
        assert_eq!(serde_json::from_str::<Entry<'static>>(expected).unwrap(), locked);
        assert!(serde_json::from_str::<Entry<'static>>(r#"{"Value":"%"}"#).is_err());
    }
}
