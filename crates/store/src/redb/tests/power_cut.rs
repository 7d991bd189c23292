//! Power cuts: of what was written since the last sync, any part may be on the disk, in any order, torn at any byte.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ::redb::{Builder, StorageBackend};

use super::super::journal::Touched;
use super::super::schema::{self, Target};
use crate::batch::Batch;
use crate::keyspace::Keyspace;
use crate::{LeaseId, Txn};

/// A disk that remembers what a power cut may undo.
#[derive(Clone, Debug, Default)]
struct FragileDisk(Arc<Mutex<Platter>>);

#[derive(Clone, Debug, Default)]
struct Platter {
    /// What is there for certain.
    synced: Vec<u8>,
    /// What readers see.
    cached: Vec<u8>,
    /// What happened since the last sync.
    pending: Vec<Pending>,
    /// Power cuts to make: how the disk might look at moments of the past.
    images: Vec<Platter>,
}

#[derive(Clone, Debug)]
enum Pending {
    Write(u64, Vec<u8>),
    Length(u64),
}

impl Platter {
    fn put(content: &mut Vec<u8>, offset: u64, data: &[u8]) {
        let offset = usize::try_from(offset).unwrap();
        if content.len() < offset + data.len() {
            content.resize(offset + data.len(), 0);
        }
        content[offset..offset + data.len()].copy_from_slice(data);
    }

    /// What the next start finds.
    fn after_cut(&self, random: &mut fastrand::Rng) -> Vec<u8> {
        let mut content = self.synced.clone();
        let mut pending = self.pending.clone();
        random.shuffle(&mut pending);
        for operation in pending {
            if random.bool() {
                continue;
            }
            match operation {
                Pending::Write(offset, data) if random.u8(..4) == 0 => {
                    let torn = random.usize(..data.len());
                    Platter::put(&mut content, offset, &data[..torn]);
                }
                Pending::Write(offset, data) => Platter::put(&mut content, offset, &data),
                Pending::Length(length) => content.resize(usize::try_from(length).unwrap(), 0),
            }
        }
        content
    }
}

impl FragileDisk {
    /// Remembers how the disk is now, so that power can be cut here later.
    fn mark(&self) {
        let mut platter = self.0.lock().unwrap();
        let image = Platter { images: Vec::new(), ..platter.clone() };
        platter.images.push(image);
    }
}

impl StorageBackend for FragileDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().cached.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let platter = self.0.lock().unwrap();
        let offset = usize::try_from(offset).unwrap();
        let data = platter.cached.get(offset..offset + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(data);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut platter = self.0.lock().unwrap();
        platter.cached.resize(usize::try_from(len).unwrap(), 0);
        platter.pending.push(Pending::Length(len));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.mark();
        let mut platter = self.0.lock().unwrap();
        platter.synced = platter.cached.clone();
        platter.pending.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut platter = self.0.lock().unwrap();
        Platter::put(&mut platter.cached, offset, data);
        platter.pending.push(Pending::Write(offset, data.to_vec()));
        Ok(())
    }
}

#[test]
fn a_power_cut_at_any_moment_loses_no_durable_write_and_shows_no_half_one() {
    const WRITES: u64 = 60;
    const FOLD_EVERY: u64 = 4;
    let mut random = fastrand::Rng::with_seed(3);
    let disk = FragileDisk::default();
    let database = Builder::new().create_with_backend(disk.clone()).unwrap();
    let mut keyspace = Keyspace::empty();
    schema::write_all(&database, &keyspace.image(), 0).unwrap();
    disk.0.lock().unwrap().images.clear();

    // For each durable write: the state after it, and how the disk looked before each sync on the way there.
    let mut states = vec![keyspace.entries.clone()];
    let mut cuts = Vec::new();
    let mut unfolded = Touched::new();
    for commit in 1..=WRITES {
        let mut batch = Batch::new(&keyspace);
        let lease = batch.grant(Duration::from_secs(60));
        for number in 0..random.u64(1..12) {
            let key = format!("k/{}", random.u8(..40));
            let txn = match number % 5 {
                0 => Txn::new().delete(key),
                1 => Txn::new().put_leased(key, vec![number as u8; random.usize(..3000)], lease),
                _ => Txn::new().put(key, vec![number as u8; random.usize(..300)]),
            };
            batch.commit(txn).unwrap();
        }
        let staged = batch.finish();
        let target = if commit % FOLD_EVERY == 0 { Target::Entries(&unfolded) } else { Target::Journal };
        schema::append(&database, &staged, commit, &target).unwrap();
        match target {
            Target::Entries(_) => unfolded.clear(),
            Target::Journal => unfolded.extend(staged.touched.clone()),
        }
        keyspace.apply(staged, Instant::now());
        states.push(keyspace.entries.clone());
        let images = std::mem::take(&mut disk.0.lock().unwrap().images);
        // One sync for each write, and one when the file grows.
        assert!((1..=2).contains(&images.len()), "{} syncs", images.len());
        cuts.extend(images.into_iter().map(|image| (commit, image)));
    }

    let mut outcomes = [0, 0];
    for (commit, image) in cuts {
        for _ in 0..8 {
            let found = FragileDisk::default();
            found.0.lock().unwrap().cached = image.after_cut(&mut random);
            let database = Builder::new().create_with_backend(found).unwrap();
            let loaded = schema::load(&database).unwrap();
            assert_eq!(loaded.findings, [""; 0]);
            // The one in progress may or may not have made it, whole; all before it have.
            assert!(loaded.commit == commit || loaded.commit + 1 == commit, "{} of {commit}", loaded.commit);
            outcomes[usize::from(loaded.commit == commit)] += 1;
            assert_eq!(loaded.keyspace.entries, states[usize::try_from(loaded.commit).unwrap()]);
            assert_eq!(loaded.keyspace.last_lease, loaded.commit);
            assert!(loaded.commit == 0 || loaded.keyspace.leases.contains(LeaseId::new(loaded.commit).unwrap()));
        }
    }
    assert!(outcomes.iter().all(|count| *count > 0), "lost and kept: {outcomes:?}");
}
