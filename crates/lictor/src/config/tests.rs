//! The whole way from sources to settings, fact by fact: what loads, what is refused, and in which words.

use std::fs;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::check::acl::DefaultPolicy;
use super::check::output::Level;
use super::check::store::Backend;
use super::check::{AgentConfig, Role};
use super::keys::{Disposition, KEYS, Kind};
use super::*;

mod any_file;
mod facts;
mod harnesses;
mod refusals;

fn machine() -> Machine {
    let address = |name: &str, ip: &str, prefix, flags: &[&'static str], default_route| InterfaceAddress {
        name: name.into(),
        ip: ip.parse().unwrap(),
        prefix,
        flags: flags.to_vec(),
        default_route,
    };
    Machine {
        host_name: "host-1".into(),
        interfaces: vec![
            address("lo", "127.0.0.1", 8, &["up", "loopback"], false),
            address("eth0", "192.168.1.5", 24, &["up", "broadcast"], true),
        ],
    }
}

/// Loads files (by name, in a directory of their own) and flags.
fn load_for(purpose: Purpose, flags: &[&str], files: &[(&str, &str)]) -> Result<Loaded, ConfigErrors> {
    let directory = tempfile::tempdir().unwrap();
    let mut arguments: Vec<String> = Vec::new();
    if !files.is_empty() {
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        arguments.extend(["-config-dir".to_owned(), directory.path().display().to_string()]);
    }
    arguments.extend(flags.iter().map(|flag| (*flag).to_owned()));
    load_on(&machine(), &Sources::from_flags(&arguments).unwrap(), purpose)
}

fn load(flags: &[&str], files: &[(&str, &str)]) -> Result<Loaded, ConfigErrors> {
    load_for(Purpose::Run, flags, files)
}

/// Loads one file on top of `-dev`.
fn dev(name: &str, text: &str) -> Loaded {
    load(&["-dev"], &[(name, text)]).unwrap_or_else(|errors| panic!("{errors}\n{text}"))
}

fn dev_hcl(text: &str) -> Loaded {
    dev("a.hcl", text)
}

fn dev_json(text: &str) -> Loaded {
    dev("a.json", text)
}

/// What is wrong with one HCL file on top of `-dev`.
fn problems(text: &str) -> ConfigErrors {
    load(&["-dev"], &[("a.hcl", text)]).expect_err(text)
}

fn json_problems(text: &str) -> ConfigErrors {
    load(&["-dev"], &[("a.json", text)]).expect_err(text)
}

/// The texts of all problems.
fn texts(errors: &ConfigErrors) -> Vec<&str> {
    errors.problems().iter().map(|problem| problem.text.as_str()).collect()
}

fn notices(loaded: &Loaded, weight: Weight) -> Vec<&str> {
    loaded.notices.iter().filter(|notice| notice.weight == weight).map(|notice| notice.text.as_str()).collect()
}

fn warnings(loaded: &Loaded) -> Vec<&str> {
    notices(loaded, Weight::Warn)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
