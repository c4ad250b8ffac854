//! Wakes the futures that wait for the change of a key.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use redis::{PushInfo, PushKind, Value};
use tokio::sync::watch;

/// The waiters of each key.
///
/// A message wakes the waiters of its key. A connection that is lost or new wakes all waiters, because the store may
/// have missed messages.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    waiters: Mutex<HashMap<String, watch::Sender<()>>>,
}

/// Waits until the key may have changed after the creation of this value.
#[derive(Debug)]
pub(crate) struct Change(watch::Receiver<()>);

// === impl Changes ===

impl Changes {
    pub(crate) fn subscribe(&self, key: &str) -> Change {
        let mut waiters = self.waiters();
        if waiters.len() == waiters.capacity() {
            // Drops entries without a waiter before the map grows.
            waiters.retain(|_, waiters| waiters.receiver_count() > 0);
        }
        Change(waiters.entry(key.to_owned()).or_default().subscribe())
    }

    /// Handles a push message of the server.
    pub(crate) fn on_push(&self, push: &PushInfo) {
        // The data is the channel and the message, which is the key.
        if let (PushKind::Message, [_, Value::BulkString(key)]) = (&push.kind, push.data.as_slice()) {
            self.notify(&String::from_utf8_lossy(key));
        }
    }

    pub(crate) fn notify_all(&self) {
        self.waiters().retain(|_, waiters| waiters.send(()).is_ok());
    }

    fn notify(&self, key: &str) {
        let mut waiters = self.waiters();
        // Sending fails if no waiter is left, and then nothing uses the entry.
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
        // An error means that the sender was dropped, which happens only after a message. So there was a message.
        let _ = self.0.changed().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_without_waiters_are_removed() {
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
