//! The default choice clones the body. This one cannot be cloned, and the compiler says what to do.

mod upload;

use tower::Layer;
use tower_bearer::resend;

fn main() {
    let api = upload::layer().layer(upload::Http);
    resend::check::<upload::Upload, _>(&api);
}
