//! What sources can say of when a token ends, written once for those that have an `expiry`.

/// Place and unit; `$default` is the documentation of the lifetime without any.
macro_rules! expiry_settings {
    ($source:ty, $default:literal) => {
        impl $source {
            /// Where it says how long the token lives: a JSON pointer (RFC 6901). Default: `/expires_in`, beside the token.
            /// Without a lifetime, [what else says when the token ends](crate::guide::sources#when-a-token-ends) counts.
            ///
            /// # Errors
            /// Not a JSON pointer.
            pub fn lifetime_at(self, pointer: impl Into<String>) -> Result<Self, $crate::error::Error> {
                Ok(Self { expiry: self.expiry.lifetime_at(pointer)?, ..self })
            }

            /// The unit in which the lifetime is counted, such as a millisecond. Default: 1 s.
            ///
            /// # Errors
            /// Zero.
            pub fn lifetime_unit(self, unit: std::time::Duration) -> Result<Self, $crate::error::Error> {
                Ok(Self { expiry: self.expiry.lifetime_unit(unit)?, ..self })
            }

            /// Where it says when the token ends, as a date (RFC 3339) or in seconds or milliseconds since 1970, a number or
            /// a text: a JSON pointer (RFC 6901). It goes before the lifetime.
            ///
            /// # Errors
            /// Not a JSON pointer.
            pub fn expires_at(self, pointer: impl Into<String>) -> Result<Self, $crate::error::Error> {
                Ok(Self { expiry: self.expiry.expires_at(pointer)?, ..self })
            }

            /// The lifetime of a token of which nothing says when it ends.
            #[doc = $default]
            ///
            /// # Errors
            /// Zero.
            pub fn default_lifetime(self, lifetime: std::time::Duration) -> Result<Self, $crate::error::Error> {
                Ok(Self { expiry: self.expiry.default_lifetime(lifetime)?, ..self })
            }
        }
    };
}

pub(crate) use expiry_settings;
