//! The store of metrics through its own interface: what is durable, what is
//! answered, what happens to damaged and to full files.

use std::io::Write as _;
use std::path::Path;

use protocol::telemetry::SampleSet;
use protocol::telemetry::catalogue::{self, SeriesId};
use protocol::telemetry::frame::{Effort, Span, encode};
use protocol::telemetry::{Label, limit};

use super::*;

/// A whole hour, so that ten-minute summaries start with the frames.
const T0: u64 = 1_790_002_800_000;
const MINUTE: u64 = 60_000;

fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 10])
}

fn settings(dir: &Path) -> Settings {
    Settings {
        dir: dir.to_owned(),
        retention: Duration::from_secs(14 * 86_400),
        retention_rollup: Duration::from_secs(400 * 86_400),
        bytes_max: 1 << 40,
        remote_write: None,
        tags: Arc::new(|_| None),
    }
}

fn open(dir: &Path) -> Series {
    Series::open(settings(dir), UnixMillis(T0)).unwrap().0
}

/// A minute of a gauge and a counter: values at every ten seconds.
fn minute(start_ms: u64, load: [Option<i64>; 6], received: [Option<i64>; 6]) -> Vec<u8> {
    let eth0 = Label::fit("eth0");
    let moments: Vec<(usize, SampleSet)> = (0..6)
        .map(|slot| {
            let mut samples = SampleSet::new();
            if let Some(value) = load[slot] {
                samples.push(SeriesId::LOAD_1, value);
            }
            if let Some(value) = received[slot] {
                samples.push_labelled(SeriesId::NET_RX_BYTES, &eth0, value);
            }
            (slot, samples)
        })
        .collect();
    let span = Span {
        tier: Tier::Fine,
        start_ms,
        interval_ms: 10_000,
        slots: 6,
    };
    let frame = Frame::from_samples(
        catalogue::VERSION,
        span,
        moments.iter().map(|(slot, set)| (*slot, set)),
    );
    encode(&frame, Effort::Shortest).unwrap()
}

/// Minute `number` since T0 of a node whose load is the minute's number and
/// which receives a thousand bytes a second.
fn steady(number: u64) -> Vec<u8> {
    let load = [Some(i64::try_from(number).unwrap() * 100); 6];
    let received = std::array::from_fn(|slot| Some((number as i64 * 6 + slot as i64) * 10_000));
    minute(T0 + number * MINUTE, load, received)
}

fn arrival(who: u8, seq: u64, body: Vec<u8>) -> Arrival {
    Arrival {
        node: node(who),
        store: StoreId::from_bytes([9; 10]),
        stream: Stream::Telemetry,
        seq,
        body,
    }
}

fn now(minutes: u64) -> UnixMillis {
    UnixMillis(T0 + minutes * MINUTE)
}

fn store_minutes(series: &Series, who: u8, minutes: std::ops::Range<u64>) {
    for number in minutes {
        let outcomes = series
            .ingest_blocking(&[arrival(who, number + 1, steady(number))], now(number + 1))
            .unwrap();
        assert_eq!(outcomes, [Outcome::Stored]);
    }
}

fn ask(
    series: &Series,
    name: &str,
    minutes: std::ops::Range<u64>,
    step_s: u64,
) -> Vec<Option<f64>> {
    let query = Query {
        node: node(1),
        series: CatalogueSeries::by_name(name).unwrap(),
        label: None,
        from: now(minutes.start),
        to: now(minutes.end),
        step: Duration::from_secs(step_s),
    };
    let lines = series.query_blocking(&query).unwrap();
    assert!(lines.len() <= 1, "{lines:?}");
    lines.first().map_or_else(Vec::new, |line| {
        line.points
            .iter()
            .map(|point| {
                point
                    .value
                    .map(|value| (value.mean * 1_000.0).round() / 1_000.0)
            })
            .collect()
    })
}

#[test]
fn what_was_stored_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let before = open(dir.path());
    store_minutes(&before, 1, 0..3);
    let answer = ask(&before, "load.1m", 0..3, 60);
    assert_eq!(answer, [Some(0.0), Some(1.0), Some(2.0)]);
    let last = before.last(node(1));
    drop(before);
    let after = open(dir.path());
    assert_eq!(ask(&after, "load.1m", 0..3, 60), answer);
    assert_eq!(after.last(node(1)).len(), last.len());
    assert_eq!(after.last(node(1))[0].value, last[0].value);
}

