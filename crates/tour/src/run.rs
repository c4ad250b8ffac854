//! The tour itself: requests and faults at the same time, then the report.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use tokio::task::JoinSet;
use tower::BoxError;

use crate::arguments::Arguments;
use crate::provider::{LIFETIME, Provider};
use crate::{faults, load, report};

pub(crate) async fn run(arguments: Arguments, providers: [Provider; 2]) -> Result<ExitCode, BoxError> {
    let providers = providers.map(Arc::new);
    let (seconds, lifetime, callers) = (arguments.length.as_secs(), LIFETIME.as_secs(), load::CALLERS);
    // The progress goes to stderr, so that stdout contains only the report.
    eprintln!("Two APIs on loopback, {callers} callers each for {seconds} s, with tokens that live {lifetime} s.");
    eprintln!("Each issuer fails for a while, and each API rejects a token before its time.\n");

    let begun = Instant::now();
    let loads: Vec<_> = providers.iter().map(load::start).collect();
    let mut injected = JoinSet::new();
    for provider in &providers {
        let provider = Arc::clone(provider);
        injected.spawn(async move {
            let say = |what: &str| eprintln!("{:4.1} s  {}: {what}", begun.elapsed().as_secs_f32(), provider.name);
            let result = faults::inject(&provider, arguments.length, say).await;
            result.map_err(|error| format!("{}: {error}", provider.name))
        });
    }
    let mut missed = Vec::new();
    while let Some(ended) = injected.join_next().await {
        missed.extend(ended?.err());
    }
    tokio::time::sleep(arguments.length.saturating_sub(begun.elapsed())).await;
    for load in loads {
        load.stop().await?;
    }
    for provider in &providers {
        // Waits for a fetch in flight, whose refresh token may be worth keeping.
        provider.cache.shutdown().await;
    }

    let figures = providers.each_ref().map(|provider| provider.figures());
    let promises = report::promises(&figures);
    if arguments.json {
        println!("{}", report::json(&figures));
    } else {
        println!("\n{}\n{}", report::table(&figures), report::promise_table(&figures, &promises));
    }
    missed.extend(figures.iter().filter_map(report::Figures::first_failure));
    missed.extend(promises.iter().filter(|promise| !promise.held).map(|promise| format!("broken: {}", promise.text)));
    missed.iter().for_each(|complaint| eprintln!("{complaint}"));
    Ok(if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
