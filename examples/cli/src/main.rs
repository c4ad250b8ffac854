//! A command line tool that a person logs in to once. Its session is in a file, and any number of copies share it.
//!
//! ```text
//! cargo run -p cli -- serve     in a second terminal: a fake server, which prints the variable for this terminal
//! cargo run -p cli -- login
//! cargo run -p cli -- call
//! cargo run -p cli -- logout
//! ```

#[expect(dead_code, reason = "the tests read and change its state")]
mod fake;

use std::path::PathBuf;
use std::process::ExitCode;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use tower::{BoxError, Layer, ServiceExt};
use tower_bearer::oauth2::{DeviceCodeLogin, Issuer, RefreshTokenGrant, Revocation};
use tower_bearer::store::{FileStore, SharedSession};
use tower_bearer::{BearerLayer, Error, Secret, TokenCache, TokenSource};

/// The client id and the scope of the tool; replace them. Most issuers require `offline_access` for a refresh token.
const CLIENT_ID: &str = "my-cli";
const SCOPE: &str = "offline_access";

struct Tool {
    http: Client<HttpConnector, Full<Bytes>>,
    /// The issuer and the API. In your program they are two constants.
    server: String,
    issuer: Issuer,
}

#[tokio::main]
async fn main() -> ExitCode {
    let run = async || match std::env::args().nth(1).as_deref() {
        Some("login") => Tool::new()?.login().await,
        Some("call") => Tool::new()?.call().await,
        Some("logout") => Tool::new()?.logout().await,
        Some("serve") => fake::serve().await,
        _ => Err("usage: cli login | call | logout | serve".into()),
    };
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            match Error::find(&*error) {
                Some(error) if error.is_signed_out() || error.is_denied() => eprintln!("log in first: cli login"),
                _ => eprintln!("{}", with_causes(&*error)),
            }
            ExitCode::FAILURE
        }
    }
}

// === impl Tool ===

impl Tool {
    fn new() -> Result<Self, BoxError> {
        let http = Client::builder(TokioExecutor::new()).build_http();
        let server = std::env::var("CLI_SERVER").map_err(|_| "set CLI_SERVER to what `cli serve` prints")?;
        // In your program: `Issuer::discover(http, "https://auth.example.com")`, whose metadata names the endpoints.
        let issuer = Issuer::new(http.clone())
            .token_endpoint(&format!("{server}/token"))
            .device_authorization_endpoint(&format!("{server}/device"))
            .revocation_endpoint(&format!("{server}/revoke"));
        Ok(Self { http, server, issuer })
    }

    /// Logs in. It replaces an existing session, for all copies.
    async fn login(&self) -> Result<(), BoxError> {
        let login = DeviceCodeLogin::builder(&self.issuer, CLIENT_ID).scope(SCOPE).build()?;
        let code = login.begin().await?;
        println!("Open {} and enter {}", code.verification_uri(), code.user_code());
        let token = code.finish().await?;
        let cache = self.cache(login.session(token))?;
        // This saves the session to the file.
        cache.get().await?;
        cache.shutdown().await;
        if let Some(unsaved) = cache.status().store.and_then(|store| store.unsaved) {
            return Err(unsaved.into());
        }
        println!("Logged in");
        Ok(())
    }

    /// Calls the API with the session in the file.
    async fn call(&self) -> Result<(), BoxError> {
        let cache = self.cache(self.saved_session()?)?;
        let api = BearerLayer::new(cache.clone(), [&*self.server])?.layer(self.http.clone());
        let response = api.oneshot(Request::get(format!("{}/me", self.server)).body(Full::default())?).await;
        // Waits for a refresh in the background. It has used its refresh token, so the end of the program must not
        // interrupt it.
        cache.shutdown().await;
        let response = response?;
        let status = response.status();
        if let Some(error) = response.extensions().get::<Error>() {
            return Err(error.clone().into());
        }
        println!("{status} {}", String::from_utf8_lossy(&response.into_body().collect().await?.to_bytes()));
        if status == StatusCode::OK { Ok(()) } else { Err("the API did not answer with 200".into()) }
    }

    /// Ends the session of all copies, here and at the issuer.
    async fn logout(&self) -> Result<(), BoxError> {
        let revocation = Revocation::builder(&self.issuer, CLIENT_ID).build()?;
        let cache = self.cache(self.saved_session()?)?;
        cache.sign_out(async |refresh_token| revocation.revoke_refresh_token(&refresh_token).await).await?;
        println!("Logged out");
        Ok(())
    }

    /// The source of a process that did not log in itself. Only the file has the refresh token.
    fn saved_session(&self) -> Result<RefreshTokenGrant, Error> {
        let none = async || Err::<Secret, _>(Error::denied("there is no session"));
        RefreshTokenGrant::builder(&self.issuer, CLIENT_ID, none).scope(SCOPE).build()
    }

    fn cache(&self, source: impl TokenSource) -> Result<TokenCache, Error> {
        // With accounts, the key names the account, too.
        let session = SharedSession::new(FileStore::new(state_directory()), &self.server);
        TokenCache::builder(source).shared_session(session).build()
    }
}

/// The error and its causes, such as the file and the reason.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// The directory of the session, which only this user can read.
fn state_directory() -> PathBuf {
    let home = || std::env::home_dir().unwrap_or_default().join(".local/state");
    std::env::var_os("XDG_STATE_HOME").map_or_else(home, PathBuf::from).join("tower-bearer-cli")
}
