//! Given rules and what nodes say, then what fires and what is told.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use protocol::condition::Crossing;
use protocol::id::{NodeId, StoreId};
use protocol::policy::RULES_COUNT_MAX;
use protocol::time::UnixMillis;

use super::book::{Book, Changes, Key, NODE_COUNT_MAX, Why};
use super::machine::{Alert, FLAP_WINDOW, Phase, TURNS_MAX, Terms};
use super::manage::{CreateSilence, EndSilence, RemoveAlertRule};
use super::rule::AlertRule;
use crate::domain::breaker::RULES_BYTES_MAX;
use crate::domain::breaker::definition::Signal;
use crate::domain::breaker::manage::{DefineBreaker, Hand, MoveBreaker};
use crate::domain::fleet::manage::{RelabelNode, RevokeNode};
use crate::domain::given::story::{by_site, define_rule, disk_full, silence};
use crate::domain::given::{World, node_id, parsed};
use crate::domain::notice::{Notice, NoticeState, Severity};
use crate::domain::operation::Operation;

const STORE: StoreId = StoreId::from_bytes([4; 10]);
const SECOND: Duration = Duration::from_secs(1);

/// A fleet with a rule and two nodes in lyon, and the book of its alerts.
struct Case {
    world: World,
    book: Book,
    /// What is durable, as the desk would have it.
    kept: BTreeMap<Key, Alert>,
    notices: Vec<Notice>,
    turns: Vec<(Phase, Why)>,
    shed: u64,
}

impl Case {
    fn new() -> Self {
        let mut world = World::new();
        world.node(1, "web-1", "site=lyon");
        world.node(2, "web-2", "site=lyon");
        let mut case = Self {
            world,
            book: Book::default(),
            kept: BTreeMap::new(),
            notices: Vec::new(),
            turns: Vec::new(),
            shed: 0,
        };
        case.done(define_rule(disk_full()));
        case
    }

    fn done(&mut self, operation: Operation) {
        let admin = self.world.admin;
        self.world.done(admin, operation);
        self.wait(SECOND);
    }

    /// Time passes.
    fn wait(&mut self, time: Duration) {
        self.world.now = self.world.now.after(time);
        self.book.look(&self.world.fleet, self.world.now);
        self.take();
    }

    fn say(&mut self, node: NodeId, label: &str, holds: bool) {
        self.say_from(STORE, node, label, holds);
    }

    fn say_from(&mut self, store: StoreId, node: NodeId, label: &str, holds: bool) {
        let crossing = Crossing {
            rule: "disk".to_owned(),
            epoch: 1,
            holds,
            label: label.to_owned(),
            value: if holds { "93.0%" } else { "40.0%" }.to_owned(),
            at: self.world.now,
        };
        let now = self.world.now;
        self.book
            .crossed(&self.world.fleet, node, store, &crossing, now);
        self.take();
    }

    fn take(&mut self) {
        let Changes {
            alerts,
            turns,
            notices,
            shed,
        } = self.book.take_changes();
        for (key, alert) in alerts {
            match alert {
                Some(alert) => self.kept.insert(key, alert),
                None => self.kept.remove(&key),
            };
        }
        self.turns
            .extend(turns.into_iter().map(|turn| (turn.to, turn.why)));
        self.notices.extend(notices);
        self.shed += shed;
        let known: BTreeMap<Key, Alert> = self
            .book
            .iter()
            .map(|(key, alert)| (key.clone(), alert.clone()))
            .collect();
        assert_eq!(known, self.kept, "what is judged by is what is durable");
    }

    fn restart(&mut self) {
        self.book = Book::resumed(self.kept.clone());
    }

    /// The notices since the last call.
    fn told(&mut self) -> Vec<NoticeState> {
        let notices = std::mem::take(&mut self.notices);
        notices.into_iter().map(|notice| notice.state).collect()
    }

    fn firing(&self) -> usize {
        self.book
            .iter()
            .filter(|(_, alert)| alert.phase != Phase::Clear)
            .count()
    }
}

use NoticeState::{Once, Raised, Resolved};

