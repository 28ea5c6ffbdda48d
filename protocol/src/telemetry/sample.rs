//! One moment's measurement: (series, label, integer value) triples.

use std::fmt;
use std::sync::Arc;

use super::catalogue::SeriesId;
use super::limit::LABEL_BYTES_MAX;

/// What tells apart the samples of one series: a device, an interface, a mount
/// point, a container, a sensor. Most series have none. Cheap to clone, because
/// collectors reuse the same label every ten seconds.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Label(Option<Arc<str>>);

impl Label {
    /// No label.
    pub const NONE: Self = Self(None);

    /// A label of this text, made to fit: characters that do not print become
    /// `_`, and a text longer than [`LABEL_BYTES_MAX`] keeps its beginning and
    /// ends in a hash of the whole, so that two long names stay apart.
    pub fn fit(text: &str) -> Self {
        if text.is_empty() {
            return Self::NONE;
        }
        let printable: String = text
            .chars()
            .map(|c| if is_printable(c) { c } else { '_' })
            .collect();
        if printable.len() <= LABEL_BYTES_MAX {
            return Self(Some(printable.into()));
        }
        let suffix = format!("~{:08x}", fnv1a(text.as_bytes()));
        let mut kept = String::with_capacity(LABEL_BYTES_MAX);
        for c in printable.chars() {
            if kept.len() + c.len_utf8() + suffix.len() > LABEL_BYTES_MAX {
                break;
            }
            kept.push(c);
        }
        kept.push_str(&suffix);
        Self(Some(kept.into()))
    }

    /// A label exactly as it stands on the wire; `None` when it breaks the
    /// bounds that [`Label::fit`] keeps.
    pub fn from_wire(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self::NONE);
        }
        (text.len() <= LABEL_BYTES_MAX && text.chars().all(is_printable))
            .then(|| Self(Some(text.into())))
    }

    /// The text; empty for no label.
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }

    /// Whether there is no label.
    pub const fn is_none(&self) -> bool {
        self.0.is_none()
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn is_printable(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{2028}' | '\u{2029}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

/// One value of one series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Which series.
    pub series: SeriesId,
    /// Which device, interface, …; none for a series of the whole node.
    pub label: Label,
    /// The value in steps of the series' scale.
    pub value: i64,
}

/// Everything measured at one moment. The order is not kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SampleSet(Vec<Sample>);

impl SampleSet {
    /// An empty set.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds the value of a series that has no label.
    pub fn push(&mut self, series: SeriesId, value: i64) {
        self.push_labelled(series, &Label::NONE, value);
    }

    /// Adds the value of a series for one label.
    pub fn push_labelled(&mut self, series: SeriesId, label: &Label, value: i64) {
        self.0.push(Sample {
            series,
            label: label.clone(),
            value,
        });
    }

    /// Adds the value of an unsigned reading, held at `i64::MAX` if it is larger:
    /// a kernel counter that far up is broken, and must not turn negative.
    pub fn push_u64(&mut self, series: SeriesId, label: &Label, value: u64) {
        self.push_labelled(series, label, i64::try_from(value).unwrap_or(i64::MAX));
    }

    /// The samples.
    pub fn iter(&self) -> std::slice::Iter<'_, Sample> {
        self.0.iter()
    }

    /// The value of one series and label.
    pub fn get(&self, series: SeriesId, label: &str) -> Option<i64> {
        self.0
            .iter()
            .find(|sample| sample.series == series && sample.label.as_str() == label)
            .map(|sample| sample.value)
    }

    /// How many samples.
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Forgets the samples and keeps the memory for the next moment.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

impl<'a> IntoIterator for &'a SampleSet {
    type Item = &'a Sample;
    type IntoIter = std::slice::Iter<'a, Sample>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
