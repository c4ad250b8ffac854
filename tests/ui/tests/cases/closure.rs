//! `not_clone`, with a copy of the body's own making.

use tower::Layer;
use tower_bearer::replay;

fn main() {
    let api = messages::layer().replay(|_: &messages::Upload| Some(messages::Upload)).layer(messages::Http);
    replay::check::<messages::Upload, _>(&api);
}