#[test]
fn a_condition_that_holds_is_raised_and_one_that_ceases_is_resolved() {
    let mut case = Case::new();
    case.say(node_id(1), "/var", true);
    let notice = case.notices.first().cloned().unwrap();
    assert_eq!(notice.title, "disk fires on web-1 /var: 93.0%");
    assert_eq!(notice.severity, Severity::Critical);
    assert_eq!(notice.node, Some(node_id(1)));
    assert_eq!(case.told(), [Raised]);
    case.say(node_id(1), "/var", true);
    assert_eq!(case.told(), [], "the same word again");
    case.say(node_id(1), "/var", false);
    let resolved = case.notices.first().cloned().unwrap();
    assert_eq!(resolved.key, notice.key);
    assert_eq!(resolved.title, "disk is resolved on web-1 /var: 40.0%");
    assert_eq!(case.told(), [Resolved]);
    assert_eq!(
        case.turns,
        [(Phase::Firing, Why::Node), (Phase::Clear, Why::Node)]
    );
    case.wait(FLAP_WINDOW);
    assert_eq!(case.kept.len(), 0, "nothing of it is remembered");
}

#[test]
fn nodes_and_labels_are_alerts_of_their_own() {
    let mut case = Case::new();
    case.say(node_id(1), "/var", true);
    case.say(node_id(1), "/", true);
    case.say(node_id(2), "/var", true);
    assert_eq!(case.told(), [Raised, Raised, Raised]);
    case.say(node_id(1), "/var", false);
    assert_eq!(case.told(), [Resolved]);
    assert_eq!(case.firing(), 2);
}

#[test]
fn an_alert_is_resolved_once_its_condition_has_ceased_for_as_long_as_asked() {
    let mut case = Case::new();
    case.done(define_rule(AlertRule {
        resolve_after_ms: 60_000,
        ..disk_full()
    }));
    case.say(node_id(1), "/", true);
    case.say(node_id(1), "/", false);
    case.wait(59 * SECOND);
    assert_eq!(case.told(), [Raised]);
    case.say(node_id(1), "/", true);
    case.wait(60 * SECOND);
    assert_eq!(case.told(), [], "it never was over");
    case.say(node_id(1), "/", false);
    case.wait(60 * SECOND);
    assert_eq!(case.told(), [Resolved]);
}

#[test]
fn an_alert_that_comes_and_goes_is_told_as_flapping_once_and_rests() {
    for holds_at_rest in [true, false] {
        let mut case = Case::new();
        for _ in 0..20 {
            case.say(node_id(1), "/", true);
            case.wait(SECOND);
            case.say(node_id(1), "/", false);
            case.wait(SECOND);
        }
        let told = case.told();
        assert_eq!(told.len(), TURNS_MAX + 1);
        assert_eq!(
            told.last(),
            Some(&Raised),
            "flapping, after it was resolved"
        );
        assert_eq!(case.firing(), 1);
        case.say(node_id(1), "/", holds_at_rest);
        case.wait(FLAP_WINDOW - 3 * SECOND);
        assert_eq!(case.told(), [], "not quiet for long enough");
        case.wait(4 * SECOND);
        let expected = if holds_at_rest { Once } else { Resolved };
        assert_eq!(case.told(), [expected]);
    }
}

#[test]
fn a_flapping_alert_that_was_raised_is_told_without_being_raised_again() {
    let mut case = Case::new();
    case.done(define_rule(AlertRule {
        resolve_after_ms: 1_000,
        ..disk_full()
    }));
    case.say(node_id(1), "/", true);
    case.wait(FLAP_WINDOW);
    for _ in 0..6 {
        case.say(node_id(1), "/", false);
        case.wait(SECOND);
        case.say(node_id(1), "/", true);
        case.wait(80 * SECOND);
    }
    let told = case.told();
    assert_eq!(told.last(), Some(&Once));
    assert_eq!(case.firing(), 1);
}

#[test]
fn a_silenced_alert_is_not_raised_until_the_silence_is_over() {
    let mut case = Case::new();
    case.done(silence("site=lyon", Some("disk")));
    case.say(node_id(1), "/", true);
    case.wait(SECOND);
    assert_eq!(case.told(), []);
    assert_eq!(case.firing(), 1, "it is listed");
    case.wait(2 * 3600 * SECOND);
    assert_eq!(case.told(), [Raised], "its time is over");
    case.done(silence("*", None));
    case.say(node_id(1), "/", false);
    assert_eq!(
        case.told(),
        [Resolved],
        "what was raised is resolved all the same"
    );
    case.say(node_id(1), "/", true);
    assert_eq!(case.told(), []);
    case.done(Operation::EndSilence(EndSilence { number: 2 }));
    assert_eq!(case.told(), [Raised], "it was ended by hand");
}

