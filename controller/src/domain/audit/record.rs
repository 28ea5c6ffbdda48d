//! A record: one event with its place in the journal, and who caused it when.
//!
//! Records are stored as JSON: the trail must be readable in ten years without
//! this program, and the bytes that are stored are the bytes that are hashed and
//! exported. A record of an unknown event or a newer version is refused by name,
//! never skipped.

use std::collections::BTreeMap;

use protocol::id::RequestId;
use protocol::time::UnixMillis;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::domain::access::caller::Caller;
use crate::domain::event::{self, Event};

/// One entry of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Its number: 1 for the first, without gaps.
    pub seq: u64,
    /// When it was decided, in controller time.
    pub at: UnixMillis,
    /// Who caused it.
    pub by: Caller,
    /// The request that caused it, by the caller's own id for it.
    pub request: Option<RequestId>,
    /// What was asked, as in `token.create`.
    pub operation: String,
    /// The version of the event.
    pub version: u16,
    /// What happened.
    pub event: Event,
}

/// Stored bytes that are not a record that this program can read.
#[derive(Debug, thiserror::Error)]
pub enum ReadRecordError {
    /// A newer program wrote it.
    #[error("record {seq} holds {name} in version {version}, which a newer controller wrote")]
    Newer {
        /// The record's number.
        seq: u64,
        /// The event's name.
        name: String,
        /// The event's version.
        version: u16,
    },
    /// It is not a record at all.
    #[error("record is malformed")]
    Malformed(#[source] serde_json::Error),
}

/// What every version of a record has in common.
#[derive(Deserialize)]
struct Outline {
    seq: u64,
    version: u16,
    event: BTreeMap<String, IgnoredAny>,
}

impl Record {
    /// The bytes that are stored, hashed and exported.
    ///
    /// # Errors
    /// Never for a record made of this program's types; the signature follows
    /// the serializer's.
    pub fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }

    /// Reads stored bytes.
    ///
    /// # Errors
    /// [`ReadRecordError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ReadRecordError> {
        match serde_json::from_slice::<Self>(bytes) {
            Ok(record) if record.version == record.event.version() => Ok(record),
            Ok(record) => Err(ReadRecordError::Newer {
                seq: record.seq,
                name: record.event.name().to_owned(),
                version: record.version,
            }),
            Err(error) => Err(newer(bytes).unwrap_or(ReadRecordError::Malformed(error))),
        }
    }
}

/// The error for a well-formed record of an event or version that is not known.
fn newer(bytes: &[u8]) -> Option<ReadRecordError> {
    let outline: Outline = serde_json::from_slice(bytes).ok()?;
    let (name, _) = outline.event.into_iter().next()?;
    let is_known = event::version_of(&name).is_some_and(|known| outline.version <= known);
    (!is_known).then_some(ReadRecordError::Newer {
        seq: outline.seq,
        name,
        version: outline.version,
    })
}

#[cfg(test)]
mod tests;
