//! The gRPC status of a call that got no token.

use tonic::Status;
use tower::BoxError;
use tower_bearer::Error;

/// Returns the status for an error of the layer. Without it, a call without a token ends with `UNKNOWN`.
pub(crate) fn of(error: BoxError) -> Status {
    match Error::find(&*error) {
        Some(no_token) if no_token.is_denied() => Status::unauthenticated(no_token.to_string()),
        Some(no_token) if no_token.is_transient() => Status::unavailable(no_token.to_string()),
        _ => Status::from_error(error),
    }
}
