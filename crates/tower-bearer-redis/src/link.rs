//! The one connection: opened by the first command, shared by all, replaced by the next command after it was lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::aio::{AsyncPushSender, MultiplexedConnection, SendError};
use redis::{AsyncConnectionConfig, Client, Cmd, FromRedisValue, PushInfo, PushKind, RedisResult};
#[cfg(feature = "cluster")]
use redis::{ConnectionInfo, cluster::ClusterClient, cluster_async::ClusterConnection};
use tokio::sync::Mutex;
use tokio::time;
use tower_bearer::store::StoreError;

use crate::changes::Changes;
use crate::error;

/// The connection, with the subscription on it.
///
/// redis's own `ConnectionManager` is not used: it keeps a connection on which commands time out, and it hides that the
/// server rejected the subscription.
pub(crate) struct Link {
    /// The server; of a cluster, the first node that was named.
    client: Client,
    /// The nodes that were named, if it is a cluster.
    #[cfg(feature = "cluster")]
    nodes: Option<Arc<[ConnectionInfo]>>,
    channel: String,
    timeout: Duration,
    changes: Arc<Changes>,
    /// Locked while a connection is opened, so that one is opened for all.
    current: Mutex<Option<Open>>,
}

#[derive(Clone)]
struct Open {
    connection: Connection,
    /// Set when the connection must not be used any more.
    lost: Arc<AtomicBool>,
}

#[derive(Clone)]
enum Connection {
    Server(MultiplexedConnection),
    /// One connection to each node.
    #[cfg(feature = "cluster")]
    Cluster(ClusterConnection),
}

// === impl Link ===

impl Link {
    pub(crate) fn new(client: Client, channel: String, timeout: Duration) -> Self {
        Self {
            client,
            #[cfg(feature = "cluster")]
            nodes: None,
            channel,
            timeout,
            changes: Arc::default(),
            current: Mutex::default(),
        }
    }

    /// Asks the cluster that these nodes belong to.
    #[cfg(feature = "cluster")]
    pub(crate) fn of_cluster(mut self, nodes: Option<Arc<[ConnectionInfo]>>) -> Self {
        self.nodes = nodes;
        self
    }

    #[cfg(feature = "cluster")]
    pub(crate) fn nodes(&self) -> Option<Arc<[ConnectionInfo]>> {
        self.nodes.clone()
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn channel(&self) -> &str {
        &self.channel
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Runs a command. What it does may be done twice, because it is repeated if the connection ends under it.
    pub(crate) async fn run<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        let mut used = None;
        let repeated = async {
            let first = self.run_once(command, &mut used).await;
            match &first {
                Err(error) if error.is_connection_dropped() && !error.is_connection_refusal() => {
                    self.run_once(command, &mut used).await
                }
                _ => first,
            }
        };
        let result = time::timeout(self.timeout, repeated).await;
        if let (Some(used), Err(_)) = (used, &result) {
            // Data may not arrive any more, though the connection is open.
            used.discard();
        }
        let address = self.client.get_connection_info().addr();
        match result {
            Ok(result) => result.map_err(|error| error::describe(address, &error)),
            Err(_) => Err(error::timed_out(address, self.timeout)),
        }
    }

    /// Completes once the record or the lease of this key may have changed.
    ///
    /// Does not connect: a future that is polled once and then left would keep other calls from connecting. Without a
    /// connection it waits for the next command to open one, which wakes all waiters.
    pub(crate) async fn changed(&self, key: &str) {
        self.changes.subscribe(key).wait().await;
    }

    async fn run_once<T: FromRedisValue>(&self, command: &Cmd, used: &mut Option<Open>) -> RedisResult<T> {
        let open = used.insert(self.open().await?);
        let result = match open.connection.clone() {
            Connection::Server(mut connection) => command.query_async(&mut connection).await,
            #[cfg(feature = "cluster")]
            Connection::Cluster(mut connection) => command.query_async(&mut connection).await,
        };
        if result.as_ref().is_err_and(error::wants_new_connection) {
            open.discard();
        }
        result
    }

    async fn open(&self) -> RedisResult<Open> {
        let mut current = self.current.lock().await;
        if let Some(open) = &*current
            && !open.lost.load(Ordering::Acquire)
        {
            return Ok(open.clone());
        }
        *current = None;
        #[cfg(feature = "tls")]
        choose_crypto_provider();
        let lost = Arc::new(AtomicBool::new(false));
        let (changes, ended) = (self.changes.clone(), lost.clone());
        let on_push = move |push: PushInfo| {
            if push.kind == PushKind::Disconnection {
                ended.store(true, Ordering::Release);
                changes.notify_all();
            }
            changes.on_push(&push);
            Ok::<_, SendError>(())
        };
        let connection = self.connect(on_push).await?;
        let open = current.insert(Open { connection, lost }).clone();
        self.changes.notify_all();
        Ok(open)
    }

    /// Connects, and subscribes.
    async fn connect(&self, on_push: impl AsyncPushSender) -> RedisResult<Connection> {
        // `run` bounds the whole with one timeout.
        #[cfg(feature = "cluster")]
        if let Some(nodes) = &self.nodes {
            let cluster = ClusterClient::builder(nodes.iter().cloned()).push_sender(on_push);
            let cluster = cluster.connection_timeout(self.timeout).response_timeout(self.timeout).build()?;
            let mut connection = cluster.get_async_connection().await?;
            connection.subscribe(&self.channel).await?;
            return Ok(Connection::Cluster(connection));
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_push_sender(on_push);
        let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        connection.subscribe(&self.channel).await?;
        Ok(Connection::Server(connection))
    }
}

// === impl Open ===

impl Open {
    fn discard(&self) {
        self.lost.store(true, Ordering::Release);
    }
}

/// rustls panics if an application has compiled several providers and chosen none.
#[cfg(feature = "tls")]
fn choose_crypto_provider() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // It fails if another thread was first; then there is one.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}
