//! Collectors against recorded `/proc` and `/sys` files, and against this host.

use std::path::Path;

use protocol::telemetry::SampleSet;
use protocol::telemetry::catalogue::SeriesId;
use protocol::telemetry::limit::LABELS_PER_SET_MAX;

use super::Host;

/// Writes files below a root, making their folders.
fn write(root: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

const MEMINFO: &str = "MemTotal:       16777216 kB\nMemFree:         1048576 kB\nMemAvailable:    8388608 kB\n\
    Buffers:          131072 kB\nCached:          4194304 kB\nSReclaimable:     262144 kB\n\
    SwapTotal:       2097152 kB\nSwapFree:        1048576 kB\n";

const STAT: &str = "cpu  1000 20 300 40000 50 6 7 8 900 0\ncpu0 500 10 150 20000 25 3 4 4 0 0\n\
    cpu1 500 10 150 20000 25 3 3 4 0 0\nintr 123\nctxt 99\nbtime 1790000000\nprocesses 4242\n\
    procs_running 3\nprocs_blocked 1\n";

const DISKSTATS: &str = "   8       0 sda 100 1 2048 50 200 2 4096 150 0 80 200 0 0 0 0\n   8       1 sda1 90 0 2000 40 190 0 4000 140 0 70 180\n 253       0 dm-0 100 0 2048 60 200 0 4096 170 0 90 230\n   7       0 loop0 5 0 10 1 0 0 0 0 0 1 1\n";

const NET_DEV: &str = "Inter-|   Receive                                                |  Transmit\n face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    lo:    3193      29    0    0    0     0          0         0     3193      29    0    0    0     0       0          0\n  eth0: 323867460   12751    1    2    0     0          0         0   971187    7887    3    4    0     0       0          0\nveth12ab: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n";

const SNMP: &str = "Ip: Forwarding DefaultTTL\nIp: 1 64\nTcp: RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab InSegs OutSegs RetransSegs InErrs OutRsts InCsumErrors\nTcp: 1 200 120000 -1 10 20 1 5 7 1000 900 11 0 3 0\n";

fn plain(root: &Path) {
    write(
        root,
        &[
            ("proc/meminfo", MEMINFO),
            ("proc/stat", STAT),
            ("proc/loadavg", "0.52 1.05 10.30 3/412 9876\n"),
            ("proc/uptime", "3600.49 7000.00\n"),
            ("proc/diskstats", DISKSTATS),
            ("proc/net/dev", NET_DEV),
            ("proc/net/snmp", SNMP),
            (
                "proc/pressure/cpu",
                "some avg10=0.00 avg60=0.00 avg300=0.00 total=1234567\n",
            ),
            (
                "proc/pressure/memory",
                "some avg10=0.00 avg60=0.00 avg300=0.00 total=5000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=4000\n",
            ),
            ("proc/sys/fs/file-nr", "2048\t48\t9223372036854775807\n"),
            ("proc/1/stat", ""),
            ("proc/4242/stat", ""),
            (
                "proc/self/stat",
                "77 (a) b) S 1 77 77 0 -1 4194560 100 0 0 0 12 34 0 0 20 0 4 0 100 1 1\n",
            ),
            (
                "proc/self/smaps_rollup",
                "55d0-7ffe ---p 00000000 00:00 0 [rollup]\nRss:  9000 kB\nPss:  6400 kB\n",
            ),
            ("sys/block/sda/size", "1"),
            ("sys/block/dm-0/slaves/sda", ""),
            ("sys/block/loop0/size", "1"),
        ],
    );
}

fn sampled(root: &Path) -> SampleSet {
    let mut samples = SampleSet::new();
    Host::below(root).sample(&mut samples);
    samples
}

#[test]
fn a_plain_host_is_measured_in_the_catalogues_steps() {
    let dir = tempfile::tempdir().unwrap();
    plain(dir.path());
    let samples = sampled(dir.path());
    for (series, label, expected) in [
        (SeriesId::CPU_USER, "", 1_000),
        (SeriesId::CPU_IRQ, "", 13),
        (SeriesId::CPU_STEAL, "", 8),
        (SeriesId::CPU_COUNT, "", 200),
        (SeriesId::PROC_RUNNING, "", 3),
        (SeriesId::PROC_BLOCKED, "", 1),
        (SeriesId::PROC_COUNT, "", 2),
        (SeriesId::LOAD_1, "", 52),
        (SeriesId::LOAD_15, "", 1_030),
        (SeriesId::UPTIME, "", 3_600),
        (SeriesId::MEM_TOTAL, "", 16_777_216 / 64),
        (SeriesId::MEM_USED, "", 8_388_608 / 64),
        (
            SeriesId::MEM_CACHED,
            "",
            (131_072 + 4_194_304 + 262_144) / 64,
        ),
        (SeriesId::SWAP_USED, "", 1_048_576 / 64),
        (SeriesId::PSI_CPU_SOME, "", 1_234),
        (SeriesId::PSI_MEM_FULL, "", 4),
        (SeriesId::DISK_READ_BYTES, "sda", 2_048),
        (SeriesId::DISK_WRITE_TIME, "sda", 150),
        (SeriesId::DISK_BUSY, "sda", 80),
        (SeriesId::NET_RX_BYTES, "eth0", 323_867_460),
        (SeriesId::NET_RX_ERRORS, "eth0", 1),
        (SeriesId::NET_TX_DROPS, "eth0", 4),
        (SeriesId::TCP_ESTABLISHED, "", 7),
        (SeriesId::TCP_RETRANSMITS, "", 11),
        (SeriesId::TCP_RESETS, "", 5),
        (SeriesId::FD_USED, "", 2_000),
        (SeriesId::FD_MAX, "", i64::MAX),
        (SeriesId::AGENT_CPU, "", 46),
        (SeriesId::AGENT_MEM, "", 100),
        (SeriesId::AGENT_LABELS_DROPPED, "", 0),
    ] {
        assert_eq!(
            samples.get(series, label),
            Some(expected),
            "{series} {label}"
        );
    }
}

#[test]
fn devices_are_counted_once_and_virtual_interfaces_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    plain(dir.path());
    let samples = sampled(dir.path());
    for device in ["sda1", "dm-0", "loop0"] {
        assert_eq!(
            samples.get(SeriesId::DISK_READ_OPS, device),
            None,
            "{device}"
        );
    }
    for interface in ["lo", "veth12ab"] {
        assert_eq!(
            samples.get(SeriesId::NET_RX_BYTES, interface),
            None,
            "{interface}"
        );
    }
}

