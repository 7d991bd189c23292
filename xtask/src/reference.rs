//! The pages of the documentation that the program itself prints; a test of the program compares them.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// What the program prints, and where it goes.
const PAGES: [(&str, &str); 2] = [("markdown", "docs/cli.md"), ("man", "docs/man/lictor.1")];

/// Builds the program and writes the pages.
pub(crate) fn write() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the workspace")?;
    for (form, page) in PAGES {
        let output = crate::cargo::cargo()
            .args(["run", "--quiet", "--locked", "-p", "lictor", "--", "reference", form])
            .current_dir(root)
            .stderr(std::process::Stdio::inherit())
            .output()
            .context("cannot run cargo")?;
        ensure!(output.status.success(), "the program did not print {form}");
        let file = root.join(page);
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        fs::write(&file, output.stdout).with_context(|| format!("cannot write {page}"))?;
        crate::say(&format!("xtask: wrote {page}"));
    }
    Ok(())
}
