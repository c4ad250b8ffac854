//! `not_clone`, with empty bodies sent again.

use tower::Layer;
use tower_bearer::replay::{self, IfEmpty};

fn main() {
    let api = ui::layer().replay(IfEmpty).layer(ui::Http);
    replay::check::<ui::Upload, _>(&api);
}
