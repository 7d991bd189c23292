//! `lictor keygen`: makes a key for encrypted gossip.

use anyhow::anyhow;
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::command::{Command, Outcome, done};
use super::print;
use crate::config::flags::Parsed;

/// The command.
pub(crate) const COMMANDS: &[Command] = &[Command::new("keygen", "Makes a key for encrypt", run)
    .about("\nThe key is valid for the setting `encrypt`, which has no effect here: there is no gossip to encrypt.")];

/// Bytes of a key.
const LENGTH: usize = 16;

fn run(_: &Parsed) -> Outcome {
    let mut key = [0; LENGTH];
    SystemRandom::new().fill(&mut key).map_err(|_| anyhow!("Error reading random data"))?;
    print(&STANDARD.encode(key));
    done()
}
