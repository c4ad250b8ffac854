//! The same walks, with a record that processes share: other processes save, sign out and log in again.

use proptest::prelude::*;

use super::*;

/// The identity of this process's session.
fn identity() -> Digest {
    Digest::of(["ann"])
}

fn seed(number: u8) -> Secret {
    format!("r{number}").as_str().into()
}

// === the steps ===

#[derive(Clone, Debug)]
pub(super) enum Step {
    /// The store returns this record to a run, or to a look in the background. The source begins with this seed.
    Found(Option<usize>, Choice, Option<u8>),
    /// A run made a record, and saved it or not.
    Made(usize, Content, bool),
    /// The driver wrote the known record again, or an older one.
    Restored(bool),
    /// The sign-out of this process ended the record, and saved that or not.
    EndedHere(bool),
}

/// A record, as it differs from the known one.
#[derive(Clone, Debug)]
pub(super) struct Choice {
    change: Change,
    content: Content,
    of_another: bool,
    /// Another login that the record lists.
    seed: Option<u8>,
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Missing,
    Nothing,
    Serial(i8),
    Login(i8),
    /// A newer login, which began another session.
    Session,
}

#[derive(Clone, Debug)]
pub(super) enum Content {
    /// A token with this text, lifetime, age and `refresh_in`, and a refresh token.
    Active(Option<(u8, Duration, Duration, Option<Duration>)>, Option<u8>),
    SignedOut,
    Denied(u8),
}

fn content() -> impl Strategy<Value = Content> {
    let lifetime = || prop::sample::select(vec![10 * SECOND, MINUTE, HOUR, HOUR]);
    let age = || prop::sample::select(vec![Duration::ZERO, SECOND, SECOND, MINUTE, HOUR]);
    let look_again = || prop::option::weighted(0.2, Just(30 * SECOND));
    let token = prop::option::weighted(0.9, (0..3_u8, lifetime(), age(), look_again()));
    prop_oneof![
        8 => (token, prop::option::of(0..6_u8)).prop_map(|(token, refresh)| Content::Active(token, refresh)),
        1 => Just(Content::SignedOut),
        1 => (0..6_u8).prop_map(Content::Denied),
    ]
}

fn record_steps() -> impl Strategy<Value = Vec<super::Step>> {
    let change = prop_oneof![
        1 => Just(Change::Missing),
        3 => Just(Change::Nothing),
        8 => (-1..2_i8).prop_map(Change::Serial),
        2 => (-1..2_i8).prop_map(Change::Login),
        4 => Just(Change::Serial(1)),
        2 => Just(Change::Session),
    ];
    let choice = (change, content(), prop::bool::weighted(0.05), prop::option::weighted(0.3, 0..3_u8))
        .prop_map(|(change, content, of_another, seed)| Choice { change, content, of_another, seed });
    let run = || prop::option::weighted(0.7, 0..4_usize);
    let step = prop_oneof![
        8 => (run(), choice, prop::option::of(0..3_u8)).prop_map(|(run, choice, seed)| Step::Found(run, choice, seed)),
        4 => (0..4_usize, content(), prop::bool::weighted(0.3)).prop_map(|(run, held, not)| Step::Made(run, held, not)),
        1 => any::<bool>().prop_map(Step::Restored),
        1 => prop::bool::weighted(0.3).prop_map(Step::EndedHere),
    ];
    // A refresh because of a rejection, which adopts the token of another process instead.
    let adopts = (0..3_u8, 0..6_u8).prop_map(|(text, refresh_token)| {
        let sign = Some(Sign::Standard);
        let token = Some((text, HOUR, SECOND, None));
        let content = Content::Active(token, Some(refresh_token));
        let choice = Choice { change: Change::Serial(1), content, of_another: false, seed: None };
        vec![
            super::Step::Pass(31 * SECOND),
            super::Step::Reject(0, sign),
            super::Step::Need(Demand::NewerThan(0, sign), false),
            super::Step::Record(Step::Found(Some(0), choice, None)),
        ]
    });
    // An older run that goes on after a newer one has adopted a record.
    let overtaken = (0..6_u8, 0..6_u8, 0..2_u8).prop_map(|(first, second, text)| {
        let content = Content::Active(Some((2, HOUR, SECOND, None)), Some(first));
        let choice = Choice { change: Change::Serial(1), content, of_another: false, seed: None };
        vec![
            super::Step::Need(Demand::Fetched, false),
            super::Step::Overdue,
            super::Step::Need(Demand::Fetched, false),
            super::Step::Record(Step::Found(Some(1), choice, None)),
            super::Step::Receive(0, text, HOUR, Some(second), None),
            super::Step::End(0, false, None),
        ]
    });
    prop_oneof![
        12 => step.prop_map(|step| vec![super::Step::Record(step)]),
        1 => adopts,
        1 => overtaken,
    ]
}

