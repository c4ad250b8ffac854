//! `not_clone`, without a second send.

use tower::Layer;
use tower_bearer::replay::{self, Never};

fn main() {
    let api = ui::layer().replay(Never).layer(ui::Http);
    replay::check::<ui::Upload, _>(&api);
}