#[test]
fn a_silence_is_for_its_nodes_and_its_rule() {
    let mut case = Case::new();
    case.done(define_rule(AlertRule {
        name: "load".to_owned(),
        expression: "load.1m > 4".to_owned(),
        ..disk_full()
    }));
    case.done(silence("name=web-2", None));
    case.done(silence("name=web-1", Some("load")));
    case.say(node_id(1), "/", true);
    case.say(node_id(2), "/", true);
    assert_eq!(case.told(), [Raised]);
    let alerts = case.world.fleet.alerts();
    let subject = |n| case.world.fleet.node(node_id(n)).unwrap().subject();
    let by = |rule, n| alerts.silenced_by(rule, subject(n), case.world.now);
    assert_eq!(by("disk", 1), None);
    assert_eq!(by("load", 1), Some(2));
    assert_eq!(by("disk", 2), Some(1));
}

#[test]
fn alerts_of_a_removed_rule_are_resolved_and_come_back_with_it() {
    let mut case = Case::new();
    case.say(node_id(1), "/", true);
    let rule = "disk".to_owned();
    case.done(Operation::RemoveAlertRule(RemoveAlertRule { rule }));
    assert_eq!(case.told(), [Raised, Resolved]);
    assert_eq!(case.turns.last(), Some(&(Phase::Clear, Why::RuleRemoved)));
    // The node was away all the time: it goes on from what it told, and says nothing.
    case.done(define_rule(disk_full()));
    assert_eq!(case.told(), [Raised]);
    // Another node saw the removal.
    case.say(node_id(1), "/", false);
    assert_eq!(case.told(), [Resolved]);
}

#[test]
fn a_rule_that_changes_keeps_what_fires_until_the_node_has_judged_by_it() {
    let mut case = Case::new();
    case.say(node_id(1), "/", true);
    case.done(define_rule(AlertRule {
        expression: "fs.used > 99%".to_owned(),
        ..disk_full()
    }));
    assert_eq!(case.told(), [Raised]);
    assert_eq!(case.firing(), 1);
    case.say(node_id(1), "/", false);
    assert_eq!(case.told(), [Resolved]);
}

#[test]
fn an_alert_that_is_said_to_be_graver_is_raised_anew() {
    let mut case = Case::new();
    let of = |severity| {
        define_rule(AlertRule {
            severity,
            ..disk_full()
        })
    };
    case.done(of(Severity::Info));
    case.say(node_id(1), "/", true);
    case.told();
    case.done(of(Severity::Critical));
    let grades: Vec<Severity> = case.notices.iter().map(|it| it.severity).collect();
    assert_eq!(grades, [Severity::Critical]);
    assert_eq!(case.told(), [Raised]);
    case.wait(SECOND);
    assert_eq!(case.told(), []);
}

#[test]
fn a_node_that_the_rule_does_not_mean_has_no_alert() {
    let mut case = Case::new();
    case.done(define_rule(AlertRule {
        nodes: "site=lyon".parse().unwrap(),
        ..disk_full()
    }));
    case.say(node_id(1), "/", true);
    let relabel = |labels: &str| {
        Operation::RelabelNode(RelabelNode {
            node: node_id(1),
            set: parsed(labels),
            remove: std::collections::BTreeSet::new(),
        })
    };
    case.done(relabel("site=paris"));
    assert_eq!(case.told(), [Raised, Resolved]);
    assert_eq!(case.turns.last(), Some(&(Phase::Clear, Why::NotMeant)));
    case.done(relabel("site=lyon"));
    assert_eq!(case.told(), [Raised], "the node's word stands");
}

#[test]
fn a_node_that_leaves_takes_its_alerts_along() {
    let mut case = Case::new();
    case.say(node_id(1), "/", true);
    case.done(Operation::RevokeNode(RevokeNode {
        node: node_id(1),
        reason: "stolen".to_owned(),
    }));
    assert_eq!(case.told(), [Raised, Resolved]);
    assert_eq!(case.turns.last(), Some(&(Phase::Clear, Why::NodeLeft)));
    assert_eq!(case.kept.len(), 0);
}

