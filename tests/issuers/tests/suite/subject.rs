//! The servers under test: oidc-provider, Authlib, and the fakes of the `testing` feature.

use http::{Request, Uri};
use http_body_util::Full;
use issuers::{Authlib, Got, Http, ODD_PASSWORD, OidcProvider, get, http, post, send};
use tower::{ServiceExt, service_fn};
use tower_bearer::SecretSource;
use tower_bearer::oauth2::{Issuer, PasswordGrant, RefreshTokenGrant, Revocation};
use tower_bearer::testing::{Api, MeshyDbServer, TokenServer};

/// A token endpoint with a user, a public client and an API.
pub(crate) struct Subject {
    pub(crate) http: Http,
    pub(crate) token_url: String,
    pub(crate) revocation_url: String,
    pub(crate) api_url: String,
    pub(crate) client_id: &'static str,
    scope: &'static str,
    pub(crate) provider: Option<OidcProvider>,
    _authlib: Option<Authlib>,
}

const USERNAME: &str = "ann";

impl Subject {
    /// Prints a message and returns `None` if the server is not installed.
    pub(crate) fn oidc_provider() -> Option<Self> {
        let provider = OidcProvider::start()?;
        Some(Self {
            http: http(),
            token_url: provider.url("/token"),
            revocation_url: provider.url("/token/revocation"),
            api_url: provider.url("/test/api"),
            client_id: "public",
            scope: "read offline_access",
            provider: Some(provider),
            _authlib: None,
        })
    }

    /// Prints a message and returns `None` if the server is not installed.
    pub(crate) fn authlib() -> Option<Self> {
        let authlib = Authlib::start()?;
        Some(Self {
            http: http(),
            token_url: authlib.url("/token"),
            revocation_url: authlib.url("/revoke"),
            api_url: authlib.url("/test/api"),
            client_id: "public",
            scope: "read offline_access",
            provider: None,
            _authlib: Some(authlib),
        })
    }

    pub(crate) fn meshydb() -> Option<Self> {
        let server = MeshyDbServer::new("acme", "key").user(USERNAME, ODD_PASSWORD);
        let base = "https://meshydb.example.com/acme";
        Some(Self {
            http: Http::new(server),
            token_url: format!("{base}/connect/token"),
            revocation_url: format!("{base}/connect/revocation"),
            api_url: format!("{base}/meshes"),
            client_id: "key",
            scope: "meshy.api offline_access",
            provider: None,
            _authlib: None,
        })
    }

    /// `TokenServer` has no users, and does not check refresh tokens.
    pub(crate) fn issuer() -> Option<Self> {
        let issuer = TokenServer::new();
        issuer.rotate_refresh_tokens(true);
        let api = Api::new(issuer.ledger());
        let both = service_fn(move |request: Request<Full<_>>| {
            let (issuer, api) = (issuer.clone(), api.clone());
            async move {
                let is_token_call = request.uri().path() == "/token";
                if is_token_call { issuer.oneshot(request).await } else { api.oneshot(request).await }
            }
        });
        Some(Self {
            http: Http::new(both),
            token_url: "https://auth.example.com/token".to_owned(),
            revocation_url: String::new(),
            api_url: "https://auth.example.com/me".to_owned(),
            client_id: "app",
            scope: "read offline_access",
            provider: None,
            _authlib: None,
        })
    }

    /// The form of a login, which tests change.
    pub(crate) fn login_form(&self) -> Vec<(&str, &str)> {
        vec![
            ("client_id", self.client_id),
            ("grant_type", "password"),
            ("username", USERNAME),
            ("password", ODD_PASSWORD),
            ("scope", self.scope),
        ]
    }

    pub(crate) async fn token(&self, form: &[(&str, &str)]) -> Got {
        post(&self.http, &self.token_url, form).await
    }

    /// A login that succeeds.
    pub(crate) async fn login(&self) -> Got {
        let got = self.token(&self.login_form()).await;
        assert_eq!(got.status, 200, "{got:?}");
        got
    }

    pub(crate) async fn refresh(&self, refresh_token: &str) -> Got {
        let form = [("client_id", self.client_id), ("grant_type", "refresh_token"), ("refresh_token", refresh_token)];
        self.token(&form).await
    }

    pub(crate) async fn revoke(&self, form: &[(&str, &str)]) -> Got {
        let form: Vec<_> = [("client_id", self.client_id)].into_iter().chain(form.iter().copied()).collect();
        post(&self.http, &self.revocation_url, &form).await
    }

    /// The API's answer to a request with this token.
    pub(crate) async fn call(&self, access_token: &str) -> Got {
        let request = Request::get(&self.api_url).header("authorization", format!("Bearer {access_token}"));
        send(&self.http, request, "").await
    }

    pub(crate) async fn call_without_token(&self) -> Got {
        get(&self.http, &self.api_url).await
    }

    /// The API's origin.
    pub(crate) fn origin(&self) -> String {
        let url: Uri = self.api_url.parse().expect("a URL");
        format!("{}://{}", url.scheme_str().expect("a scheme"), url.authority().expect("a host"))
    }

    // === sources ===

    pub(crate) fn password(&self, password: &str) -> PasswordGrant {
        PasswordGrant::builder(
            &Issuer::new(self.http.clone()).token_endpoint(&self.token_url),
            self.client_id,
            USERNAME,
            password,
        )
        .scope(self.scope)
        .build()
        .expect("a source")
    }

    pub(crate) fn refresh_token<M>(&self, saved: impl SecretSource<M>) -> RefreshTokenGrant {
        RefreshTokenGrant::builder(
            &Issuer::new(self.http.clone()).token_endpoint(&self.token_url),
            self.client_id,
            saved,
        )
        .build()
        .expect("a source")
    }

    pub(crate) fn revocation(&self) -> Revocation {
        Revocation::builder(&Issuer::new(self.http.clone()).revocation_endpoint(&self.revocation_url), self.client_id)
            .build()
            .expect("a client")
    }
}

/// Makes tests of a module's behaviours, with a module for each server and a test for each behaviour.
macro_rules! held {
    ($room:ident $($server:ident: $($behaviour:ident),+;)+) => {$(
        mod $server {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $behaviour() {
                    if let Some(server) = $crate::subject::Subject::$server() {
                        $crate::$room::$behaviour(&server).await;
                    }
                }
            )+
        }
    )+};
}
pub(crate) use held;
