//! TLS records once the handshake is over: sealed and opened in place, in buffers of ours.
//!
//! The library does the handshake, derives every key and keeps the secrets for key updates; what is left is the
//! framing of RFC 8446 section 5 and RFC 5246 section 6.2.3 (with RFC 5288 and RFC 7905), which is all this file is.
//! Doing it here saves an allocation and two copies per record over the library's own interface, and keeps an idle
//! connection free of buffers.

use std::ops::Range;

use rustls::{ConnectionTrafficSecrets, ProtocolVersion, SupportedCipherSuite};

use crate::cipher::{Algorithm, NONCE, TAG};
use crate::expanded::Key;

/// Most payload bytes of one record.
pub(crate) const MAX_PAYLOAD: usize = 16_384;
/// Type, version and length.
pub(crate) const HEADER: usize = 5;
/// Most bytes of one record on the wire that a peer may send: what TLS 1.2 allows.
pub(crate) const MAX_RECORD: usize = HEADER + MAX_PAYLOAD + 2048;
/// Most bytes around the payload of a record that we send.
pub(crate) const MAX_OVERHEAD: usize = HEADER + EXPLICIT_NONCE + 1 + TAG;

const EXPLICIT_NONCE: usize = 8;
/// What AES makes at a time.
const BLOCK: usize = 16;
/// Records that must still fit when a key counts as worn: those of one read, and of what is said behind it.
const MARGIN: u64 = 1024;
const VERSION: [u8; 2] = [3, 3];

/// Content types of RFC 8446, section 5.1.
pub(crate) mod content {
    pub(crate) const ALERT: u8 = 21;
    pub(crate) const HANDSHAKE: u8 = 22;
    pub(crate) const APPLICATION_DATA: u8 = 23;
}

/// Alert descriptions of RFC 8446, section 6, that are used here.
pub(crate) mod alert {
    pub(crate) const CLOSE_NOTIFY: u8 = 0;
    pub(crate) const UNEXPECTED_MESSAGE: u8 = 10;
    pub(crate) const BAD_RECORD_MAC: u8 = 20;
    pub(crate) const RECORD_OVERFLOW: u8 = 22;
    pub(crate) const BAD_CERTIFICATE: u8 = 42;
    pub(crate) const DECODE_ERROR: u8 = 50;
    pub(crate) const PROTOCOL_VERSION: u8 = 70;
    pub(crate) const INTERNAL_ERROR: u8 = 80;
    pub(crate) const USER_CANCELED: u8 = 90;
}

/// How nonce and type of a record are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// TLS 1.3: the type is inside, the nonce is implicit.
    Inner,
    /// TLS 1.2 with AES-GCM: half of the nonce goes before the payload.
    Explicit,
    /// TLS 1.2 with ChaCha20-Poly1305: the nonce is implicit.
    Outer,
}

/// A record that cannot be accepted; holds the alert that says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bad(pub(crate) u8);

/// The keys of one direction.
struct Keys {
    key: Key,
    iv: [u8; NONCE],
    sequence: u64,
    form: Form,
}

