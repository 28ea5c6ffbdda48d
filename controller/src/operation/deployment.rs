//! Deployments: applying Compose projects, going back, removing, and how they are
//! on nodes.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use data_encoding::BASE64;
use futures_util::future::join_all;
use protocol::ErrorCode;
use protocol::deployment::observed::{DeploymentState, Workload};
use protocol::deployment::spec::{Image, Spec};
use protocol::id::{NodeId, RequestId, RolloutId};
use protocol::selector::Selector;

use super::command::node_name;
use super::rollout::{caller_name, fault, state_of, waits_for};
use super::view::deployment::{
    ApplyAnswer, ApplyDeployment, ChangeView, DeploymentDetail, DeploymentList, DeploymentView,
    ListStatus, NodeStatus, RemoveDeployment, RevisionDetail, RevisionList, RevisionView,
    RollBackDeployment, StatusPage, WavePlan, WorkloadView,
};
use super::{Operations, Who, find_selector, unexpected};
use crate::clock;
use crate::domain::command::issue::EmptyAim;
use crate::domain::decide::{self, Decided, Refusal};
use crate::domain::deployment::apply::{self, How};
use crate::domain::deployment::compose::{self, Project, Sources};
use crate::domain::deployment::diff::diff;
use crate::domain::deployment::event::{ApplyCause, DeploymentApplied};
use crate::domain::deployment::{Deployment, Revision};
use crate::domain::event::Event;
use crate::domain::fleet::Fleet;
use crate::domain::moment::Moment;
use crate::domain::operation::Operation;
use crate::domain::rollout::ask::{Experts, RolloutAsk, rejection};
use crate::domain::rollout::event::{Kind, RolloutStarted};
use crate::domain::rollout::params::{Approve, Params};
use crate::domain::rollout::target::TargetState;
use crate::operation::failure::{Failure, chain};
use crate::uplink::intake::StoredDesired;
use crate::uplink::{Link, RolloutStatus};

/// Nodes of a wave that a plan names; the others are counted.
const NAMED_PER_WAVE_MAX: usize = 100;

/// Images whose tags are resolved for one apply. A project has at most as many
/// services.
const RESOLVED_AT_ONCE_MAX: usize = 16;

/// What lies beside a Compose file, as it was sent along.
struct Sent {
    files: BTreeMap<String, Vec<u8>>,
    variables: BTreeMap<String, String>,
}

impl Sources for Sent {
    fn variable(&self, name: &str) -> Option<String> {
        self.variables.get(name).cloned()
    }

    fn file(&self, path: &str) -> Option<Cow<'_, [u8]>> {
        self.files.get(path).map(|bytes| Cow::Borrowed(&**bytes))
    }
}

impl Operations {
    /// Gives a deployment a revision and rolls it out; or says what would happen.
    ///
    /// # Errors
    /// When it is denied, the project or the rollout's parameters are wrong, or
    /// somebody else changed the deployment meanwhile.
    pub async fn apply_deployment(
        &self,
        who: &Who,
        asked: ApplyDeployment,
    ) -> Result<ApplyAnswer, Failure> {
        // Before anything is parsed or kept: whoever may apply nowhere does nothing.
        self.reach(who, &self.engine.fleet(), ("deployment", "apply"))?;
        let params = parameters(asked.rollout)?;
        let project = self.read_project(&asked.compose, asked.files, asked.variables)?;
        let name = asked.name.or_else(|| project.name.clone()).ok_or_else(|| {
            Failure::new(
                ErrorCode::DeploymentInvalid,
                "no name is given, and the project has no `name:`",
            )
        })?;
        let fleet = self.engine.fleet();
        let known = fleet.deployments().named(&name).cloned();
        let selector = meant(asked.on.as_deref(), known.as_deref())?;
        let mut spec = project.spec.clone();
        let notes = self.pin_images(&mut spec).await;
        let operation = Operation::ApplyDeployment(apply::ApplyDeployment {
            name: name.clone(),
            base: asked.base,
            selector,
            spec: Box::new(spec),
            how: self.how(params, asked.allow_empty),
        });
        if asked.dry_run {
            return self.preview(who, name, &operation, notes);
        }
        self.keep_contents(project).await?;
        self.change_deployment(who, name, operation, notes).await
    }