// === the model ===

#[derive(Clone, Debug)]
pub(super) enum Event {
    /// A newer record became known. `revived`: it followed a sign-out. `run`: the run that got its token.
    Adopted {
        record: Record,
        revived: bool,
        run: Option<Run>,
    },
    /// A newer record became known, which has no token.
    Known(Record),
    /// Another process signed out.
    Ended(Record),
    /// Another process began another session.
    AnotherSession,
    /// The store has the known record.
    Seen,
    /// The refresh token was denied, and a new login follows.
    NoRefreshToken,
    Made {
        record: Record,
        unsaved: bool,
        epoch: u64,
    },
    Restored,
    EndedHere {
        record: Record,
        unsaved: bool,
        epoch: u64,
    },
}

impl Event {
    pub(super) fn is_end(&self) -> bool {
        matches!(self, Self::Ended(_))
    }

    pub(super) fn is_another_session(&self) -> bool {
        matches!(self, Self::AnotherSession)
    }

    pub(super) fn is_revival(&self) -> bool {
        matches!(self, Self::Adopted { revived: true, .. })
    }

    /// The access token of an adopted record.
    pub(super) fn adopted_token(&self) -> Option<Option<String>> {
        match self {
            Self::Adopted { record, .. } => Some(record.token().map(|saved| saved.token.access_token().to_owned())),
            _ => None,
        }
    }

    /// The refresh token that a record brought, or none after a denial.
    pub(super) fn adopted_refresh_token(&self) -> Option<Option<String>> {
        match self {
            Self::Adopted { record, .. } => Some(text_of(record.refresh_token().cloned())),
            Self::NoRefreshToken => Some(None),
            _ => None,
        }
    }

    pub(super) fn adopting_run(&self) -> Option<Run> {
        match self {
            Self::Adopted { run, .. } => *run,
            _ => None,
        }
    }
}

fn text_of_record(record: &Record) -> String {
    let Record { login, session, serial, initial_refresh_tokens: seeds, state, .. } = record;
    let digests = (0..6).map(|number| Digest::of_secret(&seed(number)));
    let digests: Vec<_> = digests.collect();
    let seeds: Vec<_> = seeds.iter().map(|seed| digests.iter().position(|digest| digest == seed)).collect();
    let whose = if record.identity == identity() { "own" } else { "of another" };
    let state = match state {
        State::Active { token, refresh_token, .. } => {
            let text = token.as_ref().map(|saved| saved.token.access_token().to_owned());
            format!("{text:?} {:?}", text_of(refresh_token.clone()))
        }
        State::Ended(ending) => format!("{ending:?}"),
    };
    format!("{whose} {login} {session} {serial} {seeds:?} {state}")
}

fn text_of_outcome(outcome: &ReadOutcome) -> String {
    match outcome {
        ReadOutcome::Usable { token, adopted } => format!("usable {adopted} {}", token.generation()),
        ReadOutcome::Ended(error) if error.is_signed_out() => "ended".to_owned(),
        ReadOutcome::Ended(_) => "denied".to_owned(),
        ReadOutcome::OtherIdentity(_) => "other identity".to_owned(),
        ReadOutcome::Fetch { base, is_login: true } => format!("login: {}", text_of_record(base)),
        ReadOutcome::Fetch { base, is_login: false } => format!("next: {}", text_of_record(base)),
        ReadOutcome::Lost(record) => format!("lost: {}", text_of_record(record)),
        ReadOutcome::Discarded => "discarded".to_owned(),
    }
}

