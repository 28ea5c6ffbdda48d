//! Defining, moving and overriding breakers, and numbering the policy.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use protocol::ErrorCode;
use protocol::breaker::BreakerState;
use protocol::breaker::machine::{Input, Order, Reason, Transition};
use protocol::command::Action;
use protocol::condition::Rule;
use protocol::id::NodeId;
use protocol::key::KeyId;
use protocol::message;
use protocol::policy::{Attempt, RULES_COUNT_MAX, Refusal, Standing};
use protocol::selector::Selector;

use crate::domain::access::caller::Caller;
use crate::domain::breaker::definition::{Definition, Group, Signal, is_gated};
use crate::domain::breaker::event::{
    BreakerDefined, BreakerMoved, BreakerOverridden, BreakerRemoved, LeaseSet, OverrideEnd,
    OverrideEnded, PolicyPublished,
};
use crate::domain::breaker::{
    BREAKERS_COUNT_MAX, Breakers, Cell, GROUPS_OPEN_MAX, Known, OVERRIDES_COUNT_MAX, Published,
    REASON_BYTES_MAX, RULES_BYTES_MAX,
};
use crate::domain::event::Event;
use crate::domain::fleet::Fleet;
use crate::domain::fleet::node::Node;
use crate::domain::moment::Moment;
use crate::domain::rejection::{Rejection, cut};

/// The longest override. Who needs more gives it again, and is asked why again.
pub const OVERRIDE_MAX: Duration = Duration::from_secs(24 * 3600);

/// What a lease can be. A shorter one would stop the fleet whenever the controller
/// is updated; a longer one would say nothing to a node that is cut off for good.
pub const LEASE: RangeInclusive<Duration> =
    Duration::from_secs(10 * 60)..=Duration::from_secs(30 * 24 * 3600);

/// How far a node's word can raise the epoch at once. A controller that was
/// restored lacks thousands of changes at most; a node that speaks of more is
/// broken or lies, and would use the numbers up.
pub const EPOCH_LEAP_MAX: u64 = 1_000_000;

/// How far the epoch leaps when the incarnation is raised: more changes than a
/// backup can lack, so that no two policies have one number. A node that holds a
/// yet higher one says so in its hello.
const EPOCH_LEAP: u64 = 10_000;

/// Define a breaker, or define it anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefineBreaker {
    /// What it is to be.
    pub definition: Box<Definition>,
}

/// Remove a breaker that is closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoveBreaker {
    /// Its name.
    pub breaker: String,
}

/// Change for how long nodes go on without a word from the controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetLease {
    /// How long.
    pub lease: Duration,
}

/// Move a breaker by hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MoveBreaker {
    /// Its name.
    pub breaker: String,
    /// The group: a label's value or a deployment's id. None is the whole fleet
    /// for a trip, and everything that is not closed for a reset.
    pub group: Option<String>,
    /// To where.
    pub to: Hand,
    /// Why, in the operator's words.
    pub reason: String,
}

/// What a hand can do to a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hand {
    /// Open it, with a cool-down.
    Trip,
    /// Open it until someone resets it.
    Isolate,
    /// Close it.
    Reset,
}

/// Record how a breaker moved by what nodes report or by time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordBreaker {
    /// Its name.
    pub breaker: String,
    /// For which group.
    pub group: Group,
    /// What the machine says.
    pub transition: Transition,
    /// The nodes that may try, when it became half-open.
    pub probes: BTreeSet<NodeId>,
}

/// Let some nodes pass a breaker for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverrideBreaker {
    /// The breaker.
    pub breaker: String,
    /// The nodes that may.
    pub nodes: Selector,
    /// For how long.
    pub lifetime: Duration,
    /// Why, in the operator's words.
    pub reason: String,
}

/// End an override.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndOverride {
    /// Its number.
    pub number: u64,
}

/// Give the policy a number above one that a node was seen to hold, or because
/// another key signs it from here on; the first number when none was given yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaisePolicy {
    /// The epoch that was seen; 0 when none was.
    pub above: u64,
    /// The key that signs.
    pub signer: KeyId,
}

impl RaisePolicy {
    /// Whether the policy that was published last is what is asked for.
    #[must_use]
    pub fn is_done(&self, published: Published) -> bool {
        published.epoch > 0
            && self.above <= published.epoch
            && published.signer == Some(self.signer)
    }
}

