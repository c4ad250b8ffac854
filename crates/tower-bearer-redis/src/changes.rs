//! Which keys may have changed, told to the futures that wait for it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use redis::{PushInfo, PushKind, Value};
use tokio::sync::watch;

/// The waiters of each key, by the key.
///
/// A message wakes the waiters of its key. A connection that is lost or new wakes all, because messages may have been
/// missed in between.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    waiters: Mutex<HashMap<String, watch::Sender<()>>>,
}

/// Completes once its key may have changed. Counts from its creation on.
#[derive(Debug)]
pub(crate) struct Change(watch::Receiver<()>);

// === impl Changes ===

impl Changes {
    pub(crate) fn subscribe(&self, key: &str) -> Change {
        let mut waiters = self.waiters();
        if waiters.len() == waiters.capacity() {
            // Instead of growing, if there are entries of keys that nothing waits for any more.
            waiters.retain(|_, waiters| waiters.receiver_count() > 0);
        }
        Change(waiters.entry(key.to_owned()).or_default().subscribe())
    }

    /// Takes what the server sends without being asked.
    pub(crate) fn on_push(&self, push: &PushInfo) {
        // The channel, and the key as the message.
        if let (PushKind::Message, [_, Value::BulkString(key)]) = (&push.kind, push.data.as_slice()) {
            self.notify(&String::from_utf8_lossy(key));
        }
    }

    pub(crate) fn notify_all(&self) {
        self.waiters().retain(|_, waiters| waiters.send(()).is_ok());
    }

    fn notify(&self, key: &str) {
        let mut waiters = self.waiters();
        // It fails if there is no waiter any more; then the entry has no user.
        if waiters.get(key).is_some_and(|waiters| waiters.send(()).is_err()) {
            waiters.remove(key);
        }
    }

    fn waiters(&self) -> MutexGuard<'_, HashMap<String, watch::Sender<()>>> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Change ===

impl Change {
    pub(crate) async fn wait(mut self) {
        // It fails if the sender was dropped, which is done only after a message; then there is one.
        let _ = self.0.changed().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_nothing_waits_for_are_forgotten() {
        let changes = Changes::default();
        let kept = changes.subscribe("kept");
        for number in 0..10_000 {
            drop(changes.subscribe(&number.to_string()));
        }
        assert!(changes.waiters().len() < 10, "{}", changes.waiters().len());
        assert!(changes.waiters().contains_key("kept"));
        drop(kept);
        changes.notify("kept");
        changes.notify_all();
        assert!(changes.waiters().is_empty());
    }
}
