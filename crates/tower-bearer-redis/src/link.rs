//! The shared connection. The first command opens it, and after a loss the next command opens another.

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
    /// The server, or the first configured node of a cluster.
    client: Client,
    /// The configured nodes of a cluster.
    #[cfg(feature = "cluster")]
    nodes: Option<Arc<[ConnectionInfo]>>,
    channel: String,
    timeout: Duration,
    changes: Arc<Changes>,
    /// Locked while a connection is opened, so that concurrent commands open only one.
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

    /// Connects to the cluster of these nodes instead of one server.
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

    /// Runs a command, and repeats it if the connection is lost. So the server may run it twice.
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
            // The connection may be dead although it is open.
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
    /// Does not connect, because a future that is polled once and then kept would prevent other calls from connecting.
    /// Without a connection, it waits until the next command opens one, which wakes all waiters.
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
        // `run` applies one timeout to connecting and the command.
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

/// Installs a default provider. Without one, rustls panics if the application has compiled several.
#[cfg(feature = "tls")]
fn choose_crypto_provider() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // An error means that another thread has installed one.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}
