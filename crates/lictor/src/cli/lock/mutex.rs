//! A lock that one holds at a time: the key PREFIX/.lock, locked by a session.

use std::time::Duration;

use anyhow::{Result, bail};

use super::hold::{Session, until_lost};

/// Marks keys that are such locks, the same number for all clients.
const FLAGS: u64 = 0x2ddc_cbc0_58a5_0c18;

/// Pause when the key is free and still cannot be locked: another holder lost it and is given time to notice.
const RETRY: Duration = Duration::from_secs(5);

fn key(prefix: &str) -> String {
    format!("{prefix}/.lock")
}

/// Waits until the lock is held.
pub(super) async fn acquire(session: &Session, prefix: &str) -> Result<()> {
    let key = key(prefix);
    let mut index = 0;
    loop {
        let (entry, next) = session.key(&key, index).await?;
        index = if next < index { 0 } else { next };
        match &entry {
            Some(entry) if entry.flags != FLAGS => bail!("Existing key does not match lock use"),
            Some(entry) if entry.session == session.id => return Ok(()),
            Some(entry) if !entry.session.is_empty() => continue,
            _ => {}
        }
        if session.write(&key, ("acquire", &session.id), FLAGS, Vec::new()).await? {
            return Ok(());
        }
        let (entry, now) = session.key(&key, 0).await?;
        index = now;
        if entry.is_none_or(|entry| entry.session.is_empty()) {
            tokio::time::sleep(RETRY).await;
            index = 0;
        }
    }
}

/// Waits until the lock is not ours any more.
pub(super) async fn lost(session: &Session, prefix: &str, tolerated: u32) {
    let key = key(prefix);
    until_lost(tolerated, |index| {
        let key = &key;
        async move {
            let (entry, next) = session.key(key, index).await?;
            Ok((entry.is_some_and(|entry| entry.session == session.id), next))
        }
    })
    .await;
}

/// Gives the lock back, and removes its key if nobody else has it by then.
pub(super) async fn release(session: &Session, prefix: &str) -> Result<()> {
    let key = key(prefix);
    session.write(&key, ("release", &session.id), FLAGS, Vec::new()).await?;
    let (entry, _) = session.key(&key, 0).await?;
    if let Some(entry) = entry.filter(|entry| entry.session.is_empty() && entry.flags == FLAGS) {
        // Somebody may have been faster.
        session.delete(&key, entry.modify_index).await?;
    }
    Ok(())
}
