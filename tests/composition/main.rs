//! The layer among others: tower's and tower-http's, above and beneath. What holds of every one of them is in [`works`];
//! what differs by side has a test of its own, and a line in `docs/composition.md`.
#![expect(clippy::disallowed_methods, reason = "tests spawn their callers")]

mod both_sides;
mod by_side;
mod caches;
mod harness;
mod http_layers;
mod spawned;
