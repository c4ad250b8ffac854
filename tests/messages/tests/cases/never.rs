//! `not_clone`, with nothing sent again.

use tower::Layer;
use tower_bearer::resend::{self, Never};

fn main() {
    let api = messages::layer().resend(Never).layer(messages::Http);
    resend::check::<messages::Upload, _>(&api);
}
