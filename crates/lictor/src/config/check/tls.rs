//! Certificates of the agent's own listeners and connections. Files are opened at the start, not here.

use std::path::PathBuf;

use super::{AgentConfig, Check};
use crate::config::Purpose;
use crate::config::address::ListenAddr;
use crate::config::report::Stage;

/// Certificates of the agent's own listeners and connections.
#[derive(Clone, Debug)]
pub(crate) struct Tls {
    /// Roots in a PEM file.
    pub(crate) ca_file: Option<PathBuf>,
    /// Roots in the PEM files of a directory.
    pub(crate) ca_path: Option<PathBuf>,
    /// This agent's certificate and its key.
    pub(crate) certificate: Option<(PathBuf, PathBuf)>,
    /// Whether HTTPS clients must show a certificate.
    pub(crate) verify_incoming_https: bool,
    /// Whether servers are verified.
    pub(crate) verify_outgoing: bool,
    /// Whether the certificate of a server must have the name of one.
    pub(crate) verify_server_hostname: bool,
    /// The name that it must have instead.
    pub(crate) server_name: String,
    /// Names of the cipher suites of TLS 1.2; `None` for the default.
    pub(crate) cipher_suites: Option<Vec<String>>,
    /// Whether the server's order counts.
    pub(crate) prefer_server_cipher_suites: bool,
    /// Whether checks present the agent's certificate.
    pub(crate) for_checks: bool,
}

/// Suites that are offered.
const OFFERED: &[&str] = &[
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
];

/// Suites that the original knows and nobody should use.
const OUTDATED: &[&str] = &[
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
];

/// Reads and judges.
pub(crate) fn tls(check: &mut Check<'_>) -> Tls {
    let settings = check.settings;
    let path = |key: &str| Some(settings.text(key)).filter(|text| !text.is_empty()).map(PathBuf::from);
    let (ca_file, ca_path) = (path("ca_file"), path("ca_path"));
    let certificate = match (path("cert_file"), path("key_file")) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        (Some(_), None) => {
            check.refuse(Stage::Start, "cert_file", "cert_file needs key_file", "add key_file, or remove cert_file");
            None
        }
        (None, Some(_)) => {
            check.refuse(Stage::Start, "key_file", "key_file needs cert_file", "add cert_file, or remove key_file");
            None
        }
    };
    let has_ca = ca_file.is_some() || ca_path.is_some();
    let incoming =
        ["verify_incoming", "verify_incoming_rpc", "verify_incoming_https"].into_iter().find(|key| settings.flag(key));
    if let Some(key) = incoming {
        if !has_ca {
            let text = "VerifyIncoming set, and no CA certificate provided!";
            check.refuse(Stage::Start, key, text, "add ca_file or ca_path");
        }
        if certificate.is_none() {
            let text = "VerifyIncoming set, and no Cert/Key pair provided!";
            check.refuse(Stage::Start, key, text, "add cert_file and key_file");
        }
    }
    let verify_server_hostname = settings.flag("verify_server_hostname");
    let verify_outgoing = settings.flag("verify_outgoing") || verify_server_hostname;
    if verify_outgoing && !has_ca {
        let key = if settings.flag("verify_outgoing") { "verify_outgoing" } else { "verify_server_hostname" };
        let text = "VerifyOutgoing set, and no CA certificate provided!";
        check.refuse(Stage::Start, key, text, "add ca_file or ca_path");
    }
    minimum(check);
    if check.purpose == Purpose::Validate {
        // They may be there on the machine that the files are meant for.
        for key in ["cert_file", "key_file", "ca_file", "ca_path"] {
            let file = settings.text(key);
            if !file.is_empty() && !std::path::Path::new(file).exists() {
                let origin = settings.origin(key);
                check
                    .warn(format!("config: {origin}: {key}: {file} is not there; the agent does not start without it"));
            }
        }
    }
    Tls {
        ca_file,
        ca_path,
        certificate,
        verify_incoming_https: settings.flag("verify_incoming") || settings.flag("verify_incoming_https"),
        verify_outgoing,
        verify_server_hostname,
        server_name: settings.text("server_name").to_owned(),
        cipher_suites: cipher_suites(check),
        prefer_server_cipher_suites: settings.flag("tls_prefer_server_cipher_suites"),
        for_checks: settings.flag("enable_agent_tls_for_checks"),
    }
}

fn minimum(check: &mut Check<'_>) {
    match check.settings.text("tls_min_version") {
        "" | "tls12" => {}
        old @ ("tls10" | "tls11") => {
            let text = format!("config: tls_min_version = {old:?} is raised to \"tls12\"");
            check.warn(text);
        }
        other => {
            let text = format!("TLSMinVersion: value {other} not supported, please specify one of [tls10,tls11,tls12]");
            check.refuse(Stage::Start, "tls_min_version", text, "write \"tls12\", or leave it out");
        }
    }
}

fn cipher_suites(check: &mut Check<'_>) -> Option<Vec<String>> {
    const KEY: &str = "tls_cipher_suites";
    let text = check.settings.text(KEY);
    if text.trim().is_empty() {
        return None;
    }
    let names: Vec<&str> = text.split(',').map(str::trim).collect();
    let (mut kept, mut dropped) = (Vec::new(), Vec::new());
    for name in names {
        if OFFERED.contains(&name) {
            kept.push(name.to_owned());
        } else if OUTDATED.contains(&name) {
            dropped.push(name);
        } else {
            check.refuse(
                Stage::Rules,
                KEY,
                format!("tls_cipher_suites: invalid tls cipher suites: unsupported cipher {name:?}"),
                format!("use some of {}", OFFERED.join(", ")),
            );
            return None;
        }
    }
    if kept.is_empty() {
        check.refuse(
            Stage::Rules,
            KEY,
            "tls_cipher_suites: none of these cipher suites is offered",
            format!("use some of {}", OFFERED.join(", ")),
        );
    } else if !dropped.is_empty() {
        check.warn(format!("config: outdated cipher suites are not offered: {}", dropped.join(", ")));
    }
    Some(kept)
}

/// HTTPS without a certificate fails every handshake; test kits do that on loopback, where it harms nobody.
pub(crate) fn warn_about_https(check: &mut Check<'_>, config: &AgentConfig) {
    let local = |address: &ListenAddr| match address {
        ListenAddr::Ip(address) => address.ip().is_loopback(),
        ListenAddr::Unix(_) => true,
    };
    if config.tls.certificate.is_none() && !config.network.https.iter().all(local) {
        check.warn("config: ports.https is set without cert_file and key_file: no client will get through");
    }
}
