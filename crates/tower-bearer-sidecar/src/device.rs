//! A person logs in, in a browser on any machine (RFC 8628), before the sidecar serves.

use std::error::Error as StdError;
use std::time::Duration;

use tower_bearer::oauth2::DeviceCodeLogin;
use tower_bearer::{Error, FetchContext, Token, TokenCache, TokenSource};

use crate::Wrong;
use crate::login::Explained;
use crate::problem::chain;

pub(crate) const NAME: &str = "--grant device-code";

/// How long until a store that failed is asked again for a session.
const STORE_PAUSE: Duration = Duration::from_secs(5);

/// A login that has to be made, or a saved session that may go on.
pub(crate) struct DeviceLogin {
    pub(crate) login: DeviceCodeLogin,
    /// Whether the cache has a saved session.
    pub(crate) resumes: bool,
    /// Whether the session will be saved.
    pub(crate) saves: bool,
}

/// The source before the login.
pub(crate) struct NotLoggedIn;

// === impl DeviceLogin ===

impl DeviceLogin {
    /// Shows where to log in, waits for it, and puts the session into the cache.
    pub(crate) async fn log_in(self, cache: &TokenCache) -> Result<(), Wrong> {
        if self.resumes {
            let mut found = cache.get().await;
            while let (Err(_), Some(error)) = (&found, cache.status().store.and_then(|store| store.error)) {
                tracing::warn!(error = chain(&error), "whether there is a session is not known");
                tokio::time::sleep(STORE_PAUSE).await;
                found = cache.refresh().await;
            }
            // Anything but a denial may pass, and then the session goes on.
            if !found.is_err_and(|error| error.is_denied() || error.is_signed_out()) {
                return Ok(());
            }
        }
        let failed = |error: Error| Wrong::new(NAME, chain(&error as &(dyn StdError + 'static)));
        let code = self.login.begin().await.map_err(failed)?;
        eprintln!(
            "Log in within {}: open {} and enter {}",
            spoken(code.expires_in()),
            code.verification_uri(),
            code.user_code()
        );
        if let Some(complete) = code.verification_uri_complete() {
            eprintln!("or open {complete}");
        }
        let token = code.finish().await.map_err(failed)?;
        match (token.refresh_token(), self.saves) {
            (None, _) => eprintln!(
                "Logged in until the token ends, in {}: the issuer gave no refresh token (most want --scope offline_access)",
                spoken(token.lifetime())
            ),
            (_, true) => eprintln!("Logged in."),
            (_, false) => eprintln!("Logged in until the sidecar ends (--refresh-token-file saves the session)."),
        }
        cache.sign_in(Explained(self.login.session(token)));
        Ok(())
    }
}

/// A time as people say it.
fn spoken(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds} seconds"),
        seconds => format!("{} minutes", seconds / 60),
    }
}

impl TokenSource for NotLoggedIn {
    async fn fetch(&self, _: FetchContext) -> Result<Token, Error> {
        Err(not_logged_in())
    }
}

pub(crate) fn not_logged_in() -> Error {
    Error::denied("nobody has logged in yet")
}
