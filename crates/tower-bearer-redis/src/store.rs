//! The store, which names the keys and runs one script for each operation.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::{Client, Cmd, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, RedisError};
use tower_bearer::store::{Lease, Saved, StoreError, Stored, TokenStore};

use crate::link::Link;
use crate::scripts;

/// The default prefix of keys.
const PREFIX: &str = "tower-bearer";
/// How long a call may take.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How long a record is kept. Refresh tokens of the large providers expire sooner if they are not used.
const KEEP_FOR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// How long a record that was set aside is kept.
const KEEP_SET_ASIDE_FOR: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// A [`TokenStore`] in Redis or Valkey, for the processes of a fleet.
///
/// Clones share one connection for all keys, with one subscription. The first command opens the connection, and after a
/// fault the next command opens another. Before the first command, the store neither connects nor spawns a task.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tower_bearer_redis::RedisStore;
///
/// let store = RedisStore::new("rediss://app:secret@redis.example.com:6379")?.prefix("billing")?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RedisStore {
    link: Arc<Link>,
    prefix: String,
    keep_for: Duration,
}

/// The Redis keys of one session. A hash tag, the part in braces, puts them on one node of a cluster.
struct Names {
    record: String,
    lease: String,
    set_aside: String,
}

// === impl RedisStore ===

impl RedisStore {
    /// A store in the server at this URL: `redis://`, or `rediss://` with TLS.
    ///
    /// Makes no network call. `rediss://` needs the feature `tls` and trusts the certificates of the operating system.
    /// For other certificates, or a client certificate, pass the `ConnectionInfo` of a client that
    /// `redis::Client::build_with_tls` made.
    ///
    /// # Errors
    /// Returns an error if the URL is invalid. The error does not repeat it.
    pub fn new(server: impl IntoConnectionInfo) -> Result<Self, StoreError> {
        let client = Client::open(info(server)?).map_err(invalid)?;
        let link = Link::new(client, channel(PREFIX), TIMEOUT);
        Ok(Self { link: Arc::new(link), prefix: PREFIX.to_owned(), keep_for: KEEP_FOR })
    }

    /// A store in the Redis Cluster that these nodes belong to.
    ///
    /// The store learns of the other nodes from these. It has a connection to each node, follows redirects, and
    /// receives the messages of every node. Makes no network call.
    ///
    /// # Errors
    /// Returns an error if there is no node, or if a URL is invalid. The error does not repeat it.
    #[cfg(feature = "cluster")]
    pub fn cluster<T: IntoConnectionInfo>(nodes: impl IntoIterator<Item = T>) -> Result<Self, StoreError> {
        let nodes = nodes.into_iter().map(info).collect::<Result<Arc<[_]>, _>>()?;
        let first = nodes.first().ok_or_else(|| StoreError::permanent("no node of the Redis Cluster is named"))?;
        let store = Self::new(first.clone())?;
        let link = Link::new(store.link.client().clone(), channel(PREFIX), TIMEOUT).of_cluster(Some(nodes));
        Ok(Self { link: Arc::new(link), ..store })
    }

    /// Sets the prefix of all keys and of the channel. Default: `tower-bearer`.
    ///
    /// Applications that share a server but not their sessions need different prefixes, and ACL rules for them.
    ///
    /// # Errors
    /// Returns an error if the prefix is empty or holds a brace, which would put the keys of a record on different
    /// nodes of a cluster.
    pub fn prefix(self, prefix: impl Into<String>) -> Result<Self, StoreError> {
        let prefix = prefix.into();
        if prefix.is_empty() || prefix.contains(['{', '}']) {
            return Err(StoreError::permanent("the prefix of keys in Redis is empty or holds a brace"));
        }
        let timeout = self.link.timeout();
        Ok(Self { link: self.link_as(&prefix, timeout), prefix, ..self })
    }

    /// Sets how long a call may take, including connecting. Default: 2 s.
    ///
    /// A call to a server that does not answer takes this long. Keep the timeout well below the time to live of a
    /// lease.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { link: self.link_as(&self.prefix, timeout), ..self }
    }

    /// Sets how long a record is kept after it was last saved. Default: 365 days.
    ///
    /// Each refresh saves the record anew, so the time matters only for sessions that are not used any more. Choose at
    /// least the time that a refresh token lives without use. The record of a session that has ended is kept for at
    /// most 30 days.
    #[must_use]
    pub fn keep_for(self, time: Duration) -> Self {
        Self { keep_for: time, ..self }
    }

    /// A new connection to the same server.
    fn link_as(&self, prefix: &str, timeout: Duration) -> Arc<Link> {
        let link = Link::new(self.link.client().clone(), channel(prefix), timeout);
        #[cfg(feature = "cluster")]
        let link = link.of_cluster(self.link.nodes());
        Arc::new(link)
    }

    fn names(&self, key: &str) -> Names {
        // The tag is not the key alone, because a tag must not be empty or begin with a closing brace.
        let record = format!("{}:{{session:{key}}}", self.prefix);
        Names { lease: format!("{record}:lease"), set_aside: format!("{record}:set-aside"), record }
    }
}

