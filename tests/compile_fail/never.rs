//! `not_clone`, with nothing sent again.

mod upload;

use tower::Layer;
use tower_bearer::resend::{self, Never};

fn main() {
    let api = upload::layer().resend(Never).layer(upload::Http);
    resend::check::<upload::Upload, _>(&api);
}
