use proptest::prelude::*;

use super::*;

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;

fn at(text: &str) -> UnixMillis {
    let at: Timestamp = text.parse().unwrap();
    UnixMillis(u64::try_from(at.as_millisecond()).unwrap())
}

fn schedule(days: &str, from: &str, hours: u64, zone: &str) -> Schedule {
    let schedule = Schedule {
        days: days.parse().unwrap(),
        from: from.parse().unwrap(),
        length_s: hours * 3600,
        zone: zone.to_owned(),
    };
    schedule.check().unwrap();
    schedule
}

#[test]
fn a_window_opens_on_its_days_at_its_local_time() {
    let nights = schedule("mon-fri", "22:00", 4, "Europe/Paris");
    for (now, open_until, opens_after) in [
        // A Thursday in winter: an hour ahead of UTC.
        ("2026-11-26T20:59:59Z", None, "2026-11-26T21:00:00Z"),
        (
            "2026-11-26T21:00:00Z",
            Some("2026-11-27T01:00:00Z"),
            "2026-11-27T21:00:00Z",
        ),
        (
            "2026-11-27T00:59:59Z",
            Some("2026-11-27T01:00:00Z"),
            "2026-11-27T21:00:00Z",
        ),
        ("2026-11-27T01:00:00Z", None, "2026-11-27T21:00:00Z"),
        // It is open after Friday's midnight, and opens again on Monday.
        (
            "2026-11-28T00:30:00Z",
            Some("2026-11-28T01:00:00Z"),
            "2026-11-30T21:00:00Z",
        ),
        ("2026-11-28T22:00:00Z", None, "2026-11-30T21:00:00Z"),
        // A Monday in summer: two hours ahead.
        (
            "2026-07-06T20:00:00Z",
            Some("2026-07-07T00:00:00Z"),
            "2026-07-07T20:00:00Z",
        ),
    ] {
        assert_eq!(nights.open_until(at(now)), open_until.map(at), "{now}");
        assert_eq!(nights.opens_after(at(now)), Some(at(opens_after)), "{now}");
    }
}

#[test]
fn a_local_time_that_is_skipped_is_shifted_by_what_is_skipped() {
    // On 29 March 2026 it is 03:00 in Paris after 01:59.
    let early = schedule("sun", "02:30", 1, "Europe/Paris");
    let before = at("2026-03-29T00:00:00Z");
    assert_eq!(early.opens_after(before), Some(at("2026-03-29T01:30:00Z")));
    assert_eq!(
        early.local(at("2026-03-29T01:30:00Z"), before),
        "03:30 Europe/Paris"
    );
    assert_eq!(
        early.open_until(at("2026-03-29T01:30:00Z")),
        Some(at("2026-03-29T02:30:00Z"))
    );
    // The week after it opens at its own time.
    let week_after = early.opens_after(at("2026-03-29T03:00:00Z"));
    assert_eq!(week_after, Some(at("2026-04-05T00:30:00Z")));
}

#[test]
fn a_local_time_that_comes_twice_counts_the_first_time() {
    // On 25 October 2026 it is 02:00 in Paris again after 02:59.
    let early = schedule("sun", "02:30", 1, "Europe/Paris");
    let first = at("2026-10-25T00:30:00Z");
    assert_eq!(early.opens_after(at("2026-10-25T00:00:00Z")), Some(first));
    assert_eq!(early.open_until(first), Some(at("2026-10-25T01:30:00Z")));
    assert_eq!(early.open_until(at("2026-10-25T01:30:00Z")), None);
    assert_eq!(
        early.opens_after(at("2026-10-25T01:30:00Z")),
        Some(at("2026-11-01T01:30:00Z"))
    );
}

#[test]
fn a_window_over_a_change_of_the_clock_is_as_long_as_any_other() {
    let night = schedule("sat", "23:00", 6, "America/New_York");
    // Back on 1 November 2026, forward on 8 March.
    for (from, until, local) in [
        (
            "2026-11-01T03:00:00Z",
            "2026-11-01T09:00:00Z",
            "04:00 America/New_York",
        ),
        (
            "2026-03-08T04:00:00Z",
            "2026-03-08T10:00:00Z",
            "06:00 America/New_York",
        ),
    ] {
        assert_eq!(night.open_until(at(from)), Some(at(until)));
        assert_eq!(night.local(at(until), at(from)), local);
    }
}

#[test]
fn a_day_that_a_zone_skips_moves_its_window_to_the_next() {
    // Samoa had no 30 December 2011, a Friday.
    let friday = schedule("fri", "12:00", 1, "Pacific/Apia");
    let opens = friday.opens_after(at("2011-12-30T00:00:00Z"));
    assert_eq!(opens, Some(at("2011-12-30T22:00:00Z")));
    assert_eq!(
        friday.opens_after(at("2011-12-31T00:00:00Z")),
        Some(at("2012-01-05T22:00:00Z"))
    );
}