#[test]
fn what_the_kernel_does_not_offer_is_absent() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &[("proc/loadavg", "0.00 0.00 0.00 1/1 1\n")]);
    let samples = sampled(dir.path());
    assert_eq!(samples.get(SeriesId::LOAD_1, ""), Some(0));
    for series in [
        SeriesId::PSI_CPU_SOME,
        SeriesId::MEM_TOTAL,
        SeriesId::CPU_USER,
        SeriesId::UPTIME,
    ] {
        assert_eq!(samples.get(series, ""), None, "{series}");
    }
}

#[test]
fn a_damaged_file_costs_its_own_series_only() {
    let dir = tempfile::tempdir().unwrap();
    plain(dir.path());
    write(
        dir.path(),
        &[
            ("proc/loadavg", "nonsense"),
            ("proc/net/dev", "a\nb\n eth0: 1 2\n"),
            ("proc/diskstats", "8 0 sda x y z\n"),
        ],
    );
    let samples = sampled(dir.path());
    assert_eq!(samples.get(SeriesId::LOAD_1, ""), None);
    assert_eq!(samples.get(SeriesId::NET_RX_BYTES, "eth0"), None);
    assert_eq!(samples.get(SeriesId::DISK_READ_OPS, "sda"), None);
    assert_eq!(samples.get(SeriesId::CPU_USER, ""), Some(1_000));
}

#[test]
fn a_container_on_cgroup_v2_has_its_own_limits_and_cpu_time() {
    let dir = tempfile::tempdir().unwrap();
    plain(dir.path());
    write(
        dir.path(),
        &[
            ("sys/fs/cgroup/cgroup.events", "populated 1\n"),
            ("sys/fs/cgroup/memory.max", "1073741824\n"),
            ("sys/fs/cgroup/memory.current", "805306368\n"),
            (
                "sys/fs/cgroup/memory.stat",
                "anon 1\ninactive_file 268435456\n",
            ),
            ("sys/fs/cgroup/cpu.max", "50000 100000\n"),
            (
                "sys/fs/cgroup/cpu.stat",
                "usage_usec 3000000\nuser_usec 2000000\nsystem_usec 1000000\n",
            ),
        ],
    );
    let samples = sampled(dir.path());
    let mib = |count: i64| Some(count * 16);
    assert_eq!(samples.get(SeriesId::MEM_TOTAL, ""), mib(1_024));
    assert_eq!(samples.get(SeriesId::MEM_USED, ""), mib(512));
    assert_eq!(samples.get(SeriesId::MEM_AVAILABLE, ""), mib(512));
    assert_eq!(samples.get(SeriesId::CPU_COUNT, ""), Some(50));
    assert_eq!(samples.get(SeriesId::CPU_USER, ""), Some(200));
    assert_eq!(samples.get(SeriesId::CPU_SYSTEM, ""), Some(100));
    assert_eq!(
        samples.get(SeriesId::CPU_IDLE, ""),
        None,
        "the host's idle time is not the container's"
    );
}

