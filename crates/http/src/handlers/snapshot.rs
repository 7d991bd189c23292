//! `/v1/snapshot`: everything, to be kept elsewhere and brought back.

use std::io::{self, BufWriter, Write};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use lictor_model::acl::{Access, Caller, Realm};
use lictor_task::clock;
use tokio::sync::mpsc;

use crate::archive::{self, Meta};
use crate::blocking::Options;
use crate::body::RequestBody;
use crate::call::{Answered, Call};
use crate::config::Pending;
use crate::error::Failure;
use crate::respond::{self, INDEX, KNOWN_LEADER, LAST_CONTACT};

/// Where it is.
pub(crate) const PATTERN: &str = "/v1/snapshot";

/// Largest archive that is taken, compressed.
pub(crate) const LARGEST: u64 = 1024 * 1024 * 1024;

/// The archive is handed over in pieces of this size, some of which may wait for a slow client.
const PIECE: usize = 64 * 1024;
const WAITING: usize = 4;

pub(crate) fn take<'a>(call: &'a Call<'a>, _: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        Options::parse(call)?;
        call.needs_our_datacenter(call.query.get("dc"))?;
        let snapshot = call.agent().take_snapshot(&call.caller).await?;
        let taken = clock::unix_seconds();
        let meta = Meta::of(&snapshot, taken);
        let (sender, pieces) = mpsc::channel(WAITING);
        let index = snapshot.revision;
        tokio::task::spawn_blocking(move || {
            let to = BufWriter::with_capacity(PIECE, Sending(sender.clone()));
            match archive::write(&snapshot, &meta, taken, to) {
                // An error means that the client has gone.
                Ok(()) => drop(sender.blocking_send(None)),
                Err(error) => tracing::warn!("http: snapshot {} was not sent to its end: {error}", meta.id),
            }
        });
        let mut response = respond::pieces(pieces);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-gzip"));
        headers.insert(&INDEX, index.shown().into());
        headers.insert(&KNOWN_LEADER, HeaderValue::from_static("true"));
        headers.insert(&LAST_CONTACT, HeaderValue::from_static("0"));
        Ok(response)
    })
}

/// Writes into a channel, from a thread that may wait.
struct Sending(mpsc::Sender<Option<Bytes>>);

impl Write for Sending {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the client went away");
        self.0.blocking_send(Some(Bytes::copy_from_slice(bytes))).map_err(gone)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Demands the right to restore.
pub(crate) fn may_restore(caller: &Caller) -> Result<(), Failure> {
    if caller.may_in(Access::Write, Realm::Acl) { Ok(()) } else { Err(Failure::Denied) }
}

pub(crate) fn restore<'a>(call: &'a Call<'a>, body: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        Options::parse(call)?;
        call.needs_our_datacenter(call.query.get("dc"))?;
        // Who may not restore need not send it all.
        may_restore(&call.caller)?;
        // So large that there is memory for one at a time.
        let _alone = call.server.restoring.try_lock().map_err(|_| Failure::Restoring)?;
        let body = body.read_huge(LARGEST).await?;
        let read = tokio::task::spawn_blocking(move || archive::read(body.as_ref())).await;
        let read = read.unwrap_or_else(|_| Err("reading it failed".into()));
        let (meta, snapshot) = read.map_err(|why| Failure::refused(format!("failed to restore snapshot: {why}")))?;
        call.agent().restore_snapshot(&call.caller, meta.id, snapshot).await?;
        call.done()
    })
}
