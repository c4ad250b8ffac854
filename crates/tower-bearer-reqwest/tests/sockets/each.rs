//! The tests that run with each version of reqwest.

macro_rules! each {
    ($version:ident, $reqwest:ident) => {
        mod $version {
            use std::time::Duration;

            use bytes::Bytes;
            use http::StatusCode;
            use http_body_util::BodyExt;
            use tokio::sync::mpsc::unbounded_channel;
            use tower::util::BoxCloneService;
            use tower::{Layer, ServiceExt};
            use tower_bearer::Replay;
            use tower_bearer::oauth2::{ClientCredentialsGrant, Issuer};
            use tower_bearer::replay::Buffered;
            use tower_bearer::{BearerLayer, TokenCache};
            use tower_bearer_reqwest::$version::{Reqwest, TryClone, same_origin_redirects};

            use $reqwest as reqwest;

            use crate::harness::{Harness, echo, received, silent, streaming};
            use crate::net::{Answer, Net, events, named, server};

            /// Work that takes longer counts as hanging.
            const LONG: Duration = Duration::from_secs(60);

            fn builder() -> reqwest::ClientBuilder {
                reqwest::Client::builder().no_proxy()
            }

            fn http() -> Reqwest {
                Reqwest::build(builder()).expect("a client")
            }

            fn post(url: String, body: impl Into<reqwest::Body>) -> http::Request<reqwest::Body> {
                let request = http().client().post(url).body(body).build().expect("a request");
                request.try_into().expect("a request")
            }

            #[tokio::test]
            async fn the_client_also_makes_the_token_calls() {
                let harness = Harness::new().await;
                let issuer = loopback::Server::fake(harness.issuer.clone()).await;
                let login = ClientCredentialsGrant::builder(
                    &Issuer::new(http()).token_endpoint(&issuer.url("/token")),
                    "app",
                    "secret",
                )
                .build()
                .expect("a login");
                let layer = BearerLayer::new(TokenCache::new(login), [harness.server.origin()]).expect("an origin");
                let api = layer.replay(TryClone).layer(http());
                let answer = api.oneshot(post(harness.server.url("/"), "hello")).await.expect("an answer");
                assert_eq!(answer.status(), StatusCode::OK);
                assert_eq!(harness.server.tokens(), ["Bearer token-2"]);
            }

            #[tokio::test]
            async fn a_body_in_memory_is_sent_again() {
                let harness = Harness::revoked().await;
                let api = harness.layer().replay(TryClone).layer(http());
                let answer = api.oneshot(post(harness.server.url("/"), "hello")).await.expect("an answer");
                assert_eq!(answer.status(), StatusCode::OK);
                assert_eq!(harness.uploads(), ["hello", "hello"]);
                assert_eq!(harness.server.tokens(), ["Bearer token-1", "Bearer token-2"]);
                let lengths: Vec<_> =
                    harness.server.seen().into_iter().map(|head| head.headers["content-length"].clone()).collect();
                assert_eq!(lengths, ["5", "5"], "a body of known length keeps it");
            }

            #[test]
            fn a_body_in_memory_is_shared_and_not_copied() {
                let hello = reqwest::Body::from(Bytes::from_static(b"hello"));
                let (first, copy) =
                    TryClone.prepare(http::Request::put("https://api.example.com/me").body(hello).expect("valid"));
                let copy = TryClone.replay(copy.expect("a copy")).expect("a copy");
                assert_eq!((copy.method(), copy.uri()), (first.method(), first.uri()));
                assert_eq!(copy.body().as_bytes(), Some(&b"hello"[..]));
                assert_eq!(first.body().as_bytes().map(<[u8]>::as_ptr), copy.body().as_bytes().map(<[u8]>::as_ptr));
                let (_, copy) = TryClone.prepare(http::Request::new(reqwest::Body::default()));
                assert_eq!(copy.expect("no body is easily copied").body().as_bytes(), Some(&b""[..]));
            }

            #[tokio::test]
            async fn a_stream_is_sent_once_unless_it_is_recorded() {
                let streamed = || {
                    let (frames, stream) = unbounded_channel();
                    for piece in ["one", "two"] {
                        frames.send(Ok::<_, std::io::Error>(Bytes::from(piece))).expect("the stream is open");
                    }
                    reqwest::Body::wrap_stream(received(stream))
                };
                let harness = Harness::revoked().await;
                let once = harness.layer().replay(TryClone).layer(http());
                let answer = once.oneshot(post(harness.server.url("/"), streamed())).await.expect("an answer");
                assert_eq!((answer.status(), harness.uploads()), (StatusCode::UNAUTHORIZED, vec!["onetwo".into()]));

                let harness = Harness::revoked().await;
                let twice = harness.layer().replay(Buffered::new(1024).wrap(reqwest::Body::wrap)).layer(http());
                let answer = twice.oneshot(post(harness.server.url("/"), streamed())).await.expect("an answer");
                assert_eq!((answer.status(), harness.uploads()), (StatusCode::OK, vec!["onetwo".into(); 2]));
            }

            #[tokio::test]
            async fn a_multipart_form_is_sent_once_unless_it_is_recorded() {
                let form = |url: String| {
                    let form = reqwest::multipart::Form::new()
                        .text("name", "Ann")
                        .part("file", reqwest::multipart::Part::bytes(b"contents".to_vec()).file_name("a.txt"));
                    let request = http().client().post(url).multipart(form).build().expect("a request");
                    http::Request::<reqwest::Body>::try_from(request).expect("a request")
                };
                let harness = Harness::revoked().await;
                let once = harness.layer().replay(TryClone).layer(http());
                let answer = once.oneshot(form(harness.server.url("/"))).await.expect("an answer");
                assert_eq!((answer.status(), harness.uploads().len()), (StatusCode::UNAUTHORIZED, 1));

                let harness = Harness::revoked().await;
                let twice = harness.layer().replay(Buffered::new(1024).wrap(reqwest::Body::wrap)).layer(http());
                let answer = twice.oneshot(form(harness.server.url("/"))).await.expect("an answer");
                let uploads = harness.uploads();
                assert_eq!((answer.status(), uploads.len()), (StatusCode::OK, 2));
                assert!(String::from_utf8_lossy(&uploads[0]).contains("contents"));
                assert_eq!(uploads[0], uploads[1]);
                let lengths: Vec<_> =
                    harness.server.seen().into_iter().map(|head| head.headers["content-length"].clone()).collect();
                assert_eq!(lengths, [uploads[0].len().to_string(), uploads[1].len().to_string()]);
            }

            #[tokio::test]
            async fn an_answer_streams() {
                let harness = Harness::new().await;
                let (server, frames) = streaming().await;
                let api = harness.layer_for(server.origin()).replay(TryClone).layer(http());
                let answer = tokio::time::timeout(LONG, api.oneshot(post(server.url("/"), ""))).await;
                let mut answer = answer.expect("its head comes before its body").expect("an answer").into_body();
                for piece in ["one", "two"] {
                    // The next piece is sent when the previous one has arrived.
                    frames.send(Ok(http_body::Frame::data(piece.into()))).expect("the server is running");
                    let frame = answer.frame().await.expect("a frame").expect("no error");
                    assert_eq!(frame.into_data().expect("data"), piece);
                }
                drop(frames);
                assert!(answer.frame().await.is_none());
            }

            #[tokio::test]
            async fn an_upload_and_its_answer_stream_at_the_same_time() {
                let harness = Harness::new().await;
                let server = echo().await;
                let layer = harness.layer_for(server.origin());
                let once = BoxCloneService::new(layer.clone().replay(TryClone).layer(http()));
                let recorded = layer.replay(Buffered::new(1024).wrap(reqwest::Body::wrap)).layer(http());
                for api in [once, BoxCloneService::new(recorded)] {
                    let (pieces, stream) = unbounded_channel();
                    let upload = post(server.url("/"), reqwest::Body::wrap_stream(received(stream)));
                    let answer = tokio::time::timeout(LONG, api.oneshot(upload)).await;
                    let mut answer = answer.expect("its head waits for no piece").expect("an answer").into_body();
                    for piece in ["one", "two"] {
                        pieces.send(Ok::<_, std::io::Error>(Bytes::from(piece))).expect("the stream is open");
                        // The next piece is sent when the previous one has come back.
                        let frame = tokio::time::timeout(LONG, answer.frame()).await.expect("it went out alone");
                        let frame = frame.expect("a frame").expect("no error");
                        assert_eq!(frame.into_data().expect("data"), piece);
                    }
                    drop(pieces);
                    assert!(answer.frame().await.is_none());
                }
            }

            #[tokio::test]
            async fn the_timeout_of_a_request_bounds_each_send_and_is_an_error_of_reqwest() {
                for harness in [Harness::new().await, Harness::revoked().await] {
                    let server = silent(harness.accepts()).await;
                    let api = harness.layer_for(server.origin()).replay(TryClone).layer(http());
                    let request = http().client().get(server.url("/")).timeout(Duration::from_millis(50));
                    let request = request.build().expect("a request").try_into().expect("a request");
                    let error = tokio::time::timeout(LONG, api.oneshot(request));
                    let error = error.await.expect("its own timeout ends it").expect_err("a timeout");
                    assert!(error.downcast_ref::<reqwest::Error>().expect("of reqwest").is_timeout());
                }
            }

            #[tokio::test]
            async fn each_timeout_in_the_middle_of_an_answer_is_an_error_of_reqwest() {
                const SHORT: Duration = Duration::from_millis(100);
                let clients =
                    [(builder(), Some(SHORT)), (builder().timeout(SHORT), None), (builder().read_timeout(SHORT), None)];
                for (client, timeout) in clients {
                    let harness = Harness::new().await;
                    let (server, frames) = streaming().await;
                    frames.send(Ok(http_body::Frame::data("one".into()))).expect("the server is running");
                    let http = Reqwest::build(client).expect("a client");
                    let mut request = http.client().get(server.url("/")).build().expect("a request");
                    *request.timeout_mut() = timeout;
                    let api = harness.layer_for(server.origin()).replay(TryClone).layer(http);
                    let text = async {
                        let answer = api.oneshot(request.try_into()?).await;
                        // On a slow machine its timeout ends before it begins.
                        let answer =
                            answer.map_err(|error| *error.downcast::<reqwest::Error>().expect("of reqwest"))?;
                        reqwest::Response::from(answer).text().await
                    };
                    let text = tokio::time::timeout(LONG, text).await.expect("its own timeout ends it");
                    assert!(text.expect_err("a timeout").is_timeout());
                    drop(frames);
                }
            }

            #[tokio::test]
            async fn errors_are_those_of_reqwest() {
                let harness = Harness::new().await;
                let closed_port = "http://127.0.0.1:1";
                let api = harness.layer_for(closed_port).replay(TryClone).layer(http());
                let error = api.oneshot(post(closed_port.to_owned(), "")).await.expect_err("no server listens");
                assert!(error.downcast_ref::<reqwest::Error>().expect("of reqwest").is_connect());

                let unreadable = http::Request::get("/path/only").body(reqwest::Body::default()).expect("a request");
                let error = http().oneshot(unreadable).await.expect_err("no host");
                assert!(error.is_builder());
            }

            fn resolving() -> reqwest::ClientBuilder {
                let loopback = "127.0.0.1:0".parse().expect("an address");
                builder().resolve("api.test", loopback).resolve("other.test", loopback)
            }

            #[tokio::test]
            async fn the_same_origin_policy_follows_to_no_other_server() {
                let (harness, net) = (Harness::new().await, Net::two_hops().await);
                let api = server([
                    ("/", Answer::To(302, "/moved".into())),
                    ("/moved", Answer::Says(200, "welcome")),
                    ("/out", Answer::To(307, named("other.test", &net.other, "/"))),
                    ("/round", Answer::To(302, "/round".into())),
                ])
                .await;
                let client = resolving().redirect(same_origin_redirects()).build().expect("a client");
                let layer = harness.layer_for(&named("api.test", &api, "")).replay(TryClone);
                let client = layer.layer(Reqwest::over(client));
                let get = |path| client.clone().oneshot(post(named("api.test", &api, path), "hello"));

                let followed = reqwest::Response::from(get("/").await.expect("an answer"));
                assert_eq!(followed.text().await.expect("a body"), "welcome");
                let redirect = get("/out").await.expect("an answer");
                assert_eq!(redirect.status(), StatusCode::TEMPORARY_REDIRECT);
                assert_eq!(api.tokens(), ["Bearer token-1"; 3]);
                assert_eq!(net.other.tokens(), [""; 0]);
                let error = get("/round").await.expect_err("it has no end");
                assert!(error.downcast_ref::<reqwest::Error>().expect("of reqwest").is_redirect());
            }

            #[tokio::test]
            async fn an_answer_from_another_origin_is_an_error_event() {
                let (events, _guard) = events();
                let (harness, net) = (Harness::new().await, Net::two_hops().await);
                let client = |builder: reqwest::ClientBuilder| {
                    let http = Reqwest::over(builder.build().expect("a client"));
                    harness.layer_for(&net.origin()).replay(TryClone).layer(http)
                };
                let request = || post(named("api.test", &net.api, "/?secret"), "");
                let safe = client(resolving().redirect(same_origin_redirects())).oneshot(request()).await;
                assert_eq!(safe.expect("an answer").status(), StatusCode::FOUND);
                assert_eq!(events.lock().expect("no panic").len(), 0);

                client(resolving()).oneshot(request()).await.expect("an answer");
                let origins = vec![net.origin(), named("other.test", &net.other, "")];
                let seen = (tracing::Level::ERROR, "cross_origin_response", origins);
                assert_eq!(*events.lock().expect("no panic"), [seen]);
            }

            #[tokio::test]
            async fn an_answer_converts_to_a_response_of_reqwest_with_its_url() {
                let harness = Harness::new().await;
                let api = harness.layer().replay(TryClone).layer(http());
                let answer = api.oneshot(post(harness.server.url("/me?full"), "")).await.expect("an answer");
                let answer = reqwest::Response::from(answer);
                assert_eq!(answer.url().as_str(), harness.server.url("/me?full"));
                assert_eq!(answer.text().await.expect("a body"), r#"{"accepted":true}"#);
            }
        }
    };
}

#[cfg(feature = "reqwest-0_13")]
each!(reqwest_0_13, reqwest);
#[cfg(feature = "reqwest-0_12")]
each!(reqwest_0_12, reqwest_0_12);