impl Hand {
    /// The name of the operation.
    #[must_use]
    pub fn operation(self) -> &'static str {
        match self {
            Self::Trip => "breaker.trip",
            Self::Isolate => "breaker.isolate",
            Self::Reset => "breaker.reset",
        }
    }

    /// The action of the permission that it needs. To isolate is to trip for
    /// longer.
    #[must_use]
    pub fn permission(self) -> &'static str {
        match self {
            Self::Trip | Self::Isolate => "trip",
            Self::Reset => "reset",
        }
    }
}

/// The nodes that an override is for.
#[must_use]
pub fn overridden(fleet: &Fleet, asked: &OverrideBreaker) -> Vec<NodeId> {
    fleet
        .nodes()
        .filter(|node| node.is_active() && asked.nodes.matches(node.subject()))
        .map(|node| node.id)
        .collect()
}

pub(crate) fn define(
    fleet: &Fleet,
    asked: &DefineBreaker,
    at: &Moment,
) -> Result<Vec<Event>, Rejection> {
    let definition = asked.definition.as_ref();
    definition.check()?;
    let breakers = fleet.breakers();
    let unknown = definition.watches.iter().find_map(|signal| match signal {
        Signal::Condition(name) if fleet.alerts().rule(name).is_none() => Some(name),
        Signal::Condition(_)
        | Signal::Deploy
        | Signal::Silence
        | Signal::Unhealthy
        | Signal::CrashLoop
        | Signal::Command => None,
    });
    if let Some(name) = unknown {
        return Err(Rejection::new(
            ErrorCode::BreakerInvalid,
            format!("no alert rule is named {name:?}, so nodes watch no such condition"),
        ));
    }
    match breakers.get(&definition.name) {
        Some(known) if known.definition == *definition => return Ok(Vec::new()),
        Some(known) if known.definition.span != definition.span => still_open(known)?,
        Some(_) => {}
        None if breakers.iter().len() >= BREAKERS_COUNT_MAX => {
            return Err(Rejection::new(
                ErrorCode::LimitReached,
                format!("the fleet has {BREAKERS_COUNT_MAX} breakers; remove some"),
            ));
        }
        None => {}
    }
    let defined = Event::BreakerDefined(BreakerDefined {
        definition: asked.definition.clone(),
    });
    Ok(published(fleet, vec![defined], at))
}

pub(crate) fn remove(
    fleet: &Fleet,
    asked: &RemoveBreaker,
    at: &Moment,
) -> Result<Vec<Event>, Rejection> {
    still_open(fleet.breakers().existing(&asked.breaker)?)?;
    let removed = Event::BreakerRemoved(BreakerRemoved {
        breaker: asked.breaker.clone(),
    });
    Ok(published(fleet, vec![removed], at))
}

/// A breaker that stops something does not stop being one by the way.
fn still_open(known: &Known) -> Result<(), Rejection> {
    match known.open().next() {
        None => Ok(()),
        Some((group, cell)) => Err(Rejection::new(
            ErrorCode::BreakerState,
            format!(
                "breaker {} is {} for {group}; reset it first",
                known.definition.name,
                cell.moved.to.name()
            ),
        )),
    }
}

pub(crate) fn set_lease(
    fleet: &Fleet,
    asked: &SetLease,
    at: &Moment,
) -> Result<Vec<Event>, Rejection> {
    if !LEASE.contains(&asked.lease) {
        return Err(Rejection::new(
            ErrorCode::BreakerInvalid,
            format!(
                "a lease lasts from {} s to {} s, not {} s",
                LEASE.start().as_secs(),
                LEASE.end().as_secs(),
                asked.lease.as_secs()
            ),
        ));
    }
    let lease_s = asked.lease.as_secs();
    if fleet.breakers().lease().as_secs() == lease_s {
        return Ok(Vec::new());
    }
    let set = Event::LeaseSet(LeaseSet { lease_s });
    Ok(published(fleet, vec![set], at))
}

pub(crate) fn by_hand(
    fleet: &Fleet,
    caller: &Caller,
    asked: &MoveBreaker,
    at: &Moment,
) -> Result<Vec<Event>, Rejection> {
    let known = fleet.breakers().existing(&asked.breaker)?;
    let reason = reasoned(&asked.reason)?;
    let groups: Vec<Group> = match (asked.to, &asked.group) {
        (Hand::Reset, None) => known.open().map(|(group, _)| group.clone()).collect(),
        (Hand::Trip | Hand::Isolate | Hand::Reset, group) => {
            vec![Group::of(&known.definition, group.as_deref())?]
        }
    };
    let order = Order {
        by: fleet.access().name_of(caller),
        why: reason,
    };
    let mut events = Vec::new();
    for group in groups {
        let mut machine = known.machine(&group);
        // At the time of its last move, so that no time passes in it: whatever would
        // have lapsed meanwhile is no state that any node was told of.
        let still = known
            .groups
            .get(&group)
            .map_or(at.now, |cell| cell.moved.at);
        for transition in machine.step(asked.to.input(order.clone()), still) {
            let transition = Transition {
                at: at.now,
                ..transition
            };
            events.extend(moved(fleet, known, &group, transition, BTreeSet::new()));
        }
    }
    Ok(published(fleet, events, at))
}

