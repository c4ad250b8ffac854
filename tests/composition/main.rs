//! The layer with layers of tower and tower-http, outside and inside it. [`works`] checks what every one of them keeps.
//! If the side matters, there is a separate test, and a row in `docs/composition.md`.
#![expect(clippy::disallowed_methods, reason = "tests spawn their callers")]

mod both_sides;
mod by_side;
mod caches;
mod harness;
mod http_layers;
mod spawned;
