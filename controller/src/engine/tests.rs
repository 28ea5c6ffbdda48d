//! Given the engine on a journal, when requests come in, then.

mod faults;
mod running;

use protocol::id::{RequestId, TokenId};
use protocol::time::UnixMillis;

use super::state::{REQUESTS_MAX, Requests, SNAPSHOT_VERSION, State};
use super::writer::{Ask, Submission, Writer};
use super::{Applied, SubmitError};
use crate::domain::access::authorize::Denial;
use crate::domain::access::caller::Caller;
use crate::domain::access::key::SecretDigest;
use crate::domain::access::manage::{CreatePrincipal, RecoverAdmin};
use crate::domain::access::principal::PrincipalKind;
use crate::domain::audit::denial::{Keep, RECORDED_PER_WINDOW_MAX, WINDOW};
use crate::domain::event::Event;
use crate::domain::fleet::token::RevokeToken;
use crate::domain::given::{START, admission, key_in, order, principal_of, run, story};
use crate::domain::moment::Moment;
use crate::domain::operation::Operation;
use crate::journal::disk::Disk;

fn at(millis: u64) -> Moment {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&millis.to_be_bytes());
    Moment::new(UnixMillis(START.0 + millis), seed)
}

fn request(n: u8) -> RequestId {
    RequestId::from_bytes([n; 10])
}

fn asks(caller: Caller, request: Option<RequestId>, operation: Operation) -> Submission {
    Submission {
        caller,
        request,
        ask: Ask::Operation(operation),
    }
}

fn person(name: &str) -> Operation {
    Operation::CreatePrincipal(CreatePrincipal {
        name: name.to_owned(),
        kind: PrincipalKind::Person,
    })
}

fn recovery() -> Operation {
    Operation::RecoverAdmin(RecoverAdmin {
        name: "root".to_owned(),
        secret: SecretDigest::of(&[1; 32]),
        lifetime: None,
    })
}

/// A writer on a new journal, and its admin.
fn writer(disk: &Disk) -> (Writer, Caller) {
    let mut writer = Writer::open(disk.create()).unwrap();
    let applied = one(&mut writer, asks(Caller::Host, None, recovery()), &at(0)).unwrap();
    (writer, key_in(&applied.events))
}

fn one(writer: &mut Writer, submission: Submission, at: &Moment) -> Result<Applied, SubmitError> {
    writer.commit(&[submission], at).remove(0)
}

fn reopened(disk: &Disk, writer: Writer) -> Writer {
    drop(writer);
    Writer::open(disk.open()).unwrap()
}

#[test]
fn requests_that_wait_together_are_one_transaction_in_their_order() {
    let disk = Disk::default();
    let (mut writer, admin) = writer(&disk);
    let commits = || std::sync::atomic::Ordering::Relaxed;
    let before = writer.gauges.commits.load(commits());
    let batch: Vec<Submission> = ["a", "b", "a", "c"]
        .into_iter()
        .map(|name| asks(admin, None, person(name)))
        .collect();
    let answers = writer.commit(&batch, &at(1));
    let codes: Vec<_> = answers
        .iter()
        .map(|answer| {
            answer
                .as_ref()
                .map(|applied| applied.seq)
                .map_err(SubmitError::code)
        })
        .collect();
    let seq = writer.head().seq;
    assert_eq!(
        codes,
        [
            Ok(seq - 3),
            Ok(seq - 2),
            Err(protocol::ErrorCode::PrincipalExists),
            Ok(seq)
        ]
    );
    assert_eq!(writer.gauges.commits.load(commits()), before + 1);
    let ids: std::collections::BTreeSet<_> = writer
        .fleet()
        .access()
        .principals()
        .map(|known| known.id)
        .collect();
    assert_eq!(ids.len(), 4, "each request of a batch draws its own ids");
}

#[test]
fn asking_again_gets_the_first_answer_also_after_a_restart() {
    let disk = Disk::default();
    let (mut writer, admin) = writer(&disk);
    let ask = |name: &str| asks(admin, Some(request(1)), person(name));
    let first = one(&mut writer, ask("ann"), &at(1)).unwrap();
    assert!(!first.replayed);
    let stands = writer.head();
    let again = one(&mut writer, ask("ann"), &at(2)).unwrap();
    assert_eq!((again.seq, &again.events), (first.seq, &first.events));
    assert!(again.replayed);
    let mut writer = reopened(&disk, writer);
    let later = one(&mut writer, ask("ann"), &at(3)).unwrap();
    assert_eq!(later, again);
    assert_eq!(writer.head(), stands, "nothing was written");
}

