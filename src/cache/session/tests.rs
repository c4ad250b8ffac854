//! Random walks: after each event, the session is compared with a model. The model stores only the list of events, and
//! computes every answer from that list.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;

#[cfg(feature = "store")]
mod records;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
/// The deadline of a save. It is shorter than some pauses, so that a save can end after it counts as lost.
const SAVE: Duration = Duration::from_secs(6);
/// A lifetime after which the next fetch has to wait.
const TINY: Duration = Duration::from_millis(10);
const BUDGET: usize = 2;
const BUDGET_WINDOW: Duration = Duration::from_secs(600);

fn policy() -> RefreshPolicy {
    RefreshPolicy::new().rejection_budget(BUDGET, BUDGET_WINDOW)
}

fn start() -> DualInstant {
    DualInstant { mono: Duration::from_secs(1000), wall: Duration::from_secs(1_800_000_000) }
}

fn first_session() -> SessionId {
    SessionId::first_of(7.try_into().expect("not zero"))
}

// === the steps ===

#[derive(Clone, Debug)]
enum Step {
    /// A caller of the current session, or of the previous one, needs a token.
    Need(Demand, bool),
    /// The deadline of the run in the slot passes, so the next caller starts another run.
    Overdue,
    /// A run reports a refresh token of this number.
    Rotate(usize, u8),
    /// A run receives a token with this text, lifetime, refresh token and `refresh_in`.
    Receive(usize, u8, Duration, Option<u8>, Option<Duration>),
    /// A run that received a token publishes it. A run that did not fails.
    End(usize, bool, Option<Duration>),
    /// An API rejects one of the published tokens, or a token of another cache.
    Reject(usize, Option<Sign>),
    /// An API accepts a retry with one of the tokens, or rejects it with this sign.
    Retry(usize, Option<Sign>),
    OverBudget,
    SignOut,
    RunEnded,
    Revoked,
    NewSource(bool),
    Close,
    BeginSave,
    /// A save in flight succeeds, fails, or is dropped.
    Saved(usize, Option<bool>),
    Pass(Duration),
    Adopt,
    /// Something happens to the record that processes share.
    #[cfg(feature = "store")]
    Record(records::Step),
}

/// One step, or a few that belong together.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let demand = || {
        prop::sample::select(vec![
            Demand::Usable,
            Demand::Fresh,
            Demand::Fetched,
            Demand::Fetched,
            Demand::NewerThan(0, None),
            Demand::NewerThan(0, Some(Sign::Standard)),
            Demand::NewerThan(0, Some(Sign::Added)),
        ])
    };
    let sign = || prop::sample::select(vec![Some(Sign::Standard), Some(Sign::Standard), Some(Sign::Added), None]);
    let lifetime = || prop::sample::select(vec![Duration::ZERO, TINY, SECOND, 10 * SECOND, MINUTE, HOUR, HOUR, HOUR]);
    let look_again = || prop::option::weighted(0.2, prop::sample::select(vec![SECOND, 30 * SECOND]));
    let retry_after = || prop::option::weighted(0.3, prop::sample::select(vec![Duration::ZERO, MINUTE, HOUR]));
    let pass =
        prop::sample::select(vec![SECOND / 10, SECOND, 2 * SECOND, 5 * SECOND, 7 * SECOND, 31 * SECOND, MINUTE, HOUR]);
    let step = prop_oneof![
        10 => (demand(), prop::bool::weighted(0.1)).prop_map(|(demand, former)| Step::Need(demand, former)),
        1 => Just(Step::Overdue),
        2 => (0..4_usize, 0..6_u8).prop_map(|(run, number)| Step::Rotate(run, number)),
        9 => (0..4_usize, 0..2_u8, lifetime(), prop::option::of(0..6_u8), look_again())
            .prop_map(|(run, text, life, rotated, again)| Step::Receive(run, text, life, rotated, again)),
        10 => (0..4_usize, any::<bool>(), retry_after()).prop_map(|(run, denied, after)| Step::End(run, denied, after)),
        8 => (prop::sample::select(vec![0, 0, 1, 2]), sign()).prop_map(|(which, sign)| Step::Reject(which, sign)),
        4 => (prop::sample::select(vec![0, 0, 1, 2]), sign()).prop_map(|(which, sign)| Step::Retry(which, sign)),
        1 => Just(Step::OverBudget),
        1 => Just(Step::SignOut),
        1 => Just(Step::RunEnded),
        1 => Just(Step::Revoked),
        2 => any::<bool>().prop_map(Step::NewSource),
        1 => prop::bool::weighted(0.1).prop_map(|close| if close { Step::Close } else { Step::BeginSave }),
        3 => Just(Step::BeginSave),
        3 => (0..3_usize, prop::option::weighted(0.8, prop::bool::weighted(0.7))).prop_map(|(n, ok)| Step::Saved(n, ok)),
        8 => pass.prop_map(Step::Pass),
        1 => prop::bool::weighted(0.2).prop_map(|adopt| if adopt { Step::Adopt } else { Step::BeginSave }),
    ];
    // An old token, a young one after it, and an API that rejects both.
    let both_rejected = (0..2_u8, prop::bool::weighted(0.5)).prop_map(|(text, wait)| {
        let standard = Some(Sign::Standard);
        let mut steps = vec![
            Step::Pass(31 * SECOND),
            Step::Need(Demand::Fetched, false),
            Step::Receive(0, text, HOUR, None, None),
            Step::End(0, false, None),
            Step::Reject(0, standard),
            Step::Retry(1, standard),
        ];
        if wait {
            steps.insert(4, Step::Pass(5 * SECOND));
        }
        steps
    });
    // Three tokens, each fetched because the API rejected the previous one. Only the second one helps.
    let helps_once = any::<bool>().prop_map(|added| {
        let sign = if added { Sign::Added } else { Sign::Standard };
        let refresh = |text: u8, retry: Option<Sign>| {
            vec![
                Step::Pass(11 * MINUTE),
                Step::Reject(0, Some(sign)),
                Step::Need(Demand::NewerThan(0, Some(sign)), false),
                Step::Receive(0, text, HOUR, None, None),
                Step::End(0, false, None),
                Step::Retry(0, retry),
            ]
        };
        let steps = [refresh(0, Some(sign)), refresh(1, None), refresh(0, Some(sign)), vec![Step::Pass(7 * SECOND); 2]];
        steps.concat()
    });
    // A young token that an API rejects, and rejects again after the fallback.
    let rejected_twice = (0..2_u8, any::<bool>()).prop_map(|(text, again)| {
        vec![
            Step::Pass(31 * SECOND),
            Step::Need(Demand::Fetched, false),
            Step::Receive(0, text, HOUR, None, None),
            Step::End(0, false, None),
            Step::Reject(0, Some(Sign::Standard)),
            Step::Pass(5 * SECOND),
            Step::Pass(if again { 7 * SECOND } else { SECOND }),
            Step::Need(Demand::Usable, false),
            Step::Reject(0, Some(Sign::Standard)),
        ]
    });
    // A save that fails after it counted as lost, and after a newer one.
    let late_failure = (0..6_u8, 0..6_u8).prop_map(|(first, second)| {
        vec![
            Step::Need(Demand::Fetched, false),
            Step::Rotate(0, first),
            Step::BeginSave,
            Step::Pass(7 * SECOND),
            Step::Rotate(0, second),
            Step::BeginSave,
            Step::Saved(1, Some(true)),
            Step::Saved(0, Some(false)),
            Step::BeginSave,
        ]
    });
    // A token so short-lived that the next fetch has to wait.
    let short_lived = (0..2_u8).prop_map(|text| {
        vec![
            Step::Need(Demand::Fetched, false),
            Step::Receive(0, text, TINY, None, None),
            Step::End(0, false, None),
            Step::Pass(SECOND / 10),
            Step::Need(Demand::Usable, false),
        ]
    });
    // A rejected token that becomes the fallback, because its replacement did not help, and then is replaced.
    let suspect_fallback = any::<bool>().prop_map(|marked| {
        let standard = Some(Sign::Standard);
        let mut steps = vec![
            Step::Pass(31 * SECOND),
            Step::Need(Demand::Fetched, false),
            Step::Receive(0, 0, HOUR, None, None),
            Step::End(0, false, None),
            Step::Reject(0, None),
            Step::Need(Demand::NewerThan(0, standard), false),
            Step::Receive(0, 1, HOUR, None, None),
            Step::End(0, false, None),
            Step::Retry(0, standard),
            Step::Reject(0, standard),
            Step::Need(Demand::Fetched, false),
            Step::Receive(0, 1, HOUR, None, None),
            Step::End(0, false, None),
            Step::Reject(0, standard),
        ];
        if marked {
            steps.insert(9, Step::Reject(0, None));
        }
        steps
    });
    prop_oneof![
        60 => step.prop_map(|step| vec![step]),
        2 => both_rejected,
        1 => helps_once,
        1 => rejected_twice,
        1 => late_failure,
        1 => suspect_fallback,
        1 => short_lived,
    ]
}

