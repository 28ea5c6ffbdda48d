//! Labels of nodes: the grammar of keys and values.
//!
//! A key or value is at most 63 characters of `a-z A-Z 0-9 . _ - /`, starting
//! and ending with a letter or digit (RFC 1123 with the usual extensions of
//! container orchestrators). A value may be empty. Keys that begin with
//! `flotilla/` are the controller's own.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::ErrorCode;
use crate::limits::{LABEL_BYTES_MAX, LABELS_COUNT_MAX, NODE_NAME_BYTES_MAX};

/// The labels of one node, checked. Order is by key, so that equal labels have
/// equal bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Labels(BTreeMap<String, String>);

/// A label, label set or name that is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// A key is not one.
    #[error(
        "label key {0:?} is not 1 to {LABEL_BYTES_MAX} characters of a-z A-Z 0-9 . _ - / that start and end with a letter or digit"
    )]
    Key(String),
    /// A value is not one.
    #[error(
        "value {value:?} of label {key:?} is not up to {LABEL_BYTES_MAX} characters of a-z A-Z 0-9 . _ - / that start and end with a letter or digit"
    )]
    Value {
        /// The label's key.
        key: String,
        /// What was given.
        value: String,
    },
    /// A text is not `key=value`.
    #[error("label {0:?} is not key=value")]
    Pair(String),
    /// Too many labels.
    #[error("{0} labels are more than {LABELS_COUNT_MAX}")]
    Count(usize),
    /// A node's name is not one.
    #[error(
        "name {0:?} is not 1 to {NODE_NAME_BYTES_MAX} characters of a-z A-Z 0-9 . _ - that start and end with a letter or digit"
    )]
    Name(String),
}

impl LabelError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        ErrorCode::LabelInvalid
    }
}

impl Labels {
    /// No labels.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Checks and takes pairs; a later one of the same key wins.
    ///
    /// # Errors
    /// The first pair that is not a label, or too many of them.
    pub fn from_pairs(
        pairs: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, LabelError> {
        let mut labels = Self::new();
        for (key, value) in pairs {
            labels.set(key, value)?;
        }
        Ok(labels)
    }

    /// Sets one label.
    ///
    /// # Errors
    /// When key or value is not one, or there would be too many labels.
    pub fn set(&mut self, key: String, value: String) -> Result<(), LabelError> {
        if !is_key(&key) {
            return Err(LabelError::Key(cut(&key)));
        }
        if !is_value(&value) {
            return Err(LabelError::Value {
                key,
                value: cut(&value),
            });
        }
        if self.0.len() >= LABELS_COUNT_MAX && !self.0.contains_key(&key) {
            return Err(LabelError::Count(self.0.len() + 1));
        }
        self.0.insert(key, value);
        Ok(())
    }

    /// Removes one label; whether it was there.
    pub fn remove(&mut self, key: &str) -> bool {
        self.0.remove(key).is_some()
    }

    /// The value of a label.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// The labels by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let pairs = BTreeMap::<String, String>::deserialize(deserializer)?;
        Self::from_pairs(pairs).map_err(serde::de::Error::custom)
    }
}

/// Reads `key=value`.
///
/// # Errors
/// When there is no `=`. The parts are checked when they become [`Labels`].
pub fn parse_pair(text: &str) -> Result<(String, String), LabelError> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| LabelError::Pair(cut(text)))?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

/// Checks a node's name.
///
/// # Errors
/// [`LabelError::Name`].
pub fn check_name(name: &str) -> Result<(), LabelError> {
    let good = !name.contains('/') && name.len() <= NODE_NAME_BYTES_MAX && is_key(name);
    good.then_some(())
        .ok_or_else(|| LabelError::Name(cut(name)))
}

/// Whether a text is a label's key.
#[must_use]
pub fn is_key(text: &str) -> bool {
    !text.is_empty() && is_value(text)
}

/// Whether a text is a label's value.
#[must_use]
pub fn is_value(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
    let edge = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    text.len() <= LABEL_BYTES_MAX
        && text.chars().all(inner)
        && edge(text.chars().next())
        && edge(text.chars().next_back())
}

fn cut(text: &str) -> String {
    text.chars().take(LABEL_BYTES_MAX * 2).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_follow_the_grammar() {
        for good in ["a", "site", "app.kubernetes.io/name", "A_b-c.9"] {
            assert!(is_key(good), "{good}");
        }
        for bad in ["", "-a", "a-", "a b", "a=b", "ä", &"x".repeat(64)] {
            assert!(!is_key(bad), "{bad}");
        }
        assert!(is_value(""));
        assert!(check_name("lyon-1").is_ok());
        assert!(check_name("lyon/1").is_err());
    }

    #[test]
    fn a_decoded_set_is_checked_too() {
        let bad = BTreeMap::from([("a b".to_owned(), "x".to_owned())]);
        let bytes = postcard::to_stdvec(&bad).unwrap();
        assert!(postcard::from_bytes::<Labels>(&bytes).is_err());
    }

    #[test]
    fn the_number_of_labels_is_bounded() {
        let pairs = (0..=LABELS_COUNT_MAX).map(|n| (format!("k{n}"), String::new()));
        assert_eq!(
            Labels::from_pairs(pairs),
            Err(LabelError::Count(LABELS_COUNT_MAX + 1))
        );
    }
}
