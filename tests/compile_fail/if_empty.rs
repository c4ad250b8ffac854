//! `not_clone`, with empty bodies sent again.

mod upload;

use tower::Layer;
use tower_bearer::resend::{self, IfEmpty};

fn main() {
    let api = upload::layer().resend(IfEmpty).layer(upload::Http);
    resend::check::<upload::Upload, _>(&api);
}
