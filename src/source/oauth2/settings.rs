//! The settings that the grants share, written once for all that have a `client`.

/// What every grant can say.
macro_rules! client_settings {
    ($grant:ty) => {
        $crate::source::oauth2::answer_settings::answer_settings!($grant);

        impl $grant {
            /// The scope to ask for: words separated by spaces (RFC 6749 section 3.3). Not sent with a refresh token,
            /// which keeps the scope it was given.
            #[must_use]
            pub fn scope(mut self, scope: impl Into<String>) -> Self {
                self.client = self.client.with_scope(scope);
                self
            }

            /// A service the token is for, by its URI (RFC 8707): sent with every call; once for each of several.
            ///
            /// # Errors
            /// Not an absolute URI without a fragment.
            pub fn resource(mut self, resource: &str) -> Result<Self, $crate::error::Error> {
                self.client = self.client.with_resource(resource)?;
                Ok(self)
            }

            /// A service the token is for, by the name it has at this server (RFC 8693 section 2.1, and servers that
            /// take it with every grant): once for each of several.
            #[must_use]
            pub fn audience(mut self, audience: impl Into<String>) -> Self {
                self.client = self.client.with_audience(audience);
                self
            }

            /// Another parameter that this server wants, sent with every call; an `AuthorizationCode` puts it into the
            /// address for the browser as well. It may be a key: `Debug` does not show it, and from 8 characters on no
            /// error repeats it.
            ///
            /// # Errors
            /// One that the grant or a setting of its own sends; an empty name.
            pub fn parameter(mut self, name: &str, value: impl Into<String>) -> Result<Self, $crate::error::Error> {
                self.client = self.client.with_parameter(name, value)?;
                Ok(self)
            }

            /// Adds a header to every token call.
            ///
            /// # Errors
            /// A name or value that no header may carry.
            pub fn header(mut self, name: &str, value: &str) -> Result<Self, $crate::error::Error> {
                self.client = self.client.with_header(name, value)?;
                Ok(self)
            }

            /// The lifetime of a token of which nothing says when it ends. Default:
            /// [`DEFAULT_LIFETIME`](crate::DEFAULT_LIFETIME); for the token of a person's login that brings no refresh
            /// token [`MAX_LIFETIME`](crate::MAX_LIFETIME), which is until an API rejects it.
            ///
            /// # Errors
            /// Zero.
            pub fn default_lifetime(mut self, lifetime: std::time::Duration) -> Result<Self, $crate::error::Error> {
                self.client =
                    self.client.with_reader(|reader| reader.expiry(|expiry| expiry.default_lifetime(lifetime)))?;
                Ok(self)
            }
        }
    };
}

/// What the grants of public clients can say, which confidential ones use too.
macro_rules! client_auth {
    ($grant:ty) => {
        impl $grant {
            /// How a confidential client authenticates; a text is its secret, for the Basic header. Without it the
            /// client is a public one, and its id goes into the body.
            ///
            /// # Errors
            /// An empty secret.
            pub fn client_auth(
                mut self,
                auth: impl Into<$crate::source::oauth2::auth::ClientAuth>,
            ) -> Result<Self, $crate::error::Error> {
                self.client = self.client.with_auth(auth)?;
                Ok(self)
            }
        }
    };
}

/// What the grants can say that need no client.
macro_rules! optional_client {
    ($grant:ty) => {
        impl $grant {
            /// The client that asks, where the server wants to know it; a text is its secret, for the Basic header.
            ///
            /// # Errors
            /// An empty client id or secret.
            pub fn client(
                mut self,
                client_id: impl Into<String>,
                auth: impl Into<$crate::source::oauth2::auth::ClientAuth>,
            ) -> Result<Self, $crate::error::Error> {
                self.client = self.client.with_id(client_id, auth)?;
                Ok(self)
            }
        }
    };
}

pub(crate) use {client_auth, client_settings, optional_client};
