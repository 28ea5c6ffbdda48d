//! Selectors: which nodes an operation is for.
//!
//! ```text
//! *                         every node
//! site=lyon                 the label has the value
//! role!=db                  it has another value, or is not there
//! site in (lyon, paris)     it has one of the values
//! site notin (lyon, paris)  it has none of them, or is not there
//! gpu                       the label is there
//! !gpu                      it is not
//! id=<node id>              that node
//! name=edge-7               the node of that name
//! site=lyon,role!=db        all of the terms
//! ```
//!
//! The grammar is the one that container orchestrators use, with `id` and `name`
//! as keys of their own. A selector always has a term: an empty text is an error,
//! since "every node" must be said.

use core::fmt;
use core::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ErrorCode;
use crate::id::NodeId;
use crate::label::{Labels, is_key, is_value};
use crate::limits::{SELECTOR_BYTES_MAX, SELECTOR_TERMS_MAX};

/// Which nodes: all of the terms must hold; no terms is every node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    terms: Vec<Term>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Term {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    Is(String),
    IsNot(String),
    In(Vec<String>),
    NotIn(Vec<String>),
    Present,
    Absent,
}

/// A text that is not a selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseSelectorError {
    /// Nothing was given.
    #[error("selector is empty; `*` means every node")]
    Empty,
    /// It is too long or has too many terms.
    #[error("selector has more than {SELECTOR_BYTES_MAX} bytes or {SELECTOR_TERMS_MAX} terms")]
    TooLong,
    /// One term is not one.
    #[error(
        "selector term {0:?} is not key=value, key!=value, key in (a,b), key notin (a,b), key or !key"
    )]
    Term(String),
}

impl ParseSelectorError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        ErrorCode::SelectorInvalid
    }
}

/// What a selector is asked about.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The node's id.
    pub id: NodeId,
    /// Its name.
    pub name: &'a str,
    /// Its labels.
    pub labels: &'a Labels,
}

impl Selector {
    /// Every node.
    #[must_use]
    pub fn every() -> Self {
        Self { terms: Vec::new() }
    }

    /// One node.
    #[must_use]
    pub fn node(id: NodeId) -> Self {
        Self {
            terms: vec![Term {
                key: "id".to_owned(),
                test: Test::Is(id.to_string()),
            }],
        }
    }

    /// Whether it has no terms.
    #[must_use]
    pub fn is_every(&self) -> bool {
        self.terms.is_empty()
    }

    /// Whether the node is meant.
    #[must_use]
    pub fn matches(&self, subject: Subject<'_>) -> bool {
        if self.terms.is_empty() {
            return true;
        }
        let id = subject.id.to_string();
        self.terms.iter().all(|term| {
            let value = match term.key.as_str() {
                "id" => Some(id.as_str()),
                "name" => Some(subject.name),
                key => subject.labels.get(key),
            };
            term.test.holds(value)
        })
    }
}

impl Test {
    fn holds(&self, value: Option<&str>) -> bool {
        match self {
            Self::Is(wanted) => value == Some(wanted),
            Self::IsNot(unwanted) => value != Some(unwanted),
            Self::In(wanted) => value.is_some_and(|value| wanted.iter().any(|w| w == value)),
            Self::NotIn(unwanted) => value.is_none_or(|value| unwanted.iter().all(|u| u != value)),
            Self::Present => value.is_some(),
            Self::Absent => value.is_none(),
        }
    }
}

impl FromStr for Selector {
    type Err = ParseSelectorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > SELECTOR_BYTES_MAX {
            return Err(ParseSelectorError::TooLong);
        }
        let text = text.trim();
        if text.is_empty() {
            return Err(ParseSelectorError::Empty);
        }
        if text == "*" {
            return Ok(Self::every());
        }
        let terms = split_terms(text)
            .map(|term| parse_term(term).ok_or_else(|| ParseSelectorError::Term(term.to_owned())))
            .collect::<Result<Vec<_>, _>>()?;
        if terms.len() > SELECTOR_TERMS_MAX {
            return Err(ParseSelectorError::TooLong);
        }
        Ok(Self { terms })
    }
}