impl Hand {
    fn input(self, order: Order) -> Input {
        match self {
            Self::Trip => Input::Trip(order),
            Self::Isolate => Input::Isolate(order),
            Self::Reset => Input::Reset(order),
        }
    }
}

pub(crate) fn record(
    fleet: &Fleet,
    asked: &RecordBreaker,
    at: &Moment,
) -> Result<Vec<Event>, Rejection> {
    let known = fleet.breakers().existing(&asked.breaker)?;
    check_move(known, asked)?;
    let event = moved(
        fleet,
        known,
        &asked.group,
        asked.transition.clone(),
        asked.probes.clone(),
    );
    Ok(published(fleet, event.into_iter().collect(), at))
}

/// Whether a machine that stands where the records say could move like that.
///
/// # Errors
/// The rejection that says what does not fit.
pub fn check_move(known: &Known, asked: &RecordBreaker) -> Result<(), Rejection> {
    let name = &known.definition.name;
    let stale = |detail: String| Err(Rejection::new(ErrorCode::BreakerState, detail));
    if !known.definition.has(&asked.group) {
        return Err(Rejection::new(
            ErrorCode::BreakerInvalid,
            format!("breaker {name} has no group {}", asked.group),
        ));
    }
    let held = known.groups.get(&asked.group).map(|cell| &cell.moved);
    let (state, round) = held.map_or((BreakerState::Closed, 0), |held| (held.to, held.round));
    let transition = &asked.transition;
    let next_round = round + u64::from(transition.to == BreakerState::HalfOpen);
    if transition.from != state || transition.round != next_round {
        return stale(format!(
            "breaker {name} is {} in round {round}, not {} in round {}",
            state.name(),
            transition.from.name(),
            transition.round
        ));
    }
    let moves_so = match (state, transition.to) {
        (BreakerState::Closed, BreakerState::Open) => matches!(
            transition.reason,
            Reason::Consecutive { .. } | Reason::Count { .. } | Reason::Share { .. }
        ),
        (BreakerState::Open, BreakerState::HalfOpen) => {
            matches!(transition.reason, Reason::CooledDown { .. })
        }
        (BreakerState::HalfOpen, BreakerState::Open) => matches!(
            transition.reason,
            Reason::ProbesFailed { .. } | Reason::ProbesSilent { .. }
        ),
        (BreakerState::HalfOpen, BreakerState::Closed) => {
            matches!(transition.reason, Reason::ProbesSucceeded { .. })
        }
        // The others are a person's.
        (
            BreakerState::Closed
            | BreakerState::Open
            | BreakerState::HalfOpen
            | BreakerState::Isolated,
            BreakerState::Closed
            | BreakerState::Open
            | BreakerState::HalfOpen
            | BreakerState::Isolated,
        ) => false,
    };
    if !moves_so {
        return stale(format!(
            "breaker {name} does not go from {} to {} by itself: {}",
            state.name(),
            transition.to.name(),
            transition.reason
        ));
    }
    let probes_max = match transition.to {
        BreakerState::HalfOpen => known.definition.rule.recovery.probes as usize,
        BreakerState::Closed | BreakerState::Open | BreakerState::Isolated => 0,
    };
    if asked.probes.len() > probes_max {
        return stale(format!(
            "breaker {name} has {} probes; {probes_max} may try",
            asked.probes.len()
        ));
    }
    Ok(())
}

/// The move as it is recorded: of the whole fleet when a group would open and the
/// policy has no room for one more. So much trouble in so many places is not local.
/// None when the whole fleet is stopped already.
fn moved(
    fleet: &Fleet,
    known: &Known,
    group: &Group,
    transition: Transition,
    probes: BTreeSet<NodeId>,
) -> Option<Event> {
    let opens = transition.from == BreakerState::Closed;
    let full = fleet.breakers().open_count() >= GROUPS_OPEN_MAX;
    let (group, transition) = if opens && full && *group != Group::Fleet {
        let held = known.groups.get(&Group::Fleet).map(|cell| &cell.moved);
        if held.is_some_and(|held| held.to != BreakerState::Closed) {
            return None;
        }
        let round = held.map_or(0, |held| held.round);
        (
            Group::Fleet,
            Transition {
                round,
                ..transition
            },
        )
    } else {
        (group.clone(), transition)
    };
    Some(Event::BreakerMoved(BreakerMoved {
        breaker: known.definition.name.clone(),
        group,
        transition,
        probes,
    }))
}

