use std::fs;

use super::*;
use crate::secret::Secret;
use crate::store::FileStore;
use crate::store::record::SavedToken;
use crate::token::Token;

const READS: u32 = 20_000;

/// The processor time of all threads of this process.
fn processor_time() -> Duration {
    let tasks = fs::read_dir("/proc/self/task").expect("Linux").flatten();
    let nanos = tasks.map(|task| {
        let stat = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        stat.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0)
    });
    Duration::from_nanos(nanos.sum())
}

#[tokio::test]
#[ignore = "prints a measurement: cargo test --release --all-features --lib look_at_a_file -- --ignored --nocapture"]
async fn what_a_look_at_a_file_costs() {
    let home = tempfile::tempdir().expect("a directory");
    let session = SharedSession::new(FileStore::new(home.path().join("state")), "ada");
    let shared = Arc::new(StoreAccess::new(session, Clock::System));
    let Ok(LeaseState::Held(lease)) = shared.acquire().await else { panic!("the lease is free") };
    // The token is as long as a typical JWT.
    let token = Token::new("t".repeat(1000)).expect("a token").with_lifetime(Duration::from_secs(3600));
    let saved = SavedToken { token, asked: Clock::System.now() };
    let state =
        State::Active { token: Some(saved), refresh_token: Some(Secret::from("r".repeat(100))), refreshing: None };
    let record = Record {
        identity: Digest::of(["ada"]),
        login: 1,
        session: 1,
        serial: 1,
        initial_refresh_tokens: Vec::new(),
        state,
    };
    assert!(matches!(lease.save(None, &record).await, SaveEnd::Saved(_)));
    lease.release().await;
    let read = async || {
        let found = shared.read().await.expect("the store works");
        assert!(matches!(found.content, Content::Record(found) if found.says_the_same(&record)));
    };
    read().await;
    let (start, before) = (Clock::System.now().mono, processor_time());
    for _ in 0..READS {
        read().await;
    }
    let (took, used) = ((Clock::System.now().mono - start) / READS, (processor_time() - before) / READS);
    println!("one read of a file: {used:.1?} of processor time, {took:.1?} in all");
}
