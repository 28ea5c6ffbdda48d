//! What a condition says: its parts, and its normal form.
//!
//! ```text
//! expression = test [ "for" duration ]
//! test       = value compare number [ unit ]  |  "absent(" series [ "{" label "}" ] ")"
//! value      = series [ "{" label "}" ]
//!            | ( "max" | "min" | "avg" | "sum" ) "(" series [ "{" label "}" ] ")"
//! series     = a name of the catalogue | "cpu.busy"
//! compare    = ">" | ">=" | "<" | "<=" | "==" | "!="
//! unit       = "%" | ( "B" … "TiB" | "kB" … "TB" | "ms" | "s" | "m" | "h" | "d" | "C" ) [ "/s" ] | "/s"
//! duration   = digits ( "s" | "m" | "h" | "d" )
//! ```
//!
//! A series with a label (a mount point, an interface) is watched for each of its
//! labels by itself, unless one is named in braces or they are joined by a
//! function.
//!
//! What a value is compared as follows from the series and the unit:
//! - a gauge by its level, in its unit;
//! - a counter by its rate, so its unit ends in `/s`;
//! - a share, with `%`, where the series has a natural total: memory and swap of
//!   their totals; a filesystem's space of what is used and available together, as
//!   `df` counts it (a part is reserved, so that a full one would never show
//!   100 % of its size); inodes, file descriptors and running containers of all;
//!   CPU times of what the CPUs could give; stall times (`psi.*`) and `disk.busy`
//!   of the time that passed. `%` of any other series is refused by name, and so
//!   is the sum of shares.
//!
//! `cpu.busy` is no series of the catalogue but the share of CPU time that is not
//! idle; it is compared with `%`.

use core::fmt;
use core::str::FromStr;
use core::time::Duration;

use super::parse;
use crate::ErrorCode;
use crate::telemetry::Label;
use crate::telemetry::catalogue::{Series, SeriesId, Unit};

/// Bytes of an expression's text: the longest sensible one has 120.
pub const EXPRESSION_BYTES_MAX: usize = 256;

/// The longest that a condition may have to hold.
pub const LASTING_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// The name of the share of CPU time that is not idle.
pub(super) const CPU_BUSY: &str = "cpu.busy";

/// A condition that can be watched. Equal texts in normal form are equal
/// expressions.
#[derive(Clone, Debug, PartialEq)]
pub struct Expression {
    pub(super) value: Value,
    pub(super) test: Test,
    pub(super) lasting: Duration,
}

/// What is looked at.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Value {
    pub(super) source: Source,
    pub(super) label: Option<Label>,
    pub(super) join: Option<Join>,
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Source {
    Series(&'static Series),
    CpuBusy,
}

/// How the values of several labels become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Join {
    Max,
    Min,
    Avg,
    Sum,
}

/// What must hold of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Test {
    Compare(Compare, Threshold),
    Absent,
}

/// How two numbers are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compare {
    Above,
    AtLeast,
    Below,
    AtMost,
    Equal,
    Unequal,
}

/// The number that decides, as it was written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Threshold {
    pub(super) number: f64,
    /// As printed, without `/s`: `MiB`, `%`, or nothing.
    pub(super) unit: &'static str,
    /// What one of the unit is worth in the series' unit.
    pub(super) factor: f64,
    pub(super) kind: Kind,
}

/// As what a value is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Level,
    Rate,
    Share,
}

/// Of what a share is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whole {
    /// Of another series of the same label.
    Series(SeriesId),
    /// Of another series that has no label.
    Node(SeriesId),
    /// Of two series of the same label together.
    Both(SeriesId, SeriesId),
    /// Of the time that all CPUs could give.
    Cpus,
    /// Of the time that passed.
    Time,
}

/// A text that is not a condition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at character {position}: expected {expected}, found {found}")]
pub struct ConditionError {
    /// Where, in characters from 1.
    pub position: usize,
    /// What could stand there.
    pub expected: String,
    /// What stands there.
    pub found: String,
}

impl ConditionError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        ErrorCode::ConditionInvalid
    }
}

impl Expression {
    /// How long it must have held without a break before it counts.
    #[must_use]
    pub fn lasting(&self) -> Duration {
        self.lasting
    }

    /// The name of what is watched, as in the expression.
    #[must_use]
    pub fn series(&self) -> &'static str {
        self.value.source.name()
    }
}

impl FromStr for Expression {
    type Err = ConditionError;

    fn from_str(text: &str) -> Result<Self, ConditionError> {
        parse::expression(text)
    }
}