/// One look, as the model sees it.
struct Seen<'a> {
    found: Option<&'a Record>,
    run: Option<Run>,
    seed: Option<u8>,
    /// The generation that was current when the run began.
    held: u64,
    now: DualInstant,
}

impl Model {
    fn record_events(&self) -> impl DoubleEndedIterator<Item = &Event> {
        self.log.iter().filter_map(|event| match event {
            super::Event::Record(event) => Some(event),
            _ => None,
        })
    }

    fn known(&self) -> Option<&Record> {
        self.record_events().rev().find_map(|event| match event {
            Event::Adopted { record, .. }
            | Event::Known(record)
            | Event::Ended(record)
            | Event::Made { record, .. }
            | Event::EndedHere { record, .. } => Some(record),
            Event::Seen | Event::NoRefreshToken | Event::Restored | Event::AnotherSession => None,
        })
    }

    fn is_unsaved(&self) -> bool {
        let unsaved = self.record_events().rev().find_map(|event| match event {
            Event::Made { unsaved, .. } | Event::EndedHere { unsaved, .. } => Some(*unsaved),
            Event::NoRefreshToken | Event::AnotherSession => None,
            _ => Some(false),
        });
        unsaved.unwrap_or(false)
    }

    fn has_new_login(&self) -> bool {
        let epoch = self.record_events().rev().find_map(|event| match event {
            Event::Made { epoch, .. } | Event::EndedHere { epoch, .. } => Some(*epoch),
            _ => None,
        });
        epoch.unwrap_or(0) != self.epoch()
    }

    /// Whether another session began in this process since it made a record.
    fn begins_session(&self) -> bool {
        let last = self.log.iter().rev().find_map(|event| match event {
            super::Event::NewSource { another_session: true } => Some(true),
            super::Event::Record(Event::Made { .. } | Event::EndedHere { .. }) => Some(false),
            _ => None,
        });
        last.unwrap_or(false)
    }

    fn is_ended_elsewhere(&self) -> bool {
        let last = self.log.iter().rev().find_map(|event| match event {
            super::Event::SignedOut | super::Event::NewSource { .. } => Some(false),
            super::Event::Record(Event::Ended(_)) => Some(true),
            super::Event::Record(Event::Adopted { .. } | Event::EndedHere { .. }) => Some(false),
            _ => None,
        });
        last.unwrap_or(false)
    }

    pub(super) fn compare_record(&self, session: &Session) -> Result<(), TestCaseError> {
        prop_assert_eq!(session.known_record().map(text_of_record), self.known().map(text_of_record));
        prop_assert_eq!(session.unsaved().is_some(), self.is_unsaved());
        prop_assert_eq!(session.has_new_login(), self.has_new_login());
        prop_assert_eq!(session.is_ended_elsewhere(), self.is_ended_elsewhere());
        Ok(())
    }

