//! The default choice clones the body. This body cannot be cloned, and the compiler says what to do.

use tower::Layer;
use tower_bearer::replay;

fn main() {
    let api = ui::layer().layer(ui::Http);
    replay::check::<ui::Upload, _>(&api);
}
