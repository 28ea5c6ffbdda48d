//! From the journal to the world outside: what a record means for nodes.
//!
//! The desk carries effects out (`uplink/desk/orders.rs`): an issued command
//! opens its targets, a cancelled one is recalled, a revoked node is cut off, a
//! renamed one is told, a rollout is carried out. This module reads the records that it has not seen.
//!
//! **Invariant:** the cursor is written in the same intake transaction as what
//! the records led to, so each record takes effect once, whatever crashes; and
//! records taken twice change nothing, so a cursor that was put back is harmless.

use protocol::id::NodeId;

use crate::domain::decide::TargetsOf;
use crate::domain::event::Event;
use crate::journal::JournalReader;
use crate::journal::error::JournalError;
use crate::uplink::desk::Recorded;

/// Records read at once. A fleet command's targets come with its record.
const RECORDS_MAX: usize = 64;

/// Targets read at once.
const TARGETS_PAGE: usize = 10_000;

/// Records after `cursor`, with what they refer to. Empty at the end of the
/// journal. Blocks on the disk.
///
/// # Errors
/// [`JournalError`]; the same records are read again later.
pub fn after(journal: &JournalReader, cursor: u64) -> Result<Vec<Recorded>, JournalError> {
    journal
        .read(cursor + 1, RECORDS_MAX)?
        .into_iter()
        .map(|stored| {
            let targets = if let Event::CommandIssued(issued) = &stored.record.event {
                targets(journal, issued.command.into())?
            } else if let Event::RolloutStarted(started) = &stored.record.event {
                targets(journal, started.rollout.into())?
            } else {
                Vec::new()
            };
            Ok(Recorded {
                record: stored.record,
                targets,
            })
        })
        .collect()
}

fn targets(journal: &JournalReader, of: TargetsOf) -> Result<Vec<NodeId>, JournalError> {
    let mut nodes = Vec::new();
    loop {
        let page = journal.targets(of, nodes.len(), TARGETS_PAGE)?;
        if page.is_empty() {
            return Ok(nodes);
        }
        nodes.extend(page);
    }
}