#[test]
fn a_node_with_another_store_begins_anew() {
    let mut case = Case::new();
    case.say(node_id(1), "/", true);
    case.say(node_id(2), "/", true);
    assert_eq!(case.told(), [Raised, Raised]);
    let now = case.world.now;
    case.book.greeted(&case.world.fleet, node_id(1), STORE, now);
    case.take();
    assert_eq!(case.told(), [], "the same store");
    let other = StoreId::from_bytes([5; 10]);
    case.book.greeted(&case.world.fleet, node_id(1), other, now);
    case.take();
    assert_eq!(case.told(), [Resolved]);
    assert_eq!(case.turns.last(), Some(&(Phase::Clear, Why::StoreReplaced)));
    case.say_from(other, node_id(1), "/", true);
    assert_eq!(case.told(), [Raised]);
    assert_eq!(case.firing(), 2);
}

#[test]
fn a_restart_tells_nothing_twice_and_forgets_nothing() {
    let mut case = Case::new();
    case.say(node_id(1), "/", true);
    case.say(node_id(2), "/", true);
    case.told();
    case.restart();
    case.wait(SECOND);
    assert_eq!(case.told(), []);
    assert_eq!(case.firing(), 2);
    case.say(node_id(1), "/", false);
    assert_eq!(case.told(), [Resolved]);
}

#[test]
fn a_restart_goes_on_waiting_for_what_has_ceased() {
    let mut case = Case::new();
    case.done(define_rule(AlertRule {
        resolve_after_ms: 60_000,
        ..disk_full()
    }));
    case.say(node_id(1), "/", true);
    case.say(node_id(1), "/", false);
    case.restart();
    case.wait(61 * SECOND);
    assert_eq!(case.told(), [Raised, Resolved]);
}

#[test]
fn a_node_has_so_many_alerts_and_no_more() {
    let mut case = Case::new();
    for n in 0..NODE_COUNT_MAX {
        case.say(node_id(1), &format!("/{n}"), true);
    }
    case.say(node_id(1), "/more", true);
    assert_eq!((case.firing(), case.shed), (NODE_COUNT_MAX, 1));
    case.say(node_id(1), "/more", false);
    case.say(node_id(2), "/", true);
    assert_eq!(case.shed, 1, "another node has room of its own");
    // What is clear makes room.
    case.say(node_id(1), "/0", false);
    case.say(node_id(1), "/more", true);
    assert_eq!((case.firing(), case.shed), (NODE_COUNT_MAX + 1, 1));
    assert_eq!(case.kept.len(), NODE_COUNT_MAX + 1);
}

#[test]
fn expressions_are_read_when_a_rule_is_defined() {
    let mut world = World::new();
    let admin = world.admin;
    let rule = AlertRule {
        expression: "fs.used  >  90 %".to_owned(),
        ..disk_full()
    };
    world.done(admin, define_rule(rule));
    let kept = &world.fleet.alerts().rule("disk").unwrap().rule;
    assert_eq!(kept.expression, "fs.used > 90%");
    for documented in [
        "cpu.busy > 90% for 10m",
        "mem.available < 512 MiB",
        "net.rx.errors > 10/s for 1m",
        "absent(fs.used{/data})",
    ] {
        assert!(AlertRule::expression(documented).is_ok(), "{documented}");
    }
    let bad = AlertRule {
        expression: "fs.used > 90 bananas".to_owned(),
        ..disk_full()
    };
    let refused = AlertRule::expression(&bad.expression).unwrap_err();
    assert!(refused.detail.contains("character 14"), "{refused}");
    assert_eq!(world.refused(admin, define_rule(bad)), "condition.invalid");
    for wrong in [
        AlertRule {
            name: "Disk Full".to_owned(),
            ..disk_full()
        },
        AlertRule {
            resolve_after_ms: 25 * 3600 * 1000,
            ..disk_full()
        },
    ] {
        assert_eq!(
            world.refused(admin, define_rule(wrong)),
            "alert.rule_invalid"
        );
    }
}

