//! `not_clone`, with nothing sent again.

use tower::Layer;
use tower_bearer::replay::{self, Never};

fn main() {
    let api = messages::layer().replay(Never).layer(messages::Http);
    replay::check::<messages::Upload, _>(&api);
}