    /// Goes back to an earlier revision; or says what would happen.
    ///
    /// # Errors
    /// When it is denied, there is no such revision, or somebody else changed the
    /// deployment meanwhile.
    pub async fn roll_back_deployment(
        &self,
        who: &Who,
        name: &str,
        asked: RollBackDeployment,
    ) -> Result<ApplyAnswer, Failure> {
        let fleet = self.engine.fleet();
        self.reach(who, &fleet, ("deployment", "apply"))?;
        let known = find(&fleet, name)?;
        let name = known.name.clone();
        let operation = Operation::RollBackDeployment(apply::RollBackDeployment {
            deployment: known.id,
            base: asked.base,
            to: asked.to,
            how: self.how(parameters(asked.rollout)?, false),
        });
        if asked.dry_run {
            return self.preview(who, name, &operation, Vec::new());
        }
        self.change_deployment(who, name, operation, Vec::new())
            .await
    }

    /// Takes a deployment from every node.
    ///
    /// # Errors
    /// When it is denied, a rollout of it has not ended, or somebody else changed it
    /// meanwhile.
    pub async fn remove_deployment(
        &self,
        who: &Who,
        name: &str,
        asked: RemoveDeployment,
    ) -> Result<DeploymentView, Failure> {
        let fleet = self.engine.fleet();
        self.reach(who, &fleet, ("deployment", "remove"))?;
        let deployment = find(&fleet, name)?.id;
        let operation = Operation::RemoveDeployment(apply::RemoveDeployment {
            deployment,
            base: asked.base,
        });
        self.submit(who, operation).await?;
        let fleet = self.engine.fleet();
        Ok(view(&fleet, fleet.deployments().existing(deployment)?))
    }

    /// Deployments, by name.
    ///
    /// # Errors
    /// When it is denied.
    pub fn list_deployments(&self, who: &Who) -> Result<DeploymentList, Failure> {
        let fleet = self.engine.fleet();
        self.reach(who, &fleet, ("deployment", "read"))?;
        let deployments = fleet.deployments().by_name();
        Ok(DeploymentList {
            deployments: deployments.map(|known| view(&fleet, known)).collect(),
        })
    }

    /// One deployment with its newest revision.
    ///
    /// # Errors
    /// When it is denied, or there is no such deployment.
    pub fn show_deployment(&self, who: &Who, name: &str) -> Result<DeploymentDetail, Failure> {
        let fleet = self.engine.fleet();
        self.reach(who, &fleet, ("deployment", "read"))?;
        let known = find(&fleet, name)?;
        let newest = known.revision(known.newest_number())?;
        Ok(DeploymentDetail {
            deployment: view(&fleet, known),
            revision: revision_detail(&fleet, known, newest)?,
        })
    }

    /// The revisions of a deployment that are kept, newest first.
    ///
    /// # Errors
    /// When it is denied, or there is no such deployment.
    pub fn list_revisions(&self, who: &Who, name: &str) -> Result<RevisionList, Failure> {
        let fleet = self.engine.fleet();
        self.reach(who, &fleet, ("deployment", "read"))?;
        let known = find(&fleet, name)?;
        let revisions = known.revisions.values().rev();
        Ok(RevisionList {
            revisions: revisions
                .map(|revision| revision_view(&fleet, known, revision))
                .collect(),
        })
    }