#[test]
fn a_frame_delivered_twice_is_stored_once() {
    let dir = tempfile::tempdir().unwrap();
    let series = open(dir.path());
    let twice = [arrival(1, 7, steady(0)), arrival(1, 7, steady(0))];
    assert_eq!(
        series.ingest_blocking(&twice, now(1)).unwrap(),
        [Outcome::Stored, Outcome::Duplicate]
    );
    drop(series);
    let series = open(dir.path());
    assert_eq!(
        series.ingest_blocking(&twice[..1], now(2)).unwrap(),
        [Outcome::Duplicate]
    );
    let mut other = arrival(1, 7, steady(0));
    other.stream = Stream::Backfill;
    assert_eq!(
        series.ingest_blocking(&[other], now(2)).unwrap(),
        [Outcome::Stored]
    );
}

#[test]
fn a_bad_frame_is_refused_alone() {
    let dir = tempfile::tempdir().unwrap();
    let series = open(dir.path());
    let batch = [arrival(1, 1, vec![0xff; 40]), arrival(1, 2, steady(0))];
    let outcomes = series.ingest_blocking(&batch, now(1)).unwrap();
    assert_eq!(
        outcomes,
        [Outcome::Refused(ErrorCode::FrameInvalid), Outcome::Stored]
    );
    assert_eq!(series.stats().refused, 1);
    assert_eq!(series.stats().frames, 1);
    assert_eq!(series.stats().samples, 12);
}

#[test]
fn gaps_are_gaps_in_the_answer() {
    let dir = tempfile::tempdir().unwrap();
    let series = open(dir.path());
    let holes = minute(
        T0,
        [Some(100), None, None, Some(400), None, None],
        [Some(0), Some(50), None, None, None, None],
    );
    series
        .ingest_blocking(&[arrival(1, 1, holes)], now(1))
        .unwrap();
    series
        .ingest_blocking(&[arrival(1, 2, steady(3))], now(4))
        .unwrap();
    assert_eq!(
        ask(&series, "load.1m", 0..1, 10),
        [Some(1.0), None, None, Some(4.0), None, None]
    );
    assert_eq!(
        ask(&series, "load.1m", 0..4, 60),
        [Some(2.5), None, None, Some(3.0)]
    );
    assert_eq!(
        ask(&series, "net.rx.bytes", 0..4, 60),
        [Some(5.0), None, None, Some(1_000.0)]
    );
    assert_eq!(ask(&series, "cpu.user", 0..4, 60), [] as [Option<f64>; 0]);
}

#[test]
fn a_counter_that_starts_again_is_not_growth() {
    let dir = tempfile::tempdir().unwrap();
    let series = open(dir.path());
    let restarted = minute(
        T0,
        [None; 6],
        [
            Some(1_000_000),
            Some(1_000_100),
            Some(5),
            Some(105),
            None,
            None,
        ],
    );
    series
        .ingest_blocking(&[arrival(1, 1, restarted)], now(1))
        .unwrap();
    assert_eq!(
        ask(&series, "net.rx.bytes", 0..1, 10),
        [None, Some(10.0), None, Some(10.0), None, None]
    );
}

#[test]
fn a_torn_tail_is_cut_off_and_the_rest_stays() {
    let dir = tempfile::tempdir().unwrap();
    let series = open(dir.path());
    store_minutes(&series, 1, 0..2);
    drop(series);
    let path = segment_files(dir.path()).remove(0);
    let whole = std::fs::metadata(&path).unwrap().len();
    for torn in [1_usize, 48, 49, 80] {
        let mut file = std::fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap();
        let mut tail = vec![0_u8; torn];
        tail[0] = 60;
        file.write_all(&tail).unwrap();
        drop(file);
        let series = open(dir.path());
        assert_eq!(
            ask(&series, "load.1m", 0..2, 60),
            [Some(0.0), Some(1.0)],
            "{torn} bytes torn"
        );
        assert_eq!(std::fs::metadata(&path).unwrap().len(), whole);
        assert!(series.health().ok);
    }
    let series = open(dir.path());
    store_minutes(&series, 1, 2..3);
    assert_eq!(ask(&series, "load.1m", 0..3, 60).len(), 3);
}

