//! OAuth 2: the grants of RFC 6749, and those that came after it.
//!
//! | type | for | defined in |
//! |---|---|---|
//! | [`ClientCredentialsGrant`] | a service that acts for itself | RFC 6749 section 4.4 |
//! | [`PasswordGrant`] | servers that still ask for user name and password | RFC 6749 section 4.3 |
//! | [`RefreshTokenGrant`] | a session that was saved, or that a login began | RFC 6749 section 6 |
//! | [`TokenExchangeGrant`] | a token for another token | RFC 8693 |
//! | [`JwtBearerGrant`] | a token for an assertion | RFC 7523 section 2.1 |
//! | [`ExtensionGrant`] | a grant type of the server's own, with its parameters | RFC 6749 section 4.5 |
//! | [`DeviceCodeLogin`] | a login on another device: an async function, then a [`RefreshTokenGrant`] | RFC 8628 |
//! | `AuthorizationCodeLogin` | a login in a browser, with PKCE: the same | RFC 6749 section 4.1, RFC 7636 |
//!
//! A *grant* is a source of tokens; a *login* needs a person and brings one token. `AuthorizationCodeLogin` needs the
//! feature `authorization-code`; `Assertion` and `SigningKey`, for what a key signs, need the feature `jwt`.
//!
//! Each is made for an [`Issuer`], which says where the endpoints are: by its metadata, or because they are named. The
//! settings of a builder are checked by its `build`, whose error names the invalid field. [`ClientAuth`] is how the client
//! authenticates, [`Revocation`] how a token is ended. Of an API that names its issuers, [`ProtectedResource`] reads them.

mod answer_settings;
mod assertion;
mod auth;
#[cfg(feature = "authorization-code")]
mod authorization_code;
mod client;
mod client_credentials;
mod device;
mod extension;
mod grant;
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
pub use crate::source::resource::{ProtectedResource, ResourceMetadata};
pub use assertion::{JwtBearerGrant, JwtBearerGrantBuilder, TokenExchangeGrant, TokenExchangeGrantBuilder};
pub use auth::ClientAuth;
#[cfg(feature = "authorization-code")]
pub use authorization_code::{AuthorizationCodeLogin, AuthorizationCodeLoginBuilder, AuthorizationRequest};
pub(crate) use client::Client;
pub use client_credentials::{ClientCredentialsGrant, ClientCredentialsGrantBuilder};
pub use device::{DeviceAuthorization, DeviceCodeLogin, DeviceCodeLoginBuilder};
pub use extension::{ExtensionGrant, ExtensionGrantBuilder};
#[cfg(feature = "jwt")]
pub use jwt::{Algorithm, Assertion, AssertionBuilder, SigningKey};
pub use password::{PasswordGrant, PasswordGrantBuilder};
pub use refresh::{RefreshTokenGrant, RefreshTokenGrantBuilder};
pub use revocation::{Revocation, RevocationBuilder};
