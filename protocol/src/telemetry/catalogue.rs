//! The one list of everything that a node measures.
//!
//! A series has a number (on the wire), a name (for people and queries), a unit,
//! a kind, a scale (the unit's worth of one step of the integer) and the name of
//! what its label tells apart.
//!
//! **Invariant:** append-only. A number is never reused, and never changes its
//! name, unit, kind, scale or label; what must change gets a new number. The
//! golden file `golden/v1/catalogue.txt` holds every released line, and a test
//! compares. Appending raises [`VERSION`].
//!
//! A decoder that meets a number it does not know keeps the column: an old
//! controller stores a new agent's frames whole, and shows them once upgraded.
//!
//! Scales are chosen where precision stops being worth its bytes: memory in
//! steps of 64 KiB, filesystems in steps of 1 MiB, times in 10 ms.

use std::fmt;

/// The version of this list, named by every frame. Raised when series are added.
pub const VERSION: u16 = 2;

/// The number of a series.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct SeriesId(pub u16);

impl SeriesId {
    /// The catalogue's line for this number; `None` for one of a newer version.
    pub fn series(self) -> Option<&'static Series> {
        CATALOGUE
            .binary_search_by_key(&self, |series| series.id)
            .ok()
            .and_then(|index| CATALOGUE.get(index))
    }
}

impl fmt::Display for SeriesId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.series() {
            Some(series) => f.write_str(series.name),
            None => write!(f, "series.{}", self.0),
        }
    }
}

/// Whether a value stands for itself or only its growth means something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeriesKind {
    /// A level: memory in use. Coarser tiers keep its mean.
    Gauge,
    /// A total since the host or the agent started: bytes received. It falls
    /// only when it starts again. Coarser tiers keep the last value.
    Counter,
}

/// What a scaled value is measured in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
    /// Degrees Celsius.
    Celsius,
    /// A plain number of things.
    Count,
    /// A proportion without a unit, as in load averages.
    Ratio,
}

impl Unit {
    /// The unit as printed after a value; empty for counts and ratios.
    pub const fn symbol(self) -> &'static str {
        match self {
            Self::Seconds => "s",
            Self::Bytes => "B",
            Self::Celsius => "°C",
            Self::Count | Self::Ratio => "",
        }
    }

    const fn prometheus_suffix(self) -> &'static str {
        match self {
            Self::Seconds => "_seconds",
            Self::Bytes => "_bytes",
            Self::Celsius => "_celsius",
            Self::Count | Self::Ratio => "",
        }
    }
}

/// What a series' label tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LabelName {
    /// The series has no label.
    None,
    /// Block device, `vda`.
    Device,
    /// Network interface, `eth0`.
    Interface,
    /// Mount point, `/var`.
    Mount,
    /// Temperature sensor, `coretemp core 0`.
    Sensor,
    /// Container by name.
    Container,
    /// What the agent depends on, `registry docker.io`.
    Dependency,
}

impl LabelName {
    /// The label's name in queries and in Prometheus; `None` without a label.
    pub const fn text(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Device => Some("device"),
            Self::Interface => Some("interface"),
            Self::Mount => Some("mount"),
            Self::Sensor => Some("sensor"),
            Self::Container => Some("container"),
            Self::Dependency => Some("dependency"),
        }
    }
}

/// One line of the catalogue.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Series {
    /// The number on the wire.
    pub id: SeriesId,
    /// The dotted name, `mem.used`.
    pub name: &'static str,
    /// Gauge or counter.
    pub kind: SeriesKind,
    /// What a scaled value is measured in.
    pub unit: Unit,
    /// What one step of the integer is worth in the unit.
    pub scale: f64,
    /// What the label tells apart.
    pub label: LabelName,
    /// One line for people.
    pub summary: &'static str,
}

impl Series {
    /// The series of this name.
    pub fn by_name(name: &str) -> Option<&'static Self> {
        CATALOGUE.iter().find(|series| series.name == name)
    }

    /// A wire value in the series' unit.
    #[expect(
        clippy::cast_precision_loss,
        reason = "values past 2^53 steps lose their last digits, which no reader of a measurement can tell"
    )]
    pub fn scaled(&self, value: i64) -> f64 {
        value as f64 * self.scale
    }

    /// The metric's name at a Prometheus-compatible store: `flotilla_mem_used_bytes`,
    /// counters end in `_total`.
    pub fn prometheus_name(&self) -> String {
        let mut name = String::from("flotilla_");
        name.extend(self.name.chars().map(|c| if c == '.' { '_' } else { c }));
        let suffix = self.unit.prometheus_suffix();
        if !suffix.is_empty() && !name.ends_with(suffix) {
            name.push_str(suffix);
        }
        if self.kind == SeriesKind::Counter {
            name.push_str("_total");
        }
        name
    }
}

