//! What a node keeps of its last update, in a file of its own: the launcher reads it
//! before any store is open, and an older or newer launcher must be able to.

use serde::{Deserialize, Serialize};

use crate::domain::stored;

/// The layout of the file. A launcher that does not know it runs what is selected.
const FORMAT: u8 = 1;

/// Starts of a version that is not proven. Two may be an accident of the machine.
pub const TRIAL_STARTS_MAX: u32 = 3;

/// Starts in a row of a proven version that do not last: see
/// [`Phase::Proven`]. More than in a trial, because it did work once.
pub const PROBATION_STARTS_MAX: u32 = 5;

/// Bytes of a reason.
const REASON_BYTES_MAX: usize = 512;

/// Which program is meant: a version that lies in the state directory, or, none, the
/// launcher's own.
pub type Slot = Option<String>;

/// The last update.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateRecord {
    /// The generation of the order.
    pub generation: u64,
    /// The new version.
    pub version: String,
    /// Where it lies.
    pub to: Slot,
    /// The version before.
    pub from_version: String,
    /// Where that lies.
    pub from: Slot,
    /// The launcher's own version when the update began. Another one means that a
    /// package was installed since, which is newer than anything here.
    pub base: String,
    /// How far it came.
    pub phase: Phase,
    /// Starts since the trial began, or since the version last lasted.
    pub starts: u32,
    /// The window in which the new version must confirm itself, in milliseconds.
    pub window_ms: u64,
    /// How long its link must be up for that, in milliseconds.
    pub steady_ms: u64,
}

/// How far an update came. Append-only: postcard numbers the variants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// The new version was selected, or is about to be, and has not confirmed itself.
    Trial,
    /// It confirmed itself, and has not lasted yet.
    Proven,
    /// It lasted.
    Settled,
    /// The version before was selected again.
    Reverted {
        /// Why, for a person.
        reason: String,
        /// Whether the version that was given up had been proven.
        proven: bool,
    },
    /// It ended before anything was selected; it may be tried again.
    Abandoned,
}

impl UpdateRecord {
    /// The record that goes back to the version before.
    #[must_use]
    pub fn reverted(&self, reason: &str) -> Self {
        Self {
            phase: Phase::Reverted {
                reason: cut(reason),
                proven: matches!(self.phase, Phase::Proven | Phase::Settled),
            },
            starts: 0,
            ..self.clone()
        }
    }

    /// The record with another phase, from which starts are counted anew.
    #[must_use]
    pub fn to(&self, phase: Phase) -> Self {
        Self {
            phase,
            starts: 0,
            ..self.clone()
        }
    }

    /// How it went, in a sentence for a person.
    #[must_use]
    pub fn story(&self) -> String {
        let (new, old) = (&self.version, &self.from_version);
        match &self.phase {
            Phase::Trial => format!(
                "version {new} is on trial, after {} starts; {old} comes back if it does not \
                 confirm itself",
                self.starts
            ),
            Phase::Proven | Phase::Settled => format!("version {new}, updated from {old}"),
            Phase::Abandoned => {
                format!("version {old}; the update to {new} ended before it was started")
            }
            Phase::Reverted { reason, .. } => {
                format!("version {old} again, since {new} was given up: {reason}")
            }
        }
    }

    /// What should be selected by it.
    #[must_use]
    pub fn selected(&self) -> &Slot {
        if self.is_selected() {
            &self.to
        } else {
            &self.from
        }
    }

    /// Whether the new version is selected, proven or not.
    #[must_use]
    pub fn is_selected(&self) -> bool {
        matches!(self.phase, Phase::Trial | Phase::Proven | Phase::Settled)
    }

    /// The bytes that are kept on disk.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        stored::encode(FORMAT, self)
    }

    /// Reads what [`UpdateRecord::encode`] wrote.
    ///
    /// # Errors
    /// What is wrong with the bytes, as text.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        stored::decode(FORMAT, bytes, "record of an update")
    }
}

fn cut(text: &str) -> String {
    let end = text.floor_char_boundary(REASON_BYTES_MAX);
    text.get(..end).unwrap_or_default().to_owned()
}
