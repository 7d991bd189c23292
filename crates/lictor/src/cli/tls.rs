//! `lictor tls`: certificates for the agents' own traffic, which have nothing to do with the mesh.

use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use lictor_ca::agent_tls::{AgentCa, Purpose};
use zeroize::Zeroizing;

use super::command::{Command, Outcome, done};
use super::print;
use crate::config::flags::{Flag, Parsed};

/// The commands.
pub(crate) const COMMANDS: &[Command] = &[
    Command::new("tls ca create", "Makes a CA for the agents' own traffic", create_ca)
        .about("\nWrites DOMAIN-agent-ca.pem and DOMAIN-agent-ca-key.pem into the current folder.")
        .flags(&[
            Flag::text(
                "additional-name-constraint",
                "With -name-constraint, a further domain it may vouch for; may be given several times",
            ),
            DAYS,
            DOMAIN,
            Flag::bool("name-constraint", "Let it vouch for hosts of the domain and for localhost alone"),
        ]),
    Command::new("tls cert create", "Makes a certificate for an agent or a client of one", create_certificate)
        .about("\nWrites certificate and key into the current folder, under the first number that is free.")
        .flags(&[
            Flag::text("additional-dnsname", "A further host name; may be given several times"),
            Flag::text("additional-ipaddress", "A further IP address; may be given several times"),
            Flag::text("ca", "Certificate of the CA; by default DOMAIN-agent-ca.pem"),
            Flag::bool("cli", "A certificate for the command line"),
            Flag::bool("client", "A certificate for a client agent"),
            DAYS,
            Flag::text("dc", "Datacenter of the agent; by default dc1"),
            DOMAIN,
            Flag::text("key", "Key of the CA; by default DOMAIN-agent-ca-key.pem"),
            Flag::bool("server", "A certificate for a server"),
        ]),
];

const DAYS: Flag = Flag::int("days", "How long it is valid; by default 1825 for a CA and 365 for a certificate");
const DOMAIN: Flag = Flag::text("domain", "Domain of the agents; by default consul");

const CA_DAYS: i64 = 5 * 365;
const CERTIFICATE_DAYS: i64 = 365;
const DAY: u64 = 24 * 60 * 60;

/// Certificates of one kind that may lie in a folder.
const MAX_CERTIFICATES: u32 = 10_000;

fn lifetime(flags: &Parsed, default: i64) -> Result<Duration> {
    match u64::try_from(flags.int("days").unwrap_or(default)) {
        Ok(days @ 1..=36_500) => Ok(Duration::from_secs(days * DAY)),
        _ => bail!("-days must be between 1 and 36500"),
    }
}

fn domain(flags: &Parsed) -> Result<String> {
    let domain = flags.text("domain").filter(|domain| !domain.is_empty()).unwrap_or("consul");
    let domain = domain.trim_end_matches('.');
    is_label(domain).then(|| domain.to_owned()).ok_or_else(|| anyhow!("-domain {domain:?} is no domain"))
}

/// Whether a text can be a part of a host name, and so of a file's name.
fn is_label(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !text.is_empty() && !text.starts_with(['.', '-']) && text.bytes().all(plain)
}

