//! The adapter. A macro defines it for each version of reqwest, because their types are similar but not the same.

macro_rules! adapter {
    ($($reqwest:tt)+) => {
        use std::pin::Pin;
        use std::sync::LazyLock;
        use std::task::{Context, Poll};

        use http::{Method, Request, Response};
        use tower::Service;
        use tower_bearer::Replay;
        use tower_http::follow_redirect::RequestUri;

        use $($reqwest)+ as reqwest;
        use reqwest::redirect::Policy;
        use reqwest::{ResponseBuilderExt, Url};

        use crate::telemetry;

        /// A client of reqwest, as a service of `http::Request`s.
        ///
        /// `try_into` converts a request of reqwest's own builder, and keeps its timeout. `into` converts a response to
        /// reqwest's, and keeps its URL.
        ///
        /// # Errors
        /// The service returns reqwest's errors unchanged, also if reqwest cannot parse a URI.
        #[derive(Clone, Debug)]
        pub struct Reqwest {
            client: reqwest::Client,
        }

        /// Sends a body in memory again, and a stream once.
        ///
        /// It uses `reqwest::Request::try_clone`. The bytes are shared, not copied.
        #[derive(Clone, Copy, Debug, Default)]
        pub struct TryClone;

        impl Reqwest {
            /// Builds a client that follows no redirects, with any policy of the builder.
            ///
            /// An inner client that follows redirects may send the token to another server.
            ///
            /// # Errors
            /// Returns an error if reqwest's `ClientBuilder::build` does.
            pub fn build(builder: reqwest::ClientBuilder) -> reqwest::Result<Self> {
                Ok(Self::over(builder.redirect(Policy::none()).build()?))
            }

            /// Takes a client that was built elsewhere.
            ///
            /// Build it with `redirect::Policy::none()` or [`same_origin_redirects`], because a client does not show
            /// its redirect policy. If the client follows a redirect to another origin, each such response causes an
            /// `ERROR` event, `cross_origin_response`. The token may then have leaked.
            pub fn over(client: reqwest::Client) -> Self {
                Self { client }
            }

            /// The client, which builds requests.
            ///
            /// Requests that it sends itself have no token.
            pub fn client(&self) -> &reqwest::Client {
                &self.client
            }
        }

        impl Service<Request<reqwest::Body>> for Reqwest {
            type Response = Response<reqwest::Body>;
            type Error = reqwest::Error;
            type Future = Pin<Box<dyn Future<Output = reqwest::Result<Self::Response>> + Send>>;

            fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<reqwest::Result<()>> {
                Service::<reqwest::Request>::poll_ready(&mut self.client, cx)
            }

            fn call(&mut self, request: Request<reqwest::Body>) -> Self::Future {
                // The client that was polled ready is the one that is called.
                let sent = reqwest::Request::try_from(request).map(|request| {
                    let url = request.url().clone();
                    (url, self.client.call(request))
                });
                Box::pin(async move {
                    let (url, response) = sent?;
                    Ok(convert_response(&url, response.await?))
                })
            }
        }

        /// A redirect policy that follows at most 10 redirects within one origin.
        ///
        /// It does not follow a redirect to another origin, and the caller gets that redirect. reqwest's default policy
        /// follows it, and reqwest up to 0.13 puts the `Authorization` header back at the second cross-origin redirect,
        /// which leaks the token.
        ///
        /// # Errors
        /// The client's requests fail at the 11th redirect, with `reqwest::Error::is_redirect`.
        pub fn same_origin_redirects() -> Policy {
            Policy::custom(|attempt| match attempt.previous().last() {
                Some(last) if last.origin() == attempt.url().origin() => Policy::default().redirect(attempt),
                _ => attempt.stop(),
            })
        }

        /// Converts the response to a request for `requested`, and adds its URL as two extensions. The layer reads one,
        /// in case the client has followed a redirect. The conversion back to a `reqwest::Response` reads the other.
        pub(crate) fn convert_response(requested: &Url, response: reqwest::Response) -> Response<reqwest::Body> {
            let url = response.url().clone();
            let mut response = Response::from(response);
            // reqwest uses this host for a response that it did not receive itself, such as one of a mock.
            if url.host_str() == Some("no.url.provided.local") {
                return response;
            }
            if url.origin() != requested.origin() {
                let [requested, url] = [requested, &url].map(|url| url.origin().ascii_serialization());
                telemetry::cross_origin_response(&requested, &url);
            }
            if let Ok(uri) = url.as_str().parse() {
                response.extensions_mut().insert(RequestUri(uri));
            }
            if let Ok(marked) = Response::builder().url(url).body(()) {
                response.extensions_mut().extend(marked.into_parts().0.extensions);
            }
            response
        }

        impl Replay<reqwest::Body> for TryClone {
            type Body = reqwest::Body;
            type Saved = Request<reqwest::Body>;

            fn pass_through(&self, request: Request<reqwest::Body>) -> Request<reqwest::Body> {
                request
            }

            fn prepare(&self, request: Request<reqwest::Body>) -> (Request<reqwest::Body>, Option<Self::Saved>) {
                // reqwest copies bodies only as part of a request.
                static NOWHERE: LazyLock<Url> = LazyLock::new(|| "http://nowhere.invalid".parse().expect("a URL"));
                let (head, body) = request.into_parts();
                let mut carrier = reqwest::Request::new(Method::GET, NOWHERE.clone());
                *carrier.body_mut() = Some(body);
                let copy = carrier.try_clone().and_then(|mut copy| copy.body_mut().take());
                let saved = copy.map(|copy| Request::from_parts(head.clone(), copy));
                (Request::from_parts(head, carrier.body_mut().take().unwrap_or_default()), saved)
            }

            fn target<'a>(&self, saved: &'a Self::Saved) -> (&'a Method, &'a http::Uri) {
                (saved.method(), saved.uri())
            }

            fn replay(&self, saved: Self::Saved) -> Option<Request<reqwest::Body>> {
                Some(saved)
            }
        }
    };
}