fn walks(steps: impl Strategy<Value = Vec<Step>>) -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(steps, 1..130).prop_map(|steps| steps.concat())
}

// === the model: a list of events ===

#[derive(Clone, Debug)]
enum Event {
    Started(Run, DualInstant),
    /// A run received a token, or reported a refresh token with this text.
    Accepted {
        run: u64,
        /// The text of the access token, unless `reported`.
        token: Option<String>,
        refresh_token: Option<String>,
        reported: bool,
    },
    Published {
        token: Published,
        at: DualInstant,
        /// The sign that rejected the previous token, or `None` if the token was fetched for another reason.
        sign: Option<Sign>,
        /// Whether a fetch returned it.
        fetched: bool,
        /// When it was requested, if a fetch returned it.
        asked: Option<DualInstant>,
    },
    /// The current token and the other one were swapped. `early` is the young token whose rejection was the reason, if
    /// any.
    Swapped {
        at: DualInstant,
        early: Option<u64>,
    },
    /// The other token was dropped. `both`: the current one was dropped, too.
    Dropped {
        both: bool,
    },
    /// A token that replaced a rejected one was rejected, too.
    NotHelped {
        generation: u64,
        sign: Sign,
        at: DualInstant,
    },
    Helped {
        generation: u64,
        sign: Sign,
    },
    Failed {
        denied: bool,
        retry_at: DualInstant,
        streak: u32,
    },
    Rejected {
        generation: u64,
        young: bool,
        at: DualInstant,
    },
    SignedOut,
    RunEnded,
    Forgotten,
    NewSource {
        another_session: bool,
    },
    Closed,
    /// A save ended. `counts`: it was of the newest refresh token of this source.
    Saved {
        number: u64,
        ok: bool,
        wrote: bool,
        counts: bool,
    },
    #[cfg(feature = "store")]
    Record(records::Event),
}

#[derive(Default)]
struct Model {
    log: Vec<Event>,
}

#[derive(Clone, Debug)]
struct Published {
    text: String,
    generation: u64,
    session: u32,
    window: Window,
    lifetime: Duration,
    first_seen: DualInstant,
}

impl Event {
    /// Whether the session ended because another process signed out.
    fn is_end_elsewhere(&self) -> bool {
        #[cfg(feature = "store")]
        if let Self::Record(event) = self {
            return event.is_end();
        }
        false
    }

    /// Whether another process began another session.
    fn is_another_session(&self) -> bool {
        #[cfg(feature = "store")]
        if let Self::Record(event) = self {
            return event.is_another_session();
        }
        false
    }

    /// Whether no token of before is used any more, because of another process.
    fn is_emptied_elsewhere(&self) -> bool {
        self.is_end_elsewhere() || self.is_another_session()
    }

    /// Whether another process logged in again after that.
    fn is_revival(&self) -> bool {
        #[cfg(feature = "store")]
        if let Self::Record(event) = self {
            return event.is_revival();
        }
        false
    }

    /// The access token of an adopted record.
    fn adopted_token(&self) -> Option<Option<String>> {
        #[cfg(feature = "store")]
        if let Self::Record(event) = self {
            return event.adopted_token();
        }
        None
    }

    /// The refresh token that a record brought.
    fn adopted_refresh_token(&self) -> Option<Option<String>> {
        #[cfg(feature = "store")]
        if let Self::Record(event) = self {
            return event.adopted_refresh_token();
        }
        None
    }

    /// The run that adopted a record's token.
    fn adopting_run(&self) -> Option<Run> {
        #[cfg(feature = "store")]
        if let Self::Record(event) = self {
            return event.adopting_run();
        }
        None
    }
}

impl Model {
    /// The events since the session or its source began.
    fn since_source(&self) -> &[Event] {
        let begin = self.log.iter().rposition(|event| matches!(event, Event::NewSource { .. }));
        &self.log[begin.map_or(0, |begin| begin + 1)..]
    }

    /// The events since the view was emptied.
    fn since_empty(&self) -> &[Event] {
        let begin = self.log.iter().rposition(|event| {
            matches!(event, Event::NewSource { .. } | Event::SignedOut) || event.is_emptied_elsewhere()
        });
        &self.log[begin.map_or(0, |begin| begin + 1)..]
    }