    /// One revision with what is to run.
    ///
    /// # Errors
    /// When it is denied, or there is no such revision.
    pub fn show_revision(
        &self,
        who: &Who,
        name: &str,
        revision: u32,
    ) -> Result<RevisionDetail, Failure> {
        let fleet = self.engine.fleet();
        self.reach(who, &fleet, ("deployment", "read"))?;
        let known = find(&fleet, name)?;
        revision_detail(&fleet, known, known.revision(revision)?)
    }

    /// How a deployment is on some nodes: those that the caller may see.
    ///
    /// # Errors
    /// When it is denied, or there is no such deployment.
    pub fn list_deployment_status(
        &self,
        who: &Who,
        name: &str,
        asked: &ListStatus,
    ) -> Result<StatusPage, Failure> {
        let fleet = self.engine.fleet();
        let reach = self.reach(who, &fleet, ("deployment", "read"))?;
        let known = find(&fleet, name)?;
        let limit = super::command::rows(asked.limit, 100);
        let mut orders = self
            .uplink
            .desired_of(known.id, asked.after, limit + 1)
            .map_err(|error| fault(&error))?;
        let more = orders.len() > limit;
        orders.truncate(limit);
        let next = orders.last().map(|(node, _)| *node).filter(|_| more);
        let nodes = orders
            .into_iter()
            .filter(|(node, _)| fleet.node(*node).is_some_and(|node| reach.covers(node)))
            .map(|(node, order)| self.node_status(&fleet, known, node, &order))
            .collect::<Result<_, _>>()?;
        let status = known.rollout.and_then(|id| self.uplink.rollout_status(id));
        Ok(StatusPage {
            nodes,
            next,
            waits_for: status.map_or_else(String::new, |status| status.waits_for),
        })
    }

    fn node_status(
        &self,
        fleet: &Fleet,
        known: &Deployment,
        node: NodeId,
        order: &StoredDesired,
    ) -> Result<NodeStatus, Failure> {
        let told = self
            .uplink
            .deployment_state(node, known.number)
            .map_err(|error| fault(&error))?
            // The number may have been another deployment's before.
            .filter(|(_, state)| state.deployment == known.id);
        let link = match self.uplink.presence(node).link {
            Link::Up => "up",
            Link::Down => "down",
            Link::Never => "never",
        };
        let mut status = NodeStatus {
            node,
            name: node_name(fleet, node),
            link: link.to_owned(),
            wanted: order.want.revision(),
            wanted_since: order.at.into(),
            current: None,
            phase: "ordered".to_owned(),
            heard_at: None,
            code: None,
            detail: String::new(),
            waits_for: held_back(fleet, known, node, order).unwrap_or_default(),
            workloads: Vec::new(),
            drift: Vec::new(),
        };
        let Some((heard_at, state)) = told else {
            status.detail = "the node has said nothing of it yet".to_owned();
            return Ok(status);
        };
        status.heard_at = Some(heard_at.into());
        status.current = state.current;
        status.workloads = state.workloads.iter().map(workload_view).collect();
        status.drift.clone_from(&state.drift);
        if state.generation >= order.generation {
            status.phase = state.phase.name().to_owned();
            status.code = state.code;
            status.detail = state.detail;
        } else {
            status.detail = before_order(&state);
        }
        Ok(status)
    }

    /// Reads the project, and what lies beside it.
    fn read_project(
        &self,
        text: &str,
        files: BTreeMap<String, String>,
        variables: BTreeMap<String, String>,
    ) -> Result<Project, Failure> {
        let decoded = files.into_iter().map(|(path, content)| {
            let bytes = BASE64.decode(content.as_bytes()).map_err(|_| {
                Failure::new(
                    ErrorCode::RequestInvalid,
                    format!("file {path:?} is not base64"),
                )
            })?;
            Ok((path, bytes))
        });
        let sent = Sent {
            files: decoded.collect::<Result<_, Failure>>()?,
            variables,
        };
        compose::read(text, &sent, &self.stores.vault)
            .map_err(|problems| Failure::new(problems.code(), problems.to_string()))
    }