impl Keys {
    fn new((sequence, secrets): (u64, ConnectionTrafficSecrets), version: ProtocolVersion) -> Option<Keys> {
        let (algorithm, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (Algorithm::Aes128Gcm, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (Algorithm::Aes256Gcm, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (Algorithm::ChaCha20Poly1305, key, iv),
            _ => return None,
        };
        let form = match (version, algorithm == Algorithm::ChaCha20Poly1305) {
            (ProtocolVersion::TLSv1_3, _) => Form::Inner,
            (_, true) => Form::Outer,
            (_, false) => Form::Explicit,
        };
        let key = Key::new(algorithm, key.as_ref())?;
        Some(Keys { key, iv: iv.as_ref().try_into().ok()?, sequence, form })
    }

    /// The nonce of the next record: the sequence number over the tail of the static part.
    fn nonce(&self) -> [u8; NONCE] {
        let mut nonce = self.iv;
        for (byte, count) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= count;
        }
        nonce
    }

    /// What a record wears out the key. Where the key can be replaced, records are counted, as the library's limit does. With
    /// AES-GCM in TLS 1.2 it cannot, and a connection of small messages would end within hours; so there it is the
    /// blocks that the cipher makes, on which that limit rests: those of the payload, and one for the tag.
    fn charge(&self, payload: usize) -> u64 {
        match self.form {
            Form::Inner | Form::Outer => 1,
            Form::Explicit => payload.div_ceil(BLOCK) as u64 + 1,
        }
    }

    fn margin(&self) -> u64 {
        MARGIN * self.charge(MAX_PAYLOAD)
    }

    /// What is authenticated beside the payload in TLS 1.2.
    fn outer_aad(&self, kind: u8, len: usize) -> [u8; 13] {
        let mut aad = [0; 13];
        aad[..8].copy_from_slice(&self.sequence.to_be_bytes());
        aad[8] = kind;
        aad[9..11].copy_from_slice(&VERSION);
        // At most MAX_RECORD, which fits.
        aad[11..].copy_from_slice(&(len as u16).to_be_bytes());
        aad
    }
}

/// Turns payloads into records.
pub(crate) struct Sealer {
    keys: Keys,
    /// What the key has protected, as [`Keys::charge`] counts it.
    used: u64,
    /// From how much on it is worn.
    worn: u64,
    /// The most of it that one key may protect.
    limit: u64,
}

impl Sealer {
    pub(crate) fn new(
        secrets: (u64, ConnectionTrafficSecrets),
        version: ProtocolVersion,
        suite: SupportedCipherSuite,
    ) -> Option<Sealer> {
        let limit = match suite {
            SupportedCipherSuite::Tls12(suite) => suite.common.confidentiality_limit,
            SupportedCipherSuite::Tls13(suite) => suite.common.confidentiality_limit,
        };
        let keys = Keys::new(secrets, version)?;
        let limit = match keys.form {
            Form::Inner | Form::Outer => limit,
            // The library's is in records of the full size.
            Form::Explicit => limit.saturating_mul((MAX_PAYLOAD / BLOCK) as u64),
        };
        // The records of the handshake are few and small.
        let used = keys.sequence.saturating_mul(keys.charge(MAX_PAYLOAD));
        let worn = limit.saturating_sub(keys.margin());
        Some(Sealer { keys, used, worn, limit })
    }

    /// Bytes before the payload.
    pub(crate) fn prefix(&self) -> usize {
        match self.keys.form {
            Form::Inner | Form::Outer => HEADER,
            Form::Explicit => HEADER + EXPLICIT_NONCE,
        }
    }

    /// Bytes behind the payload.
    pub(crate) fn suffix(&self) -> usize {
        match self.keys.form {
            Form::Inner => 1 + TAG,
            Form::Outer | Form::Explicit => TAG,
        }
    }

    /// Whether the key has protected so much that it must be replaced before long. The margin leaves room for the records of
    /// the change itself, or of the end of a connection that knows no change.
    pub(crate) fn is_worn(&self) -> bool {
        self.used >= self.worn
    }

    /// Whether the key can be replaced, which only TLS 1.3 knows.
    pub(crate) fn can_renew(&self) -> bool {
        self.keys.form == Form::Inner
    }

    /// Makes the key wear out after this many more records of the full size.
    #[cfg(test)]
    pub(crate) fn wear_out_after(&mut self, records: u64) {
        self.worn = self.used + records * self.keys.charge(MAX_PAYLOAD);
        self.limit = self.worn + self.keys.margin();
    }

    /// Lets the key protect nothing any more.
    #[cfg(test)]
    pub(crate) fn exhaust(&mut self) {
        (self.worn, self.limit) = (self.used, self.used);
    }

