//! The big buffers through which bytes move: borrowed from a pool of the thread, given back as soon as they are empty.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

use crate::record::{MAX_OVERHEAD, MAX_PAYLOAD};

/// Full records that one buffer holds. Eight keep a read and a write at 128 KB, where the cost of a system call is
/// lost in the cost of its copy, and leave a buffer and what it is copied from in a second-level cache.
pub(crate) const RECORDS: usize = 8;

/// Bytes of one buffer.
pub(crate) const LEN: usize = RECORDS * (MAX_PAYLOAD + MAX_OVERHEAD);

/// Buffers that a thread keeps for the next borrower. A worker needs two at a time unless peers stall; the rest goes
/// back to the allocator, so that a burst does not stay in memory.
const KEPT: usize = 4;

thread_local! {
    static POOL: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// One borrowed buffer. What is in it is left over from its last borrower.
pub(crate) struct Buffer(Box<[u8]>);

impl Buffer {
    pub(crate) fn borrow() -> Buffer {
        Buffer(POOL.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; LEN].into_boxed_slice()))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.0);
        // A thread that is ending has no pool any more; then the buffer is simply freed.
        let _ = POOL.try_with(|pool| {
            if let Ok(mut pool) = pool.try_borrow_mut()
                && pool.len() < KEPT
            {
                pool.push(bytes);
            }
        });
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_given_back_is_borrowed_again_and_few_are_kept() {
        let first = Buffer::borrow();
        let address = first.as_ptr();
        drop(first);
        assert_eq!(Buffer::borrow().as_ptr(), address);
        drop((0..10).map(|_| Buffer::borrow()).collect::<Vec<_>>());
        assert_eq!(POOL.with_borrow(Vec::len), KEPT);
    }
}