fn no_operands(flags: &Parsed) -> Result<()> {
    match flags.operands.first() {
        None => Ok(()),
        Some(word) => bail!("Should have no non-flag arguments, got {word:?}."),
    }
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

fn create_ca(flags: &Parsed) -> Outcome {
    no_operands(flags)?;
    let domain = domain(flags)?;
    let lifetime = lifetime(flags, CA_DAYS)?;
    let more: Vec<&str> = flags.texts("additional-name-constraint").collect();
    let constraints: Vec<&str> = match (flags.is_set("name-constraint"), more.is_empty()) {
        (false, true) => Vec::new(),
        (false, false) => bail!("-additional-name-constraint needs -name-constraint"),
        (true, _) => [domain.as_str(), "localhost"].into_iter().chain(more).collect(),
    };
    let (certificate_file, key_file) = (format!("{domain}-agent-ca.pem"), format!("{domain}-agent-ca-key.pem"));
    for file in [&certificate_file, &key_file] {
        if Path::new(file).exists() {
            bail!("{file} already exists.");
        }
    }
    let pair =
        AgentCa::create(&constraints, lifetime, now()).and_then(|ca| ca.pair()).context("Error creating the CA")?;
    write(&key_file, pair.key.as_bytes(), 0o600)?;
    write(&certificate_file, pair.certificate.as_bytes(), 0o644)?;
    print(&format!("==> Saved {certificate_file}\n==> Saved {key_file}"));
    done()
}

fn create_certificate(flags: &Parsed) -> Outcome {
    no_operands(flags)?;
    let purpose = match (flags.is_set("server"), flags.is_set("client"), flags.is_set("cli")) {
        (true, false, false) => Purpose::Server,
        (false, true, false) => Purpose::Client,
        (false, false, true) => Purpose::Cli,
        _ => bail!("Please provide either -server, -client, or -cli"),
    };
    let domain = domain(flags)?;
    let datacenter = flags.text("dc").filter(|dc| !dc.is_empty()).unwrap_or("dc1");
    if !is_label(datacenter) {
        bail!("-dc {datacenter:?} is no datacenter");
    }
    let lifetime = lifetime(flags, CERTIFICATE_DAYS)?;
    let word = match purpose {
        Purpose::Server => "server",
        Purpose::Client => "client",
        Purpose::Cli => "cli",
    };
    let more = flags.texts("additional-dnsname").map(str::to_owned);
    let names: Vec<String> =
        [format!("{word}.{datacenter}.{domain}"), "localhost".to_owned()].into_iter().chain(more).collect();
    if let Some(name) = names.iter().find(|name| !is_label(name.strip_prefix("*.").unwrap_or(name))) {
        bail!("-additional-dnsname {name:?} is no host name");
    }
    let mut addresses = match purpose {
        Purpose::Cli => Vec::new(),
        Purpose::Server | Purpose::Client => vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
    };
    for text in flags.texts("additional-ipaddress") {
        addresses.push(text.parse().map_err(|_| anyhow!("-additional-ipaddress {text:?} is no IP address"))?);
    }
    let ca_file = flags.text("ca").map_or_else(|| format!("{domain}-agent-ca.pem"), str::to_owned);
    let ca_key_file = flags.text("key").map_or_else(|| format!("{domain}-agent-ca-key.pem"), str::to_owned);
    let read = |file: &str| fs::read_to_string(file).with_context(|| format!("Error reading {file}"));
    let ca = AgentCa::from_pem(&read(&ca_file)?, &Zeroizing::new(read(&ca_key_file)?))
        .with_context(|| format!("Error using {ca_file} and {ca_key_file}"))?;
    let pair = ca.issue(purpose, &names, &addresses, lifetime, now()).context("Error creating the certificate")?;
    if purpose == Purpose::Server {
        print(
            "==> WARNING: Whoever holds a server certificate can act as a server: it reads all of the cluster's state,\n    \
             root keys and ACL tokens included. Give it to servers alone, and keep it as safe as the CA's key.",
        );
    }
    print(&format!("==> Using {ca_file} and {ca_key_file}"));
    for number in 0..MAX_CERTIFICATES {
        let stem = format!("{datacenter}-{word}-{domain}-{number}");
        let (certificate_file, key_file) = (format!("{stem}.pem"), format!("{stem}-key.pem"));
        if Path::new(&certificate_file).exists() || Path::new(&key_file).exists() {
            continue;
        }
        write(&key_file, pair.key.as_bytes(), 0o600)?;
        write(&certificate_file, pair.certificate.as_bytes(), 0o644)?;
        print(&format!("==> Saved {certificate_file}\n==> Saved {key_file}"));
        return done();
    }
    bail!("there are {MAX_CERTIFICATES} certificates of this kind in this folder already")
}

/// Writes a file that is not there yet, for nobody to read that may not.
fn write(file: &str, content: &[u8], mode: u32) -> Result<()> {
    fs::File::options()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(file)
        .and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()))
        .with_context(|| format!("Error writing {file}"))
}
