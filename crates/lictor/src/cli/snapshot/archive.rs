//! The archive of a snapshot: a compressed tar with `meta.json`, the state, and the digests of both.

use std::collections::BTreeMap;
use std::io::Read;

use anyhow::{Context, Result, bail, ensure};
use aws_lc_rs::digest::{Context as Digest, SHA256};
use flate2::read::GzDecoder;
use serde::{Deserialize, Serialize};

/// What an archive says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Meta {
    /// Its name.
    #[serde(rename = "ID")]
    pub(super) id: String,
    /// Bytes of state.
    #[serde(default)]
    pub(super) size: u64,
    /// The position in the history that it holds.
    pub(super) index: u64,
    /// The term of that position.
    pub(super) term: u64,
    /// Version of its form.
    pub(super) version: u64,
}

/// The member with the digests, in the form of `sha256sum`.
const DIGESTS: &str = "SHA256SUMS";
const META: &str = "meta.json";
/// Small members are read whole, up to this size.
const MAX_SMALL: u64 = 1 << 20;

/// Reads an archive to its end and checks every digest.
pub(super) fn verify(archive: impl Read) -> Result<Meta> {
    let mut tar = tar::Archive::new(GzDecoder::new(archive));
    let mut found = BTreeMap::new();
    let (mut meta, mut digests) = (None, None);
    let mut state_size = 0;
    for member in tar.entries().context("this is no snapshot")? {
        let mut member = member.context("this is no snapshot")?;
        let name = member.path().context("a member has no name")?.to_string_lossy().into_owned();
        let size = member.size();
        if [META, DIGESTS].contains(&name.as_str()) {
            ensure!(size <= MAX_SMALL, "{name} is larger than it can be");
            let mut bytes = Vec::new();
            member.read_to_end(&mut bytes).with_context(|| format!("cannot read {name}"))?;
            if name == META {
                meta = Some(serde_json::from_slice::<Meta>(&bytes).context("meta.json is not what it should be")?);
                found.insert(name, digest(bytes.as_slice())?);
            } else {
                digests = Some(String::from_utf8(bytes).context("SHA256SUMS is not text")?);
            }
        } else {
            state_size += size;
            let digest = digest(member).with_context(|| format!("cannot read {name}"))?;
            found.insert(name, digest);
        }
    }
    // The compressed stream has a checksum of its own, behind everything else.
    std::io::copy(&mut tar.into_inner(), &mut std::io::sink()).context("it is damaged, or not whole")?;
    let Some(digests) = digests else { bail!("there is no SHA256SUMS in it") };
    let Some(mut meta) = meta else { bail!("there is no meta.json in it") };
    let mut listed = 0;
    for line in digests.lines().filter(|line| !line.trim().is_empty()) {
        let (digest, name) = line.split_once("  ").context("SHA256SUMS is not what it should be")?;
        match found.get(name) {
            None => bail!("{name} is missing"),
            Some(found) if *found != digest => bail!("{name} is damaged: its digest is not the one in SHA256SUMS"),
            Some(_) => listed += 1,
        }
    }
    ensure!(listed == found.len(), "SHA256SUMS does not name every member");
    if meta.size == 0 {
        meta.size = state_size;
    }
    Ok(meta)
}

fn digest(mut from: impl Read) -> Result<String> {
    let mut digest = Digest::new(&SHA256);
    let mut buffer = [0; 16 << 10];
    loop {
        match from.read(&mut buffer)? {
            0 => break,
            read => digest.update(&buffer[..read]),
        }
    }
    Ok(digest.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        for (name, content) in members {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o600);
            header.set_cksum();
            tar.append_data(&mut header, name, *content).unwrap();
        }
        let mut gzip = tar.into_inner().unwrap();
        gzip.flush().unwrap();
        gzip.finish().unwrap()
    }

    const DESCRIPTION: &[u8] = br#"{"ID":"2-5-1","Index":5,"Term":2,"Version":1}"#;

    fn whole(state: &[u8]) -> Vec<u8> {
        let sums =
            format!("{}  meta.json\n{}  state.bin\n", digest(DESCRIPTION).unwrap(), digest(&b"state"[..]).unwrap());
        archive(&[("meta.json", DESCRIPTION), ("state.bin", state), ("SHA256SUMS", sums.as_bytes())])
    }

    #[test]
    fn a_whole_archive_says_what_it_holds() {
        let meta = verify(whole(b"state").as_slice()).unwrap();
        assert_eq!((meta.id.as_str(), meta.size, meta.index, meta.term, meta.version), ("2-5-1", 5, 5, 2, 1));
    }

    #[test]
    fn damage_is_found() {
        let error = |bytes: &[u8]| format!("{:#}", verify(bytes).unwrap_err());
        assert!(error(&whole(b"stale")).starts_with("state.bin is damaged"));
        let good = whole(b"state");
        for missing in [1, 4, 20] {
            assert!(verify(&good[..good.len() - missing]).is_err(), "a part of it is not enough");
        }
        assert!(error(b"not an archive").starts_with("this is no snapshot"));
        assert_eq!(error(&archive(&[("meta.json", DESCRIPTION)])), "there is no SHA256SUMS in it");
        let sums = format!("{}  meta.json\n", digest(DESCRIPTION).unwrap());
        let more = archive(&[("meta.json", DESCRIPTION), ("x", b""), ("SHA256SUMS", sums.as_bytes())]);
        assert_eq!(error(&more), "SHA256SUMS does not name every member");
    }
}
