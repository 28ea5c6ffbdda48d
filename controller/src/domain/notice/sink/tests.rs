//! Which notices a sink gets, and which sinks there can be.

use protocol::id::NodeId;
use protocol::label::Labels;
use protocol::time::UnixMillis;

use super::*;
use crate::domain::fleet::Fleet;
use crate::domain::given::World;
use crate::domain::notice::NoticeState;
use crate::domain::operation::Operation;

fn sink(name: &str) -> Sink {
    Sink {
        name: name.to_owned(),
        url: "https://chat.example.net/hook?x=1".to_owned(),
        kinds: BTreeSet::new(),
        severity: Severity::Info,
        nodes: Selector::every(),
        secret: "ab".repeat(32),
    }
}

fn notice(kind: NoticeKind, severity: Severity) -> Notice {
    Notice::new(
        UnixMillis(1),
        kind,
        severity,
        NoticeState::Once,
        "k".to_owned(),
    )
}

#[test]
fn routing_goes_by_kind_severity_and_node() {
    let all = sink("all");
    let breakers = Sink {
        kinds: BTreeSet::from([NoticeKind::Breaker]),
        severity: Severity::Warning,
        ..sink("breakers")
    };
    let beats = Sink {
        kinds: BTreeSet::from([NoticeKind::Heartbeat]),
        ..sink("beats")
    };
    let warning = notice(NoticeKind::Breaker, Severity::Warning);
    let info = notice(NoticeKind::Breaker, Severity::Info);
    let node = notice(NoticeKind::Node, Severity::Critical);
    let beat = notice(NoticeKind::Heartbeat, Severity::Info);
    for (sink, taken) in [
        (&all, [true, true, true, false]),
        (&breakers, [true, false, false, false]),
        (&beats, [false, false, false, true]),
    ] {
        let takes = [&warning, &info, &node, &beat].map(|notice| sink.takes(notice, None));
        assert_eq!(takes, taken, "{}", sink.name);
    }
}

#[test]
fn a_selector_holds_back_other_nodes_and_nothing_else() {
    let lyon = Sink {
        nodes: "site=lyon".parse().unwrap(),
        ..sink("lyon")
    };
    let id = NodeId::from_bytes([1; 10]);
    let silent = notice(NoticeKind::Node, Severity::Warning).about(id);
    for (site, taken) in [("lyon", true), ("nice", false)] {
        let labels = Labels::from_pairs([("site".to_owned(), site.to_owned())]).unwrap();
        let subject = Subject {
            id,
            name: "web-1",
            labels: &labels,
        };
        assert_eq!(lyon.takes(&silent, Some(subject)), taken, "{site}");
    }
    let many = notice(NoticeKind::Node, Severity::Critical);
    assert!(lyon.takes(&many, None), "what is about no single node");
}

fn refused(world: &mut World, sink: Sink) -> ErrorCode {
    let asked = Operation::SetSink(SetSink {
        sink: Box::new(sink),
    });
    world.ask(world.admin, asked).unwrap_err().code()
}

#[test]
fn a_sink_that_could_not_work_is_refused() {
    let mut world = World::new();
    let mut odd = Vec::new();
    for name in ["", "Chat", "a b", "../x", &"x".repeat(41)] {
        odd.push(sink(name));
    }
    for url in [
        "",
        "chat.example.net",
        "ftp://chat.example.net",
        "https://x y",
        "https://x\r\nhost: y",
        &format!("https://{}", "x".repeat(URL_BYTES_MAX)),
    ] {
        odd.push(Sink {
            url: url.to_owned(),
            ..sink("chat")
        });
    }
    odd.push(Sink {
        kinds: BTreeSet::from([NoticeKind::Test]),
        ..sink("chat")
    });
    for sink in odd {
        let told = format!("{sink:?}");
        assert_eq!(refused(&mut world, sink), ErrorCode::SinkInvalid, "{told}");
    }
}

#[test]
fn sinks_are_bounded_keep_their_numbers_and_are_removed_by_name() {
    let mut world = World::new();
    let set = |world: &mut World, sink: Sink| {
        let asked = Operation::SetSink(SetSink {
            sink: Box::new(sink),
        });
        world.done(world.admin, asked)
    };
    for number in 0..SINKS_COUNT_MAX {
        set(&mut world, sink(&format!("sink-{number}")));
    }
    assert_eq!(refused(&mut world, sink("more")), ErrorCode::LimitReached);
    let again = Sink {
        severity: Severity::Critical,
        ..sink("sink-3")
    };
    set(&mut world, again.clone());
    assert_eq!(number_of(&world.fleet, "sink-3"), Some(4));
    assert!(set(&mut world, again).is_empty(), "nothing changes");
    let remove = |name: &str| {
        Operation::RemoveSink(RemoveSink {
            sink: name.to_owned(),
        })
    };
    world.done(world.admin, remove("sink-3"));
    let gone = world.ask(world.admin, remove("sink-3")).unwrap_err();
    assert_eq!(gone.code(), ErrorCode::SinkNotFound);
    set(&mut world, sink("sink-3"));
    assert_eq!(
        number_of(&world.fleet, "sink-3"),
        Some(SINKS_COUNT_MAX as u64 + 1),
        "another sink of the name has another number"
    );
}

fn number_of(fleet: &Fleet, name: &str) -> Option<u64> {
    fleet.sinks().get(name).map(|known| known.number)
}
