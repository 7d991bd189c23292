//! Trust in files: CA certificates from a file, a directory, or where the system keeps its own.

use std::path::Path;

use rustls::RootCertStore;

use crate::error::Error;
use crate::leaf::certificates_from_pem;

/// Where systems keep the CAs they trust, the usual one first.
const SYSTEM: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
];

/// Reads a file as text.
pub(crate) fn read(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|source| Error::File { path: path.display().to_string(), source })
}

/// The CAs of a file and of every file of a directory; at least one.
pub(crate) fn roots(file: Option<&Path>, directory: Option<&Path>) -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    if let Some(file) = file {
        add(&mut store, file)?;
    }
    if let Some(directory) = directory {
        let failed = |source| Error::File { path: directory.display().to_string(), source };
        for entry in std::fs::read_dir(directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.is_file() {
                add(&mut store, &path)?;
            }
        }
    }
    if store.is_empty() { Err(Error::NoCertificate) } else { Ok(store) }
}

/// The CAs that the system trusts; those that cannot be read are left out, as every other program does.
pub(crate) fn system_roots() -> RootCertStore {
    let mut store = RootCertStore::empty();
    let text = SYSTEM.iter().find_map(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
    store.add_parsable_certificates(certificates_from_pem(&text).unwrap_or_default());
    store
}

fn add(store: &mut RootCertStore, path: &Path) -> Result<(), Error> {
    for certificate in certificates_from_pem(&read(path)?)? {
        store.add(certificate).map_err(|problem| Error::Certificate(format!("{}: {problem}", path.display())))?;
    }
    Ok(())
}
