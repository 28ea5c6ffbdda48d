//! Exports of the audit trail: JSON lines that can be read, kept elsewhere, and
//! checked without the controller.
//!
//! ```text
//! {"journal":1,"fleet":"…","created_at":…,"from":1,"previous":"…"}
//! {"hash":"…","record":{…}}
//! {"checkpoint":{…}}
//! {"seal":{…}}
//! ```
//!
//! A record stands in its line byte for byte as it is stored, because those are
//! the bytes that are hashed.

use std::io::Write;

use protocol::id::FleetId;
use protocol::time::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::domain::audit::chain::{Checkpoint, Seal};
use crate::domain::digest::Digest;
use crate::journal::error::JournalError;
use crate::journal::read::{READ_RECORDS_MAX, parse_checkpoint, raw_records, split};
use crate::journal::tables::CHECKPOINTS;
use crate::journal::{Head, JournalReader};

/// The format of an export.
pub(super) const EXPORT_FORMAT: u32 = 1;

/// The first line of an export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    pub(super) journal: u32,
    pub(super) fleet: FleetId,
    pub(super) created_at: UnixMillis,
    pub(super) from: u64,
    pub(super) previous: Digest,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CheckpointLine {
    pub(super) checkpoint: Checkpoint,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SealLine {
    pub(super) seal: Seal,
}

/// The parts of a record's line around its hash and its JSON.
pub(super) const RECORD_OPEN: &str = r#"{"hash":""#;
pub(super) const RECORD_MIDDLE: &str = r#"","record":"#;
pub(super) const RECORD_CLOSE: &str = "}";

impl JournalReader {
    /// Writes every record from number `from` (1 for all) up to the head, the
    /// checkpoints between them, and a seal over the whole. Reads the journal in
    /// pieces, so neither memory nor a lock grows with its length; what is
    /// appended meanwhile is not part of it. Writes nothing to the journal: an
    /// export works when the disk is full.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn export(
        &self,
        from: u64,
        now: UnixMillis,
        out: &mut dyn Write,
    ) -> Result<Seal, JournalError> {
        let head = self.head()?;
        let from = from.max(1).min(head.seq + 1);
        let previous = self.link_before(from, head)?;
        write_json(
            out,
            &Header {
                journal: EXPORT_FORMAT,
                fleet: self.fleet(),
                created_at: self.created_at(),
                from,
                previous,
            },
        )?;
        let mut next = from;
        while next <= head.seq {
            let left = usize::try_from(head.seq - next + 1).unwrap_or(READ_RECORDS_MAX);
            next = self.export_piece(next, left, out)?;
        }
        let seal = Seal::sign(
            &self.shared().key(),
            self.fleet(),
            (from, previous),
            (head.seq, head.hash),
            now,
        );
        write_json(out, &SealLine { seal: seal.clone() })?;
        out.flush().map_err(JournalError::Write)?;
        Ok(seal)
    }

    /// Writes up to `count` records from `from` on; the number after the last.
    fn export_piece(
        &self,
        from: u64,
        count: usize,
        out: &mut dyn Write,
    ) -> Result<u64, JournalError> {
        let (records, checkpoints) = self.shared().read(|transaction| {
            let records = raw_records(transaction, from, count, |seq, value| {
                let (hash, bytes) = split(value)?;
                Ok((seq, hash, bytes.to_vec()))
            })?;
            let end = from + records.len() as u64;
            let failed = "read checkpoints";
            let table = transaction
                .open_table(CHECKPOINTS)
                .map_err(JournalError::storage(failed))?;
            let checkpoints = table
                .range(from..end)
                .map_err(JournalError::storage(failed))?
                .map(|entry| {
                    let (_, bytes) = entry.map_err(JournalError::storage(failed))?;
                    parse_checkpoint(bytes.value())
                })
                .collect::<Result<Vec<_>, _>>()?;
            Ok((records, checkpoints))
        })?;
        let mut checkpoints = checkpoints.into_iter().peekable();
        let mut next = from;
        for (seq, hash, bytes) in records {
            let hash = hash.to_string();
            let parts = [
                RECORD_OPEN.as_bytes(),
                hash.as_bytes(),
                RECORD_MIDDLE.as_bytes(),
                &bytes,
                RECORD_CLOSE.as_bytes(),
                b"\n",
            ];
            for part in parts {
                out.write_all(part).map_err(JournalError::Write)?;
            }
            if let Some(checkpoint) = checkpoints.next_if(|checkpoint| checkpoint.seq == seq) {
                write_json(out, &CheckpointLine { checkpoint })?;
            }
            next = seq + 1;
        }
        if next == from {
            return Err(JournalError::Broken { seq: from });
        }
        Ok(next)
    }

    fn link_before(&self, from: u64, head: Head) -> Result<Digest, JournalError> {
        if from == 1 {
            return Ok(self.shared().identity.genesis());
        }
        if from == head.seq + 1 {
            return Ok(head.hash);
        }
        let links = self.shared().read(|transaction| {
            raw_records(transaction, from - 1, 1, |_, value| {
                split(value).map(|(hash, _)| hash)
            })
        })?;
        links
            .first()
            .copied()
            .ok_or(JournalError::Broken { seq: from - 1 })
    }
}

fn write_json(out: &mut dyn Write, line: &impl Serialize) -> Result<(), JournalError> {
    let mut bytes = serde_json::to_vec(line)
        .map_err(|error| JournalError::Write(std::io::Error::other(error)))?;
    bytes.push(b'\n');
    out.write_all(&bytes).map_err(JournalError::Write)
}
