//! Drives the library's handshake over a socket, record by record.
//!
//! The library is shown one whole record after another, so that when the handshake is over not a byte behind it has
//! been touched: what follows belongs to our own record layer.

use std::io;
use std::time::Duration;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::error::{Error, Refusal};
use crate::record::{HEADER, MAX_RECORD, alert, content, record_len};
use crate::verify::take_reason;

/// Most bytes of one handshake that may be waiting for the rest of a message: chains of a dozen certificates fit.
const MAX_WAITING: usize = 64 * 1024;

/// Most bytes taken from the socket at once.
const CHUNK: u64 = 4096;

/// One end of a handshake in the library.
pub(crate) trait Half {
    type Data;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
    fn is_handshaking(&self) -> bool;
    fn wants_write(&self) -> bool;
}

impl Half for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn is_handshaking(&self) -> bool {
        (**self).is_handshaking()
    }

    fn wants_write(&self) -> bool {
        (**self).wants_write()
    }
}

impl Half for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn is_handshaking(&self) -> bool {
        (**self).is_handshaking()
    }

    fn wants_write(&self) -> bool {
        (**self).wants_write()
    }
}

/// What came from the peer and has not been used up.
#[derive(Default)]
pub(crate) struct Incoming {
    bytes: Vec<u8>,
    /// The library has seen this many of them.
    shown: usize,
}

impl Incoming {
    /// Adds bytes without a socket.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Shows one more record if it is whole.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn show_record(&mut self) -> bool {
        match record_len(&self.bytes[self.shown..]) {
            Some(len) if self.bytes.len() >= self.shown + len => {
                self.shown += len;
                true
            }
            _ => false,
        }
    }

    /// Waits until one more whole record is there; its end becomes the end of what is shown.
    pub(crate) async fn next_record(&mut self, stream: &mut TcpStream) -> Result<(), Error> {
        loop {
            if let Some(len) = record_len(&self.bytes[self.shown..]) {
                if len > MAX_RECORD || self.shown + len > MAX_WAITING {
                    return Err(Error::TooLarge);
                }
                if self.bytes.len() >= self.shown + len {
                    self.shown += len;
                    return Ok(());
                }
            }
            // Little by little, so that a peer that has not shown who it is costs no more memory than it sends.
            match (&mut *stream).take(CHUNK).read_buf(&mut self.bytes).await {
                Ok(0) if self.bytes.is_empty() => return Err(Error::Silent),
                Ok(0) => return Err(Error::Closed),
                Ok(_) => {}
                Err(error) if self.bytes.is_empty() && error.kind() == io::ErrorKind::ConnectionReset => {
                    return Err(Error::Silent);
                }
                Err(error) => return Err(Error::Io(error)),
            }
        }
    }

    /// The first record, once it is there.
    pub(crate) fn first_record(&self) -> &[u8] {
        &self.bytes[..self.shown]
    }

    /// What follows the handshake.
    pub(crate) fn into_rest(mut self) -> Vec<u8> {
        self.bytes.drain(..self.shown);
        self.bytes
    }
}

/// How far one call brought the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Call again.
    Again,
    /// The peer must say something first.
    Blocked,
    /// We may send data; whether the peer has proved itself is to be asked.
    Writable,
    /// Over.
    Done,
}

/// Brings the handshake to its end. What must still be sent then stays in `outgoing`: the caller decides whether it
/// waits for the first data.
pub(crate) async fn run<H: Half>(
    half: &mut H,
    stream: &mut TcpStream,
    incoming: &mut Incoming,
    outgoing: &mut Vec<u8>,
) -> Result<(), Error> {
    loop {
        let outcome = advance(half, incoming, outgoing);
        match outcome {
            Ok(Step::Done) => return Ok(()),
            Ok(_) => {
                if !outgoing.is_empty() {
                    stream.write_all(outgoing).await.map_err(Error::Io)?;
                    outgoing.clear();
                }
                incoming.next_record(stream).await?;
            }
            Err(error) => {
                collect_alert(half, outgoing);
                farewell(stream, outgoing).await;
                return Err(error);
            }
        }
    }
}

