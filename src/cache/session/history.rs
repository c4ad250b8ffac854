//! The past rejections of a cache's tokens.

use http::HeaderValue;

use crate::schedule::{self, DualInstant, RejectionBackoff, Sign};
use crate::token::TokenId;

/// The past rejections of a cache's tokens.
#[derive(Debug, Default)]
pub(crate) struct RejectionHistory {
    /// The backoff of each [`Sign`], in the order of its variants.
    backoffs: [RejectionBackoff; 2],
    /// The newest token, if it was fetched because the previous one was rejected.
    replacement: Option<Replacement>,
    /// The newest generation that a fallback replaced for some seconds. The API is expected to accept it later.
    pub(crate) early: u64,
    /// When a token was last marked as rejected, and whether the token was young then.
    pub(crate) rejected_at: (DualInstant, bool),
    /// The challenges of the last rejection that was marked.
    pub(crate) challenges: Vec<HeaderValue>,
}

/// A token that was fetched because the previous one was rejected.
#[derive(Clone, Copy, Debug)]
struct Replacement {
    generation: u64,
    sign: Sign,
    fetched_at: DualInstant,
    /// Whether the refresh helped: the API accepted a retry with this token, or rejected the token only long after the
    /// fetch. `None`: not known yet.
    helped: Option<bool>,
}

// === impl RejectionHistory ===

impl RejectionHistory {
    /// Whether a rejection with this sign may cause no refresh now.
    pub(crate) fn is_suspended(&self, sign: Sign, now: DualInstant) -> bool {
        self.backoffs[sign as usize].is_active(now)
    }

    /// Whether this generation replaced a rejected token, and was rejected, too.
    pub(crate) fn did_not_help(&self, generation: u64) -> bool {
        self.replacement.is_some_and(|newer| newer.generation == generation && newer.helped == Some(false))
    }

    /// A fetch returned this generation. `sign`: that of the response that rejected the previous token, if one did.
    pub(crate) fn on_fetched(&mut self, generation: u64, sign: Option<Sign>, now: DualInstant) {
        self.replacement = sign.map(|sign| Replacement { generation, sign, fetched_at: now, helped: None });
    }

    /// The API accepted a retry with this token.
    pub(crate) fn on_accepted(&mut self, token: TokenId) {
        if let Some(replacement) = self.replacement.as_mut().filter(|replacement| replacement.is(token)) {
            replacement.helped = Some(true);
            self.backoffs[replacement.sign as usize] = RejectionBackoff::default();
        }
    }

    /// The API rejected this token. If it replaced a rejected one, the refresh did not help, unless it was long ago.
    pub(crate) fn on_rejected(&mut self, token: TokenId, sign: Sign, now: DualInstant) {
        let undecided = |replacement: &&mut Replacement| {
            replacement.is(token) && replacement.sign == sign && replacement.helped.is_none()
        };
        if let Some(replacement) = self.replacement.as_mut().filter(undecided) {
            let helped = schedule::has_helped(sign, replacement.fetched_at, now);
            replacement.helped = Some(helped);
            if helped {
                self.backoffs[sign as usize] = RejectionBackoff::default();
            } else {
                self.backoffs[sign as usize].add(sign, now);
            }
        }
    }

    /// Forgets whether refreshes have helped. So a late response to a retry has no effect, either.
    pub(crate) fn end_backoffs(&mut self) {
        self.backoffs = Default::default();
        self.replacement = None;
    }
}

// === impl Replacement ===

impl Replacement {
    /// Compares only generations, because they are unique within a cache.
    fn is(&self, token: TokenId) -> bool {
        self.generation == token.generation
    }
}