macro_rules! catalogue {
    ($($number:literal $constant:ident $name:literal $kind:ident $unit:ident $scale:literal $label:ident $summary:literal;)*) => {
        /// Every series, in order of its number.
        pub static CATALOGUE: &[Series] = &[
            $(Series {
                id: SeriesId($number),
                name: $name,
                kind: SeriesKind::$kind,
                unit: Unit::$unit,
                scale: $scale,
                label: LabelName::$label,
                summary: $summary,
            },)*
        ];

        impl SeriesId {
            $(#[doc = $summary] pub const $constant: Self = Self($number);)*
        }
    };
}

// A macro for a table: number, constant and line stand side by side, so that a
// constant cannot name another line than its own.
catalogue! {
    1 CPU_USER "cpu.user" Counter Seconds 0.01 None "CPU time in user mode, all CPUs";
    2 CPU_NICE "cpu.nice" Counter Seconds 0.01 None "CPU time in user mode at low priority";
    3 CPU_SYSTEM "cpu.system" Counter Seconds 0.01 None "CPU time in the kernel";
    4 CPU_IDLE "cpu.idle" Counter Seconds 0.01 None "CPU time idle";
    5 CPU_IOWAIT "cpu.iowait" Counter Seconds 0.01 None "CPU time idle while waiting for a disk";
    6 CPU_IRQ "cpu.irq" Counter Seconds 0.01 None "CPU time in interrupts, hard and soft";
    7 CPU_STEAL "cpu.steal" Counter Seconds 0.01 None "CPU time taken by the hypervisor for others";
    8 CPU_COUNT "cpu.count" Gauge Count 0.01 None "CPUs that the node may use, a cgroup's quota included";
    9 LOAD_1 "load.1m" Gauge Ratio 0.01 None "load average over one minute";
    10 LOAD_5 "load.5m" Gauge Ratio 0.01 None "load average over five minutes";
    11 LOAD_15 "load.15m" Gauge Ratio 0.01 None "load average over fifteen minutes";
    12 MEM_TOTAL "mem.total" Gauge Bytes 65536.0 None "memory that the node may use, a cgroup's limit included";
    13 MEM_USED "mem.used" Gauge Bytes 65536.0 None "memory in use, without what can be reclaimed";
    14 MEM_AVAILABLE "mem.available" Gauge Bytes 65536.0 None "memory that can be had without swapping";
    15 MEM_CACHED "mem.cached" Gauge Bytes 65536.0 None "page cache, buffers and reclaimable slabs";
    16 SWAP_TOTAL "swap.total" Gauge Bytes 65536.0 None "swap space";
    17 SWAP_USED "swap.used" Gauge Bytes 65536.0 None "swap space in use";
    18 PSI_CPU_SOME "psi.cpu.some" Counter Seconds 0.001 None "time in which some task waited for a CPU";
    19 PSI_MEM_SOME "psi.mem.some" Counter Seconds 0.001 None "time in which some task waited for memory";
    20 PSI_MEM_FULL "psi.mem.full" Counter Seconds 0.001 None "time in which every task waited for memory";
    21 PSI_IO_SOME "psi.io.some" Counter Seconds 0.001 None "time in which some task waited for IO";
    22 PSI_IO_FULL "psi.io.full" Counter Seconds 0.001 None "time in which every task waited for IO";
    23 FS_TOTAL "fs.total" Gauge Bytes 1048576.0 Mount "size of the filesystem";
    24 FS_USED "fs.used" Gauge Bytes 1048576.0 Mount "space in use on the filesystem";
    25 FS_AVAILABLE "fs.available" Gauge Bytes 1048576.0 Mount "space left for unprivileged users";
    26 FS_INODES "fs.inodes" Gauge Count 1.0 Mount "inodes of the filesystem";
    27 FS_INODES_USED "fs.inodes_used" Gauge Count 1.0 Mount "inodes in use";
    28 DISK_READ_OPS "disk.read.ops" Counter Count 1.0 Device "reads completed";
    29 DISK_READ_BYTES "disk.read.bytes" Counter Bytes 512.0 Device "bytes read";
    30 DISK_READ_TIME "disk.read.time" Counter Seconds 0.001 Device "time that reads took, summed: divided by reads it is their latency";
    31 DISK_WRITE_OPS "disk.write.ops" Counter Count 1.0 Device "writes completed";
    32 DISK_WRITE_BYTES "disk.write.bytes" Counter Bytes 512.0 Device "bytes written";
    33 DISK_WRITE_TIME "disk.write.time" Counter Seconds 0.001 Device "time that writes took, summed: divided by writes it is their latency";
    34 DISK_BUSY "disk.busy" Counter Seconds 0.001 Device "time with at least one request in flight";
    35 NET_RX_BYTES "net.rx.bytes" Counter Bytes 1.0 Interface "bytes received";
    36 NET_RX_PACKETS "net.rx.packets" Counter Count 1.0 Interface "packets received";
    37 NET_RX_ERRORS "net.rx.errors" Counter Count 1.0 Interface "packets received with an error";
    38 NET_RX_DROPS "net.rx.drops" Counter Count 1.0 Interface "packets received and dropped";
    39 NET_TX_BYTES "net.tx.bytes" Counter Bytes 1.0 Interface "bytes sent";
    40 NET_TX_PACKETS "net.tx.packets" Counter Count 1.0 Interface "packets sent";
    41 NET_TX_ERRORS "net.tx.errors" Counter Count 1.0 Interface "packets that failed to be sent";
    42 NET_TX_DROPS "net.tx.drops" Counter Count 1.0 Interface "packets dropped before they were sent";
    43 TCP_ESTABLISHED "tcp.established" Gauge Count 1.0 None "TCP connections that are open";
    44 TCP_RETRANSMITS "tcp.retransmits" Counter Count 1.0 None "TCP segments sent again";
    45 TCP_RESETS "tcp.resets" Counter Count 1.0 None "TCP connections reset while open";
    46 TEMP "temp" Gauge Celsius 0.1 Sensor "temperature";
    47 UPTIME "uptime" Gauge Seconds 1.0 None "time since the host started";
    48 PROC_COUNT "proc.count" Gauge Count 1.0 None "processes";
    49 PROC_RUNNING "proc.running" Gauge Count 1.0 None "threads that run or want to run";
    50 PROC_BLOCKED "proc.blocked" Gauge Count 1.0 None "threads waiting for IO that cannot be interrupted";
    51 FD_USED "fd.used" Gauge Count 1.0 None "file descriptors open on the host";
    52 FD_MAX "fd.max" Gauge Count 1.0 None "file descriptors that the host allows";
    53 CONTAINERS_TOTAL "containers.total" Gauge Count 1.0 None "containers on the host, running or not";
    54 CONTAINERS_RUNNING "containers.running" Gauge Count 1.0 None "containers that run";
    55 CONTAINER_CPU "container.cpu" Counter Seconds 0.01 Container "CPU time of the container";
    56 CONTAINER_MEM "container.mem" Gauge Bytes 65536.0 Container "memory of the container, without the file cache that can be reclaimed";
    57 AGENT_MEM "agent.mem" Gauge Bytes 65536.0 None "the agent's own memory, proportional share of shared pages where the kernel tells it cheaply";
    58 AGENT_CPU "agent.cpu" Counter Seconds 0.01 None "the agent's own CPU time";
    59 AGENT_FLASH "agent.flash.bytes" Counter Bytes 4096.0 None "bytes that the agent wrote to storage since it started";
    60 AGENT_OUTBOX "agent.outbox" Gauge Count 1.0 None "entries that wait for the controller's acknowledgement";
    61 AGENT_LINK_SENT "agent.link.sent.bytes" Counter Bytes 1.0 None "bytes that the agent sent to the broker since it started";
    62 AGENT_LINK_RECEIVED "agent.link.received.bytes" Counter Bytes 1.0 None "bytes that the agent received from the broker since it started";
    63 AGENT_LABELS_DROPPED "agent.labels_dropped" Gauge Count 1.0 None "devices, interfaces, mounts, sensors and containers that are beyond the bound and not reported";
    64 AGENT_SAMPLE_TIME "agent.sample.time" Gauge Seconds 0.001 None "time that the last sampling took";
    65 AGENT_BREAKER "agent.breaker" Gauge Count 1.0 Dependency "the agent's breaker for what it depends on: 0 closed, 1 half-open, 2 open";
}

#[cfg(test)]
mod tests;
