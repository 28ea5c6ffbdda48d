//! What someone is told of, and what is told once, over restarts and full disks.

use std::collections::BTreeSet;

use protocol::breaker::BreakerState;
use protocol::breaker::machine::{Order, Reason, Transition};

use super::*;
use crate::domain::breaker::definition::{Definition, Group};
use crate::domain::breaker::event::{
    BreakerDefined, BreakerMoved, BreakerOverridden, BreakerRemoved, OverrideEnd, OverrideEnded,
};
use crate::domain::fleet::event::{IdentityResolved, IdentitySuspected, NodeCertified};
use crate::domain::fleet::node::Certificate;
use crate::domain::notice::cause::OwnCertificate;
use crate::domain::notice::sink::{Sink, SinkRemoved, SinkSet};
use crate::domain::notice::{Notice, NoticeKind, Severity};

const DAY: u64 = 86_400;

/// Notices as `state key: title`, from the one after `after` on.
fn told(world: &World, after: u64) -> Vec<String> {
    let notices = world.desk.intake.notices(after, 1000).unwrap();
    notices
        .into_iter()
        .map(|(_, notice)| format!("{} {}: {}", notice.state.name(), notice.key, notice.title))
        .collect()
}

fn last(world: &World) -> u64 {
    world.desk.intake.notice_span().unwrap().1
}

fn newest(world: &World) -> Notice {
    let newest = world.desk.intake.notices_newest(1).unwrap();
    newest.into_iter().next().unwrap().1
}

fn moved(breaker: &str, from: BreakerState, to: BreakerState) -> Event {
    Event::BreakerMoved(BreakerMoved {
        breaker: breaker.to_owned(),
        group: Group::Fleet,
        transition: Transition {
            from,
            to,
            at: START,
            reason: Reason::Tripped(Order {
                by: "ann".to_owned(),
                why: "odd".to_owned(),
            }),
            wait_ms: 1000,
            round: 0,
            strikes: 0,
        },
        probes: BTreeSet::new(),
    })
}

#[test]
fn a_breaker_is_raised_until_it_is_closed() {
    use BreakerState::{Closed, HalfOpen, Isolated, Open};
    let mut world = World::new();
    for (from, to) in [
        (Closed, Open),
        (Open, HalfOpen),
        (HalfOpen, Open),
        (Open, Isolated),
        (Isolated, Closed),
    ] {
        world.record(moved("fleet", from, to));
    }
    let key = "breaker/fleet/*";
    assert_eq!(
        told(&world, 0),
        [
            format!("raised {key}: breaker fleet is open for the whole fleet"),
            format!("once {key}: breaker fleet lets a few try for the whole fleet"),
            format!("once {key}: breaker fleet is open for the whole fleet"),
            format!("once {key}: breaker fleet is isolated for the whole fleet"),
            format!("resolved {key}: breaker fleet closed for the whole fleet"),
        ]
    );
    let notice = newest(&world);
    assert_eq!(notice.severity, Severity::Critical, "as it was raised");
    assert_eq!(notice.facts["to"], "closed");
    assert_eq!(notice.detail, "tripped by ann: odd");
}

#[test]
fn a_breaker_that_is_not_to_be_told_of_is_not() {
    use BreakerState::{Closed, Open};
    let mut world = World::new();
    world.record(moved("fleet", Closed, Open));
    let quiet = Definition {
        notify: false,
        ..Definition::fleet()
    };
    world.record(Event::BreakerDefined(BreakerDefined {
        definition: Box::new(quiet),
    }));
    world.record(moved("fleet", Open, Closed));
    assert_eq!(told(&world, 1).len(), 1, "the end of what was told is told");
    world.record(moved("fleet", Closed, Open));
    world.record(moved("fleet", Open, Closed));
    assert_eq!(last(&world), 2);
}

#[test]
fn an_override_is_raised_until_it_ends_or_its_breaker_goes() {
    let mut world = World::new();
    for number in 1..=3 {
        let breaker = if number == 1 { "fleet" } else { "site" }.to_owned();
        world.record(Event::BreakerOverridden(BreakerOverridden {
            number,
            breaker,
            nodes: "site=lyon".parse().unwrap(),
            until: START.after(Duration::from_secs(60)),
            by: "ann".to_owned(),
            reason: "the fix".to_owned(),
        }));
    }
    let why = OverrideEnd::Expired;
    world.record(Event::OverrideEnded(OverrideEnded { number: 1, why }));
    let breaker = "site".to_owned();
    world.record(Event::BreakerRemoved(BreakerRemoved { breaker }));
    assert_eq!(
        told(&world, 3),
        [
            "resolved override/fleet/1: an override of breaker fleet is over",
            "resolved override/site/2: an override of breaker site is over",
            "resolved override/site/3: an override of breaker site is over",
        ]
    );
}

