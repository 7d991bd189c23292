//! Bodies of requests: bounded in size and in how long a client may pause.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};

use crate::error::Failure;

/// More than any registration, transaction or snapshot of a sensible cluster, and little enough to hold in memory.
const LIMIT: u64 = 64 * 1024 * 1024;

/// A client that sends nothing for so long in the middle of a body has gone.
const PAUSE: Duration = Duration::from_secs(30);

/// The body of one request, not read yet.
pub(crate) struct RequestBody(Option<Incoming>);

impl RequestBody {
    /// `None` is a body without a byte.
    pub(crate) fn new(incoming: Option<Incoming>) -> RequestBody {
        RequestBody(incoming)
    }

    /// Reads all of it.
    pub(crate) async fn read(self) -> Result<Bytes, Failure> {
        self.read_at_most(LIMIT).await
    }

    /// Reads all of it unless it is larger than `limit` bytes.
    pub(crate) async fn read_at_most(self, limit: u64) -> Result<Bytes, Failure> {
        let Some(mut incoming) = self.0 else { return Ok(Bytes::new()) };
        if incoming.size_hint().lower() > limit {
            return Err(Failure::TooLarge(limit));
        }
        let mut first = Bytes::new();
        let mut rest = BytesMut::new();
        loop {
            let frame = tokio::time::timeout(PAUSE, incoming.frame()).await.map_err(|_| Failure::TooSlow)?;
            let Some(frame) = frame else { break };
            let Ok(data) = frame.map_err(Failure::Body)?.into_data() else { continue };
            if (first.len() + rest.len() + data.len()) as u64 > limit {
                return Err(Failure::TooLarge(limit));
            }
            // Nearly all bodies come in one piece, which need not be copied.
            if first.is_empty() {
                first = data;
            } else {
                rest.extend_from_slice(&data);
            }
        }
        if rest.is_empty() {
            return Ok(first);
        }
        let mut whole = BytesMut::with_capacity(first.len() + rest.len());
        whole.extend_from_slice(&first);
        whole.extend_from_slice(&rest);
        Ok(whole.freeze())
    }
}
