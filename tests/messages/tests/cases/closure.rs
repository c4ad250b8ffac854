//! `not_clone`, with a copy of the body's own making.

use tower::Layer;
use tower_bearer::resend;

fn main() {
    let api = messages::layer().resend(|_: &messages::Upload| Some(messages::Upload)).layer(messages::Http);
    resend::check::<messages::Upload, _>(&api);
}
