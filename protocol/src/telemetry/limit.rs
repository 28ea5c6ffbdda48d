//! The bounds of telemetry, each with its reason.

/// Longest label (a device, interface, mount point or container name), in bytes.
///
/// Linux gives interfaces 15 bytes and block devices 32; mount points and
/// container names are longer in theory. A longer one is cut by the collector
/// and marked with a hash of the whole, so that two long names stay apart.
pub const LABEL_BYTES_MAX: usize = 64;

/// Labels in one frame. A plain host has about four; a Docker host with a
/// hundred containers still fits. Collectors keep each set below its own bound
/// and this one stops a hostile frame.
pub const FRAME_LABELS_MAX: usize = 256;

/// Columns (one series with one label) in one frame.
pub const FRAME_COLUMNS_MAX: usize = 1_024;

/// Moments in one frame: an hour at 10 s is 360, fifteen minutes live is 900.
pub const FRAME_SLOTS_MAX: usize = 1_024;

/// Values in one frame (columns × slots). A decoded value takes 16 bytes, so a
/// frame never takes more than 4 MiB of memory once decoded; 250 columns at
/// 1,024 slots or 1,024 columns at 256 slots are within it.
pub const FRAME_VALUES_MAX: usize = 262_144;

/// Encoded size of a frame, so that one fits an envelope of 128 KiB with room.
pub const FRAME_BYTES_MAX: usize = 96 * 1_024;

/// Size of a frame's body before compression: what a decoder allocates at most
/// because a frame claims so.
pub const FRAME_BODY_BYTES_MAX: usize = 1_024 * 1_024;

/// Shortest interval between samples: no collector runs faster than live mode's
/// 1 s, tests go down to this.
pub const INTERVAL_MS_MIN: u32 = 10;

/// Longest interval between samples: a day.
pub const INTERVAL_MS_MAX: u32 = 86_400_000;

/// Label sets: how many devices, interfaces, … one node reports. Beyond it the
/// collector keeps the first ones in name order and counts the rest in
/// `agent.labels_dropped`, so that a host with a thousand veth interfaces does
/// not drown its own frames.
pub const LABELS_PER_SET_MAX: usize = 16;

/// Containers that one node reports by name.
pub const CONTAINERS_MAX: usize = 64;

const _: () = assert!(FRAME_LABELS_MAX <= FRAME_COLUMNS_MAX);
const _: () = assert!(FRAME_BYTES_MAX < 128 * 1_024);
const _: () = assert!(FRAME_COLUMNS_MAX <= FRAME_VALUES_MAX);
