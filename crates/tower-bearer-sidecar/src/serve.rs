//! Runs the sidecar, from the check of its configuration to the last request.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::{BoxError, Layer, Service, ServiceBuilder, service_fn};
use tower_bearer::replay::Buffered;
use tower_bearer::{BearerLayer, Origin};
use tower_http::trace::TraceLayer;
use tower_http::validate_request::ValidateRequestHeaderLayer;

use crate::ConfigError;
use crate::cli::Args;
use crate::forward::{Proxy, Tunnels};
use crate::guard::Guard;
use crate::listen::{Address, Listener};
use crate::login;
use crate::status::{self, Reporter};
use crate::upstream::Clients;

/// How long a caller's connection may be idle, or take to send a head.
///
/// Clients close idle connections sooner. So the sidecar does not close a connection at the moment of the next request.
const IDLE: Duration = Duration::from_secs(300);
/// How long to wait after a connection could not be accepted. Most likely, the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const UPKEEP: Duration = Duration::from_secs(5);

/// Runs until a signal ends it.
pub(crate) async fn run(args: Args) -> Result<(), ConfigError> {
    check_listen(&args)?;
    let clients = Clients::new(args.ca_file.as_deref())?;
    let session = login::session(args.login, clients.tokens.clone())?;
    let mut cache = session.cache.name("sidecar");
    if let Some(shared) = session.shared {
        cache = cache.shared_session(shared.open().await?);
    }
    let cache = cache.build().map_err(login::named)?;
    let upstream = upstream(args.upstream.as_deref().or(session.upstream))?;
    let layer =
        BearerLayer::new(cache.clone(), [upstream.clone()]).map_err(|error| ConfigError::new("--upstream", error))?;
    let layer = layer.replay(Buffered::new(args.replay_limit));

    let prometheus = status::recorder().install_recorder().expect("it is the only recorder");
    status::describe();
    let reporter = Reporter::new(cache.clone(), prometheus.clone());
    let tunnels = Tunnels::default();
    let proxy = Proxy::new(&upstream, clients, cache.clone(), &layer, session.tenant, args.timeout, tunnels.clone());

    let mut signals = Signals::new().map_err(|error| ConfigError::new("signals", error))?;
    let (listener, address) = bind(&args.listen, "--listen").await?;
    check_loop(&address, &upstream)?;
    let guard = Guard::new(&address, args.allow_host.clone(), args.allow_origin.clone());
    let calls = ServiceBuilder::new()
        .map_response(|response: Response<_>| {
            status::count(&response);
            response
        })
        .layer(TraceLayer::new_for_http().make_span_with(span).on_failure(()))
        .layer(ValidateRequestHeaderLayer::custom(guard))
        .service(service_fn(move |request| proxy.clone().answer(request)));

    let (tasks, stop, stop_reports) = (TaskTracker::new(), CancellationToken::new(), CancellationToken::new());
    if let Some(address) = &args.status_listen {
        let (listener, address) = bind(address, "--status-listen").await?;
        let guard = ValidateRequestHeaderLayer::custom(Guard::of_status(&address, args.allow_host));
        let reporter = reporter.clone();
        let reports = service_fn(move |request| reporter.clone().answer(request));
        tasks.spawn(serve(listener, guard.layer(reports), stop_reports.clone()));
        println!("status at {address}");
    }
    if let Some(device) = session.device {
        tokio::select! {
            logged_in = device.log_in(&cache) => logged_in?,
            () = signals.recv() => return Ok(()),
        }
    }
    // Fetches the token before the first call, so that `/ready` shows whether it works.
    tasks.spawn(cache.keep_warm());
    tasks.spawn(async move {
        // The recorder keeps each value of a histogram until upkeep or a scrape, and there may never be a scrape.
        loop {
            tokio::time::sleep(UPKEEP).await;
            prometheus.run_upkeep();
        }
    });
    let serving = tasks.spawn(serve(listener, calls, stop.clone()));
    println!("listening at {address} for {upstream}");

    signals.recv().await;
    tracing::info!("ending: no new connections, requests in flight have {:?}", args.grace);
    reporter.drain();
    let drained = async {
        stop.cancel();
        if tokio::time::timeout(args.grace, serving).await.is_err() {
            tracing::warn!("ended with requests in flight");
        }
        tunnels.close().await;
        // Waits for a fetch in flight, and until its refresh token is saved.
        cache.shutdown().await;
        // The status address answers until here.
        stop_reports.cancel();
    };
    tokio::select! {
        () = drained => {}
        () = signals.recv() => tracing::warn!("second signal: ended at once"),
    }
    Ok(())
}

/// Parses the upstream. clap is not used, because its errors repeat the value, which may hold a password.
fn upstream(given: Option<&str>) -> Result<Origin, ConfigError> {
    let invalid = |problem: &dyn std::fmt::Display| ConfigError::new("--upstream", problem);
    let given = given.ok_or_else(|| invalid(&"say which API calls go to, such as https://api.example.com"))?;
    given.parse().map_err(|error: tower_bearer::Error| match Origin::allow_insecure(given) {
        Ok(_) => {
            invalid(&"plain http:// shows the token to everyone on the way; write https:// (http:// is for loopback)")
        }
        Err(_) => invalid(&error),
    })
}

fn check_listen(args: &Args) -> Result<(), ConfigError> {
    if args.listen.is_local() || args.allow_remote_callers {
        return Ok(());
    }
    Err(ConfigError::new(
        "--listen",
        format_args!(
            "other machines can reach {}, and every program that does acts with your token; listen at 127.0.0.1 or at \
             unix:/PATH, or say --allow-remote-callers",
            args.listen
        ),
    ))
}

async fn bind(address: &Address, option: &str) -> Result<(Listener, Address), ConfigError> {
    let listener = address.bind(option).await?;
    let address = listener.address().map_err(|error| ConfigError::new(option, error))?;
    Ok((listener, address))
}

/// Rejects an upstream that is the sidecar itself, which would call itself until it is out of connections.
fn check_loop(address: &Address, upstream: &Origin) -> Result<(), ConfigError> {
    let Address::Tcp(address) = address else { return Ok(()) };
    let port = address.port();
    let own = ["localhost", "127.0.0.1", "[::1]"].map(|name| format!("http://{name}:{port}").parse::<Origin>());
    if own.iter().any(|own| own.as_ref().is_ok_and(|own| own == upstream)) {
        return Err(ConfigError::new(
            "--upstream",
            "it is this sidecar's own address; name the API, or listen at another port",
        ));
    }
    Ok(())
}

/// Has the method and the path, and no query, because that may hold a secret of the caller.
fn span<B>(request: &Request<B>) -> tracing::Span {
    tracing::info_span!("request", method = %request.method(), path = request.uri().path())
}

/// Serves HTTP/1 and HTTP/2 until `stop`, and returns when the requests in flight have ended.
async fn serve<S, B>(listener: Listener, service: S, stop: CancellationToken)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: hyper::body::Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(IDLE);
    server.http2().timer(TokioTimer::new());
    let (connections, tasks) = (GracefulShutdown::new(), TaskTracker::new());
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let service = TowerToHyperService::new(service.clone());
        let connection = server.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
        let connection = connections.watch(connection);
        tasks.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = &*error, "a connection broke");
            }
        });
    }
    // Accepts no more connections.
    drop(listener);
    connections.shutdown().await;
}

/// The signals that end the sidecar.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

// === impl Signals ===

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn recv(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
