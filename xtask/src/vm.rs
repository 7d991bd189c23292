//! A virtual machine with a systemd and control groups of its own, and what can only be shown there.
//!
//! Its disk is made once from Debian's packages and never written to: each run works on a copy that is thrown away. The
//! processor is emulated where the kernel cannot lend its own, which is slow and the same otherwise.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use lictor_testkit::program::find;
use serde_json::Value;

use crate::deb;

/// What the machine has beside the essential.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd,udev,linux-image-cloud-amd64,\
                        initramfs-tools,adduser,libgcc-s1,kmod,procps";
/// Commands without which there is no machine, and the package that has each.
const TOOLS: [(&str, &str); 5] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("mmdebstrap", "mmdebstrap"),
    ("mke2fs", "e2fsprogs"),
    ("tar", "tar"),
    ("dpkg-deb", "dpkg"),
];
/// The last line of a run that went well.
const PASSED: &str = "vm: all of it holds";
/// When a machine that hangs is ended.
const LIMIT: &str = "3600";
/// Unpacks the second disk, which is a bare archive, runs what is in it, and turns the machine off.
const UNIT: &str = "\
[Unit]
After=multi-user.target

[Service]
Type=idle
Delegate=yes
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
ExecStart=/bin/sh -c 'tar -C / -xf /dev/vdb && sh /vm/run; systemctl poweroff'
";
/// Runs a test, and tells what the agent said when it fails. One that found nothing to do has shown nothing.
const SCRIPT: &str = r#"
export LICTOR_VM_PACKAGES=/vm
cd /vm
shown() {
    if ! "$@" --nocapture --test-threads=1 >out 2>&1; then
        cat out
        journalctl --no-pager --boot --output=short-monotonic --unit=lictor --lines=200
        exit 1
    fi
    cat out
    if grep SKIPPED out || ! grep -q ' [1-9][0-9]* passed' out; then exit 1; fi
}
"#;
/// Tests that skip most of themselves on machines without control groups: binary, filter.
const IN_GROUPS: [(&str, &str); 3] = [
    ("lictor_supervisor", "group::"),
    ("operations", "limits_of_memory"),
    ("operations", "a_proxy_that_needs_more_memory"),
];

/// Runs it all and fails when something does not hold. Machines that cannot have one are told what is missing.
pub(crate) fn run(words: &[String]) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace")?;
    let (mut binary, mut suite) = (None, "trixie".to_owned());
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        let value = rest.next().with_context(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "-binary" => binary = Some(PathBuf::from(value)),
            "-suite" => suite.clone_from(value),
            _ => bail!("unknown option {word:?}"),
        }
    }
    for (tool, package) in TOOLS {
        if find(tool).is_none() {
            crate::say(&format!("xtask: SKIPPED: a virtual machine needs {tool} (apt-get install {package})"));
            return Ok(());
        }
    }
    let binary = match binary {
        Some(binary) => binary,
        None => deb::release(root)?,
    };
    let folder = root.join("target/vm");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let machine = folder.join(&suite);
    if !machine.join("disk").exists() {
        make_machine(&machine, &suite)?;
    }
    let load = folder.join("load");
    stage(root, &load, &binary)?;
    let archive = folder.join("load.tar");
    command(Command::new("tar").arg("-C").arg(&load).arg("-cf").arg(&archive).arg("."))?;
    start(&machine, &archive)
}