    /// What a look finds, and its events.
    fn outcome(&self, seen: &Seen<'_>) -> (String, Vec<super::Event>) {
        let record = |event| vec![super::Event::Record(event)];
        let nothing = || ("discarded".to_owned(), Vec::new());
        let is_late = |run: Run| run.plan.epoch != self.epoch() || self.is_overtaken(run.number);
        if seen.run.is_some_and(is_late) || self.is_signed_out() && !self.is_ended_elsewhere() {
            return nothing();
        }
        let known = self.known();
        let login = |found: Option<&Record>, events| match seen.run {
            None => nothing(),
            Some(_) => (self.login(found, seen.seed), events),
        };
        let lost = |known| (format!("lost: {}", text_of_record(known)), Vec::new());
        let is_own = |record: &Record| record.identity == identity();
        let ends = |record: &Record| matches!(record.state, State::Ended(_));
        match (seen.found, known) {
            (Some(found), _) if !is_own(found) && !ends(found) => ("other identity".to_owned(), Vec::new()),
            (Some(found), Some(_)) if !is_own(found) && !self.has_new_login() => {
                ("other identity".to_owned(), Vec::new())
            }
            (Some(found), _) if !is_own(found) => login(Some(found), Vec::new()),
            (found, _) if self.has_new_login() => login(found, Vec::new()),
            (None, None) => login(None, Vec::new()),
            (None, Some(known)) => lost(known),
            (Some(found), None)
                if seen.seed.is_some_and(|number| {
                    !found.initial_refresh_tokens.contains(&Digest::of_secret(&seed(number)))
                }) =>
            {
                login(Some(found), Vec::new())
            }
            (Some(found), Some(known)) if !found.is_newer_than(known) && !found.says_the_same(known) => lost(known),
            (Some(found), known) => {
                let is_newer = known.is_none_or(|known| found.is_newer_than(known));
                match &found.state {
                    _ if is_newer && known.is_some_and(|known| known.session != found.session) && ends(found) => {
                        self.ended_in_another_session(found, seen)
                    }
                    State::Ended(Ending::SignedOut { .. }) => {
                        let event = if self.is_ended_elsewhere() {
                            Event::Known(found.clone())
                        } else {
                            Event::Ended(found.clone())
                        };
                        ("ended".to_owned(), record(event))
                    }
                    State::Ended(Ending::Denied { .. }) => {
                        let mut events = record(if is_newer { Event::Known(found.clone()) } else { Event::Seen });
                        match seen {
                            Seen { run: None, .. } => ("discarded".to_owned(), events),
                            Seen { seed: Some(_), .. } => ("denied".to_owned(), events),
                            Seen { seed: None, .. } => {
                                events.extend(record(Event::NoRefreshToken));
                                login(Some(found), events)
                            }
                        }
                    }
                    State::Active { .. } if is_newer => self.adopting(found, seen),
                    State::Active { .. } => {
                        let usable = self.usable(seen.now).map(|(current, _)| current.generation);
                        let usable = usable.filter(|generation| *generation > seen.held && !self.is_suspect());
                        let next = || format!("next: {}", text_of_record(found));
                        (usable.map_or_else(next, |current| format!("usable false {current}")), record(Event::Seen))
                    }
                }
            }
        }
    }

    /// The record of a new login, which is newer than this and the known record.
    fn login(&self, found: Option<&Record>, own: Option<u8>) -> String {
        let all = || [found, self.known()].into_iter().flatten();
        let login = all().map(|record| record.login).max().unwrap_or(0) + 1;
        let is_of_another = found.zip(self.known()).is_some_and(|(found, known)| found.session != known.session);
        let begins_session = self.begins_session() || is_of_another || all().any(Record::is_signed_out);
        let session = all().map(|record| record.session).max().unwrap_or(0) + u64::from(begins_session);
        let serial = all().map(|record| record.serial).max().unwrap_or(0) + 1;
        let own = own.map(seed);
        let mut seeds = found
            .filter(|found| found.identity == identity())
            .map_or(Vec::new(), |found| found.initial_refresh_tokens.clone());
        seeds.extend(own.as_ref().map(Digest::of_secret).filter(|digest| !seeds.contains(digest)));
        let state = State::Active { token: None, refresh_token: own, refreshing: None };
        format!(
            "login: {}",
            text_of_record(&Record {
                identity: identity(),
                login,
                session,
                serial,
                initial_refresh_tokens: seeds,
                state
            })
        )
    }

    /// A look that finds that another session began and ended.
    fn ended_in_another_session(&self, found: &Record, seen: &Seen<'_>) -> (String, Vec<super::Event>) {
        let another = super::Event::Record(Event::AnotherSession);
        // As if the session were known, and this were its next record.
        let known = Record { session: found.session, ..self.known().expect("it is known").clone() };
        let mut log = self.log.clone();
        log.extend([another.clone(), super::Event::Record(Event::Known(known))]);
        let (outcome, mut events) = match (&found.state, seen) {
            (State::Ended(Ending::Denied { .. }), Seen { run: Some(_), seed: None, .. }) => {
                let events = [Event::Known(found.clone()), Event::NoRefreshToken].map(super::Event::Record);
                ("discarded".to_owned(), events.to_vec())
            }
            (State::Ended(Ending::Denied { .. }), Seen { run: Some(_), seed: Some(_), .. }) => {
                ("denied".to_owned(), vec![super::Event::Record(Event::Known(found.clone()))])
            }
            // The run belongs to the former session, so it reads like the background.
            _ => Self { log }.outcome(&Seen { run: None, ..*seen }),
        };
        events.insert(0, another);
        (outcome, events)
    }

