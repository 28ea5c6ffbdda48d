//! What the gate lets pass, and that neither time nor restarts open it.

use std::collections::BTreeSet;

use proptest::prelude::*;
use protocol::command::LogSource;
use protocol::condition::Rule;
use protocol::id::DeploymentId;
use protocol::key::SigningKey;
use protocol::policy::{Gated, Override};

use super::*;

const FLEET: FleetId = FleetId::from_bytes([1; 10]);
const NODE: NodeId = NodeId::from_bytes([2; 10]);
const HOUR: u64 = 3_600_000;
/// When the policy was signed, in controller time.
const SIGNED: UnixMillis = UnixMillis(1_800_000_000_000);

fn at(ms: u64) -> Moment {
    Moment {
        tick: Tick(ms),
        wall: UnixMillis(1_700_000_000_000 + ms),
    }
}

fn named(site: &str) -> Named {
    Named {
        name: "web-1".to_owned(),
        labels: Labels::from_pairs([("site".to_owned(), site.to_owned())]).unwrap(),
    }
}

fn stop(state: BreakerState, scope: Scope) -> Stop {
    Stop {
        breaker: "default".to_owned(),
        state,
        since: SIGNED,
        scope,
        gated: Gated {
            deploy: true,
            update: true,
            commands: BTreeSet::from(["run".to_owned(), "service".to_owned()]),
        },
        probes: BTreeSet::new(),
        reason: "3 failures in a row".to_owned(),
    }
}

fn policy(epoch: u64, gates: Vec<Stop>) -> Policy {
    Policy {
        fleet: FLEET,
        epoch,
        issued_at: SIGNED,
        lease_ms: 24 * HOUR,
        gates,
        overrides: Vec::new(),
        rules: Vec::new(),
    }
}

fn gate(policy: Policy) -> Gate {
    let silence = Silence {
        heard_at: SIGNED,
        ..Silence::default()
    };
    Gate::new(NODE, named("lyon"), Some(policy), silence, Tick(0))
}

fn nodes(selector: &str) -> Scope {
    Scope::Nodes(selector.parse().unwrap())
}

#[test]
fn a_breaker_stops_what_it_gates_on_the_nodes_that_it_means() {
    let deploy = Attempt::Deploy(DeploymentId::from_bytes([7; 10]));
    let other = Scope::Deployment(DeploymentId::from_bytes([8; 10]));
    let this = Scope::Deployment(DeploymentId::from_bytes([7; 10]));
    let run = Attempt::Command("run");
    let open = |scope| gate(policy(3, vec![stop(BreakerState::Open, scope)]));
    for (scope, attempt, stopped) in [
        (Scope::Fleet, deploy, true),
        (Scope::Fleet, run, true),
        (Scope::Fleet, Attempt::Update, true),
        (Scope::Fleet, Attempt::Command("reload"), false),
        (Scope::Fleet, Attempt::Exempt, false),
        (nodes("site=lyon"), run, true),
        (nodes("site=paris"), run, false),
        (nodes("name=web-1"), run, true),
        (nodes(&format!("id={NODE}")), run, true),
        (this, deploy, true),
        (other, deploy, false),
    ] {
        let judged = open(scope.clone()).admit(attempt, at(1));
        assert_eq!(judged.is_err(), stopped, "{scope:?} {attempt:?}");
        if let Err(refusal) = judged {
            assert_eq!(refusal.code(), ErrorCode::BreakerOpen);
            assert_eq!(refusal.epoch(), 3);
            assert!(refusal.to_string().contains("breaker default is open"));
        }
    }
    let mut moved = open(nodes("site=paris"));
    assert!(moved.take_named(&named("paris")));
    assert!(!moved.take_named(&named("paris")));
    assert!(moved.admit(run, at(1)).is_err(), "labels came anew");
}

#[test]
fn half_open_lets_pass_its_probes_and_an_override_whom_it_names() {
    let mut probing = stop(BreakerState::HalfOpen, Scope::Fleet);
    let run = Attempt::Command("run");
    assert!(
        gate(policy(1, vec![probing.clone()]))
            .admit(run, at(1))
            .is_err()
    );
    probing.probes.insert(NODE);
    assert_eq!(gate(policy(1, vec![probing])).admit(run, at(1)), Ok(()));

    let mut passed = policy(1, vec![stop(BreakerState::Isolated, Scope::Fleet)]);
    passed.overrides.push(Override {
        breaker: "default".to_owned(),
        nodes: "site=lyon".parse().unwrap(),
        until: SIGNED.after(Duration::from_millis(HOUR)),
        by: "ops".to_owned(),
        reason: "hotfix".to_owned(),
    });
    let gate = gate(passed);
    assert_eq!(gate.admit(run, at(HOUR - 1)), Ok(()));
    assert_eq!(gate.stops(Tick(HOUR - 1)).count(), 0);
    assert!(gate.admit(run, at(HOUR)).is_err());
    assert_eq!(gate.stops(Tick(HOUR)).count(), 1);
}