#[test]
fn a_file_of_a_newer_version_is_refused_and_untouched() {
    let dir = tempfile::tempdir().unwrap();
    drop(store_one(dir.path()));
    let path = segment_files(dir.path()).remove(0);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[8] = 9;
    std::fs::write(&path, &bytes).unwrap();
    let error = Series::open(settings(dir.path()), now(1)).unwrap_err();
    assert_eq!(error.code(), ErrorCode::StoreNewer);
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[test]
fn a_damaged_beginning_is_shown_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    drop(store_one(dir.path()));
    let path = segment_files(dir.path()).remove(0);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[12] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let series = open(dir.path());
    assert!(!series.health().ok);
    assert!(
        series.health().detail.contains("damaged"),
        "{}",
        series.health().detail
    );
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    assert_eq!(
        series
            .ingest_blocking(&[arrival(1, 5, steady(1))], now(2))
            .unwrap(),
        [Outcome::Stored]
    );
}

#[test]
fn a_disk_that_takes_nothing_keeps_nothing_and_recovers() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("series");
    let series = open(&folder);
    std::fs::remove_dir_all(&folder).unwrap();
    let batch = [arrival(1, 1, steady(0))];
    let error = series.ingest_blocking(&batch, now(1)).unwrap_err();
    assert_eq!(error.code(), ErrorCode::StoreFailed);
    assert!(!series.health().ok);
    assert!(series.last(node(1)).is_empty());
    std::fs::create_dir_all(&folder).unwrap();
    assert_eq!(
        series.ingest_blocking(&batch, now(1)).unwrap(),
        [Outcome::Stored]
    );
    assert!(series.health().ok);
}

#[test]
fn a_full_disk_has_its_own_code() {
    let source = std::io::Error::from(std::io::ErrorKind::StorageFull);
    let error = IngestError::Store(SegmentError::Io {
        step: "write",
        path: "x".into(),
        source,
    });
    assert_eq!(error.code(), ErrorCode::StoreFull);
    assert_eq!(error.to_string(), "cannot store frames");
}

#[test]
fn sealed_hours_answer_like_the_open_one() {
    let dir = tempfile::tempdir().unwrap();
    let series = open(dir.path());
    store_minutes(&series, 1, 0..62);
    store_minutes(&series, 2, 0..1);
    series.tend(now(62)).unwrap();
    assert!(
        segment_files(dir.path())
            .iter()
            .any(|path| index::beside(path).exists())
    );
    store_minutes(&series, 1, 62..64);
    let expected: Vec<Option<f64>> = (0..64_u32).map(|number| Some(f64::from(number))).collect();
    assert_eq!(ask(&series, "load.1m", 0..64, 60), expected);
    drop(series);
    let series = open(dir.path());
    assert_eq!(ask(&series, "load.1m", 0..64, 60), expected);
    // An index that is damaged or gone is made again from its segment.
    for path in segment_files(dir.path()) {
        if index::beside(&path).exists() {
            std::fs::write(index::beside(&path), b"nonsense").unwrap();
        }
    }
    drop(series);
    let series = open(dir.path());
    assert_eq!(ask(&series, "load.1m", 0..64, 60), expected);
}

#[test]
fn long_questions_are_answered_by_rollups() {
    let dir = tempfile::tempdir().unwrap();
    let series = open(dir.path());
    store_minutes(&series, 1, 0..45);
    let expected_load = [Some(4.5), Some(14.5), Some(24.5), Some(34.5), Some(42.0)];
    assert_eq!(ask(&series, "load.1m", 0..50, 600), expected_load);
    assert_eq!(ask(&series, "net.rx.bytes", 0..50, 600), [Some(1_000.0); 5]);
    // Frames may go: the rollups still tell of the closed ten minutes.
    drop(series);
    for path in segment_files(dir.path()) {
        if !path.to_string_lossy().contains("rollup") {
            std::fs::remove_file(path).unwrap();
        }
    }
    let series = open(dir.path());
    assert_eq!(
        ask(&series, "load.1m", 0..50, 600),
        [Some(4.5), Some(14.5), Some(24.5), Some(34.5), None]
    );
}

#[test]
fn open_rollups_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let series = open(dir.path());
    store_minutes(&series, 1, 0..15);
    drop(series);
    let series = open(dir.path());
    store_minutes(&series, 1, 15..25);
    assert_eq!(
        ask(&series, "load.1m", 0..30, 600),
        [Some(4.5), Some(14.5), Some(22.0)]
    );
}