    /// Keeps the contents of configs and secrets. They are there before a node can
    /// ask for them; what no revision names in the end is swept later.
    async fn keep_contents(&self, project: Project) -> Result<(), Failure> {
        let vault = self.stores.vault.clone();
        let now = clock::now();
        let kept = tokio::task::spawn_blocking(move || {
            for content in project.contents.values() {
                vault.put(content.kind, &content.bytes, now)?;
            }
            Ok::<(), crate::vault::VaultError>(())
        });
        match kept.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Failure::fault(
                error.code(),
                "the project's files cannot be kept",
                &error,
            )),
            Err(error) => Err(Failure::fault(
                ErrorCode::Internal,
                "keeping the project's files broke off",
                &error,
            )),
        }
    }

    /// Says which archive has an image, or what its tag names now. What cannot be
    /// said is told: nodes then pull by tag, each when its turn comes.
    async fn pin_images(&self, spec: &mut Spec) -> Vec<String> {
        let mut images: Vec<&mut Image> = spec
            .services
            .values_mut()
            .map(|service| &mut service.image)
            .filter(|image| image.digest.is_none() && image.archive.is_none())
            .collect();
        for image in &mut images {
            if let Some(archive) = self.stores.archives.with_image(&image.reference) {
                image.archive = Some(archive.digest.to_string());
            }
        }
        let open: BTreeSet<String> = images
            .iter()
            .filter(|image| image.archive.is_none())
            .map(|image| image.reference.clone())
            .collect();
        let open: Vec<String> = open.into_iter().collect();
        let mut notes = Vec::new();
        let mut resolved: BTreeMap<&str, String> = BTreeMap::new();
        for some in open.chunks(RESOLVED_AT_ONCE_MAX) {
            let asked = some.iter().map(|reference| async move {
                (reference, self.stores.registries.resolve(reference).await)
            });
            for (reference, answer) in join_all(asked).await {
                match answer {
                    Ok(digest) => {
                        resolved.insert(reference, digest);
                    }
                    Err(error) => notes.push(format!(
                        "{reference} is applied by its tag, and nodes may get different images: {}",
                        chain(&error)
                    )),
                }
            }
        }
        for image in images {
            if let Some(digest) = resolved.get(image.reference.as_str()) {
                image.digest = Some(digest.clone());
            }
        }
        notes
    }

    pub(super) fn how(&self, params: Params, allow_empty: bool) -> Box<How> {
        Box::new(How {
            params,
            present: self.uplink.nodes_up(),
            empty: if allow_empty {
                EmptyAim::Allow
            } else {
                EmptyAim::Refuse
            },
        })
    }

    /// What an operation would lead to; nothing is changed, a denial is recorded.
    pub(super) fn preview(
        &self,
        who: &Who,
        name: String,
        operation: &Operation,
        notes: Vec<String>,
    ) -> Result<ApplyAnswer, Failure> {
        let fleet = self.engine.fleet();
        let caller = who.caller();
        let now = clock::now();
        let at = Moment::new(now, self.secret()?);
        let decided = decide::admit(&fleet, &caller, operation)
            .and_then(|()| {
                decide::decide(&fleet, &caller, operation, &at).map_err(Refusal::Rejected)
            })
            .map_err(|refusal| match refusal {
                Refusal::Denied(denial) => {
                    let failure = Failure::new(denial.code, denial.reason.clone());
                    let request: Option<RequestId> = Some(who.request);
                    self.engine
                        .deny(caller, request, operation.name(), denial, now);
                    failure
                }
                Refusal::Rejected(rejection) => rejection.into(),
            })?;
        let Decided { events, targets } = decided;
        let nodes = targets.map(|targets| targets.nodes).unwrap_or_default();
        Ok(Self::answer(&fleet, name, &events, &nodes, notes, true))
    }

    pub(super) async fn change_deployment(
        &self,
        who: &Who,
        name: String,
        operation: Operation,
        notes: Vec<String>,
    ) -> Result<ApplyAnswer, Failure> {
        let before = self.engine.fleet();
        let applied = self.submit(who, operation).await?;
        let nodes = match rollout_in(&applied.events) {
            Some(started) => {
                let count = started.waves.iter().map(|size| *size as usize).sum();
                self.planned(started.rollout, count)?
            }
            None if applied.events.is_empty() => Vec::new(),
            None => return Err(unexpected(&applied.events)),
        };
        let mut answer = Self::answer(&before, name, &applied.events, &nodes, notes, false);
        if let Some(started) = rollout_in(&applied.events) {
            let fleet = self.engine.fleet();
            let rollout = fleet.rollouts().existing(started.rollout)?;
            answer.rollout = Some(self.rollout_view(&fleet, rollout)?);
        }
        Ok(answer)
    }

    /// The nodes of a rollout in the order of its plan.
    fn planned(&self, rollout: RolloutId, count: usize) -> Result<Vec<NodeId>, Failure> {
        self.engine
            .journal()
            .targets(rollout, 0, count)
            .map_err(|error| Failure::fault(error.code(), "the plan cannot be read", &error))
    }

    /// The answer to a change, from the state that it was decided on.
    fn answer(
        before: &Fleet,
        name: String,
        events: &[Event],
        nodes: &[NodeId],
        notes: Vec<String>,
        dry_run: bool,
    ) -> ApplyAnswer {
        let known = before.deployments().named(&name).map(AsRef::as_ref);
        let mut answer = ApplyAnswer {
            name,
            dry_run,
            changed: !events.is_empty(),
            revision: known.map_or(0, Deployment::newest_number),
            changes: Vec::new(),
            waves: Vec::new(),
            leaving: Vec::new(),
            notes,
            rollout: None,
        };
        if let Some((applied, version)) = applied_in(events) {
            answer.revision = applied.revision;
            answer.changes = changes(known, applied, version);
            answer.leaving = leaving(before, known, applied);
        }
        if let Some(started) = rollout_in(events) {
            answer.waves = waves(before, started, nodes);
        }
        answer
    }
}