    /// Seals one record in place: `record` is prefix, payload and suffix, of which the payload is filled in.
    pub(crate) fn seal(&mut self, kind: u8, record: &mut [u8]) -> Result<(), Bad> {
        let (prefix, suffix) = (self.prefix(), self.suffix());
        let payload = record.len() - prefix - suffix;
        let used = self.used.saturating_add(self.keys.charge(payload));
        // Nor may the number of a record, which makes its nonce, come again.
        if used > self.limit || self.keys.sequence == u64::MAX {
            return Err(Bad(alert::INTERNAL_ERROR));
        }
        let end = prefix + payload;
        let nonce = self.keys.nonce();
        let inner = self.keys.form == Form::Inner;
        record[0] = if inner { content::APPLICATION_DATA } else { kind };
        record[1..3].copy_from_slice(&VERSION);
        let len = (record.len() - HEADER) as u16;
        record[3..HEADER].copy_from_slice(&len.to_be_bytes());
        if self.keys.form == Form::Explicit {
            record[HEADER..prefix].copy_from_slice(&nonce[4..]);
        }
        let tag = if inner {
            record[end] = kind;
            let (header, rest) = record.split_at_mut(HEADER);
            self.keys.key.with(|key| key.seal(nonce, header, &mut rest[..=payload]))
        } else {
            let aad = self.keys.outer_aad(kind, payload);
            self.keys.key.with(|key| key.seal(nonce, &aad, &mut record[prefix..end]))
        };
        let tag = tag.flatten().ok_or(Bad(alert::INTERNAL_ERROR))?;
        let start = record.len() - TAG;
        record[start..].copy_from_slice(&tag);
        self.keys.sequence += 1;
        self.used = used;
        Ok(())
    }

    /// Appends one small record to `out`.
    pub(crate) fn append(&mut self, kind: u8, payload: &[u8], out: &mut Vec<u8>) -> Result<(), Bad> {
        let (start, prefix) = (out.len(), self.prefix());
        out.resize(start + prefix + payload.len() + self.suffix(), 0);
        let record = &mut out[start..];
        record[prefix..prefix + payload.len()].copy_from_slice(payload);
        self.seal(kind, record).inspect_err(|_| out.truncate(start))
    }

    /// Appends an alert to `out`.
    pub(crate) fn append_alert(&mut self, description: u8, out: &mut Vec<u8>) -> Result<(), Bad> {
        let level = if description == alert::CLOSE_NOTIFY { 1 } else { 2 };
        self.append(content::ALERT, &[level, description], out)
    }
}

/// Turns records into payloads.
pub(crate) struct Opener {
    keys: Keys,
}

/// How many bytes the record at the start of `bytes` has; `None` while its header is not complete.
pub(crate) fn record_len(bytes: &[u8]) -> Option<usize> {
    let header = bytes.get(..HEADER)?;
    Some(HEADER + usize::from(u16::from_be_bytes([header[3], header[4]])))
}

impl Opener {
    pub(crate) fn new(secrets: (u64, ConnectionTrafficSecrets), version: ProtocolVersion) -> Option<Opener> {
        Some(Opener { keys: Keys::new(secrets, version)? })
    }

    /// Most bytes of a record that is acceptable.
    pub(crate) fn max_record(&self) -> usize {
        match self.keys.form {
            Form::Inner => HEADER + MAX_PAYLOAD + 256,
            Form::Outer | Form::Explicit => MAX_RECORD,
        }
    }

    /// Whether types are inside the records, as in TLS 1.3.
    pub(crate) fn is_tls13(&self) -> bool {
        self.keys.form == Form::Inner
    }

    /// Opens one whole record in place; the answer is its type and where in `record` the payload is.
    pub(crate) fn open(&mut self, record: &mut [u8]) -> Result<(u8, Range<usize>), Bad> {
        let kind = record[0];
        if record[1..3] != VERSION {
            return Err(Bad(alert::DECODE_ERROR));
        }
        let (kind, range) = match self.keys.form {
            Form::Inner => self.open_inner(record)?,
            Form::Explicit => self.open_outer(kind, record, EXPLICIT_NONCE)?,
            Form::Outer => self.open_outer(kind, record, 0)?,
        };
        if range.len() > MAX_PAYLOAD {
            return Err(Bad(alert::RECORD_OVERFLOW));
        }
        self.keys.sequence += 1;
        Ok((kind, range))
    }

