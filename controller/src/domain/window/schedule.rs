//! When a maintenance window is open: days of the week, a time of day and a length,
//! in a time zone.
//!
//! A window opens at its local time on each of its days and stays open for its
//! length, counted as time that passes and not by the clock on the wall.
//!
//! **Daylight saving.** A local time that a day skips is shifted by what is skipped:
//! a window from 02:30 opens at 03:30 on the day on which 02:00 becomes 03:00. A local
//! time that a day has twice is the first of the two: such a window opens once, and
//! is as long as on any other day. A window that is already open when the clock
//! changes stays open for its length, so it ends an hour later or earlier by the
//! clock on the wall.
//!
//! **Invariant:** the same schedule and time give the same answer everywhere: time
//! zones are those that this program carries, not the host's.

use core::fmt;
use core::str::FromStr;
use std::sync::LazyLock;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::{Date, Time};
use jiff::tz::{TimeZone, TimeZoneDatabase};
use protocol::time::{UnixMillis, millis};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The shortest time that a window is open: below it hardly anything can begin.
pub const LENGTH_MIN: Duration = Duration::from_secs(60);

/// The longest time that a window is open: each week has one, so it would be always.
pub const LENGTH_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// Days that are looked at for the next opening. Every week has one; a day may be
/// missing in a zone that moves across the date line.
const DAYS_AHEAD: u32 = 16;

/// Days of the week.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Days(u8);

/// A time of day, to the minute.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TimeOfDay {
    hour: i8,
    minute: i8,
}

/// When a window is open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// On which days it opens.
    pub days: Days,
    /// At which local time.
    pub from: TimeOfDay,
    /// For how long, in seconds.
    pub length_s: u64,
    /// The time zone's name in the IANA database.
    pub zone: String,
}

/// One time that a window is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Opening {
    /// From then on.
    pub from: UnixMillis,
    /// Until then, exclusive.
    pub until: UnixMillis,
}

/// A part of a schedule that is not well-formed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// Not days of the week.
    #[error("{0:?} is no list of days: write mon-fri, sat,sun or daily")]
    Days(String),
    /// Not a time of day.
    #[error("{0:?} is no time of day: write 22:00")]
    Time(String),
    /// Not a time zone.
    #[error("{0:?} is no time zone of the IANA database: write Europe/Paris or UTC")]
    Zone(String),
    /// Open for too short or too long.
    #[error("a window is open for {LENGTH_MIN:?} to {LENGTH_MAX:?}, not {0:?}")]
    Length(Duration),
}

const NAMES: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

static ZONES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

impl Days {
    /// Every day.
    pub const DAILY: Self = Self(0x7f);

    fn has(self, date: Date) -> bool {
        let index = u32::from(date.weekday().to_monday_zero_offset().unsigned_abs());
        self.0 >> index & 1 == 1
    }
}

impl TimeOfDay {
    fn on(self, date: Date, zone: &TimeZone) -> Option<UnixMillis> {
        let time = Time::new(self.hour, self.minute, 0, 0).ok()?;
        let at = zone.to_ambiguous_timestamp(date.to_datetime(time));
        let at = at.compatible().ok()?.as_millisecond();
        u64::try_from(at).ok().map(UnixMillis)
    }
}

impl Schedule {
    /// Whether every part is well-formed.
    ///
    /// # Errors
    /// The first part that is not.
    pub fn check(&self) -> Result<(), ScheduleError> {
        let length = Duration::from_secs(self.length_s);
        if !(LENGTH_MIN..=LENGTH_MAX).contains(&length) {
            return Err(ScheduleError::Length(length));
        }
        match ZONES.get(&self.zone) {
            Ok(_) => Ok(()),
            Err(_) => Err(ScheduleError::Zone(self.zone.clone())),
        }
    }

    /// The time zone; UTC where a journal names one that this program does not carry.
    fn zone(&self) -> TimeZone {
        ZONES.get(&self.zone).unwrap_or(TimeZone::UTC)
    }

    /// Until when it is open; none when it is not.
    #[must_use]
    pub fn open_until(&self, now: UnixMillis) -> Option<UnixMillis> {
        self.openings(now)
            .take_while(|opening| opening.from <= now)
            .map(|opening| opening.until)
            .max()
    }

