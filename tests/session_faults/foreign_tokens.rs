//! Reporting a token that this cache did not publish changes nothing. The call returns the current token, or an error
//! if there is none.

use tower_bearer::{Token, TokenCache};

use crate::common::{Script, settle, text};

/// The newest token of another cache that has published this many tokens.
async fn of_another_cache(generation: u64) -> Token {
    let other = TokenCache::new(Script::new());
    for _ in 1..generation {
        other.refresh().await.expect("a token");
    }
    let token = other.refresh().await.expect("a token");
    assert_eq!(token.generation(), generation);
    token
}

/// Reports the token several times, and checks that nothing changes.
async fn does_nothing(cache: &TokenCache, script: &Script, token: &Token) {
    let (calls, generation) = (script.calls(), cache.status().generation);
    for _ in 0..10 {
        let outcome = cache.report_rejected(token).await;
        match cache.peek() {
            Some(current) => assert_eq!(text(outcome), current.access_token()),
            None => assert!(outcome.as_ref().is_err_and(|error| error.is_invalid()), "{outcome:?}"),
        }
        settle().await;
    }
    let status = cache.status();
    assert_eq!((script.calls(), status.generation, status.suspect), (calls, generation, false));
    assert!(status.last_failure.is_none() && !status.fetching);
}

#[tokio::test(start_paused = true)]
async fn a_token_of_another_cache_does_nothing_to_an_empty_one() {
    let script = Script::new();
    let cache = TokenCache::new(script.clone());
    does_nothing(&cache, &script, &of_another_cache(5).await).await;
    for generation in 1..=8 {
        let token = cache.refresh().await.expect("a token");
        assert_eq!(token.generation(), generation);
        assert!(!cache.status().suspect, "generation {generation}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_newer_token_of_another_cache_does_nothing() {
    let script = Script::new();
    let cache = TokenCache::new(script.clone());
    cache.get().await.expect("a token");
    does_nothing(&cache, &script, &of_another_cache(5).await).await;
    assert_eq!(text(cache.get().await), "t1");
}

#[tokio::test(start_paused = true)]
async fn a_token_of_another_cache_with_the_same_generation_does_nothing() {
    let script = Script::new();
    let cache = TokenCache::new(script.clone());
    cache.get().await.expect("a token");
    does_nothing(&cache, &script, &of_another_cache(1).await).await;
}

#[tokio::test(start_paused = true)]
async fn an_older_token_of_another_cache_does_nothing() {
    let script = Script::new();
    let cache = TokenCache::new(script.clone());
    for _ in 0..3 {
        cache.refresh().await.expect("a token");
    }
    does_nothing(&cache, &script, &of_another_cache(2).await).await;
}

#[tokio::test(start_paused = true)]
async fn a_token_made_by_hand_does_nothing() {
    let script = Script::new();
    let cache = TokenCache::new(script.clone());
    let handmade = Token::new("handmade").expect("a token");
    does_nothing(&cache, &script, &handmade).await;
    let published = cache.get().await.expect("a token");
    assert_eq!(published.generation(), 1);
    does_nothing(&cache, &script, &handmade).await;
    // The text is that of the current token, but the cache did not publish this one.
    does_nothing(&cache, &script, &Token::new("t1").expect("a token")).await;
    assert_eq!(text(cache.report_rejected(&published).await), "t2", "its own token is replaced");
}
