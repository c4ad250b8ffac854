//! Secrets that are values, and secrets that a closure returns at each fetch.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use tower::BoxError;

use crate::error::Error;
use crate::secret::Secret;
use crate::source::require_non_empty;

/// A secret: a value, or an async closure that is called at each fetch.
///
/// A closure may read a vault, or a file that is rewritten. Every type that converts into a [`Secret`], such as `&str`
/// and `String`, implements this trait. So do closures that return such a type, with any error that converts into a
/// boxed error. `M` distinguishes the two, and is always inferred.
///
/// ```
/// # fn main() -> Result<(), tower_bearer::Error> {
/// # use http_body_util::Full; use bytes::Bytes;
/// # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// # let http: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
/// use tower_bearer::oauth2::{Issuer, PasswordGrant};
///
/// let issuer = Issuer::discover(http, "https://auth.example.com");
/// PasswordGrant::builder(&issuer, "my-app", "me", "my password").build()?;
/// let asked = async || tokio::fs::read_to_string("/run/secrets/password").await;
/// PasswordGrant::builder(&issuer, "my-app", "me", asked).build()?;
/// # Ok(()) }
/// ```
///
/// If the futures of a closure use something that it owns, write an ordinary closure that clones it for each future:
/// `move || { let vault = vault.clone(); async move { vault.read("password").await } }`.
///
/// A value is checked when the source is built. The secret that a closure returns is checked when it is used. Before
/// that, white space at its end and a byte order mark are removed, because files have them. If the closure fails, the
/// fetch fails, and is retried after a pause. With [`Error::denied`] the closure says that a retry cannot succeed, as a
/// [`TokenSource`](crate::TokenSource) does.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a secret",
    note = "a secret is a `String`, a `&str`, a `Secret`, or an async closure that returns a `Result` of one, such as \
            `async || vault.read().await`"
)]
pub trait SecretSource<M> {
    #[doc(hidden)]
    fn into_provider(self) -> SecretProvider;
}

/// A secret, or a closure that returns it.
#[derive(Clone)]
#[expect(unnameable_types, reason = "the sealed half of a public trait")]
pub struct SecretProvider(Kind);

#[derive(Clone)]
enum Kind {
    Value(Secret),
    Closure(Arc<Closure>),
}

type SecretFuture = Pin<Box<dyn Future<Output = Result<Secret, BoxError>> + Send>>;
/// A closure that takes the time of the fetch.
type Closure = dyn Fn(SystemTime) -> SecretFuture + Send + Sync;

impl<T: Into<Secret>> SecretSource<Secret> for T {
    #[doc(hidden)]
    fn into_provider(self) -> SecretProvider {
        SecretProvider(Kind::Value(self.into()))
    }
}

impl<F, T, S, E> SecretSource<fn() -> T> for F
where
    F: Fn() -> T + Send + Sync + 'static,
    T: Future<Output = Result<S, E>> + Send + 'static,
    S: Into<Secret>,
    E: Into<BoxError>,
{
    #[doc(hidden)]
    fn into_provider(self) -> SecretProvider {
        SecretProvider(Kind::Closure(Arc::new(move |_| {
            let secret = self();
            Box::pin(async move { secret.await.map(Into::into).map_err(Into::into) })
        })))
    }
}

// === impl SecretProvider ===

impl SecretProvider {
    /// A provider that makes a secret for the time of the fetch.
    #[cfg(feature = "jwt")]
    pub(crate) fn made_at(make: impl Fn(SystemTime) -> Result<Secret, Error> + Send + Sync + 'static) -> Self {
        Self(Kind::Closure(Arc::new(move |now| {
            let secret = make(now).map_err(Into::into);
            Box::pin(std::future::ready(secret))
        })))
    }

    /// Checks a value. The secret that a closure returns is checked when it is used.
    pub(crate) fn check(&self, field: &'static str) -> Result<(), Error> {
        self.value().map_or(Ok(()), |secret| require_non_empty(field, secret.expose()))
    }

    /// The secret, if it is a value.
    pub(crate) fn value(&self) -> Option<&Secret> {
        match &self.0 {
            Kind::Value(secret) => Some(secret),
            Kind::Closure(_) => None,
        }
    }

    /// Returns the value, or calls the closure.
    pub(crate) async fn get(&self, field: &'static str, now: SystemTime) -> Result<Secret, Error> {
        match &self.0 {
            Kind::Value(secret) => Ok(secret.clone()),
            Kind::Closure(closure) => {
                let secret = closure(now).await.map_err(|error| Error::secret(field, error))?;
                let text = secret.expose();
                let bare = text.strip_prefix('\u{feff}').unwrap_or(text).trim_end();
                let secret = if bare == text { secret.clone() } else { bare.into() };
                require_non_empty(field, secret.expose()).map_err(|error| Error::secret(field, error))?;
                Ok(secret)
            }
        }
    }
}

impl fmt::Debug for SecretProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::Value(_) => "[redacted]",
            Kind::Closure(_) => "[read at each fetch]",
        })
    }
}
