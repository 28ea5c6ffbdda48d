//! The unchecked configuration: a TOML table with the environment and the flags
//! laid over it, and a reader that takes typed values out of it.
//!
//! The reader is what makes "all problems at once" true: a value that cannot be
//! used is noted with its path and replaced by the default, and whatever nobody
//! took is an unknown key.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use toml::{Table, Value};

/// Prefix of the variables that set configuration values.
const PREFIX: &str = "FLOTILLA_AGENT_";

/// Variables with the prefix that are flags' and not values'.
const NOT_VALUES: [&str; 1] = ["FLOTILLA_AGENT_CONFIG"];

/// Something in the configuration that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// As in `sampling.interval`.
    pub path: String,
    /// The value as it was given, cut when long.
    pub value: String,
    /// What is allowed.
    pub expected: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} is not {}", self.path, self.value, self.expected)
    }
}

/// Problems found so far.
pub type Problems = Vec<Problem>;

/// Characters of a value that a problem shows.
const SHOWN_CHARS_MAX: usize = 80;

fn shown(value: impl fmt::Display) -> String {
    let text = value.to_string();
    let mut cut: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    cut
}

/// Values by section, and what was wrong with them.
pub(super) struct Raw {
    table: Table,
    problems: Problems,
}

impl Raw {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let table = text
            .parse::<Table>()
            .map_err(|error| error.to_string().trim_end().to_owned())?;
        Ok(Self {
            table,
            problems: Vec::new(),
        })
    }

    /// `FLOTILLA_AGENT_SAMPLING_INTERVAL=5s` is `sampling.interval = "5s"`.
    pub(super) fn overlay_environment(&mut self, environment: &[(String, String)]) {
        for (name, text) in environment {
            let Some(rest) = name.strip_prefix(PREFIX) else {
                continue;
            };
            if NOT_VALUES.contains(&name.as_str()) {
                continue;
            }
            match rest.to_lowercase().split_once('_') {
                Some((section, key)) => self.set(section, key, text),
                None => self.problems.push(Problem {
                    path: name.clone(),
                    value: shown(format_args!("{text:?}")),
                    expected: format!("a variable of the form {PREFIX}<SECTION>_<KEY>"),
                }),
            }
        }
    }

    pub(super) fn overlay_flags(&mut self, flags: &[(&'static str, String)]) {
        for (path, text) in flags {
            if let Some((section, key)) = path.split_once('.') {
                self.set(section, key, text);
            }
        }
    }

    fn set(&mut self, section: &str, key: &str, text: &str) {
        let place = self
            .table
            .entry(section)
            .or_insert_with(|| Value::Table(Table::new()));
        match place {
            Value::Table(table) => {
                table.insert(key.to_owned(), literal(text));
            }
            Value::String(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Boolean(_)
            | Value::Datetime(_)
            | Value::Array(_) => {}
        }
    }

    /// Takes a section out and lets `check` read it.
    pub(super) fn section<T>(
        &mut self,
        name: &'static str,
        check: impl FnOnce(&mut Section<'_>) -> T,
    ) -> T {
        let table = match self.table.remove(name) {
            None => Table::new(),
            Some(Value::Table(table)) => table,
            Some(other) => {
                self.problems.push(Problem {
                    path: name.to_owned(),
                    value: shown(other),
                    expected: "a section".to_owned(),
                });
                Table::new()
            }
        };
        let mut section = Section {
            name,
            table,
            problems: &mut self.problems,
        };
        let checked = check(&mut section);
        let unread = std::mem::take(&mut section.table);
        for (key, value) in unread {
            self.problems.push(Problem {
                path: format!("{name}.{key}"),
                value: shown(value),
                expected: "a known key".to_owned(),
            });
        }
        checked
    }

    /// What was wrong. Sections that nobody took are unknown.
    pub(super) fn finish(mut self) -> Problems {
        for (key, value) in std::mem::take(&mut self.table) {
            self.problems.push(Problem {
                path: key,
                value: shown(value),
                expected: "a known section".to_owned(),
            });
        }
        self.problems
    }
}

/// Reads a variable's or a flag's text: a TOML literal where it is one, and the
/// text itself otherwise.
fn literal(text: &str) -> Value {
    let parsed = format!("value = {text}").parse::<Table>();
    match parsed.ok().and_then(|mut table| table.remove("value")) {
        Some(
            value @ (Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Array(_)),
        ) => value,
        Some(Value::String(text)) => Value::String(text),
        Some(Value::Datetime(_) | Value::Table(_)) | None => Value::String(text.to_owned()),
    }
}

/// One section's values, taken out one by one.
pub struct Section<'a> {
    name: &'static str,
    table: Table,
    problems: &'a mut Problems,
}

impl Section<'_> {
    /// Notes that a value cannot be used.
    pub fn problem(&mut self, key: &str, value: &str, expected: &str) {
        self.note(key, shown(format_args!("{value:?}")), expected.to_owned());
    }

    fn note(&mut self, key: &str, value: String, expected: String) {
        self.problems.push(Problem {
            path: format!("{}.{key}", self.name),
            value,
            expected,
        });
    }

    /// Takes a value that `convert` understands, or the default.
    fn take<T>(
        &mut self,
        key: &str,
        expected: &str,
        convert: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<T> {
        let value = self.table.remove(key)?;
        let converted = convert(&value);
        if converted.is_none() {
            self.note(key, shown(&value), expected.to_owned());
        }
        converted
    }

    /// A truth value.
    pub fn boolean(&mut self, key: &str, default: bool) -> bool {
        self.take(key, "true or false", Value::as_bool)
            .unwrap_or(default)
    }

    /// A whole number within a range.
    pub fn integer(&mut self, key: &str, default: u64, range: RangeInclusive<u64>) -> u64 {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        self.take(key, &expected, |value| {
            let number = u64::try_from(value.as_integer()?).ok()?;
            range.contains(&number).then_some(number)
        })
        .unwrap_or(default)
    }

    /// A duration as in `"90s"`, `"15m"` or `"1h 30m"`, within a range.
    pub fn duration(
        &mut self,
        key: &str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let expected = format!(
            "a duration from {} to {}, such as \"90s\"",
            humantime::format_duration(*range.start()),
            humantime::format_duration(*range.end()),
        );
        self.take(key, &expected, |value| {
            let duration = humantime::parse_duration(value.as_str()?).ok()?;
            range.contains(&duration).then_some(duration)
        })
        .unwrap_or(default)
    }

    /// A text within a length in bytes.
    pub fn text(&mut self, key: &str, default: &str, bytes: RangeInclusive<usize>) -> String {
        self.optional_text(key, bytes)
            .unwrap_or_else(|| default.to_owned())
    }

    /// A text that may be missing.
    pub fn optional_text(&mut self, key: &str, bytes: RangeInclusive<usize>) -> Option<String> {
        let expected = format!("a text of {} to {} bytes", bytes.start(), bytes.end());
        self.take(key, &expected, |value| {
            let text = value.as_str()?;
            bytes.contains(&text.len()).then(|| text.to_owned())
        })
    }

    /// A list of texts; empty when missing.
    pub fn texts(&mut self, key: &str, count_max: usize) -> Vec<String> {
        self.optional_texts(key, count_max).unwrap_or_default()
    }

    /// A list of texts that may be missing.
    pub fn optional_texts(&mut self, key: &str, count_max: usize) -> Option<Vec<String>> {
        let expected = format!("a list of at most {count_max} texts");
        self.take(key, &expected, |value| {
            let items = value.as_array()?;
            if items.len() > count_max {
                return None;
            }
            items
                .iter()
                .map(|item| item.as_str().map(str::to_owned))
                .collect()
        })
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&mut self, key: &str, default: T, words: &[(&str, T)]) -> T {
        let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
        let expected = format!("one of {}", names.join(", "));
        self.take(key, &expected, |value| {
            let text = value.as_str()?;
            words
                .iter()
                .find(|(name, _)| *name == text)
                .map(|(_, choice)| *choice)
        })
        .unwrap_or(default)
    }

    /// A path from the root of the filesystem.
    pub fn absolute_path(&mut self, key: &str, default: PathBuf) -> PathBuf {
        self.optional_absolute_path(key).unwrap_or(default)
    }

    /// A path from the root of the filesystem that may be missing.
    pub fn optional_absolute_path(&mut self, key: &str) -> Option<PathBuf> {
        self.take(key, "an absolute path", |value| {
            let path = PathBuf::from(value.as_str()?);
            path.is_absolute().then_some(path)
        })
    }
}
