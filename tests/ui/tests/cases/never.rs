//! `not_clone`, with nothing sent again.

use tower::Layer;
use tower_bearer::replay::{self, Never};

fn main() {
    let api = ui::layer().replay(Never).layer(ui::Http);
    replay::check::<ui::Upload, _>(&api);
}
