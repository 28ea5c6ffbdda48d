//! The simulated controller's machine: engine and desk over two simulated disks,
//! and a store of frames that forgets nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use controller::broker::Delivery;
use controller::domain::access::caller::Caller;
use controller::domain::access::key::SecretDigest;
use controller::domain::access::manage::RecoverAdmin;
use controller::domain::breaker::manage::{EndOverride, RaisePolicy, RemoveBreaker};
use controller::domain::command::Hours;
use controller::domain::command::issue::{
    Aim, CancelCommand, ConcludeCommand, EmptyAim, IssueCommand,
};
use controller::domain::deployment::apply::{ApplyDeployment, ForgetDeployment, How};
use controller::domain::deployment::steer::RecordRollout;
use controller::domain::event::Event;
use controller::domain::fleet::Fleet;
use controller::domain::fleet::admit::AdmitNode;
use controller::domain::fleet::manage::SuspectIdentity;
use controller::domain::fleet::node::AdmissionFacts;
use controller::domain::fleet::token::{Approval, CreateToken};
use controller::domain::fleet::trust::RaiseIncarnation;
use controller::domain::moment::Moment;
use controller::domain::operation::Operation;
use controller::domain::rollout::params::{CommitMode, OnHalt, OnInconclusive, Params};
use controller::domain::session::Load;
use controller::engine::writer::{Ask, Submission, Writer};
use controller::journal::{Journal, Medium};
use controller::pki::CurrentTrust;
use controller::uplink::desk::{Desk, DeskConfig, DeskEvent, Output, Recorded, Watch};
use controller::uplink::intake::{self, Intake, StoredDesired};
use controller::uplink::sink::{FrameArrival, FrameOutcome, FrameSink, SinkError};
use harness::sim::chance::Chance;
use harness::sim::disk::SimDisk;
use protocol::command::Action;
use protocol::deployment::spec::{Image, Service, Spec};
use protocol::id::{CommandId, DeploymentId, FleetId, NodeId};
use protocol::key::{PublicKey, SigningKey};
use protocol::label::Labels;
use protocol::selector::Selector;
use protocol::time::UnixMillis;

use super::world::unix;

/// Frames that are durable, by the marker in their body, with how often each was
/// handed over.
pub(crate) type Frames = Arc<Mutex<BTreeMap<u64, u32>>>;

/// A store of frames in memory that outlives crashes.
pub(crate) struct Keeper(pub(crate) Frames);

impl FrameSink for Keeper {
    fn ingest(
        &mut self,
        frames: Vec<FrameArrival>,
        _: UnixMillis,
    ) -> Result<Vec<FrameOutcome>, SinkError> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for frame in &frames {
            let marker = frame.body.first_chunk().map(|b| u64::from_le_bytes(*b));
            *kept.entry(marker.unwrap_or(0)).or_insert(0) += 1;
        }
        Ok(frames.iter().map(|_| FrameOutcome::Kept).collect())
    }

    fn live(&mut self, _: NodeId, _: &[u8], _: UnixMillis) {}
}

/// The controller's machine.
pub(crate) struct Machine {
    pub(crate) journal: SimDisk,
    pub(crate) intake: SimDisk,
    pub(crate) frames: Frames,
    pub(crate) fleet: FleetId,
    key: Arc<SigningKey>,
    trust: Arc<CurrentTrust>,
    chance: Chance,
    running: Option<Running>,
    admin: Option<Caller>,
    pub(crate) start_at: Option<u64>,
    /// The fleet's state as of the last commit that was answered.
    pub(crate) live: Option<Arc<Fleet>>,
    /// Whether a commit failed since then, so that the journal may hold more.
    pub(crate) unsure: bool,
    /// Whether a commit ever failed: its operation may have been taken all the
    /// same, unknown to who asked.
    pub(crate) unsure_ever: bool,
    pub(crate) disks_fail: bool,
    pub(crate) suspected: Vec<(NodeId, String)>,
    pub(crate) lost: u64,
    pub(crate) disconnects: Vec<NodeId>,
}

struct Running {
    core: Writer,
    desk: Desk<Keeper>,
}