impl Source {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Series(series) => series.name,
            Self::CpuBusy => CPU_BUSY,
        }
    }

    /// What a share of it is a share of; none when nothing is natural.
    pub(super) fn whole(self) -> Option<Whole> {
        let Self::Series(series) = self else {
            return Some(Whole::Cpus);
        };
        match series.id {
            SeriesId::MEM_USED | SeriesId::MEM_AVAILABLE | SeriesId::MEM_CACHED => {
                Some(Whole::Series(SeriesId::MEM_TOTAL))
            }
            SeriesId::CONTAINER_MEM | SeriesId::AGENT_MEM => Some(Whole::Node(SeriesId::MEM_TOTAL)),
            SeriesId::SWAP_USED => Some(Whole::Series(SeriesId::SWAP_TOTAL)),
            SeriesId::FS_USED | SeriesId::FS_AVAILABLE => {
                Some(Whole::Both(SeriesId::FS_USED, SeriesId::FS_AVAILABLE))
            }
            SeriesId::FS_INODES_USED => Some(Whole::Series(SeriesId::FS_INODES)),
            SeriesId::FD_USED => Some(Whole::Series(SeriesId::FD_MAX)),
            SeriesId::CONTAINERS_RUNNING => Some(Whole::Series(SeriesId::CONTAINERS_TOTAL)),
            SeriesId::CONTAINER_CPU | SeriesId::AGENT_CPU => Some(Whole::Cpus),
            id if CPU_MODES.contains(&id) => Some(Whole::Cpus),
            SeriesId::PSI_CPU_SOME
            | SeriesId::PSI_MEM_SOME
            | SeriesId::PSI_MEM_FULL
            | SeriesId::PSI_IO_SOME
            | SeriesId::PSI_IO_FULL
            | SeriesId::DISK_BUSY => Some(Whole::Time),
            _ => None,
        }
    }
}

/// Every mode in which the kernel counts CPU time: together they are all of it.
pub(super) const CPU_MODES: [SeriesId; 7] = [
    SeriesId::CPU_USER,
    SeriesId::CPU_NICE,
    SeriesId::CPU_SYSTEM,
    SeriesId::CPU_IRQ,
    SeriesId::CPU_STEAL,
    SeriesId::CPU_IDLE,
    SeriesId::CPU_IOWAIT,
];

/// The modes of [`CPU_MODES`] in which nothing is done.
pub(super) const CPU_IDLE_MODES: [SeriesId; 2] = [SeriesId::CPU_IDLE, SeriesId::CPU_IOWAIT];

/// The units in which a series may be compared: as printed, and their worth.
pub(super) fn units(unit: Unit) -> &'static [(&'static str, f64)] {
    match unit {
        Unit::Bytes => &[
            ("B", 1.0),
            ("KiB", 1024.0),
            ("MiB", 1_048_576.0),
            ("GiB", 1_073_741_824.0),
            ("TiB", 1_099_511_627_776.0),
            ("kB", 1e3),
            ("MB", 1e6),
            ("GB", 1e9),
            ("TB", 1e12),
        ],
        Unit::Seconds => &[
            ("s", 1.0),
            ("ms", 0.001),
            ("m", 60.0),
            ("h", 3600.0),
            ("d", 86_400.0),
        ],
        Unit::Celsius => &[("C", 1.0)],
        Unit::Count | Unit::Ratio => &[("", 1.0)],
    }
}

impl Join {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Max => "max",
            Self::Min => "min",
            Self::Avg => "avg",
            Self::Sum => "sum",
        }
    }
}

impl Compare {
    pub(super) fn symbol(self) -> &'static str {
        match self {
            Self::Above => ">",
            Self::AtLeast => ">=",
            Self::Below => "<",
            Self::AtMost => "<=",
            Self::Equal => "==",
            Self::Unequal => "!=",
        }
    }

    #[expect(
        clippy::float_cmp,
        reason = "whole numbers of steps are compared with a number that someone wrote"
    )]
    pub(super) fn holds(self, value: f64, threshold: f64) -> bool {
        match self {
            Self::Above => value > threshold,
            Self::AtLeast => value >= threshold,
            Self::Below => value < threshold,
            Self::AtMost => value <= threshold,
            Self::Equal => value == threshold,
            Self::Unequal => value != threshold,
        }
    }
}

impl Threshold {
    fn suffix(&self) -> &'static str {
        match self.kind {
            Kind::Rate => "/s",
            Kind::Level | Kind::Share => "",
        }
    }

    /// A value in this threshold's unit, for a person.
    pub(super) fn shown(&self, value: f64) -> String {
        let digits = match value.abs() {
            small if small < 1.0 => 3,
            medium if medium < 100.0 => 1,
            _ => 0,
        };
        format!("{value:.digits$}{}{}", self.unit, self.suffix())
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", self.number, self.unit, self.suffix())
    }
}

impl fmt::Display for Expression {
    /// The normal form, which reads as the same expression.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Value {
            source,
            label,
            join,
        } = &self.value;
        let function = match self.test {
            Test::Absent => Some("absent"),
            Test::Compare(..) => join.map(Join::name),
        };
        if let Some(function) = function {
            write!(f, "{function}(")?;
        }
        f.write_str(source.name())?;
        if let Some(label) = label {
            write!(f, "{{{label}}}")?;
        }
        if function.is_some() {
            f.write_str(")")?;
        }
        if let Test::Compare(compare, threshold) = &self.test {
            write!(f, " {} {threshold}", compare.symbol())?;
        }
        if self.lasting.is_zero() {
            return Ok(());
        }
        let seconds = self.lasting.as_secs();
        let (count, unit) = DURATION_UNITS
            .into_iter()
            .find(|(_, length)| seconds.is_multiple_of(*length))
            .map_or((seconds, "s"), |(unit, length)| (seconds / length, unit));
        write!(f, " for {count}{unit}")
    }
}

/// The units of `for`, longest first, in seconds.
pub(super) const DURATION_UNITS: [(&str, u64); 4] =
    [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];
