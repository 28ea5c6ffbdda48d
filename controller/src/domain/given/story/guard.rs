//! Breakers, alert rules and silences in stories.

use super::*;

pub(super) fn breaking(world: &World, a: u8, b: u8) -> (Caller, Operation) {
    let admin = world.admin;
    let breaker = ["fleet", "site"][usize::from(a % 2)].to_owned();
    let group = (a % 4 == 1).then(|| format!("site-{}", a % 5));
    let reason = "by chance".to_owned();
    let by_hand = |to| {
        let asked = MoveBreaker {
            breaker: breaker.clone(),
            group: group.clone(),
            to,
            reason: reason.clone(),
        };
        (admin, Operation::MoveBreaker(asked))
    };
    match b % 9 {
        0 => by_hand(Hand::Trip),
        1 => by_hand(Hand::Isolate),
        2 => by_hand(Hand::Reset),
        3 => {
            let definition = Box::new(by_site());
            (
                admin,
                Operation::DefineBreaker(DefineBreaker { definition }),
            )
        }
        4 => (admin, Operation::RemoveBreaker(RemoveBreaker { breaker })),
        5 => {
            let asked = OverrideBreaker {
                breaker,
                nodes: "site=lyon".parse().unwrap(),
                lifetime: HOUR,
                reason,
            };
            (admin, Operation::OverrideBreaker(asked))
        }
        6 => {
            let number = u64::from(a % 4);
            (admin, Operation::EndOverride(EndOverride { number }))
        }
        7 => {
            let above = u64::from(a);
            (
                Caller::System,
                Operation::RaisePolicy(RaisePolicy {
                    above,
                    signer: KeyId([8; 8]),
                }),
            )
        }
        _ => {
            let group = Group::Fleet;
            let asked = world.fleet.breakers().get(&breaker).and_then(|known| {
                let mut machine = known.machine(&group);
                let later = world.now.after(HOUR);
                let inputs = [
                    Input::Tick,
                    Input::Sample { ok: false },
                    Input::ProbeResult {
                        round: machine.standing().round,
                        ok: a.is_multiple_of(2),
                    },
                ];
                let moves = inputs.map(|input| machine.step(input, later));
                moves.into_iter().flatten().next()
            });
            let transition = asked.unwrap_or_else(|| Transition {
                from: BreakerState::Open,
                to: BreakerState::Closed,
                at: world.now,
                reason: Reason::CooledDown { wait_ms: 1 },
                wait_ms: 0,
                round: u64::from(a),
                strikes: 0,
            });
            let asked = RecordBreaker {
                breaker,
                group,
                transition,
                probes: BTreeSet::new(),
            };
            (Caller::System, Operation::RecordBreaker(asked))
        }
    }
}

/// A breaker of each site that one failure trips.
pub(crate) fn by_site() -> Definition {
    let mut definition = Definition {
        name: "site".to_owned(),
        span: Span::Label("site".to_owned()),
        watches: BTreeSet::from([Signal::Command]),
        ..Definition::fleet()
    };
    definition.rule.trip.consecutive = 1;
    definition.gated.commands = BTreeSet::from(["run".to_owned()]);
    definition
}

/// Everything that can happen to breakers, once.
pub(super) fn guarding(world: &mut World) {
    let admin = world.admin;
    let breaker = "site".to_owned();
    let reason = "a look".to_owned();
    let by_hand = |to| {
        Operation::MoveBreaker(MoveBreaker {
            breaker: "site".to_owned(),
            group: Some("nice".to_owned()),
            to,
            reason: "a look".to_owned(),
        })
    };
    let mut definition = by_site();
    definition
        .watches
        .insert(Signal::Condition("disk".to_owned()));
    for operation in [
        define_rule(disk_full()),
        Operation::DefineBreaker(DefineBreaker {
            definition: Box::new(definition),
        }),
        by_hand(Hand::Trip),
        Operation::OverrideBreaker(OverrideBreaker {
            breaker: breaker.clone(),
            nodes: "site=nice".parse().unwrap(),
            lifetime: HOUR,
            reason,
        }),
        by_hand(Hand::Reset),
    ] {
        world.done(admin, operation);
    }
    let number = world
        .fleet
        .breakers()
        .overrides()
        .map(|(number, _)| number)
        .last();
    let number = number.expect("it was given");
    world.done(admin, Operation::EndOverride(EndOverride { number }));
    world.done(admin, Operation::RemoveBreaker(RemoveBreaker { breaker }));
    world.done(admin, silence("site=nice", Some("disk")));
    world.done(admin, Operation::EndSilence(EndSilence { number: 1 }));
    let rule = "disk".to_owned();
    world.done(admin, Operation::RemoveAlertRule(RemoveAlertRule { rule }));
    let lease = HOUR;
    world.done(admin, Operation::SetLease(SetLease { lease }));
}

pub(super) fn alerting(world: &World, a: u8, b: u8) -> (Caller, Operation) {
    let rule = ["disk", "load"][usize::from(a % 2)].to_owned();
    let operation = match b % 5 {
        0 | 1 => define_rule(AlertRule {
            name: rule,
            nodes: ["*", "site=lyon"][usize::from(b % 2)].parse().unwrap(),
            ..disk_full()
        }),
        2 => Operation::RemoveAlertRule(RemoveAlertRule { rule }),
        3 => silence("site=lyon", None),
        _ => Operation::EndSilence(EndSilence {
            number: u64::from(a % 4),
        }),
    };
    (world.admin, operation)
}

/// A rule that every node watches.
pub(crate) fn disk_full() -> AlertRule {
    AlertRule {
        name: "disk".to_owned(),
        nodes: Selector::every(),
        expression: "fs.used > 90% for 5m".to_owned(),
        severity: Severity::Critical,
        resolve_after_ms: 0,
    }
}

pub(crate) fn define_rule(rule: AlertRule) -> Operation {
    let rule = Box::new(rule);
    Operation::DefineAlertRule(DefineAlertRule { rule })
}

pub(crate) fn silence(nodes: &str, rule: Option<&str>) -> Operation {
    Operation::CreateSilence(CreateSilence {
        nodes: nodes.parse().unwrap(),
        rule: rule.map(str::to_owned),
        lifetime: HOUR,
        reason: "disks are swapped".to_owned(),
    })
}