impl Machine {
    pub(crate) fn new(
        fleet: FleetId,
        key: Arc<SigningKey>,
        trust: CurrentTrust,
        chance: Chance,
    ) -> Machine {
        let machine = Machine {
            journal: SimDisk::new(),
            intake: SimDisk::new(),
            frames: Frames::default(),
            fleet,
            key,
            trust: Arc::new(trust),
            chance,
            running: None,
            admin: None,
            start_at: None,
            live: None,
            unsure: false,
            unsure_ever: false,
            disks_fail: false,
            suspected: Vec::new(),
            lost: 0,
            disconnects: Vec::new(),
        };
        let key = Arc::clone(&machine.key);
        Journal::create_on(machine.medium(), fleet, key, unix(0)).unwrap();
        machine
    }

    fn medium(&self) -> Medium {
        let disk = self.journal.clone();
        Medium::Backend(Arc::new(move || disk.open()))
    }

    fn open_intake(&self) -> Result<Intake, intake::IntakeError> {
        let disk = self.intake.clone();
        Intake::open_medium(intake::Medium::Backend(Box::new(move || Ok(disk.open()))))
    }

    pub(crate) fn is_on(&self) -> bool {
        self.running.is_some()
    }

    pub(crate) fn public_key(&self) -> PublicKey {
        self.key.public()
    }

    /// Starts it, and checks that what it reads is what it had said. A disk that
    /// fails just now makes it try again, as systemd does.
    pub(crate) fn start(&mut self, now: u64) -> Output {
        self.start_at = None;
        let Some(mut running) = self.open(now) else {
            assert!(self.disks_fail, "working disks are opened");
            self.start_at = Some(now + 5_000);
            return Output::default();
        };
        if let Some(live) = &self.live
            && !self.unsure
        {
            assert!(
                **live == **running.core.fleet(),
                "the replayed state differs from the live one"
            );
        }
        self.unsure = false;
        self.live = Some(Arc::clone(running.core.fleet()));
        let announce = running.desk.announce(unix(now));
        self.running = Some(running);
        let mut output = self.catch_up(now);
        output.outgoing.insert(0, announce);
        output
    }

    fn open(&self, now: u64) -> Option<Running> {
        let journal = Journal::open_on(self.medium(), Arc::clone(&self.key)).ok()?;
        let core = Writer::open(journal).ok()?;
        let config = DeskConfig {
            heartbeat: Duration::from_secs(15),
            watch: Watch {
                silent_after: Duration::from_secs(300),
                certificate_life: Duration::from_secs(90 * 86_400),
            },
        };
        let mut desk = Desk::new(
            config,
            Arc::clone(core.fleet()),
            Arc::clone(&self.key),
            Arc::clone(&self.trust),
            self.open_intake().ok()?,
            Keeper(Arc::clone(&self.frames)),
            unix(now),
        )
        .ok()?;
        desk.align(core.head().seq, unix(now)).ok()?;
        Some(Running { core, desk })
    }

    /// Makes both disks fail, or work again.
    pub(crate) fn fail_disks(&mut self, fails: bool) {
        self.disks_fail = fails;
        self.journal.fail(fails);
        self.intake.fail(fails);
    }

    /// Starts from older disks, as `flotilla serve --restored` does: the incarnation
    /// is raised first.
    pub(crate) fn start_restored(&mut self, now: u64) {
        let journal = Journal::open_on(self.medium(), Arc::clone(&self.key)).unwrap();
        let mut core = Writer::open(journal).unwrap();
        let raise = RaiseIncarnation {
            above: 0,
            reason: "restored".to_owned(),
        };
        let submission = Submission {
            caller: Caller::System,
            request: None,
            ask: Ask::Operation(Operation::RaiseIncarnation(raise)),
        };
        let moment = Moment::new(unix(now), self.chance.bytes());
        for answer in core.commit(&[submission], &moment) {
            answer.unwrap();
        }
        drop(core);
        self.start_at = Some(now + 1_000);
    }

    /// The process dies.
    pub(crate) fn kill(&mut self, now: u64) {
        self.running = None;
        self.journal.kill();
        self.intake.kill();
        self.start_at = Some(now + 500 + self.chance.below(30_000));
    }

