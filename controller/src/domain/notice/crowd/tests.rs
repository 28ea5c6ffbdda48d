//! A few are told of one by one, many as one.

use super::*;

fn node(number: usize) -> NodeId {
    let mut bytes = [0; 10];
    bytes[..8].copy_from_slice(&(number as u64).to_be_bytes());
    NodeId::from_bytes(bytes)
}

fn bad(count: usize) -> BTreeMap<NodeId, Severity> {
    (0..count)
        .map(|number| (node(number), Severity::Warning))
        .collect()
}

#[test]
fn an_outage_of_the_whole_fleet_is_one_notice() {
    let mut crowd = Crowd::default();
    let told = crowd.look(&bad(10_000), 10_000);
    assert_eq!(
        told,
        [Told::Many {
            count: 10_000,
            of: 10_000,
            severity: Severity::Critical
        }]
    );
    assert!(crowd.look(&bad(9_000), 10_000).is_empty(), "and no more");
    assert_eq!(crowd.look(&bad(0), 10_000), [Told::Few { count: 0 }]);
    assert!(crowd.look(&bad(0), 10_000).is_empty());
}

#[test]
fn a_few_are_told_of_one_by_one() {
    let mut crowd = Crowd::default();
    let told = crowd.look(&bad(SINGLES_MAX), 100);
    assert_eq!(told.len(), SINGLES_MAX);
    assert!(told.contains(&Told::Node(node(3), Severity::Warning)));
    assert!(crowd.look(&bad(SINGLES_MAX), 100).is_empty(), "once each");
    let told = crowd.look(&bad(SINGLES_MAX - 1), 100);
    assert_eq!(told, [Told::Over(node(SINGLES_MAX - 1))]);
}

#[test]
fn when_it_grows_the_rest_is_told_as_one_and_the_singles_end_by_themselves() {
    let mut crowd = Crowd::default();
    crowd.look(&bad(3), 100);
    let told = crowd.look(&bad(20), 100);
    assert_eq!(
        told,
        [Told::Many {
            count: 20,
            of: 100,
            severity: Severity::Warning
        }]
    );
    let told = crowd.look(&bad(60), 100);
    assert!(
        matches!(
            told[..],
            [Told::Many {
                severity: Severity::Critical,
                ..
            }]
        ),
        "it got worse: {told:?}"
    );
    assert!(crowd.look(&bad(20), 100).is_empty(), "it got better");
    let told = crowd.look(&bad(SINGLES_AGAIN), 100);
    assert_eq!(
        told[0],
        Told::Few {
            count: SINGLES_AGAIN
        }
    );
    assert_eq!(
        told[1..],
        [
            Told::Node(node(3), Severity::Warning),
            Told::Node(node(4), Severity::Warning)
        ],
        "those that were not told of before"
    );
}

#[test]
fn a_fleet_at_the_edge_does_not_go_to_and_fro() {
    let mut crowd = Crowd::default();
    let mut told = 0;
    for round in 0..100 {
        told += crowd.look(&bad(SINGLES_MAX + round % 2), 100).len();
    }
    assert_eq!(told, SINGLES_MAX + 1, "ten singles, and one notice of all");
}

#[test]
fn a_node_that_gets_worse_is_told_of_again() {
    let mut crowd = Crowd::default();
    crowd.look(&bad(1), 100);
    let worse = BTreeMap::from([(node(0), Severity::Critical)]);
    assert_eq!(
        crowd.look(&worse, 100),
        [Told::Node(node(0), Severity::Critical)]
    );
    assert!(crowd.look(&bad(1), 100).is_empty());
}

#[test]
fn what_was_told_before_a_restart_is_not_told_again() {
    let mut before = Crowd::default();
    before.look(&bad(3), 100);
    before.look(&bad(50), 100);
    let mut after = Crowd::resume(bad(3), Some(Severity::Critical));
    assert_eq!(after, before);
    assert!(after.look(&bad(50), 100).is_empty());
    assert_eq!(after.look(&bad(0), 100).len(), 3 + 1);
}
