//! Every bound of the wire, with its unit and its reason.
//!
//! A limit that only one side knows stands beside the queue or table that it
//! bounds; what both sides must agree on stands here.

use core::time::Duration;

/// Bytes of one envelope, header and signature included. Larger things travel
/// by HTTPS. The broker's packet limit is this plus the MQTT header.
pub const ENVELOPE_BYTES_MAX: usize = 128 * 1024;

/// Bytes of an MQTT packet that a broker must accept: an envelope and its topic.
pub const PACKET_BYTES_MAX: usize = ENVELOPE_BYTES_MAX + 1024;

/// Bytes of entries that a node puts into one upload. Leaves room for the
/// envelope around it, and keeps one lost packet cheap to send again.
pub const UPLOAD_BYTES_MAX: usize = 64 * 1024;

/// Entries in one upload. An acknowledgement is per upload, so a larger number
/// saves little.
pub const UPLOAD_ENTRIES_MAX: usize = 256;

/// Bytes of one stream entry's body. A receipt with its output is the largest.
pub const ENTRY_BYTES_MAX: usize = 60 * 1024;

/// Bytes of output (both streams together) that a receipt may carry.
pub const OUTPUT_BYTES_MAX: u32 = 48 * 1024;

/// Bytes of output that a receipt carries when the operator does not say.
pub const OUTPUT_BYTES_DEFAULT: u32 = 32 * 1024;

/// Bytes of one progress chunk; small enough to leave a slow link usable.
pub const PROGRESS_BYTES_MAX: usize = 8 * 1024;

/// Arguments of one command line, the program included.
pub const ARGV_COUNT_MAX: usize = 128;

/// Bytes of one argument.
pub const ARG_BYTES_MAX: usize = 4 * 1024;

/// Bytes of a path, a unit or a container name in a command.
pub const NAME_BYTES_MAX: usize = 256;

/// Lines of a log that one command may ask for.
pub const LOG_LINES_MAX: u32 = 10_000;

/// Bytes of a human-readable detail in a receipt or a rejection.
pub const DETAIL_BYTES_MAX: usize = 1024;

/// Labels of one node.
pub const LABELS_COUNT_MAX: usize = 64;

/// Bytes of a label's key or value (RFC 1123 label length, as Kubernetes has it).
pub const LABEL_BYTES_MAX: usize = 63;

/// Bytes of a selector's text.
pub const SELECTOR_BYTES_MAX: usize = 1024;

/// Terms of a selector.
pub const SELECTOR_TERMS_MAX: usize = 32;

/// Bytes of a node's name.
pub const NODE_NAME_BYTES_MAX: usize = 63;

/// How often a node says that it lives. A lost message is repaired within one
/// of these, so it bounds how stale a command's delivery can be.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);

/// A link is up while the controller's last acknowledgement is younger.
pub const LINK_PROVEN_MAX: Duration = Duration::from_secs(60);

/// Sent but unacknowledged uploads are sent again after this.
pub const ACK_STALL: Duration = Duration::from_secs(10);

/// Down messages of one session that wait for their confirmation. When full,
/// the controller keeps commands in their table and sends them later.
pub const DOWN_WINDOW_MAX: usize = 256;

/// Bytes that a node may have in flight on one stream before the first
/// acknowledgement of a session says otherwise.
pub const CREDIT_BYTES_INITIAL: u32 = 256 * 1024;

/// The longest that a command may run.
pub const RUN_TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);

/// How far ahead a command's `start_by` may lie.
pub const START_BY_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// How long a node keeps the id of a finished command past its `start_by`, so
/// that a late copy is recognised.
pub const LEDGER_KEEP: Duration = Duration::from_secs(24 * 3600);

/// A node whose clock is further off than this is flagged.
pub const CLOCK_OFFSET_MAX: Duration = Duration::from_secs(30);

/// Bytes of a certificate signing request in PEM.
pub const CSR_BYTES_MAX: usize = 8 * 1024;

const _: () = {
    assert!(UPLOAD_BYTES_MAX + 4096 <= ENVELOPE_BYTES_MAX);
    assert!(ENTRY_BYTES_MAX < UPLOAD_BYTES_MAX);
    assert!((OUTPUT_BYTES_MAX as usize) + DETAIL_BYTES_MAX + 4096 <= ENTRY_BYTES_MAX);
    assert!(PROGRESS_BYTES_MAX < ENTRY_BYTES_MAX);
    assert!(ARGV_COUNT_MAX * ARG_BYTES_MAX > ENVELOPE_BYTES_MAX / 2);
    assert!(OUTPUT_BYTES_DEFAULT <= OUTPUT_BYTES_MAX);
    assert!(LINK_PROVEN_MAX.as_secs() >= 3 * HEARTBEAT_INTERVAL.as_secs());
};
