//! `not_clone`, with empty bodies sent again.

use tower::Layer;
use tower_bearer::replay::{self, IfEmpty};

fn main() {
    let api = messages::layer().replay(IfEmpty).layer(messages::Http);
    replay::check::<messages::Upload, _>(&api);
}