#[test]
fn late_frames_join_the_rollup_of_their_time() {
    let dir = tempfile::tempdir().unwrap();
    let series = open(dir.path());
    store_minutes(&series, 1, 0..5);
    let mut seq = 100;
    store_minutes(&series, 1, 20..25);
    for number in 5..10 {
        seq += 1;
        let mut late = arrival(1, seq, steady(number));
        late.stream = Stream::Backfill;
        series.ingest_blocking(&[late], now(26)).unwrap();
    }
    assert_eq!(
        ask(&series, "load.1m", 0..30, 600),
        [Some(4.5), None, Some(22.0)]
    );
    assert_eq!(ask(&series, "load.1m", 0..10, 60)[9], Some(9.0));
}

#[test]
fn a_node_with_a_clock_in_the_future_does_not_spoil_its_rollups() {
    let dir = tempfile::tempdir().unwrap();
    let series = open(dir.path());
    store_minutes(&series, 1, 0..1);
    let wrong = arrival(
        1,
        50,
        minute(T0 + 365 * 1_440 * MINUTE, [Some(1); 6], [None; 6]),
    );
    series.ingest_blocking(&[wrong], now(1)).unwrap();
    for number in 1..12 {
        series
            .ingest_blocking(&[arrival(1, 60 + number, steady(number))], now(number + 1))
            .unwrap();
    }
    assert_eq!(ask(&series, "load.1m", 0..12, 600), [Some(4.5), Some(10.5)]);
}

#[test]
fn retention_deletes_whole_files_by_age_and_by_size() {
    let dir = tempfile::tempdir().unwrap();
    let mut short = settings(dir.path());
    short.retention = Duration::from_secs(3_600);
    let (series, _) = Series::open(short, now(0)).unwrap();
    store_minutes(&series, 1, 0..61);
    series.tend(now(61)).unwrap();
    let frames = |dir: &Path| {
        segment_files(dir)
            .iter()
            .filter(|path| path.to_string_lossy().contains("fine"))
            .count()
    };
    assert_eq!(frames(dir.path()), 1);
    series.tend(now(200)).unwrap();
    assert_eq!(frames(dir.path()), 0);
    assert!(!segment_files(dir.path()).is_empty(), "rollups stay");
    assert_eq!(ask(&series, "load.1m", 0..10, 600), [Some(4.5)]);

    let dir = tempfile::tempdir().unwrap();
    let mut small = settings(dir.path());
    small.bytes_max = 2_000;
    let (series, _) = Series::open(small, now(0)).unwrap();
    store_minutes(&series, 1, 0..61);
    series.tend(now(61)).unwrap();
    assert_eq!(frames(dir.path()), 0);
}

#[test]
fn the_highest_nodes_come_first_and_silent_ones_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let series = open(dir.path());
    for who in 1..=4_u8 {
        let load = [Some(i64::from(who) * 100); 6];
        let received = std::array::from_fn(|slot| Some(slot as i64 * i64::from(who) * 10_000));
        let start = if who == 4 { T0 - 60 * MINUTE } else { T0 };
        series
            .ingest_blocking(&[arrival(who, 1, minute(start, load, received))], now(1))
            .unwrap();
    }
    let load = CatalogueSeries::by_name("load.1m").unwrap();
    let nodes = |rows: Vec<TopRow>| {
        rows.into_iter()
            .map(|row| (row.node, row.value))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        nodes(series.top(load, 2, now(1), |_| true)),
        [(node(3), 3.0), (node(2), 2.0)]
    );
    assert_eq!(
        nodes(series.top(load, 2, now(1), |who| who == node(1))),
        [(node(1), 1.0)]
    );
    let received = CatalogueSeries::by_name("net.rx.bytes").unwrap();
    assert_eq!(
        nodes(series.top(received, 1, now(1), |_| true)),
        [(node(3), 3_000.0)]
    );
    series.forget(node(3));
    assert_eq!(
        nodes(series.top(load, 1, now(1), |_| true)),
        [(node(2), 2.0)]
    );
}

#[test]
fn an_older_frame_does_not_replace_the_newest_values() {
    let dir = tempfile::tempdir().unwrap();
    let series = open(dir.path());
    store_minutes(&series, 1, 5..6);
    let mut late = arrival(1, 1, steady(0));
    late.stream = Stream::Backfill;
    series.ingest_blocking(&[late], now(6)).unwrap();
    let last = series.last(node(1));
    assert_eq!(last[0].series, SeriesId::LOAD_1);
    assert!((last[0].value - 5.0).abs() < 1e-9);
    assert!((last[1].rate.unwrap() - 1_000.0).abs() < 1e-3);
}