    fn open_inner(&self, record: &mut [u8]) -> Result<(u8, Range<usize>), Bad> {
        if record[0] != content::APPLICATION_DATA {
            return Err(Bad(alert::UNEXPECTED_MESSAGE));
        }
        let (header, sealed) = record.split_at_mut(HEADER);
        let opened = self.keys.key.with(|key| key.open(self.keys.nonce(), header, sealed));
        let opened = opened.flatten().ok_or(Bad(alert::BAD_RECORD_MAC))?;
        // Behind the payload: its type, then padding of zeroes.
        let opened = &sealed[..opened];
        let kind_at = opened.iter().rposition(|byte| *byte != 0).ok_or(Bad(alert::UNEXPECTED_MESSAGE))?;
        Ok((opened[kind_at], HEADER..HEADER + kind_at))
    }

    fn open_outer(&self, kind: u8, record: &mut [u8], explicit: usize) -> Result<(u8, Range<usize>), Bad> {
        let start = HEADER + explicit;
        let payload = record.len().checked_sub(start + TAG).ok_or(Bad(alert::DECODE_ERROR))?;
        let mut nonce = self.keys.nonce();
        if explicit > 0 {
            nonce[..4].copy_from_slice(&self.keys.iv[..4]);
            nonce[4..].copy_from_slice(&record[HEADER..start]);
        }
        let aad = self.keys.outer_aad(kind, payload);
        let opened = self.keys.key.with(|key| key.open(nonce, &aad, &mut record[start..]));
        opened.flatten().ok_or(Bad(alert::BAD_RECORD_MAC))?;
        Ok((kind, start..start + payload))
    }
}

#[cfg(test)]
mod tests {
    use rustls::crypto::cipher::{AeadKey, Iv};

    use super::*;

    fn sealer(version: ProtocolVersion, wanted: rustls::CipherSuite) -> Sealer {
        let provider = crate::suite::provider(crate::suite::KeyExchange::Classical);
        let suite = provider.cipher_suites.iter().find(|suite| suite.suite() == wanted).unwrap();
        let secrets = ConnectionTrafficSecrets::Aes256Gcm { key: AeadKey::from([7; 32]), iv: Iv::from([1; NONCE]) };
        Sealer::new((1, secrets), version, *suite).unwrap()
    }

    /// How many records of a size a key protects before it is worn.
    fn lasts(sealer: &mut Sealer, payload: usize) -> u64 {
        let before = sealer.used;
        sealer.append(content::APPLICATION_DATA, &vec![0; payload], &mut Vec::new()).unwrap();
        (sealer.worn - sealer.used) / (sealer.used - before)
    }

    #[test]
    fn a_key_of_tls_12_wears_by_what_is_sealed_and_not_by_how_often() {
        let mut sealer = sealer(ProtocolVersion::TLSv1_2, rustls::CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384);
        let full = lasts(&mut sealer, MAX_PAYLOAD);
        assert!((1 << 23..=1 << 24).contains(&full), "{full}");
        let small = lasts(&mut sealer, 100);
        assert!((1 << 30..=1 << 31).contains(&small), "{small}");
        // Not even one without a byte is for nothing.
        assert!(lasts(&mut sealer, 0) <= 1 << 34);
    }

    #[test]
    fn a_key_of_tls_13_is_replaced_after_as_many_records_as_the_library_says() {
        let mut sealer = sealer(ProtocolVersion::TLSv1_3, rustls::CipherSuite::TLS13_AES_256_GCM_SHA384);
        for payload in [100, MAX_PAYLOAD] {
            let records = lasts(&mut sealer, payload);
            assert!((1 << 23..=1 << 24).contains(&records), "{records}");
        }
    }

    #[test]
    fn no_number_of_a_record_comes_twice() {
        let mut sealer = sealer(ProtocolVersion::TLSv1_2, rustls::CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384);
        sealer.keys.sequence = u64::MAX - 1;
        assert!(sealer.append(content::APPLICATION_DATA, b"last", &mut Vec::new()).is_ok());
        let mut none = Vec::new();
        assert!(sealer.append(content::APPLICATION_DATA, b"again", &mut none).is_err() && none.is_empty());
    }
}
