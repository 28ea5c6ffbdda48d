//! Layers of configuration before they are checked: file, environment, flags.
//!
//! Owns where each value came from, so that a problem names the file, variable
//! or flag to change. Nothing is an error here except text that is no TOML;
//! judging keys and values is `check`'s work, which reports all at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use toml::{Table, Value};

/// Where a value was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The configuration file.
    File(String),
    /// An environment variable.
    Env(String),
    /// A flag on the command line.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.write_str(path),
            Self::Env(name) => f.write_str(name),
            Self::Flag => f.write_str("the command line"),
        }
    }
}

/// One thing wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Dotted path of the key, or empty for the file as a whole.
    pub key: String,
    /// What is wrong and what would be right.
    pub detail: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() {
            f.write_str(&self.detail)
        } else {
            write!(f, "{}: {}", self.key, self.detail)
        }
    }
}

/// Values by dotted key, each with where it came from. Later layers win.
#[derive(Debug, Default, Clone)]
pub struct Layers {
    values: BTreeMap<String, (Value, Origin)>,
}

/// Variables that begin like ours and mean something else: the operator's
/// profile, and what a node reads.
const OPERATOR_VARIABLES: [&str; 5] = [
    "FLOTILLA_API",
    "FLOTILLA_KEY",
    "FLOTILLA_CA",
    "FLOTILLA_PROFILE",
    "FLOTILLA_CONFIG",
];
const AGENT_PREFIX: &str = "FLOTILLA_AGENT_";
const PREFIX: &str = "FLOTILLA_";

/// The environment variable that sets `key`: `api.listen` is `FLOTILLA_API_LISTEN`.
#[must_use]
pub fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "_").to_uppercase())
}

impl Layers {
    /// Adds a TOML document.
    ///
    /// # Errors
    /// When `text` is not TOML; the message carries line and column.
    pub fn add_file(&mut self, path: &str, text: &str) -> Result<(), Problem> {
        let table: Table = text.parse().map_err(|error: toml::de::Error| Problem {
            key: String::new(),
            detail: format!("{path} is not valid TOML: {}", error.to_string().trim_end()),
        })?;
        self.add_table("", table, &Origin::File(path.to_owned()));
        Ok(())
    }

    fn add_table(&mut self, prefix: &str, table: Table, origin: &Origin) {
        for (name, value) in table {
            let key = if prefix.is_empty() {
                name
            } else {
                format!("{prefix}.{name}")
            };
            if let Value::Table(inner) = value {
                self.add_table(&key, inner, origin);
            } else {
                self.values.insert(key, (value, origin.clone()));
            }
        }
    }

    /// Adds environment variables. Names that match no key of `known` are
    /// returned as problems: a typo in a unit file must not be silently ignored.
    pub fn add_env(
        &mut self,
        variables: impl IntoIterator<Item = (String, String)>,
        known: &[&str],
    ) -> Vec<Problem> {
        let by_variable: BTreeMap<_, _> = known.iter().map(|key| (variable(key), *key)).collect();
        let mut problems = Vec::new();
        for (name, text) in variables {
            if !name.starts_with(PREFIX)
                || name.starts_with(AGENT_PREFIX)
                || OPERATOR_VARIABLES.contains(&name.as_str())
            {
                continue;
            }
            match by_variable.get(&name) {
                Some(key) => {
                    let value = (value_of(&text), Origin::Env(name));
                    self.values.insert((*key).to_owned(), value);
                }
                None => problems.push(Problem {
                    key: String::new(),
                    detail: format!("environment variable {name} sets no known key"),
                }),
            }
        }
        problems
    }

    /// Adds one `key=value` from the command line.
    pub fn add_flag(&mut self, key: &str, text: &str) {
        self.values
            .insert(key.to_owned(), (value_of(text), Origin::Flag));
    }

    pub(super) fn get(&self, key: &str) -> Option<(&Value, &Origin)> {
        self.values.get(key).map(|(value, origin)| (value, origin))
    }

    /// Keys that were given and are not in `known`, each with the nearest known one.
    pub(super) fn unknown(&self, known: &BTreeSet<&str>) -> Vec<Problem> {
        self.values
            .iter()
            .filter(|(key, _)| !known.contains(key.as_str()))
            .map(|(key, (_, origin))| {
                let hint = nearest(key, known)
                    .map(|near| format!("; did you mean {near}?"))
                    .unwrap_or_default();
                Problem {
                    key: key.clone(),
                    detail: format!("no such key (in {origin}){hint}"),
                }
            })
            .collect()
    }
}

/// Text from outside TOML: a TOML value when it reads as one, else a string.
fn value_of(text: &str) -> Value {
    match text.parse::<Value>() {
        Ok(Value::Datetime(_)) | Err(_) => Value::String(text.to_owned()),
        Ok(value) => value,
    }
}

/// The known key that takes the fewest edits, when few enough to be a typo.
fn nearest<'a>(key: &str, known: &BTreeSet<&'a str>) -> Option<&'a str> {
    known
        .iter()
        .map(|near| (edits(key, near), *near))
        .min()
        .filter(|(distance, _)| *distance <= 3)
        .map(|(_, near)| near)
}

fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in b.iter().enumerate() {
            let above = row[j + 1];
            let replaced = diagonal + usize::from(left != *right);
            row[j + 1] = replaced.min(above + 1).min(row[j] + 1);
            diagonal = above;
        }
    }
    row[b.len()]
}