#[test]
fn commands_that_read_or_stop_are_never_gated() {
    let service = |verb| Action::Service {
        unit: "a.service".to_owned(),
        verb,
    };
    let logs = Action::Logs {
        source: LogSource::File("/var/log/a".to_owned()),
        lines: 1,
        since_ms: 0,
        follow: false,
    };
    for (action, expected) in [
        (Action::Ping, Attempt::Exempt),
        (logs, Attempt::Exempt),
        (service(ServiceVerb::Status), Attempt::Exempt),
        (service(ServiceVerb::Stop), Attempt::Exempt),
        (service(ServiceVerb::Start), Attempt::Command("service")),
        (service(ServiceVerb::Restart), Attempt::Command("service")),
        (Action::Run { argv: Vec::new() }, Attempt::Command("run")),
        (Action::Reload, Attempt::Command("reload")),
    ] {
        assert_eq!(attempt(&action), expected);
    }
}

#[test]
fn the_lease_ends_by_silence_alone_and_the_next_word_renews_it() {
    let mut gate = gate(policy(1, Vec::new()));
    let run = Attempt::Command("run");
    assert_eq!(gate.admit(run, at(24 * HOUR)), Ok(()));
    let refusal = gate.admit(run, at(24 * HOUR + 1_000)).unwrap_err();
    assert_eq!(refusal.code(), ErrorCode::PolicyLease);
    assert_eq!(gate.admit(Attempt::Exempt, at(99 * HOUR)), Ok(()));
    let [(code, _)] = &gate.problems(Tick(25 * HOUR))[..] else {
        panic!("{:?}", gate.problems(Tick(25 * HOUR)));
    };
    assert_eq!(*code, ErrorCode::PolicyLease);
    gate.hear(SIGNED, Tick(26 * HOUR));
    assert_eq!(gate.admit(run, at(50 * HOUR)), Ok(()));
    assert!(gate.admit(run, at(51 * HOUR)).is_err());
}

#[test]
fn a_policy_that_comes_without_a_session_is_a_word_of_when_it_was_signed() {
    let mut gate = Gate::new(NODE, named("lyon"), None, Silence::default(), Tick(0));
    assert_eq!(
        gate.admit(Attempt::Update, at(99 * HOUR)),
        Ok(()),
        "no policy"
    );
    gate.take_policy(policy(1, Vec::new()), Tick(100 * HOUR));
    assert_eq!(gate.admit(Attempt::Update, at(124 * HOUR)), Ok(()));
    assert!(gate.admit(Attempt::Update, at(125 * HOUR)).is_err());
}

#[test]
fn a_policy_on_disk_is_read_back_as_it_was_signed_or_not_at_all() {
    let key = SigningKey::from_seed(&[4; 32]).unwrap();
    let signed = policy(7, Vec::new()).sign(&key);
    let keys = [
        SigningKey::from_seed(&[5; 32]).unwrap().public(),
        key.public(),
    ];
    let (kept, read) = KeptPolicy::check(signed.clone(), &keys, FLEET, 6).unwrap();
    assert_eq!(kept.read().unwrap(), read);
    for (keys, fleet, held, code) in [
        (&keys[..1], FLEET, 6, ErrorCode::PolicyInvalid),
        (
            &keys[..],
            FleetId::from_bytes([9; 10]),
            6,
            ErrorCode::PolicyInvalid,
        ),
        (&keys[..], FLEET, 7, ErrorCode::PolicyStale),
    ] {
        let error = KeptPolicy::check(signed.clone(), keys, fleet, held).unwrap_err();
        assert_eq!(error.code(), code);
    }
    for at in 0..signed.bytes.len() {
        let mut damaged = kept.clone();
        damaged.signed.bytes[at] ^= 1;
        assert!(damaged.read().is_err(), "byte {at}");
    }
}