    /// The power goes.
    pub(crate) fn cut_power(&mut self, now: u64) {
        self.running = None;
        let mut chance = self.chance.fork();
        self.journal.crash(&mut chance);
        self.intake.crash(&mut chance);
        self.start_at = Some(now + 5_000 + self.chance.below(60_000));
    }

    /// How far each stream of a node has arrived, from the intake's disk.
    pub(crate) fn contiguous(&self, node: NodeId) -> [u64; 4] {
        assert!(self.running.is_none(), "two may not open one disk");
        let kept = self.open_intake().unwrap().kept(node).unwrap();
        kept.map_or([0; 4], |kept| kept.contiguous)
    }

    /// Every target of every command, with how it stands.
    pub(crate) fn targets(&self) -> BTreeMap<(CommandId, NodeId), intake::TargetState> {
        assert!(self.running.is_none(), "two may not open one disk");
        let intake = self.open_intake().unwrap();
        let mut all = BTreeMap::new();
        for (command, _) in intake.commands().unwrap() {
            for (node, state) in intake.targets(command, None, 1000).unwrap() {
                all.insert((command, node), state);
            }
        }
        all
    }

    /// Whether the receipt of a command on a node is kept.
    pub(crate) fn has_receipts(
        &self,
        wanted: &BTreeSet<(CommandId, NodeId)>,
    ) -> BTreeSet<(CommandId, NodeId)> {
        let intake = self.open_intake().unwrap();
        wanted
            .iter()
            .filter(|(command, node)| intake.receipt(*command, *node).unwrap().is_some())
            .copied()
            .collect()
    }

    /// The number of entries that could not be understood.
    pub(crate) fn quarantined(&self) -> usize {
        self.open_intake().unwrap().quarantine(100).unwrap().len()
    }

    /// Whether the trail verifies, by the public key alone.
    pub(crate) fn verify(&self, now: u64) {
        let journal = Journal::open_on(self.medium(), Arc::clone(&self.key)).unwrap();
        let mut export = Vec::new();
        journal.reader().export(1, unix(now), &mut export).unwrap();
        controller::journal::verify::verify(export.as_slice(), &[self.public_key()]).unwrap();
    }

    /// Asks the engine for something; `None` when it is off or refuses.
    pub(crate) fn submit(
        &mut self,
        caller: Caller,
        operation: Operation,
        now: u64,
    ) -> Option<Vec<Event>> {
        let seed = self.chance.bytes();
        let running = self.running.as_mut()?;
        let submission = Submission {
            caller,
            request: None,
            ask: Ask::Operation(operation),
        };
        let answers = running
            .core
            .commit(&[submission], &Moment::new(unix(now), seed));
        let answer = answers.into_iter().next()?;
        let failed = answer
            .as_ref()
            .is_err_and(|error| error.code() == protocol::ErrorCode::JournalUnavailable);
        if failed {
            self.unsure = true;
            self.unsure_ever = true;
        } else {
            // A refusal is a record too.
            self.live = Some(Arc::clone(running.core.fleet()));
        }
        answer.ok().map(|applied| applied.events)
    }

    /// Makes the first administrator and lets nodes in.
    pub(crate) fn admit(&mut self, nodes: &[(NodeId, PublicKey)], now: u64) {
        let secret = SecretDigest::of(&[1; 32]);
        let recover = RecoverAdmin {
            name: "admin".to_owned(),
            secret,
            lifetime: None,
        };
        let events = self
            .submit(Caller::Host, Operation::RecoverAdmin(recover), now)
            .unwrap();
        let key = events.iter().find_map(|event| {
            if let Event::KeyCreated(event) = event {
                Some((event.principal, event.key))
            } else {
                None
            }
        });
        let (id, key) = key.expect("recovery tells the principal and its key");
        let admin = Caller::Principal { id, key };
        self.admin = Some(admin);
        let create = CreateToken {
            secret,
            labels: Labels::new(),
            lifetime: Duration::from_secs(3600),
            uses_max: 1000,
            approval: Approval::Automatic,
            replaces: None,
        };
        let events = self
            .submit(admin, Operation::CreateToken(create), now)
            .unwrap();
        let token = events.iter().find_map(|event| {
            if let Event::TokenCreated(event) = event {
                Some(event.token)
            } else {
                None
            }
        });
        for (node, signing_key) in nodes {
            let admit = AdmitNode {
                token: token.expect("the token has an id"),
                secret,
                node: *node,
                name: format!("n-{node}"),
                signing_key: *signing_key,
                facts: AdmissionFacts {
                    agent_version: "0.0.0".to_owned(),
                    address: "127.0.0.1".to_owned(),
                },
            };
            self.submit(Caller::Anonymous, Operation::AdmitNode(admit), now)
                .unwrap();
        }
    }