/// What holds a node back from the revision that it should have.
fn held_back(
    fleet: &Fleet,
    known: &Deployment,
    node: NodeId,
    order: &StoredDesired,
) -> Option<String> {
    let open = known.rollout.and_then(|id| fleet.rollouts().get(id));
    let meant = open.map(|rollout| rollout.revision).or(known.settled);
    if meant.is_none() || order.want.revision() == meant {
        return None;
    }
    let state = match &fleet.node(node)?.cordon {
        Some(_) => TargetState::Cordoned,
        None if open.is_some_and(|rollout| rollout.course.kind == Kind::Rollback) => return None,
        None => TargetState::Windowed,
    };
    waits_for(fleet, node, state, fleet.work_of(known.id))
}

/// The nodes that are asked for, or those of the revision before.
pub(super) fn meant(on: Option<&str>, known: Option<&Deployment>) -> Result<Selector, Failure> {
    match (on, known.and_then(Deployment::newest)) {
        (Some(text), _) => find_selector(text),
        (None, Some(newest)) => Ok(newest.selector.clone()),
        (None, None) => Err(Failure::new(
            ErrorCode::SelectorInvalid,
            "no nodes are given; `*` means every node",
        )),
    }
}

pub(super) fn parameters(asked: Option<serde_json::Value>) -> Result<Params, Failure> {
    let asked: RolloutAsk = match asked {
        Some(value) => serde_json::from_value(value).map_err(|error| {
            Failure::new(ErrorCode::RolloutInvalid, format!("rollout: {error}"))
        })?,
        None => RolloutAsk::default(),
    };
    asked
        .check(Experts::Absent)
        .map_err(|problems| rejection(&problems).into())
}