#[test]
fn a_broken_glass_lets_everything_pass_until_it_ends_by_either_clock() {
    let mut gate = gate(policy(1, vec![stop(BreakerState::Isolated, Scope::Fleet)]));
    let file = BreakGlass {
        reason: "dead controller".to_owned(),
        until: at(HOUR).wall,
    };
    assert!(gate.take_break_glass(Some(file.clone()), at(0)));
    assert!(!gate.take_break_glass(Some(file.clone()), at(5)));
    assert_eq!(gate.admit(Attempt::Update, at(HOUR - 1)), Ok(()));
    assert!(gate.admit(Attempt::Update, at(HOUR)).is_err());
    let clock_set_back = Moment {
        tick: Tick(HOUR),
        wall: at(0).wall,
    };
    assert!(gate.admit(Attempt::Update, clock_set_back).is_err());
    let clock_set_ahead = Moment {
        tick: Tick(0),
        wall: at(HOUR).wall,
    };
    assert!(gate.admit(Attempt::Update, clock_set_ahead).is_err());
    assert!(gate.take_break_glass(None, at(10)));
    assert!(gate.admit(Attempt::Update, at(11)).is_err());
}

#[test]
fn conditions_are_those_that_mean_this_node_and_what_is_not_understood_is_said() {
    let rule = |name: &str, nodes: &str, expression: &str| Rule {
        name: name.to_owned(),
        nodes: nodes.parse().unwrap(),
        expression: expression.to_owned(),
    };
    let mut watching = policy(1, Vec::new());
    watching.rules = vec![
        rule("full", "*", "fs.used > 90%"),
        rule("elsewhere", "site=paris", "nonsense"),
        rule("newer", "site=lyon", "quantum.flux > 3"),
    ];
    let gate = gate(watching);
    let names: Vec<&str> = gate.watched().iter().map(|one| one.rule.as_str()).collect();
    assert_eq!(names, ["full", "newer"]);
    let [(code, detail)] = &gate.problems(Tick(0))[..] else {
        panic!("{:?}", gate.problems(Tick(0)));
    };
    assert_eq!(*code, ErrorCode::ConditionInvalid);
    assert!(detail.contains("\"newer\""), "{detail}");
}

/// What happens to a node that hears nothing.
#[derive(Clone, Debug)]
enum Event {
    /// Time passes, and the silence is kept on disk when that is due.
    Wait(u64),
    /// Stopped by order: what is known is written.
    Stop,
    /// Killed: what was kept last is all there is.
    Kill,
    /// The node's own clock is set, or lost with the power.
    SetClock(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0..8 * HOUR).prop_map(Event::Wait),
        2 => Just(Event::Stop),
        2 => Just(Event::Kill),
        1 => (0..2_000_000_000_000_u64).prop_map(Event::SetClock),
    ]
}

proptest! {
    #[test]
    fn invariant_no_restart_renews_a_lease(
        events in proptest::collection::vec(event(), 1..60),
        lease_h in 1_u64..48,
    ) {
        let mut leased = policy(1, Vec::new());
        leased.lease_ms = lease_h * HOUR;
        let every = keep_every(&leased).unwrap();
        let (mut tick, mut wall, mut silent_ms) = (0_u64, 1_700_000_000_000_u64, 0_u64);
        let mut kept = Silence { heard_at: SIGNED, silent_ms: 0, wall: UnixMillis(wall) };
        let mut kept_at = 0;
        let mut gate = Gate::new(NODE, named("lyon"), Some(leased.clone()), kept, Tick(0));
        let mut shown = UnixMillis(0);
        for event in events {
            let moment = Moment { tick: Tick(tick), wall: UnixMillis(wall) };
            match event {
                Event::Wait(ms) => {
                    let mut left = ms;
                    while left > 0 {
                        // As the store does: a commit of its own when none came.
                        let step = left.min(millis(every) - (tick - kept_at));
                        (tick, wall, silent_ms, left) =
                            (tick + step, wall + step, silent_ms + step, left - step);
                        if tick - kept_at >= millis(every) {
                            let moment = Moment { tick: Tick(tick), wall: UnixMillis(wall) };
                            (kept, kept_at) = (gate.silence(moment), tick);
                        }
                    }
                }
                Event::Stop | Event::Kill => {
                    let clean = matches!(event, Event::Stop);
                    let found = if clean { gate.silence(moment) } else { kept };
                    // Another boot: the monotonic clock begins anywhere.
                    tick /= 3;
                    kept = found.resumed(clean, every, UnixMillis(wall));
                    kept_at = tick;
                    gate = Gate::new(NODE, named("lyon"), Some(leased.clone()), kept, Tick(tick));
                }
                Event::SetClock(to) => wall = to,
            }
            let moment = Moment { tick: Tick(tick), wall: UnixMillis(wall) };
            if silent_ms > leased.lease_ms {
                prop_assert!(gate.admit(Attempt::Update, moment).is_err());
            }
            let now = gate.standing(Tick(tick)).now;
            prop_assert!(now >= shown, "controller time ran back");
            shown = now;
        }
    }
}
