//! PEM as people and programs hand it over: with text before it, other line ends, several blocks; and as we hand it
//! out: blocks that end with exactly one newline (RFC 7468).

use rustls_pki_types::pem::{PemObject, SectionKind};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};
use zeroize::Zeroizing;

use crate::Error;

/// The first certificate of a text.
pub fn first_certificate(text: &str) -> Result<Vec<u8>, Error> {
    CertificateDer::from_pem_slice(text.as_bytes()).map(|der| der.to_vec()).map_err(|_| Error::NoPem)
}

/// All certificates of a text, in order.
pub fn certificates(text: &str) -> Result<Vec<Vec<u8>>, Error> {
    CertificateDer::pem_slice_iter(text.as_bytes())
        .map(|der| der.map(|der| der.to_vec()).map_err(|_| Error::NoPem))
        .collect()
}

/// The first CSR of a text.
pub(crate) fn first_csr(text: &[u8]) -> Result<Vec<u8>, Error> {
    CertificateSigningRequestDer::from_pem_slice(text).map(|der| der.to_vec()).map_err(|_| Error::NoPem)
}

/// The first private key of a text.
pub(crate) fn first_key(text: &str) -> Result<Zeroizing<Vec<u8>>, Error> {
    let blocks = rustls_pki_types::pem::PemObject::pem_slice_iter(text.as_bytes());
    for block in blocks {
        let (kind, der): (SectionKind, Vec<u8>) = block.map_err(|_| Error::NoPem)?;
        let der = Zeroizing::new(der);
        match kind {
            SectionKind::PrivateKey | SectionKind::EcPrivateKey | SectionKind::RsaPrivateKey => return Ok(der),
            _ => {}
        }
    }
    Err(Error::NoPem)
}

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Label {
    Certificate,
    Csr,
    /// RFC 5915.
    EcKey,
    /// PKCS#8, RFC 5958.
    Key,
}

/// One block.
pub(crate) fn block(label: Label, der: &[u8]) -> String {
    const LINE: usize = 64;
    let label = match label {
        Label::Certificate => "CERTIFICATE",
        Label::Csr => "CERTIFICATE REQUEST",
        Label::EcKey => "EC PRIVATE KEY",
        Label::Key => "PRIVATE KEY",
    };
    let digits = Zeroizing::new(base64(der));
    // Room for all of it, so that nothing secret is left behind where the text had to move.
    let mut text = String::with_capacity(digits.len() + digits.len() / LINE + 2 * label.len() + 40);
    text.push_str("-----BEGIN ");
    text.push_str(label);
    text.push_str("-----\n");
    for line in digits.as_bytes().chunks(LINE) {
        text.extend(line.iter().map(|byte| char::from(*byte)));
        text.push('\n');
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

/// The certificates of a text in the form in which we hand them out, without anything around them.
pub fn normalised(text: &str) -> Result<String, Error> {
    let certificates = certificates(text)?;
    if certificates.is_empty() {
        return Err(Error::NoPem);
    }
    Ok(certificates.iter().map(|der| block(Label::Certificate, der)).collect())
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let number = chunk.iter().fold(0u32, |number, byte| number << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = DIGITS[(number >> (18 - 6 * place) & 63) as usize];
            text.push(if place > chunk.len() { '=' } else { char::from(digit) });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(fill: u8, length: usize) -> String {
        block(Label::Certificate, &vec![fill; length])
    }

    #[test]
    fn blocks_are_read_back_whatever_their_length() {
        for length in 1..200 {
            let text = certificate(7, length);
            assert_eq!(first_certificate(&text).unwrap(), vec![7; length]);
            assert!(text.ends_with("-----\n") && !text.ends_with("\n\n"));
            assert!(text.lines().all(|line| line.len() <= 64));
        }
        assert_eq!(base64(b"Man"), "TWFu");
        assert_eq!(base64(b"Ma"), "TWE=");
        assert_eq!(base64(b"M"), "TQ==");
    }

    #[test]
    fn untidy_texts_are_tidied() {
        let [one, two] = [certificate(1, 100), certificate(2, 10)];
        let untidy = format!("subject: x\n{}\r\n\r\nissuer: y\r\n{}", one.replace('\n', "\r\n"), two.trim_end());
        assert_eq!(normalised(&untidy).unwrap(), format!("{one}{two}"));
        assert_eq!(certificates(&untidy).unwrap(), [vec![1; 100], vec![2; 10]]);
        assert_eq!(normalised("nothing"), Err(Error::NoPem));
        assert_eq!(
            first_certificate("-----BEGIN CERTIFICATE-----\n%%%\n-----END CERTIFICATE-----\n"),
            Err(Error::NoPem)
        );
    }
}
