//! The settings that grants, logins and revocations share, written once for all builders that have a client.

/// What every grant and login can say. `$client` is the path to the client in the builder.
macro_rules! client_settings {
    ($builder:ty, $($client:ident).+) => {
        $crate::source::oauth2::answer_settings::answer_settings!($builder, $($client).+);

        impl $builder {
            /// The scope to ask for: words separated by spaces (RFC 6749 section 3.3). Not sent with a refresh token,
            /// which keeps the scope it was given.
            pub fn scope(mut self, scope: impl Into<String>) -> Self {
                self.$($client).+ = self.$($client).+.with_scope(scope);
                self
            }

            /// The scope to send with a refresh token (RFC 6749 section 6): for servers that want it again, or for fewer
            /// rights than the session has.
            pub fn refresh_scope(mut self, scope: impl Into<String>) -> Self {
                self.$($client).+ = self.$($client).+.with_refresh_scope(scope);
                self
            }

            /// A service the token is for, by its URI (RFC 8707) or by what else the server takes: sent with every call;
            /// once for each of several.
            pub fn resource(mut self, resource: impl Into<String>) -> Self {
                self.$($client).+ = self.$($client).+.with_resource(resource);
                self
            }

            /// A service the token is for, by the name it has at this server (RFC 8693 section 2.1, and servers that
            /// take it with every grant): once for each of several.
            pub fn audience(mut self, audience: impl Into<String>) -> Self {
                self.$($client).+ = self.$($client).+.with_audience(audience);
                self
            }

            /// Another parameter that this server wants, sent with every call; an `AuthorizationCodeLogin` puts it into
            /// the address for the browser as well. It may be a key: `Debug` does not show it, and from 8 characters on
            /// no error repeats it. One that the grant or a setting of its own sends is invalid.
            pub fn parameter(mut self, name: &str, value: impl Into<String>) -> Self {
                self.$($client).+ = self.$($client).+.with_parameter(name, value);
                self
            }

            /// Adds a header to every token call. It may hold a secret.
            pub fn header(mut self, name: &str, value: &str) -> Self {
                self.$($client).+ = self.$($client).+.with_header(name, value);
                self
            }

            /// The lifetime of a token of which nothing says when it ends. Default:
            /// [`DEFAULT_LIFETIME`](crate::DEFAULT_LIFETIME); for the token of a person's login that brings no refresh
            /// token [`MAX_LIFETIME`](crate::MAX_LIFETIME), which is until an API rejects it. Zero is invalid.
            pub fn default_lifetime(mut self, lifetime: std::time::Duration) -> Self {
                self.$($client).+ = self
                    .$($client).+
                    .with_reader(|reader| reader.expiry(|expiry| expiry.default_lifetime(lifetime)));
                self
            }
        }
    };
}

/// What public clients can say, which confidential ones use too.
macro_rules! client_auth {
    ($builder:ty, $($client:ident).+) => {
        impl $builder {
            /// How a confidential client authenticates; a text is its secret, for the Basic header. Without it the
            /// client is a public one, and its id goes into the body.
            pub fn client_auth(mut self, auth: impl Into<$crate::source::oauth2::auth::ClientAuth>) -> Self {
                self.$($client).+ = self.$($client).+.with_auth(auth);
                self
            }
        }
    };
}

/// What grants can say that need no client.
macro_rules! optional_client {
    ($builder:ty, $($client:ident).+) => {
        impl $builder {
            /// The client that asks, if the server wants to know it; a public one unless it has a
            /// [`client_auth`](Self::client_auth).
            pub fn client_id(mut self, client_id: impl Into<String>) -> Self {
                self.$($client).+ = self.$($client).+.with_id(client_id);
                self
            }
        }
    };
}

pub(crate) use {client_auth, client_settings, optional_client};