/// Splits at commas outside parentheses.
fn split_terms(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_i32;
    text.split(move |c| {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    })
    .map(str::trim)
}

fn parse_term(text: &str) -> Option<Term> {
    let (key, test) = if let Some(key) = text.strip_prefix('!') {
        (key, Test::Absent)
    } else if let Some((key, value)) = text.split_once("!=") {
        (key, Test::IsNot(value.trim().to_owned()))
    } else if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        (key, Test::Is(value.trim().to_owned()))
    } else if let Some((key, values)) = split_set(text, " notin ") {
        (key, Test::NotIn(values))
    } else if let Some((key, values)) = split_set(text, " in ") {
        (key, Test::In(values))
    } else {
        (text, Test::Present)
    };
    let key = key.trim().to_owned();
    let values_good = match &test {
        Test::Is(value) | Test::IsNot(value) => is_value(value),
        Test::In(values) | Test::NotIn(values) => {
            !values.is_empty() && values.iter().all(|value| is_value(value))
        }
        Test::Present | Test::Absent => true,
    };
    (is_key(&key) && values_good).then_some(Term { key, test })
}

fn split_set<'a>(text: &'a str, word: &str) -> Option<(&'a str, Vec<String>)> {
    let (key, set) = text.split_once(word)?;
    let inner = set.trim().strip_prefix('(')?.strip_suffix(')')?;
    let values = inner.split(',').map(|value| value.trim().to_owned());
    Some((key, values.collect()))
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.terms.is_empty() {
            return f.write_str("*");
        }
        for (index, Term { key, test }) in self.terms.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            match test {
                Test::Is(value) => write!(f, "{key}={value}")?,
                Test::IsNot(value) => write!(f, "{key}!={value}")?,
                Test::In(values) => write!(f, "{key} in ({})", values.join(","))?,
                Test::NotIn(values) => write!(f, "{key} notin ({})", values.join(","))?,
                Test::Present => f.write_str(key)?,
                Test::Absent => write!(f, "!{key}")?,
            }
        }
        Ok(())
    }
}

impl Serialize for Selector {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Selector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(selector: &str, expected: bool) {
        let labels = Labels::from_pairs([
            ("site".to_owned(), "lyon".to_owned()),
            ("role".to_owned(), "web".to_owned()),
        ])
        .unwrap();
        let subject = Subject {
            id: NodeId::from_bytes([1; 10]),
            name: "edge-7",
            labels: &labels,
        };
        let parsed: Selector = selector.parse().unwrap();
        assert_eq!(parsed.matches(subject), expected, "{selector}");
        assert_eq!(parsed.to_string().parse::<Selector>(), Ok(parsed));
    }

    #[test]
    fn terms_mean_what_they_say() {
        check("*", true);
        check("site=lyon", true);
        check("site==lyon", true);
        check("site=paris", false);
        check("site=lyon,role!=db", true);
        check("site = lyon , role != web", false);
        check("zone!=a", true);
        check("site in (paris, lyon)", true);
        check("site in (paris)", false);
        check("site notin (paris)", true);
        check("zone notin (a,b)", true);
        check("zone in (a)", false);
        check("site", true);
        check("gpu", false);
        check("!gpu", true);
        check("name=edge-7", true);
        check("name=edge-8", false);
        check(&format!("id={}", NodeId::from_bytes([1; 10])), true);
        check(&format!("id={}", NodeId::NIL), false);
    }

    #[test]
    fn what_is_not_a_selector_is_refused() {
        for bad in [
            "", "  ", ",", "a,,b", "=x", "a=b c", "a in b", "a in ()x", "!", "a in (b", "**",
        ] {
            assert!(bad.parse::<Selector>().is_err(), "{bad}");
        }
        let long = vec!["a=b"; SELECTOR_TERMS_MAX + 1].join(",");
        assert_eq!(long.parse::<Selector>(), Err(ParseSelectorError::TooLong));
    }
}
