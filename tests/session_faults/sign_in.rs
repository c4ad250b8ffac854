//! `sign_in` starts the session of another person. `set_source` continues the same session.

use tokio_test::{assert_pending, task};
use tower_bearer::TokenCache;

use crate::common::{Script, settle, text};
use crate::crossed_sessions::{Waits, person, sign_out};

#[tokio::test(start_paused = true)]
async fn no_waiting_request_is_sent_as_the_person_who_signs_in() {
    for waits in Waits::ALL {
        let sign_in = async |cache: &TokenCache| {
            cache.sign_in(person("bob"));
            cache.get().await.expect("a token of Bob's");
        };
        waits.during(sign_in).await.assert_signed_out(waits);
    }
}

#[tokio::test(start_paused = true)]
async fn no_waiting_request_is_sent_as_the_person_who_signs_in_before_the_first_token() {
    for waits in Waits::ALL {
        let sign_in = async |cache: &TokenCache| cache.sign_in(person("bob"));
        waits.during(sign_in).await.assert_signed_out(waits);
    }
}

#[tokio::test(start_paused = true)]
async fn no_waiting_request_is_sent_as_the_person_who_signs_in_after_a_sign_out() {
    for waits in Waits::ALL {
        let sign_in = async |cache: &TokenCache| {
            sign_out(cache).await;
            cache.sign_in(person("bob"));
            cache.get().await.expect("a token of Bob's");
        };
        waits.during(sign_in).await.assert_signed_out(waits);
    }
}

#[tokio::test(start_paused = true)]
async fn no_waiting_request_is_sent_if_the_same_person_signs_in_again() {
    // The cache cannot know which person signs in.
    for waits in Waits::ALL {
        let again = async |cache: &TokenCache| {
            sign_out(cache).await;
            cache.sign_in(person("ann-again"));
        };
        waits.during(again).await.assert_signed_out(waits);
    }
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_is_rotated_after_a_sign_in_does_not_revive_the_former_session() {
    for waits in Waits::ALL {
        let sign_in = async |cache: &TokenCache| {
            cache.sign_in(person("bob"));
            cache.set_source(person("bob"));
            cache.get().await.expect("a token of Bob's");
        };
        waits.during(sign_in).await.assert_signed_out(waits);
    }
}

#[tokio::test(start_paused = true)]
async fn callers_of_the_former_session_get_an_error_that_it_ended() {
    let ann = person("ann");
    let cache = TokenCache::new(ann.clone());
    let _gate = ann.hold();
    let (mut get, mut refresh) = (task::spawn(cache.get()), task::spawn(cache.refresh()));
    assert_pending!(get.poll());
    assert_pending!(refresh.poll());
    ann.called(1).await;
    cache.sign_in(person("bob"));
    cache.get().await.expect("a token of Bob's");
    for result in [get.await, refresh.await] {
        assert!(result.as_ref().is_err_and(|error| error.is_signed_out()), "{result:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_session_uses_nothing_of_the_former_one() {
    let ann = Script::new().rotating();
    let cache = TokenCache::new(ann.clone());
    let old = cache.get().await.expect("a token");
    let gate = ann.hold();
    let mut late = task::spawn(cache.refresh());
    assert_pending!(late.poll());
    ann.called(2).await;
    let bob = person("bob");
    cache.sign_in(bob.clone());
    assert!(cache.peek().is_none() && !cache.status().signed_out && !cache.status().fetching);
    let new = cache.get().await.expect("a token of Bob's");
    assert_eq!((new.access_token(), new.generation()), ("bob-1", old.generation() + 1));
    assert!(bob.last_context().replaced().is_none() && bob.last_context().refresh_token().is_none());
    gate.open();
    settle().await;
    assert_eq!(text(cache.get().await), "bob-1", "the late fetch of the former session changes nothing");
    assert!(cache.report_rejected(&old).await.expect_err("a token of the former session").is_signed_out());
    assert!(!cache.status().suspect && bob.calls() == 1);
}

#[tokio::test(start_paused = true)]
async fn set_source_starts_a_new_session_only_after_a_sign_out() {
    let cache = TokenCache::new(person("ann"));
    let old = cache.get().await.expect("a token");
    cache.set_source(person("ann-rotated"));
    cache.get().await.expect("a token");
    assert_eq!(text(cache.report_rejected(&old).await), "ann-rotated-1", "the same session");
    sign_out(&cache).await;
    cache.set_source(person("bob"));
    cache.get().await.expect("a token of Bob's");
    assert!(cache.report_rejected(&old).await.expect_err("another session").is_signed_out());
}