#[test]
fn a_retry_in_the_same_batch_or_by_another_key_is_a_retry() {
    let disk = Disk::default();
    let (mut writer, admin) = writer(&disk);
    let (id, _) = principal_of(admin);
    let ask = asks(admin, Some(request(1)), person("ann"));
    let answers = writer.commit(&[ask.clone(), ask.clone()], &at(1));
    let [Ok(first), Ok(second)] = &answers[..] else {
        panic!("{answers:?}");
    };
    assert_eq!((first.seq, &first.events), (second.seq, &second.events));
    assert!(second.replayed);
    let by_another_key = Submission {
        caller: Caller::Principal {
            id,
            key: protocol::id::ApiKeyId::from_bytes([9; 10]),
        },
        ..ask
    };
    assert!(one(&mut writer, by_another_key, &at(2)).unwrap().replayed);
}

#[test]
fn a_request_id_stands_for_one_request_of_one_caller() {
    let disk = Disk::default();
    let (mut writer, admin) = writer(&disk);
    one(
        &mut writer,
        asks(admin, Some(request(1)), person("ann")),
        &at(1),
    )
    .unwrap();
    let other = asks(
        admin,
        Some(request(1)),
        Operation::IssueCommand(order("*", run())),
    );
    let error = one(&mut writer, other.clone(), &at(2)).unwrap_err();
    assert_eq!(error.code().text(), "request.conflict");
    let both = [
        asks(admin, Some(request(2)), person("ben")),
        Submission {
            request: Some(request(2)),
            ..other
        },
    ];
    let answers = writer.commit(&both, &at(3));
    assert_eq!(
        answers[1].as_ref().unwrap_err().code().text(),
        "request.conflict"
    );
    let host = asks(Caller::Host, Some(request(1)), recovery());
    assert!(!one(&mut writer, host, &at(4)).unwrap().replayed);
}

#[test]
fn refusals_are_recorded_and_are_answers_too() {
    let disk = Disk::default();
    let (mut writer, admin) = writer(&disk);
    let stranger = Caller::Node(protocol::id::NodeId::from_bytes([8; 10]));
    let denied = asks(stranger, Some(request(1)), person("eve"));
    let rejected = asks(
        admin,
        Some(request(2)),
        Operation::RevokeToken(RevokeToken {
            token: TokenId::NIL,
        }),
    );
    let answers = writer.commit(&[denied.clone(), rejected.clone()], &at(1));
    let texts: Vec<String> = answers
        .into_iter()
        .map(|answer| format!("{:?}", answer.unwrap_err()))
        .collect();
    let records = writer.reader().read_back(writer.head().seq + 1, 2).unwrap();
    let names: Vec<(&str, Caller)> = records
        .iter()
        .map(|stored| (stored.record.event.name(), stored.record.by))
        .collect();
    assert_eq!(
        names,
        [("request.rejected", admin), ("request.denied", stranger)]
    );
    let mut writer = reopened(&disk, writer);
    let stands = writer.head();
    let again: Vec<String> = writer
        .commit(&[denied, rejected], &at(2))
        .into_iter()
        .map(|answer| format!("{:?}", answer.unwrap_err()))
        .collect();
    assert_eq!(again, texts);
    assert_eq!(writer.head(), stands);
}

#[test]
fn the_journal_does_not_grow_with_anonymous_requests() {
    let disk = Disk::default();
    let (mut writer, _) = writer(&disk);
    let stands = writer.head().seq;
    let join = asks(
        Caller::Anonymous,
        Some(request(1)),
        admission(TokenId::NIL, 1, "x"),
    );
    let batch = vec![join; 1_000];
    for round in 0..10 {
        for answer in writer.commit(&batch, &at(round)) {
            assert_eq!(answer.unwrap_err().code().text(), "token.unknown");
        }
    }
    assert_eq!(writer.head().seq, stands);
    let minute = u64::try_from(WINDOW.as_millis()).unwrap();
    writer.commit(&[], &at(minute));
    let last = writer.reader().read(stands + 1, 10).unwrap();
    assert_eq!(last.len(), 1);
    let Event::DenialsCounted(counted) = &last[0].record.event else {
        panic!("{last:?}");
    };
    assert_eq!(
        (counted.caller, counted.count),
        (Some(Caller::Anonymous), 10_000)
    );
}

