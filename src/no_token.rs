//! The mark of a request that gets no token. A file of its own, because both the layer and the sources know it.

/// A request extension: this request passes without a token, and its 401 is its own.
///
/// The token, metadata and revocation calls of this crate carry it, so a client that holds the layer may also serve the
/// source.
///
/// ```
/// use tower_bearer::NoToken;
///
/// let request = http::Request::get("https://api.example.com/health").extension(NoToken).body(());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoToken;
