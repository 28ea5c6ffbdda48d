//! Takes values out of a YAML tree and collects what is wrong with them.
//!
//! Owns the problems, and what was looked up on the way. Each value is taken by
//! one of the methods here, which say what is wrong with it, so that the modules
//! above read as a list of what Compose has.
//!
//! Text that variables are put into grows; what all of it amounts to has a bound.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::str::FromStr;

use protocol::deployment::limit::{FILE_BYTES_MAX, LIST_COUNT_MAX};

use super::problem::{PROBLEMS_COUNT_MAX, Place, Problem, ProblemKind, Problems, cut, shown};
use super::yaml::{Key, Node, Value};
use super::{Contents, Purpose, Reference, References, Sources, interpolate};

/// Bytes of all texts together after variables were put in.
const EXPANDED_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Characters of a key in a path.
const KEY_CHARS_MAX: usize = 80;

/// A value, and what leads to it.
#[derive(Clone, Debug)]
pub(super) struct Item<'n> {
    /// As in `services.web.ports[0]`.
    pub(super) path: String,
    /// Where the key is, or the value where it has none.
    pub(super) at: Place,
    pub(super) node: &'n Node,
}

impl<'n> Item<'n> {
    pub(super) fn root(node: &'n Node) -> Self {
        Self {
            path: String::new(),
            at: node.at,
            node,
        }
    }

    fn below(&self, key: &'n Key, node: &'n Node) -> Self {
        let name = cut(&key.text, KEY_CHARS_MAX);
        let path = match self.path.as_str() {
            "" => name.to_owned(),
            above => format!("{above}.{name}"),
        };
        Item {
            path,
            at: key.at,
            node,
        }
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self.node.value, Value::Null)
    }

    pub(super) fn is_map(&self) -> bool {
        matches!(self.node.value, Value::Map(_))
    }

    pub(super) fn is_scalar(&self) -> bool {
        matches!(self.node.value, Value::Scalar(_))
    }
}

/// A map whose keys are taken one by one.
pub(super) struct Table<'n> {
    pub(super) item: Item<'n>,
    left: BTreeMap<&'n str, (&'n Key, &'n Node)>,
    known: Vec<&'static str>,
}

impl<'n> Table<'n> {
    /// Takes a key; none when it is not there or holds nothing.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Item<'n>> {
        self.take_even_empty(key).filter(|item| !item.is_null())
    }

    /// Takes a key, also one that holds nothing.
    pub(super) fn take_even_empty(&mut self, key: &'static str) -> Option<Item<'n>> {
        self.known.push(key);
        let (key, node) = self.left.remove(key)?;
        Some(self.item.below(key, node))
    }
}

/// A pair of a map, or of a list of `key=value`.
pub(super) struct Pair<'n> {
    pub(super) key: String,
    /// None where only the key is there.
    pub(super) value: Option<String>,
    pub(super) item: Item<'n>,
}

/// The problems so far, and what was looked up.
pub(super) struct Reader<'a> {
    pub(super) sources: &'a dyn Sources,
    pub(super) contents: &'a dyn Contents,
    problems: Vec<Problem>,
    more: usize,
    expanded: usize,
    references: References,
}

impl<'a> Reader<'a> {
    pub(super) fn new(sources: &'a dyn Sources, contents: &'a dyn Contents) -> Self {
        Self {
            sources,
            contents,
            problems: Vec::new(),
            more: 0,
            expanded: 0,
            references: References::default(),
        }
    }

    pub(super) fn into_problems(self) -> Option<Problems> {
        let (mut found, more) = (self.problems, self.more);
        found.sort_by(|a, b| (&a.file, a.place).cmp(&(&b.file, b.place)));
        (!found.is_empty()).then_some(Problems { found, more })
    }

    pub(super) fn into_references(self) -> References {
        self.references
    }

