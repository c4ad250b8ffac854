//! Allocations of the current thread, counted. A binary that counts names [`Counting`] its `#[global_allocator]`.
#![allow(unsafe_code, reason = "a global allocator is unsafe to implement; this one counts and passes on")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Counts, and passes on to the system's allocator.
#[derive(Debug)]
pub struct Counting;

/// What was allocated, by one thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// How often.
    pub times: usize,
    /// Bytes that were not given back; below zero where older ones were.
    pub held: isize,
}

thread_local! {
    static COUNT: Cell<Count> = const { Cell::new(Count { times: 0, held: 0 }) };
}

/// What this thread has allocated so far.
pub fn so_far() -> Count {
    COUNT.get()
}

/// What a piece of work allocates on this thread, and its result.
pub fn of<T>(work: impl FnOnce() -> T) -> (Count, T) {
    let before = so_far();
    let result = work();
    let after = so_far();
    (Count { times: after.times - before.times, held: after.held - before.held }, result)
}

fn note(times: usize, bytes: isize) {
    // The thread may be ending.
    let _ = COUNT.try_with(|count| {
        let Count { times: former, held } = count.get();
        count.set(Count { times: former + times, held: held + bytes });
    });
}

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(1, layout.size() as isize);
        // SAFETY: the caller's promise is the one the system asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        note(0, -(layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}
