//! The tables of deployments: what each node is to have, how far it has got with
//! it, and where the targets of rollouts stand.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::id::{DeploymentId, NodeId, RolloutId};
use protocol::state::StateKey;
use protocol::time::millis;
use redb::ReadableTable as _;

use super::codec::{encode, node_key, pair_key, read_first, read_node};
use super::{
    Batch, DESIRED, GENERATIONS, Intake, IntakeError, RESULTS, ROLLOUT_TARGETS, ROLLOUT_WAITS,
    ROLLOUTS, STATES, StoredDesired, StoredResult, StoredRollout, StoredState,
};
use crate::domain::rollout::target::TargetRow;

/// Rows of a table whose keys are a pair, with their keys.
type Rows<K, V> = Vec<((protocol::id::Id<K>, NodeId), V)>;

impl Intake {
    /// What every node is to have of every deployment.
    ///
    /// # Errors
    /// [`IntakeError`], also when a row does not decode.
    pub fn desired(&self) -> Result<Rows<protocol::id::Deployment, StoredDesired>, IntakeError> {
        let rows = self.read("what nodes are to have", |transaction| {
            let table = transaction.open_table(DESIRED)?;
            let mut rows = Vec::new();
            for row in table.iter()? {
                let (key, value) = row?;
                let key = (read_first(key.value()), read_node(key.value()));
                rows.push((key, value.value().to_vec()));
            }
            Ok(rows)
        })?;
        rows.into_iter()
            .map(|(key, bytes)| Ok((key, self.decode("what a node is to have", &bytes)?)))
            .collect()
    }

    /// The nodes that were told something of a deployment, by id, after `after`.
    ///
    /// # Errors
    /// [`IntakeError`], also when a row does not decode.
    pub fn desired_of(
        &self,
        deployment: DeploymentId,
        after: Option<NodeId>,
        limit: usize,
    ) -> Result<Vec<(NodeId, StoredDesired)>, IntakeError> {
        self.page(DESIRED, "what nodes are to have", deployment, after, limit)
    }

    /// What one node is to have of a deployment.
    ///
    /// # Errors
    /// [`IntakeError`], also when the row does not decode.
    pub fn desired_on(
        &self,
        deployment: DeploymentId,
        node: NodeId,
    ) -> Result<Option<StoredDesired>, IntakeError> {
        self.row(
            "what a node is to have",
            DESIRED,
            &pair_key(deployment, node),
        )
    }

    /// The last generation of every node that was given one.
    ///
    /// # Errors
    /// [`IntakeError::Read`].
    pub fn generations(&self) -> Result<Vec<(NodeId, u64)>, IntakeError> {
        self.read("generations", |transaction| {
            let table = transaction.open_table(GENERATIONS)?;
            let mut rows = Vec::new();
            for row in table.iter()? {
                let (key, value) = row?;
                rows.push((read_node(key.value()), value.value()));
            }
            Ok(rows)
        })
    }

    /// How the last change of a rollout's target ended that did not succeed.
    ///
    /// # Errors
    /// [`IntakeError`], also when the row does not decode.
    pub fn result(
        &self,
        rollout: RolloutId,
        node: NodeId,
    ) -> Result<Option<StoredResult>, IntakeError> {
        self.row("a result", RESULTS, &pair_key(rollout, node))
    }

    /// The latest state of one key of a node.
    ///
    /// # Errors
    /// [`IntakeError`], also when the row does not decode.
    pub fn state(&self, node: NodeId, key: StateKey) -> Result<Option<StoredState>, IntakeError> {
        let key = [node.as_bytes().as_slice(), &key.0.to_be_bytes()].concat();
        self.row("a state", STATES, &key)
    }

