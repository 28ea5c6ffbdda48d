//! Properties of the whole: what must hold after any story.

use proptest::prelude::*;

use super::{Decided, Refusal};
use crate::domain::audit::record::Record;
use crate::domain::fleet::Fleet;
use crate::domain::fleet::manage::{RelabelNode, RenameNode};
use crate::domain::given::story::{Step, request, steps, told};
use crate::domain::given::{FLEET, World, node_id, parsed};
use crate::domain::operation::Operation;

fn replayed(records: &[Record]) -> Fleet {
    let mut fleet = Fleet::new(FLEET);
    for record in records {
        fleet.apply(record);
    }
    fleet
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn invariant_replaying_the_stored_records_gives_the_live_state(story in steps(120)) {
        let world = told(&story);
        let stored: Vec<Record> = world
            .records
            .iter()
            .map(|record| Record::from_bytes(&record.to_bytes().unwrap()).unwrap())
            .collect();
        prop_assert_eq!(replayed(&stored), world.fleet);
    }

    #[test]
    fn invariant_a_snapshot_and_its_tail_give_the_live_state(
        story in steps(120),
        at in any::<proptest::sample::Index>(),
    ) {
        let world = told(&story);
        let (head, tail) = world.records.split_at(at.index(world.records.len()));
        let snapshot = postcard::to_stdvec(&replayed(head)).unwrap();
        let mut fleet: Fleet = postcard::from_bytes(&snapshot).unwrap();
        for record in tail {
            fleet.apply(record);
        }
        prop_assert_eq!(fleet, world.fleet);
    }

    #[test]
    fn invariant_a_decision_can_be_made_again_with_the_same_outcome(story in steps(60)) {
        let mut one = World::new();
        let mut other = World::new();
        for &step in &story {
            let (caller, operation) = request(&one, step);
            let outcome = one.ask(caller, operation.clone());
            prop_assert_eq!(outcome, other.ask(caller, operation));
        }
        prop_assert_eq!(one.fleet, other.fleet);
    }

    #[test]
    fn invariant_asking_for_what_is_so_already_never_adds_up(story in steps(80), last in step()) {
        let mut world = told(&story);
        let (caller, operation) = request(&world, last);
        let is_repeatable = matches!(
            operation,
            Operation::RenameNode(_)
                | Operation::RelabelNode(_)
                | Operation::SuspectIdentity(_)
                | Operation::AdmitNode(_)
                | Operation::PublishTrust(_)
                | Operation::DisablePrincipal(_)
                | Operation::EnablePrincipal(_)
                | Operation::RevokeKey(_)
                | Operation::CancelCommand(_)
        );
        if is_repeatable && world.ask(caller, operation.clone()).is_ok() {
            match world.ask(caller, operation) {
                // Whoever gives up their own access cannot even ask again.
                Err(Refusal::Denied(_)) => {}
                again => prop_assert_eq!(again, Ok(Decided::default())),
            }
        }
    }

    #[test]
    fn invariant_names_of_nodes_that_belong_are_unique_and_lead_to_them(story in steps(120)) {
        let world = told(&story);
        let mut names = std::collections::BTreeSet::new();
        for node in world.fleet.nodes().filter(|node| !node.has_left()) {
            prop_assert!(names.insert(node.name.clone()), "{} twice", node.name);
            prop_assert_eq!(world.fleet.node_named(&node.name).map(|found| found.id), Some(node.id));
        }
    }

    #[test]
    fn invariant_somebody_can_always_administer_access(story in steps(120)) {
        let world = told(&story);
        let access = world.fleet.access();
        let admins = access.grants().filter(|grant| {
            grant.role.as_str() == "admin"
                && grant.on.is_none()
                && access.principal(grant.principal).unwrap().disabled_at.is_none()
                && access.keys().any(|key| {
                    key.principal == grant.principal
                        && key.is_live(world.now)
                        && key.scope.is_none()
                })
        });
        prop_assert!(admins.count() > 0);
    }

    #[test]
    fn invariant_no_token_lets_in_more_than_it_may(story in steps(120)) {
        let world = told(&story);
        for token in world.fleet.tokens() {
            let joined = world.fleet.nodes().filter(|node| node.token == token.id).count();
            prop_assert!(joined <= token.uses_max as usize);
            prop_assert_eq!(joined, token.uses as usize);
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    (0..26_u8, any::<u8>(), any::<u8>())
}

#[test]
fn a_limited_operator_keeps_nodes_where_they_are() {
    let mut world = World::new();
    world.node(1, "l1", "site=lyon");
    let by_site = world.person("ann", "operator", Some("site=lyon"));
    let by_name = world.person("ben", "operator", Some("name=l1"));
    let relabel = |labels: &str| {
        Operation::RelabelNode(RelabelNode {
            node: node_id(1),
            set: parsed(labels),
            remove: std::collections::BTreeSet::new(),
        })
    };
    let rename = |name: &str| {
        Operation::RenameNode(RenameNode {
            node: node_id(1),
            name: name.to_owned(),
        })
    };
    assert_eq!(
        world.refused(by_site, relabel("site=paris")),
        "access.denied"
    );
    assert_eq!(world.refused(by_name, rename("l2")), "access.denied");
    world.done(by_site, relabel("rack=3"));
    world.done(by_name, relabel("site=paris"));
    let admin = world.admin;
    world.done(admin, rename("l2"));
    assert_eq!(world.refused(by_site, rename("l3")), "access.denied");
    let too_many: String = (0..70).map(|n| format!("k{n}=v,")).collect();
    let pairs = too_many.split(',').filter(|pair| !pair.is_empty()).take(60);
    let pairs: Vec<&str> = pairs.collect();
    world.done(admin, relabel(&pairs.join(",")));
    assert!(matches!(
        world.ask(admin, relabel("a=1,b=2,c=3,d=4,e=5")),
        Err(Refusal::Rejected(_))
    ));
}