    fn session(&self) -> u32 {
        let ends = |event: &&Event| {
            matches!(event, Event::SignedOut | Event::NewSource { another_session: true })
                || event.is_emptied_elsewhere()
        };
        self.log.iter().filter(ends).count() as u32
    }

    fn epoch(&self) -> u64 {
        self.log.iter().filter(|event| matches!(event, Event::NewSource { .. })).count() as u64
    }

    fn is_signed_out(&self) -> bool {
        let mut events = self.since_source().iter().rev();
        let last =
            events.find(|event| matches!(event, Event::SignedOut) || event.is_end_elsewhere() || event.is_revival());
        last.is_some_and(|event| !event.is_revival())
    }

    fn accepts_no_run(&self) -> bool {
        let mut events = self.since_source().iter().rev();
        let last =
            events.find(|event| matches!(event, Event::RunEnded) || event.is_end_elsewhere() || event.is_revival());
        last.is_some_and(|event| !event.is_revival())
    }

    fn is_closed(&self) -> bool {
        self.log.iter().any(|event| matches!(event, Event::Closed))
    }

    fn published(&self) -> Vec<Published> {
        let published = self.log.iter().filter_map(|event| match event {
            Event::Published { token, .. } => Some(token.clone()),
            _ => None,
        });
        published.collect()
    }

    /// The newest published generation.
    fn newest(&self) -> u64 {
        self.published().iter().map(|token| token.generation).max().unwrap_or(0)
    }

    /// The current token, and the other one.
    fn both(&self) -> (Option<Published>, Option<Published>) {
        let (current, other, _) = self.tokens();
        (current, other)
    }

    /// The current token, the other one, and whether the older of the two was marked as rejected.
    fn tokens(&self) -> (Option<Published>, Option<Published>, bool) {
        let (mut current, mut other): (Option<Published>, Option<Published>) = (None, None);
        let mut suspect = false;
        for event in self.since_empty() {
            match event {
                Event::Published { token, at, .. } => {
                    let is_same = current.as_ref().is_some_and(|current| current.generation == token.generation);
                    if !is_same {
                        let marked = |generation: u64| {
                            let before = self.log.iter().take_while(|of| !std::ptr::eq(*of, event)).cloned();
                            Self { log: before.collect() }.is_marked(generation, *at)
                        };
                        let is_good = |former: &Published| {
                            former.window.phase(*at) != Phase::Expired && marked(former.generation) != Some(false)
                        };
                        let generation = current.as_ref().map_or(0, |current| current.generation);
                        let used_fallback = other.is_some_and(|other| other.generation > generation);
                        suspect = used_fallback && suspect || marked(generation).is_some();
                        other = current.filter(is_good);
                    }
                    current = Some(token.clone());
                }
                Event::Swapped { at, .. } => {
                    (current, other) = (other, current);
                    let (now, newer) = (current.as_mut().expect("another"), other.as_ref().expect("another"));
                    if now.generation < newer.generation {
                        now.window = now.window.for_fallback(*at);
                    }
                }
                Event::Dropped { .. } => other = None,
                _ => {}
            }
        }
        (current, other, suspect)
    }

    fn current(&self) -> Option<Published> {
        self.both().0
    }

    fn uses_fallback(&self) -> bool {
        let (current, other) = self.both();
        let generation = current.map_or(0, |current| current.generation);
        other.is_some_and(|other| other.generation > generation)
    }

    /// Whether this token was recently rejected, and whether it was young then.
    fn is_marked(&self, generation: u64, now: DualInstant) -> Option<bool> {
        self.log.iter().rev().find_map(|event| match event {
            Event::Rejected { generation: of, at, .. } if *of == generation && at.after(30 * SECOND).is_past(now) => {
                Some(None)
            }
            Event::Rejected { generation: of, young, .. } if *of == generation => Some(Some(*young)),
            _ => None,
        })?
    }

    /// Whether a fallback replaced this token for some time, and was not rejected itself.
    fn is_early(&self, generation: u64) -> bool {
        let early = self.log.iter().rev().find_map(|event| match event {
            Event::Swapped { early: Some(early), .. } => Some(*early),
            Event::Dropped { both: true } => Some(0),
            _ => None,
        });
        early == Some(generation)
    }

    /// The token of the last fetch, if it replaced a rejected one and it is not known yet whether that helped.
    fn undecided(&self) -> Option<(u64, Sign)> {
        let (generation, sign) = self.replacement()?;
        let settles = |event: &Event| match event {
            Event::NotHelped { generation: of, .. } | Event::Helped { generation: of, .. } => *of == generation,
            _ => false,
        };
        let since = self.log.iter().rposition(|event| matches!(event, Event::Published { fetched: true, .. }))?;
        (!self.log[since..].iter().any(settles)).then_some((generation, sign))
    }

    /// Whether the token of the last fetch did not help, as the last event about it says.
    fn did_not_help(&self, generation: u64) -> bool {
        let since = self.log.iter().rposition(|event| matches!(event, Event::Published { fetched: true, .. }));
        let known = self.log[since.unwrap_or(0)..].iter().rev().find_map(|event| match event {
            Event::NotHelped { generation: of, .. } if *of == generation => Some(true),
            Event::Helped { generation: of, .. } if *of == generation => Some(false),
            _ => None,
        });
        known == Some(true)
    }

    fn replacement(&self) -> Option<(u64, Sign)> {
        self.log.iter().rev().find_map(|event| match event {
            Event::Published { token, sign, fetched: true, .. } => Some(sign.map(|sign| (token.generation, sign))),
            Event::NewSource { .. } => Some(None),
            event if event.is_another_session() => Some(None),
            _ => None,
        })?
    }

    /// Whether rejections with this sign cause no refresh, because earlier refreshes did not help.
    fn is_suspended(&self, sign: Sign, now: DualInstant) -> bool {
        let mut last = None;
        let mut times = 0_u32;
        for event in &self.log {
            match event {
                Event::NotHelped { sign: of, at, .. } if *of == sign => (last, times) = (Some(*at), times + 1),
                Event::Helped { sign: of, .. } if *of == sign => times = 0,
                Event::NewSource { .. } => times = 0,
                event if event.is_another_session() => times = 0,
                _ => {}
            }
        }
        let (first, cap) = if sign == Sign::Standard { (10 * SECOND, MINUTE) } else { (MINUTE, HOUR) };
        let pause = (1..times).fold(first, |pause, _| (pause * 2).min(cap));
        times > 0 && last.is_some_and(|last| !last.after(pause).is_past(now))
    }

    fn is_young(&self, token: &Published, now: DualInstant) -> bool {
        !token.first_seen.after(30 * SECOND).is_past(now)
    }