    /// An operator issues a command to all nodes or to one.
    pub(crate) fn issue(&mut self, node: Option<NodeId>, now: u64) -> Option<CommandId> {
        let on = match node {
            Some(node) => Aim::Nodes([node].into()),
            None => Aim::Selector(Selector::every()),
        };
        let issue = IssueCommand {
            on,
            action: Action::Run {
                argv: vec!["mark".to_owned()],
            },
            start_within: Duration::from_millis(20_000 + self.chance.below(120_000)),
            run_timeout: Duration::from_secs(60),
            output_bytes_max: 1024,
            concurrency_max: None,
            rate_per_min: None,
            empty: EmptyAim::Refuse,
            hours: Hours::Windows,
        };
        let events = self.submit(self.admin?, Operation::IssueCommand(issue), now)?;
        events.iter().find_map(|event| {
            if let Event::CommandIssued(event) = event {
                Some(event.command)
            } else {
                None
            }
        })
    }

    /// An operator applies another revision of the one deployment, as soon as the
    /// rollout before has ended. Returns its number when it was accepted.
    pub(crate) fn apply(&mut self, now: u64) -> Option<u32> {
        let params = self.params();
        self.apply_with(params, now)
    }

    /// The same, rolled out in this way.
    pub(crate) fn apply_with(&mut self, params: Params, now: u64) -> Option<u32> {
        let fleet = Arc::clone(self.live.as_ref()?);
        let known = fleet.deployments().named("app");
        let base = known.map_or(0, |known| known.newest_number());
        let revision = base + 1;
        let mut spec = Spec::default();
        let image = Image {
            reference: format!("registry.example.net/app:{revision}"),
            ..Image::default()
        };
        let service = Service {
            image,
            ..Service::default()
        };
        spec.services.insert("app".to_owned(), service);
        let operation = Operation::ApplyDeployment(ApplyDeployment {
            name: "app".to_owned(),
            base,
            selector: Selector::every(),
            spec: Box::new(spec),
            how: Box::new(How {
                params,
                present: BTreeSet::new(),
                empty: EmptyAim::Refuse,
            }),
        });
        let events = self.submit(self.admin?, operation, now)?;
        (!events.is_empty()).then_some(revision)
    }

    /// Takes the fleet's own breaker away, for what it would stop.
    pub(crate) fn without_breaker(&mut self, now: u64) {
        let breaker = "fleet".to_owned();
        let operation = Operation::RemoveBreaker(RemoveBreaker { breaker });
        let removed = self
            .admin
            .and_then(|admin| self.submit(admin, operation, now));
        assert!(removed.is_some(), "the fleet has a breaker from the start");
    }

    /// A rollout that ends within minutes, and goes on or back by chance.
    fn params(&mut self) -> Params {
        let mut params = Params {
            silent_deadline_ms: 60_000,
            deadline_ms: 5 * 60_000,
            on_inconclusive: OnInconclusive::Continue,
            on_halt: [OnHalt::Keep, OnHalt::Revert, OnHalt::Pause][self.chance.index(3)],
            commit: [CommitMode::PerTarget, CommitMode::Barrier][self.chance.index(2)],
            ..Params::default()
        };
        for wave in &mut params.waves {
            wave.soak_ms = 5_000;
        }
        params
    }

    /// What nodes are to have of a deployment, from the intake's disk.
    pub(crate) fn orders(&self, deployment: DeploymentId) -> Vec<(NodeId, StoredDesired)> {
        assert!(self.running.is_none(), "two may not open one disk");
        let intake = self.open_intake().unwrap();
        intake.desired_of(deployment, None, 1000).unwrap()
    }

    /// An operator cancels a command.
    pub(crate) fn cancel(&mut self, command: CommandId, now: u64) {
        if let Some(admin) = self.admin {
            self.submit(
                admin,
                Operation::CancelCommand(CancelCommand { command }),
                now,
            );
        }
    }