#[test]
fn half_hours_and_both_sides_of_the_date_line_are_zones_too() {
    let kathmandu = schedule("daily", "00:00", 1, "Asia/Kathmandu");
    assert_eq!(
        kathmandu.opens_after(at("2026-01-01T00:00:00Z")),
        Some(at("2026-01-01T18:15:00Z"))
    );
    let kiritimati = schedule("mon", "00:00", 1, "Pacific/Kiritimati");
    assert_eq!(
        kiritimati.opens_after(at("2026-01-03T00:00:00Z")),
        Some(at("2026-01-04T10:00:00Z"))
    );
}

#[test]
fn days_read_back_as_they_are_written() {
    for (written, shown) in [
        ("mon-fri", "mon-fri"),
        ("Sat,SUN", "sat,sun"),
        ("fri-mon", "mon,fri-sun"),
        ("daily", "daily"),
        ("mon-sun", "daily"),
        ("wed", "wed"),
        ("mon, wed", "mon,wed"),
    ] {
        let days: Days = written.parse().unwrap();
        assert_eq!(days.to_string(), shown, "{written}");
        assert_eq!(shown.parse::<Days>().unwrap(), days);
    }
    for wrong in ["", "mo", "mon-", "-", "mon fri", "1-5", "mon;fri"] {
        assert!(wrong.parse::<Days>().is_err(), "{wrong}");
    }
}

#[test]
fn what_is_not_well_formed_is_refused() {
    for wrong in [
        "", "22", "24:00", "22:60", "2:00", "-1:00", "22:00:00", "+2:00",
    ] {
        assert!(wrong.parse::<TimeOfDay>().is_err(), "{wrong}");
    }
    assert_eq!("07:05".parse::<TimeOfDay>().unwrap().to_string(), "07:05");
    let good = schedule("daily", "22:00", 4, "UTC");
    for zone in ["", "Mars/Olympus", "Europe/Pari", "../etc/passwd"] {
        let wrong = Schedule {
            zone: zone.to_owned(),
            ..good.clone()
        };
        assert_eq!(wrong.check(), Err(ScheduleError::Zone(zone.to_owned())));
    }
    for length_s in [0, 59, 7 * 24 * 3600 + 1] {
        let wrong = Schedule {
            length_s,
            ..good.clone()
        };
        assert!(matches!(wrong.check(), Err(ScheduleError::Length(_))));
    }
}

#[test]
fn a_time_further_away_is_shown_with_its_date() {
    let schedule = schedule("daily", "22:00", 4, "Europe/Paris");
    let now = at("2026-11-26T12:00:00Z");
    let text = |when| schedule.local(at(when), now);
    assert_eq!(text("2026-11-26T21:00:00Z"), "22:00 Europe/Paris");
    assert_eq!(
        text("2026-11-30T21:00:00Z"),
        "2026-11-30 22:00 Europe/Paris"
    );
}

fn any_schedule() -> impl Strategy<Value = Schedule> {
    let zones = [
        "UTC",
        "Europe/Paris",
        "America/New_York",
        "America/St_Johns",
        "Australia/Lord_Howe",
        "Pacific/Apia",
        "Asia/Kathmandu",
        "Africa/Casablanca",
        "Pacific/Kiritimati",
        "Antarctica/Troll",
    ];
    (
        1..128_u8,
        0..24_i8,
        0..60_i8,
        1..=7 * 24 * 60_u64,
        0..zones.len(),
    )
        .prop_map(move |(days, hour, minute, minutes, zone)| Schedule {
            days: Days(days),
            from: TimeOfDay { hour, minute },
            length_s: minutes * 60,
            zone: zones[zone].to_owned(),
        })
}

proptest! {
    /// From 2001 to 2036, over every change of every zone above.
    #[test]
    fn invariant_a_window_is_open_exactly_from_its_openings_for_its_length(
        schedule in any_schedule(),
        minute in 16_800_000..35_000_000_u64,
    ) {
        let now = UnixMillis(minute * MINUTE);
        let next = schedule.opens_after(now).unwrap();
        prop_assert!(next > now);
        // Every week has a day of it; a skipped day costs one more.
        prop_assert!(next.0 - now.0 <= 8 * 24 * HOUR, "{} ms", next.0 - now.0);
        prop_assert!(schedule.open_until(next).is_some());
        let until = schedule.open_until(next).unwrap();
        prop_assert!(until.0 - next.0 >= schedule.length_s * 1000);
        for opening in schedule.openings(now).take(20) {
            prop_assert_eq!(opening.until.0 - opening.from.0, schedule.length_s * 1000);
            prop_assert!(schedule.open_until(opening.from).is_some());
            let last = UnixMillis(opening.until.0 - 1);
            prop_assert!(schedule.open_until(last).is_some());
        }
    }

    #[test]
    fn invariant_between_two_edges_nothing_changes(
        schedule in any_schedule(),
        minute in 16_800_000..35_000_000_u64,
        share in 0..1000_u64,
    ) {
        let now = UnixMillis(minute * MINUTE);
        let edge = match schedule.open_until(now) {
            Some(until) => until.min(schedule.opens_after(now).unwrap()),
            None => schedule.opens_after(now).unwrap(),
        };
        let between = UnixMillis(now.0 + (edge.0 - 1 - now.0) * share / 1000);
        prop_assert_eq!(schedule.open_until(between), schedule.open_until(now));
        prop_assert_eq!(schedule.opens_after(between), schedule.opens_after(now));
    }
}
