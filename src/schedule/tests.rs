use proptest::prelude::*;

use super::*;

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const NANO: Duration = Duration::from_nanos(1);
/// The rounding error of an `f64` if a century is jittered.
const ROUNDING: Duration = Duration::from_micros(1);
const ASKED: DualInstant = DualInstant { mono: Duration::from_secs(1000), wall: Duration::from_secs(1_800_000_000) };

// === random inputs ===

/// A duration, evenly over the orders of magnitude, so that short ones are covered as well as long ones.
fn between(shortest: Duration, longest: Duration) -> impl Strategy<Value = Duration> {
    let drawn = (shortest.as_secs_f64().log10()..=longest.as_secs_f64().log10())
        .prop_map(move |exponent| Duration::from_secs_f64(10_f64.powf(exponent)).clamp(shortest, longest));
    prop_oneof![8 => drawn, 1 => Just(shortest), 1 => Just(longest)]
}

fn lifetimes() -> impl Strategy<Value = Duration> {
    prop_oneof![4 => between(SECOND, MAX_LIFETIME), 1 => between(MILLI, SECOND)]
}

fn settings() -> impl Strategy<Value = RefreshPolicy> {
    let margin = prop_oneof![Just(Duration::ZERO), between(MILLI, MAX_LIFETIME * 2)];
    proptest::option::of(margin).prop_map(|margin| RefreshPolicy { margin, ..RefreshPolicy::new() })
}

fn fetches() -> impl Strategy<Value = Duration> {
    prop_oneof![1 => Just(Duration::ZERO), 8 => between(MILLI, HOUR), 1 => Just(Duration::MAX)]
}

fn jitters() -> impl Strategy<Value = f64> {
    prop_oneof![1 => Just(0.0), 8 => 0.0..1.0, 1 => Just(1.0_f64.next_down())]
}

/// Any point of either clock, in the year 300 000 at the latest.
fn instants() -> impl Strategy<Value = DualInstant> {
    let clock = || (0..10_000_000_000_000_u64, 0..1_000_000_000_u32).prop_map(|(s, n)| Duration::new(s, n));
    (clock(), clock()).prop_map(|(mono, wall)| DualInstant { mono, wall })
}

fn early(lifetime: Duration) -> Duration {
    (lifetime / 10).min(5 * SECOND)
}

fn rank(phase: Phase) -> u8 {
    match phase {
        Phase::Fresh => 0,
        Phase::Due => 1,
        Phase::Expired => 2,
    }
}

fn window(settings: RefreshPolicy, lifetime: Duration, jitter: f64) -> Window {
    Window::new(&settings, lifetime, ASKED, Duration::ZERO, jitter)
}

/// How long after `ASKED` a refresh of a token that was requested then is due.
fn fresh_for(settings: RefreshPolicy, lifetime: Duration, jitter: f64) -> Duration {
    window(settings, lifetime, jitter).until_due(ASKED)
}

