//! `not_clone`, with its body recorded.

mod upload;

use tower::Layer;
use tower_bearer::resend::{self, Buffered};

fn main() {
    let api = upload::layer().resend(Buffered::new(64 * 1024)).layer(upload::Http);
    resend::check::<upload::Upload, _>(&api);
}