    /// The effect of a rejection of this token, and its events.
    fn rejection(&self, token: &Published, sign: Option<Sign>, now: DualInstant) -> (Rejection, Vec<Event>) {
        if token.session != self.session() {
            return (Rejection::SessionEnded, Vec::new());
        }
        let generation = token.generation;
        if sign.is_none() && generation == self.newest() && self.uses_fallback() {
            let swapped = Event::Swapped { at: now, early: None };
            let log = self.log.iter().cloned().chain([swapped.clone()]).collect();
            let (rejection, events) = Self { log }.rejection(token, sign, now);
            return (rejection, [swapped].into_iter().chain(events).collect());
        }
        let (current, other) = self.both();
        let other = other.as_ref();
        let Some(current) = current.filter(|current| current.generation == generation) else {
            let is_dead = other.is_some_and(|other| {
                other.generation == generation && generation < self.newest() && !self.is_young(other, now)
            });
            let events = if is_dead { vec![Event::Dropped { both: false }] } else { Vec::new() };
            return (Rejection::Superseded, events);
        };
        let is_young = self.is_young(&current, now);
        if self.uses_fallback() {
            let mut events = vec![Event::Swapped { at: now, early: None }];
            events.extend((!is_young).then_some(Event::Dropped { both: false }));
            return (Rejection::Fallback { first: false }, events);
        }
        let is_other_usable = other.is_some_and(|other| other.window.phase(now) != Phase::Expired);
        let no_help = self.replacement().is_some_and(|(of, _)| of == generation) && self.did_not_help(generation);
        if sign == Some(Sign::Standard) && is_young && is_other_usable && (!self.tokens().2 || no_help) {
            let first = !self.is_early(generation);
            return (Rejection::Fallback { first }, vec![Event::Swapped { at: now, early: Some(generation) }]);
        }
        let settles = if is_young && self.is_early(generation) { 30 * SECOND } else { 2 * SECOND };
        let settled_at = current.first_seen.after(settles);
        if sign.is_some() && !settled_at.is_past(now) {
            return (Rejection::Early(settled_at.wait(now).min(SECOND)), Vec::new());
        }
        let mut events = self.rejected_replacement(generation, sign, now);
        let first =
            !self.log.iter().any(|event| matches!(event, Event::Rejected { generation: of, .. } if *of >= generation));
        events.push(Event::Rejected { generation, young: is_young, at: now });
        (Rejection::Marked { first }, events)
    }

    fn rejected_replacement(&self, generation: u64, sign: Option<Sign>, now: DualInstant) -> Vec<Event> {
        match sign {
            Some(sign) if self.undecided() == Some((generation, sign)) => {
                let fetched = self.log.iter().rev().find_map(|event| match event {
                    Event::Published { at, fetched: true, .. } => Some(*at),
                    _ => None,
                });
                let long = if sign == Sign::Standard { 30 * SECOND } else { 10 * MINUTE };
                let has_helped = fetched.expect("it was fetched").after(long).is_past(now);
                let no_help = Event::NotHelped { generation, sign, at: now };
                vec![if has_helped { Event::Helped { generation, sign } } else { no_help }]
            }
            _ => Vec::new(),
        }
    }

    fn usable(&self, now: DualInstant) -> Option<(Published, Phase)> {
        let current = self.current()?;
        let phase = current.window.phase(now);
        (phase != Phase::Expired).then_some((current, phase))
    }

    /// The failures since the last token, the newest last.
    fn failures(&self) -> Vec<(bool, DualInstant, u32)> {
        let mut failures = Vec::new();
        for event in self.since_empty() {
            match event {
                Event::Published { .. } => failures.clear(),
                Event::Failed { denied, retry_at, streak } => failures.push((*denied, *retry_at, *streak)),
                _ => {}
            }
        }
        failures
    }

    fn next_streak(&self, denied: bool) -> u32 {
        1 + self.failures().iter().rev().take_while(|(kind, ..)| *kind == denied).count() as u32
    }

    fn is_suspect(&self) -> bool {
        let generation = self.current().map(|current| current.generation);
        let newest = self.log.iter().filter_map(|event| match event {
            Event::Rejected { generation, .. } => Some(*generation),
            _ => None,
        });
        newest.max() == generation
    }

    fn has_budget(&self, now: DualInstant) -> bool {
        let mut refreshes = Vec::new();
        for event in &self.log {
            match event {
                Event::Started(run, at) if run.plan.reason == Reason::Rejected => refreshes.push(*at),
                event if event.adopting_run().is_some_and(|run| run.plan.reason == Reason::Rejected) => {
                    refreshes.pop();
                }
                _ => {}
            }
        }
        refreshes.iter().filter(|at| !at.after(BUDGET_WINDOW).is_past(now)).count() < BUDGET
    }

    fn newest_started(&self) -> u64 {
        let newest = self.log.iter().rev().find_map(|event| match event {
            Event::Started(run, _) => Some(run.number),
            _ => None,
        });
        newest.unwrap_or(0)
    }

    fn is_overtaken(&self, run: u64) -> bool {
        self.log.iter().any(|event| match event {
            Event::Accepted { run: newer, .. } => *newer > run,
            event => event.adopting_run().is_some_and(|newer| newer.number > run),
        }) || self.is_of_former_session(run)
    }

    /// Whether this run started before another process began another session.
    fn is_of_former_session(&self, run: u64) -> bool {
        let started = |event: &Event| matches!(event, Event::Started(of, _) if of.number == run);
        let since = self.log.iter().position(started).map_or(&[][..], |start| &self.log[start..]);
        since.iter().any(Event::is_another_session)
    }

    fn refresh_token(&self) -> Option<String> {
        self.refresh_tokens().0
    }

    /// The number of refresh tokens so far, over all sources.
    fn newest_number(&self) -> u64 {
        self.refresh_tokens().1
    }

    /// The newest refresh token of this source, and how many there were over all sources.
    fn refresh_tokens(&self) -> (Option<String>, u64) {
        let (mut newest, mut reporter, mut numbers) = (None, None, 0);
        for event in &self.log {
            let previous = newest.clone();
            match event {
                Event::Accepted { refresh_token, run, reported: true, .. } => {
                    newest.clone_from(refresh_token);
                    reporter = Some(*run);
                }
                Event::Accepted { refresh_token, run, reported: false, .. }
                    if refresh_token.is_some() || reporter != Some(*run) =>
                {
                    newest.clone_from(refresh_token);
                }
                Event::NewSource { .. } | Event::Forgotten => (newest, reporter) = (None, None),
                event if event.is_emptied_elsewhere() => (newest, reporter) = (None, None),
                event => newest = event.adopted_refresh_token().unwrap_or(newest),
            }
            numbers += u64::from(newest.is_some() && newest != previous);
        }
        (newest, numbers)
    }

