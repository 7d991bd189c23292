//! What was probably meant by a mistyped word.

/// The known word that is nearest to the given one, when it is near enough.
pub(crate) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|known| (distance(word, known), known))
        .min()
        .filter(|(distance, _)| *distance <= 2 && *distance < word.chars().count())
        .map(|(_, known)| known)
}

/// How many letters must be added, removed, changed or swapped with their neighbour to make one word of another.
pub(crate) fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let change = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = change.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_word_is_recognised() {
        let known = ["agent", "kv", "validate", "version"];
        let near = |word| nearest(word, known.iter().copied());
        assert_eq!(near("agnet"), Some("agent"));
        assert_eq!(near("valdate"), Some("validate"));
        assert_eq!(near("vk"), Some("kv"));
        assert_eq!(near("something"), None);
        assert_eq!(near("x"), None, "a word in which everything is different means nothing");
    }

    #[test]
    fn neighbours_that_changed_places_are_one_mistake() {
        assert_eq!((distance("ab", "ba"), distance("", "abc"), distance("kv", "kv")), (1, 3, 0));
    }
}
