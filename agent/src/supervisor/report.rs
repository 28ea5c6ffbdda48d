//! What a running agent says of itself: the status document for the socket, the
//! line for systemd, and the health state for the controller.

use std::sync::Arc;
use std::time::Duration;

use protocol::ErrorCode;
use protocol::breaker::machine::Standing;
use protocol::limits::CLOCK_OFFSET_MAX;
use protocol::policy::{Gate as Stop, Scope};
use protocol::state::{Health, Problem, StateItem, StateValue};
use protocol::stream::Stream;
use protocol::time::{UnixMillis, millis};
use sd_notify::NotifyState;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::watchdog::tell;
use crate::clock::Clock;
use crate::dependency::{self, Dependencies, Dependency};
use crate::deploy::task::States;
use crate::domain::gate::{Gate, Named};
use crate::domain::ledger;
use crate::domain::time::Moment;
use crate::enrol::Summary;
use crate::node::NodeStatus;
use crate::node::task::{CoreGone, StoreHandle};
use crate::program;
use crate::status::{
    AgentStatus, BreakGlassStatus, BudgetStatus, CertificateStatus, ClockStatus, CommandStatus,
    DependencyStatus, DiskStatus, GateStatus, LeaseStatus, LinkState, LinkStatus,
    NodeStatus as IdentityStatus, ProblemStatus, ProcessStatus, StopStatus, StreamStatus,
    TrustStatus, UpdateStatus,
};
use crate::update::layout::Layout;
use crate::uplink;

/// Changes closer together than this make one document.
const PAUSE: Duration = Duration::from_millis(250);

/// A forged message is a problem for this long. Long enough that whoever looks
/// after an alert still sees it, and a broker that was put right is soon forgiven.
const FORGED_SHOWN: Duration = Duration::from_secs(600);

const DAY_MS: u64 = 24 * 3600 * 1000;

pub(super) struct Context {
    pub(super) summary: Summary,
    pub(super) node: watch::Receiver<Arc<NodeStatus>>,
    pub(super) uplink: watch::Receiver<uplink::State>,
    pub(super) named: watch::Receiver<Named>,
    pub(super) expires: watch::Receiver<UnixMillis>,
    pub(super) deployments: watch::Receiver<Arc<States>>,
    /// Why a break-glass file that is there does not count.
    pub(super) glass: watch::Receiver<Option<String>>,
    pub(super) dependencies: Dependencies,
    pub(super) out: watch::Sender<Arc<AgentStatus>>,
    pub(super) core: StoreHandle,
    /// Where updates lie.
    pub(super) layout: Layout,
    /// The version of the launcher.
    pub(super) base: String,
    pub(super) clock: Clock,
    pub(super) started: UnixMillis,
    pub(super) stop: CancellationToken,
}

/// Flash bytes since midnight.
#[derive(Default)]
struct Today {
    day: u64,
    flash_before: u64,
}

impl Today {
    fn count(&mut self, now: UnixMillis, flash: u64) -> u64 {
        let day = now.0 / DAY_MS;
        if day != self.day {
            // What was written before the first look belongs to this day as well.
            self.flash_before = if self.day == 0 { 0 } else { flash };
            self.day = day;
        }
        flash.saturating_sub(self.flash_before)
    }
}