    /// A look that finds a newer record with a token or refresh token.
    fn adopting(&self, found: &Record, seen: &Seen<'_>) -> (String, Vec<super::Event>) {
        let revived = self.is_ended_elsewhere();
        if revived || self.known().is_some_and(|known| known.session != found.session) {
            let mut log = self.log.clone();
            log.push(super::Event::Record(Event::AnotherSession));
            let (outcome, mut events) = Self { log }.adopting_in_session(found, seen, revived);
            events.insert(0, super::Event::Record(Event::AnotherSession));
            let is_login = outcome.starts_with("next");
            return (if is_login { "discarded".to_owned() } else { outcome }, events);
        }
        self.adopting_in_session(found, seen, false)
    }

    fn adopting_in_session(&self, found: &Record, seen: &Seen<'_>, revived: bool) -> (String, Vec<super::Event>) {
        let rejected = self.current().filter(|_| self.is_suspect()).map(|current| current.text);
        let usable = found.token().and_then(|saved| {
            let SavedToken { token, asked } = saved;
            let mut window = Window::new(&policy(), token.lifetime(), *asked, Duration::ZERO, 0.5);
            if let Some(refresh_in) = token.refresh_in() {
                window = window.due_within(refresh_in, 0.5);
            }
            let usable = window.phase(seen.now) != Phase::Expired && rejected.as_deref() != Some(token.access_token());
            usable.then_some((token, *asked, window))
        });
        let run = seen.run.filter(|_| usable.is_some());
        let mut events = vec![super::Event::Record(Event::Adopted { record: found.clone(), revived, run })];
        let Some((token, asked, window)) = usable else {
            return (format!("next: {}", text_of_record(found)), events);
        };
        let text = token.access_token().to_owned();
        let same = self.usable(seen.now).filter(|(current, _)| current.text == text);
        let (generation, first_seen) =
            same.map_or_else(|| (self.newest() + 1, asked), |(current, _)| (current.generation, current.first_seen));
        let (session, lifetime) = (self.session(), token.lifetime());
        let token = Published { text, generation, session, window, lifetime, first_seen };
        events.push(super::Event::Published { token, at: seen.now, sign: None, fetched: false, asked: None });
        (format!("usable true {generation}"), events)
    }
}

// === the walk ===

impl Walk {
    fn state(&self, content: &Content) -> State {
        match content {
            Content::Active(token, refresh_token) => {
                // A record has at least one of both.
                let refresh_token = refresh_token.or(token.is_none().then_some(0)).map(seed);
                let token = token.map(|(text, lifetime, age, look_again)| {
                    let mut token = Token::new(format!("t{text}")).expect("a token").with_lifetime(lifetime);
                    if let Some(look_again) = look_again {
                        token = token.with_refresh_in(look_again);
                    }
                    if let Some(refresh_token) = &refresh_token {
                        token = token.with_refresh_token(refresh_token.clone());
                    }
                    SavedToken { token, asked: self.now.before(age) }
                });
                State::Active { token, refresh_token, refreshing: None }
            }
            Content::SignedOut => State::Ended(Ending::SignedOut { revoke: None }),
            Content::Denied(number) => {
                State::Ended(Ending::Denied { refresh_token: Digest::of_secret(&seed(*number)) })
            }
        }
    }

    fn found(&self, choice: &Choice) -> Option<Record> {
        let known = self.model.known();
        if let Change::Nothing = choice.change {
            return known.cloned();
        }
        let new = || Record {
            identity: identity(),
            login: 2,
            serial: 2,
            initial_refresh_tokens: vec![],
            session: 2,
            state: State::Ended(Ending::SignedOut { revoke: None }),
        };
        let mut record = known.cloned().unwrap_or_else(new);
        let add = |number: u64, change: i8| number.saturating_add_signed(change.into());
        match choice.change {
            Change::Missing => return None,
            Change::Nothing => {}
            Change::Serial(change) => record.serial = add(record.serial, change),
            Change::Login(change) => record.login = add(record.login, change),
            Change::Session => {
                record.login += 1;
                record.session += 1;
            }
        }
        if choice.of_another {
            record.identity = Digest::of(["bob"]);
        }
        record.state = self.state(&choice.content);
        Some(record.with_initial_refresh_token(choice.seed.map(seed).as_ref().map(Digest::of_secret)))
    }

