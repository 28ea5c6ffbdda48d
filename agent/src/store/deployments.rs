//! The records of deployments in the store.
//!
//! **Invariant:** an order is taken together with its generation, and a result
//! together with the record that says that it is told, each in one commit. What
//! was decided by an older order is left out, so a late word of the executor never
//! moves a record back.

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::ErrorCode;
use protocol::deployment::desired::{Desired, Want};
use protocol::deployment::limit::DEPLOYMENTS_PER_NODE_MAX;
use protocol::deployment::observed::DeploymentResult;
use protocol::id::DeploymentId;
use protocol::message;
use protocol::stream::EntryKind;
use protocol::time::UnixMillis;

use super::Store;
use super::disk::Change;
use crate::domain::deployment::record::{Record, Transition};

/// The records by deployment.
pub type Deployments = BTreeMap<DeploymentId, Arc<Record>>;

impl Store {
    /// The records.
    #[must_use]
    pub fn deployments(&self) -> &Arc<Deployments> {
        &self.deployments
    }

    /// The highest generation that is durable; 0 before the first.
    #[must_use]
    pub fn generation_kept(&self) -> u64 {
        self.generation_kept
    }

    /// Whether everything that was promised is on the disk.
    #[must_use]
    pub fn is_written(&self) -> bool {
        self.failing.is_none() && !self.urgent
    }

    /// Takes an order, if its generation is above all that were taken. `now` is
    /// controller time.
    pub fn take_desired(&mut self, desired: Desired, now: UnixMillis) {
        if desired.generation <= self.generation {
            return;
        }
        self.generation = desired.generation;
        self.staged.push(Change::Generation(desired.generation));
        self.urgent = true;
        if let Some(record) = self.deployments.get(&desired.deployment) {
            // An agent keeps the version that it has: there is nothing to be removed.
            let stays = record.update().is_some() && matches!(desired.want, Want::Remove);
            let transition = record.take(desired, now);
            let stayed = stays.then(|| transition.record.succeed(now));
            self.keep(transition);
            stayed.into_iter().for_each(|stayed| self.keep(stayed));
            return;
        }
        let record = Record::new(desired);
        if self.make_room() {
            self.keep(Transition {
                record,
                result: None,
            });
            return;
        }
        let detail = format!("the node has {DEPLOYMENTS_PER_NODE_MAX} deployments already");
        let refused = record.refuse(ErrorCode::DeploymentForbidden, &detail, 0, now);
        if let Some(result) = refused.result {
            self.append_result(&result);
        }
    }

    /// Forgets a deployment that is gone, where there are as many as there may be.
    fn make_room(&mut self) -> bool {
        if self.deployments.len() < DEPLOYMENTS_PER_NODE_MAX {
            return true;
        }
        let gone = self
            .deployments
            .values()
            .filter(|record| record.is_gone())
            .min_by_key(|record| record.desired.generation)
            .map(|record| record.desired.deployment);
        let Some(deployment) = gone else {
            return false;
        };
        Arc::make_mut(&mut self.deployments).remove(&deployment);
        self.staged.push(Change::ForgetDeployment(deployment));
        true
    }

    /// Takes what was decided of an order, unless a newer one came meanwhile or
    /// the order has ended already.
    pub fn keep_deployment(&mut self, transition: Transition) {
        let desired = &transition.record.desired;
        let current = self.deployments.get(&desired.deployment);
        let holds = current.is_some_and(|record| {
            record.desired.generation == desired.generation && record.is_open()
        });
        if holds {
            self.keep(transition);
        }
    }

    fn keep(&mut self, transition: Transition) {
        let record = Arc::new(transition.record);
        self.staged.push(Change::Deployment(Arc::clone(&record)));
        Arc::make_mut(&mut self.deployments).insert(record.desired.deployment, record);
        self.deployments_moved = true;
        self.urgent = true;
        if let Some(result) = transition.result {
            self.append_result(&result);
        }
    }

    fn append_result(&mut self, result: &DeploymentResult) {
        self.append_control(
            EntryKind::DEPLOYMENT_RESULT,
            DeploymentResult::VERSION,
            message::encode(result),
        );
    }
}
