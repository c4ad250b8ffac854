//! OAuth 2: the grants of RFC 6749, and those that came after it.
//!
//! | type | for | defined in |
//! |---|---|---|
//! | [`ClientCredentials`] | a service that acts for itself | RFC 6749 section 4.4 |
//! | [`Password`] | servers that still ask for user name and password | RFC 6749 section 4.3 |
//! | [`RefreshToken`] | a session that was saved, or that a login began | RFC 6749 section 6 |
//! | [`TokenExchange`] | a token for another token | RFC 8693 |
//! | [`JwtBearer`] | a token for an assertion | RFC 7523 section 2.1 |
//! | [`DeviceCode`] | a login on another device: an async function, then a [`RefreshToken`] | RFC 8628 |
//! | `AuthorizationCode` | a login in a browser, with PKCE: the same | RFC 6749 section 4.1, RFC 7636 |
//!
//! `AuthorizationCode` needs the feature `authorization-code`; `Assertion` and `SigningKey`, for what a key signs, need
//! the feature `jwt`.
//!
//! Each grant is made with [`new`](ClientCredentials::new) from the address of the token endpoint, or with
//! [`at`](ClientCredentials::at) from an [`Issuer`] whose metadata says where that is. [`ClientAuth`] is how the client
//! authenticates, [`Revocation`] how a token is ended.

mod answer_settings;
mod assertion;
mod auth;
#[cfg(feature = "authorization-code")]
mod authorization_code;
mod client;
mod client_credentials;
mod device;
#[cfg(feature = "jwt")]
mod jwt;
mod password;
#[cfg(any(feature = "jwt", feature = "authorization-code"))]
mod random;
mod refresh;
mod response;
mod revocation;
mod settings;

pub use crate::source::issuer::Issuer;
pub use assertion::{JwtBearer, TokenExchange};
pub use auth::ClientAuth;
#[cfg(feature = "authorization-code")]
pub use authorization_code::{AuthorizationCode, AuthorizationRequest};
pub(crate) use client::Client;
pub use client_credentials::ClientCredentials;
pub use device::{DeviceAuthorization, DeviceCode};
#[cfg(feature = "jwt")]
pub use jwt::{Algorithm, Assertion, SigningKey};
pub use password::Password;
pub use refresh::RefreshToken;
pub use revocation::Revocation;