/// A million requests in ten minutes of simulated time, looked at every second as
/// the engine's task does.
#[test]
fn a_million_anonymous_denials_are_one_record_a_minute_and_none_is_lost() {
    let disk = Disk::default();
    let (mut writer, _) = writer(&disk);
    let stands = writer.head().seq;
    let a_second: u64 = 1_000_000 / 600;
    for second in 0..600 {
        let now = at(second * 1_000);
        let count = a_second + u64::from(second < 1_000_000 - a_second * 600);
        for _ in 0..count {
            assert_eq!(writer.note_denial(&Caller::Anonymous, now.now), Keep::Count);
        }
        writer.commit(&[], &now);
        let minutes = second / 60 + 1;
        assert!(writer.head().seq <= stands + minutes, "second {second}");
    }
    writer.finish(&at(600_000)).unwrap();
    let counted: Vec<u64> = writer
        .reader()
        .read(stands + 1, 100)
        .unwrap()
        .into_iter()
        .filter_map(|stored| {
            if let Event::DenialsCounted(counted) = stored.record.event {
                assert_eq!(counted.caller, Some(Caller::Anonymous));
                Some(counted.count)
            } else {
                None
            }
        })
        .collect();
    assert!(counted.len() <= 11, "{counted:?}");
    assert_eq!(counted.iter().sum::<u64>(), 1_000_000);
}

#[test]
fn anonymous_callers_do_not_get_each_others_answers() {
    let disk = Disk::default();
    let (mut writer, admin) = writer(&disk);
    let token = Operation::CreateToken(crate::domain::fleet::token::CreateToken {
        secret: SecretDigest::of(&[2; 32]),
        labels: protocol::label::Labels::new(),
        lifetime: crate::domain::given::HOUR,
        uses_max: 5,
        approval: crate::domain::fleet::token::Approval::Automatic,
        replaces: None,
    });
    let made = one(&mut writer, asks(admin, None, token), &at(1)).unwrap();
    let [Event::TokenCreated(token)] = &made.events[..] else {
        panic!("{made:?}");
    };
    for n in 1..=2 {
        let join = admission(token.token, n, "edge");
        let joined = one(
            &mut writer,
            asks(Caller::Anonymous, Some(request(1)), join),
            &at(2),
        )
        .unwrap();
        assert!(!joined.replayed);
        assert!(
            writer
                .fleet()
                .node(crate::domain::given::node_id(n))
                .is_some()
        );
    }
}

#[test]
fn a_callers_refusals_beyond_a_rate_are_counted() {
    let disk = Disk::default();
    let (mut writer, _) = writer(&disk);
    let stands = writer.head().seq;
    let node = Caller::Node(protocol::id::NodeId::from_bytes([8; 10]));
    for n in 0..500 {
        one(&mut writer, asks(node, None, person("eve")), &at(n)).unwrap_err();
    }
    let recorded = u64::from(RECORDED_PER_WINDOW_MAX);
    assert_eq!(writer.head().seq, stands + recorded);
    writer.finish(&at(600)).unwrap();
    let last = writer.reader().read_back(u64::MAX, 1).unwrap();
    assert!(last.is_empty() || last[0].record.seq <= writer.head().seq);
    let last = writer.reader().read(stands + recorded + 1, 1).unwrap();
    assert!(
        matches!(&last[0].record.event, Event::DenialsCounted(counted) if counted.count == 500 - recorded),
        "{last:?}"
    );
}

#[test]
fn a_denial_from_the_edge_is_recorded_as_it_was() {
    let disk = Disk::default();
    let (mut writer, admin) = writer(&disk);
    let denial = Denial {
        code: protocol::ErrorCode::AccessDenied,
        reason: "no grant gives audit:read".to_owned(),
        nodes: Vec::new(),
        node_count: 0,
    };
    let submission = Submission {
        caller: admin,
        request: None,
        ask: Ask::Denied {
            operation: "audit.tail".to_owned(),
            denial: denial.clone(),
        },
    };
    let answer = one(&mut writer, submission, &at(1)).unwrap_err();
    assert!(matches!(answer, SubmitError::Denied(found) if found == denial));
    let head = writer.head().seq;
    let record = writer.reader().read(head, 1).unwrap().remove(0).record;
    assert_eq!(
        (record.by, record.operation.as_str()),
        (admin, "audit.tail")
    );
}

