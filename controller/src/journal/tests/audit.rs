//! Exports, and what verification finds in one that was tampered with.

use std::collections::BTreeSet;

use proptest::prelude::*;
use protocol::key::SigningKey;
use protocol::time::UnixMillis;
use protocol::trust::TrustSet;

use crate::domain::audit::record::Record;
use crate::domain::digest::Digest;
use crate::domain::event::Event;
use crate::domain::fleet::event::TrustPublished;
use crate::domain::fleet::trust::signed_text;
use crate::domain::given::FLEET;
use crate::journal::disk::{Disk, key};
use crate::journal::tests::{head, of, records};
use crate::journal::verify::{Broken, Summary, verify};
use crate::journal::{Journal, JournalReader};

const NOW: UnixMillis = UnixMillis(1_900_000_000_000);

/// A journal of fifty records with a checkpoint after every ten.
fn journal() -> Journal {
    let disk = Disk::default();
    let mut journal = disk.create().with_checkpoint_every(10);
    journal.append(0, &of(&records()[..50])).unwrap();
    journal
}

fn exported(reader: &JournalReader, from: u64) -> Vec<u8> {
    let mut out = Vec::new();
    reader.export(from, NOW, &mut out).unwrap();
    out
}

fn lines(export: &[u8]) -> Vec<String> {
    let text = std::str::from_utf8(export).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn checked(lines: &[String]) -> Result<Summary, Broken> {
    let text = lines.join("\n") + "\n";
    verify(text.as_bytes(), &[key().public()])
}

/// Where the line of a record stands.
fn line_of(lines: &[String], seq: u64) -> usize {
    let mark = format!(r#""seq":{seq},"at""#);
    lines
        .iter()
        .position(|line| line.starts_with(r#"{"hash""#) && line.contains(&mark))
        .unwrap()
}

#[test]
fn a_whole_export_is_sound() {
    let journal = journal();
    let export = exported(&journal.reader(), 1);
    let summary = verify(&export[..], &[key().public()]).unwrap();
    assert_eq!(
        summary,
        Summary {
            fleet: FLEET,
            from: 1,
            last: 50,
            hash: head(&journal).hash,
            checkpoints: 5,
            sealed_at: NOW,
        }
    );
}

#[test]
fn an_empty_journal_and_a_tail_are_sound_too() {
    let empty = Disk::default().create();
    let summary = verify(&exported(&empty.reader(), 1)[..], &[key().public()]).unwrap();
    assert_eq!((summary.from, summary.last), (1, 0));
    let journal = journal();
    for (from, first) in [(20, 20), (50, 50), (51, 51), (99, 51), (0, 1)] {
        let export = exported(&journal.reader(), from);
        let summary = verify(&export[..], &[key().public()]).unwrap();
        assert_eq!((summary.from, summary.last), (first, 50));
    }
}

#[test]
fn the_first_bad_record_is_named() {
    let whole = lines(&exported(&journal().reader(), 1));
    let at = |seq| line_of(&whole, seq);

    let mut changed = whole.clone();
    changed[at(17)] = changed[at(17)].replace(r#""operation":""#, r#""operation":"x"#);
    assert!(matches!(
        checked(&changed),
        Err(Broken::Changed { seq: 17 })
    ));

    let mut removed = whole.clone();
    removed.remove(at(23));
    assert!(matches!(
        checked(&removed),
        Err(Broken::Removed { seq: 23, found: 24 })
    ));

    let mut reordered = whole.clone();
    reordered.swap(at(31), at(32));
    assert!(matches!(
        checked(&reordered),
        Err(Broken::Reordered { seq: 31, found: 32 })
    ));

    let mut repeated = whole.clone();
    repeated.insert(at(12), whole[at(5)].clone());
    assert!(matches!(
        checked(&repeated),
        Err(Broken::Reordered { seq: 12, found: 5 })
    ));

    let mut renumbered = whole.clone();
    renumbered[at(7)] = renumbered[at(7)].replace(r#""seq":7,"#, r#""seq":8,"#);
    assert!(matches!(
        checked(&renumbered),
        Err(Broken::Changed { seq: 7 })
    ));
}

#[test]
fn a_truncated_export_is_found_wherever_it_was_cut() {
    let whole = lines(&exported(&journal().reader(), 1));
    for length in 1..whole.len() {
        let error = checked(&whole[..length]).unwrap_err();
        assert!(
            matches!(error, Broken::Truncated { .. }),
            "{length}: {error}"
        );
        assert_eq!(error.code().text(), "journal.broken");
    }
    assert!(matches!(checked(&[]), Err(Broken::NoHeader)));

    // The end is kept, and what stands before it was cut.
    let mut shortened = whole.clone();
    shortened.drain(line_of(&whole, 41)..whole.len() - 1);
    assert!(matches!(
        checked(&shortened),
        Err(Broken::Truncated { after: 40 })
    ));
}

#[test]
fn the_beginning_cannot_be_cut_off() {
    let journal = journal();
    let whole = lines(&exported(&journal.reader(), 1));
    let tail = lines(&exported(&journal.reader(), 20));
    let mut forged = vec![tail[0].clone()];
    forged.extend_from_slice(&whole[line_of(&whole, 20)..]);
    assert!(matches!(
        checked(&forged),
        Err(Broken::Signature { seq: 50 })
    ));
}

#[test]
fn a_chain_that_was_made_anew_lacks_the_signature() {
    let forger = SigningKey::from_seed(&[6; 32]).unwrap();
    let mut forged = Journal::create_on(
        Disk::default().medium(),
        FLEET,
        std::sync::Arc::new(forger),
        crate::domain::given::START,
    )
    .unwrap()
    .with_checkpoint_every(10);
    let mut changed = records()[..50].to_vec();
    changed[4].operation = "nothing.happened".to_owned();
    forged.append(0, &of(&changed)).unwrap();
    let export = lines(&exported(&forged.reader(), 1));
    assert!(matches!(
        checked(&export),
        Err(Broken::UnknownKey { seq: 10, .. })
    ));
    // With the true checkpoints and seal instead, these do not fit.
    let truth = lines(&exported(&journal().reader(), 1));
    let mixed: Vec<String> = export
        .iter()
        .zip(&truth)
        .map(|(forged, truth)| {
            let is_record = forged.starts_with(r#"{"hash""#);
            if is_record { forged } else { truth }.clone()
        })
        .collect();
    assert!(matches!(
        checked(&mixed),
        Err(Broken::Signature { seq: 10 })
    ));
}

#[test]
fn lines_after_the_end_and_newer_formats_are_refused() {
    let whole = lines(&exported(&journal().reader(), 1));
    let mut longer = whole.clone();
    longer.push(whole[1].clone());
    assert!(matches!(checked(&longer), Err(Broken::Trailing { .. })));
    let mut newer = whole.clone();
    newer[0] = newer[0].replace(r#""journal":1"#, r#""journal":2"#);
    let error = checked(&newer).unwrap_err();
    assert_eq!(error.code().text(), "store.newer");
    let mut strange = whole;
    strange[3] = "{}".to_owned();
    assert!(matches!(
        checked(&strange),
        Err(Broken::Malformed { line: 4, seq: 3 })
    ));
}

#[test]
fn a_key_that_no_record_introduced_is_refused() {
    let journal = journal();
    let reader = journal.reader();
    let next = SigningKey::from_seed(&[8; 32]).unwrap();
    let next_public = next.public();
    reader.set_key(std::sync::Arc::new(next));
    let export = exported(&reader, 1);
    verify(&export[..], &[key().public(), next_public]).unwrap();
    for alone in [key().public(), next_public] {
        assert!(matches!(
            verify(&export[..], &[alone]),
            Err(Broken::UnknownKey { .. })
        ));
    }
}

fn root() -> SigningKey {
    SigningKey::from_seed(&[40; 32]).unwrap()
}

/// The key that signs from the nth rotation on.
fn signer(n: u8) -> SigningKey {
    SigningKey::from_seed(&[41 + n; 32]).unwrap()
}

/// A record that puts a set in force with these keys.
fn published(seq: u64, keys: &[&SigningKey], by: &SigningKey) -> Record {
    let set = TrustSet {
        fleet: FLEET,
        version: seq,
        issued_at: NOW,
        controller_keys: keys.iter().map(|key| key.public()).collect(),
        authorities: Vec::new(),
        release_keys: Vec::new(),
    };
    let mut record = records()[0].clone();
    record.seq = seq;
    record.event = Event::TrustPublished(TrustPublished {
        version: seq,
        digest: Digest([0; 32]),
        controller_keys: set.controller_keys.iter().copied().collect(),
        authorities: BTreeSet::new(),
        signed: signed_text(&set.sign(by)),
    });
    record.version = record.event.version();
    record
}

/// A journal over two rotations, with checkpoints of each key.
fn rotated(by: &SigningKey) -> Journal {
    let disk = Disk::default();
    let mut journal = disk.create().with_checkpoint_every(2);
    let mut seq = 0;
    let mut append = |journal: &mut Journal, record: Record| {
        journal.append(seq, &of(&[record])).unwrap();
        seq += 1;
    };
    for n in 0..3 {
        journal.reader().set_key(std::sync::Arc::new(signer(n)));
        let (old, next) = (signer(n), signer(n + 1));
        let keys: &[&SigningKey] = if n < 2 { &[&old, &next] } else { &[&old] };
        append(&mut journal, published(u64::from(n) * 3 + 1, keys, by));
        for more in 2..=3 {
            let mut plain = records()[0].clone();
            plain.seq = u64::from(n) * 3 + more;
            append(&mut journal, plain);
        }
    }
    journal
}

#[test]
fn over_rotations_any_key_of_the_controllers_or_the_roots_is_enough() {
    let export = exported(&rotated(&root()).reader(), 1);
    for n in 0..3 {
        let summary = verify(&export[..], &[signer(n).public()]).unwrap();
        assert_eq!(summary.last, 9, "key {n}");
    }
    verify(&export[..], &[root().public()]).unwrap();
    for stranger in [signer(7).public(), key().public()] {
        assert!(matches!(
            verify(&export[..], &[stranger]),
            Err(Broken::UnknownKey { .. })
        ));
    }

    // What another root signed counts for nothing.
    let foreign = exported(&rotated(&signer(8)).reader(), 1);
    assert!(matches!(
        verify(&foreign[..], &[root().public()]),
        Err(Broken::UnknownKey { .. })
    ));

    // The first bad record is named whatever key is given.
    for n in 0..3 {
        let mut tampered = lines(&export);
        let line = line_of(&tampered, 5);
        tampered[line] = tampered[line].replacen(r#""seq":5,"at":1"#, r#""seq":5,"at":2"#, 1);
        let text = tampered.join("\n") + "\n";
        assert!(matches!(
            verify(text.as_bytes(), &[signer(n).public()]),
            Err(Broken::Changed { seq: 5 })
        ));
    }
}

#[test]
fn who_rewrites_the_trail_from_a_record_on_cannot_introduce_a_key() {
    let disk = Disk::default();
    let mut journal = disk.create().with_checkpoint_every(2);
    journal.reader().set_key(std::sync::Arc::new(signer(0)));
    let first = published(1, &[&signer(0)], &root());
    let mut plain = records()[0].clone();
    plain.seq = 2;
    journal.append(0, &of(&[first, plain])).unwrap();
    // The forger has the file, and a key of his own.
    let forger = signer(9);
    journal.reader().set_key(std::sync::Arc::new(signer(9)));
    let forged = published(3, &[&signer(0), &forger], &forger);
    journal.append(2, &of(&[forged])).unwrap();
    let export = exported(&journal.reader(), 1);
    for believed in [signer(0).public(), root().public()] {
        match verify(&export[..], &[believed]) {
            Err(Broken::UnknownKey { seq: 3, key }) => {
                assert_eq!(key, forger.public().id().to_string());
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn checkpoints_are_signed_on_demand_and_once() {
    let disk = Disk::default();
    let mut journal = disk.create();
    journal.checkpoint(NOW).unwrap();
    assert_eq!(journal.reader().last_checkpoint().unwrap(), None);
    journal.append(0, &of(&records()[..3])).unwrap();
    for _ in 0..2 {
        journal.checkpoint(NOW).unwrap();
        let last = journal.reader().last_checkpoint().unwrap().unwrap();
        assert_eq!((last.seq, last.hash), (3, head(&journal).hash));
        assert!(last.is_signed_by(&key().public(), FLEET));
    }
}

#[test]
fn an_export_of_several_pieces_is_sound() {
    let disk = Disk::default();
    let mut journal = disk.create();
    let mut record = records()[0].clone();
    let many: Vec<_> = (1..=2_500)
        .map(|seq| {
            record.seq = seq;
            record.clone()
        })
        .collect();
    journal.append(0, &of(&many)).unwrap();
    let export = exported(&journal.reader(), 1);
    let summary = verify(&export[..], &[key().public()]).unwrap();
    assert_eq!((summary.last, summary.checkpoints), (2_500, 2));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn invariant_no_changed_byte_goes_unnoticed(
        at in any::<proptest::sample::Index>(),
        flip in 1..=255_u8,
    ) {
        let mut export = exported(&journal().reader(), 1);
        let last = export.len() - 1;
        let at = at.index(last);
        export[at] ^= flip;
        prop_assert!(verify(&export[..], &[key().public()]).is_err(), "byte {}", at);
    }

    #[test]
    fn invariant_no_missing_moved_or_repeated_record_goes_unnoticed(
        one in any::<proptest::sample::Index>(),
        other in any::<proptest::sample::Index>(),
        kind in 0..3_u8,
    ) {
        let mut export = lines(&exported(&journal().reader(), 1));
        let of_records: Vec<usize> = (0..export.len())
            .filter(|at| export[*at].starts_with(r#"{"hash""#))
            .collect();
        let one = of_records[one.index(of_records.len())];
        let other = of_records[other.index(of_records.len())];
        match kind {
            0 => {
                export.remove(one);
            }
            1 => {
                prop_assume!(one != other);
                export.swap(one, other);
            }
            _ => {
                let line = export[one].clone();
                export.insert(other, line);
            }
        }
        prop_assert!(checked(&export).is_err());
    }
}