pub(crate) fn give(
    fleet: &Fleet,
    caller: &Caller,
    asked: &OverrideBreaker,
    at: &Moment,
) -> Result<Vec<Event>, Rejection> {
    let breakers = fleet.breakers();
    breakers.existing(&asked.breaker)?;
    let reason = reasoned(&asked.reason)?;
    if asked.lifetime.is_zero() || asked.lifetime > OVERRIDE_MAX {
        return Err(Rejection::new(
            ErrorCode::BreakerInvalid,
            format!(
                "an override lasts from 1 s to {} s, not {} s",
                OVERRIDE_MAX.as_secs(),
                asked.lifetime.as_secs()
            ),
        ));
    }
    if breakers.overrides.len() >= OVERRIDES_COUNT_MAX {
        return Err(Rejection::new(
            ErrorCode::LimitReached,
            format!("the fleet has {OVERRIDES_COUNT_MAX} overrides; end some"),
        ));
    }
    let given = Event::BreakerOverridden(BreakerOverridden {
        number: breakers.override_last + 1,
        breaker: asked.breaker.clone(),
        nodes: asked.nodes.clone(),
        until: at.now.after(asked.lifetime),
        by: fleet.access().name_of(caller),
        reason,
    });
    Ok(published(fleet, vec![given], at))
}

pub(crate) fn end(
    fleet: &Fleet,
    caller: &Caller,
    asked: &EndOverride,
    at: &Moment,
) -> Result<Vec<Event>, Rejection> {
    let Some(granted) = fleet.breakers().overrides.get(&asked.number) else {
        return Err(Rejection::new(
            ErrorCode::BreakerNotFound,
            format!("there is no override {}, or it has ended", asked.number),
        ));
    };
    let why = match caller {
        Caller::System if at.now < granted.pass.until => {
            return Err(Rejection::new(
                ErrorCode::BreakerState,
                format!("override {} has not expired", asked.number),
            ));
        }
        Caller::System => OverrideEnd::Expired,
        Caller::Principal { .. } | Caller::Host | Caller::Node(_) | Caller::Anonymous => {
            OverrideEnd::Withdrawn
        }
    };
    let ended = Event::OverrideEnded(OverrideEnded {
        number: asked.number,
        why,
    });
    Ok(published(fleet, vec![ended], at))
}

pub(crate) fn raise(fleet: &Fleet, asked: &RaisePolicy) -> Result<Vec<Event>, Rejection> {
    let published = fleet.breakers().published();
    if asked.is_done(published) {
        return Ok(Vec::new());
    }
    let held = published.epoch;
    if asked.above.saturating_sub(held) > EPOCH_LEAP_MAX {
        return Err(Rejection::new(
            ErrorCode::PolicyInvalid,
            format!(
                "epoch {} is more than {EPOCH_LEAP_MAX} above {held}, which no backup can lack",
                asked.above
            ),
        ));
    }
    let epoch = asked.above.max(held) + 1;
    Ok(vec![numbered(fleet, epoch, Some(asked.signer))])
}

/// What belongs to a rise of the incarnation: this controller may have been
/// restored, and nodes may hold policies that it knows nothing of.
pub(crate) fn leap(fleet: &Fleet, mut events: Vec<Event>) -> Vec<Event> {
    let held = fleet.breakers().published().epoch;
    if held > 0 {
        let signer = fleet.breakers().published().signer;
        events.push(numbered(fleet, held.saturating_add(EPOCH_LEAP), signer));
    }
    events
}

fn numbered(fleet: &Fleet, epoch: u64, signer: Option<KeyId>) -> Event {
    Event::PolicyPublished(PolicyPublished {
        epoch,
        digest: fleet.breakers().digest(),
        signer,
    })
}

/// Gives the policy its next number when these events change what it says.
pub(crate) fn published(fleet: &Fleet, mut events: Vec<Event>, at: &Moment) -> Vec<Event> {
    let mut next = fleet.breakers().clone();
    for event in &events {
        next.take(event, Caller::System, at.now);
    }
    let digest = next.digest();
    let held = next.published();
    if !events.is_empty() && held.digest != Some(digest) {
        events.push(Event::PolicyPublished(PolicyPublished {
            epoch: held.epoch.saturating_add(1),
            digest,
            signer: held.signer,
        }));
    }
    events
}