#[test]
fn a_silent_node_is_told_of_once_and_when_it_has_come_back_for_good() {
    let mut world = World::new();
    let mut node = world.join(1);
    world.join(2);
    world.connect(&mut node);
    world.wait(299);
    assert_eq!(last(&world), 0);
    world.wait(3);
    let key = format!("silence/{}", node.id);
    assert_eq!(
        told(&world, 0),
        [format!("raised {key}: node node-1 is silent")]
    );
    assert_eq!(newest(&world).node, Some(node.id));
    world.wait(600);
    world.restart();
    for _ in 0..60 {
        world.wait(10);
    }
    assert_eq!(last(&world), 1, "once, and never of one that has not begun");
    world.connect(&mut node);
    for _ in 0..5 {
        world.wait(14);
        world.deliver(vec![node.heartbeat(0, world.now)]);
    }
    assert_eq!(last(&world), 1, "not yet for good");
    world.wait(14);
    assert_eq!(
        told(&world, 1),
        [format!(
            "resolved {key}: node node-1 is heard again, or has left"
        )]
    );
}

#[test]
fn a_node_that_comes_and_goes_is_silent_all_the_while() {
    let mut world = World::new();
    let mut node = world.join(1);
    world.connect(&mut node);
    world.wait(400);
    for _ in 0..5 {
        world.connect(&mut node);
        world.wait(400);
    }
    assert_eq!(last(&world), 1);
}

#[test]
fn a_fleet_that_falls_silent_is_one_notice() {
    let mut world = World::new();
    let mut nodes: Vec<Node> = (1..=40).map(|number| world.join(number)).collect();
    for node in &mut nodes {
        world.connect(node);
    }
    world.wait(303);
    assert_eq!(
        told(&world, 0),
        ["raised silence/fleet: 40 of 40 nodes are silent"]
    );
    assert_eq!(newest(&world).severity, Severity::Critical);
    world.restart();
    for _ in 0..40 {
        world.wait(10);
    }
    assert_eq!(last(&world), 1);
    for node in &mut nodes {
        world.connect(node);
    }
    world.wait(3);
    assert_eq!(
        told(&world, 1),
        ["resolved silence/fleet: 0 nodes are still silent"]
    );
}

#[test]
fn a_silent_node_that_leaves_is_resolved() {
    let mut world = World::new();
    let mut node = world.join(1);
    world.connect(&mut node);
    world.wait(303);
    world.record(Event::NodeRevoked(NodeRevoked {
        node: node.id,
        reason: "stolen".to_owned(),
    }));
    world.wait(3);
    assert_eq!(told(&world, 1).len(), 1);
    assert!(told(&world, 1)[0].starts_with("resolved silence/"));
}

#[test]
fn a_doubtful_identity_is_raised_until_someone_resolves_it() {
    let mut world = World::new();
    let node = world.join(1);
    let other = world.join(2);
    for node in [node.id, other.id] {
        world.record(Event::IdentitySuspected(IdentitySuspected {
            node,
            doubt: Doubt::CounterReused,
            detail: "7 was used before".to_owned(),
        }));
    }
    world.record(Event::IdentityResolved(IdentityResolved {
        node: node.id,
        note: "it was the clone".to_owned(),
    }));
    world.record(Event::NodeRevoked(NodeRevoked {
        node: other.id,
        reason: "the clone".to_owned(),
    }));
    let told = told(&world, 0);
    assert_eq!(
        told[0],
        format!(
            "raised identity/{}: the identity of node node-1 is in doubt",
            node.id
        )
    );
    assert!(told[2].starts_with(&format!("resolved identity/{}", node.id)));
    assert!(told[3].starts_with(&format!("resolved identity/{}", other.id)));
}

fn certify(world: &mut World, node: &Node, days: u64) {
    let expires_at = world.now.after(Duration::from_secs(days * DAY));
    world.record(Event::NodeCertified(NodeCertified {
        node: node.id,
        certificate: Certificate {
            serial: "1".to_owned(),
            expires_at,
        },
        authority: None,
    }));
}

