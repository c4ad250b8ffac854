//! The OAuth 2 grants of RFC 6749 and of later RFCs.
//!
//! | type | for | defined in |
//! |---|---|---|
//! | [`ClientCredentialsGrant`] | a service that acts for itself | RFC 6749 section 4.4 |
//! | [`PasswordGrant`] | servers that still ask for user name and password | RFC 6749 section 4.3 |
//! | [`RefreshTokenGrant`] | a session that was saved, or that a login started | RFC 6749 section 6 |
//! | [`TokenExchangeGrant`] | a token in exchange for another token | RFC 8693 |
//! | [`JwtBearerGrant`] | a token in exchange for an assertion | RFC 7523 section 2.1 |
//! | [`ExtensionGrant`] | a grant type that the server defines, with its parameters | RFC 6749 section 4.5 |
//! | [`DeviceCodeLogin`] | a login on another device: an async function, then a [`RefreshTokenGrant`] | RFC 8628 |
//! | `AuthorizationCodeLogin` | a login in a browser, with PKCE: the same | RFC 6749 section 4.1, RFC 7636 |
//!
//! A *grant* is a source of tokens. A *login* needs a person and returns one token. `AuthorizationCodeLogin` needs the
//! feature `authorization-code`. `Assertion` and `SigningKey`, which sign assertions, need the feature `jwt`.
//!
//! Each takes an [`Issuer`], which knows the endpoints from its metadata or because they are named. A builder's `build`
//! checks its settings; the error names the invalid field. [`ClientAuth`] says how the client authenticates, and
//! [`Revocation`] revokes tokens. [`ProtectedResource`] reads which issuers an API names.

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
