//! Snapshots of the state, so that a start reads a tail and not the whole
//! journal; and the last uses of API keys, which are no events.
//!
//! A snapshot is a copy that can always be made again: one that is damaged, of
//! another version, or not from this chain is passed over, and the records
//! decide.

use std::collections::BTreeMap;

use protocol::id::ApiKeyId;
use protocol::time::UnixMillis;
use redb::{ReadableTable as _, Table};

use crate::domain::digest::Digest;
use crate::journal::JournalReader;
use crate::journal::error::JournalError;
use crate::journal::read::split;
use crate::journal::tables::{KEY_USES, RECORDS, SNAPSHOTS};

/// Snapshots that are kept: the newest, and one more in case it is damaged.
const SNAPSHOTS_KEPT: usize = 2;

/// When each API key was last used, in controller time.
pub type KeyUses = BTreeMap<ApiKeyId, UnixMillis>;

/// The state after a record, encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The last record that is in it.
    pub seq: u64,
    /// That record's link.
    pub hash: Digest,
    /// The version of the encoding.
    pub version: u32,
    /// The encoded state.
    pub state: Vec<u8>,
}

impl Snapshot {
    fn to_bytes(&self) -> Vec<u8> {
        [
            self.version.to_be_bytes().as_slice(),
            &self.hash.0,
            &self.sum().0,
            &self.state,
        ]
        .concat()
    }

    fn from_bytes(seq: u64, bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first_chunk::<4>()?;
        let (hash, rest) = rest.split_first_chunk::<32>()?;
        let (sum, state) = rest.split_first_chunk::<32>()?;
        let snapshot = Self {
            seq,
            hash: Digest(*hash),
            version: u32::from_be_bytes(*version),
            state: state.to_vec(),
        };
        (snapshot.sum() == Digest(*sum)).then_some(snapshot)
    }

    fn sum(&self) -> Digest {
        Digest::of("flotilla snapshot 1", &[&self.state])
    }
}

pub(super) fn store(
    table: &mut Table<'_, u64, &[u8]>,
    snapshot: &Snapshot,
) -> Result<(), JournalError> {
    let failed = "write a snapshot";
    table
        .insert(snapshot.seq, snapshot.to_bytes().as_slice())
        .map_err(JournalError::storage(failed))?;
    let mut kept = Vec::new();
    for entry in table.iter().map_err(JournalError::storage(failed))? {
        kept.push(entry.map_err(JournalError::storage(failed))?.0.value());
    }
    let surplus = kept.len().saturating_sub(SNAPSHOTS_KEPT);
    for seq in &kept[..surplus] {
        table.remove(seq).map_err(JournalError::storage(failed))?;
    }
    Ok(())
}

impl JournalReader {
    /// The newest sound snapshot of this version on this chain.
    ///
    /// # Errors
    /// [`JournalError`] when the store fails; what is merely unusable is passed
    /// over.
    pub fn snapshot(&self, version: u32) -> Result<Option<Snapshot>, JournalError> {
        let failed = "read a snapshot";
        self.shared().read(|transaction| {
            let snapshots = transaction
                .open_table(SNAPSHOTS)
                .map_err(JournalError::storage(failed))?;
            let records = transaction
                .open_table(RECORDS)
                .map_err(JournalError::storage(failed))?;
            let newest_first = snapshots
                .iter()
                .map_err(JournalError::storage(failed))?
                .rev();
            for entry in newest_first {
                let (seq, bytes) = entry.map_err(JournalError::storage(failed))?;
                let Some(snapshot) = Snapshot::from_bytes(seq.value(), bytes.value()) else {
                    continue;
                };
                let record = records
                    .get(snapshot.seq)
                    .map_err(JournalError::storage(failed))?;
                let on_chain = match record {
                    Some(value) => split(value.value())?.0 == snapshot.hash,
                    None => false,
                };
                if on_chain && snapshot.version == version {
                    return Ok(Some(snapshot));
                }
            }
            Ok(None)
        })
    }

    /// When each API key was last used, as far as that was written.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn key_uses(&self) -> Result<KeyUses, JournalError> {
        let failed = "read the uses of keys";
        self.shared().read(|transaction| {
            let table = transaction
                .open_table(KEY_USES)
                .map_err(JournalError::storage(failed))?;
            table
                .iter()
                .map_err(JournalError::storage(failed))?
                .map(|entry| {
                    let (key, at) = entry.map_err(JournalError::storage(failed))?;
                    Ok((ApiKeyId::from_bytes(*key.value()), UnixMillis(at.value())))
                })
                .collect()
        })
    }
}