#[test]
fn a_certificate_that_should_have_been_renewed_is_told_of_at_start_and_daily() {
    let mut world = World::new();
    let late = world.join(1);
    let fresh = world.join(2);
    certify(&mut world, &late, 23);
    certify(&mut world, &fresh, 90);
    world.wait(3);
    assert_eq!(last(&world), 0, "22.5 days are a quarter of its life");
    world.wait(DAY + 1);
    let key = format!("certificate/node/{}", late.id);
    assert_eq!(told(&world, 0).len(), 1);
    assert!(told(&world, 0)[0].starts_with(&format!(
        "raised {key}: the certificate of node node-1 ends at"
    )));
    assert_eq!(newest(&world).severity, Severity::Warning);
    world.restart();
    world.wait(15 * DAY);
    assert_eq!(newest(&world).severity, Severity::Critical, "it got worse");
    assert_eq!(last(&world), 2);
    certify(&mut world, &late, 90);
    world.wait(3);
    let end = newest(&world);
    assert_eq!((end.key, end.severity), (key, Severity::Critical));
    assert_eq!(last(&world), 3);
}

#[test]
fn the_controllers_own_certificates_are_told_of_until_they_are_gone() {
    let mut world = World::new();
    let own = |name: &str, days: u64, now: UnixMillis| OwnCertificate {
        name: name.to_owned(),
        what: format!("the CA {name}"),
        expires_at: now.after(Duration::from_secs(days * DAY)),
        warn_before: Duration::from_secs(180 * DAY),
    };
    let now = world.now;
    world
        .desk
        .set_certificates(vec![own("old", 100, now), own("new", 1000, now)]);
    world.wait(3);
    assert_eq!(told(&world, 0).len(), 1);
    assert!(told(&world, 0)[0].starts_with("raised certificate/own/old: the CA old ends at"));
    assert_eq!(newest(&world).kind, NoticeKind::Certificate);
    world.desk.set_certificates(vec![own("new", 1000, now)]);
    world.wait(3);
    assert_eq!(
        told(&world, 1),
        ["resolved certificate/own/old: a certificate is not in use any more"]
    );
}

#[test]
fn nothing_is_lost_or_told_twice_over_a_full_disk() {
    use BreakerState::{Closed, Open};
    let mut world = World::new();
    let mut node = world.join(1);
    world.connect(&mut node);
    world.disk.full.store(true, Ordering::Relaxed);
    world.record(moved("fleet", Closed, Open));
    world.wait(303);
    world.disk.full.store(false, Ordering::Relaxed);
    world.wait(1);
    for (record, targets) in world.missed() {
        let output = world
            .desk
            .record(vec![Recorded { record, targets }], world.now);
        world.hear(output);
    }
    world.wait(3);
    world.wait(3);
    let told = told(&world, 0);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(
        told.iter()
            .any(|it| it.starts_with("raised breaker/fleet/*"))
    );
    assert!(told.iter().any(|it| it.starts_with("raised silence/")));
}

fn set(world: &mut World, number: u64) {
    set_for(world, number, BTreeSet::new());
}

pub(super) fn set_for(world: &mut World, number: u64, kinds: BTreeSet<NoticeKind>) {
    world.record(Event::SinkSet(SinkSet {
        number,
        sink: Box::new(Sink {
            name: "chat".to_owned(),
            url: "https://chat.example.net".to_owned(),
            kinds,
            severity: Severity::Info,
            nodes: protocol::selector::Selector::every(),
            secret: String::new(),
        }),
    }));
}

#[test]
fn a_sink_begins_at_now_and_another_of_its_name_anew() {
    use BreakerState::{Closed, Open};
    let mut world = World::new();
    world.record(moved("fleet", Closed, Open));
    set(&mut world, 1);
    let cursor = |world: &World| world.desk.intake.sink("chat").unwrap().map(|it| it.cursor);
    assert_eq!(cursor(&world), Some(1), "not what was before");
    world.record(moved("fleet", Open, Closed));
    set(&mut world, 1);
    assert_eq!(cursor(&world), Some(1), "a change does not move it");
    world.record(Event::SinkRemoved(SinkRemoved {
        number: 1,
        sink: "chat".to_owned(),
    }));
    assert_eq!(cursor(&world), None);
    set(&mut world, 2);
    assert_eq!(cursor(&world), Some(2));
    let stale = crate::domain::notice::delivery::Progress {
        number: 1,
        cursor: 1,
        ..Default::default()
    };
    let batch = Batch {
        sinks: BTreeMap::from([("chat".to_owned(), stale)]),
        ..Batch::default()
    };
    world.desk.intake.commit(&batch).unwrap();
    assert_eq!(
        cursor(&world),
        Some(2),
        "the old one's progress is not taken"
    );
}
