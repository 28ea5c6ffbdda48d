//! How many nodes may be unavailable at once.
//!
//! A node is unavailable while its link is down, while it changes, when it failed
//! and did not go back, and when it is not well. Whatever made it so, it uses up
//! the budget of its group.
//!
//! **Invariant:** nothing is started that would bring a group past its budget.

use std::collections::BTreeMap;

use crate::domain::rollout::params::Budget;

/// The groups of a rollout's targets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Groups {
    groups: BTreeMap<String, Group>,
}

/// One group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// Nodes in it.
    pub size: u32,
    /// Of these, unavailable.
    pub disrupted: u32,
}

impl Group {
    /// Whether one more may become unavailable.
    #[must_use]
    pub fn admits(&self, budget: &Budget) -> bool {
        let after = self.disrupted + 1;
        let below_max = budget
            .unavailable_max
            .is_none_or(|max| after <= max.of(self.size));
        let above_min = budget
            .available_min
            .is_none_or(|min| self.size.saturating_sub(after) >= min.of(self.size));
        below_max && above_min
    }
}

impl Groups {
    /// Adds a node.
    pub(crate) fn put(&mut self, group: &str, disrupted: bool) {
        let entry = match self.groups.get_mut(group) {
            Some(entry) => entry,
            None => self.groups.entry(group.to_owned()).or_default(),
        };
        entry.size += 1;
        entry.disrupted += u32::from(disrupted);
    }

    /// Removes a node that was added.
    pub(crate) fn take(&mut self, group: &str, disrupted: bool) {
        if let Some(entry) = self.groups.get_mut(group) {
            entry.size -= 1;
            entry.disrupted -= u32::from(disrupted);
        }
    }

    /// One group.
    #[must_use]
    pub fn get(&self, group: &str) -> Group {
        self.groups.get(group).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::rollout::params::Amount;

    #[test]
    fn budgets_by_table() {
        let max = |amount| Budget {
            unavailable_max: Some(amount),
            ..Budget::default()
        };
        let min = |amount| Budget {
            available_min: Some(amount),
            ..Budget::default()
        };
        for (size, disrupted, budget, admits) in [
            (4, 4, Budget::default(), true),
            (4, 1, max(Amount::Count(2)), true),
            (4, 2, max(Amount::Count(2)), false),
            (10, 0, max(Amount::Percent(10)), true),
            (10, 1, max(Amount::Percent(10)), false),
            (2, 0, max(Amount::Percent(10)), true),
            (4, 0, min(Amount::Count(3)), true),
            (4, 1, min(Amount::Count(3)), false),
            (4, 0, min(Amount::Percent(100)), false),
        ] {
            let group = Group { size, disrupted };
            assert_eq!(group.admits(&budget), admits, "{group:?} {budget:?}");
        }
    }
}
