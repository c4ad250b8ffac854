//! The adapter, once for each version of reqwest: their types are alike and not the same.

macro_rules! adapter {
    ($($reqwest:tt)+) => {
        use std::pin::Pin;
        use std::sync::LazyLock;
        use std::task::{Context, Poll};

        use http::{Method, Request, Response};
        use tower::Service;
        use tower_bearer::Resend;
        use tower_http::follow_redirect::RequestUri;

        use $($reqwest)+ as reqwest;
        use reqwest::{ResponseBuilderExt, Url};

        /// A client of reqwest, as a service of `http::Request`s.
        ///
        /// A request made by reqwest's own builder turns into one with `try_into`, and keeps its timeout; a response turns
        /// into reqwest's with `into`, and keeps its URL.
        ///
        /// # Errors
        /// Those of reqwest, as they are. A URI that reqwest cannot read is one of them.
        #[derive(Clone, Debug)]
        pub struct Reqwest {
            client: reqwest::Client,
        }

        /// Sends a body in memory again, and a stream once: what `reqwest::Request::try_clone` can copy. The bytes are
        /// shared, not copied.
        #[derive(Clone, Copy, Debug, Default)]
        pub struct TryClone;

        impl Reqwest {
            /// Builds a client that follows no redirects, whatever policy the builder has: a client beneath the layer
            /// that follows some may hand the token to a stranger.
            ///
            /// # Errors
            /// As for reqwest's `ClientBuilder::build`.
            pub fn build(builder: reqwest::ClientBuilder) -> reqwest::Result<Self> {
                Ok(Self::over(builder.redirect(reqwest::redirect::Policy::none()).build()?))
            }

            /// A client that was built elsewhere, with `redirect::Policy::none()`: nobody can see here whether it was.
            pub fn over(client: reqwest::Client) -> Self {
                Self { client }
            }

            /// The client, to make requests with. What it sends itself goes without a token.
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
                let sent = reqwest::Request::try_from(request).map(|request| self.client.call(request));
                Box::pin(async move { Ok(turned(sent?.await?)) })
            }
        }

        /// Turns reqwest's response, and says where it came from: to the layer, should the client have followed a redirect,
        /// and to the `reqwest::Response` that it may become again.
        pub(crate) fn turned(response: reqwest::Response) -> Response<reqwest::Body> {
            let url = response.url().clone();
            let uri = url.as_str().parse();
            let mut response = Response::from(response);
            if let Ok(uri) = uri {
                response.extensions_mut().insert(RequestUri(uri));
            }
            if let Ok(marked) = Response::builder().url(url).body(()) {
                response.extensions_mut().extend(marked.into_parts().0.extensions);
            }
            response
        }

        impl Resend<reqwest::Body> for TryClone {
            type Body = reqwest::Body;
            type Spare = Request<reqwest::Body>;

            fn once(&self, request: Request<reqwest::Body>) -> Request<reqwest::Body> {
                request
            }

            fn first(&self, request: Request<reqwest::Body>) -> (Request<reqwest::Body>, Option<Self::Spare>) {
                // reqwest copies bodies only as part of a request.
                static NOWHERE: LazyLock<Url> = LazyLock::new(|| "http://nowhere.invalid".parse().expect("a URL"));
                let (head, body) = request.into_parts();
                let mut carrier = reqwest::Request::new(Method::GET, NOWHERE.clone());
                *carrier.body_mut() = Some(body);
                let copy = carrier.try_clone().and_then(|mut copy| copy.body_mut().take());
                let spare = copy.map(|copy| Request::from_parts(head.clone(), copy));
                (Request::from_parts(head, carrier.body_mut().take().unwrap_or_default()), spare)
            }

            fn second(&self, spare: Self::Spare) -> Option<Request<reqwest::Body>> {
                Some(spare)
            }
        }
    };
}
