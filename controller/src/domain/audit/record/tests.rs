//! Given stored bytes, when they are read, then a record, or a clear refusal.

use std::collections::BTreeSet;

use super::{ReadRecordError, Record};
use crate::domain::event::CATALOGUE;
use crate::domain::given::story;

/// One record of every event in its first version, as it has been stored since.
const GOLDEN_1: &str = include_str!("golden-1.jsonl");

#[test]
fn golden_records_of_every_version_are_read_and_written_alike() {
    let mut seen = BTreeSet::new();
    for line in GOLDEN_1.lines() {
        let record = Record::from_bytes(line.as_bytes()).unwrap();
        assert_eq!(
            String::from_utf8(record.to_bytes().unwrap()).unwrap(),
            line,
            "the stored form of {} has changed",
            record.event.name()
        );
        seen.insert((record.event.name(), record.version));
    }
    let known: BTreeSet<(&str, u16)> = CATALOGUE.iter().copied().collect();
    assert_eq!(seen, known);
}

#[test]
fn every_event_reads_back_as_it_was() {
    let world = story::everything();
    let names: BTreeSet<&str> = world
        .records
        .iter()
        .map(|record| record.event.name())
        .collect();
    let known: BTreeSet<&str> = CATALOGUE.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, known, "the story leaves events out");
    for record in &world.records {
        let bytes = record.to_bytes().unwrap();
        assert_eq!(&Record::from_bytes(&bytes).unwrap(), record);
    }
}

#[test]
fn a_newer_event_or_version_is_refused_by_name() {
    let line = GOLDEN_1.lines().next().unwrap();
    let record = Record::from_bytes(line.as_bytes()).unwrap();
    let name = record.event.name();
    let newer_version = line.replace(r#""version":1"#, r#""version":2"#);
    let newer_fields = newer_version.replace(r#""name":"#, r#""title":"#);
    let newer_event = line.replace(name, "shuttle.launched");
    for (text, found, version) in [
        (&newer_version, name, 2),
        (&newer_fields, name, 2),
        (&newer_event, "shuttle.launched", 1),
    ] {
        match Record::from_bytes(text.as_bytes()) {
            Err(ReadRecordError::Newer {
                seq,
                name,
                version: read,
            }) => assert_eq!((seq, name.as_str(), read), (record.seq, found, version)),
            other => panic!("{text}: {other:?}"),
        }
    }
}

#[test]
fn what_is_no_record_is_malformed() {
    let line = GOLDEN_1.lines().next().unwrap();
    for text in [
        "",
        "{}",
        "null",
        line.strip_suffix('}').unwrap(),
        &line.replace(r#""seq":"#, r#""sequence":"#),
        &line.replace(r#""operation":"#, r#""more":1,"operation":"#),
    ] {
        assert!(
            matches!(
                Record::from_bytes(text.as_bytes()),
                Err(ReadRecordError::Malformed(_))
            ),
            "{text}"
        );
    }
}

#[test]
fn no_record_holds_a_secret() {
    // The secrets of the story are 32 equal bytes; as text they would be a run
    // of one of these.
    let world = story::everything();
    for record in &world.records {
        let text = String::from_utf8(record.to_bytes().unwrap()).unwrap();
        for byte in [1_u8, 2, 3, 4, 6] {
            let hex = format!("{byte:02x}").repeat(16);
            let list = vec![byte.to_string(); 16].join(",");
            assert!(!text.contains(&list), "{text}");
            let is_public = matches!(
                record.event.name(),
                "fleet.trust_published" | "command.concluded"
            );
            assert!(is_public || !text.contains(&hex), "{text}");
        }
    }
}
