//! Counts the allocations of the current thread. A binary that counts sets [`Counting`] as its `#[global_allocator]`.
#![allow(unsafe_code, reason = "a global allocator is unsafe to implement; this one counts and passes on")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// An allocator that counts and calls the system's allocator.
#[derive(Debug)]
pub struct Counting;

/// The allocations of one thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// The number of allocations.
    pub times: usize,
    /// Bytes that were not freed; below zero if more bytes were freed than allocated.
    pub held: isize,
}

thread_local! {
    static COUNT: Cell<Count> = const { Cell::new(Count { times: 0, held: 0 }) };
}

/// The allocations of this thread so far.
pub fn so_far() -> Count {
    COUNT.get()
}

/// The allocations of the work on this thread, and its result.
pub fn of<T>(work: impl FnOnce() -> T) -> (Count, T) {
    let before = so_far();
    let result = work();
    let after = so_far();
    (Count { times: after.times - before.times, held: after.held - before.held }, result)
}

fn note(times: usize, bytes: isize) {
    // `try_with` fails if the thread is ending.
    let _ = COUNT.try_with(|count| {
        let Count { times: former, held } = count.get();
        count.set(Count { times: former + times, held: held + bytes });
    });
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(1, layout.size() as isize);
        // SAFETY: the caller's contract is that of the system's allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        note(0, -(layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}