    /// The newest access token of this source, published or not.
    fn newest_token(&self) -> Option<String> {
        let mut newest = None;
        for event in self.since_source() {
            match event {
                Event::Accepted { token, reported: false, .. } => newest.clone_from(token),
                Event::Published { token, .. } => newest = Some(token.text.clone()),
                Event::Forgotten => newest = None,
                event if event.is_emptied_elsewhere() => newest = None,
                event => newest = event.adopted_token().unwrap_or(newest),
            }
        }
        newest
    }

    /// The number of the last refresh token that may have been written.
    fn saved_number(&self) -> u64 {
        let saved = self.log.iter().rev().find_map(|event| match event {
            Event::Saved { number, wrote: true, .. } => Some(*number),
            _ => None,
        });
        saved.unwrap_or(0)
    }

    /// How long a run waits before it calls the source.
    fn pause_before(&self, reason: Reason, now: DualInstant) -> Duration {
        let asked = self.log.iter().rev().find_map(|event| match event {
            Event::Published { asked, .. } => *asked,
            _ => None,
        });
        match (reason, self.current(), asked) {
            (Reason::Due | Reason::Expired, Some(current), Some(asked)) => {
                let pause = if current.lifetime == TINY { SECOND } else { (current.lifetime / 3).min(SECOND) };
                asked.after(pause).wait(now)
            }
            _ => Duration::ZERO,
        }
    }

    /// Whether the last save of this source failed.
    fn is_not_saved(&self) -> bool {
        let mut not_saved = false;
        for event in self.since_source() {
            match event {
                Event::Saved { ok, counts: true, .. } => not_saved = !ok,
                Event::Forgotten => not_saved = false,
                event if event.is_emptied_elsewhere() => not_saved = false,
                _ => {}
            }
        }
        not_saved
    }

    fn decision(&self, demand: Demand, former: bool, now: DualInstant, in_flight: bool) -> String {
        if former || self.is_signed_out() {
            return "fail: signed out".to_owned();
        }
        let usable = self.usable(now);
        if let Some((current, phase)) = &usable {
            let enough = match demand {
                Demand::Usable => true,
                Demand::Fresh => *phase == Phase::Fresh,
                Demand::NewerThan(generation, _) => current.generation > generation,
                Demand::Fetched => false,
            };
            if enough {
                return format!("use {}", current.generation);
            }
        }
        if in_flight {
            return "join".to_owned();
        }
        if self.is_closed() {
            return "fail: closed".to_owned();
        }
        let backoff = self.failures().last().is_some_and(|(_, retry_at, _)| !retry_at.is_past(now));
        if backoff && demand != Demand::Fetched {
            return "fail: backoff".to_owned();
        }
        let reason = match demand {
            Demand::Fetched => Reason::Asked,
            Demand::NewerThan(..) if usable.is_some() => Reason::Rejected,
            _ if usable.is_some() => Reason::Due,
            _ if self.current().is_some() => Reason::Expired,
            _ => Reason::First,
        };
        let no_help = matches!(demand, Demand::NewerThan(_, Some(sign)) if self.is_suspended(sign, now));
        if reason == Reason::Rejected && (no_help || !self.has_budget(now)) {
            return "over budget".to_owned();
        }
        format!("start {reason} {}", self.epoch())
    }
}

// === the walk ===

/// A run that has not ended, in the slot or replaced.
struct Live {
    run: Run,
    asked: DualInstant,
    received: Option<Token>,
    /// The generation that was current when it began.
    #[cfg(feature = "store")]
    held: u64,
    /// The record that its next record follows.
    #[cfg(feature = "store")]
    base: Option<Record>,
}

struct Walk {
    session: Session,
    model: Model,
    now: DualInstant,
    runs: Vec<Live>,
    /// The number of the run in the slot.
    slot: Option<u64>,
    started: u64,
    /// The saves in flight: the ticket, the refresh token, and when the save counts as lost.
    saves: Vec<(SaveTicket, String, DualInstant)>,
    /// The number of events before each of them began.
    begun: Vec<usize>,
    /// The refresh token of the last save that may have written, and whether it certainly did.
    stored: Option<(u64, String)>,
    sign_outs: Vec<u64>,
    reported_at: Option<DualInstant>,
    seen: BTreeSet<String>,
}

fn describe(decision: &Decision) -> String {
    match decision {
        Decision::Use(token) => format!("use {}", token.generation()),
        Decision::Fail(error) if error.is_signed_out() => "fail: signed out".to_owned(),
        Decision::Fail(error) if error.is_closed() => "fail: closed".to_owned(),
        Decision::Fail(_) => "fail: backoff".to_owned(),
        Decision::OverBudget => "over budget".to_owned(),
        Decision::Join => "join".to_owned(),
        Decision::Start(plan) => format!("start {} {}", plan.reason, plan.epoch),
    }
}

/// A decision without its numbers.
fn kind(decision: &str) -> String {
    decision.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end().to_owned()
}

fn text_of(secret: Option<Secret>) -> Option<String> {
    secret.map(|secret| secret.expose().to_owned())
}

impl Walk {
    fn new() -> Self {
        Self {
            session: Session::new(first_session()),
            model: Model::default(),
            now: start(),
            runs: Vec::new(),
            slot: None,
            started: 0,
            saves: Vec::new(),
            begun: Vec::new(),
            stored: None,
            sign_outs: Vec::new(),
            reported_at: None,
            seen: BTreeSet::new(),
        }
    }

    fn id(&self, number: u32) -> SessionId {
        (0..number).fold(first_session(), |id, _| id.next())
    }

    fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step.clone() {
            Step::Need(demand, former) => self.need(demand, former)?,
            Step::Overdue => self.slot = None,
            Step::Rotate(which, number) => {
                let Some(which) = which.checked_rem(self.runs.len()) else { return Ok(()) };
                let run = self.runs[which].run;
                let text = format!("r{number}");
                let wanted = self.session.on_rotated(run, text.as_str().into());
                prop_assert_eq!(wanted, self.accepts(run));
                if wanted {
                    let refresh_token = Some(text);
                    self.model.log.push(Event::Accepted {
                        run: run.number,
                        token: None,
                        refresh_token,
                        reported: true,
                    });
                }
            }
            Step::Receive(which, text, lifetime, rotated, look_again) => {
                let Some(which) = which.checked_rem(self.runs.len()) else { return Ok(()) };
                let live = &self.runs[which];
                if live.received.is_some() {
                    return Ok(());
                }
                let run = live.run;
                let mut token = Token::new(format!("t{text}")).expect("a token").with_lifetime(lifetime);
                if let Some(number) = rotated {
                    token = token.with_refresh_token(format!("r{number}"));
                }
                if let Some(look_again) = look_again {
                    token = token.with_refresh_in(look_again);
                }
                let wanted = self.accepts(run);
                let received = self.session.on_received(run, token);
                prop_assert_eq!(received.is_some(), wanted);
                match received {
                    Some(token) => {
                        let refresh_token = rotated.map(|number| format!("r{number}"));
                        let text = Some(token.access_token().to_owned());
                        let run = run.number;
                        self.model.log.push(Event::Accepted { run, token: text, refresh_token, reported: false });
                        prop_assert_eq!(text_of(token.refresh_token()), self.model.refresh_token());
                        self.runs[which].received = Some(token);
                    }
                    None => self.drop_run(which),
                }
            }
            Step::End(which, denied, retry_after) => self.end(which, denied, retry_after)?,
            Step::Reject(which, sign) => self.reject(which, sign)?,
            Step::Retry(which, sign) => self.retried(which, sign)?,
            Step::OverBudget => {
                let first = self.reported_at.is_none_or(|at| at.after(BUDGET_WINDOW).is_past(self.now));
                prop_assert_eq!(self.session.on_over_budget(&policy(), self.now), first);
                if first {
                    self.reported_at = Some(self.now);
                }
            }
            Step::SignOut => {
                let epoch = self.session.on_sign_out();
                prop_assert_eq!(epoch, self.model.epoch());
                self.sign_outs.push(epoch);
                self.model.log.push(Event::SignedOut);
            }
            Step::RunEnded => {
                let Some(epoch) = self.sign_outs.pop() else { return Ok(()) };
                let ended = self.session.on_run_ended(epoch);
                prop_assert_eq!(ended.is_ok(), epoch == self.model.epoch());
                if let Ok(refresh_token) = ended {
                    self.model.log.push(Event::RunEnded);
                    prop_assert_eq!(text_of(refresh_token), self.model.refresh_token());
                    self.sign_outs.push(epoch);
                }
            }
            Step::Revoked => {
                let Some(epoch) = self.sign_outs.pop() else { return Ok(()) };
                if epoch == self.model.epoch() && !self.model.accepts_no_run() {
                    self.sign_outs.push(epoch);
                    return Ok(());
                }
                let forgets = self.session.on_revoked(epoch);
                prop_assert_eq!(forgets, epoch == self.model.epoch());
                if forgets {
                    self.model.log.push(Event::Forgotten);
                }
            }
            Step::NewSource(same) => {
                let another_session = !same || self.model.is_signed_out();
                self.session.on_new_source(same);
                self.model.log.push(Event::NewSource { another_session });
                self.slot = None;
            }
            Step::Close => {
                self.session.on_closed();
                self.model.log.push(Event::Closed);
            }
            Step::BeginSave => self.begin_save()?,
            Step::Saved(which, ok) => self.saved(which, ok)?,
            Step::Pass(time) => self.now = self.now.after(time),
            Step::Adopt => {
                if self.model.is_signed_out() {
                    return Ok(());
                }
                let token = Token::new("adopted").expect("a token").with_lifetime(HOUR);
                let window = Window::new(&policy(), HOUR, self.now, Duration::ZERO, 0.0);
                self.session.on_adopted(token.clone(), window, self.now, self.now);
                self.published(&token, window, None, None);
            }
            #[cfg(feature = "store")]
            Step::Record(step) => self.record(&step)?,
        }
        self.compare()
    }

    fn need(&mut self, demand: Demand, former: bool) -> Result<(), TestCaseError> {
        let demand = match demand {
            Demand::NewerThan(_, sign) => Demand::NewerThan(self.model.newest(), sign),
            demand => demand,
        };
        let is_over =
            self.model.uses_fallback() && self.model.usable(self.now).is_none_or(|(_, phase)| phase != Phase::Fresh);
        prop_assert_eq!(self.session.on_time(self.now), is_over);
        if is_over {
            self.model.log.push(Event::Swapped { at: self.now, early: None });
            self.seen.insert("the newer is tried again".to_owned());
        }
        let session = self.id(self.model.session());
        let session = if former { first_session_but(session) } else { session };
        let in_flight = self.slot.is_some();
        let decision = self.session.decide(demand, session, &policy(), self.now, in_flight);
        let expected = self.model.decision(demand, former, self.now, in_flight);
        prop_assert_eq!(describe(&decision), expected.clone());
        if let Decision::Start(plan) = decision {
            self.started += 1;
            let run = Run { number: self.started, plan };
            let sign = match demand {
                Demand::NewerThan(_, sign) if plan.reason == Reason::Rejected => sign,
                _ => None,
            };
            prop_assert_eq!(plan.sign, sign);
            prop_assert_eq!(self.session.pause_before(plan, self.now), self.model.pause_before(plan.reason, self.now));
            self.session.on_started(run, &policy(), self.now);
            self.model.log.push(Event::Started(run, self.now));
            self.runs.push(Live {
                run,
                asked: self.now,
                received: None,
                #[cfg(feature = "store")]
                held: self.model.current().map_or(0, |current| current.generation),
                #[cfg(feature = "store")]
                base: None,
            });
            self.slot = Some(run.number);
        }
        Ok(())
    }

    /// Whether the session accepts a result of this run.
    fn accepts(&self, run: Run) -> bool {
        run.plan.epoch == self.model.epoch() && !self.model.accepts_no_run() && !self.model.is_overtaken(run.number)
    }

    fn drop_run(&mut self, which: usize) {
        let ended = self.runs.remove(which);
        if self.slot == Some(ended.run.number) {
            self.slot = None;
        }
    }

    fn end(&mut self, which: usize, denied: bool, retry_after: Option<Duration>) -> Result<(), TestCaseError> {
        let Some(which) = which.checked_rem(self.runs.len()) else { return Ok(()) };
        let live = &self.runs[which];
        let (run, asked) = (live.run, live.asked);
        let timing = Timing { asked, now: self.now, jitter: 0.5 };
        let wanted = self.accepts(run) && !self.model.is_signed_out();
        let newest = run.number == self.model.newest_started();
        let held = self.model.usable(self.now);
        match live.received.clone() {
            None => {
                let error = if denied { Error::denied("no") } else { Error::transient("not now") };
                let error = retry_after.into_iter().fold(error, Error::with_retry_after);
                let outcome = self.session.on_failed(run, error.clone(), timing);
                if wanted && newest {
                    let Outcome::Failed { for_waiters: Err(_), backoff, .. } = outcome else {
                        return Err(TestCaseError::fail(format!("a failure was expected: {outcome:?}")));
                    };
                    self.failed(denied, retry_after, backoff)?;
                } else {
                    prop_assert!(matches!(outcome, Outcome::Discarded), "{:?}", outcome);
                }
            }
            Some(token) => {
                let took = self.now.mono - asked.mono;
                let mut window = Window::new(&policy(), token.lifetime(), asked, took, 0.5);
                if let Some(refresh_in) = token.refresh_in() {
                    window = window.due_within(refresh_in, 0.5);
                }
                let suspect = self.model.is_suspect();
                let outcome = self.session.on_fetched(run, token.clone(), &policy(), timing);
                let same = held.as_ref().filter(|(held, _)| held.text == token.access_token());
                let no_longer = same.is_some_and(|(held, _)| {
                    token.refresh_in().is_none() && window.end().mono <= held.window.end().mono + SECOND
                });
                let fails = window.phase(self.now) == Phase::Expired || same.is_some() && suspect || no_longer;
                if same.is_some() && suspect && wanted && newest {
                    self.seen.insert("a rejected token again".to_owned());
                }
                if !wanted || fails && !newest {
                    prop_assert!(matches!(outcome, Outcome::Discarded), "{:?}", outcome);
                } else if fails {
                    let Outcome::Failed { for_waiters, backoff, .. } = outcome else {
                        return Err(TestCaseError::fail(format!("a failure was expected: {outcome:?}")));
                    };
                    // The waiters get the current token, unless they need another one.
                    let answers = no_longer && !suspect && window.phase(self.now) != Phase::Expired;
                    prop_assert_eq!(for_waiters.is_ok(), answers && run.plan.reason != Reason::Rejected);
                    self.failed(false, None, backoff)?;
                    self.seen.insert("unchanged".to_owned());
                } else {
                    let Outcome::Fetched { token: published, remaining } = outcome else {
                        return Err(TestCaseError::fail(format!("a token was expected: {outcome:?}")));
                    };
                    let left = self.model.current().map_or(Duration::ZERO, |held| held.window.remaining(self.now));
                    prop_assert_eq!(remaining, left);
                    self.published(&published, window, run.plan.sign, Some(asked));
                    self.seen.insert("published".to_owned());
                }
            }
        }
        self.drop_run(which);
        Ok(())
    }

    /// The session published this token. `asked`: when it was requested, if a fetch returned it.
    fn published(&mut self, token: &Token, window: Window, sign: Option<Sign>, asked: Option<DualInstant>) {
        let held = self.model.usable(self.now).filter(|(held, _)| held.text == token.access_token());
        let (generation, first_seen) = match held {
            Some((held, _)) => (held.generation, held.first_seen),
            None => (self.model.newest() + 1, self.now),
        };
        let (text, session) = (token.access_token().to_owned(), self.model.session());
        let token = Published { text, generation, session, window, lifetime: token.lifetime(), first_seen };
        self.model.log.push(Event::Published { token, at: self.now, sign, fetched: asked.is_some(), asked });
    }

    fn failed(&mut self, denied: bool, retry_after: Option<Duration>, backoff: Duration) -> Result<(), TestCaseError> {
        let streak = self.model.next_streak(denied);
        let left = self.model.current().map_or(Duration::ZERO, |held| held.window.remaining(self.now));
        let expected = if denied {
            schedule::denied_backoff(streak, retry_after)
        } else {
            schedule::backoff(streak, left, retry_after, 0.5)
        };
        prop_assert_eq!(backoff, expected, "streak {}", streak);
        self.model.log.push(Event::Failed { denied, retry_at: self.now.after(backoff), streak });
        Ok(())
    }

    fn reject(&mut self, which: usize, sign: Option<Sign>) -> Result<(), TestCaseError> {
        let published = self.model.published();
        let Some(index) = published.len().checked_sub(1 + which) else {
            // A token of another cache or of none. Its generation may exist here, now or later.
            for session in [SessionId::default(), SessionId::first_of(8.try_into().expect("not zero"))] {
                let foreign = TokenId { session, generation: which as u64 };
                prop_assert_eq!(self.session.on_rejected(foreign, sign, self.now), Rejection::Unknown);
            }
            return Ok(());
        };
        let token = &published[index];
        let id = TokenId { session: self.id(token.session), generation: token.generation };
        let (expected, events) = self.model.rejection(token, sign, self.now);
        prop_assert_eq!(self.session.on_rejected(id, sign, self.now), expected);
        self.model.log.extend(events);
        let kind = if matches!(expected, Rejection::Early(_)) { "Early".to_owned() } else { format!("{expected:?}") };
        self.seen.insert(format!("rejection {kind}"));
        Ok(())
    }

    fn retried(&mut self, which: usize, sign: Option<Sign>) -> Result<(), TestCaseError> {
        let published = self.model.published();
        let Some(token) = published.len().checked_sub(1 + which).map(|index| published[index].clone()) else {
            return Ok(());
        };
        let id = TokenId { session: self.id(token.session), generation: token.generation };
        let Some(sign) = sign else {
            self.session.on_accepted(id);
            if let Some((generation, sign)) = self.model.replacement().filter(|(of, _)| *of == token.generation) {
                self.model.log.push(Event::Helped { generation, sign });
                self.seen.insert("helped".to_owned());
            }
            return Ok(());
        };
        let events = self.model.rejected_replacement(token.generation, Some(sign), self.now);
        if !events.is_empty() {
            self.seen.insert("did not help".to_owned());
        }
        self.model.log.extend(events);
        let (current, newer) = self.model.both();
        let current =
            current.filter(|current| current.generation == token.generation && token.session == self.model.session());
        let used_fallback = current.filter(|current| !self.model.is_young(current, self.now));
        let mut expected = None;
        if sign == Sign::Standard && self.model.uses_fallback() && used_fallback.is_some() {
            self.model.log.push(Event::Swapped { at: self.now, early: None });
            self.model.log.push(Event::Dropped { both: true });
            let newer = newer.expect("a newer one");
            expected = newer.first_seen.after(2 * SECOND).is_past(self.now).then_some(newer.generation);
            self.seen.insert("both rejected".to_owned());
        }
        let newer = self.session.on_rejected_again(id, sign, self.now);
        prop_assert_eq!(newer.map(|newer| newer.generation), expected);
        Ok(())
    }

    // --- saves ---

    /// Begins a save. The number of the newest refresh token is the count of changes.
    fn begin_save(&mut self) -> Result<(), TestCaseError> {
        let until = self.now.after(SAVE);
        let busy = self.saves.iter().any(|(_, _, until)| !until.is_past(self.now));
        let newest = self.model.refresh_token();
        let is_unsaved = newest.is_some() && self.model.saved_number() < self.model.newest_number();
        match self.session.begin_save(self.now, until) {
            SaveStep::Done => {
                prop_assert!(!is_unsaved);
                let stored = self.stored.as_ref().map(|(_, text)| text);
                prop_assert!(newest.is_none() || stored == newest.as_ref(), "{newest:?} is not saved: {stored:?}");
            }
            SaveStep::Wait(_) => prop_assert!(busy && is_unsaved, "nothing is waited for"),
            SaveStep::Save(ticket, rotated) => {
                prop_assert!(!busy, "two saves at once");
                prop_assert!(is_unsaved, "it is saved already");
                let token = rotated.token().map(|token| token.access_token().to_owned());
                prop_assert_eq!(token, self.model.newest_token());
                prop_assert_eq!(text_of(Some(rotated.refresh_token().clone())), newest);
                let text = rotated.refresh_token().expose().to_owned();
                self.saves.push((ticket, text, until));
                self.begun.push(self.model.log.len());
                self.seen.insert("save".to_owned());
            }
        }
        Ok(())
    }

    fn saved(&mut self, which: usize, ok: Option<bool>) -> Result<(), TestCaseError> {
        let Some(which) = which.checked_rem(self.saves.len()) else { return Ok(()) };
        let (ticket, text, _) = self.saves.remove(which);
        let begun = self.begun.remove(which);
        let number = ticket.number;
        let result = ok.map(|ok| if ok { Ok(()) } else { Err(Error::not_saved("the disk is full")) });
        let (again, _) = self.session.on_saved(ticket, result);
        let overwrote = self.model.saved_number() > number;
        let newest = self.model.newest_number();
        let is_older = number < newest && self.model.refresh_token().is_some();
        prop_assert_eq!(again, is_older, "an older save may have overwritten a newer");
        // An older save that failed may have written anyway.
        let wrote = ok == Some(true) || overwrote;
        if wrote {
            self.stored = Some((number, text));
        }
        if overwrote {
            self.seen.insert("saved again".to_owned());
        }
        let of_this_source = !self.model.log[begun..]
            .iter()
            .any(|event| matches!(event, Event::NewSource { .. } | Event::Forgotten) || event.is_emptied_elsewhere());
        let counts = of_this_source && number == newest && ok.is_some();
        self.model.log.push(Event::Saved { number, ok: ok == Some(true), wrote, counts });
        Ok(())
    }

    // --- what is compared after each step ---

    fn compare(&mut self) -> Result<(), TestCaseError> {
        let Self { session, model, now, .. } = &*self;
        let status = session.status(*now, false);
        let current = model.current();
        prop_assert_eq!(status.phase, current.as_ref().map(|current| current.window.phase(*now)));
        prop_assert_eq!(status.generation, current.as_ref().map_or(0, |current| current.generation));
        prop_assert_eq!(status.usable_for, current.as_ref().map(|current| current.window.remaining(*now)));
        prop_assert_eq!(status.suspect, current.is_some() && model.is_suspect());
        prop_assert_eq!(status.closed, model.is_closed());
        prop_assert_eq!(status.signed_out, model.is_signed_out());
        prop_assert_eq!(status.not_saved.is_some(), model.is_not_saved());
        let failure = model.failures().pop();
        prop_assert_eq!(status.last_failure.map(|error| error.is_denied()), failure.map(|(denied, ..)| denied));
        let backoff = failure.map(|(_, retry_at, _)| retry_at.wait(*now)).filter(|wait| !wait.is_zero());
        prop_assert_eq!(status.next_attempt_in, backoff);
        prop_assert_eq!(session.failed_fetches(), model.failures().len() as u32);
        prop_assert_eq!(text_of(session.refresh_token().cloned()), model.refresh_token());
        prop_assert_eq!(session.newest().map(|token| token.access_token().to_owned()), model.newest_token());
        #[cfg(feature = "keyed")]
        prop_assert_eq!(
            session.holds_unsaved_refresh_token(),
            model.refresh_token().is_some() && model.saved_number() < model.newest_number()
        );
        #[cfg(feature = "store")]
        model.compare_record(session)?;
        let view = session.view();
        prop_assert_eq!(view.session, self.id(model.session()));
        if let Some(current) = &view.current {
            let id = current.token.id();
            prop_assert_eq!(id.session, view.session, "a token of another session");
        }
        let mut covered = Vec::new();
        // Every next demand, by any caller, with and without a run in flight.
        let newest = current.map_or(0, |current| current.generation);
        let demands = [
            Demand::Usable,
            Demand::Fresh,
            Demand::Fetched,
            Demand::NewerThan(newest, None),
            Demand::NewerThan(newest, Some(Sign::Standard)),
            Demand::NewerThan(newest, Some(Sign::Added)),
            Demand::NewerThan(newest.saturating_sub(1), None),
        ];
        for demand in demands {
            for (former, in_flight) in [(false, false), (false, true), (true, false), (true, true)] {
                let id = if former { first_session_but(view.session) } else { view.session };
                let decision = session.decide(demand, id, &policy(), *now, in_flight);
                let expected = model.decision(demand, former, *now, in_flight);
                prop_assert_eq!(describe(&decision), expected.clone());
                covered.push(expected);
            }
        }
        self.seen.extend(covered.iter().map(|decision| kind(decision)));
        Ok(())
    }
}

