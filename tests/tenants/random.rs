//! Random walks of many tenants. None gets another's token, and no refresh token is used twice.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use tokio::task::JoinHandle;
use tower::{BoxError, Service, ServiceExt};
use tower_bearer::{Error, KeyedTokenCache};

use crate::common::{paused_runtime, settle};
use crate::harness::{Api, Client, Issuer, Key, request};

#[derive(Clone, Debug)]
enum Step {
    /// Starts a request, concurrently with the others.
    Ask(Key),
    /// Drops the oldest request in flight.
    GiveUp,
    /// Makes the API reject the tenant's last token.
    Reject(Key),
    SignOut(Key),
    Refresh(Key),
    /// Lets the issuer answer this many calls.
    Answer(usize),
    /// Sends a request of each of this many other tenants, which evict others.
    Crowd(Key),
    Wait(Duration),
}

/// The configuration of the tenants' caches.
#[derive(Clone, Copy, Debug)]
struct Setting {
    /// Whether there are refresh tokens. `saves` says whether the application saves them.
    session: bool,
    saves: bool,
    max_keys: usize,
    max_token_calls: usize,
}

struct Walk {
    issuer: Issuer,
    api: Api,
    tenants: KeyedTokenCache<Key>,
    client: Client,
    running: Vec<(Key, JoinHandle<Result<String, BoxError>>)>,
    signing_out: Vec<JoinHandle<Result<(), Error>>>,
    crowd: Key,
}

fn settings() -> impl Strategy<Value = Setting> {
    (any::<bool>(), any::<bool>(), 1_usize..8, 1_usize..4)
        .prop_map(|(session, saves, max_keys, max_token_calls)| Setting { session, saves, max_keys, max_token_calls })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = || 0..6_u32;
    let step = prop_oneof![
        8 => key().prop_map(Step::Ask),
        1 => Just(Step::GiveUp),
        2 => key().prop_map(Step::Reject),
        2 => key().prop_map(Step::SignOut),
        1 => key().prop_map(Step::Refresh),
        5 => (0_usize..4).prop_map(Step::Answer),
        2 => (1..12_u32).prop_map(Step::Crowd),
        3 => prop_oneof![Just(3_u64), Just(60), Just(700), Just(4000)].prop_map(|s| Step::Wait(Duration::from_secs(s))),
    ];
    vec(step, 1..60)
}

impl Walk {
    fn new(setting: Setting) -> Self {
        let (issuer, api) = (Issuer::new(), Api::new());
        let logins = issuer.clone();
        let tenants = KeyedTokenCache::new(move |key: &Key| {
            Ok::<_, Error>(match setting.session && setting.saves {
                true => logins.saved_session(*key),
                false => logins.cache(*key, setting.session),
            })
        });
        let tenants = tenants
            .max_keys(setting.max_keys)
            .max_idle(Duration::from_secs(600))
            .max_token_calls(setting.max_token_calls);
        let client = api.client(&tenants);
        Self { issuer, api, tenants, client, running: Vec::new(), signing_out: Vec::new(), crowd: 1000 }
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Ask(key) => self.ask(key).await,
            Step::GiveUp if !self.running.is_empty() => self.running.remove(0).1.abort(),
            Step::GiveUp => {}
            Step::Reject(key) => {
                let sent = self.api.requests().into_iter().rev().find(|(tenant, _)| *tenant == key);
                sent.iter().for_each(|(_, token)| self.api.reject(token));
            }
            Step::SignOut(key) => {
                let (tenants, issuer) = (self.tenants.clone(), self.issuer.clone());
                self.signing_out.push(tokio::spawn(async move {
                    tenants.remove(&key, async |secret| issuer.revoke(secret.expose())).await
                }));
            }
            Step::Refresh(key) => {
                let cache = self.tenants.cache(&key).unwrap();
                tokio::spawn(async move { drop(cache.refresh().await) });
            }
            Step::Answer(0) => self.issuer.hold_no_more(),
            Step::Answer(calls) => self.issuer.hold().add_permits(calls),
            Step::Crowd(keys) => {
                for _ in 0..keys {
                    self.crowd += 1;
                    self.ask(self.crowd).await;
                }
            }
            Step::Wait(time) => tokio::time::sleep(time).await,
        }
        settle().await;
    }

    /// Sends all requests through one service, which must not keep the cache of an earlier request.
    async fn ask(&mut self, key: Key) {
        let response = self.client.ready().await.unwrap().call(request(key));
        self.running.push((key, tokio::spawn(async move { Ok(response.await?.into_body()) })));
    }

    /// Waits for all requests, and checks the tenants' tokens.
    async fn end(self, setting: Setting) -> Result<(), TestCaseError> {
        self.issuer.hold_no_more();
        for signing_out in self.signing_out {
            signing_out.await.unwrap().unwrap();
        }
        for (key, running) in self.running {
            let Ok(result) = running.await else { continue };
            match result {
                // The caller gets a second rejection, whose body is empty.
                Ok(token) => prop_assert!(token.is_empty() || token.split('.').next() == Some(&*key.to_string())),
                Err(error) => {
                    let error = Error::find(&*error).expect("an error of this crate");
                    prop_assert!(error.is_signed_out() || error.is_timeout(), "{}", error);
                }
            }
        }
        prop_assert_eq!(self.api.wrong_token(), 0);
        prop_assert_eq!(self.api.without_token(), 0);
        prop_assert!(self.issuer.most_in_progress() <= setting.max_token_calls);
        prop_assert_eq!(self.issuer.reused(), 0);
        let revoked = self.issuer.revoked();
        let once: BTreeSet<_> = revoked.iter().collect();
        prop_assert!(once.len() == revoked.len(), "each session was revoked once: {:?}", revoked);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn no_tenant_gets_the_token_of_another_and_no_session_is_lost(setting in settings(), steps in steps()) {
        paused_runtime().block_on(async {
            let mut walk = Walk::new(setting);
            for step in steps {
                walk.step(step).await;
            }
            walk.end(setting).await
        })?;
    }
}
