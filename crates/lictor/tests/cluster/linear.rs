//! Whether a history of concurrent operations on one register could have happened one after the other.
//!
//! The search of Wing and Gong with Lowe's memory: whichever operations are minimal (no other ended before they began)
//! are tried as the next one; a set of done operations with the same value is never searched twice. An operation
//! whose outcome is unknown may take effect at any time after it began, or never.

use std::collections::HashSet;

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A read of this value; none is there before the first write.
    Read(Option<u64>),
    /// A write of this value.
    Write(u64),
    /// A compare-and-set from one value to another that succeeded.
    Swap(Option<u64>, u64),
    /// A compare-and-set that found another value than this.
    Refused(Option<u64>),
}

/// One operation as its client saw it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operation {
    pub(crate) kind: Kind,
    /// When it was asked for.
    pub(crate) begun: u64,
    /// When it was answered; none when it never was.
    pub(crate) ended: Option<u64>,
}

impl Operation {
    /// The value that it leaves, if it changes anything.
    fn leaves(&self) -> Option<u64> {
        match self.kind {
            Kind::Write(value) | Kind::Swap(_, value) => Some(value),
            Kind::Read(_) | Kind::Refused(_) => None,
        }
    }

    /// The value that it found.
    fn found(&self) -> Option<u64> {
        match self.kind {
            Kind::Read(value) | Kind::Swap(value, _) | Kind::Refused(value) => value,
            Kind::Write(_) => None,
        }
    }

    /// The value behind it, if it can happen to this one.
    fn after(&self, value: Option<u64>) -> Option<Option<u64>> {
        match self.kind {
            Kind::Read(found) => (found == value).then_some(value),
            Kind::Write(written) => Some(Some(written)),
            Kind::Swap(from, to) => (from == value).then_some(Some(to)),
            Kind::Refused(from) => (from != value).then_some(value),
        }
    }
}

/// Whether the history is linearizable. No two operations write the same value.
pub(crate) fn is_linearizable(history: &[Operation]) -> bool {
    let mut order: Vec<Operation> = history.to_vec();
    // Pushed last is tried first, so what may never have been done is tried after what was.
    order.sort_by_key(|operation| (operation.ended.is_some(), operation.begun));
    let certain = order.iter().filter(|operation| operation.ended.is_some()).count();
    let found: HashSet<u64> = order.iter().filter_map(Operation::found).collect();
    // What is open and left nothing that anybody found can only matter to who was refused.
    let hidden: Vec<bool> = order
        .iter()
        .map(|operation| operation.ended.is_none() && operation.leaves().is_none_or(|value| !found.contains(&value)))
        .collect();
    let mut seen = HashSet::new();
    let done = vec![0_u64; order.len().div_ceil(64)];
    // Depth first over (what is done, the value, how many certain ones are done).
    let mut stack = vec![(done, None::<u64>, 0_usize)];
    while let Some((done, value, count)) = stack.pop() {
        if count == certain {
            return true;
        }
        let is_done = |number: usize| done[number / 64] >> (number % 64) & 1 == 1;
        let first_end = (0..order.len())
            .filter(|number| !is_done(*number))
            .filter_map(|number| order[number].ended)
            .min()
            .unwrap_or(u64::MAX);
        let minimal: Vec<usize> =
            (0..order.len()).filter(|number| !is_done(*number) && order[*number].begun <= first_end).collect();
        let refused = minimal.iter().any(|number| order[*number].kind == Kind::Refused(value));
        let mut overwritten = false;
        for number in minimal {
            let operation = &order[number];
            let Some(next) = operation.after(value) else { continue };
            if hidden[number] {
                // One write that nobody found is as good as another.
                let another = matches!(operation.kind, Kind::Write(_)) && std::mem::replace(&mut overwritten, true);
                if !refused || another {
                    continue;
                }
            }
            let mut then = done.clone();
            then[number / 64] |= 1 << (number % 64);
            if seen.insert((then.clone(), next)) {
                stack.push((then, next, count + usize::from(operation.ended.is_some())));
            }
        }
    }
    certain == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(kind: Kind, begun: u64, ended: u64) -> Operation {
        Operation { kind, begun, ended: Some(ended) }
    }

    #[test]
    fn a_read_that_is_older_than_an_acknowledged_write_is_found() {
        let good = [
            operation(Kind::Write(1), 0, 1),
            operation(Kind::Write(2), 2, 5),
            operation(Kind::Read(Some(1)), 3, 4),
            operation(Kind::Read(Some(2)), 4, 6),
        ];
        assert!(is_linearizable(&good));
        let stale =
            [operation(Kind::Write(1), 0, 1), operation(Kind::Write(2), 2, 3), operation(Kind::Read(Some(1)), 4, 5)];
        assert!(!is_linearizable(&stale));
        let back =
            [operation(Kind::Write(1), 0, 9), operation(Kind::Read(Some(1)), 1, 2), operation(Kind::Read(None), 3, 4)];
        assert!(!is_linearizable(&back), "what was seen cannot be unseen");
    }

    #[test]
    fn two_swaps_from_the_same_value_are_found() {
        let twice = [
            operation(Kind::Write(1), 0, 1),
            operation(Kind::Swap(Some(1), 2), 2, 5),
            operation(Kind::Swap(Some(1), 3), 3, 6),
        ];
        assert!(!is_linearizable(&twice));
    }

    #[test]
    fn a_swap_that_was_refused_without_reason_is_found() {
        let refused = |begun, ended| operation(Kind::Refused(Some(1)), begun, ended);
        let good = [operation(Kind::Write(1), 0, 1), operation(Kind::Write(2), 2, 5), refused(3, 4)];
        assert!(is_linearizable(&good));
        assert!(!is_linearizable(&[operation(Kind::Write(1), 0, 1), refused(2, 3), operation(Kind::Write(2), 4, 5)]));
        let open = Operation { kind: Kind::Write(3), begun: 0, ended: None };
        assert!(is_linearizable(&[open, operation(Kind::Write(1), 0, 1), refused(2, 3)]));
        let back = operation(Kind::Read(Some(1)), 4, 5);
        assert!(!is_linearizable(&[open, operation(Kind::Write(1), 0, 1), refused(2, 3), back]));
    }

    #[test]
    fn a_write_of_unknown_outcome_may_have_happened_late_or_never() {
        let open = Operation { kind: Kind::Write(7), begun: 0, ended: None };
        let late = [open, operation(Kind::Read(None), 1, 2), operation(Kind::Read(Some(7)), 3, 4)];
        assert!(is_linearizable(&late));
        assert!(is_linearizable(&[open, operation(Kind::Read(None), 1, 2)]));
        let undone = [open, operation(Kind::Read(Some(7)), 1, 2), operation(Kind::Read(None), 3, 4)];
        assert!(!is_linearizable(&undone));
    }
}
