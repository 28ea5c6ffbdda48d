//! Bounded label sets, and labels that are made once.

use std::collections::BTreeMap;

use protocol::telemetry::Label;

/// Turns the names of one kind (devices, interfaces, …) into labels, and holds
/// the first `limit` of them in name order. What is beyond is counted.
#[derive(Debug)]
pub(super) struct Labels {
    known: BTreeMap<String, Label>,
    limit: usize,
}

impl Labels {
    pub(super) const fn new(limit: usize) -> Self {
        Self {
            known: BTreeMap::new(),
            limit,
        }
    }

    /// The labels of these names, which come in no order: (label, index into the
    /// names), and how many were left out. Forgets names that are gone.
    pub(super) fn of(&mut self, names: &[&str]) -> (Vec<(Label, usize)>, usize) {
        let mut order: Vec<usize> = (0..names.len()).collect();
        order.sort_unstable_by_key(|index| names.get(*index));
        let dropped = order.len().saturating_sub(self.limit);
        order.truncate(self.limit);
        if self.known.len() > 2 * self.limit {
            self.known.retain(|name, _| names.contains(&name.as_str()));
        }
        let kept = order
            .into_iter()
            .filter_map(|index| names.get(index).map(|name| (self.label(name), index)))
            .collect();
        (kept, dropped)
    }

    fn label(&mut self, name: &str) -> Label {
        if let Some(label) = self.known.get(name) {
            return label.clone();
        }
        let label = Label::fit(name);
        self.known.insert(name.to_owned(), label.clone());
        label
    }
}