#[test]
fn lxcfs_already_counts_for_the_container() {
    let dir = tempfile::tempdir().unwrap();
    plain(dir.path());
    write(
        dir.path(),
        &[
            ("sys/fs/cgroup/cgroup.events", "populated 1\n"),
            (
                "sys/fs/cgroup/cpu.stat",
                "usage_usec 3\nuser_usec 2\nsystem_usec 1\n",
            ),
            (
                "proc/self/mountinfo",
                "100 90 0:50 /proc/stat /proc/stat rw,nosuid - fuse.lxcfs lxcfs rw\n",
            ),
        ],
    );
    let samples = sampled(dir.path());
    assert_eq!(samples.get(SeriesId::CPU_USER, ""), Some(1_000));
    assert_eq!(samples.get(SeriesId::CPU_IDLE, ""), Some(40_000));
}

#[test]
fn a_container_on_cgroup_v1_has_its_own_limits() {
    let dir = tempfile::tempdir().unwrap();
    plain(dir.path());
    let limit = |bytes: &'static str| {
        [
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", bytes),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "536870912\n"),
            (
                "sys/fs/cgroup/memory/memory.stat",
                "cache 1\ntotal_inactive_file 134217728\n",
            ),
            ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
        ]
    };
    write(dir.path(), &limit("1073741824\n"));
    let samples = sampled(dir.path());
    assert_eq!(samples.get(SeriesId::MEM_TOTAL, ""), Some(1_024 * 16));
    assert_eq!(samples.get(SeriesId::MEM_USED, ""), Some(384 * 16));
    assert_eq!(samples.get(SeriesId::CPU_COUNT, ""), Some(200));
    // A host's root cgroup prints the largest number there is.
    write(dir.path(), &limit("9223372036854771712\n"));
    assert_eq!(
        sampled(dir.path()).get(SeriesId::MEM_TOTAL, ""),
        Some(16_777_216 / 64)
    );
}

#[test]
fn a_host_with_a_thousand_interfaces_stays_bounded() {
    let dir = tempfile::tempdir().unwrap();
    plain(dir.path());
    let mut text = String::from("head\nhead\n");
    for number in 0..1_000 {
        text.push_str(&format!(
            "vlan{number:04}: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n"
        ));
    }
    write(dir.path(), &[("proc/net/dev", &text)]);
    let samples = sampled(dir.path());
    let received = samples
        .iter()
        .filter(|sample| sample.series == SeriesId::NET_RX_BYTES)
        .count();
    assert_eq!(received, LABELS_PER_SET_MAX);
    assert_eq!(samples.get(SeriesId::NET_RX_BYTES, "vlan0000"), Some(1));
    let dropped = 1_000 - i64::try_from(LABELS_PER_SET_MAX).unwrap();
    assert_eq!(
        samples.get(SeriesId::AGENT_LABELS_DROPPED, ""),
        Some(dropped)
    );
}

#[test]
fn this_host_is_measured_for_real() {
    let mut host = Host::default();
    let mut samples = SampleSet::new();
    host.sample(&mut samples);
    let total = samples.get(SeriesId::MEM_TOTAL, "").unwrap();
    let used = samples.get(SeriesId::MEM_USED, "").unwrap();
    assert!(total > 0 && used > 0 && used <= total, "{used} of {total}");
    assert!(samples.get(SeriesId::CPU_USER, "").unwrap() > 0);
    assert!(samples.get(SeriesId::PROC_COUNT, "").unwrap() > 0);
    assert!(samples.get(SeriesId::UPTIME, "").is_some());
    assert!(samples.get(SeriesId::AGENT_MEM, "").is_some());
    assert!(
        samples
            .iter()
            .any(|sample| sample.series == SeriesId::FS_TOTAL)
    );
    let known = samples
        .iter()
        .all(|sample| sample.series.series().is_some());
    assert!(known, "every sample is in the catalogue");
}