#[test]
fn a_rule_is_in_the_policy_under_a_number_of_its_own() {
    let mut world = World::new();
    let admin = world.admin;
    let epoch = |world: &World| world.fleet.breakers().published().epoch;
    world.done(admin, define_rule(disk_full()));
    let first = epoch(&world);
    let policy = world.fleet.breakers().policy(world.fleet.id());
    assert_eq!(policy.rules, [disk_full().watched()]);
    world.done(admin, define_rule(disk_full()));
    assert_eq!(epoch(&world), first, "nothing changed");
    let milder = AlertRule {
        severity: Severity::Info,
        ..disk_full()
    };
    world.done(admin, define_rule(milder));
    assert_eq!(epoch(&world), first, "nodes need not know how bad it is");
    let rule = "disk".to_owned();
    world.done(admin, Operation::RemoveAlertRule(RemoveAlertRule { rule }));
    assert_eq!(epoch(&world), first + 1);
    let gone = Operation::RemoveAlertRule(RemoveAlertRule {
        rule: "disk".to_owned(),
    });
    assert_eq!(world.refused(admin, gone), "alert.rule_not_found");
}

#[test]
fn a_full_policy_takes_no_more_rules_and_still_every_trip() {
    let mut world = World::new();
    let admin = world.admin;
    let long = format!("site in ({})", vec!["x".repeat(60); 8].join(","));
    let wide = |n: usize| AlertRule {
        name: format!("rule-{n}"),
        nodes: long.parse().unwrap(),
        ..disk_full()
    };
    let mut count = 0;
    let full = loop {
        match world.ask(admin, define_rule(wide(count))) {
            Ok(_) => count += 1,
            Err(refusal) => break refusal,
        }
    };
    assert_eq!(full.code().text(), "policy.full");
    assert!(count < RULES_COUNT_MAX);
    assert!(world.fleet.breakers().rules_bytes() <= RULES_BYTES_MAX);
    // Changing one in place is no more.
    world.done(
        admin,
        define_rule(AlertRule {
            expression: "fs.used > 95% for 5m".to_owned(),
            ..wide(0)
        }),
    );
    world.done(
        admin,
        Operation::MoveBreaker(MoveBreaker {
            breaker: "fleet".to_owned(),
            group: None,
            to: Hand::Trip,
            reason: "it smells".to_owned(),
        }),
    );
    let policy = world.fleet.breakers().policy(world.fleet.id());
    assert_eq!(policy.check(), Ok(()));
    assert_eq!(policy.gates.len(), 1);
}

#[test]
fn the_policy_has_so_many_rules_and_no_more() {
    let mut world = World::new();
    let admin = world.admin;
    let small = |n: usize| AlertRule {
        name: format!("r{n}"),
        ..disk_full()
    };
    for n in 0..RULES_COUNT_MAX {
        world.done(admin, define_rule(small(n)));
    }
    let more = define_rule(small(RULES_COUNT_MAX));
    assert_eq!(world.refused(admin, more), "policy.full");
}

#[test]
fn a_rule_that_a_breaker_watches_stays() {
    let mut world = World::new();
    let admin = world.admin;
    let mut watching = by_site();
    watching
        .watches
        .insert(Signal::Condition("disk".to_owned()));
    let define = |definition| {
        Operation::DefineBreaker(DefineBreaker {
            definition: Box::new(definition),
        })
    };
    assert_eq!(
        world.refused(admin, define(watching.clone())),
        "breaker.invalid",
        "it would wait for a condition that nobody watches"
    );
    world.done(admin, define_rule(disk_full()));
    world.done(admin, define(watching));
    let remove = || {
        Operation::RemoveAlertRule(RemoveAlertRule {
            rule: "disk".to_owned(),
        })
    };
    assert_eq!(world.refused(admin, remove()), "alert.rule_in_use");
    world.done(admin, define(by_site()));
    world.done(admin, remove());
}

#[test]
fn silences_have_a_reason_an_end_and_a_number() {
    let mut world = World::new();
    let admin = world.admin;
    let asked = |change: fn(&mut CreateSilence)| {
        let mut asked = CreateSilence {
            nodes: "*".parse().unwrap(),
            rule: None,
            lifetime: SECOND,
            reason: "disks are swapped".to_owned(),
        };
        change(&mut asked);
        Operation::CreateSilence(asked)
    };
    for wrong in [
        asked(|it| it.reason = " ".to_owned()),
        asked(|it| it.lifetime = Duration::ZERO),
        asked(|it| it.lifetime = Duration::from_secs(31 * 24 * 3600)),
    ] {
        assert_eq!(world.refused(admin, wrong), "alert.silence_invalid");
    }
    let unknown = asked(|it| it.rule = Some("nothing".to_owned()));
    assert_eq!(world.refused(admin, unknown), "alert.rule_not_found");
    for _ in 0..super::SILENCES_COUNT_MAX {
        world.done(admin, silence("*", None));
    }
    assert_eq!(world.refused(admin, silence("*", None)), "limit.reached");
    world.now = world.now.after(Duration::from_secs(7200));
    world.done(admin, silence("*", None));
    let live: Vec<u64> = world
        .fleet
        .alerts()
        .silences(world.now)
        .map(|(number, _)| number)
        .collect();
    assert_eq!(live, [super::SILENCES_COUNT_MAX as u64 + 1]);
    let end = |number| Operation::EndSilence(EndSilence { number });
    assert_eq!(world.refused(admin, end(1)), "alert.silence_not_found");
    world.done(admin, end(live[0]));
    assert_eq!(world.fleet.alerts().silences(world.now).count(), 0);
}

