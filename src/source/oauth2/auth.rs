//! How a client authenticates at the token endpoint.

use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;

use crate::error::Error;
use crate::secret::Secret;
#[cfg(feature = "jwt")]
use crate::source::oauth2::jwt::{Assertion, SigningKey};
use crate::source::secret::{SecretProvider, SecretSource};

/// How a client authenticates at the token endpoint.
///
/// The methods are those of RFC 6749 section 2.3 and RFC 7523 section 2.2; OpenID Connect Core section 9 names them.
/// A text is a client secret in the Basic header:
///
/// ```
/// # fn main() -> Result<(), tower_bearer::Error> {
/// # use http_body_util::Full; use bytes::Bytes;
/// # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// # let http: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
/// use tower_bearer::oauth2::{ClientAuth, ClientCredentialsGrant, Issuer};
///
/// let issuer = Issuer::discover(http, "https://auth.example.com");
/// ClientCredentialsGrant::builder(&issuer, "my-app", "its secret").build()?;
/// ClientCredentialsGrant::builder(&issuer, "my-app", ClientAuth::post("its secret")).build()?;
/// let asked = ClientAuth::basic(async || tokio::fs::read_to_string("/run/secrets/client").await);
/// ClientCredentialsGrant::builder(&issuer, "my-app", asked).build()?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct ClientAuth {
    method: Method,
    /// Whether the body repeats the client id of the Basic header.
    repeats_client_id: bool,
}

#[derive(Clone, Debug)]
enum Method {
    None,
    Basic(SecretProvider),
    Post(SecretProvider),
    Assertion(SecretProvider),
    #[cfg(feature = "jwt")]
    SecretJwt(SecretProvider),
    #[cfg(feature = "jwt")]
    PrivateKeyJwt(Box<SigningKey>),
}

/// The header and parameters that authenticate the client in one call.
#[derive(Default)]
pub(super) struct ClientProof {
    pub(super) header: Option<HeaderValue>,
    pub(super) form: Vec<(&'static str, Secret)>,
}

const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

// === impl ClientAuth ===

impl ClientAuth {
    /// Does not authenticate: a public client, whose id goes into the body (`none`).
    pub fn none() -> Self {
        Self::by(Method::None)
    }

    /// Sends a secret in the `Authorization: Basic` header (`client_secret_basic`).
    ///
    /// Every server must support it. Id and secret are form-urlencoded first (RFC 6749 section 2.3.1). Some servers do
    /// not decode them: use [`post`](ClientAuth::post) there if the id or the secret has characters other than letters,
    /// digits and `-._`.
    pub fn basic<M>(secret: impl SecretSource<M>) -> Self {
        Self::by(Method::Basic(secret.into_provider()))
    }

    /// Sends the client id in the body too, in addition to the [Basic](ClientAuth::basic) header.
    ///
    /// Some servers require it.
    #[must_use]
    pub fn client_id_in_body(self) -> Self {
        Self { repeats_client_id: true, ..self }
    }

    /// Sends a secret in the body (`client_secret_post`).
    ///
    /// Some servers require it there.
    pub fn post<M>(secret: impl SecretSource<M>) -> Self {
        Self::by(Method::Post(secret.into_provider()))
    }

    /// Sends an assertion that another party issued (RFC 7521 section 4.2).
    ///
    /// It may be the token of a Kubernetes service account, or come from a vault. An async closure is called at each
    /// attempt.
    pub fn assertion<M>(assertion: impl SecretSource<M>) -> Self {
        Self::by(Method::Assertion(assertion.into_provider()))
    }

    /// Signs an assertion with the client secret and HS256 (`client_secret_jwt`).
    ///
    /// The assertion is made as in [`private_key_jwt`](ClientAuth::private_key_jwt) (RFC 7523 section 2.2). Servers
    /// require a secret of at least 32 bytes for it.
    #[cfg(feature = "jwt")]
    pub fn secret_jwt<M>(secret: impl SecretSource<M>) -> Self {
        Self::by(Method::SecretJwt(secret.into_provider()))
    }