    pub(super) fn record(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Found(which, choice, own) => self.look(*which, choice, *own)?,
            Step::Made(which, content, unsaved) => {
                let Some(which) = which.checked_rem(self.runs.len()) else { return Ok(()) };
                let live = &self.runs[which];
                let (run, Some(base)) = (live.run, live.base.clone()) else { return Ok(()) };
                if let Content::SignedOut = content {
                    return Ok(());
                }
                let record = base.next(self.state(content));
                let epoch = run.plan.epoch;
                let known = self.model.known();
                let counts = known.is_none_or(|known| record.is_newer_than(known) || record.says_the_same(known));
                let error = unsaved.then(|| Error::not_saved("the disk is full"));
                self.session.on_record_made(run, record.clone(), error);
                if epoch == self.model.epoch() && counts {
                    self.seen.insert("record made".to_owned());
                    self.push(Event::Made { record, unsaved: *unsaved, epoch });
                }
            }
            Step::Restored(older) => {
                let Some(mut record) = self.model.known().cloned() else { return Ok(()) };
                record.serial = record.serial.saturating_sub(u64::from(*older));
                self.session.on_restored(&record);
                if !older {
                    self.push(Event::Restored);
                }
            }
            Step::EndedHere(unsaved) => {
                let (Some(epoch), true) = (self.sign_outs.last().copied(), self.model.accepts_no_run()) else {
                    return Ok(());
                };
                let Some(known) = self.model.known() else { return Ok(()) };
                let record = known.next(State::Ended(Ending::SignedOut { revoke: None }));
                let error = unsaved.then(|| Error::not_saved("the disk is full"));
                self.session.on_record_ended(epoch, record.clone(), error);
                if epoch == self.model.epoch() {
                    self.seen.insert("record ended".to_owned());
                    self.push(Event::EndedHere { record, unsaved: *unsaved, epoch });
                }
            }
        }
        Ok(())
    }

    fn push(&mut self, event: Event) {
        self.model.log.push(super::Event::Record(event));
    }

    fn look(&mut self, which: Option<usize>, choice: &Choice, own: Option<u8>) -> Result<(), TestCaseError> {
        let which = which.and_then(|which| which.checked_rem(self.runs.len()));
        let live = which.map(|which| &self.runs[which]);
        let (run, held) = live.map_or((None, u64::MAX), |live| (Some(live.run), live.held));
        let own = own.filter(|_| run.is_some());
        let found = self.found(choice);
        let seen = Seen { found: found.as_ref(), run, seed: own, held, now: self.now };
        let (expected, events) = self.model.outcome(&seen);
        let (identity, own, policy) = (identity(), own.map(seed), policy());
        let context = ReadContext {
            run,
            identity: &identity,
            initial_refresh_token: own.as_ref(),
            generation: held,
            policy: &policy,
            now: self.now,
            jitter: 0.5,
        };
        let outcome = self.session.on_record_read(found.as_ref(), &context);
        prop_assert_eq!(text_of_outcome(&outcome), expected.clone());
        if events.iter().any(super::Event::is_revival) {
            self.seen.insert("revived".to_owned());
        }
        self.model.log.extend(events);
        self.seen.insert(kind(expected.split(':').next().expect("the first")));
        if let (Some(which), ReadOutcome::Fetch { base, .. } | ReadOutcome::Lost(base)) = (which, outcome) {
            self.runs[which].base = Some(base);
        }
        Ok(())
    }
}

#[test]
fn every_walk_with_a_shared_record_agrees_with_the_list_of_what_happened() {
    let wanted = [
        "usable true",
        "usable false",
        "ended",
        "denied",
        "other identity",
        "login",
        "next",
        "lost",
        "discarded",
        "revived",
        "record made",
        "record ended",
    ];
    take_walks(200, prop_oneof![2 => steps(), 1 => record_steps()], &wanted);
}
