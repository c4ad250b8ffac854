//! How a client shows the token endpoint who it is.

use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;

use crate::error::Error;
use crate::secret::Secret;
#[cfg(feature = "jwt")]
use crate::source::oauth2::jwt::{Assertion, SigningKey};
use crate::source::secret::{SecretProvider, SecretSource};

/// How a client authenticates at the token endpoint (RFC 6749 section 2.3, RFC 7523 section 2.2). The names are those of
/// OpenID Connect Core section 9.
///
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
    /// Whether the client id goes into the body beside the Basic header.
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

/// What a call carries to show who sends it.
#[derive(Default)]
pub(super) struct ClientProof {
    pub(super) header: Option<HeaderValue>,
    pub(super) form: Vec<(&'static str, Secret)>,
}

const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

// === impl ClientAuth ===

impl ClientAuth {
    /// Not at all: a public client, whose id goes into the body (`none`).
    pub fn none() -> Self {
        Self::by(Method::None)
    }

    /// With a secret in the `Authorization: Basic` header, form-urlencoded first (RFC 6749 section 2.3.1): what every
    /// server must support (`client_secret_basic`). Some do not decode it, and know no client whose id or secret has other
    /// characters than letters, digits and `-._`: for those there is [`post`](ClientAuth::post).
    pub fn basic<M>(secret: impl SecretSource<M>) -> Self {
        Self::by(Method::Basic(secret.into_provider()))
    }

    /// Sends the client id in the body as well, for servers that want it beside the [Basic](ClientAuth::basic) header.
    #[must_use]
    pub fn client_id_in_body(self) -> Self {
        Self { repeats_client_id: true, ..self }
    }

    /// With a secret in the body, for servers that want it there (`client_secret_post`).
    pub fn post<M>(secret: impl SecretSource<M>) -> Self {
        Self::by(Method::Post(secret.into_provider()))
    }

    /// With an assertion made by somebody else (RFC 7521 section 4.2): a Kubernetes service account's token, or one from a
    /// vault. An async closure is called for it at each attempt.
    pub fn assertion<M>(assertion: impl SecretSource<M>) -> Self {
        Self::by(Method::Assertion(assertion.into_provider()))
    }

    /// With an assertion signed by the client secret, HS256 (`client_secret_jwt`, RFC 7523 section 2.2). It is made as
    /// that of [`private_key_jwt`](ClientAuth::private_key_jwt); servers want a secret of 32 bytes or more for it.
    #[cfg(feature = "jwt")]
    pub fn secret_jwt<M>(secret: impl SecretSource<M>) -> Self {
        Self::by(Method::SecretJwt(secret.into_provider()))
    }

    /// With an assertion signed by a private key (`private_key_jwt`, RFC 7523 section 2.2).
    ///
    /// Each attempt gets an assertion of its own, because a server takes each once. Its audience is the issuer's
    /// identifier, or the token endpoint if the endpoints are named. For a server that wants another audience, such
    /// as Microsoft Entra, which wants its token endpoint, sign an [`Assertion`] of your own:
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

    /// What shows at this time that this is the client with this id. Secrets it is made of are put with the others.
    #[cfg_attr(not(feature = "jwt"), expect(unused_variables, reason = "an audience is for assertions"))]
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

/// A client secret for the Basic header.
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

/// RFC 6749 section 2.3.1: both are form-urlencoded before they go into the Basic scheme (RFC 7617).
pub(super) fn basic(client_id: &str, secret: &Secret) -> HeaderValue {
    // A space as `%20`: servers that decode URLs but not forms take no `+` for one, and all take this.
    let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20");
    let pair = STANDARD.encode(format!("{}:{}", encode(client_id), encode(secret.expose())));
    HeaderValue::try_from(format!("Basic {pair}")).expect("base64 is a header value")
}