/// Keeps the documents up to date.
pub(super) async fn run(mut context: Context) -> Result<(), CoreGone> {
    let mut today = Today::default();
    let mut healthy: Option<Vec<String>> = None;
    let mut line = String::new();
    loop {
        let status = context.document(&mut today);
        let fresh = status_line(&status);
        if fresh != line {
            tell(&[NotifyState::Status(&fresh)]);
            line = fresh;
        }
        // The link's own troubles are the controller's to see.
        let problems: Vec<Problem> = status
            .problems
            .iter()
            .filter(|problem| problem.code != ErrorCode::PeerUnreachable.text())
            .map(|problem| Problem {
                code: problem.code.clone(),
                detail: problem.detail.clone(),
            })
            .collect();
        let codes: Vec<String> = problems
            .iter()
            .map(|problem| problem.code.clone())
            .collect();
        context.out.send_replace(Arc::new(status));
        if healthy.as_ref() != Some(&codes) {
            healthy = Some(codes);
            let item = StateItem {
                at: context.clock.wall(),
                value: StateValue::Health(Health { problems }),
            };
            if context.core.put_state(item).await.is_err() && !context.stop.is_cancelled() {
                return Err(CoreGone);
            }
        }
        let changed = tokio::select! {
            () = context.stop.cancelled() => return Ok(()),
            changed = context.node.changed() => changed,
            changed = context.uplink.changed() => changed,
            changed = context.named.changed() => changed,
            changed = context.expires.changed() => changed,
            changed = context.deployments.changed() => changed,
            changed = context.glass.changed() => changed,
        };
        if changed.is_err() {
            // A sender goes only when its task ends, which the supervisor sees.
            context.stop.cancelled().await;
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn status_line(status: &AgentStatus) -> String {
    let link = match status.link.state {
        LinkState::Up => "link up",
        LinkState::Down => "link down",
        LinkState::NotJoined => "not joined",
    };
    match status.problems.first() {
        Some(problem) => format!("{link}; {}", problem.code),
        None => link.to_owned(),
    }
}

impl Context {
    /// The record is a small file, and who writes it is now this process, now another.
    fn update(&self) -> Option<UpdateStatus> {
        let record = self.layout.record().ok().flatten()?;
        (record.base == self.base).then(|| UpdateStatus {
            version: record.version.clone(),
            from_version: record.from_version.clone(),
            selected: record.is_selected(),
            story: record.story(),
        })
    }

    fn document(&mut self, today: &mut Today) -> AgentStatus {
        let node = Arc::clone(&self.node.borrow_and_update());
        let uplink = self.uplink.borrow_and_update().clone();
        let named = self.named.borrow_and_update().clone();
        let expires = *self.expires.borrow_and_update();
        let deployments = Arc::clone(&self.deployments.borrow_and_update());
        let glass = self.glass.borrow_and_update().clone();
        let moment = self.clock.moment();
        let now = moment.wall;
        AgentStatus {
            at: now,
            process: ProcessStatus {
                version: program::version().to_owned(),
                started_at: self.started,
                ..ProcessStatus::default()
            },
            update: self.update(),
            node: self.identity(&named),
            link: link(&node, &uplink, now),
            streams: streams(&node),
            shed_samples: node.store.shed_samples,
            commands: node.commands.iter().map(command).collect(),
            deployments: deployments.values().cloned().collect(),
            budgets: BudgetStatus {
                flash_bytes: node.store.flash_bytes,
                flash_bytes_today: today.count(now, node.store.flash_bytes),
                sent_bytes: node.sent_bytes,
                received_bytes: node.received_bytes,
                ..BudgetStatus::default()
            },
            certificate: Some(CertificateStatus {
                not_before: self.summary.certificate_not_before,
                expires_at: expires,
            }),
            clock: ClockStatus {
                offset_ms: node.offset.map(|offset| offset.ms),
                error_ms: node.offset.map_or(0, |offset| offset.error_ms),
            },
            trust: TrustStatus {
                trust_version: node.trust_version,
                incarnation: node.incarnation,
                generation: node.generation,
                policy_epoch: node.gate.epoch(),
            },
            gate: gate(&node.gate, glass, moment),
            dependencies: self
                .dependencies
                .standings()
                .iter()
                .map(dependency_line)
                .collect(),
            disk: DiskStatus {
                failing: node.store.failing.map(|code| code.text().to_owned()),
                ..DiskStatus::default()
            },
            refused: node
                .dropped
                .by_code
                .iter()
                .map(|(code, count)| (code.text().to_owned(), *count))
                .collect(),
            problems: problems(&node, &uplink, expires, self.clock.controller_now(), moment),
        }
    }

    fn identity(&self, named: &Named) -> IdentityStatus {
        let name = if named.name.is_empty() {
            &self.summary.name
        } else {
            &named.name
        };
        IdentityStatus {
            id: Some(self.summary.node.to_string()),
            fleet: Some(self.summary.fleet.to_string()),
            name: name.clone(),
            labels: named
                .labels
                .iter()
                .map(|(key, value)| (key.to_string(), value.to_string()))
                .collect(),
            controllers: self.summary.controllers.clone(),
        }
    }
}

fn dependency_line((dependency, standing): &(Dependency, Standing)) -> DependencyStatus {
    DependencyStatus {
        name: dependency.to_string(),
        state: standing.state.name().to_owned(),
        reason: dependency::reason(standing),
        tries_at: standing.tries_at(),
    }
}

fn gate(gate: &Gate, file_problem: Option<String>, now: Moment) -> GateStatus {
    let stops = gate.stops(now.tick).map(|stop| StopStatus {
        breaker: stop.breaker.clone(),
        state: stop.state.name().to_owned(),
        since: stop.since,
        what: what(stop),
        reason: stop.reason.clone(),
    });
    GateStatus {
        stops: stops.collect(),
        lease: gate.lease(now.tick).map(|lease| LeaseStatus {
            ends_at: now.wall.before(lease.silent).after(lease.length),
            length_s: lease.length.as_secs(),
            is_over: lease.is_over(),
        }),
        break_glass: gate.break_glass(now).map(|file| BreakGlassStatus {
            reason: file.reason.clone(),
            until: file.until,
        }),
        break_glass_problem: file_problem,
    }
}

/// What a gate stops, for a person.
fn what(stop: &Stop) -> String {
    let deploy = match &stop.scope {
        Scope::Deployment(id) => format!("changes of deployment {id}"),
        Scope::Fleet | Scope::Nodes(_) => "changes of deployments".to_owned(),
    };
    let mut parts = Vec::new();
    parts.extend(stop.gated.deploy.then_some(deploy));
    parts.extend(stop.gated.update.then(|| "updates of the agent".to_owned()));
    let commands: Vec<&str> = stop.gated.commands.iter().map(String::as_str).collect();
    if !commands.is_empty() {
        parts.push(format!("commands ({})", commands.join(", ")));
    }
    parts.join(", ")
}

fn link(node: &NodeStatus, uplink: &uplink::State, now: UnixMillis) -> LinkStatus {
    LinkStatus {
        state: if node.link_up {
            LinkState::Up
        } else {
            LinkState::Down
        },
        proven_at: node.proven_ago.map(|ago| now.before(ago)),
        broker: uplink.broker.clone(),
        problem: uplink.last_error.clone(),
        connects: node.connects,
    }
}

fn streams(node: &NodeStatus) -> Vec<StreamStatus> {
    Stream::ALL
        .into_iter()
        .map(|stream| StreamStatus {
            stream: stream.name().to_owned(),
            entries: u64::try_from(node.store.waiting[stream.index()]).unwrap_or(u64::MAX),
            bytes: node.store.bytes[stream.index()],
        })
        .collect()
}

fn command((id, entry): &(protocol::id::CommandId, ledger::Entry)) -> CommandStatus {
    CommandStatus {
        id: id.to_string(),
        outcome: match entry.state {
            ledger::State::Open => "running",
            ledger::State::Closed(outcome) => outcome.name(),
        }
        .to_owned(),
        at: Some(entry.taken_at),
        ..CommandStatus::default()
    }
}

fn problems(
    node: &NodeStatus,
    uplink: &uplink::State,
    expires: UnixMillis,
    now: UnixMillis,
    moment: Moment,
) -> Vec<ProblemStatus> {
    let mut problems = Vec::new();
    let mut note = |code: ErrorCode, detail: String| {
        problems.push(ProblemStatus {
            code: code.text().to_owned(),
            detail,
        });
    };
    if let Some(code) = node.store.failing {
        note(code, code.info().summary.to_owned());
    }
    if expires.0 > 0 && expires < now {
        note(
            ErrorCode::IdentityInvalid,
            format!("the certificate expired at {expires} and was not renewed yet"),
        );
    }
    if let Some(offset) = node.offset
        && offset.ms.unsigned_abs() > millis(CLOCK_OFFSET_MAX)
    {
        note(
            ErrorCode::NodeClockOff,
            format!("the node's clock is off by {} ms", -offset.ms),
        );
    }
    if node.forged_ago.is_some_and(|ago| ago < FORGED_SHOWN) {
        note(
            ErrorCode::EnvelopeBadSignature,
            "the broker carries messages that the controller did not sign".to_owned(),
        );
    }
    for (code, detail) in node.gate.problems(moment.tick) {
        note(code, detail);
    }
    if node.store.spool_failures > 0 {
        note(
            ErrorCode::StoreFailed,
            "the runtime directory cannot be written; a crash would lose samples".to_owned(),
        );
    }
    if !node.link_up {
        let detail = match &uplink.last_error {
            Some(error) => error.clone(),
            None if uplink.connected => "the controller does not answer".to_owned(),
            None => "connecting".to_owned(),
        };
        note(ErrorCode::PeerUnreachable, detail);
    }
    problems
}