/// A deployment by name or id.
pub(super) fn find<'a>(fleet: &'a Fleet, text: &str) -> Result<&'a Deployment, Failure> {
    let deployments = fleet.deployments();
    deployments
        .named(text)
        .or_else(|| deployments.get(text.parse().ok()?))
        .map(AsRef::as_ref)
        .ok_or_else(|| {
            Failure::new(
                ErrorCode::DeploymentNotFound,
                format!("there is no deployment {text:?}"),
            )
        })
}

fn applied_in(events: &[Event]) -> Option<(&DeploymentApplied, Option<&str>)> {
    events.iter().find_map(|event| {
        if let Event::DeploymentApplied(applied) = event {
            Some((applied, None))
        } else if let Event::UpdateApplied(update) = event {
            Some((&update.applied, Some(update.version.as_str())))
        } else {
            None
        }
    })
}

fn rollout_in(events: &[Event]) -> Option<&RolloutStarted> {
    events.iter().find_map(|event| {
        if let Event::RolloutStarted(started) = event {
            Some(started)
        } else {
            None
        }
    })
}

/// What differs from what nodes have, or from the newest revision where they have
/// nothing yet.
fn changes(
    known: Option<&Deployment>,
    applied: &DeploymentApplied,
    version: Option<&str>,
) -> Vec<ChangeView> {
    let base = known.and_then(|known| known.settled().or_else(|| known.newest()));
    let empty = Spec::default();
    let old = base.map_or(&empty, |base| base.spec.as_ref());
    let mut changes: Vec<ChangeView> = diff(old, &applied.spec)
        .into_iter()
        .map(|change| ChangeView {
            text: change.to_string(),
            path: change.path,
            old: change.old,
            new: change.new,
        })
        .collect();
    if let Some(version) = version {
        let old = base.and_then(|base| base.release.clone());
        let text = match &old {
            Some(old) => format!("~ agent: {old} → {version}"),
            None => format!("+ agent: {version}"),
        };
        changes.push(ChangeView {
            path: "agent".to_owned(),
            text,
            old,
            new: Some(version.to_owned()),
        });
    }
    if let Some(base) = base
        && base.selector != applied.selector
    {
        changes.insert(
            0,
            ChangeView {
                path: "on".to_owned(),
                text: format!("~ on: {} → {}", base.selector, applied.selector),
                old: Some(base.selector.to_string()),
                new: Some(applied.selector.to_string()),
            },
        );
    }
    changes
}

/// Nodes that have the deployment and are no longer meant.
fn leaving(fleet: &Fleet, known: Option<&Deployment>, applied: &DeploymentApplied) -> Vec<String> {
    let Some(settled) = known.and_then(Deployment::settled) else {
        return Vec::new();
    };
    fleet
        .nodes()
        .filter(|node| node.is_active())
        .filter(|node| settled.is_for(node.subject()))
        .filter(|node| !applied.selector.matches(node.subject()))
        .map(|node| node.name.clone())
        .collect()
}

fn waves(fleet: &Fleet, started: &RolloutStarted, nodes: &[NodeId]) -> Vec<WavePlan> {
    let mut left = nodes.iter();
    (0..)
        .zip(&started.waves)
        .map(|(index, size)| {
            let members: Vec<&NodeId> = left.by_ref().take(*size as usize).collect();
            let wave = started.params.waves.get(index).copied().unwrap_or_default();
            WavePlan {
                wave: u32::try_from(index).unwrap_or(u32::MAX).saturating_add(1),
                size: *size,
                nodes: members
                    .into_iter()
                    .take(NAMED_PER_WAVE_MAX)
                    .map(|node| node_name(fleet, *node))
                    .collect(),
                approve: match wave.approve {
                    Approve::None => "none",
                    Approve::Human => "human",
                    Approve::Consensus => "consensus",
                }
                .to_owned(),
                soak_ms: wave.soak_ms,
            }
        })
        .collect()
}