/// Whether the policy has room for a rule, beside the others or in place of the one
/// of its name.
///
/// # Errors
/// The rejection that says what is full.
pub(crate) fn check_rules(breakers: &Breakers, rule: &Rule) -> Result<(), Rejection> {
    let others = breakers
        .rules
        .values()
        .filter(|known| known.name != rule.name);
    let sizes = others.chain([rule]).map(|rule| message::encode(rule).len());
    let (count, bytes) = sizes.fold((0, 0), |(count, bytes), size| (count + 1, bytes + size));
    let full = |detail: String| Err(Rejection::new(ErrorCode::PolicyFull, detail));
    if count > RULES_COUNT_MAX {
        return full(format!("the policy has {RULES_COUNT_MAX} conditions"));
    }
    if bytes > RULES_BYTES_MAX {
        return full(format!(
            "the policy's conditions would have {bytes} bytes; at most {RULES_BYTES_MAX}"
        ));
    }
    Ok(())
}

/// A reason must be given: it is what the next person reads at three in the
/// morning.
fn reasoned(reason: &str) -> Result<String, Rejection> {
    let reason = reason.trim();
    if reason.is_empty() {
        return Err(Rejection::new(
            ErrorCode::BreakerInvalid,
            "a reason must be given",
        ));
    }
    Ok(cut(reason.to_owned(), REASON_BYTES_MAX))
}

/// Refuses a command that every one of these nodes would refuse: there someone is
/// told at once, not by as many receipts.
pub(crate) fn admit_command(
    fleet: &Fleet,
    action: &Action,
    nodes: &[NodeId],
    at: &Moment,
) -> Result<(), Rejection> {
    if !is_gated(action) {
        return Ok(());
    }
    let attempt = Attempt::Command(action.name());
    let nodes = nodes.iter().filter_map(|id| fleet.node(*id));
    admit(fleet, attempt, nodes.map(AsRef::as_ref), at, |_| false)
}

/// Refuses a change of a deployment, or an update, that every one of these nodes would
/// refuse. One that a breaker waits for, to try itself on, is let through: it is held
/// until probes are named.
pub(crate) fn admit_change<'a>(
    fleet: &Fleet,
    attempt: Attempt<'_>,
    nodes: impl Iterator<Item = &'a Node>,
    at: &Moment,
) -> Result<(), Rejection> {
    let waits = |cell: &Cell| cell.tries_at().is_some_and(|tries_at| tries_at <= at.now);
    admit(fleet, attempt, nodes, at, waits)
}

/// Refuses what every one of these nodes would refuse. Breakers stand aside for
/// groups that are in a state which `yields` says.
fn admit<'a>(
    fleet: &Fleet,
    attempt: Attempt<'_>,
    nodes: impl Iterator<Item = &'a Node>,
    at: &Moment,
    yields: impl Fn(&Cell) -> bool,
) -> Result<(), Rejection> {
    let stops = |known: &Known| {
        known.definition.gated.stops(attempt) && known.open().any(|(_, cell)| !yields(cell))
    };
    if !fleet.breakers().iter().any(|known| stops(known)) {
        return Ok(());
    }
    let mut policy = fleet.breakers().policy(fleet.id());
    policy.gates = fleet.breakers().gates(|cell| !yields(cell));
    // Nodes that the controller reaches have just heard of it.
    let standing = Standing {
        now: at.now,
        heard_at: Some(at.now),
    };
    let mut first = None;
    for node in nodes {
        match policy.admit(node.subject(), attempt, standing) {
            Ok(()) => return Ok(()),
            Err(refusal) => first = first.or(Some(refusal)),
        }
    }
    match first {
        Some(refusal) => {
            let code = refusal.code();
            let when = tries(fleet, &refusal);
            Err(Rejection::new(code, format!("{refusal}; {when}")))
        }
        None => Ok(()),
    }
}

/// When a breaker that refuses will try again, for a person.
fn tries(fleet: &Fleet, refusal: &Refusal) -> String {
    let Refusal::Breaker { breaker, state, .. } = refusal else {
        return "it passes once the controller is heard".to_owned();
    };
    let known = fleet.breakers().get(breaker);
    let cells = known.into_iter().flat_map(|known| known.open());
    let tries_at = cells
        .filter(|(_, cell)| cell.moved.to.name() == *state)
        .filter_map(|(_, cell)| cell.tries_at())
        .max();
    match tries_at {
        Some(at) => format!("it tries again at {at}"),
        None if *state == BreakerState::HalfOpen.name() => "its probes are trying".to_owned(),
        None => "it stays so until someone resets it".to_owned(),
    }
}
