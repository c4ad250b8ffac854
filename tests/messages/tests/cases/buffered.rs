//! `not_clone`, with its body recorded.

use tower::Layer;
use tower_bearer::resend::{self, Buffered};

fn main() {
    let api = messages::layer().resend(Buffered::new(64 * 1024)).layer(messages::Http);
    resend::check::<messages::Upload, _>(&api);
}
