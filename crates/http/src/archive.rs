//! The archive of a snapshot: a compressed tar of `meta.json`, `state.bin` and the digests of both.
//!
//! It is written as a stream, and believed only when it was read to its end and every digest is right.

use std::io::{self, Read, Write};

use aws_lc_rs::digest::{Context, SHA256};
use bytes::{Buf, Bytes};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use lictor_model::revision::Revision;
use lictor_state::snapshot::Snapshot;
use serde::{Deserialize, Serialize};

const META: &str = "meta.json";
const STATE: &str = "state.bin";
const DIGESTS: &str = "SHA256SUMS";

/// The version of the archive's form.
const VERSION: u64 = 1;

/// Largest member beside the state.
const LARGEST_SMALL: u64 = 1024 * 1024;
/// Largest state, uncompressed: it is held in memory, as it is by every agent that has it.
const LARGEST_STATE: u64 = 2 * 1024 * 1024 * 1024;

/// What an archive says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Meta {
    /// Version of its form.
    pub(crate) version: u64,
    /// Its name.
    #[serde(rename = "ID")]
    pub(crate) id: String,
    /// The revision that it holds.
    pub(crate) index: u64,
    /// Always 1: nobody is elected here.
    pub(crate) term: u64,
    /// Bytes of state.
    pub(crate) size: u64,
}

impl Meta {
    /// Of a snapshot taken at a time in seconds.
    pub(crate) fn of(snapshot: &Snapshot, taken: i64) -> Meta {
        let index = snapshot.revision.0;
        Meta { version: VERSION, id: format!("1-{index}-{taken}"), index, term: 1, size: snapshot.size() }
    }
}

/// Writes the archive of a snapshot.
pub(crate) fn write(snapshot: &Snapshot, meta: &Meta, taken: i64, to: impl Write) -> io::Result<()> {
    let mut tar = tar::Builder::new(GzEncoder::new(to, Compression::fast()));
    let mut digests = String::new();
    let mut member = |name: &str, size: u64, content: &mut dyn Read, digests: Option<&mut String>| {
        let mut header = tar::Header::new_gnu();
        header.set_size(size);
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(taken).unwrap_or_default());
        let mut content = Digesting { from: content, digest: Context::new(&SHA256) };
        tar.append_data(&mut header, name, &mut content)?;
        if let Some(digests) = digests {
            digests.push_str(&format!("{}  {name}\n", content.finish()));
        }
        io::Result::Ok(())
    };
    let description = serde_json::to_vec(meta)?;
    member(META, description.len() as u64, &mut description.as_slice(), Some(&mut digests))?;
    let mut state = Pieces { pieces: snapshot.pieces(), current: Bytes::new() };
    member(STATE, meta.size, &mut state, Some(&mut digests))?;
    member(DIGESTS, digests.len() as u64, &mut digests.clone().as_bytes(), None)?;
    tar.into_inner()?.finish()?.flush()
}

/// Reads an archive to its end, checks its digests and everything in its state.
pub(crate) fn read(archive: impl Read) -> Result<(Meta, Snapshot), String> {
    let broken = |error: io::Error| format!("the archive cannot be read: {error}");
    let mut tar = tar::Archive::new(GzDecoder::new(archive));
    let (mut meta, mut state, mut digests) = (None, None, None);
    let mut found = Vec::new();
    for member in tar.entries().map_err(broken)? {
        let mut member = member.map_err(broken)?;
        let name = String::from_utf8_lossy(&member.path_bytes()).into_owned();
        let (place, largest) = match name.as_str() {
            META => (&mut meta, LARGEST_SMALL),
            STATE => (&mut state, LARGEST_STATE),
            DIGESTS => (&mut digests, LARGEST_SMALL),
            _ => return Err(format!("the archive has a member that does not belong into it: {name:?}")),
        };
        if member.size() > largest {
            return Err(format!("{name} is larger than it can be ({} > {largest} bytes)", member.size()));
        }
        let mut content = Vec::with_capacity(usize::try_from(member.size()).unwrap_or_default());
        let mut reader = Digesting { from: &mut member, digest: Context::new(&SHA256) };
        reader.read_to_end(&mut content).map_err(broken)?;
        if name != DIGESTS {
            found.push(format!("{}  {name}", reader.finish()));
        }
        if place.replace(content).is_some() {
            return Err(format!("{name} is twice in the archive"));
        }
    }
    // The compressed stream has a digest of its own, which is only looked at behind its end.
    io::copy(&mut tar.into_inner(), &mut io::sink()).map_err(broken)?;
    let (Some(meta), Some(state), Some(digests)) = (meta, state, digests) else {
        return Err(format!("the archive lacks one of {META}, {STATE} and {DIGESTS}"));
    };
    let digests = String::from_utf8(digests).map_err(|_| format!("{DIGESTS} is not text"))?;
    let listed: Vec<&str> = digests.lines().collect();
    if listed.len() != found.len() || !found.iter().all(|line| listed.contains(&line.as_str())) {
        return Err(format!("the archive is damaged: its members do not have the digests in {DIGESTS}"));
    }
    let meta: Meta = serde_json::from_slice(&meta).map_err(|error| format!("{META} cannot be read: {error}"))?;
    if meta.version != VERSION {
        return Err(format!("the archive has version {}, this program knows version {VERSION}", meta.version));
    }
    let snapshot =
        Snapshot::parse(state.into(), Revision(meta.index)).map_err(|error| lictor_agent::error::chain(&error))?;
    Ok((meta, snapshot))
}

/// Reads, and computes the digest of what was read.
struct Digesting<'a> {
    from: &'a mut dyn Read,
    digest: Context,
}

impl Digesting<'_> {
    fn finish(self) -> String {
        self.digest.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl Read for Digesting<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(into)?;
        self.digest.update(&into[..read]);
        Ok(read)
    }
}

/// Reads one piece after the other.
struct Pieces<I> {
    pieces: I,
    current: Bytes,
}

impl<I: Iterator<Item = Bytes>> Read for Pieces<I> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            let Some(next) = self.pieces.next() else { return Ok(0) };
            self.current = next;
        }
        let size = self.current.len().min(into.len());
        self.current.copy_to_slice(&mut into[..size]);
        Ok(size)
    }
}