    /// Whether nothing is wrong so far.
    pub(super) fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }

    pub(super) fn add(&mut self, problem: Problem) {
        if self.problems.len() < PROBLEMS_COUNT_MAX {
            self.problems.push(problem);
        } else {
            self.more += 1;
        }
    }

    pub(super) fn invalid(&mut self, item: &Item<'_>, text: impl Into<String>) {
        self.problem(ProblemKind::Invalid, item, text.into());
    }

    pub(super) fn unsupported(&mut self, item: &Item<'_>, why: &str) {
        let text = match why {
            "" => "is not supported".to_owned(),
            why => format!("is not supported: {why}"),
        };
        self.problem(ProblemKind::Unsupported, item, text);
    }

    fn problem(&mut self, kind: ProblemKind, item: &Item<'_>, text: String) {
        self.add(Problem {
            kind,
            file: None,
            place: item.at,
            path: item.path.clone(),
            text,
        });
    }

    /// What a check found wrong becomes a problem of the item.
    pub(super) fn checked<T>(&mut self, item: &Item<'_>, outcome: Result<T, String>) -> Option<T> {
        outcome.map_err(|text| self.invalid(item, text)).ok()
    }

    /// The value of a variable, which is remembered as needed.
    pub(super) fn variable(&mut self, name: &str) -> Option<String> {
        let value = self.sources.variable(name)?;
        self.references
            .variables
            .insert(name.to_owned(), value.clone());
        Some(value)
    }

    /// Puts variables into a text.
    pub(super) fn expand<'t>(&mut self, text: &'t str) -> Result<Cow<'t, str>, String> {
        let expanded = interpolate::expand(text, &mut |name| self.variable(name))?;
        self.grew(expanded.len())?;
        Ok(expanded)
    }

    /// Counts what text came to with its variables.
    pub(super) fn grew(&mut self, bytes: usize) -> Result<(), String> {
        self.expanded = self.expanded.saturating_add(bytes);
        if self.expanded > EXPANDED_BYTES_MAX {
            return Err("makes the file too large with its variables put in".to_owned());
        }
        Ok(())
    }

    /// The content of a file; a problem when it is missing and may not be.
    pub(super) fn file(
        &mut self,
        item: &Item<'_>,
        path: &str,
        purpose: Purpose,
        optional: bool,
    ) -> Option<Vec<u8>> {
        let reference = Reference {
            purpose,
            line: item.at.line,
            optional,
        };
        self.references
            .files
            .entry(path.to_owned())
            // A file that is used twice must be there if either use needs it, and
            // is a secret if either use is one.
            .and_modify(|known| {
                known.optional &= optional;
                known.purpose = known.purpose.max(purpose);
            })
            .or_insert(reference);
        let sources = self.sources;
        let Some(content) = sources.file(path) else {
            if !optional {
                self.invalid(item, format!("names {}, which is not there", shown(path)));
            }
            return None;
        };
        self.bounded_content(item, content)
    }

    /// A content, unless it is past what a config or secret may have.
    pub(super) fn bounded_content(
        &mut self,
        item: &Item<'_>,
        content: Cow<'_, [u8]>,
    ) -> Option<Vec<u8>> {
        let size = content.len();
        if size > FILE_BYTES_MAX {
            self.invalid(item, format!("has {size} bytes; at most {FILE_BYTES_MAX}"));
            return None;
        }
        Some(content.into_owned())
    }

    /// A map.
    pub(super) fn table<'n>(&mut self, item: &Item<'n>) -> Option<Table<'n>> {
        let Value::Map(entries) = &item.node.value else {
            self.wrong_shape(item, "a map");
            return None;
        };
        let left = entries
            .iter()
            .map(|(key, node)| (&*key.text, (key, node)))
            .collect();
        Some(Table {
            item: item.clone(),
            left,
            known: Vec::new(),
        })
    }

    /// Ends a table: what nobody took is a problem, unless it is the user's own.
    /// `reasons` says of keys that Compose has why they are not supported.
    pub(super) fn finish(&mut self, table: Table<'_>, reasons: &[(&str, &str)]) {
        for (name, (key, node)) in &table.left {
            if name.starts_with("x-") {
                continue;
            }
            let item = table.item.below(key, node);
            match reasons.iter().find(|(known, _)| known == name) {
                Some((_, why)) => self.unsupported(&item, why),
                None => match nearest(name, &table.known) {
                    Some(near) => self.unsupported(&item, &format!("did you mean `{near}`?")),
                    None => self.unsupported(&item, "no such key"),
                },
            }
        }
    }

    /// The entries of a map whose keys are names.
    pub(super) fn entries<'n>(&mut self, item: &Item<'n>) -> Vec<(String, Item<'n>)> {
        if item.is_null() {
            return Vec::new();
        }
        let Value::Map(entries) = &item.node.value else {
            self.wrong_shape(item, "a map");
            return Vec::new();
        };
        entries
            .iter()
            .filter(|(key, _)| !key.text.starts_with("x-"))
            .map(|(key, node)| (key.text.to_string(), item.below(key, node)))
            .collect()
    }

    /// The items of a list.
    pub(super) fn list<'n>(&mut self, item: &Item<'n>) -> Vec<Item<'n>> {
        let Value::List(items) = &item.node.value else {
            self.wrong_shape(item, "a list");
            return Vec::new();
        };
        if items.len() > LIST_COUNT_MAX {
            self.invalid(
                item,
                format!("has {} entries; at most {LIST_COUNT_MAX}", items.len()),
            );
            return Vec::new();
        }
        items
            .iter()
            .enumerate()
            .map(|(index, node)| Item {
                path: format!("{}[{index}]", item.path),
                at: node.at,
                node,
            })
            .collect()
    }

    /// The texts of a list.
    pub(super) fn texts(&mut self, item: &Item<'_>) -> Vec<String> {
        let items = self.list(item);
        items.iter().filter_map(|item| self.text(item)).collect()
    }

    /// The texts of a list, or one text.
    pub(super) fn one_or_more(&mut self, item: &Item<'_>) -> Vec<String> {
        if item.is_scalar() {
            self.text(item).into_iter().collect()
        } else {
            self.texts(item)
        }
    }

    /// The texts of a list that is a set: sorted, each once.
    pub(super) fn set(&mut self, item: &Item<'_>) -> Vec<String> {
        let mut texts = self.texts(item);
        texts.sort();
        texts.dedup();
        texts
    }

    /// A single value as text, with variables put in.
    pub(super) fn text(&mut self, item: &Item<'_>) -> Option<String> {
        let Value::Scalar(text) = &item.node.value else {
            self.wrong_shape(item, "a single value");
            return None;
        };
        let expanded = self.expand(text).map(Cow::into_owned);
        let text = self.checked(item, expanded)?;
        if text.contains('\0') {
            self.invalid(item, "has a NUL character");
            return None;
        }
        Some(text)
    }

    /// A single value that a function reads.
    pub(super) fn parsed<T>(
        &mut self,
        item: &Item<'_>,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.text(item)?;
        let outcome = parse(&text);
        self.checked(item, outcome)
    }

    /// A whole number.
    pub(super) fn number<T: FromStr>(&mut self, item: &Item<'_>) -> Option<T> {
        self.parsed(item, |text| {
            text.trim()
                .parse()
                .map_err(|_| format!("{} is no number that fits here", shown(text)))
        })
    }

    /// True or false.
    pub(super) fn flag(&mut self, item: &Item<'_>) -> Option<bool> {
        self.parsed(item, |text| match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" => Ok(true),
            "false" | "no" | "off" => Ok(false),
            _ => Err(format!("{} is neither true nor false", shown(text))),
        })
    }

    /// Pairs: a map, or a list of `key=value`. A key that is there twice is a
    /// problem.
    pub(super) fn pairs<'n>(&mut self, item: &Item<'n>) -> Vec<Pair<'n>> {
        let mut pairs: Vec<Pair<'n>> = Vec::new();
        if let Value::Map(entries) = &item.node.value {
            if entries.len() > LIST_COUNT_MAX {
                let count = entries.len();
                self.invalid(
                    item,
                    format!("has {count} entries; at most {LIST_COUNT_MAX}"),
                );
                return pairs;
            }
            for (key, node) in entries.iter() {
                let below = item.below(key, node);
                let value = if below.is_null() {
                    None
                } else {
                    match self.text(&below) {
                        Some(value) => Some(value),
                        None => continue,
                    }
                };
                pairs.push(Pair {
                    key: key.text.to_string(),
                    value,
                    item: below,
                });
            }
            return pairs;
        }
        let mut seen = std::collections::BTreeSet::new();
        for below in self.list(item) {
            let Some(text) = self.text(&below) else {
                continue;
            };
            let (key, value) = match text.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (text, None),
            };
            if key.is_empty() {
                self.invalid(&below, "has no name in front of its `=`");
            } else if !seen.insert(key.clone()) {
                self.invalid(&below, format!("gives {} a second time", shown(&key)));
            } else {
                pairs.push(Pair {
                    key,
                    value,
                    item: below,
                });
            }
        }
        pairs
    }

    /// Pairs where a missing value is an empty one: labels, options.
    pub(super) fn map(&mut self, item: &Item<'_>) -> BTreeMap<String, String> {
        self.pairs(item)
            .into_iter()
            .map(|pair| (pair.key, pair.value.unwrap_or_default()))
            .collect()
    }

    pub(super) fn wrong_shape(&mut self, item: &Item<'_>, wanted: &str) {
        let found = item.node.value.what();
        self.invalid(item, format!("is {found} where {wanted} is expected"));
    }

    /// Takes a key that must be there.
    pub(super) fn require<'n>(
        &mut self,
        table: &mut Table<'n>,
        key: &'static str,
    ) -> Option<Item<'n>> {
        let item = table.take(key);
        if item.is_none() {
            let whole = table.item.clone();
            self.invalid(&whole, format!("has no `{key}`"));
        }
        item
    }

    // The same for keys of a table, when they are there.

    pub(super) fn take_text(&mut self, table: &mut Table<'_>, key: &'static str) -> Option<String> {
        let item = table.take(key)?;
        self.text(&item)
    }

    pub(super) fn take_flag(&mut self, table: &mut Table<'_>, key: &'static str) -> bool {
        let item = table.take(key);
        item.and_then(|item| self.flag(&item)).unwrap_or(false)
    }

    pub(super) fn take_set(&mut self, table: &mut Table<'_>, key: &'static str) -> Vec<String> {
        let item = table.take(key);
        item.map(|item| self.set(&item)).unwrap_or_default()
    }

    pub(super) fn take_map(
        &mut self,
        table: &mut Table<'_>,
        key: &'static str,
    ) -> BTreeMap<String, String> {
        let item = table.take(key);
        item.map(|item| self.map(&item)).unwrap_or_default()
    }

    pub(super) fn take_parsed<T>(
        &mut self,
        table: &mut Table<'_>,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let item = table.take(key)?;
        self.parsed(&item, parse)
    }
}

/// The known key that is nearest to one that is not known, if one is near.
fn nearest(name: &str, known: &[&'static str]) -> Option<&'static str> {
    const FAR: usize = 3;
    // Longer ones are no typing errors, and cost.
    if name.len() > 40 {
        return None;
    }
    known
        .iter()
        .map(|known| (distance(name, known), *known))
        .filter(|(distance, known)| *distance < FAR && *distance * 2 < known.len())
        .min()
        .map(|(_, known)| known)
}

/// Letters to insert, delete or replace to get from one word to another.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut previous = i;
        let mut left = i + 1;
        for (cell, cb) in row.iter_mut().skip(1).zip(&b) {
            let above = *cell;
            left = (left + 1)
                .min(above + 1)
                .min(previous + usize::from(ca != *cb));
            previous = above;
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}
