//! `not_clone`, with its body recorded.

use tower::Layer;
use tower_bearer::replay::{self, Buffered};

fn main() {
    let api = messages::layer().replay(Buffered::new(64 * 1024)).layer(messages::Http);
    replay::check::<messages::Upload, _>(&api);
}
