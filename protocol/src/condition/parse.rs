//! Reads an expression by hand: the grammar is small, and an error can say at
//! which character what would have fitted.

use core::time::Duration;

use super::expression::{
    CPU_BUSY, Compare, ConditionError, DURATION_UNITS, EXPRESSION_BYTES_MAX, Expression, Join,
    Kind, LASTING_MAX, Source, Test, Threshold, Value, units,
};
use crate::telemetry::Label;
use crate::telemetry::catalogue::{LabelName, Series, SeriesKind, Unit};

/// Digits of a number before its point, and behind it: what a double holds exactly
/// enough to be printed as it was written.
const DIGITS_MAX: usize = 15;

const COMPARES: [Compare; 6] = [
    // Longer symbols before those that they begin with.
    Compare::AtLeast,
    Compare::AtMost,
    Compare::Equal,
    Compare::Unequal,
    Compare::Above,
    Compare::Below,
];

const JOINS: [Join; 4] = [Join::Max, Join::Min, Join::Avg, Join::Sum];

pub(super) fn expression(text: &str) -> Result<Expression, ConditionError> {
    if text.len() > EXPRESSION_BYTES_MAX {
        return Err(ConditionError {
            position: 1,
            expected: format!("at most {EXPRESSION_BYTES_MAX} bytes"),
            found: format!("{} bytes", text.len()),
        });
    }
    let mut reader = Reader { text, rest: text };
    let (value, absent) = value(&mut reader)?;
    let test = if absent {
        Test::Absent
    } else {
        let compare = compare(&mut reader)?;
        Test::Compare(compare, threshold(&mut reader, &value)?)
    };
    let lasting = lasting(&mut reader)?;
    reader.blanks();
    if !reader.rest.is_empty() {
        return Err(reader.expected("`for` and a duration, or the end"));
    }
    Ok(Expression {
        value,
        test,
        lasting,
    })
}

/// A series with what surrounds it, and whether it is `absent(…)`.
fn value(reader: &mut Reader<'_>) -> Result<(Value, bool), ConditionError> {
    reader.blanks();
    let start = *reader;
    let word = reader.word();
    reader.blanks();
    let called = reader.take("(");
    let join = JOINS.into_iter().find(|join| join.name() == word);
    let absent = word == "absent";
    if called && join.is_none() && !absent {
        return Err(start.expected("a series, or max, min, avg, sum or absent"));
    }
    if !called {
        *reader = start;
    }
    reader.blanks();
    let at_series = *reader;
    let source = source(reader)?;
    if absent && called && source == Source::CpuBusy {
        return Err(at_series.expected("a series of the catalogue in absent(…)"));
    }
    let label = label(reader, source)?;
    reader.blanks();
    if called && !reader.take(")") {
        return Err(reader.expected("`)`"));
    }
    let value = Value {
        source,
        label,
        join: join.filter(|_| called),
    };
    Ok((value, absent && called))
}

fn source(reader: &mut Reader<'_>) -> Result<Source, ConditionError> {
    let start = *reader;
    let word = reader.word();
    if word == CPU_BUSY {
        return Ok(Source::CpuBusy);
    }
    Series::by_name(word)
        .map(Source::Series)
        .ok_or_else(|| start.expected("a series, such as fs.used, load.1m or cpu.busy"))
}

fn label(reader: &mut Reader<'_>, source: Source) -> Result<Option<Label>, ConditionError> {
    reader.blanks();
    let start = *reader;
    if !reader.take("{") {
        return Ok(None);
    }
    let labelled = match source {
        Source::Series(series) => series.label != LabelName::None,
        Source::CpuBusy => false,
    };
    if !labelled {
        return Err(start.expected(&format!("no label, since {} has none", source.name())));
    }
    let inside = *reader;
    let text = reader.until('}').map(str::trim);
    text.and_then(Label::from_wire)
        .filter(|label| !label.is_none())
        .map(Some)
        .ok_or_else(|| inside.expected("a label and `}`"))
}

fn compare(reader: &mut Reader<'_>) -> Result<Compare, ConditionError> {
    reader.blanks();
    COMPARES
        .into_iter()
        .find(|compare| reader.take(compare.symbol()))
        .ok_or_else(|| reader.expected("one of > >= < <= == !="))
}

