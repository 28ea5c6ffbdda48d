//! What a watch makes of samples: one script of readings per test, ten seconds
//! apart unless it says otherwise.

use core::time::Duration;
use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::watch::{LABELS_MAX, Turn, Watch};
use crate::telemetry::catalogue::SeriesId;
use crate::telemetry::{Label, SampleSet};
use crate::time::UnixMillis;

const GAP: Duration = Duration::from_secs(30);

fn watch(expression: &str) -> Watch {
    Watch::new(expression.parse().unwrap(), GAP)
}

fn set(samples: &[(SeriesId, &str, i64)]) -> SampleSet {
    let mut set = SampleSet::new();
    for (series, label, value) in samples {
        set.push_labelled(*series, &Label::fit(label), *value);
    }
    set
}

fn shown(turns: &[Turn]) -> Vec<String> {
    turns
        .iter()
        .map(|turn| {
            let sign = if turn.holds { '+' } else { '-' };
            format!("{sign}{} {}", turn.label, turn.value)
        })
        .collect()
}

/// Feeds load averages (in hundredths) at their seconds; the turns with the second
/// at which they came.
fn load(watch: &mut Watch, readings: &[(u64, i64)]) -> Vec<(u64, bool)> {
    let mut turned = Vec::new();
    for (second, value) in readings {
        let samples = set(&[(SeriesId::LOAD_1, "", *value)]);
        let turns = watch.step(&samples, UnixMillis(second * 1000));
        turned.extend(turns.into_iter().map(|turn| (*second, turn.holds)));
    }
    turned
}

/// What a share, level or rate is shown as when it crosses.
#[track_caller]
fn check(expression: &str, sets: &[&[(SeriesId, &str, i64)]], expected: &[&str]) {
    let mut watch = watch(expression);
    let mut turned = Vec::new();
    for (samples, at) in sets.iter().zip(1..) {
        turned.extend(shown(&watch.step(&set(samples), UnixMillis(at * 10_000))));
    }
    assert_eq!(turned, expected, "{expression}");
}

#[test]
fn without_a_duration_one_reading_is_enough() {
    let mut watch = watch("load.1m > 4");
    assert_eq!(load(&mut watch, &[(0, 400), (10, 401)]), [(10, true)]);
}

#[test]
fn it_holds_once_it_was_true_for_as_long() {
    let mut watch = watch("load.1m > 4 for 1m");
    let readings: Vec<(u64, i64)> = (0..8).map(|i| (i * 10, 500)).collect();
    assert_eq!(load(&mut watch, &readings), [(60, true)]);
}

#[test]
fn one_false_reading_starts_the_time_again() {
    let mut watch = watch("load.1m > 4 for 30s");
    let readings = [(0, 5), (10, 5), (20, 1), (30, 5), (40, 5), (50, 5), (60, 5)];
    let readings = readings.map(|(second, load)| (second, load * 100));
    assert_eq!(load(&mut watch, &readings), [(60, true)]);
}

#[test]
fn a_gap_does_not_count_as_holding() {
    let mut watch = watch("load.1m > 4 for 1m");
    let readings = [
        (0, 500),
        (10, 500),
        (41, 500),
        (60, 500),
        (90, 500),
        (101, 500),
    ];
    assert_eq!(load(&mut watch, &readings), [(101, true)]);
}

#[test]
fn a_clock_that_goes_back_is_a_gap() {
    let mut watch = watch("load.1m > 4 for 20s");
    let readings = [(1000, 500), (1010, 500), (500, 500), (510, 500), (520, 500)];
    assert_eq!(load(&mut watch, &readings), [(520, true)]);
}

