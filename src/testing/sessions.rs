//! The users, sessions and refresh tokens of the fake MeshyDB server.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::testing::helpers::{jwt_like, now, unique_number};
use crate::testing::ledger::Ledger;

/// The password of every anonymous user.
const ANONYMOUS_PASSWORD: &str = "nopassword";
const TOKEN_INVALID: Denial = Denial { code: "invalid_grant", why: "Token is invalid." };

/// Why the server denies a call: a code of RFC 6749 and the provider's text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Denial {
    pub(crate) code: &'static str,
    pub(crate) why: &'static str,
}

#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) lifetime: Duration,
    pub(crate) refresh_lifetime: Duration,
    pub(crate) rotate: bool,
    pub(crate) reuse_grace: Duration,
    pub(crate) revoke_old_on_refresh: bool,
}

/// The tokens that a login or a refresh returns.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    access_token: String,
    refresh_token: Option<String>,
    issued_at: Instant,
    lifetime: Duration,
}

#[derive(Debug)]
pub(crate) struct Sessions {
    pub(crate) rules: Rules,
    pub(crate) reuses: usize,
    ledger: Ledger,
    /// By tenant, then username.
    users: HashMap<(String, String), User>,
    sessions: Vec<Session>,
    refresh_tokens: HashMap<String, RefreshToken>,
}

#[derive(Debug)]
struct User {
    password: String,
    active: bool,
}

/// The tokens that came from one login. They end together.
#[derive(Debug)]
struct Session {
    user: (String, String),
    access_tokens: Vec<String>,
    ended: bool,
}

#[derive(Debug)]
struct RefreshToken {
    session: usize,
    issued_at: Instant,
    lifetime: Duration,
    used: Option<Used>,
}

#[derive(Debug)]
struct Used {
    at: Instant,
    new_pair: Pair,
}

impl Pair {
    /// The token answer. If it is repeated, `expires_in` is the remaining lifetime.
    pub(crate) fn to_json(&self) -> Value {
        let mut body = json!({
            "access_token": self.access_token,
            "expires_in": self.lifetime.as_secs().saturating_sub(self.issued_at.elapsed().as_secs()),
            "token_type": "Bearer",
        });
        if let Some(refresh_token) = &self.refresh_token {
            body["refresh_token"] = json!(refresh_token);
        }
        body
    }
}

impl Sessions {
    pub(crate) fn new(ledger: Ledger) -> Self {
        let rules = Rules {
            lifetime: Duration::from_secs(3600),
            refresh_lifetime: Duration::from_secs(30 * 24 * 3600),
            rotate: true,
            reuse_grace: Duration::ZERO,
            revoke_old_on_refresh: false,
        };
        let (users, refresh_tokens) = (HashMap::new(), HashMap::new());
        Self { rules, reuses: 0, ledger, users, sessions: Vec::new(), refresh_tokens }
    }

    pub(crate) fn add_user(&mut self, tenant: &str, username: &str, password: &str) {
        let user = User { password: password.to_owned(), active: true };
        self.users.insert((tenant.to_owned(), username.to_owned()), user);
    }

    /// Adds an anonymous user, and returns `false` if the name is taken.
    pub(crate) fn register(&mut self, tenant: &str, username: &str) -> bool {
        let free = !self.users.contains_key(&(tenant.to_owned(), username.to_owned()));
        if free {
            self.add_user(tenant, username, ANONYMOUS_PASSWORD);
        }
        free
    }

    /// Deactivates the user of that name in every tenant.
    pub(crate) fn deactivate(&mut self, username: &str) {
        let named = self.users.iter_mut().filter(|((_, name), _)| name == username);
        named.for_each(|(_, user)| user.active = false);
    }

    pub(crate) fn login(&mut self, tenant: &str, name: &str, password: &str, offline: bool) -> Result<Pair, Denial> {
        let key = (tenant.to_owned(), name.to_owned());
        let user = self.users.get(&key).ok_or(Denial { code: "invalid_grant", why: "Username is invalid." })?;
        if user.password != password {
            return Err(Denial { code: "invalid_grant", why: "Password is invalid." });
        }
        user.check_active()?;
        self.sessions.push(Session { user: key, access_tokens: Vec::new(), ended: false });
        Ok(self.issue(self.sessions.len() - 1, offline))
    }

    pub(crate) fn refresh(&mut self, tenant: &str, token: &str) -> Result<Pair, Denial> {
        let held = self.refresh_tokens.get(token).ok_or(TOKEN_INVALID)?;
        let session = &self.sessions[held.session];
        if session.user.0 != tenant {
            return Err(TOKEN_INVALID);
        }
        if let Some(used) = &held.used {
            if !session.ended && used.at.elapsed() < self.rules.reuse_grace {
                return Ok(used.new_pair.clone());
            }
            self.reuses += 1;
            self.end(held.session);
            return Err(TOKEN_INVALID);
        }
        if session.ended {
            return Err(TOKEN_INVALID);
        }
        if held.issued_at.elapsed() >= held.lifetime {
            return Err(Denial { code: "invalid_grant", why: "Refresh token is expired." });
        }
        self.users[&session.user].check_active()?;

        let number = held.session;
        if self.rules.revoke_old_on_refresh {
            session.access_tokens.iter().for_each(|token| _ = self.ledger.revoke(token));
        }
        let pair = self.issue(number, self.rules.rotate);
        if self.rules.rotate {
            let used = Used { at: now(), new_pair: pair.clone() };
            self.refresh_tokens.entry(token.to_owned()).and_modify(|held| held.used = Some(used));
        }
        Ok(pair)
    }

    /// Ends the session of a refresh token with all its tokens, and returns whether there was one to end.
    pub(crate) fn revoke(&mut self, tenant: &str, token: &str) -> bool {
        let Some(number) = self.refresh_tokens.get(token).map(|held| held.session) else { return false };
        let session = &self.sessions[number];
        let found = session.user.0 == tenant && !session.ended;
        if found {
            self.end(number);
        }
        found
    }

    fn end(&mut self, number: usize) {
        let session = &mut self.sessions[number];
        session.ended = true;
        session.access_tokens.iter().for_each(|token| _ = self.ledger.revoke(token));
    }

    fn issue(&mut self, session: usize, with_refresh_token: bool) -> Pair {
        let (issued_at, lifetime) = (now(), self.rules.lifetime);
        let access_token = jwt_like();
        self.ledger.issue(access_token.clone(), lifetime);
        self.sessions[session].access_tokens.push(access_token.clone());
        let refresh_token = with_refresh_token.then(|| format!("ab23cd33{:08x}", unique_number()));
        if let Some(text) = &refresh_token {
            let lifetime = self.rules.refresh_lifetime;
            let held = RefreshToken { session, issued_at, lifetime, used: None };
            self.refresh_tokens.insert(text.clone(), held);
        }
        Pair { access_token, refresh_token, issued_at, lifetime }
    }
}

impl User {
    fn check_active(&self) -> Result<(), Denial> {
        let inactive = Denial { code: "invalid_grant", why: "User is no longer active." };
        if self.active { Ok(()) } else { Err(inactive) }
    }
}
