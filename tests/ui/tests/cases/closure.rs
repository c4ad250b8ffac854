//! `not_clone`, with a closure that copies the body.

use tower::Layer;
use tower_bearer::replay;

fn main() {
    let api = ui::layer().replay(|_: &ui::Upload| Some(ui::Upload)).layer(ui::Http);
    replay::check::<ui::Upload, _>(&api);
}