#[test]
fn live_frames_reach_watchers_and_are_not_stored() {
    let dir = tempfile::tempdir().unwrap();
    let series = open(dir.path());
    let mut watcher = series.watch_live();
    series.live(node(1), &steady(0)).unwrap();
    let seen = watcher.try_recv().unwrap();
    assert_eq!(seen.node, node(1));
    assert_eq!(series.last(node(1)).len(), 2);
    assert!(segment_files(dir.path()).is_empty());
    assert!(series.live(node(1), &[1, 2]).is_err());
}

#[test]
fn absurd_questions_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let series = open(dir.path());
    let ask = |from: u64, to: u64, step: Duration| {
        let query = Query {
            node: node(1),
            series: CatalogueSeries::by_name("load.1m").unwrap(),
            label: None,
            from: UnixMillis(from),
            to: UnixMillis(to),
            step,
        };
        series.query_blocking(&query).unwrap_err().code()
    };
    assert_eq!(
        ask(0, u64::MAX, Duration::from_millis(1)),
        ErrorCode::LimitReached
    );
    assert_eq!(ask(5, 5, Duration::from_secs(1)), ErrorCode::RequestInvalid);
    assert_eq!(ask(0, 5, Duration::ZERO), ErrorCode::RequestInvalid);
}

#[test]
fn columns_that_change_for_ever_stay_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let series = open(dir.path());
    for number in 0..30_u64 {
        let mut samples = SampleSet::new();
        for name in 0..64 {
            samples.push_labelled(
                SeriesId::CONTAINER_MEM,
                &Label::fit(&format!("c{number}-{name}")),
                1,
            );
        }
        let span = Span {
            tier: Tier::Fine,
            start_ms: T0 + number * MINUTE,
            interval_ms: 10_000,
            slots: 1,
        };
        let frame = Frame::from_samples(1, span, [(0, &samples)]);
        let body = encode(&frame, Effort::Shortest).unwrap();
        series
            .ingest_blocking(&[arrival(1, number + 1, body)], now(number + 1))
            .unwrap();
    }
    let known = series.last(node(1));
    assert!(known.len() <= limit::FRAME_COLUMNS_MAX, "{}", known.len());
    assert!(known.iter().any(|value| value.label.as_str() == "c29-0"));
}

/// Files written by the first version, which every later one must read. Made
/// with FLOTILLA_BLESS=1 where they are missing; never written over.
#[test]
fn released_files_are_read_for_ever() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/series-v1");
    if std::env::var_os("FLOTILLA_BLESS").is_some() && !golden.exists() {
        let series = open(&golden);
        store_minutes(&series, 1, 0..62);
        series.tend(now(62)).unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(&golden).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    let series = open(dir.path());
    assert!(series.health().ok, "{}", series.health().detail);
    let minutes: Vec<Option<f64>> = (0..62_u32).map(|number| Some(f64::from(number))).collect();
    assert_eq!(ask(&series, "load.1m", 0..62, 60), minutes);
    assert_eq!(
        ask(&series, "load.1m", 0..60, 600)[..5],
        [4.5, 14.5, 24.5, 34.5, 44.5].map(Some)
    );
    assert_eq!(
        ask(&series, "net.rx.bytes", 0..60, 600)[..5],
        [Some(1_000.0); 5]
    );
}

#[test]
fn a_store_whose_threads_are_gone_says_that_it_is_unavailable() {
    let dir = tempfile::tempdir().unwrap();
    let series = open(dir.path());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let handle = runtime.handle().clone();
    runtime.shutdown_background();
    let query = Query {
        node: node(1),
        series: CatalogueSeries::by_name("load.1m").unwrap(),
        label: None,
        from: UnixMillis(T0),
        to: UnixMillis(T0 + MINUTE),
        step: Duration::from_secs(10),
    };
    let asked = handle.block_on(series.query(query)).unwrap_err();
    assert_eq!(asked.code(), protocol::ErrorCode::SeriesUnavailable);
    let batch = vec![arrival(1, 1, steady(0))];
    let stored = handle.block_on(series.ingest(batch, UnixMillis(T0)));
    assert_eq!(
        stored.unwrap_err().code(),
        protocol::ErrorCode::SeriesUnavailable
    );
}

fn store_one(dir: &Path) -> Series {
    let series = open(dir);
    store_minutes(&series, 1, 0..1);
    series
}

fn segment_files(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "segment")
        })
        .collect();
    paths.sort();
    paths
}