    /// Takes what nodes sent.
    pub(crate) fn receive(&mut self, deliveries: Vec<Delivery>, now: u64) -> Output {
        let Some(running) = self.running.as_mut() else {
            return Output::default();
        };
        let output = running.desk.receive(deliveries, Load::Normal, unix(now));
        self.follow(output, now)
    }

    /// Does what is due, and what the journal has new.
    pub(crate) fn tick(&mut self, now: u64) -> Output {
        if self.running.is_none() {
            return match self.start_at {
                Some(at) if at <= now => self.start(now),
                Some(_) | None => Output::default(),
            };
        }
        let mut output = self.catch_up(now);
        if let Some(running) = self.running.as_mut() {
            let ticked = running.desk.tick(unix(now));
            let followed = self.follow(ticked, now);
            output.outgoing.extend(followed.outgoing);
        }
        output
    }

    /// Shows the desk what the journal holds beyond its cursor.
    fn catch_up(&mut self, now: u64) -> Output {
        let Some(running) = self.running.as_mut() else {
            return Output::default();
        };
        running.desk.set_fleet(Arc::clone(running.core.fleet()));
        let reader = running.core.reader();
        let Ok(stored) = reader.read(running.desk.cursor() + 1, 100) else {
            return Output::default();
        };
        if stored.is_empty() {
            return Output::default();
        }
        let mut records = Vec::new();
        for stored in stored {
            let targets = if let Event::CommandIssued(event) = &stored.record.event {
                reader.targets(event.command, 0, 1000).unwrap()
            } else if let Event::RolloutStarted(event) = &stored.record.event {
                reader.targets(event.rollout, 0, 1000).unwrap()
            } else {
                Vec::new()
            };
            records.push(Recorded {
                record: stored.record,
                targets,
            });
        }
        let output = running.desk.record(records, unix(now));
        self.follow(output, now)
    }

    /// Does what the desk asks of the rest of the controller.
    fn follow(&mut self, output: Output, now: u64) -> Output {
        for event in output.events {
            let operation = match event {
                DeskEvent::Suspected { node, suspect } => {
                    self.suspected.push((node, suspect.detail.clone()));
                    Operation::SuspectIdentity(SuspectIdentity {
                        node,
                        doubt: suspect.doubt,
                        detail: suspect.detail,
                    })
                }
                DeskEvent::Behind { incarnation, .. } => {
                    Operation::RaiseIncarnation(RaiseIncarnation {
                        above: incarnation,
                        reason: "a node has obeyed a higher one".to_owned(),
                    })
                }
                DeskEvent::Concluded {
                    command,
                    counts,
                    merkle_root,
                } => Operation::ConcludeCommand(ConcludeCommand {
                    command,
                    counts,
                    merkle_root,
                }),
                DeskEvent::Decided(decision) => {
                    let fleet = self.live.as_ref();
                    let known = fleet.and_then(|it| it.rollouts().get(decision.rollout()));
                    if known.is_none_or(|known| known.course.check(&decision).is_err()) {
                        continue;
                    }
                    Operation::RecordRollout(RecordRollout {
                        decision: *decision,
                    })
                }
                DeskEvent::Gone(deployment) => {
                    Operation::ForgetDeployment(ForgetDeployment { deployment })
                }
                DeskEvent::DrainOver(end) => Operation::EndDrain(end),
                DeskEvent::Moved(moved) => Operation::RecordBreaker(*moved),
                DeskEvent::OverrideOver(number) => Operation::EndOverride(EndOverride { number }),
                DeskEvent::PolicyAhead { epoch, .. } => Operation::RaisePolicy(RaisePolicy {
                    above: epoch,
                    signer: self.key.public().id(),
                }),
                DeskEvent::Lost { entries, .. } => {
                    self.lost += entries;
                    continue;
                }
                DeskEvent::Disconnect(node) => {
                    self.disconnects.push(node);
                    continue;
                }
                DeskEvent::Ended { .. } | DeskEvent::Progress { .. } => continue,
            };
            self.submit(Caller::System, operation, now);
        }
        Output {
            outgoing: output.outgoing,
            events: Vec::new(),
        }
    }
}
