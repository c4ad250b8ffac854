//! What sources can say of when a token ends, written once for those that have an `expiry`.

/// Place and unit. `$expiry` is the path to it in the builder, `$default` the documentation of the lifetime without any.
macro_rules! expiry_settings {
    ($builder:ty, $($expiry:ident).+, $default:literal) => {
        impl $builder {
            /// Where it says how long the token lives: a JSON pointer (RFC 6901). Default: `/expires_in`, beside the token.
            /// Without a lifetime, [what else says when the token ends](crate::guide::sources#when-a-token-ends) counts.
            pub fn lifetime_at(mut self, pointer: impl Into<String>) -> Self {
                self.$($expiry).+ = self.$($expiry).+.lifetime_at(pointer);
                self
            }

            /// The unit in which the lifetime is counted, such as a millisecond. Default: 1 s.
            pub fn lifetime_unit(mut self, unit: std::time::Duration) -> Self {
                self.$($expiry).+ = self.$($expiry).+.lifetime_unit(unit);
                self
            }

            /// Where it says when the token ends, as a date (RFC 3339) or in seconds or milliseconds since 1970, a number or
            /// a text: a JSON pointer (RFC 6901). It goes before the lifetime.
            pub fn expires_at(mut self, pointer: impl Into<String>) -> Self {
                self.$($expiry).+ = self.$($expiry).+.expires_at(pointer);
                self
            }

            /// The lifetime of a token of which nothing says when it ends.
            #[doc = $default]
            pub fn default_lifetime(mut self, lifetime: std::time::Duration) -> Self {
                self.$($expiry).+ = self.$($expiry).+.default_lifetime(lifetime);
                self
            }
        }
    };
}

pub(crate) use expiry_settings;