fn threshold(reader: &mut Reader<'_>, value: &Value) -> Result<Threshold, ConditionError> {
    let number = number(reader)?;
    reader.blanks();
    let start = *reader;
    let written = match reader.unit() {
        "for" => {
            *reader = start;
            ""
        }
        "°C" => "C",
        unit => unit,
    };
    let fit = |unit, factor, kind| Threshold {
        number,
        unit,
        factor,
        kind,
    };
    if written == "%" {
        if value.source.whole().is_none() {
            let name = value.source.name();
            return Err(start.expected(&format!("no %, since {name} has no natural total")));
        }
        if value.join == Some(Join::Sum) {
            return Err(start.expected("no %, since shares have no sum; use max or avg"));
        }
        return Ok(fit("%", 0.01, Kind::Share));
    }
    let Source::Series(series) = value.source else {
        return Err(start.expected("%"));
    };
    let (kind, suffix) = match series.kind {
        SeriesKind::Gauge => (Kind::Level, ""),
        SeriesKind::Counter => (Kind::Rate, "/s"),
    };
    written
        .strip_suffix(suffix)
        .and_then(|unit| units(series.unit).iter().find(|(name, _)| *name == unit))
        .map(|(unit, factor)| fit(unit, *factor, kind))
        .ok_or_else(|| start.expected(&fitting(series, suffix)))
}

/// The units that a series can be compared in, in words.
fn fitting(series: &'static Series, suffix: &str) -> String {
    let plain = matches!(series.unit, Unit::Count | Unit::Ratio);
    let names: Vec<String> = units(series.unit)
        .iter()
        .map(|(unit, _)| format!("{unit}{suffix}"))
        .collect();
    let share = match Source::Series(series).whole() {
        Some(_) => " or %",
        None => "",
    };
    match (plain, suffix) {
        (true, "") => format!("no unit{share} for {}", series.name),
        (true | false, _) => format!("{}{share} for {}", names.join(", "), series.name),
    }
}

fn number(reader: &mut Reader<'_>) -> Result<f64, ConditionError> {
    reader.blanks();
    let start = *reader;
    reader.take("-");
    let whole = reader.digits().len();
    let mut good = (1..=DIGITS_MAX).contains(&whole);
    if reader.take(".") {
        let part = reader.digits().len();
        good &= part >= 1 && whole + part <= DIGITS_MAX;
    }
    start
        .before(reader)
        .parse()
        .ok()
        .filter(|_| good)
        .ok_or_else(|| start.expected(&format!("a number of at most {DIGITS_MAX} digits")))
}

fn lasting(reader: &mut Reader<'_>) -> Result<Duration, ConditionError> {
    reader.blanks();
    if !reader.take("for ") {
        return Ok(Duration::ZERO);
    }
    reader.blanks();
    let start = *reader;
    let count = reader.digits().parse::<u64>().ok();
    let unit = reader.word();
    let length = DURATION_UNITS.into_iter().find(|(name, _)| *name == unit);
    count
        .zip(length)
        .and_then(|(count, (_, length))| count.checked_mul(length))
        .map(Duration::from_secs)
        .filter(|lasting| *lasting <= LASTING_MAX)
        .ok_or_else(|| start.expected("a duration up to 7d, such as 90s, 5m or 1h"))
}

/// The text and what is left of it.
#[derive(Clone, Copy)]
struct Reader<'a> {
    text: &'a str,
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn blanks(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self, token: &str) -> bool {
        let rest = self.rest.strip_prefix(token);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn while_in(&mut self, inside: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !inside(c)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at_checked(end).unwrap_or((self.rest, ""));
        self.rest = rest;
        taken
    }

    fn word(&mut self) -> &'a str {
        self.while_in(|c| c.is_ascii_alphanumeric() || c == '.' || c == '_')
    }

    fn unit(&mut self) -> &'a str {
        self.while_in(|c| c.is_ascii_alphabetic() || matches!(c, '%' | '/' | '°'))
    }

    fn digits(&mut self) -> &'a str {
        self.while_in(|c| c.is_ascii_digit())
    }

    /// What stands before `end`, which is taken too; none without it.
    fn until(&mut self, end: char) -> Option<&'a str> {
        let (taken, rest) = self.rest.split_once(end)?;
        self.rest = rest;
        Some(taken)
    }

    /// What stands between here and where `later` is.
    fn before(&self, later: &Self) -> &'a str {
        let length = self.rest.len() - later.rest.len();
        self.rest
            .split_at_checked(length)
            .map_or("", |(text, _)| text)
    }

    fn expected(&self, what: &str) -> ConditionError {
        const SHOWN: usize = 20;
        let shown: String = self.rest.chars().take(SHOWN).collect();
        let whole = Reader {
            text: self.text,
            rest: self.text,
        };
        ConditionError {
            position: whole.before(self).chars().count() + 1,
            expected: what.to_owned(),
            found: if shown.is_empty() {
                "the end".to_owned()
            } else {
                format!("{shown:?}")
            },
        }
    }
}
