//! Pacing and ends of commands, without a store or nodes.

use proptest::prelude::*;
use protocol::command::Action;

use super::*;

const START: UnixMillis = UnixMillis(1_000_000);
const GRACE: Duration = Duration::from_secs(35);

fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 10])
}

fn id(number: u8) -> CommandId {
    CommandId::from_bytes([number; 10])
}

fn row(number: u8, concurrency_max: Option<u32>, rate_per_min: Option<u32>) -> StoredCommand {
    StoredCommand {
        seq: u64::from(number),
        command: Command {
            id: id(number),
            issued_at: START,
            start_by: START.after(Duration::from_secs(600)),
            run_timeout_ms: 10_000,
            output_bytes_max: 0,
            issued_by: String::new(),
            action: Action::Ping,
        },
        concurrency_max,
        rate_per_min,
        target_count: 0,
        cancelled: false,
        closed: false,
    }
}

fn opened(row: StoredCommand, nodes: u8) -> Dispatch {
    let mut dispatch = Dispatch::default();
    let targets = (1..=nodes).map(|number| (node(number), TargetState::Waiting));
    dispatch.open(row.command.id, row, targets, START);
    for number in 1..=nodes {
        dispatch.online(node(number));
    }
    dispatch
}

#[test]
fn only_connected_nodes_are_released() {
    let mut dispatch = Dispatch::default();
    let targets = [1, 2].map(|number| (node(number), TargetState::Waiting));
    dispatch.open(id(1), row(1, None, None), targets, START);
    assert!(dispatch.release(START, |_, _| true).is_empty());
    dispatch.online(node(2));
    assert!(
        dispatch.release(START, |_, _| false).is_empty(),
        "it went away in between"
    );
    assert!(
        dispatch.release(START, |_, _| true).is_empty(),
        "it is asked again when it is heard"
    );
    dispatch.online(node(2));
    assert_eq!(dispatch.release(START, |_, _| true), [(id(1), node(2))]);
    assert!(dispatch.release(START, |_, _| true).is_empty());
}

#[test]
fn a_rate_is_kept_over_a_minute_whatever_the_calls() {
    let mut dispatch = opened(row(1, None, Some(30)), 200);
    let mut released = 0;
    for step in 0..600 {
        let now = START.after(Duration::from_millis(step * 100));
        released += dispatch.release(now, |_, _| true).len();
    }
    assert!((30..=31).contains(&released), "{released}");
}

#[test]
fn an_idle_minute_earns_no_burst() {
    let mut dispatch = opened(row(1, None, Some(30)), 200);
    assert_eq!(dispatch.release(START, |_, _| true).len(), 1);
    let later = START.after(Duration::from_secs(300));
    assert_eq!(dispatch.release(later, |_, _| true).len(), 1);
}

#[test]
fn one_call_moves_a_bounded_number_of_targets() {
    let mut dispatch = Dispatch::default();
    let many = |count: u32| {
        (0..count).map(|number| {
            let mut bytes = [0; 10];
            bytes[..4].copy_from_slice(&number.to_be_bytes());
            (NodeId::from_bytes(bytes), TargetState::Waiting)
        })
    };
    dispatch.open(id(1), row(1, None, None), many(2500), START);
    for (node, _) in many(2500) {
        dispatch.online(node);
    }
    let sizes: Vec<usize> = (0..4)
        .map(|_| dispatch.release(START, |_, _| true).len())
        .collect();
    assert_eq!(sizes, [1000, 1000, 500, 0]);
}

#[test]
fn a_conclusion_is_asked_for_until_the_journal_has_it() {
    let mut dispatch = opened(row(1, None, None), 1);
    assert!(dispatch.concluded(START).is_empty());
    assert_eq!(
        dispatch.settle(id(1), node(1), Ended::Succeeded),
        Settled::Now
    );
    assert_eq!(
        dispatch.settle(id(1), node(1), Ended::Refused),
        Settled::NotOpen
    );
    assert_eq!(dispatch.concluded(START), [id(1)]);
    assert!(dispatch.concluded(START).is_empty());
    assert_eq!(dispatch.concluded(START.after(CONCLUDE_AGAIN)), [id(1)]);
    dispatch.close(id(1));
    assert!(dispatch.concluded(START.after(GRACE)).is_empty());
}

#[test]
fn a_command_to_nobody_concludes_at_once() {
    let mut dispatch = opened(row(1, None, None), 0);
    assert_eq!(dispatch.concluded(START), [id(1)]);
}

/// What may happen to a command.
#[derive(Clone, Debug)]
enum Step {
    Online(u8),
    Release { away: bool },
    Answer(u8),
    Pass(u64),
    Cancel,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1..12_u8).prop_map(Step::Online),
        any::<bool>().prop_map(|away| Step::Release { away }),
        (1..12_u8).prop_map(Step::Answer),
        (1..200_u64).prop_map(Step::Pass),
        Just(Step::Cancel),
    ]
}

proptest! {
    #[test]
    fn invariant_every_target_ends_once_and_concurrency_holds(
        steps in prop::collection::vec(step(), 0..80),
        concurrency in prop::option::of(1..5_u32),
        rate in prop::option::of(1..500_u32),
    ) {
        let mut dispatch = Dispatch::default();
        let targets = (1..12_u8).map(|number| (node(number), TargetState::Waiting));
        dispatch.open(id(1), row(1, concurrency, rate), targets, START);
        let mut now = START;
        let mut ended = BTreeSet::new();
        let mut end = |dispatch: &mut Dispatch, node: NodeId, how: Ended| {
            if dispatch.settle(id(1), node, how) == Settled::Now {
                assert!(ended.insert(node), "ended twice");
            }
        };
        for step in steps {
            match step {
                Step::Online(number) => dispatch.online(node(number)),
                Step::Release { away } => { dispatch.release(now, |_, _| !away); }
                Step::Answer(number) => end(&mut dispatch, node(number), Ended::Succeeded),
                Step::Pass(seconds) => now = now.after(Duration::from_secs(seconds)),
                Step::Cancel => if let Some(run) = dispatch.run_mut(id(1)) {
                    run.row.cancelled = true;
                },
            }
            for overdue in dispatch.overdue(now, GRACE, |_| false) {
                end(&mut dispatch, overdue.node, overdue.ended);
            }
            let status = dispatch.run(id(1)).unwrap().status();
            prop_assert!(concurrency.is_none_or(|max| status.sent <= max));
            let total = u64::from(status.waiting) + u64::from(status.sent) + status.ended.total();
            prop_assert_eq!(total, 11);
        }
        // In the end time passes, and everything ends.
        now = now.after(Duration::from_secs(10_000));
        for overdue in dispatch.overdue(now, GRACE, |_| false) {
            end(&mut dispatch, overdue.node, overdue.ended);
        }
        prop_assert_eq!(dispatch.run(id(1)).unwrap().counts().total(), 11);
        prop_assert_eq!(ended.len(), 11);
        prop_assert!(dispatch.open_of.is_empty());
    }
}