impl TokenStore for RedisStore {
    async fn load(&self, key: &str) -> Result<Option<Stored>, StoreError> {
        let names = self.names(key);
        let command = eval(scripts::LOAD, &[&names.record]);
        let record: Option<(u64, Vec<u8>, i64)> = self.link.run(&command).await?;
        // The age is negative if the server's clock went back, or a server with another clock took over.
        Ok(record.map(|(version, bytes, age)| {
            Stored::new(bytes, version, Duration::from_millis(u64::try_from(age).unwrap_or_default()))
        }))
    }

    async fn acquire(&self, key: &str, owner: &str, ttl: Duration) -> Result<Lease, StoreError> {
        let names = self.names(key);
        let mut command = eval(scripts::ACQUIRE, &[&names.lease]);
        command.arg(owner).arg(millis(ttl));
        let busy: Option<(String, i64)> = self.link.run(&command).await?;
        Ok(busy.map_or(Lease::Held, |(owner, remaining)| {
            // The time is negative if the lease has no expiry, which this store never creates.
            let remaining = u64::try_from(remaining).map_or(ttl, Duration::from_millis);
            Lease::Busy { owner: Some(owner), remaining }
        }))
    }

    async fn extend(&self, key: &str, owner: &str, ttl: Duration) -> Result<bool, StoreError> {
        let names = self.names(key);
        let mut command = eval(scripts::EXTEND, &[&names.lease]);
        command.arg(owner).arg(millis(ttl));
        self.link.run(&command).await
    }

    async fn release(&self, key: &str, owner: &str) -> Result<(), StoreError> {
        let names = self.names(key);
        let mut command = eval(scripts::RELEASE, &[&names.lease, &names.record]);
        command.arg(owner).arg(self.link.channel()).arg(key);
        self.link.run(&command).await
    }

    async fn save(&self, key: &str, owner: &str, expected: Option<u64>, bytes: &[u8]) -> Result<Saved, StoreError> {
        let names = self.names(key);
        let mut command = eval(scripts::SAVE, &[&names.lease, &names.record]);
        command.arg(owner).arg(expected.map(|version| version.to_string()).unwrap_or_default()).arg(bytes);
        command.arg(millis(self.keep_for)).arg(self.link.channel()).arg(key);
        let version: Option<u64> = self.link.run(&command).await?;
        Ok(version.map_or(Saved::Conflict, |version| Saved::Saved { version }))
    }

    async fn set_aside(&self, key: &str, owner: &str, expected: u64) -> Result<Option<String>, StoreError> {
        let names = self.names(key);
        let mut command = eval(scripts::SET_ASIDE, &[&names.lease, &names.record, &names.set_aside]);
        command.arg(owner).arg(expected).arg(millis(KEEP_SET_ASIDE_FOR)).arg(self.link.channel()).arg(key);
        let moved: bool = self.link.run(&command).await?;
        Ok(moved.then_some(names.set_aside))
    }

    async fn expire(&self, key: &str, owner: &str, expected: u64, after: Duration) -> Result<(), StoreError> {
        let names = self.names(key);
        let mut command = eval(scripts::EXPIRE, &[&names.lease, &names.record]);
        command.arg(owner).arg(expected).arg(millis(after.min(self.keep_for)));
        self.link.run::<bool>(&command).await.map(drop)
    }

    async fn changed(&self, key: &str) {
        self.link.changed(key).await;
    }
}

/// Leaves out the user name and the password.
impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.link.client().get_connection_info().addr().to_string();
        f.debug_struct("RedisStore").field("address", &address).field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

fn channel(prefix: &str) -> String {
    format!("{prefix}:changed")
}

fn invalid(_: RedisError) -> StoreError {
    StoreError::permanent("the URL of Redis is invalid, or needs a feature that is not enabled")
}

/// Selects RESP3, which sends the messages of the subscription on the connection of the commands.
fn info(server: impl IntoConnectionInfo) -> Result<ConnectionInfo, StoreError> {
    let info = server.into_connection_info().map_err(invalid)?;
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3).set_skip_set_lib_name();
    Ok(info.set_redis_settings(settings))
}

fn eval(script: &str, names: &[&str]) -> Cmd {
    let mut command = redis::cmd("EVAL");
    command.arg(script).arg(names.len()).arg(names);
    command
}

/// Clamps the time, because Redis rejects zero and very long times.
fn millis(time: Duration) -> u64 {
    const CENTURY: u64 = 100 * 365 * 24 * 60 * 60 * 1000;
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).clamp(1, CENTURY)
}
