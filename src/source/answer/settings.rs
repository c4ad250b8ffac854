//! The settings of a token's expiry, for all builders that have them.

/// Adds the settings to a builder. `$expiry` is the path to its `Expiry`. `$default` documents the default lifetime.
macro_rules! expiry_settings {
    ($builder:ty, $($expiry:ident).+, $default:literal) => {
        impl $builder {
            /// Where the answer says how long the token lives, as a JSON pointer (RFC 6901).
            ///
            /// Default: `expires_in` in the object that has the token. If there is no lifetime,
            /// [other members](crate::guide::sources#when-a-token-ends) say when the token expires.
            pub fn lifetime_at(mut self, pointer: impl Into<String>) -> Self {
                self.$($expiry).+ = self.$($expiry).+.lifetime_at(pointer);
                self
            }

            /// The unit of the lifetime, such as a millisecond. Default: 1 s.
            pub fn lifetime_unit(mut self, unit: std::time::Duration) -> Self {
                self.$($expiry).+ = self.$($expiry).+.lifetime_unit(unit);
                self
            }

            /// Where the answer says when the token expires, as a JSON pointer (RFC 6901).
            ///
            /// The member is a date (RFC 3339), or a number of seconds or milliseconds since 1970, which may be a text.
            /// It takes precedence over the lifetime.
            pub fn expires_at(mut self, pointer: impl Into<String>) -> Self {
                self.$($expiry).+ = self.$($expiry).+.expires_at(pointer);
                self
            }

            /// The lifetime of a token if nothing says when it expires.
            #[doc = $default]
            pub fn default_lifetime(mut self, lifetime: std::time::Duration) -> Self {
                self.$($expiry).+ = self.$($expiry).+.default_lifetime(lifetime);
                self
            }
        }
    };
}

pub(crate) use expiry_settings;