#[test]
fn flapping_is_one_crossing_until_it_is_clear_for_as_long() {
    let mut watch = watch("load.1m > 4 for 20s");
    let mut readings = vec![(0, 500), (10, 500), (20, 500)];
    readings.extend((3..20).map(|i| (i * 10, if i % 2 == 0 { 500 } else { 0 })));
    readings.extend([(200, 0), (210, 0)]);
    assert_eq!(load(&mut watch, &readings), [(20, true), (210, false)]);
    let few = [
        (300, 500),
        (310, 500),
        (320, 500),
        (321, 0),
        (351, 0),
        (352, 0),
    ];
    assert_eq!(load(&mut watch, &few), [(320, true), (352, false)]);
}

#[test]
fn time_without_readings_clears_nothing() {
    let mut watch = watch("load.1m > 4 for 20s");
    let readings = [
        (0, 500),
        (10, 500),
        (20, 500),
        (30, 0),
        (1000, 0),
        (1010, 0),
        (1020, 0),
    ];
    assert_eq!(load(&mut watch, &readings), [(20, true), (1020, false)]);
}

#[test]
fn each_label_is_watched_by_itself_unless_one_is_named_or_they_are_joined() {
    let full: &[(SeriesId, &str, i64)] = &[
        (SeriesId::FS_USED, "/", 10),
        (SeriesId::FS_AVAILABLE, "/", 90),
        (SeriesId::FS_USED, "/home", 91),
        (SeriesId::FS_AVAILABLE, "/home", 9),
        (SeriesId::FS_USED, "/var", 95),
        (SeriesId::FS_AVAILABLE, "/var", 5),
        (SeriesId::FS_TOTAL, "/var", 120),
    ];
    check("fs.used > 90%", &[full], &["+/home 91.0%", "+/var 95.0%"]);
    check("fs.used{/var} > 90%", &[full], &["+/var 95.0%"]);
    check("fs.available < 6%", &[full], &["+/var 5.0%"]);
    check("max(fs.used) > 90%", &[full], &["+ 95.0%"]);
    check("avg(fs.used) > 65%", &[full], &["+ 65.3%"]);
    check("min(fs.used) < 11%", &[full], &["+ 10.0%"]);
    check("sum(fs.used) > 0.1GiB", &[full], &["+ 0.191GiB"]);
}

#[test]
fn counters_are_compared_by_their_rate() {
    let errors = |value| [(SeriesId::NET_RX_ERRORS, "eth0", value)];
    let sets: [&[_]; 4] = [
        &errors(1_000_000),
        &errors(1_000_100),
        &errors(1_000_201),
        &errors(7),
    ];
    check("net.rx.errors > 10/s", &sets, &["+eth0 10.1/s"]);
    // After a restart the counter begins anew: that set has no rate.
    let sets: [&[_]; 3] = [&errors(1_000), &errors(7), &errors(8)];
    check("net.rx.errors < 1/s", &sets, &["+eth0 0.100/s"]);
    let written = |value| [(SeriesId::DISK_WRITE_BYTES, "vda", value)];
    let sets: [&[_]; 2] = [&written(0), &written(20 * 2048 * 3)];
    check("disk.write.bytes > 5MiB/s", &sets, &["+vda 6.0MiB/s"]);
    // Joined, what has no rate yet makes the whole unknown.
    let two = [
        (SeriesId::NET_RX_ERRORS, "eth0", 1_300),
        (SeriesId::NET_RX_ERRORS, "eth1", 9),
    ];
    let sets: [&[_]; 2] = [&errors(1_000), &two];
    check("sum(net.rx.errors) > 10/s", &sets, &[]);
}

