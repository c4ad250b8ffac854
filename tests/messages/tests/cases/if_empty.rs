//! `not_clone`, with empty bodies sent again.

use tower::Layer;
use tower_bearer::resend::{self, IfEmpty};

fn main() {
    let api = messages::layer().resend(IfEmpty).layer(messages::Http);
    resend::check::<messages::Upload, _>(&api);
}
