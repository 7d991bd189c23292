//! Cutting texts that others wrote.

/// The beginning of a text: at most so many bytes, and no half character.
pub fn beginning(text: &str, most: usize) -> &str {
    // A character has at most four bytes, so this looks at few.
    let end = (0..=most.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_is_as_long_as_it_may_be_and_whole() {
        let cut = |most| beginning("aä€", most);
        assert_eq!([0, 1, 2, 3, 5, 6, 9].map(cut), ["", "a", "a", "aä", "aä", "aä€", "aä€"]);
    }
}