fn view(fleet: &Fleet, known: &Deployment) -> DeploymentView {
    let newest = known.newest();
    let nodes = newest.map_or(0, |newest| {
        fleet
            .nodes()
            .filter(|node| node.is_active() && newest.is_for(node.subject()))
            .count()
    });
    let rollout = known.rollout.and_then(|id| fleet.rollouts().get(id));
    let state = if known.removal.is_some() {
        "removing"
    } else if let Some(rollout) = rollout {
        match state_of(&rollout.course, &RolloutStatus::default()).0 {
            "running" | "aborting" => "rolling_out",
            other => other,
        }
    } else if known.settled == Some(known.newest_number()) {
        "settled"
    } else {
        "partial"
    };
    DeploymentView {
        id: known.id,
        name: known.name.clone(),
        on: newest.map_or_else(String::new, |newest| newest.selector.to_string()),
        nodes: u32::try_from(nodes).unwrap_or(u32::MAX),
        revision: known.newest_number(),
        settled: known.settled,
        state: state.to_owned(),
        rollout: known.rollout,
        applied_by: newest.map_or_else(String::new, |newest| caller_name(fleet, newest.by)),
        applied_at: newest.map_or(known.created_at, |newest| newest.at).into(),
    }
}

fn revision_view(fleet: &Fleet, known: &Deployment, revision: &Revision) -> RevisionView {
    RevisionView {
        revision: revision.number,
        by: caller_name(fleet, revision.by),
        at: revision.at.into(),
        cause: match revision.cause {
            ApplyCause::Apply => "applied".to_owned(),
            ApplyCause::Rollback { to } => format!("rollback to {to}"),
        },
        on: selected(revision),
        proven: known.proven.contains(&revision.number),
        settled: known.settled == Some(revision.number),
        release: revision.release.clone(),
        images: revision
            .spec
            .services
            .iter()
            .map(|(name, service)| (name.clone(), image_text(&service.image)))
            .collect(),
        digest: revision.digest.to_string(),
    }
}

/// The nodes that a revision is for, on one line.
fn selected(revision: &Revision) -> String {
    if revision.within.is_empty() {
        return revision.selector.to_string();
    }
    let within: Vec<String> = revision.within.iter().map(Selector::to_string).collect();
    format!("{} (only {})", revision.selector, within.join(" or "))
}

fn image_text(image: &Image) -> String {
    match (&image.digest, &image.archive) {
        (Some(digest), _) => format!("{}@{digest}", image.reference),
        (None, Some(archive)) => format!("{} from archive {archive}", image.reference),
        (None, None) => image.reference.clone(),
    }
}

fn revision_detail(
    fleet: &Fleet,
    known: &Deployment,
    revision: &Revision,
) -> Result<RevisionDetail, Failure> {
    let spec = serde_json::to_value(revision.spec.as_ref()).map_err(|error| {
        Failure::fault(ErrorCode::Internal, "the revision cannot be shown", &error)
    })?;
    Ok(RevisionDetail {
        revision: revision_view(fleet, known, revision),
        spec,
    })
}

/// What a node said before it had its newest order.
fn before_order(state: &DeploymentState) -> String {
    let was = match state.current {
        Some(revision) => format!("{} of revision {revision}", state.phase.name()),
        None => state.phase.name().to_owned(),
    };
    format!("the node has not answered its newest order; before it was {was}")
}

fn workload_view(workload: &Workload) -> WorkloadView {
    WorkloadView {
        service: workload.service.clone(),
        revision: workload.revision,
        container: workload.container.clone(),
        state: workload.state.name().to_owned(),
        image_digest: workload.image_digest.clone(),
        restarts: workload.restarts,
        exit_code: workload.exit_code,
        oom_killed: workload.oom_killed,
        started_at: workload.started_at.map(Into::into),
        observed_at: workload.observed_at.into(),
        detail: workload.detail.clone(),
        log_tail: workload.log_tail.clone(),
    }
}
