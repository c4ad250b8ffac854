//! The run itself: expiries, one after another, and the report.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use tower::BoxError;

use crate::LIFETIME;
use crate::arguments::{Arguments, Store};
use crate::issuer::Issuer;
use crate::processes::Processes;
use crate::redis::Redis;
use crate::report::{self, Report};
use crate::serve::serve;

/// The longest time between two kills.
const KILL_EVERY_MS: u64 = 300;
/// How long a renewal may take before the run fails.
const RENEWAL_TIMEOUT: Duration = Duration::from_secs(30);
/// The time between two checks of the issuer's counts.
const TICK: Duration = Duration::from_millis(20);

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode, BoxError> {
    let Arguments { processes, expiries, kill, store, json } = arguments;
    let directory = tempfile::tempdir()?;
    // The server is dropped last, after the processes have ended.
    let started = matches!(store, Store::Redis).then(Redis::start).transpose()?;
    let store = match (store, &started) {
        (Store::RedisAt(url), _) => url,
        (_, Some(redis)) => redis.url.clone(),
        _ => directory.path().join("session").display().to_string(),
    };
    let issuer = Issuer::new(kill);
    let origin = serve(&issuer).await?;

    // The progress goes to stderr, so that stdout contains only the report.
    eprintln!("{processes} processes share one session, whose tokens live {} s.\n", LIFETIME.as_secs());
    eprintln!("{}", report::HEAD);
    let begun = Instant::now();
    let mut fleet = Processes::start(processes, origin, store)?;
    let figures = |fleet: &Processes| Report {
        processes,
        expiries,
        kill,
        token_calls: issuer.token_calls(),
        repeated: issuer.repeated(),
        max_concurrent_token_calls: issuer.max_concurrent_token_calls(),
        logged_out: issuer.logged_out(),
        killed: fleet.killed,
        counts: fleet.counts(),
    };
    // The first token is followed by one renewal for each expiry. A second fetch within half a token's life belongs to
    // the same expiry, so it breaks the promise of one call for each.
    let mut renewals = 0;
    let mut next_kill = begun + LIFETIME;
    'run: for _ in 0..=expiries {
        let deadline = Instant::now() + RENEWAL_TIMEOUT;
        let mut settled = None;
        while settled.is_none_or(|settled| Instant::now() < settled) {
            if settled.is_none() && issuer.token_calls() - issuer.repeated() > renewals {
                settled = Some(Instant::now() + LIFETIME / 2);
            }
            if settled.is_none() && Instant::now() > deadline {
                eprintln!("no token call for {} s", RENEWAL_TIMEOUT.as_secs());
                break 'run;
            }
            // Kills begin after the first token, because a killed login is not a refresh.
            if kill && renewals > 0 && Instant::now() > next_kill {
                fleet.kill_one().await?;
                next_kill = Instant::now() + Duration::from_millis(fastrand::u64(20..KILL_EVERY_MS));
            }
            tokio::time::sleep(TICK).await;
        }
        renewals = issuer.token_calls() - issuer.repeated();
        eprintln!("{}", figures(&fleet).row(begun.elapsed()));
    }
    let mut report = figures(&fleet);
    let stopped = fleet.stop().await;
    drop(started);
    report.counts = stopped?;

    eprintln!("\n{}", report.summary());
    if let Some(failure) = &report.counts.first_failure {
        eprintln!("the first failure: {failure}");
    }
    if json {
        println!("{}", report.json());
    }
    Ok(if report.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
