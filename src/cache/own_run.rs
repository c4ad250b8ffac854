//! Tracks which caches' runs the current task is part of, so that no run waits for itself.
//!
//! A run calls user code: the source and `on_rotation`. If that code asked the same cache for a token, it would wait
//! for the run that waits for it. A run that starts within another run remembers that run, too, because two caches
//! whose sources ask each other would also deadlock. A task that user code spawns is not tracked: it waits until its
//! deadline.

use std::sync::Arc;

use crate::token::SessionId;

tokio::task_local! {
    static RUNS: Arc<Runs>;
}

/// The run of a cache, and the runs within which it was started.
struct Runs {
    /// Any session of the cache, because only its cache number is compared.
    cache: SessionId,
    outer: Option<Arc<Runs>>,
}

/// Makes the future a part of this cache's run, and of the runs that the current task is part of.
pub(crate) fn within<F: Future>(cache: SessionId, future: F) -> impl Future<Output = F::Output> {
    let outer = RUNS.try_with(Arc::clone).ok();
    RUNS.scope(Arc::new(Runs { cache, outer }), future)
}

/// Whether the current task is part of a run of this cache.
pub(crate) fn is_within(cache: SessionId) -> bool {
    let of_this_cache = |runs: &Arc<Runs>| {
        let mut chain = std::iter::successors(Some(runs), |runs| runs.outer.as_ref());
        chain.any(|run| run.cache.is_of_same_cache(cache))
    };
    RUNS.try_with(of_this_cache).unwrap_or(false)
}