#[test]
fn a_grant_on_some_nodes_silences_these_alone() {
    let mut world = World::new();
    world.node(1, "web-1", "site=lyon");
    world.node(2, "db-1", "site=paris");
    let local = world.person("ann", "operator", Some("site=lyon"));
    assert_eq!(world.refused(local, silence("*", None)), "access.denied");
    world.done(local, silence("site=lyon", None));
    let viewer = world.person("ben", "viewer", None);
    let end = || Operation::EndSilence(EndSilence { number: 1 });
    assert_eq!(world.refused(viewer, end()), "access.denied");
    assert_eq!(
        world.refused(local, define_rule(disk_full())),
        "access.denied"
    );
    world.done(local, end());
}

/// What a node says next, and how many seconds later.
fn words() -> impl Strategy<Value = Vec<(bool, u64)>> {
    let pause = prop_oneof![0..30_u64, 30..2000_u64];
    proptest::collection::vec((any::<bool>(), pause), 1..200)
}

/// The notices of one alert that hears these words, with their times.
fn notices(words: &[(bool, u64)], resolve_after: u64) -> (Alert, Vec<(UnixMillis, NoticeState)>) {
    let terms = Terms {
        watched: true,
        resolve_after: Duration::from_secs(resolve_after),
        silenced: false,
    };
    let mut now = UnixMillis(1_000_000);
    let mut alert = Alert::new(STORE, Severity::Warning, now);
    let mut told = Vec::new();
    for (holds, pause) in words {
        for _ in 0..*pause / 10 {
            now = now.after(10 * SECOND);
            told.extend(alert.step(terms, now, now).notice.map(|it| (now, it)));
        }
        alert.hear(*holds, String::new(), now);
        told.extend(alert.step(terms, now, now).notice.map(|it| (now, it)));
    }
    (alert, told)
}

proptest! {
    #[test]
    fn invariant_an_alert_makes_so_many_notices_within_any_window(
        words in words(), resolve_after in 0..900_u64,
    ) {
        let (_, told) = notices(&words, resolve_after);
        for (index, (from, _)) in told.iter().enumerate() {
            let within = told[index..]
                .iter()
                .filter(|(at, _)| at.since(*from) < FLAP_WINDOW);
            prop_assert!(within.count() <= TURNS_MAX + 2);
        }
    }

    #[test]
    fn invariant_what_is_raised_is_resolved_or_still_fires(
        words in words(), resolve_after in 0..900_u64,
    ) {
        let (alert, told) = notices(&words, resolve_after);
        let mut raised = false;
        for (_, state) in told {
            match state {
                Raised => prop_assert!(!raised, "raised twice"),
                Resolved | Once => prop_assert!(raised, "{state:?} without being raised"),
            }
            raised = state != Resolved;
        }
        prop_assert_eq!(raised, alert.phase != Phase::Clear);
        prop_assert_eq!(alert.told, alert.phase);
    }

    #[test]
    fn invariant_a_quiet_alert_stands_where_the_node_says(
        words in words(), resolve_after in 0..900_u64,
    ) {
        let (mut alert, _) = notices(&words, resolve_after);
        let terms = Terms {
            watched: true,
            resolve_after: Duration::from_secs(resolve_after),
            silenced: false,
        };
        let later = UnixMillis(u64::MAX / 2);
        alert.step(terms, later, later);
        let expected = if alert.holds { Phase::Firing } else { Phase::Clear };
        prop_assert_eq!(alert.phase, expected);
    }
}
