//! What the grants can say of the answers, written once for all that have a `client`.

/// Where in an answer the token lies, how long it lives, and what denies.
macro_rules! answer_settings {
    ($grant:ty) => {
        impl $grant {
            /// Where in the answer the object lies that holds `access_token` and the other members of RFC 6749 section
            /// 5.1, for servers that wrap it: a JSON pointer (RFC 6901), such as `/data` or `/authed_user`. An answer that
            /// has no object there is read as it is.
            ///
            /// # Errors
            /// Not a JSON pointer.
            pub fn answer_at(mut self, pointer: impl Into<String>) -> Result<Self, $crate::error::Error> {
                self.client = self.client.with_reader(|reader| reader.answer_at(pointer))?;
                Ok(self)
            }

            /// Where in that object the token lies that is sent: a JSON pointer (RFC 6901). Default: `/access_token`.
            ///
            /// # Errors
            /// Not a JSON pointer.
            pub fn token_at(mut self, pointer: impl Into<String>) -> Result<Self, $crate::error::Error> {
                self.client = self.client.with_reader(|reader| reader.token_at(pointer))?;
                Ok(self)
            }

            /// Where in that object the lifetime lies: a JSON pointer (RFC 6901). Default: `/expires_in`. Without a
            /// lifetime, [what else says when the token ends](crate::guide::sources#when-a-token-ends) counts.
            ///
            /// # Errors
            /// Not a JSON pointer.
            pub fn lifetime_at(mut self, pointer: impl Into<String>) -> Result<Self, $crate::error::Error> {
                self.client = self.client.with_reader(|reader| reader.expiry(|expiry| expiry.lifetime_at(pointer)))?;
                Ok(self)
            }

            /// The unit in which the lifetime is counted, such as a millisecond. Default: 1 s.
            ///
            /// # Errors
            /// Zero.
            pub fn lifetime_unit(mut self, unit: std::time::Duration) -> Result<Self, $crate::error::Error> {
                self.client = self.client.with_reader(|reader| reader.expiry(|expiry| expiry.lifetime_unit(unit)))?;
                Ok(self)
            }

            /// Where in that object it says when the token ends, as a date (RFC 3339) or in seconds or milliseconds since
            /// 1970: a JSON pointer (RFC 6901). It goes before the lifetime.
            ///
            /// # Errors
            /// Not a JSON pointer.
            pub fn expires_at(mut self, pointer: impl Into<String>) -> Result<Self, $crate::error::Error> {
                self.client = self.client.with_reader(|reader| reader.expiry(|expiry| expiry.expires_at(pointer)))?;
                Ok(self)
            }

            /// Another name that this server has for the type of a Bearer token, such as `BearerToken`: once for each of
            /// several. `Bearer`, in any case, and no type at all need no setting.
            ///
            /// # Errors
            /// An empty name; `DPoP` and `mac`, which are not sent as Bearer tokens.
            pub fn token_type(mut self, name: &str) -> Result<Self, $crate::error::Error> {
                self.client = self.client.with_reader(|reader| reader.token_type(name))?;
                Ok(self)
            }

            /// How an answer is evaluated before its token is looked at, for errors in words of the server's own. With `None`
            /// the answer is evaluated as ever: a code of the RFCs denies, another passes. The body is `Null` if it cannot be
            /// read; a 429 never denies.
            ///
            /// ```
            /// # fn main() -> Result<(), tower_bearer::Error> {
            /// # let http = tower_bearer::testing::Issuer::new();
            /// use tower_bearer::json::LoginOutcome;
            /// use tower_bearer::oauth2::RefreshToken;
            ///
            /// let session = RefreshToken::new(http, "https://auth.example.com/token", "my-app", "saved")?
            ///     .evaluate(|status, body| match body["code"].as_i64() {
            ///         Some(4011) if status == 403 => Some(LoginOutcome::Denied { code: Some("4011".into()), message: None }),
            ///         _ => None,
            ///     });
            /// # Ok(()) }
            /// ```
            #[must_use]
            pub fn evaluate(
                mut self,
                evaluate: impl Fn(http::StatusCode, &serde_json::Value) -> Option<$crate::source::json::LoginOutcome>
                + Send
                + Sync
                + 'static,
            ) -> Self {
                self.client = self.client.with_judge(evaluate);
                self
            }
        }
    };
}

pub(crate) use answer_settings;
