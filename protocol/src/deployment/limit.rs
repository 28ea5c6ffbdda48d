//! The bounds of deployments, with their unit and their reason.

use core::time::Duration;

use crate::limits::ENVELOPE_BYTES_MAX;

/// Bytes of one encoded [`super::spec::Spec`]. With what surrounds it, it fits an
/// envelope; the largest Compose projects seen in practice have a tenth.
pub const SPEC_BYTES_MAX: usize = 96 * 1024;

/// Services of one deployment.
pub const SERVICES_COUNT_MAX: usize = 64;

/// Networks, and volumes, of one deployment each.
pub const RESOURCES_COUNT_MAX: usize = 64;

/// Files (configs and secrets) of one deployment.
pub const FILES_COUNT_MAX: usize = 128;

/// Bytes of one config or secret: what the container orchestrators allow.
pub const FILE_BYTES_MAX: usize = 500 * 1024;

/// Entries of one list or map of a service: environment, ports, mounts, labels.
pub const LIST_COUNT_MAX: usize = 512;

/// Bytes of one text of a service: an argument, a value, a path.
pub const TEXT_BYTES_MAX: usize = 16 * 1024;

/// Bytes of the name of a deployment, service, network, volume or file. Container
/// names join two of them, and engines cut host names at 63.
pub const NAME_BYTES_MAX: usize = 40;

/// Bytes of a host name, as DNS has it.
pub const HOSTNAME_BYTES_MAX: usize = 253;

/// Bytes of one part of a host name.
pub const HOSTNAME_PART_BYTES_MAX: usize = 63;

/// The least memory that an engine gives a container.
pub const MEMORY_BYTES_MIN: u64 = 6 * 1024 * 1024;

/// Deployments that one node holds; each is an entry of its state.
pub const DEPLOYMENTS_PER_NODE_MAX: usize = 64;

/// Deployments of one fleet: each has a number of 16 bits.
pub const DEPLOYMENTS_COUNT_MAX: usize = 4096;

/// Lines of a failed workload's log that a report carries.
pub const LOG_TAIL_LINES_MAX: usize = 20;

/// Bytes of one of those lines.
pub const LOG_TAIL_LINE_BYTES_MAX: usize = 512;

/// Drifts that were put back and that a report names.
pub const DRIFT_COUNT_MAX: usize = 16;

/// Bytes of an uploaded image archive.
pub const ARCHIVE_BYTES_MAX: u64 = 8 * 1024 * 1024 * 1024;

/// The longest of the times in a health check, of a service or a rollout, and of
/// the time that a service has to stop.
pub const HEALTH_TIME_MAX: Duration = Duration::from_secs(24 * 3600);

const _: () = {
    assert!(SPEC_BYTES_MAX + 16 * 1024 <= ENVELOPE_BYTES_MAX);
    assert!(DEPLOYMENTS_COUNT_MAX <= u16::MAX as usize);
};