#[test]
fn shares_of_time_are_of_what_passed_or_of_all_cpus() {
    let cpu = |user, idle| {
        [
            (SeriesId::CPU_USER, "", user),
            (SeriesId::CPU_SYSTEM, "", 0),
            (SeriesId::CPU_IDLE, "", idle),
            (SeriesId::CPU_IOWAIT, "", 7),
            (SeriesId::CPU_COUNT, "", 400),
        ]
    };
    let sets: [&[_]; 2] = [&cpu(0, 0), &cpu(3_000, 1_000)];
    check("cpu.busy > 50%", &sets, &["+ 75.0%"]);
    check("cpu.user > 50%", &sets, &["+ 75.0%"]);
    // In a container idle time is not told: 24 s of 4 CPUs in 10 s.
    let own = |user| {
        [
            (SeriesId::CPU_USER, "", user),
            (SeriesId::CPU_COUNT, "", 400),
        ]
    };
    let sets: [&[_]; 2] = [&own(0), &own(2_400)];
    check("cpu.busy > 50%", &sets, &["+ 60.0%"]);
    let stall = |ms| [(SeriesId::PSI_IO_FULL, "", ms)];
    let sets: [&[_]; 2] = [&stall(500), &stall(2_500)];
    check("psi.io.full > 10%", &sets, &["+ 20.0%"]);
    let busy = |ms| {
        [
            (SeriesId::CONTAINER_CPU, "web", ms),
            (SeriesId::CPU_COUNT, "", 200),
        ]
    };
    let own: Vec<_> = [0, 500]
        .map(|ms| [busy(ms).as_slice(), &own(ms)].concat())
        .into();
    let sets: Vec<&[_]> = own.iter().map(Vec::as_slice).collect();
    check("container.cpu > 20%", &sets, &["+web 25.0%"]);
}

#[test]
fn shares_of_totals() {
    let node: &[_] = &[
        (SeriesId::MEM_TOTAL, "", 1000),
        (SeriesId::MEM_USED, "", 800),
        (SeriesId::CONTAINER_MEM, "web", 250),
        (SeriesId::SWAP_TOTAL, "", 0),
        (SeriesId::SWAP_USED, "", 0),
        (SeriesId::FS_INODES, "/", 50),
        (SeriesId::FS_INODES_USED, "/", 40),
        (SeriesId::FD_MAX, "", 100),
        (SeriesId::FD_USED, "", 1),
        (SeriesId::CONTAINERS_TOTAL, "", 4),
        (SeriesId::CONTAINERS_RUNNING, "", 3),
        (SeriesId::TEMP, "core", 851),
        (SeriesId::MEM_AVAILABLE, "", 16),
    ];
    check("mem.used >= 80%", &[node], &["+ 80.0%"]);
    check("container.mem > 20%", &[node], &["+web 25.0%"]);
    check("fs.inodes_used > 20%", &[node], &["+/ 80.0%"]);
    check("fd.used < 20%", &[node], &["+ 1.0%"]);
    check("containers.running < 100%", &[node], &["+ 75.0%"]);
    check("temp > 85C", &[node], &["+core 85.1C"]);
    check("mem.available == 1MiB", &[node], &["+ 1.0MiB"]);
    // A share of nothing is no number.
    check("swap.used >= 0%", &[node], &[]);
}

#[test]
fn absence_is_watched_for_what_is_named() {
    let web: &[_] = &[(SeriesId::CONTAINER_CPU, "web", 1)];
    let db: &[_] = &[(SeriesId::CONTAINER_CPU, "db", 1)];
    let sets = [web, db, db, web, web, web, web];
    check(
        "absent(container.cpu{web}) for 10s",
        &sets,
        &["+web absent", "-web present"],
    );
    check("absent(container.cpu)", &[db, web, &[]], &["+ absent"]);
}

#[test]
fn what_is_gone_does_not_hold_for_ever() {
    let mut watch = watch("temp > 85C");
    let hot = set(&[(SeriesId::TEMP, "core", 900)]);
    let mut turns = watch.step(&hot, UnixMillis(0));
    for second in [10, 20, 30, 40, 50] {
        turns.extend(watch.step(&SampleSet::new(), UnixMillis(second * 1000)));
    }
    assert_eq!(shown(&turns), ["+core 90.0C"]);
    let turns = watch.step(&SampleSet::new(), UnixMillis(60_000));
    assert_eq!(shown(&turns), ["-core no reading"]);
    assert_eq!(watch.holding().count(), 0);
}