    /// Signs an assertion with a private key (`private_key_jwt`, RFC 7523 section 2.2).
    ///
    /// Each attempt gets a new assertion, because a server accepts each only once. Its audience is the issuer's
    /// identifier, or the token endpoint if the endpoints are named. Some servers require another audience: Microsoft
    /// Entra requires its token endpoint. For them, sign an [`Assertion`] of your own:
    ///
    /// ```
    /// # fn f(key: tower_bearer::oauth2::SigningKey) -> Result<(), tower_bearer::Error> {
    /// use tower_bearer::oauth2::{Assertion, ClientAuth};
    ///
    /// let auth = ClientAuth::private_key_jwt(key.clone());
    /// let own = Assertion::builder(key, "my-app").audience("https://auth.example.com/token").subject("my-app").build()?;
    /// let auth = ClientAuth::assertion(own);
    /// # Ok(()) }
    /// ```
    #[cfg(feature = "jwt")]
    pub fn private_key_jwt(key: SigningKey) -> Self {
        Self::by(Method::PrivateKeyJwt(Box::new(key)))
    }

    fn by(method: Method) -> Self {
        Self { method, repeats_client_id: false }
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        match &self.method {
            Method::None => Ok(()),
            Method::Basic(secret) | Method::Post(secret) => secret.check("client_secret"),
            Method::Assertion(assertion) => assertion.check("assertion"),
            #[cfg(feature = "jwt")]
            Method::SecretJwt(secret) => secret.check("client_secret"),
            #[cfg(feature = "jwt")]
            Method::PrivateKeyJwt(_) => Ok(()),
        }
    }

    /// Whether the client cannot authenticate without an id.
    pub(super) fn needs_client_id(&self) -> bool {
        !matches!(self.method, Method::None | Method::Assertion(_))
    }

    /// Authenticates the client with this id at this time. Adds the secrets that it uses to `secrets`.
    #[cfg_attr(not(feature = "jwt"), expect(unused_variables, reason = "only assertions have an audience"))]
    pub(super) async fn authenticate(
        &self,
        client_id: Option<&str>,
        audience: &str,
        now: SystemTime,
        secrets: &mut Vec<Secret>,
    ) -> Result<ClientProof, Error> {
        let mut proof = ClientProof::default();
        proof.form.extend(client_id.map(|id| ("client_id", Secret::from(id))));
        let assertion = match &self.method {
            Method::None => return Ok(proof),
            Method::Basic(secret) => {
                let secret = secret.get("client_secret", now).await?;
                let header = basic(client_id.unwrap_or_default(), &secret);
                secrets.push(secret);
                if !self.repeats_client_id {
                    proof.form.clear();
                }
                return Ok(ClientProof { header: Some(header), ..proof });
            }
            Method::Post(secret) => {
                let secret = secret.get("client_secret", now).await?;
                secrets.push(secret.clone());
                proof.form.push(("client_secret", secret));
                return Ok(proof);
            }
            Method::Assertion(assertion) => assertion.get("assertion", now).await?,
            #[cfg(feature = "jwt")]
            Method::SecretJwt(secret) => {
                let secret = secret.get("client_secret", now).await?;
                let key = SigningKey::of_secret(&secret);
                secrets.push(secret);
                Assertion::of_client(key, client_id.unwrap_or_default(), audience).sign(now)?
            }
            #[cfg(feature = "jwt")]
            Method::PrivateKeyJwt(key) => {
                Assertion::of_client((**key).clone(), client_id.unwrap_or_default(), audience).sign(now)?
            }
        };
        secrets.push(assertion.clone());
        proof.form.extend([("client_assertion_type", ASSERTION_TYPE.into()), ("client_assertion", assertion)]);
        Ok(proof)
    }
}

/// Converts a text to a client secret for the Basic header.
macro_rules! basic_by_default {
    ($($text:ty),*) => {$(
        impl From<$text> for ClientAuth {
            fn from(secret: $text) -> Self {
                Self::basic(secret)
            }
        }
    )*};
}

basic_by_default!(&str, String, Secret);

/// Form-urlencodes id and secret (RFC 6749 section 2.3.1), then writes them in the Basic scheme (RFC 7617).
pub(super) fn basic(client_id: &str, secret: &Secret) -> HeaderValue {
    // A space becomes `%20`, which all servers decode. Those that decode URLs but not forms would keep a `+`.
    let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20");
    let pair = STANDARD.encode(format!("{}:{}", encode(client_id), encode(secret.expose())));
    HeaderValue::try_from(format!("Basic {pair}")).expect("base64 is a header value")
}
