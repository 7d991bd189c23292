//! An agent that is alive, on disk.

use lictor_model::revision::Revision;
use serde::{Deserialize, Serialize};

use super::is_default;
use crate::presence::Member;
use crate::replica::presence::MemberRow;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct MemberRecord {
    node: String,
    #[serde(default, skip_serializing_if = "is_default")]
    id: String,
    #[serde(default, skip_serializing_if = "is_default")]
    address: String,
    #[serde(default, skip_serializing_if = "is_default")]
    server: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    ping: String,
    #[serde(default, skip_serializing_if = "is_default")]
    since: i64,
}

impl MemberRecord {
    pub(crate) fn new(member: &Member) -> MemberRecord {
        let Member { node, id, address, is_server, ping, since } = member.clone();
        MemberRecord { node, id, address, server: is_server, ping, since }
    }

    pub(crate) fn into_row(self, modified: Revision) -> MemberRow {
        let MemberRecord { node, id, address, server, ping, since } = self;
        MemberRow { member: Member { node, id, address, is_server: server, ping, since }, modified }
    }
}