#[test]
fn the_targets_of_a_command_are_written_with_it() {
    let disk = Disk::default();
    let world = story::everything();
    let mut journal = disk.create();
    journal
        .append(
            0,
            &crate::journal::Batch {
                records: &world.records,
                ..Default::default()
            },
        )
        .unwrap();
    let mut writer = Writer::open(journal).unwrap();
    assert_eq!(**writer.fleet(), world.fleet);
    let mut asked = order("*", protocol::command::Action::Ping);
    asked.empty = crate::domain::command::issue::EmptyAim::Allow;
    let applied = one(
        &mut writer,
        asks(world.admin, None, Operation::IssueCommand(asked)),
        &at(1_000_000),
    )
    .unwrap();
    let Event::CommandIssued(issued) = &applied.events[0] else {
        panic!("{applied:?}");
    };
    let targets = writer.reader().targets(issued.command, 0, 100).unwrap();
    let active: Vec<_> = world
        .fleet
        .nodes()
        .filter(|node| node.is_active())
        .map(|node| node.id)
        .collect();
    assert!(!active.is_empty());
    assert_eq!(targets, active);
}

#[test]
fn uses_of_keys_are_written_along_and_those_of_gone_keys_forgotten() {
    let disk = Disk::default();
    let (mut writer, admin) = writer(&disk);
    let (_, key) = principal_of(admin);
    let gone = protocol::id::ApiKeyId::from_bytes([9; 10]);
    for (key, now) in [(key, 5), (key, 9), (key, 7), (gone, 5)] {
        super::lock(&writer.key_uses).note(key, UnixMillis(now));
    }
    one(&mut writer, asks(admin, None, person("ann")), &at(1)).unwrap();
    let writer = reopened(&disk, writer);
    let uses = super::lock(&writer.key_uses);
    assert_eq!(uses.last(key), Some(UnixMillis(9)));
    assert_eq!(uses.last(gone), None);
}

#[test]
fn a_start_reads_the_snapshot_and_the_tail() {
    let disk = Disk::default();
    let (mut writer, admin) = writer(&disk);
    for name in ["a", "b", "c"] {
        one(&mut writer, asks(admin, None, person(name)), &at(1)).unwrap();
    }
    let taken = writer.state().snapshot(writer.head()).unwrap();
    writer.offer(taken);
    one(
        &mut writer,
        asks(admin, Some(request(1)), person("d")),
        &at(2),
    )
    .unwrap();
    let live = writer.state().clone();
    let used = writer.reader().snapshot(SNAPSHOT_VERSION).unwrap().unwrap();
    assert_eq!(used.seq + 1, writer.head().seq);
    let writer = reopened(&disk, writer);
    assert_eq!(*writer.state(), live);

    // The same again, without the snapshot: version 0 was never written.
    assert_eq!(writer.reader().snapshot(0).unwrap(), None);
    let mut full = State {
        fleet: std::sync::Arc::new(crate::domain::fleet::Fleet::new(writer.reader().fleet())),
        requests: Requests::default(),
    };
    full.follow(writer.reader(), &mut writer.reader().genesis())
        .unwrap();
    assert_eq!(full, live);
}

#[test]
fn the_snapshots_encoding_is_the_one_of_its_version() {
    let world = story::everything();
    let state = State {
        fleet: std::sync::Arc::new(world.fleet),
        requests: Requests::default(),
    };
    let bytes = postcard::to_stdvec(&state).unwrap();
    let sum = crate::domain::digest::Digest::of("snapshot encoding", &[&bytes]);
    // When this fails because a type of the state has changed, raise
    // SNAPSHOT_VERSION and put the new digest here.
    assert_eq!(
        (SNAPSHOT_VERSION, sum.to_string().as_str()),
        (5, include_str!("tests/snapshot-5.sha256").trim())
    );
}

#[test]
fn remembered_requests_are_bounded() {
    let mut requests = Requests::default();
    let mut record = story::everything().records[0].clone();
    let id = |n: usize| {
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&(n as u64).to_be_bytes());
        RequestId::from_bytes(bytes)
    };
    for n in 0..REQUESTS_MAX + 10 {
        record.seq = n as u64 + 1;
        record.request = Some(id(n));
        requests.note(&record);
    }
    assert!(requests.get(record.by, id(9)).is_none());
    assert!(requests.get(record.by, id(10)).is_some());
}
