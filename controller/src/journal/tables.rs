//! The tables of the journal's file.

use redb::TableDefinition;

use crate::rows::Rows;

/// Every table.
pub(super) static TABLES: &[&dyn Rows] = &[
    &META,
    &RECORDS,
    &CHECKPOINTS,
    &SNAPSHOTS,
    &CURSORS,
    &TARGETS,
    &KEY_USES,
];

/// The format of the file as a whole. Raised by a change that an older program
/// would misread; a file with a higher one is refused.
pub(super) const FORMAT: u32 = 1;

/// What the journal is: see the keys below.
pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// Four bytes, big-endian: the format.
pub(super) const META_FORMAT: &str = "format";

/// Ten bytes: the fleet's id.
pub(super) const META_FLEET: &str = "fleet";

/// Eight bytes, big-endian: when the journal was made.
pub(super) const META_CREATED: &str = "created_at";

/// Record number → the record's link (32 bytes), then its JSON.
pub(super) const RECORDS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("records");

/// Record number → the checkpoint after it, JSON.
pub(super) const CHECKPOINTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("checkpoints");

/// Record number → the state after it.
pub(super) const SNAPSHOTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("snapshots");

/// An effect's name → the last record that it has done.
pub(super) const CURSORS: TableDefinition<'_, &str, u64> = TableDefinition::new("cursors");

/// Command or rollout id and page → the ids of its targets, one after the other.
pub(super) const TARGETS: TableDefinition<'_, (&[u8; 10], u32), &[u8]> =
    TableDefinition::new("targets");

/// API key's serial → when it was last used, in controller time.
pub(super) const KEY_USES: TableDefinition<'_, &[u8; 10], u64> = TableDefinition::new("key_uses");

/// Targets in one page: 40 KB, so that a page of an answer reads little more.
pub(super) const TARGETS_PER_PAGE: usize = 4_096;