// === the three parts of a life ===

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn due_comes_before_expired_and_expired_before_the_end(
        settings in settings(), lifetime in lifetimes(), asked in instants(), took in fetches(), jitter in jitters(),
    ) {
        let window = Window::new(&settings, lifetime, asked, took, jitter);
        let (due, expired, end) = (window.due(), window.expired(), window.end());
        for (asked, due, expired, end) in
            [(asked.mono, due.mono, expired.mono, end.mono), (asked.wall, due.wall, expired.wall, end.wall)]
        {
            prop_assert!(asked < due && due < expired && expired <= end);
            prop_assert_eq!(end, asked + lifetime);
        }
    }

    #[test]
    fn expired_begins_5_s_or_a_tenth_of_the_life_before_the_issuers_figure(
        settings in settings(), lifetime in lifetimes(), asked in instants(), took in fetches(), jitter in jitters(),
    ) {
        let window = Window::new(&settings, lifetime, asked, took, jitter);
        prop_assert_eq!(window.expired().mono, window.end().mono - early(lifetime));
        prop_assert_eq!(window.expired().wall, window.end().wall - early(lifetime));
    }

    #[test]
    fn one_clock_counts_for_100_ms_and_never_past_due_on_either(
        settings in settings(), lifetime in lifetimes(), asked in instants(), now in instants(), took in fetches(), jitter in jitters(),
    ) {
        let window = Window::new(&settings, lifetime, asked, took, jitter);
        let sure = window.recheck_after(now);
        prop_assert!(sure <= 100 * MILLI);
        prop_assert!(sure.is_zero() || window.phase(now.after(sure + COARSE_CLOCK_LAG - NANO)) == Phase::Fresh);
    }

    #[test]
    fn a_margin_never_reaches_the_lifetime(settings in settings(), lifetime in lifetimes(), jitter in jitters()) {
        prop_assert!(fresh_for(settings, lifetime, jitter) + ROUNDING >= lifetime.mul_f64(0.375));
    }

    #[test]
    fn jitter_refreshes_earlier_by_at_most_a_quarter_of_the_margin(
        settings in settings(), lifetime in lifetimes(), jitter in jitters(),
    ) {
        let plain = fresh_for(settings, lifetime, 0.0);
        let jittered = fresh_for(settings, lifetime, jitter);
        prop_assert!(jittered <= plain);
        prop_assert!(plain - jittered <= (lifetime - plain) / 4 + ROUNDING);
    }

    #[test]
    fn the_phases_only_advance_on_either_clock(
        settings in settings(), lifetime in lifetimes(), asked in instants(), took in fetches(), jitter in jitters(),
        ages in (0.0..1.5, 0.0..1.5), step in (0.0..0.7, 0.0..0.7),
    ) {
        let window = Window::new(&settings, lifetime, asked, took, jitter);
        let at = |mono, wall| DualInstant {
            mono: asked.mono + lifetime.mul_f64(mono),
            wall: asked.wall + lifetime.mul_f64(wall),
        };
        let before = window.phase(at(ages.0, ages.1));
        for (mono, wall) in [(step.0, 0.0), (0.0, step.1), step] {
            let after = window.phase(at(ages.0 + mono, ages.1 + wall));
            prop_assert!(rank(before) <= rank(after), "{:?}, then {:?}", before, after);
        }
    }

    #[test]
    fn each_phase_begins_exactly_and_on_either_clock(
        settings in settings(), lifetime in lifetimes(), asked in instants(), took in fetches(), jitter in jitters(),
    ) {
        let window = Window::new(&settings, lifetime, asked, took, jitter);
        let (due, left) = (window.until_due(asked), window.remaining(asked));
        // The other clock stands still (a suspended machine, a wall clock that is never set) or advances too.
        let clocks = |age: Duration| [
            DualInstant { mono: asked.mono + age, ..asked },
            DualInstant { wall: asked.wall + age, ..asked },
            asked.after(age),
        ];
        for (age, phase) in [
            (Duration::ZERO, Phase::Fresh), (due - NANO, Phase::Fresh), (due, Phase::Due),
            (left - NANO, Phase::Due), (left, Phase::Expired), (lifetime, Phase::Expired),
        ] {
            for now in clocks(age) {
                prop_assert_eq!(window.phase(now), phase);
                prop_assert_eq!(window.remaining(now), left - age.min(left));
                prop_assert_eq!(window.until_due(now), due - age.min(due));
            }
        }
    }

    #[test]
    fn a_wall_clock_set_back_does_not_extend_a_token(
        settings in settings(), lifetime in lifetimes(), asked in instants(), took in fetches(), jitter in jitters(), back in 0.0..1.0,
    ) {
        let window = Window::new(&settings, lifetime, asked, took, jitter);
        let now = DualInstant { mono: asked.mono + lifetime - early(lifetime), wall: asked.wall.mul_f64(back) };
        prop_assert_eq!(window.phase(now), Phase::Expired);
        prop_assert_eq!(window.remaining(now), Duration::ZERO);
    }

    #[test]
    fn no_lifetime_margin_or_time_panics(
        life in any::<(u64, u32)>(), margin in any::<(u64, u32)>(), mono in any::<u64>(), wall in any::<u64>(),
        jitter in any::<f64>(),
    ) {
        let duration = |(seconds, nanos)| Duration::from_secs(seconds).saturating_add(Duration::from_nanos(u64::from(nanos)));
        let asked = DualInstant { mono: Duration::from_secs(mono), wall: Duration::from_secs(wall) };
        for lifetime in [duration(life), Duration::from_nanos(u64::from(life.1 % 100)), Duration::MAX] {
            let window = Window::new(&RefreshPolicy::new().margin(duration(margin)), lifetime, asked, Duration::ZERO, jitter);
            prop_assert_eq!(window.phase(asked.after(lifetime)), Phase::Expired);
        }
    }
}

