//! What the grants can say of the answers, written once for all builders that have a client.

/// Where in an answer the token lies, how long it lives, and what denies.
macro_rules! answer_settings {
    ($builder:ty, $($client:ident).+) => {
        impl $builder {
            /// Where in the answer the object lies that holds `access_token` and the other members of RFC 6749 section
            /// 5.1, for servers that wrap it: a JSON pointer (RFC 6901), such as `/data` or `/authed_user`. An answer that
            /// has no object there is read as it is.
            pub fn answer_at(mut self, pointer: impl Into<String>) -> Self {
                self.$($client).+ = self.$($client).+.with_reader(|reader| reader.answer_at(pointer));
                self
            }

            /// Where in that object the token lies that is sent: a JSON pointer (RFC 6901). Default: `/access_token`.
            pub fn token_at(mut self, pointer: impl Into<String>) -> Self {
                self.$($client).+ = self.$($client).+.with_reader(|reader| reader.token_at(pointer));
                self
            }

            /// Where in that object the lifetime lies: a JSON pointer (RFC 6901). Default: `/expires_in`. Without a
            /// lifetime, [what else says when the token ends](crate::guide::sources#when-a-token-ends) counts.
            pub fn lifetime_at(mut self, pointer: impl Into<String>) -> Self {
                self.$($client).+ = self.$($client).+.with_reader(|reader| reader.expiry(|expiry| expiry.lifetime_at(pointer)));
                self
            }

            /// The unit in which the lifetime is counted, such as a millisecond. Default: 1 s.
            pub fn lifetime_unit(mut self, unit: std::time::Duration) -> Self {
                self.$($client).+ = self.$($client).+.with_reader(|reader| reader.expiry(|expiry| expiry.lifetime_unit(unit)));
                self
            }

            /// Where in that object it says when the token ends, as a date (RFC 3339) or in seconds or milliseconds since
            /// 1970: a JSON pointer (RFC 6901). It goes before the lifetime.
            pub fn expires_at(mut self, pointer: impl Into<String>) -> Self {
                self.$($client).+ = self.$($client).+.with_reader(|reader| reader.expiry(|expiry| expiry.expires_at(pointer)));
                self
            }

            /// Another name that this server has for the type of a Bearer token, such as `BearerToken`: once for each of
            /// several. `Bearer`, in any case, and no type at all need no setting.
            pub fn token_type(mut self, name: &str) -> Self {
                self.$($client).+ = self.$($client).+.with_reader(|reader| reader.token_type(name));
                self
            }

            /// How an answer is evaluated before its token is looked at, for errors in words of the server's own. With `None`
            /// the answer is evaluated as ever: a code of the RFCs denies, another passes. The body is `Null` if it cannot be
            /// read; a 429 never denies.
            ///
            /// ```
            /// # fn main() -> Result<(), tower_bearer::Error> {
            /// # let http = tower_bearer::testing::TokenServer::new();
            /// use tower_bearer::json::LoginOutcome;
            /// use tower_bearer::oauth2::{Issuer, RefreshTokenGrant};
            ///
            /// let issuer = Issuer::new(http).token_endpoint("https://auth.example.com/token");
            /// let session = RefreshTokenGrant::builder(&issuer, "my-app", "saved")
            ///     .evaluate(|status, body| match body["code"].as_i64() {
            ///         Some(4011) if status == 403 => Some(LoginOutcome::Denied { code: Some("4011".into()), message: None }),
            ///         _ => None,
            ///     })
            ///     .build()?;
            /// # Ok(()) }
            /// ```
            pub fn evaluate(
                mut self,
                evaluate: impl Fn(http::StatusCode, &serde_json::Value) -> Option<$crate::source::json::LoginOutcome>
                + Send
                + Sync
                + 'static,
            ) -> Self {
                self.$($client).+ = self.$($client).+.with_evaluation(evaluate);
                self
            }
        }
    };
}

pub(crate) use answer_settings;
