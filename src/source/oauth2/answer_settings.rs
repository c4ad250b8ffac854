//! The settings that say how a token answer is read, written once for all builders that have a client.

/// Adds the settings for the place of the token in an answer, its lifetime, and denials.
macro_rules! answer_settings {
    ($builder:ty, $($client:ident).+) => {
        impl $builder {
            /// Sets where the answer holds the object of RFC 6749 section 5.1.
            ///
            /// It is for servers that wrap the object with `access_token` and its other members in another one. The
            /// pointer is a JSON pointer (RFC 6901), such as `/data` or `/authed_user`. An answer that has no object
            /// there is read without the pointer.
            pub fn answer_at(mut self, pointer: impl Into<String>) -> Self {
                self.$($client).+ = self.$($client).+.with_reader(|reader| reader.answer_at(pointer));
                self
            }

            /// Sets where that object holds the token to send.
            ///
            /// The pointer is a JSON pointer (RFC 6901). Default: `/access_token`.
            pub fn token_at(mut self, pointer: impl Into<String>) -> Self {
                self.$($client).+ = self.$($client).+.with_reader(|reader| reader.token_at(pointer));
                self
            }

            /// Sets where that object holds the lifetime.
            ///
            /// The pointer is a JSON pointer (RFC 6901). Default: `/expires_in`. Without a lifetime,
            /// [other sources for the token's end](crate::guide::sources#when-a-token-ends) count.
            pub fn lifetime_at(mut self, pointer: impl Into<String>) -> Self {
                self.$($client).+ = self.$($client).+.with_reader(|reader| reader.expiry(|expiry| expiry.lifetime_at(pointer)));
                self
            }

            /// Sets the unit of the lifetime, such as a millisecond. Default: 1 s.
            pub fn lifetime_unit(mut self, unit: std::time::Duration) -> Self {
                self.$($client).+ = self.$($client).+.with_reader(|reader| reader.expiry(|expiry| expiry.lifetime_unit(unit)));
                self
            }

            /// Sets where that object holds the time at which the token ends.
            ///
            /// The pointer is a JSON pointer (RFC 6901). The time is a date (RFC 3339), or seconds or milliseconds
            /// since 1970. It takes precedence over the lifetime.
            pub fn expires_at(mut self, pointer: impl Into<String>) -> Self {
                self.$($client).+ = self.$($client).+.with_reader(|reader| reader.expiry(|expiry| expiry.expires_at(pointer)));
                self
            }

            /// Adds a name of this server for the Bearer token type, such as `BearerToken`.
            ///
            /// Call it once for each name. `Bearer`, in any case, and a missing type need no setting.
            pub fn token_type(mut self, name: &str) -> Self {
                self.$($client).+ = self.$($client).+.with_reader(|reader| reader.token_type(name));
                self
            }

            /// Evaluates an answer before its token is read, for errors that no RFC defines.
            ///
            /// If the closure returns `None`, the usual rules apply: an error code of the RFCs denies, and any other is
            /// transient. The body is `Null` if it cannot be read. A 429 never denies.
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
