//! The end of an output that may be long: memory for the part that is kept, a count for the rest.

use std::collections::VecDeque;

/// What is kept of any output.
pub(crate) const KEPT: usize = 4096;

/// The last [`KEPT`] bytes of what was written.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    bytes: VecDeque<u8>,
    total: u64,
}

impl Tail {
    /// Appends.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.total = self.total.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        let kept = &bytes[bytes.len().saturating_sub(KEPT)..];
        let excess = (self.bytes.len() + kept.len()).saturating_sub(KEPT);
        self.bytes.drain(..excess);
        self.bytes.extend(kept);
    }

    /// The kept part.
    pub(crate) fn text(&self) -> String {
        let (front, back) = self.bytes.as_slices();
        String::from_utf8_lossy(&[front, back].concat()).into_owned()
    }

    /// The kept part, preceded by a remark when there was more.
    pub(crate) fn text_with_remark(&self) -> String {
        let text = self.text();
        let kept = u64::try_from(KEPT).unwrap_or(u64::MAX);
        if self.total > kept { format!("Captured {KEPT} of {} bytes\n...\n{text}", self.total) } else { text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_kept_however_it_is_written() {
        let long: Vec<u8> = (0..5000u32).map(|n| b'a' + u8::try_from(n % 26).unwrap()).collect();
        for piece in [1, 7, 4096, 5000] {
            let mut tail = Tail::default();
            long.chunks(piece).for_each(|chunk| tail.write(chunk));
            assert_eq!(tail.text().as_bytes(), &long[904..], "in pieces of {piece}");
            assert!(tail.text_with_remark().starts_with("Captured 4096 of 5000 bytes\n...\n"));
        }
        let mut short = Tail::default();
        short.write(b"all of it");
        assert_eq!(short.text_with_remark(), "all of it");
    }

    #[test]
    fn bytes_that_are_no_text_do_not_matter() {
        let mut tail = Tail::default();
        tail.write(b"\xffok");
        assert_eq!(tail.text(), "\u{fffd}ok");
    }
}
