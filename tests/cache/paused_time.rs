//! Users' tests pause and advance tokio's time, several of them in one process. The first reading of the clock sets its
//! zero.

use tokio::time::advance;
use tower_bearer::TokenCache;

use crate::common::{HOUR, SECOND, Script, paused_runtime};

#[test]
fn paused_time_of_an_earlier_runtime_does_not_affect_a_later_one() {
    let script = Script::living(100 * SECOND);
    for number in [1, 2] {
        let cache = TokenCache::new(script.clone());
        paused_runtime().block_on(async {
            if number == 1 {
                advance(HOUR).await;
            }
            cache.get().await.unwrap();
            advance(100 * SECOND).await;
            cache.get().await.unwrap();
        });
        assert_eq!(script.calls(), 2 * number);
    }
}
