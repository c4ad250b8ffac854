//! The marker of a request that gets no token. It has its own module, because both the layer and the sources use it.

/// A request extension: the layer passes the request through without a token.
///
/// Its 401 goes to the caller. This crate's calls for tokens, metadata and revocation carry it, so that a client that
/// includes the layer may also serve the source.
///
/// ```
/// use tower_bearer::NoToken;
///
/// let request = http::Request::get("https://api.example.com/health").extension(NoToken).body(());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoToken;