/// A disk with a small Debian, its kernel, and the unit that begins the work.
fn make_machine(machine: &Path, suite: &str) -> Result<()> {
    crate::say(&format!("xtask: making a machine with Debian {suite}"));
    // Beside its place until it is whole.
    let half = machine.with_extension("half");
    let _ = fs::remove_dir_all(&half);
    let tree = half.join("tree");
    fs::create_dir_all(&tree)?;
    let archive = half.join("tree.tar");
    let include = format!("--include={PACKAGES}");
    let quiet = "--aptopt=Acquire::Languages \"none\"";
    command(Command::new("mmdebstrap").args(["--variant=minbase", &include, quiet, suite]).arg(&archive))?;
    command(Command::new("tar").arg("-C").arg(&tree).arg("-xf").arg(&archive))?;
    fs::write(tree.join("etc/hostname"), "vm\n")?;
    fs::write(tree.join("etc/hosts"), "127.0.0.1 localhost vm\n")?;
    fs::write(tree.join("etc/fstab"), "/dev/vda / ext4 defaults 0 1\n")?;
    // An emulated processor needs more time for a start than systemd gives.
    fs::create_dir_all(tree.join("etc/systemd/system.conf.d"))?;
    fs::write(tree.join("etc/systemd/system.conf.d/slow.conf"), "[Manager]\nDefaultTimeoutStartSec=600\n")?;
    let units = tree.join("etc/systemd/system");
    fs::write(units.join("vm.service"), UNIT)?;
    fs::create_dir_all(units.join("multi-user.target.wants"))?;
    std::os::unix::fs::symlink("../vm.service", units.join("multi-user.target.wants/vm.service"))?;
    // The console is for what we run.
    std::os::unix::fs::symlink("/dev/null", units.join("serial-getty@ttyS0.service"))?;
    for entry in fs::read_dir(tree.join("boot"))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for (start, to) in [("vmlinuz-", "kernel"), ("initrd.img-", "initrd")] {
            if name.starts_with(start) {
                fs::copy(&path, half.join(to))?;
            }
        }
    }
    command(Command::new("mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(&tree).arg(half.join("disk")).arg("3G"))?;
    fs::remove_dir_all(&tree)?;
    fs::remove_file(&archive)?;
    fs::rename(&half, machine).with_context(|| format!("cannot make {}", machine.display()))
}

/// Puts everything where the machine shall have it: packages, tests, and the script that runs them.
fn stage(root: &Path, load: &Path, binary: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(load);
    let place = load.join("vm");
    fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
    for (version, name) in [("1.0.0", "first.deb"), ("1.0.1", "second.deb")] {
        let built = deb::package(root, binary, &load.with_extension("deb"), version, "none")?;
        fs::rename(&built, place.join(name)).with_context(|| format!("cannot move {}", built.display()))?;
    }
    // Tests start the program at the place where cargo has put it.
    let inside = |path: &Path| load.join(path.strip_prefix("/").unwrap_or(path));
    for to in [place.join("lictor"), inside(&root.join("target/debug/lictor"))] {
        fs::create_dir_all(to.parent().unwrap_or(&to))?;
        fs::copy(binary, &to).with_context(|| format!("cannot copy {}", binary.display()))?;
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755))?;
    }
    let tests = built_tests(root)?;
    let mut script = SCRIPT.to_owned();
    let mut add = |name: &str, words: &str| -> Result<()> {
        let (_, path) = tests.iter().find(|(test, _)| test == name).with_context(|| format!("no test {name}"))?;
        fs::copy(path, place.join(name)).with_context(|| format!("cannot copy {}", path.display()))?;
        script.push_str(&format!("shown ./{name} {words}\n"));
        Ok(())
    };
    for (name, filter) in IN_GROUPS {
        add(name, filter)?;
    }
    add("systemd", "--ignored")?;
    script.push_str(&format!("echo '{PASSED}'\n"));
    fs::write(place.join("run"), script).context("cannot write the script")
}

/// Name and place of each test binary.
fn built_tests(root: &Path) -> Result<Vec<(String, PathBuf)>> {
    let output = crate::cargo::cargo()
        .args(["test", "--workspace", "--locked", "--no-run", "--message-format=json"])
        .current_dir(root)
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo test")?;
    if !output.status.success() {
        bail!("the tests cannot be built");
    }
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let found = lines.lines().filter_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let executable = message["executable"].as_str()?;
        let name = message["target"]["name"].as_str()?;
        (message["profile"]["test"] == true).then(|| (name.to_owned(), executable.into()))
    });
    Ok(found.collect())
}

/// Runs the machine until it turns itself off; what it says comes through.
fn start(machine: &Path, archive: &Path) -> Result<()> {
    let drive = |path: &Path, more: &str| format!("file={},if=virtio,format=raw,{more}", path.display());
    let mut child = Command::new("timeout")
        .args([LIMIT, "qemu-system-x86_64", "-machine", "q35,accel=tcg", "-cpu", "max", "-smp", "2", "-m", "3072"])
        .args(["-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio"])
        .arg("-kernel")
        .arg(machine.join("kernel"))
        .arg("-initrd")
        .arg(machine.join("initrd"))
        .args(["-append", "root=/dev/vda rw console=ttyS0 quiet loglevel=3 systemd.show_status=0"])
        .args(["-drive", &drive(&machine.join("disk"), "snapshot=on")])
        .args(["-drive", &drive(archive, "readonly=on")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start qemu-system-x86_64")?;
    let mut passed = false;
    for line in BufReader::new(child.stdout.take().context("no output")?).split(b'\n') {
        let line = line.context("cannot read what the machine says")?;
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        passed |= line == PASSED;
        crate::say(&line);
    }
    let status = child.wait().context("cannot wait for the machine")?;
    if !passed {
        bail!("something does not hold on a machine with systemd, or the machine ended too early ({status})");
    }
    Ok(())
}

fn command(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    if !status.success() {
        bail!("{command:?} failed: {status}");
    }
    Ok(())
}