#[test]
fn the_lag_of_the_coarse_clock_is_subtracted() {
    let window = window(RefreshPolicy::new(), MINUTE, 0.0);
    for (before_due, sure) in [(1000, 100), (120, 100), (119, 99), (50, 30), (20, 0), (1, 0)] {
        let now = ASKED.after(48 * SECOND - before_due * MILLI);
        assert_eq!(window.recheck_after(now), sure * MILLI, "{before_due} ms before it is due");
    }
}

#[test]
fn the_default_margin_is_a_fifth_of_the_life_and_at_most_5_min() {
    for (lifetime, fresh) in [
        (20 * SECOND, 16 * SECOND),
        (MINUTE, 48 * SECOND),
        (25 * MINUTE, 20 * MINUTE),
        (HOUR, 55 * MINUTE),
        (24 * HOUR, 24 * HOUR - 5 * MINUTE),
    ] {
        assert_eq!(fresh_for(RefreshPolicy::new(), lifetime, 0.0), fresh, "{lifetime:?}");
        assert_eq!(fresh_for(RefreshPolicy::default(), lifetime, 0.0), fresh, "{lifetime:?}");
    }
}

#[test]
fn the_default_margin_leaves_room_for_a_fetch_twice_as_long_as_the_last() {
    for (settings, took, fresh) in [
        // The token is not sent any more from 55 s on.
        (RefreshPolicy::new(), 3 * SECOND, 48 * SECOND),
        (RefreshPolicy::new(), 5 * SECOND, 45 * SECOND),
        (RefreshPolicy::new(), 10 * SECOND, 35 * SECOND),
        (RefreshPolicy::new(), HOUR, 30 * SECOND),
        (RefreshPolicy::new().margin(20 * SECOND), 10 * SECOND, 40 * SECOND),
    ] {
        let window = Window::new(&settings, MINUTE, ASKED, took, 0.0);
        assert_eq!(window.until_due(ASKED), fresh, "{took:?}");
    }
}

#[test]
fn a_margin_that_fits_into_the_life_is_not_changed() {
    assert_eq!(fresh_for(RefreshPolicy::new().margin(20 * MINUTE), HOUR, 0.0), 40 * MINUTE);
    assert_eq!(fresh_for(RefreshPolicy::new().margin(Duration::ZERO), HOUR, 0.0), HOUR - 10 * SECOND);
}

#[test]
fn a_60_s_token_with_a_5_min_margin_is_not_refreshed_on_every_call() {
    assert_eq!(fresh_for(RefreshPolicy::new().margin(5 * MINUTE), MINUTE, 0.0), 30 * SECOND);
}

#[test]
fn a_20_s_token_is_refreshed_before_it_expires() {
    let window = window(RefreshPolicy::new(), 20 * SECOND, 0.0);
    assert_eq!(window.phase(ASKED.after(17 * SECOND)), Phase::Due);
    assert_eq!(window.remaining(ASKED.after(17 * SECOND)), SECOND);
}

#[test]
fn a_fleet_does_not_refresh_all_at_once() {
    let due: Vec<_> = (0..=4).map(|jitter| fresh_for(RefreshPolicy::new(), HOUR, f64::from(jitter) / 4.0)).collect();
    assert!(due.is_sorted_by(|a, b| a > b), "{due:?}");
    assert_eq!(due[0] - due[4], 75 * SECOND, "a quarter of 5 min");
}

#[test]
fn a_token_with_lifetime_zero_is_expired_at_once() {
    assert_eq!(window(RefreshPolicy::new(), Duration::ZERO, 0.5).phase(ASKED), Phase::Expired);
}

// === the settings ===