/// Another session of the same cache.
fn first_session_but(session: SessionId) -> SessionId {
    if session == first_session() { session.next() } else { first_session() }
}

/// Takes walks of these steps, and checks that they cover each wanted case.
fn take_walks(cases: u32, steps: impl Strategy<Value = Vec<Step>>, wanted: &[&str]) {
    let mut seen = BTreeSet::new();
    let mut steps_taken = 0;
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let cell = std::cell::RefCell::new((&mut seen, &mut steps_taken));
    let outcome = runner.run(&walks(steps), |steps| {
        let mut walk = Walk::new();
        steps.iter().try_for_each(|step| walk.step(step))?;
        let mut covered = cell.borrow_mut();
        covered.0.append(&mut walk.seen);
        *covered.1 += steps.len();
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    assert!(steps_taken > 20_000, "{steps_taken}");
    for wanted in wanted {
        assert!(seen.contains(*wanted), "no walk covers {wanted:?}: {seen:?}");
    }
}

#[test]
fn every_walk_agrees_with_the_list_of_what_happened() {
    let wanted = [
        "use",
        "fail: signed out",
        "fail: closed",
        "fail: backoff",
        "over budget",
        "join",
        "start first",
        "start due",
        "start expired",
        "start rejected",
        "start asked",
        "published",
        "unchanged",
        "rejection Marked { first: true }",
        "rejection Marked { first: false }",
        "rejection Superseded",
        "rejection SessionEnded",
        "rejection Fallback { first: true }",
        "rejection Early",
        "the newer is tried again",
        "both rejected",
        "did not help",
        "helped",
        "save",
        "saved again",
        "a rejected token again",
    ];
    take_walks(800, steps(), &wanted);
}
