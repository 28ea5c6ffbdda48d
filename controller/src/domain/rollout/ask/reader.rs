//! Values as they were written: each is read into its place, or noted as a problem.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use protocol::ErrorCode;
use protocol::time::millis;

use super::Problem;
use crate::domain::rollout::params::{Amount, TARGETS_COUNT_MAX};

/// Reads values into their place and notes what is wrong; the place is left as it
/// was then.
#[derive(Default)]
pub(super) struct Reader {
    pub(super) problems: Vec<Problem>,
}

impl Reader {
    pub(super) fn problem(&mut self, path: &str, what: impl Into<String>) {
        self.problems.push(Problem {
            path: path.to_owned(),
            what: what.into(),
            code: ErrorCode::RolloutInvalid,
        });
    }

    pub(super) fn length(&mut self, path: &str, length: usize, range: RangeInclusive<usize>) {
        if !range.contains(&length) {
            let what = format!(
                "has {length} entries; allowed are {} to {}",
                range.start(),
                range.end()
            );
            self.problem(path, what);
        }
    }

    pub(super) fn number<T>(
        &mut self,
        path: &str,
        value: Option<u64>,
        range: RangeInclusive<T>,
        into: &mut T,
    ) where
        T: Copy + PartialOrd + Display + TryFrom<u64>,
    {
        let Some(value) = value else { return };
        match T::try_from(value)
            .ok()
            .filter(|number| range.contains(number))
        {
            Some(number) => *into = number,
            None => self.out_of_range(path, value, range.start(), range.end()),
        }
    }

    pub(super) fn optional<T>(
        &mut self,
        path: &str,
        value: Option<u64>,
        range: RangeInclusive<T>,
        into: &mut Option<T>,
    ) where
        T: Copy + PartialOrd + Display + TryFrom<u64>,
    {
        let mut number = *range.start();
        self.number(path, value, range, &mut number);
        *into = value.map(|_| number);
    }

    /// A number with one decimal, as tenths.
    pub(super) fn tenths(
        &mut self,
        path: &str,
        value: Option<f64>,
        range: RangeInclusive<u32>,
        into: &mut u32,
    ) {
        let Some(value) = value else { return };
        let found = range
            .clone()
            .find(|tenths| (f64::from(*tenths) / 10.0 - value).abs() < 1e-9);
        match found {
            Some(tenths) => *into = tenths,
            None => {
                let [low, high] = [range.start(), range.end()].map(|t| f64::from(*t) / 10.0);
                let what =
                    format!("is {value}; allowed are {low} to {high} with at most one decimal");
                self.problem(path, what);
            }
        }
    }

    pub(super) fn duration(
        &mut self,
        path: &str,
        text: Option<&str>,
        range: RangeInclusive<Duration>,
        into: &mut u64,
    ) {
        let Some(text) = text else { return };
        match humantime::parse_duration(text) {
            Ok(duration) if range.contains(&duration) => *into = millis(duration),
            Ok(_) | Err(_) => {
                let [low, high] =
                    [range.start(), range.end()].map(|d| humantime::format_duration(*d));
                self.out_of_range(path, format!("{text:?}"), low, high);
            }
        }
    }

    pub(super) fn choice<T: Clone>(
        &mut self,
        path: &str,
        text: Option<&str>,
        known: &[(&str, T)],
        into: &mut T,
    ) {
        let Some(text) = text else { return };
        match known.iter().find(|(name, _)| *name == text) {
            Some((_, value)) => into.clone_from(value),
            None => {
                let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
                self.problem(
                    path,
                    format!("is {text:?}; allowed are {}", names.join(", ")),
                );
            }
        }
    }

    /// `3` or `20%`.
    pub(super) fn amount(&mut self, path: &str, text: Option<&str>, min: u32) -> Option<Amount> {
        let text = text?;
        let amount = match text.strip_suffix('%') {
            Some(percent) => percent
                .trim()
                .parse()
                .ok()
                .filter(|percent| (min..=100).contains(&u32::from(*percent)))
                .map(Amount::Percent),
            None => text
                .trim()
                .parse()
                .ok()
                .filter(|count| (min..=TARGETS_COUNT_MAX).contains(count))
                .map(Amount::Count),
        };
        if amount.is_none() {
            let what =
                format!("is {text:?}; allowed are {min} to {TARGETS_COUNT_MAX}, or {min}% to 100%");
            self.problem(path, what);
        }
        amount
    }

    fn out_of_range(
        &mut self,
        path: &str,
        value: impl Display,
        low: impl Display,
        high: impl Display,
    ) {
        self.problem(path, format!("is {value}; allowed are {low} to {high}"));
    }
}