    /// Every rollout that is kept.
    ///
    /// # Errors
    /// [`IntakeError`], also when a row does not decode.
    pub fn rollouts(&self) -> Result<Vec<(RolloutId, StoredRollout)>, IntakeError> {
        let rows = self.read("rollouts", |transaction| {
            let table = transaction.open_table(ROLLOUTS)?;
            let mut rows = Vec::new();
            for row in table.iter()? {
                let (key, value) = row?;
                rows.push((read_first(key.value()), value.value().to_vec()));
            }
            Ok(rows)
        })?;
        rows.into_iter()
            .map(|(rollout, bytes)| Ok((rollout, self.decode("a rollout", &bytes)?)))
            .collect()
    }

    /// How long rollouts waited for maintenance windows.
    ///
    /// # Errors
    /// [`IntakeError::Read`].
    pub fn rollout_waits(&self) -> Result<BTreeMap<RolloutId, Duration>, IntakeError> {
        self.read("waits of rollouts", |transaction| {
            let table = transaction.open_table(ROLLOUT_WAITS)?;
            let mut rows = BTreeMap::new();
            for row in table.iter()? {
                let (key, value) = row?;
                let waited = Duration::from_millis(value.value());
                rows.insert(read_first(key.value()), waited);
            }
            Ok(rows)
        })
    }

    /// Where targets of a rollout stand, by node id, after `after`.
    ///
    /// # Errors
    /// [`IntakeError`], also when a row does not decode.
    pub fn rollout_targets(
        &self,
        rollout: RolloutId,
        after: Option<NodeId>,
        limit: usize,
    ) -> Result<Vec<(NodeId, TargetRow)>, IntakeError> {
        self.page(
            ROLLOUT_TARGETS,
            "a rollout's targets",
            rollout,
            after,
            limit,
        )
    }

    /// Every target of a rollout.
    ///
    /// # Errors
    /// [`IntakeError`], also when a row does not decode.
    pub fn rollout_targets_all(
        &self,
        rollout: RolloutId,
    ) -> Result<Vec<(NodeId, TargetRow)>, IntakeError> {
        self.rollout_targets(rollout, None, usize::MAX)
    }
}

pub(super) fn write(
    transaction: &redb::WriteTransaction,
    batch: &Batch,
) -> Result<(), redb::Error> {
    let mut desired = transaction.open_table(DESIRED)?;
    for ((deployment, node), row) in &batch.desired {
        let key = pair_key(*deployment, *node);
        match row {
            Some(row) => desired.insert(key.as_slice(), encode(row).as_slice())?,
            None => desired.remove(key.as_slice())?,
        };
    }
    let mut generations = transaction.open_table(GENERATIONS)?;
    for (node, generation) in &batch.generations {
        generations.insert(node_key(*node).as_slice(), *generation)?;
    }
    let mut results = transaction.open_table(RESULTS)?;
    for ((rollout, node), result) in &batch.results {
        let key = pair_key(*rollout, *node);
        results.insert(key.as_slice(), encode(result).as_slice())?;
    }
    let mut rollouts = transaction.open_table(ROLLOUTS)?;
    for (rollout, row) in &batch.rollouts {
        rollouts.insert(rollout.as_bytes().as_slice(), encode(row).as_slice())?;
    }
    let mut targets = transaction.open_table(ROLLOUT_TARGETS)?;
    for ((rollout, node), row) in &batch.rollout_targets {
        let key = pair_key(*rollout, *node);
        targets.insert(key.as_slice(), encode(row).as_slice())?;
    }
    let mut waits = transaction.open_table(ROLLOUT_WAITS)?;
    for (rollout, waited) in &batch.rollout_waits {
        waits.insert(rollout.as_bytes().as_slice(), millis(*waited))?;
    }
    for rollout in &batch.rollouts_forgotten {
        waits.remove(rollout.as_bytes().as_slice())?;
        rollouts.remove(rollout.as_bytes().as_slice())?;
        let from = pair_key(*rollout, NodeId::NIL);
        let to = pair_key(*rollout, NodeId::from_bytes([0xff; 10]));
        targets.retain_in(from.as_slice()..=to.as_slice(), |_, _| false)?;
        results.retain_in(from.as_slice()..=to.as_slice(), |_, _| false)?;
    }
    Ok(())
}
