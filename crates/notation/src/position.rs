//! Where in a text something is wrong, counted as editors count.

/// The nesting that either language may have; deeper text is refused, so no recursion here or later can exhaust a
/// stack. Kept below the limit of JSON readers elsewhere, so that what was read once can be written and read again.
pub(crate) const MAX_DEPTH: usize = 100;

/// The text is not HCL or not JSON.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{line}:{column}: {text}")]
pub struct SyntaxError {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// What is wrong there.
    pub text: String,
}

impl SyntaxError {
    /// Counts lines and columns only now: while nothing is wrong, nobody needs them.
    pub(crate) fn at(source: &str, offset: usize, text: impl Into<String>) -> SyntaxError {
        let mut offset = offset.min(source.len());
        while !source.is_char_boundary(offset) {
            offset -= 1;
        }
        let before = &source[..offset];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        SyntaxError {
            line: count(before.bytes().filter(|b| *b == b'\n').count()),
            column: count(before[line_start..].chars().count()),
            text: text.into(),
        }
    }
}

fn count(before: usize) -> u32 {
    u32::try_from(before).unwrap_or(u32::MAX).saturating_add(1)
}

/// Skips the byte order mark that some editors put before the first character.
pub(crate) fn without_mark(source: &str) -> &str {
    source.strip_prefix('\u{feff}').unwrap_or(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters_and_lines_start_at_one() {
        let error = SyntaxError::at("a\näö!", "a\näö".len(), "x");
        assert_eq!((error.line, error.column), (2, 3));
        let error = SyntaxError::at("", 7, "x");
        assert_eq!((error.line, error.column), (1, 1));
    }
}
