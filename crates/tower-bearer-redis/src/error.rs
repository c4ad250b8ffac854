//! Classifies and describes errors of Redis.

use std::error::Error as _;
use std::time::Duration;

use redis::{ConnectionAddr, ErrorKind, RedisError, ServerErrorKind};
use tower_bearer::store::StoreError;

/// Whether the next command needs a new connection after this error.
pub(crate) fn wants_new_connection(error: &RedisError) -> bool {
    match error.kind() {
        // The server has become a replica, and its name may resolve to the new primary now.
        ErrorKind::Server(kind) => matches!(kind, ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown),
        // The crate `redis` has no kind for `NOAUTH`, `OOM` and others.
        ErrorKind::Extension => error.code() == Some("NOAUTH"),
        _ => true,
    }
}

pub(crate) fn timed_out(address: &ConnectionAddr, after: Duration) -> StoreError {
    StoreError::transient(format!("timed out after {after:?}: Redis at {address} does not answer"))
}

/// Describes an error without the server's text.
///
/// The server's text may repeat the command. A server that does not know `HELLO` or `EVAL` shows the password or the
/// record in it. The crate `redis` may repeat an answer that it cannot parse.
pub(crate) fn describe(address: &ConnectionAddr, error: &RedisError) -> StoreError {
    let code = error.code().filter(|code| code.len() <= 32 && code.bytes().all(|byte| byte.is_ascii_uppercase()));
    let (transient, what) = match error.kind() {
        ErrorKind::Io => {
            let cause = error.source().map_or_else(|| "the connection was closed".to_owned(), ToString::to_string);
            return StoreError::transient(format!("failed to reach Redis at {address}: {cause}"));
        }
        ErrorKind::AuthenticationFailed => (false, "denied the user name or the password"),
        ErrorKind::RESP3NotSupported => (false, "is older than version 6 and not supported"),
        ErrorKind::InvalidClientConfig => (false, "cannot be reached as the URL and the features of this crate say"),
        ErrorKind::Parse | ErrorKind::UnexpectedReturnType => (false, "sent an invalid answer"),
        _ => match code {
            Some("WRONGPASS" | "NOAUTH") => (false, "denied the user name or the password"),
            Some("NOPERM") => (false, "denied a command, a key or the channel; see the ACL rule in the README"),
            Some("WRONGTYPE") => (false, "has something else under the key; choose another prefix"),
            Some("OOM") => (true, "is out of memory"),
            Some("READONLY") => (true, "is a read-only replica"),
            Some("MISCONF" | "NOREPLICAS") => (true, "accepts no writes, because it cannot persist or replicate them"),
            Some("LOADING") => (true, "is loading its data"),
            Some("MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "BUSY") => (true, "cannot serve the key now"),
            Some("MOVED" | "ASK" | "CROSSSLOT") => {
                (false, "is a cluster, and another node has the key; see the feature `cluster`")
            }
            _ => (false, "denied the command"),
        },
    };
    let code = code.map(|code| format!(" ({code})")).unwrap_or_default();
    let text = format!("Redis at {address} {what}{code}");
    if transient { StoreError::transient(text) } else { StoreError::permanent(text) }
}
