//! `not_clone`, with a recording of its body.

use tower::Layer;
use tower_bearer::replay::{self, Buffered};

fn main() {
    let api = ui::layer().replay(Buffered::new(64 * 1024)).layer(ui::Http);
    replay::check::<ui::Upload, _>(&api);
}
