//! `not_clone`, with a copy of the body's own making.

mod upload;

use tower::Layer;
use tower_bearer::resend;

fn main() {
    let api = upload::layer().resend(|_: &upload::Upload| Some(upload::Upload)).layer(upload::Http);
    resend::check::<upload::Upload, _>(&api);
}
