//! The tour itself: requests, troubles and a progress bar side by side, then the report.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinSet;
use tower::BoxError;

use crate::provider::Provider;
use crate::{load, report, trouble};

/// Two token-protected APIs under load, while their tokens expire, fail to come, and are revoked.
#[derive(Parser)]
struct Args {
    /// How many seconds to send requests. Below 12 it takes a little longer, until all troubles are over.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Print the figures as one line of JSON instead of a table.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(providers: [Provider; 2]) -> Result<ExitCode, BoxError> {
    let args = Args::parse();
    let length = Duration::from_secs(args.seconds);
    let providers = providers.map(Arc::new);
    let begun = Instant::now();
    let bar = ProgressBar::new(length.as_millis() as u64)
        .with_style(ProgressStyle::with_template("{bar:40} {percent:>3} %  {msg}")?);
    let load: Vec<_> = providers.iter().map(load::start).collect();
    let mut troubles = JoinSet::new();
    for provider in &providers {
        let (provider, bar) = (Arc::clone(provider), bar.clone());
        troubles.spawn(async move {
            // Above the bar, and on stderr without one too.
            let say = |what: &str| {
                let seconds = begun.elapsed().as_secs_f32();
                bar.suspend(|| eprintln!("{seconds:4.1} s  {}: {what}", provider.name));
            };
            trouble::befall(&provider, length, say).await.map_err(|error| format!("{}: {error}", provider.name))
        });
    }

    let mut missed = Vec::new();
    while begun.elapsed() < length || !troubles.is_empty() {
        tokio::time::sleep(Duration::from_millis(50)).await;
        while let Some(ended) = troubles.try_join_next() {
            missed.extend(ended?.err());
        }
        bar.set_position(begun.elapsed().min(length).as_millis() as u64);
        bar.set_message(format!("{} requests", providers.iter().map(|provider| provider.requests()).sum::<u64>()));
    }
    for load in load {
        load.stop().await?;
    }
    for provider in &providers {
        // Waits for a refresh under way: its refresh token may be worth keeping.
        provider.cache.shutdown().await;
    }
    bar.finish_and_clear();

    let figures = providers.each_ref().map(|provider| provider.figures());
    if args.json {
        println!("{}", report::json(&figures));
    } else {
        println!("{}", report::table(&figures));
    }
    let complaints: Vec<_> = missed.into_iter().chain(figures.iter().flat_map(report::Figures::complaints)).collect();
    complaints.iter().for_each(|complaint| eprintln!("{complaint}"));
    Ok(if complaints.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
