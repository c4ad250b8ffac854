//! Records that are encrypted at rest.

use tower_bearer::store::{Lease, Saved, Sealed, TokenStore};
use tower_bearer::testing::{MemoryStore, store_conformance};

use crate::harness::{Issuer, KEY, SECOND, process, text};

const OLD: [u8; 32] = [1; 32];
const NEW: [u8; 32] = [2; 32];

#[tokio::test(start_paused = true)]
async fn it_passes_the_conformance_suite() {
    let store = Sealed::new(MemoryStore::new(), "k1", OLD).unwrap();
    store_conformance(&store, &store.clone(), "key").await;
}

#[tokio::test(start_paused = true)]
async fn a_record_is_unreadable_and_no_two_are_equal() {
    let (issuer, store) = (Issuer::new(), MemoryStore::new());
    let sealed = Sealed::new(store.clone(), "k1", OLD).unwrap();
    let cache = process(issuer.login(), &sealed);
    cache.get().await.unwrap();
    let bytes = store.record(KEY).unwrap();
    // Shorter words may occur by chance.
    for plain in ["access_token", "refresh_token", "serial"] {
        assert!(!bytes.windows(plain.len()).any(|window| window == plain.as_bytes()), "{plain}");
    }
    assert_eq!(text(process(issuer.login(), &sealed).get().await), "t1");
    assert_eq!(issuer.calls(), 1);
    assert!(sealed.acquire("k", "a", SECOND).await.unwrap() == Lease::Held);
    sealed.save("k", "a", None, b"same").await.unwrap();
    let first = store.record("k").unwrap();
    let version = sealed.load("k").await.unwrap().unwrap().version;
    assert!(matches!(sealed.save("k", "a", Some(version), b"same").await.unwrap(), Saved::Saved { .. }));
    assert_ne!(store.record("k").unwrap(), first);
}

#[tokio::test(start_paused = true)]
async fn keys_are_rotated() {
    let (issuer, store) = (Issuer::new(), MemoryStore::new());
    let old = Sealed::new(store.clone(), "old", OLD).unwrap();
    process(issuer.login(), &old).get().await.unwrap();
    let both = Sealed::new(store.clone(), "new", NEW).unwrap().also_open_with("old", OLD).unwrap();
    let cache = process(issuer.login(), &both);
    assert_eq!(text(cache.get().await), "t1");
    cache.refresh().await.unwrap();
    let new = Sealed::new(store.clone(), "new", NEW).unwrap();
    assert_eq!(text(process(issuer.login(), &new).get().await), "t2");
    assert_eq!(issuer.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_record_that_cannot_be_opened_is_set_aside_and_not_used() {
    let (issuer, store) = (Issuer::new(), MemoryStore::new());
    let sealed = Sealed::new(store.clone(), "k1", OLD).unwrap();
    process(issuer.login(), &sealed).get().await.unwrap();
    let good = store.record(KEY).unwrap();
    let mut changed = good.clone();
    *changed.last_mut().unwrap() ^= 1;
    // An unencrypted record is not trusted, either.
    let plain = MemoryStore::new();
    process(Issuer::new().login(), &plain).get().await.unwrap();
    let other_key = Sealed::new(store.clone(), "k2", NEW).unwrap();
    let same_id = Sealed::new(store.clone(), "k1", NEW).unwrap();
    let moved = good.clone();
    for (place, bytes, opener) in [
        (KEY, changed, &sealed),
        (KEY, plain.record(KEY).unwrap(), &sealed),
        (KEY, good[..good.len() / 2].to_vec(), &sealed),
        (KEY, good[..10].to_vec(), &sealed),
        (KEY, good.clone(), &other_key),
        (KEY, good.clone(), &same_id),
        ("elsewhere", moved, &sealed),
    ] {
        store.set_record(place, Some(bytes));
        let opened = opener.load(place).await.unwrap().unwrap().bytes;
        assert_eq!(opened, b"tower-bearer-sealed-");
    }
    store.set_record(KEY, Some(good.clone()));
    let cache = process(issuer.login_with("seed-2"), &other_key);
    assert_eq!(text(cache.get().await), "t2");
    assert_eq!(store.set_aside_records(KEY), [good]);
}

#[test]
fn an_id_is_short_and_visible_and_names_one_key() {
    for id in ["", "a b", "a\n", &"x".repeat(65)] {
        assert!(Sealed::new(MemoryStore::new(), id, OLD).unwrap_err().is_invalid());
    }
    let sealed = Sealed::new(MemoryStore::new(), "k", OLD).unwrap();
    assert!(format!("{sealed:?}").ends_with("keys: [\"k\"] }"));
    assert!(sealed.also_open_with("k", NEW).unwrap_err().is_invalid());
}
