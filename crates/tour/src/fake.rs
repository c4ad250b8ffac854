//! The two fake servers, and their common trait.

use std::time::Duration;

use tower_bearer::testing::{Answer, Calls, Ledger, MeshConnectServer, MeshyDbServer};

/// A fake server of the tour.
pub(crate) trait FakeServer: Send + Sync {
    /// Returns the server's own count of the calls of its token endpoint.
    fn token_calls(&self) -> &Calls;
    /// Returns the access tokens that the server issued.
    fn ledger(&self) -> Ledger;
    /// Answers all token calls with this, until `None` ends the outage.
    fn fail(&self, answer: Option<Answer>);
    /// Sets how long access tokens live, how long a token call takes, and how long a request takes to the API.
    fn set_times(&self, lifetime: Duration, token: Duration, api: Duration);
}

macro_rules! fake_server {
    ($server:ty) => {
        impl FakeServer for $server {
            fn token_calls(&self) -> &Calls {
                self.token_calls()
            }

            fn ledger(&self) -> Ledger {
                self.ledger()
            }

            fn fail(&self, answer: Option<Answer>) {
                self.fail(answer);
            }

            fn set_times(&self, lifetime: Duration, token: Duration, api: Duration) {
                self.lifetime(lifetime);
                self.delay(token);
                self.api().delay(api);
            }
        }
    };
}
fake_server!(MeshyDbServer);
fake_server!(MeshConnectServer);