#[test]
fn what_is_gone_clears_by_the_steps_that_found_it_gone() {
    let mut watch = watch("temp > 85C for 20s");
    for second in [0, 10, 20] {
        watch.step(
            &set(&[(SeriesId::TEMP, "core", 900)]),
            UnixMillis(second * 1000),
        );
    }
    assert_eq!(watch.holding().count(), 1);
    let mut cleared = Vec::new();
    for second in [60, 70, 1000, 1010, 1020] {
        let turns = watch.step(&SampleSet::new(), UnixMillis(second * 1000));
        cleared.extend(turns.into_iter().map(|_| second));
    }
    assert_eq!(cleared, [1020]);
}

#[test]
fn after_a_restart_it_goes_on_and_says_when_it_is_clear() {
    let mut watch = watch("load.1m > 4");
    watch.resume(Label::NONE, UnixMillis(0));
    assert_eq!(watch.holding().collect::<Vec<_>>(), [&Label::NONE]);
    let readings = [(10, 500), (20, 0), (30, 0), (40, 0)];
    assert_eq!(load(&mut watch, &readings), [(40, false)]);
}

#[test]
fn labels_are_bounded() {
    let mut watch = watch("temp > 85C");
    let names: Vec<String> = (0..LABELS_MAX + 9).map(|i| format!("s{i:03}")).collect();
    let half = |from: usize| {
        let chosen = names.iter().skip(from).take(LABELS_MAX - 10);
        let samples: Vec<_> = chosen
            .map(|name| (SeriesId::TEMP, name.as_str(), 900))
            .collect();
        set(&samples)
    };
    assert_eq!(watch.step(&half(0), UnixMillis(0)).len(), LABELS_MAX - 10);
    assert_eq!(watch.step(&half(19), UnixMillis(10_000)).len(), 10);
    assert_eq!(watch.holding().count(), LABELS_MAX);
}

proptest! {
    #[test]
    fn invariant_it_begins_only_after_true_readings_without_a_gap_and_turns_alternate(
        readings in prop::collection::vec((any::<bool>(), 0_u64..40_000), 1..80),
        lasting in 0_u64..60,
    ) {
        let mut watch = watch(&format!("load.1m > 4 for {lasting}s"));
        let (mut now, mut holds, mut row) = (0, false, Vec::new());
        for (high, pause) in readings {
            now += pause;
            if !high || pause > 30_000 {
                row.clear();
            }
            if high {
                row.push(now);
            }
            let samples = set(&[(SeriesId::LOAD_1, "", if high { 500 } else { 0 })]);
            for turn in watch.step(&samples, UnixMillis(now)) {
                prop_assert_ne!(turn.holds, holds);
                holds = turn.holds;
                if holds {
                    prop_assert!(now - row[0] >= lasting * 1000);
                } else {
                    prop_assert!(!high);
                }
            }
            // And it does not keep quiet about what held long enough.
            prop_assert!(holds || row.is_empty() || now - row[0] < lasting * 1000);
        }
    }

    #[test]
    fn invariant_any_samples_at_any_time_are_taken(
        steps in prop::collection::vec((any::<u64>(), prop::collection::btree_map(0_u16..70, any::<i64>(), 0..9)), 0..40),
        expression in prop::sample::select(vec![
            "cpu.busy > 1%", "net.rx.bytes > 1B/s for 1m", "max(temp) > 1C", "absent(fs.used)",
            "fs.used > 1%", "psi.io.some > 1%", "mem.used < 50%",
        ]),
    ) {
        let mut watch = watch(expression);
        let mut holding: BTreeMap<String, bool> = BTreeMap::new();
        for (now, values) in steps {
            let mut samples = SampleSet::new();
            for (series, value) in values {
                samples.push(SeriesId(series), value);
            }
            for turn in watch.step(&samples, UnixMillis(now)) {
                let before = holding.insert(turn.label, turn.holds).unwrap_or(false);
                prop_assert_ne!(before, turn.holds);
            }
        }
    }
}