/// Lets the library work on what it has been shown until it is blocked or done.
pub(crate) fn advance<H: Half>(half: &mut H, incoming: &mut Incoming, outgoing: &mut Vec<u8>) -> Result<Step, Error> {
    loop {
        let UnbufferedStatus { discard, state } = half.process(&mut incoming.bytes[..incoming.shown]);
        let step = match state {
            Ok(state) => progress(state, outgoing),
            Err(error) => Err(explain(error)),
        };
        incoming.bytes.drain(..discard);
        incoming.shown -= discard;
        match step? {
            Step::Again => {}
            // A server may write before the client's last message; we wait for it, because it proves the client.
            Step::Writable if half.is_handshaking() => return Ok(Step::Blocked),
            Step::Writable => return Ok(Step::Done),
            step => return Ok(step),
        }
    }
}

fn progress<Data>(state: ConnectionState<'_, '_, Data>, outgoing: &mut Vec<u8>) -> Result<Step, Error> {
    match state {
        ConnectionState::EncodeTlsData(mut encode) => {
            let start = outgoing.len();
            if let Err(EncodeError::InsufficientSize(size)) = encode.encode(&mut []) {
                outgoing.resize(start + size.required_size, 0);
                let written = encode.encode(&mut outgoing[start..]).unwrap_or(0);
                outgoing.truncate(start + written);
            }
            Ok(Step::Again)
        }
        ConnectionState::TransmitTlsData(transmit) => {
            transmit.done();
            Ok(Step::Again)
        }
        ConnectionState::BlockedHandshake => Ok(Step::Blocked),
        ConnectionState::WriteTraffic(_) => Ok(Step::Writable),
        ConnectionState::PeerClosed | ConnectionState::Closed => Err(Error::Closed),
        _ => Err(Error::Handshake(rustls::Error::General("data before the end of the handshake".into()).into())),
    }
}

/// Names our own refusals by their reasons.
fn explain(error: rustls::Error) -> Error {
    match (take_reason(), error) {
        (Some(reason), rustls::Error::InvalidCertificate(_)) => Error::Refused(reason),
        (_, rustls::Error::NoCertificatesPresented) => Error::Refused(Refusal::NoCertificate),
        (_, error) => Error::Handshake(error.into()),
    }
}

/// Takes the alert that the library wants sent after a failure.
fn collect_alert<H: Half>(half: &mut H, outgoing: &mut Vec<u8>) {
    // Asked first: with nothing to send the library would go on reading, and it has lost its place.
    while half.wants_write()
        && let Ok(state @ ConnectionState::EncodeTlsData(_)) = half.process(&mut []).state
    {
        let start = outgoing.len();
        if progress(state, outgoing).is_err() {
            return;
        }
        // For a missing certificate the library uses an alert that TLS 1.2 does not know. In clear it can be
        // replaced by what peers of that version expect.
        const CERTIFICATE_REQUIRED: u8 = 116;
        if let [content::ALERT, _, _, 0, 2, _, description @ CERTIFICATE_REQUIRED] = &mut outgoing[start..] {
            *description = alert::BAD_CERTIFICATE;
        }
    }
}

/// How long a peer that was turned away is listened to, so that closing does not destroy the alert on its way.
const LINGER: Duration = Duration::from_millis(500);
/// How much it may still say.
const LINGER_BYTES: usize = 64 * 1024;

/// Sends the last words, ends our direction and waits a little for the peer to hear them.
pub(crate) async fn farewell(stream: &mut TcpStream, words: &[u8]) {
    let parting = async {
        stream.write_all(words).await?;
        stream.shutdown().await?;
        let mut ignored = [0; 1024];
        let mut heard = 0;
        while heard < LINGER_BYTES {
            match stream.read(&mut ignored).await? {
                0 => break,
                count => heard += count,
            }
        }
        Ok::<(), io::Error>(())
    };
    // A peer that does not listen loses nothing but the reason.
    let _ = tokio::time::timeout(LINGER, parting).await;
}

const _: () = assert!(MAX_WAITING > MAX_RECORD && MAX_RECORD > HEADER);
