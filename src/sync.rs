//! The synchronisation types of the single flight. The models in `tests/models` use loom's and shuttle's types instead.

pub(crate) use std::sync::atomic::{AtomicU64, Ordering};
pub(crate) use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(crate) use tokio::task::yield_now;

/// How many waiters are woken before other tasks get a turn.
pub(crate) const WAKE_BATCH: usize = 256;
