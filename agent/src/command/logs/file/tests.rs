//! The end of a file: lines, ages, limits, and what happens while it is
//! followed.

use super::*;
use std::fs;
use std::io::Write;

struct Log {
    _dir: tempfile::TempDir,
    source: Source,
}

fn log(text: &str) -> Log {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let path = root.join("app.log");
    fs::write(&path, text).unwrap();
    Log {
        _dir: dir,
        source: Source {
            reach: Reach::Roots(vec![root.display().to_string().parse().unwrap()]),
            path,
        },
    }
}

fn tail(log: &Log, lines: u32, limit: u64) -> (String, u64) {
    let (tail, _) = log.source.tail(lines, None, limit).unwrap();
    (String::from_utf8(tail.text).unwrap(), tail.cut)
}

#[test]
fn last_lines_are_counted_from_the_end() {
    let log = log("one\ntwo\nthree\nfour\n");
    assert_eq!(tail(&log, 1, 1000), ("four\n".to_owned(), 0));
    assert_eq!(tail(&log, 3, 1000), ("two\nthree\nfour\n".to_owned(), 0));
    assert_eq!(tail(&log, 50, 1000).0, "one\ntwo\nthree\nfour\n");
}

#[test]
fn unfinished_last_line_counts() {
    let log = log("one\ntwo\nthr");
    assert_eq!(tail(&log, 1, 1000).0, "thr");
    assert_eq!(tail(&log, 2, 1000).0, "two\nthr");
}

#[test]
fn empty_file_has_no_lines() {
    assert_eq!(tail(&log(""), 10, 1000), (String::new(), 0));
}

#[test]
fn lines_beyond_a_block_are_found() {
    let text: String = (0..30_000).map(|at| format!("line {at}\n")).collect();
    let log = log(&text);
    let (shown, cut) = tail(&log, 20_000, 10_000_000);
    assert!(shown.starts_with("line 10000\n"));
    assert_eq!(cut, 0);
}

#[test]
fn lines_beyond_the_limit_keep_the_newest_and_say_so() {
    let text: String = (0..1000).map(|at| format!("line {at:04}\n")).collect();
    let log = log(&text);
    let (shown, cut) = tail(&log, 1000, 500);
    assert!(shown.len() <= 500);
    assert!(shown.contains(&mark(cut)), "{shown}");
    assert!(shown.ends_with("line 0999\n"));
    assert_eq!(
        shown.len() - mark(cut).len() + usize::try_from(cut).unwrap(),
        text.len()
    );
}

#[test]
fn stamps_are_read_with_and_without_zone() {
    let at = |text: &str| stamp(text.as_bytes());
    let base = 1_795_465_800_000;
    assert_eq!(at("2026-11-23T20:30:00Z x"), Some(UnixMillis(base)));
    assert_eq!(
        at("2026-11-23T20:30:00.25Z x"),
        Some(UnixMillis(base + 250))
    );
    assert_eq!(
        at("2026-11-23T21:30:00.123456+01:00 host x"),
        Some(UnixMillis(base + 123))
    );
    assert_eq!(at("2026-11-23T15:00:00-05:30"), Some(UnixMillis(base)));
    assert_eq!(at("2026-11-23T20:30:00"), Some(UnixMillis(base)));
    for text in [
        "",
        "Nov 23 20:30:00 host",
        "2026-11-23 20:30:00",
        "2026-13-23T20:30:00Z",
        "é",
    ] {
        assert_eq!(at(text), None, "{text}");
    }
}

#[test]
fn lines_are_chosen_by_age() {
    let log = log("2026-11-23T20:00:00Z old\n continued\n2026-11-23T21:00:00Z new\n continued\n");
    let since = |time: &str| {
        let time = stamp(time.as_bytes()).unwrap();
        let (tail, _) = log.source.tail(100, Some(time), 1000).unwrap();
        String::from_utf8(tail.text).unwrap()
    };
    assert_eq!(
        since("2026-11-23T20:30:00Z"),
        "2026-11-23T21:00:00Z new\n continued\n"
    );
    assert_eq!(since("2026-11-23T22:00:00Z"), "");
    assert!(since("2026-11-23T19:00:00Z").contains("old"));
}

#[test]
fn age_without_times_is_an_error() {
    let log = log("no time here\n");
    let refused = log.source.tail(10, Some(UnixMillis(0)), 1000);
    assert!(matches!(refused, Err(ReadFileError::NoTimes(_))));
}

#[test]
fn followed_file_survives_truncation_and_rotation() {
    let log = log("first\n");
    let path = log.source.path.clone();
    let (_, place) = log.source.tail(10, None, 1000).unwrap();

    let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"second\n").unwrap();
    let (added, place) = log.source.added(place).unwrap();
    assert_eq!(added, b"second\n");

    let (added, place) = log.source.added(place).unwrap();
    assert_eq!(added, b"");

    file.set_len(0).unwrap();
    file.write_all(b"third\n").unwrap();
    let (added, place) = log.source.added(place).unwrap();
    assert_eq!(added, b"third\n");

    // Renamed, written to once more, and gone for a moment.
    file.write_all(b"fourth\n").unwrap();
    fs::rename(&path, path.with_extension("1")).unwrap();
    let (added, place) = log.source.added(place).unwrap();
    assert_eq!(added, b"fourth\n");
    let (added, place) = log.source.added(place).unwrap();
    assert_eq!(added, b"");

    fs::write(&path, "fifth\n").unwrap();
    let (added, place) = log.source.added(place).unwrap();
    assert_eq!(added, b"fifth\n");

    // Replaced by a link to something else: refused.
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
    assert!(log.source.added(place).is_err());
}
