use super::*;
use crate::domain::given::{World, admission, node_id};
use crate::domain::operation::Operation;

const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

fn fleet() -> World {
    let mut world = World::new();
    for n in 1..=3 {
        let site = if n == 3 { "site=paris" } else { "site=lyon" };
        world.node(n, &format!("edge-{n}"), site);
    }
    world
}

fn on(selector: &str) -> Aim {
    Aim::Selector(selector.parse().unwrap())
}

fn named(n: u16) -> Aim {
    Aim::Nodes(BTreeSet::from([node_id(n)]))
}

fn reason() -> String {
    "disk".to_owned()
}

fn cordon_on(nodes: Aim) -> Operation {
    let reason = reason();
    Operation::CordonNodes(CordonNodes { nodes, reason })
}

fn uncordon_on(nodes: Aim) -> Operation {
    let reason = reason();
    Operation::UncordonNodes(UncordonNodes { nodes, reason })
}

fn drain_on(nodes: Aim, within: Duration) -> Operation {
    let reason = reason();
    Operation::DrainNodes(DrainNodes {
        nodes,
        reason,
        within,
    })
}

fn decommission_on(nodes: Aim, how: Leaving) -> Operation {
    let reason = reason();
    Operation::DecommissionNodes(DecommissionNodes { nodes, reason, how })
}

fn end(n: u16, how: DrainOutcome) -> Operation {
    let node = node_id(n);
    Operation::EndDrain(EndDrain { node, how, left: 0 })
}

fn names(events: &[Event]) -> Vec<&'static str> {
    events.iter().map(Event::name).collect()
}

fn shown(world: &World, n: u16) -> &'static str {
    let node = world.fleet.node(node_id(n)).unwrap();
    node.cordon.as_ref().map_or("in service", Cordon::name)
}

#[test]
fn one_record_names_all_nodes_that_were_in_service() {
    let mut world = fleet();
    let admin = world.admin;
    world.done(admin, cordon_on(named(1)));
    let events = world.done(admin, cordon_on(on("site=lyon")));
    let [Event::NodesCordoned(event)] = events.as_slice() else {
        panic!("{events:?}");
    };
    assert_eq!(event.nodes, BTreeSet::from([node_id(2)]));
    assert_eq!(world.done(admin, cordon_on(on("site=lyon"))), []);
    assert_eq!(
        [1, 2, 3].map(|n| shown(&world, n)),
        ["cordoned", "cordoned", "in service"]
    );
    world.done(admin, uncordon_on(on("*")));
    assert_eq!([1, 2, 3].map(|n| shown(&world, n)), ["in service"; 3]);
    assert_eq!(world.done(admin, uncordon_on(on("*"))), []);
}

#[test]
fn nothing_that_is_not_there_is_taken_out_of_service() {
    let mut world = fleet();
    let admin = world.admin;
    let nobody = cordon_on(on("site=nowhere"));
    assert_eq!(world.refused(admin, nobody), "selector.matches_nothing");
    assert_eq!(world.refused(admin, cordon_on(named(9))), "node.not_found");
    world.done(admin, decommission_on(named(1), Leaving::AtOnce));
    assert_eq!(world.refused(admin, cordon_on(named(1))), "node.not_active");
    for within in [Duration::ZERO, WEEK + Duration::from_secs(1)] {
        let asked = drain_on(named(2), within);
        assert_eq!(world.refused(admin, asked), "request.invalid");
    }
    world.done(admin, drain_on(named(2), WEEK));
}

#[test]
fn too_many_at_once_are_refused() {
    let mut world = World::new();
    let count = u16::try_from(NODES_AT_ONCE_MAX).unwrap() + 1;
    let token = world.token(|token| token.uses_max = u32::from(count));
    for n in 1..=count {
        let joins = admission(token, n, &format!("edge-{n}"));
        world.done(Caller::Anonymous, joins);
    }
    let admin = world.admin;
    assert_eq!(world.refused(admin, cordon_on(on("*"))), "limit.reached");
}

#[test]
fn a_drain_ends_once_and_leaves_its_node_cordoned() {
    let mut world = fleet();
    let admin = world.admin;
    world.done(admin, drain_on(named(1), WEEK));
    assert_eq!(shown(&world, 1), "draining");
    let ended = end(1, DrainOutcome::Drained);
    let events = world.done(Caller::System, ended.clone());
    assert_eq!(names(&events), ["node.drain_ended"]);
    assert_eq!(shown(&world, 1), "drained");
    assert_eq!(world.refused(Caller::System, ended), "request.invalid");
    let again = drain_on(named(1), WEEK);
    world.done(admin, again);
    world.done(Caller::System, end(1, DrainOutcome::TimedOut));
    assert_eq!(shown(&world, 1), "drain_timed_out");
}

#[test]
fn a_node_leaves_only_when_a_decommission_drained_it() {
    let mut world = fleet();
    let admin = world.admin;
    let asked = decommission_on(on("site=lyon"), Leaving::Drained(WEEK));
    world.done(admin, asked);
    let events = world.done(Caller::System, end(1, DrainOutcome::Drained));
    assert_eq!(names(&events), ["node.drain_ended", "node.revoked"]);
    assert!(world.fleet.node_named("edge-1").is_none());
    world.node(11, "edge-1", "site=lyon");

    let events = world.done(Caller::System, end(2, DrainOutcome::TimedOut));
    assert_eq!(names(&events), ["node.drain_ended"]);
    assert!(world.fleet.node(node_id(2)).unwrap().is_active());
    world.done(admin, uncordon_on(named(2)));
    let late = end(2, DrainOutcome::Drained);
    assert_eq!(world.refused(Caller::System, late), "request.invalid");
}

#[test]
fn each_step_has_its_permission_on_each_node() {
    let mut world = fleet();
    let ann = world.person("ann", "operator", Some("site=lyon"));
    world.done(ann, cordon_on(on("site=lyon")));
    world.done(ann, drain_on(on("site=lyon"), WEEK));
    world.done(ann, uncordon_on(on("site=lyon")));
    assert_eq!(world.refused(ann, cordon_on(on("*"))), "access.denied");
    let leave = decommission_on(named(1), Leaving::AtOnce);
    assert_eq!(world.refused(ann, leave.clone()), "access.denied");
    let eve = world.person("eve", "viewer", None);
    assert_eq!(world.refused(eve, cordon_on(named(1))), "access.denied");
    assert_eq!(world.refused(eve, uncordon_on(named(1))), "access.denied");
    assert_eq!(
        world.refused(ann, end(1, DrainOutcome::Drained)),
        "access.denied"
    );
    let sam = world.person("sam", "security", None);
    world.done(sam, leave);
}

#[test]
fn a_replacement_is_in_service_whatever_its_predecessor_was() {
    let mut world = fleet();
    let admin = world.admin;
    world.done(admin, cordon_on(named(1)));
    let replace = crate::domain::fleet::manage::ReplaceNode {
        old: node_id(1),
        new: node_id(3),
    };
    world.done(admin, Operation::ReplaceNode(replace));
    assert_eq!(shown(&world, 3), "in service");
}
