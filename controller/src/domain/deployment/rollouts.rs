//! Rollouts as the fleet's state has them: which are open, and how recent ones
//! ended.
//!
//! Where each target stands is the uplink's; what was decided is a
//! [`Course`].
//!
//! **Invariant:** a deployment has at most one open rollout.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use protocol::ErrorCode;
use protocol::id::{DeploymentId, RolloutId};
use protocol::time::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::domain::access::caller::Caller;
use crate::domain::audit::record::Record;
use crate::domain::digest::Digest;
use crate::domain::rejection::Rejection;
use crate::domain::rollout::course::Course;
use crate::domain::rollout::event::{Decision, RolloutStarted};

/// Rollouts that are open at once. Each keeps a row for each target at hand.
pub const ROLLOUTS_OPEN_MAX: usize = 256;

/// Rollouts that ended and are remembered here; older ones are in the journal.
pub const ROLLOUTS_RECENT_MAX: usize = 256;

/// The rollout part of the fleet's state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollouts {
    known: BTreeMap<RolloutId, Arc<Rollout>>,
    /// Those that ended, in the order of their end.
    finished: VecDeque<RolloutId>,
}

/// The staged change of a deployment to a revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// Its id.
    pub id: RolloutId,
    /// The record that started it: its place in the order of rollouts.
    pub seq: u64,
    /// Who asked for it.
    pub by: Caller,
    /// The deployment that changes.
    pub deployment: DeploymentId,
    /// The deployment's name, which outlives it here.
    pub name: String,
    /// The revision that nodes get.
    pub revision: u32,
    /// The revision that nodes go back to; none when they had nothing.
    pub before: Option<u32>,
    /// How many nodes each wave has.
    pub waves: Vec<u32>,
    /// The digest of who is in which wave.
    pub plan_digest: Digest,
    /// What was decided.
    pub course: Course,
    /// The last decisions, oldest first, with who took them.
    pub log: VecDeque<Logged>,
    /// The Merkle root over the targets, once it has ended.
    pub merkle_root: Option<Digest>,
}

/// A decision, when, and by whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logged {
    /// When.
    pub at: UnixMillis,
    /// By whom.
    pub by: Caller,
    /// What.
    pub decision: Decision,
}

/// Decisions of one rollout that are remembered here: those of 32 waves with a
/// gate each, and some more.
const LOG_COUNT_MAX: usize = 96;

impl Rollout {
    /// Whether it has not ended.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.course.finished.is_none()
    }
}

impl Rollouts {
    /// A rollout that is open or ended not long ago.
    #[must_use]
    pub fn get(&self, id: RolloutId) -> Option<&Arc<Rollout>> {
        self.known.get(&id)
    }

    /// Every rollout that is remembered, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Rollout>> {
        self.known.values()
    }

    /// Rollouts that are open, by id.
    pub fn open(&self) -> impl Iterator<Item = &Arc<Rollout>> {
        self.known.values().filter(|rollout| rollout.is_open())
    }

    /// A rollout by id.
    ///
    /// # Errors
    /// The rejection that names it when it is not known.
    pub fn existing(&self, id: RolloutId) -> Result<&Arc<Rollout>, Rejection> {
        self.known.get(&id).ok_or_else(|| {
            Rejection::new(
                ErrorCode::RolloutNotFound,
                format!("there is no rollout {id}, or it ended long ago"),
            )
        })
    }

    pub(crate) fn started(
        &mut self,
        event: &RolloutStarted,
        name: String,
        before: Option<u32>,
        record: &Record,
    ) {
        let rollout = Rollout {
            id: event.rollout,
            seq: record.seq,
            by: record.by,
            deployment: event.deployment,
            name,
            revision: event.revision,
            before,
            waves: event.waves.clone(),
            plan_digest: event.plan_digest,
            course: Course::new(event, record.at),
            log: VecDeque::new(),
            merkle_root: None,
        };
        self.known.insert(event.rollout, Arc::new(rollout));
    }

    /// Takes a decision in. Returns the rollout when this ended it.
    pub(crate) fn decided(&mut self, decision: &Decision, record: &Record) -> Option<Arc<Rollout>> {
        let rollout = Arc::make_mut(self.known.get_mut(&decision.rollout())?);
        rollout.course.apply(decision, record.at);
        rollout.log.push_back(Logged {
            at: record.at,
            by: record.by,
            decision: decision.clone(),
        });
        while rollout.log.len() > LOG_COUNT_MAX {
            rollout.log.pop_front();
        }
        let Decision::Finished(event) = decision else {
            return None;
        };
        rollout.merkle_root = Some(event.merkle_root);
        let ended = Arc::new(rollout.clone());
        self.finished.push_back(ended.id);
        while self.finished.len() > ROLLOUTS_RECENT_MAX {
            if let Some(oldest) = self.finished.pop_front() {
                self.known.remove(&oldest);
            }
        }
        Some(ended)
    }
}
