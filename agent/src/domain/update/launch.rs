//! Which version is started.
//!
//! **Invariant:** whatever the file and the symlink say, and wherever a power cut
//! fell between the two, the answer is a version that was selected before or one
//! whose trial has starts left.

use super::record::{PROBATION_STARTS_MAX, Phase, Slot, TRIAL_STARTS_MAX, UpdateRecord};

/// What a launcher is to do, in this order: write the record, select, start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// The record to be durable before anything else; none where it stays.
    pub record: Option<UpdateRecord>,
    /// What the symlink is to say; none where it says so already.
    pub select: Option<Slot>,
    /// What is started.
    pub run: Slot,
    /// Whether it is watched, as a child.
    pub watch: bool,
}

impl Launch {
    fn plain(run: Slot) -> Self {
        Self {
            record: None,
            select: None,
            run,
            watch: false,
        }
    }
}

/// Decides. `selected` is what the symlink says, `own` the launcher's version, `last`
/// how the version that is watched came to its end, where that is known.
#[must_use]
pub fn launch(
    record: Option<&UpdateRecord>,
    selected: &Slot,
    own: &str,
    last: Option<&str>,
) -> Launch {
    let Some(record) = record else {
        return Launch::plain(selected.clone());
    };
    if record.base != own {
        return package(record, selected, own);
    }
    match record.phase {
        Phase::Trial if selected != &record.to && selected == &record.from => {
            // The power went between the record and the symlink.
            Launch {
                record: Some(record.to(Phase::Abandoned)),
                ..Launch::plain(record.from.clone())
            }
        }
        Phase::Trial if record.starts >= TRIAL_STARTS_MAX => {
            back(record, "did not confirm itself", last)
        }
        Phase::Proven if record.starts >= PROBATION_STARTS_MAX => {
            back(record, "did not last after it had confirmed itself", last)
        }
        Phase::Trial | Phase::Proven => Launch {
            record: Some(UpdateRecord {
                starts: record.starts + 1,
                ..record.clone()
            }),
            select: (selected != &record.to).then(|| record.to.clone()),
            run: record.to.clone(),
            watch: true,
        },
        // The power may have gone between the record and the symlink here too.
        Phase::Settled | Phase::Reverted { .. } | Phase::Abandoned => Launch {
            select: (selected != record.selected()).then(|| record.selected().clone()),
            ..Launch::plain(record.selected().clone())
        },
    }
}

/// Goes back to the version before, since this one had all its starts.
fn back(record: &UpdateRecord, did: &str, last: Option<&str>) -> Launch {
    let UpdateRecord {
        version, starts, ..
    } = record;
    let last = last.map_or_else(String::new, |last| format!("; the last time {last}"));
    let reason = format!("version {version} was started {starts} times and {did}{last}");
    Launch {
        record: Some(record.reverted(&reason)),
        select: Some(record.from.clone()),
        ..Launch::plain(record.from.clone())
    }
}

/// A package was installed since: it is what whoever installed it wants to run.
fn package(record: &UpdateRecord, selected: &Slot, own: &str) -> Launch {
    let reason = format!("version {own} was installed as a package");
    let record = UpdateRecord {
        base: own.to_owned(),
        from: None,
        from_version: own.to_owned(),
        ..record.reverted(&reason)
    };
    Launch {
        record: Some(record),
        select: selected.is_some().then_some(None),
        ..Launch::plain(None)
    }
}
