//! A lock that a few hold at a time: every contender has a key that its session locks, and the key PREFIX/.lock lists
//! those of them that hold it.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use lictor_api::kv::Entry;
use serde::{Deserialize, Serialize};

use super::hold::{Session, until_lost};

/// Marks keys that belong to such locks, the same number for all clients.
const FLAGS: u64 = 0xe0f6_9a2b_aa41_4de0;

/// Who holds it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Holders {
    /// How many may.
    limit: u64,
    /// Sessions that do.
    holders: BTreeMap<String, bool>,
}

fn lock_key(prefix: &str) -> String {
    format!("{prefix}/.lock")
}

fn contender_key(session: &Session, prefix: &str) -> String {
    format!("{prefix}/{}", session.id)
}

/// The holders by the keys under the prefix, without those whose session has gone; and the index of their list.
fn holders(prefix: &str, limit: u64, entries: &[Entry<'_>]) -> Result<(Holders, u64)> {
    let lock_key = lock_key(prefix);
    let (mut held, index) = match entries.iter().find(|entry| entry.key == lock_key) {
        None => (Holders { limit, holders: BTreeMap::new() }, 0),
        Some(entry) if entry.flags != FLAGS => bail!("existing key does not match semaphore use"),
        Some(entry) => {
            let held = serde_json::from_slice(&entry.value).context("the list of holders is not what it should be")?;
            (held, entry.modify_index)
        }
    };
    let is_alive = |session: &str| {
        let key = format!("{prefix}/{session}");
        entries.iter().any(|entry| entry.key == key && entry.session == session)
    };
    held.holders.retain(|session, _| is_alive(session));
    Ok((held, index))
}

/// Waits until the lock is held.
pub(super) async fn acquire(session: &Session, prefix: &str, limit: u64) -> Result<()> {
    let contender = contender_key(session, prefix);
    if !session.write(&contender, ("acquire", &session.id), FLAGS, Vec::new()).await? {
        bail!("failed to make contender entry");
    }
    let below = format!("{prefix}/");
    let mut after = 0;
    loop {
        let (entries, next) = session.keys(&below, after).await?;
        after = if next < after { 0 } else { next };
        let (mut held, index) = holders(prefix, limit, &entries)?;
        if held.limit != limit {
            bail!("semaphore limit conflict (lock: {}, local: {limit})", held.limit);
        }
        if held.holders.contains_key(&session.id) {
            return Ok(());
        }
        if held.holders.len() as u64 >= limit {
            continue;
        }
        held.holders.insert(session.id.clone(), true);
        let list = serde_json::to_vec(&held).context("cannot write the list of holders")?;
        if session.write(&lock_key(prefix), ("cas", &index.to_string()), FLAGS, list).await? {
            return Ok(());
        }
        // Somebody was faster: look again at once.
        after = 0;
    }
}

/// Waits until the lock is not ours any more.
pub(super) async fn lost(session: &Session, prefix: &str, tolerated: u32) {
    let below = format!("{prefix}/");
    until_lost(tolerated, |index| {
        let below = &below;
        async move {
            let (entries, next) = session.keys(below, index).await?;
            let (held, _) = holders(prefix, 0, &entries)?;
            Ok((held.holders.contains_key(&session.id), next))
        }
    })
    .await;
}

/// Gives the lock back, and removes its keys if nobody else needs them.
pub(super) async fn release(session: &Session, prefix: &str) -> Result<()> {
    let below = format!("{prefix}/");
    loop {
        let (entries, _) = session.keys(&below, 0).await?;
        let (mut held, index) = holders(prefix, 0, &entries)?;
        if index == 0 {
            break;
        }
        held.holders.remove(&session.id);
        let done = if held.holders.is_empty() {
            session.delete(&lock_key(prefix), index).await?
        } else {
            let list = serde_json::to_vec(&held).context("cannot write the list of holders")?;
            session.write(&lock_key(prefix), ("cas", &index.to_string()), FLAGS, list).await?
        };
        if done {
            break;
        }
    }
    let contender = contender_key(session, prefix);
    let (entry, _) = session.key(&contender, 0).await?;
    if let Some(entry) = entry {
        session.delete(&contender, entry.modify_index).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_whose_session_has_gone_holds_nothing() {
        let list = br#"{"Limit":2,"Holders":{"a":true,"b":true}}"#;
        let entry = |key: &str, session: &str, value: &[u8]| Entry {
            key: key.to_owned().into(),
            session: session.to_owned().into(),
            value: value.to_vec().into(),
            flags: FLAGS,
            modify_index: 7,
            ..Entry::default()
        };
        let entries = [entry("p/.lock", "", list), entry("p/a", "a", b""), entry("p/b", "", b"")];
        let (held, index) = holders("p", 2, &entries).unwrap();
        assert_eq!((held.limit, index), (2, 7));
        assert_eq!(held.holders.keys().collect::<Vec<_>>(), ["a"]);
        let (none, index) = holders("p", 3, &[]).unwrap();
        assert_eq!((none.limit, none.holders.len(), index), (3, 0, 0));
        let foreign = Entry { key: "p/.lock".into(), ..Entry::default() };
        assert!(holders("p", 2, &[foreign]).is_err());
    }
}