    /// When it opens next, after `now`.
    #[must_use]
    pub fn opens_after(&self, now: UnixMillis) -> Option<UnixMillis> {
        self.openings(now)
            .map(|opening| opening.from)
            .find(|from| *from > now)
    }

    /// The times that it is open, from the one that has not ended on.
    pub fn openings(&self, now: UnixMillis) -> impl Iterator<Item = Opening> + use<> {
        let zone = self.zone();
        let length = Duration::from_secs(self.length_s);
        let (days, from) = (self.days, self.from);
        let back = millis(length).div_ceil(24 * 3600 * 1000) + 1;
        let today = local_date(&zone, now);
        let mut date = (0..back).try_fold(today, |date, _| date.yesterday().ok());
        let mut looked_at = 0_u64;
        let dates = core::iter::from_fn(move || {
            let current = date?;
            looked_at += 1;
            date = current.tomorrow().ok();
            (looked_at <= back + u64::from(DAYS_AHEAD)).then_some(current)
        });
        dates
            .filter(move |date| days.has(*date))
            .filter_map(move |date| {
                let from = from.on(date, &zone)?;
                let until = from.after(length);
                Some(Opening { from, until })
            })
            .filter(move |opening| opening.until > now)
    }

    /// A point in time as people in the zone write it: the time alone when it is less
    /// than a day away, with the date otherwise.
    #[must_use]
    pub fn local(&self, at: UnixMillis, now: UnixMillis) -> String {
        let near = at.since(now) < Duration::from_secs(24 * 3600);
        let format = if near { "%H:%M" } else { "%Y-%m-%d %H:%M" };
        let local = self.zone().to_datetime(timestamp(at));
        format!("{} {}", local.strftime(format), self.zone)
    }
}

fn timestamp(at: UnixMillis) -> Timestamp {
    i64::try_from(at.0)
        .ok()
        .and_then(|at| Timestamp::from_millisecond(at).ok())
        .unwrap_or(Timestamp::MAX)
}

fn local_date(zone: &TimeZone, at: UnixMillis) -> Date {
    zone.to_datetime(timestamp(at)).date()
}

impl fmt::Display for Days {
    /// `daily`, or runs of days: `mon-fri`, `sat,sun`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::DAILY {
            return f.write_str("daily");
        }
        let mut parts: Vec<String> = Vec::new();
        let mut index = 0;
        while index < NAMES.len() {
            let first = index;
            while index < NAMES.len() && self.0 >> index & 1 == 1 {
                index += 1;
            }
            match index - first {
                0 => index += 1,
                1 => parts.push(NAMES[first].to_owned()),
                2 => parts.extend([NAMES[first].to_owned(), NAMES[first + 1].to_owned()]),
                _ => parts.push(format!("{}-{}", NAMES[first], NAMES[index - 1])),
            }
        }
        f.write_str(&parts.join(","))
    }
}

impl fmt::Debug for Days {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Days {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ScheduleError::Days(text.chars().take(64).collect());
        let lower = text.to_ascii_lowercase();
        if lower == "daily" {
            return Ok(Self::DAILY);
        }
        let index = |name: &str| NAMES.iter().position(|known| *known == name.trim());
        let mut days = 0;
        for part in lower.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let first = index(first).ok_or_else(wrong)?;
            let last = index(last).ok_or_else(wrong)?;
            // A run may go over Sunday: fri-mon.
            let length = (last + NAMES.len() - first) % NAMES.len();
            for step in 0..=length {
                days |= 1 << ((first + step) % NAMES.len());
            }
        }
        Ok(Self(days))
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.hour, self.minute)
    }
}

impl fmt::Debug for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TimeOfDay {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (hour, minute) = text.split_once(':')?;
            let number = |text: &str, end: i8| {
                let digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
                text.parse().ok().filter(|it| digits && *it < end)
            };
            Some(Self {
                hour: number(hour, 24)?,
                minute: number(minute, 60)?,
            })
        };
        parse().ok_or_else(|| ScheduleError::Time(text.chars().take(64).collect()))
    }
}

impl Serialize for Days {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Days {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

impl Serialize for TimeOfDay {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TimeOfDay {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests;
