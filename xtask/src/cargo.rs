//! How cargo is run from here.

use std::process::Command;

/// The cargo that runs us, without what it tells a program about its package: build scripts of dependencies look at that, and
/// all that depends on them would be built again whenever somebody calls cargo in between without us.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let ours = std::env::vars_os().map(|(name, _)| name).filter(|name| {
        let name = name.to_string_lossy();
        name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
    });
    ours.for_each(|name| {
        command.env_remove(name);
    });
    command
}
