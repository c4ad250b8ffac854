//! The settings that grants, logins and revocations share, written once for all builders that have a client.

/// Adds the settings of every grant and login. `$client` is the path to the client in the builder.
macro_rules! client_settings {
    ($builder:ty, $($client:ident).+) => {
        $crate::source::oauth2::answer_settings::answer_settings!($builder, $($client).+);

        impl $builder {
            /// Sets the scope to request, separated by spaces (RFC 6749 section 3.3).
            ///
            /// It is not sent with a refresh token, which keeps its scope.
            pub fn scope(mut self, scope: impl Into<String>) -> Self {
                self.$($client).+ = self.$($client).+.with_scope(scope);
                self
            }

            /// Sets the scope to send with a refresh token (RFC 6749 section 6).
            ///
            /// Some servers require it. It can also narrow the scope of the session.
            pub fn refresh_scope(mut self, scope: impl Into<String>) -> Self {
                self.$($client).+ = self.$($client).+.with_refresh_scope(scope);
                self
            }

            /// Adds a service that the token is for, by its URI (RFC 8707).
            ///
            /// Some servers accept other names. It is sent with every call. Call it once for each service.
            pub fn resource(mut self, resource: impl Into<String>) -> Self {
                self.$($client).+ = self.$($client).+.with_resource(resource);
                self
            }

            /// Adds a service that the token is for, by its name at this server.
            ///
            /// RFC 8693 section 2.1 defines it for token exchange; some servers accept it with every grant. Call it
            /// once for each service.
            pub fn audience(mut self, audience: impl Into<String>) -> Self {
                self.$($client).+ = self.$($client).+.with_audience(audience);
                self
            }

            /// Adds a parameter to every call, such as one that only this server requires.
            ///
            /// An `AuthorizationCodeLogin` adds it to the URL for the browser, too. It may be an API key: `Debug` does
            /// not show it, and errors redact it if it has at least 8 characters. A parameter that the grant or another
            /// setting sends is invalid.
            pub fn parameter(mut self, name: &str, value: impl Into<String>) -> Self {
                self.$($client).+ = self.$($client).+.with_parameter(name, value);
                self
            }

            /// Adds a header to every token call. It may hold a secret.
            pub fn header(mut self, name: &str, value: &str) -> Self {
                self.$($client).+ = self.$($client).+.with_header(name, value);
                self
            }

            /// Sets the lifetime of a token if nothing says when it ends. Zero is invalid.
            ///
            /// Default: [`DEFAULT_LIFETIME`](crate::DEFAULT_LIFETIME). If a person's login returns no refresh token,
            /// its token has [`MAX_LIFETIME`](crate::MAX_LIFETIME), so that it is used until an API rejects it.
            pub fn default_lifetime(mut self, lifetime: std::time::Duration) -> Self {
                self.$($client).+ = self
                    .$($client).+
                    .with_reader(|reader| reader.expiry(|expiry| expiry.default_lifetime(lifetime)));
                self
            }
        }
    };
}

/// Adds the setting that makes a client confidential.
macro_rules! client_auth {
    ($builder:ty, $($client:ident).+) => {
        impl $builder {
            /// Sets how a confidential client authenticates.
            ///
            /// A text is its secret, for the Basic header. Without this setting the client is public, and its id goes
            /// into the body.
            pub fn client_auth(mut self, auth: impl Into<$crate::source::oauth2::auth::ClientAuth>) -> Self {
                self.$($client).+ = self.$($client).+.with_auth(auth);
                self
            }
        }
    };
}

/// Adds the client id to grants that do not require one.
macro_rules! optional_client {
    ($builder:ty, $($client:ident).+) => {
        impl $builder {
            /// Sets the client id, if the server requires one.
            ///
            /// The client is public unless it has a [`client_auth`](Self::client_auth).
            pub fn client_id(mut self, client_id: impl Into<String>) -> Self {
                self.$($client).+ = self.$($client).+.with_id(client_id);
                self
            }
        }
    };
}

pub(crate) use {client_auth, client_settings, optional_client};
