//! A Debian package: the files in their places, the scripts around them, and `dpkg-deb` to wrap it up.
//!
//! An upgrade never stops a proxy: see the scripts in `packaging/debian`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Files of the repository, where they go, and their mode.
const FILES: [(&str, &str, u32); 3] = [
    ("packaging/systemd/lictor.service", "usr/lib/systemd/system/lictor.service", 0o644),
    ("docs/man/lictor.1", "usr/share/man/man1/lictor.1", 0o644),
    ("packaging/agent.hcl", "etc/lictor/agent.hcl", 0o640),
];

/// Scripts that dpkg runs, and lists it reads.
const CONTROL: [(&str, u32); 4] = [("conffiles", 0o644), ("postinst", 0o755), ("prerm", 0o755), ("postrm", 0o755)];

/// Builds the package and prints where it is.
pub(crate) fn build(words: &[String]) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace")?;
    let (mut binary, mut out, mut version) = (None, root.join("target/debian"), VERSION.to_owned());
    let mut compression = "xz";
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        let mut value = || rest.next().cloned().with_context(|| format!("{word} needs a value"));
        match word.as_str() {
            "-binary" => binary = Some(PathBuf::from(value()?)),
            "-out" => out = value()?.into(),
            "-version" => version = value()?,
            "-uncompressed" => compression = "none",
            _ => bail!("unknown option {word:?}"),
        }
    }
    let binary = match binary {
        Some(binary) => binary,
        None => release(root)?,
    };
    let package = package(root, &binary, &out, &version, compression)?;
    crate::say(&format!("xtask: {}", package.display()));
    Ok(())
}

/// Builds one and gives where it is.
pub(crate) fn package(root: &Path, binary: &Path, out: &Path, version: &str, compression: &str) -> Result<PathBuf> {
    let architecture = output(Command::new("dpkg").arg("--print-architecture"))?;
    let name = format!("lictor_{version}_{architecture}");
    let stage = out.join(&name);
    if stage.exists() {
        fs::remove_dir_all(&stage).with_context(|| format!("cannot empty {}", stage.display()))?;
    }
    put(binary, &stage.join("usr/bin/lictor"), 0o755)?;
    for (from, to, mode) in FILES {
        put(&root.join(from), &stage.join(to), mode)?;
    }
    let doc = stage.join("usr/share/doc/lictor");
    for folder in ["docs", "."] {
        for entry in fs::read_dir(root.join(folder)).with_context(|| format!("cannot read {folder}"))? {
            let path = entry?.path();
            let wanted = match folder {
                "." => path.file_name().is_some_and(|name| name == "CHANGELOG.md"),
                _ => path.extension().is_some_and(|ending| ending == "md"),
            };
            if wanted && let Some(name) = path.file_name() {
                put(&path, &doc.join(name), 0o644)?;
            }
        }
    }
    let copyright = ["LICENSE-MIT", "LICENSE-APACHE"].map(|name| fs::read_to_string(root.join(name)));
    let [mit, apache] = copyright.map(|text| text.context("cannot read the licenses"));
    write(&doc.join("copyright"), &format!("License: Apache-2.0 or MIT\n\n{}\n\n{}", mit?, apache?), 0o644)?;
    write_completions(binary, &stage)?;

    let size = kilobytes(&stage)?;
    let control = fs::read_to_string(root.join("packaging/debian/control")).context("cannot read control")?;
    let control = control
        .replace("@VERSION@", version)
        .replace("@ARCHITECTURE@", &architecture)
        .replace("@SIZE@", &size.to_string())
        .replace("@DEPENDS@", &depends(binary)?);
    write(&stage.join("DEBIAN/control"), &control, 0o644)?;
    for (name, mode) in CONTROL {
        put(&root.join("packaging/debian").join(name), &stage.join("DEBIAN").join(name), mode)?;
    }
    let package = out.join(format!("{name}.deb"));
    let compress = format!("-Z{compression}");
    output(Command::new("dpkg-deb").args(["--root-owner-group", &compress, "--build"]).arg(&stage).arg(&package))?;
    fs::remove_dir_all(&stage).with_context(|| format!("cannot remove {}", stage.display()))?;
    Ok(package)
}

pub(crate) fn release(root: &Path) -> Result<PathBuf> {
    let status =
        crate::cargo::cargo().args(["build", "--release", "--locked", "-p", "lictor"]).current_dir(root).status();
    if !status.context("cannot run cargo build")?.success() {
        bail!("the release build failed");
    }
    Ok(root.join("target/release/lictor"))
}

/// What shells need to complete commands, where the program can tell it.
fn write_completions(binary: &Path, stage: &Path) -> Result<()> {
    for (shell, place) in [
        ("bash", "usr/share/bash-completion/completions/lictor"),
        ("zsh", "usr/share/zsh/vendor-completions/_lictor"),
        ("fish", "usr/share/fish/vendor_completions.d/lictor.fish"),
    ] {
        if let Ok(script) = output(Command::new(binary).args(["completion", shell])) {
            // The script names the program it was made by; installed, that is another place.
            let script = script.replace(&binary.display().to_string(), "/usr/bin/lictor");
            write(&stage.join(place), &format!("{script}\n"), 0o644)?;
        }
    }
    Ok(())
}

/// The C library the binary was linked with is the oldest it runs with.
fn depends(binary: &Path) -> Result<String> {
    // Not by ourselves: this program is built without optimisation, and binaries are large.
    let found = output(Command::new("grep").args(["-aoE", "GLIBC_2\\.[0-9]+"]).arg(binary)).unwrap_or_default();
    let newest = found.lines().filter_map(|mark| mark.rsplit('.').next()?.parse::<u32>().ok()).max();
    Ok(match newest {
        Some(minor) => format!("libc6 (>= 2.{minor}), libgcc-s1"),
        None => "libc6, libgcc-s1".to_owned(),
    })
}

fn put(from: &Path, to: &Path, mode: u32) -> Result<()> {
    make_parent(to)?;
    fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    set_mode(to, mode)
}

fn write(to: &Path, text: &str, mode: u32) -> Result<()> {
    make_parent(to)?;
    fs::write(to, text).with_context(|| format!("cannot write {}", to.display()))?;
    set_mode(to, mode)
}

/// Folders of a package are open to all, whatever the umask of who builds it.
fn make_parent(path: &Path) -> Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    if !parent.is_dir() {
        make_parent(parent)?;
        fs::create_dir(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        set_mode(parent, 0o755)?;
    }
    Ok(())
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    let permissions = fs::Permissions::from_mode(mode);
    fs::set_permissions(path, permissions).with_context(|| format!("cannot set the mode of {}", path.display()))
}

fn kilobytes(folder: &Path) -> Result<u64> {
    let mut total = 0;
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let entry = entry?;
        total += if entry.file_type()?.is_dir() {
            1 + kilobytes(&entry.path())?
        } else {
            entry.metadata()?.len().div_ceil(1024)
        };
    }
    Ok(total)
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