#[test]
fn a_deadline_of_zero_is_an_error_that_names_the_field() {
    let error = RefreshPolicy::new().deadline(Duration::ZERO).check().unwrap_err();
    assert!(error.is_invalid());
    assert!(error.to_string().contains("deadline"), "{error}");
}

#[test]
fn a_deadline_is_30_s_or_as_set_and_never_overflows_a_timer() {
    assert_eq!(RefreshPolicy::new().fetch_deadline(), 30 * SECOND);
    for (set, kept) in [(NANO, NANO), (MINUTE, MINUTE), (Duration::MAX, MAX_LIFETIME)] {
        assert_eq!(RefreshPolicy::new().deadline(set).margin(SECOND).fetch_deadline(), kept);
    }
}

// === pauses ===

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_backoff_is_never_below_100_ms_nor_beyond_30_s_or_the_tokens_life(
        streak in prop_oneof![0..20_u32, any::<u32>()], left in between(NANO, MAX_LIFETIME), jitter in jitters(),
    ) {
        let wait = backoff(streak, left, None, jitter);
        prop_assert!(wait >= 100 * MILLI && wait <= 30 * SECOND, "{:?}", wait);
        prop_assert!(wait <= left.max(100 * MILLI), "{:?}", wait);
    }

    #[test]
    fn without_a_token_a_backoff_is_between_half_and_all_of_its_step(
        streak in prop_oneof![0..20_u32, any::<u32>()], jitter in jitters(),
    ) {
        let whole = backoff(streak, Duration::ZERO, None, 1.0);
        let wait = backoff(streak, Duration::ZERO, None, jitter);
        prop_assert!(wait >= whole / 2 && wait <= whole, "{:?} of {:?}", wait, whole);
    }

    #[test]
    fn retry_after_lengthens_a_backoff_up_to_5_min_and_never_shortens_it(
        streak in any::<u32>(), left in prop_oneof![Just(Duration::ZERO), between(NANO, MAX_LIFETIME)], jitter in jitters(),
        asked in prop_oneof![Just(Duration::ZERO), Just(Duration::MAX), between(MILLI, HOUR)],
    ) {
        let wait = backoff(streak, left, None, jitter).max(asked.min(5 * MINUTE));
        prop_assert_eq!(backoff(streak, left, Some(asked), jitter), wait);
    }

    #[test]
    fn a_denied_fetch_waits_30_s_to_15_min_for_any_streak(
        streak in any::<u32>(), retry_after in proptest::option::of(between(MILLI, MAX_LIFETIME)),
    ) {
        let wait = denied_backoff(streak, retry_after);
        prop_assert!(wait >= 30 * SECOND && wait <= 15 * MINUTE, "{:?}", wait);
        prop_assert!(wait >= retry_after.unwrap_or_default().min(5 * MINUTE));
        prop_assert!(wait <= denied_backoff(streak.saturating_add(1), retry_after));
    }
}

#[test]
fn a_backoff_doubles_from_500_ms_to_30_s() {
    for (streak, millis) in
        [(0, 500), (1, 500), (2, 1000), (3, 2000), (4, 4000), (5, 8000), (6, 16_000), (7, 30_000), (u32::MAX, 30_000)]
    {
        assert_eq!(backoff(streak, Duration::ZERO, None, 1.0), millis * MILLI, "{streak}");
        assert_eq!(backoff(streak, Duration::ZERO, None, 0.0), millis * MILLI / 2, "{streak}");
    }
}

#[test]
fn a_denied_backoff_doubles_from_30_s_to_15_min() {
    let steps = [30, 30, 60, 120, 240, 480, 900, 900];
    for (streak, seconds) in (0..).zip(steps).chain([(32, 900), (33, 900), (u32::MAX, 900)]) {
        assert_eq!(denied_backoff(streak, None), seconds * SECOND, "{streak}");
    }
    assert_eq!(denied_backoff(1, Some(2 * MINUTE)), 2 * MINUTE);
    assert_eq!(denied_backoff(1, Some(HOUR)), 5 * MINUTE);
    assert_eq!(denied_backoff(9, Some(SECOND)), 15 * MINUTE);
}
