//! Checking an export with one public key alone: any of the controller's, or the
//! fleet root's.
//!
//! The trail says itself which keys sign it: a record of a trust set holds the
//! controller's keys. A key is believed when it was given, when a believed key
//! signed the chain after the record that introduced it, or when that record
//! carries a trust set that the given root signed. So each key vouches for the
//! next over every rotation, and back: what the last key signed covers all that
//! was before. A signature by a key that no record introduced ends the check, and
//! so does a trail whose end no believed key has signed.
//!
//! Needs no controller, no journal and no clock, and holds one line at a time.
//! What it can find: every record follows from the one before, none is missing
//! at the beginning, in between or at the end, and the key signed that this is
//! all. What it cannot: that an older export of the same journal was put in the
//! place of a newer one; the seal's time and number are there for the reader to
//! compare.

use std::collections::BTreeMap;
use std::io::{BufRead, Read as _};

use protocol::ErrorCode;
use protocol::id::FleetId;
use protocol::key::{KeyId, PublicKey};
use protocol::time::UnixMillis;
use serde::Deserialize;

use crate::domain::audit::chain;
use crate::domain::digest::Digest;
use crate::domain::fleet::event::TrustPublished;
use crate::domain::fleet::trust::parse_signed;
use crate::journal::export::{
    CheckpointLine, EXPORT_FORMAT, Header, RECORD_CLOSE, RECORD_MIDDLE, RECORD_OPEN, SealLine,
};

/// Bytes of the longest line that is read. A record is some hundred bytes; one
/// with a command line of the largest size has half a megabyte.
const LINE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// What a sound export holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The fleet.
    pub fleet: FleetId,
    /// The first record.
    pub from: u64,
    /// The last record; `from` less one when there is none.
    pub last: u64,
    /// The link of the last record.
    pub hash: Digest,
    /// Signed checkpoints between the records.
    pub checkpoints: u64,
    /// When the export was made, in controller time.
    pub sealed_at: UnixMillis,
}

/// What is wrong with an export, by its first bad record.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// It cannot be read.
    #[error("export cannot be read at line {line}")]
    Unread {
        /// The line, from 1.
        line: u64,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It does not begin like an export.
    #[error("first line is not the beginning of an export")]
    NoHeader,
    /// A newer controller wrote it.
    #[error("export has format {found}, which a newer controller wrote")]
    Newer {
        /// Its format.
        found: u32,
    },
    /// A line is none of an export's.
    #[error("line {line}, where record {seq} should stand, is malformed")]
    Malformed {
        /// The line, from 1.
        line: u64,
        /// The record that was expected there.
        seq: u64,
    },
    /// A record's bytes are not those that were written.
    #[error("record {seq} was changed")]
    Changed {
        /// Its number.
        seq: u64,
    },
    /// A record is missing.
    #[error("record {seq} was removed: record {found} stands in its place")]
    Removed {
        /// The first that is missing.
        seq: u64,
        /// What stands there.
        found: u64,
    },
    /// A record stands elsewhere.
    #[error("records were reordered: record {found} stands where record {seq} should")]
    Reordered {
        /// The record that should stand there.
        seq: u64,
        /// What stands there.
        found: u64,
    },
    /// The export ends without a seal.
    #[error("export is truncated after record {after}")]
    Truncated {
        /// The last record that is there.
        after: u64,
    },
    /// Something follows the seal.
    #[error("line {line} follows the end of the export")]
    Trailing {
        /// The line, from 1.
        line: u64,
    },
    /// A checkpoint or the seal is not what the key signed.
    #[error("signature after record {seq} does not hold for the records before it")]
    Signature {
        /// The last record that it is about.
        seq: u64,
    },
    /// A checkpoint or the seal is by a key that was not given, and that no believed
    /// key introduced.
    #[error(
        "signature after record {seq} is by key {key}, which was not given and which no believed key introduced"
    )]
    UnknownKey {
        /// The last record that it is about.
        seq: u64,
        /// The key's id.
        key: String,
    },
}

impl Broken {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Unread { .. } | Self::NoHeader | Self::UnknownKey { .. } => {
                ErrorCode::RequestInvalid
            }
            Self::Newer { .. } => ErrorCode::StoreNewer,
            Self::Malformed { .. }
            | Self::Changed { .. }
            | Self::Removed { .. }
            | Self::Reordered { .. }
            | Self::Truncated { .. }
            | Self::Trailing { .. }
            | Self::Signature { .. } => ErrorCode::JournalBroken,
        }
    }
}

/// The one field of a record that is needed, whatever version wrote it.
#[derive(Deserialize)]
struct Numbered {
    seq: u64,
}

/// A record of a trust set, as far as it says who signs.
#[derive(Deserialize)]
struct Introduction {
    event: IntroductionEvent,
}

#[derive(Deserialize)]
struct IntroductionEvent {
    #[serde(rename = "fleet.trust_published")]
    published: Option<TrustPublished>,
}

/// Checks an export. `keys` are public keys that are believed: of the controller,
/// of the fleet's root, or both. One is enough.
///
/// # Errors
/// [`Broken`]: the first thing that is wrong.
pub fn verify(export: impl BufRead, keys: &[PublicKey]) -> Result<Summary, Broken> {
    let mut lines = Lines { export, number: 0 };
    let header: Header = lines
        .next()?
        .and_then(|line| serde_json::from_slice(&line).ok())
        .ok_or(Broken::NoHeader)?;
    if header.journal > EXPORT_FORMAT {
        return Err(Broken::Newer {
            found: header.journal,
        });
    }
    let starts_well =
        header.from != 1 || header.previous == chain::genesis(header.fleet, header.created_at);
    if header.from == 0 || !starts_well {
        return Err(Broken::Changed { seq: header.from });
    }
    let mut walk = Walk {
        given: keys,
        introduced: BTreeMap::new(),
        believed: keys.iter().map(|key| (key.id(), *key)).collect(),
        unbelieved: None,
        fleet: header.fleet,
        next: header.from,
        hash: header.previous,
        checkpoints: 0,
    };
    while let Some(line) = lines.next()? {
        if let Some((claimed, record)) = split_record(&line) {
            walk.record(claimed, record, &mut lines)?;
        } else if let Ok(CheckpointLine { checkpoint }) = serde_json::from_slice(&line) {
            walk.checkpoint(&checkpoint)?;
        } else if let Ok(SealLine { seal }) = serde_json::from_slice(&line) {
            walk.seal(&seal, &header)?;
            return match lines.next()? {
                None => Ok(walk.summary(&header, &seal)),
                Some(_) => Err(Broken::Trailing { line: lines.number }),
            };
        } else {
            return Err(Broken::Malformed {
                line: lines.number,
                seq: walk.next,
            });
        }
    }
    Err(Broken::Truncated {
        after: walk.next - 1,
    })
}

struct Walk<'a> {
    given: &'a [PublicKey],
    /// Keys of records of trust sets that no believed key has signed so far.
    introduced: BTreeMap<KeyId, PublicKey>,
    believed: BTreeMap<KeyId, PublicKey>,
    /// The first signature since the last one by a believed key: the record, and
    /// whose it is.
    unbelieved: Option<(u64, KeyId)>,
    fleet: FleetId,
    /// The number that the next record must have.
    next: u64,
    hash: Digest,
    checkpoints: u64,
}

impl Walk<'_> {
    fn record(
        &mut self,
        claimed: Digest,
        record: &[u8],
        lines: &mut Lines<impl BufRead>,
    ) -> Result<(), Broken> {
        let expected = self.next;
        let Ok(Numbered { seq }) = serde_json::from_slice(record) else {
            return Err(Broken::Changed { seq: expected });
        };
        if seq != expected {
            return Err(misplaced(expected, seq, lines)?);
        }
        if chain::link(&self.hash, record) != claimed {
            return Err(Broken::Changed { seq });
        }
        self.hash = claimed;
        self.next = seq + 1;
        self.introduce(record);
        Ok(())
    }

    /// Notes the keys of a record of a trust set.
    fn introduce(&mut self, record: &[u8]) {
        let read = serde_json::from_slice::<Introduction>(record);
        let Some(published) = read.ok().and_then(|read| read.event.published) else {
            return;
        };
        let keys = published.controller_keys.iter().map(|key| (key.id(), *key));
        self.introduced.extend(keys);
        let by_root = parse_signed(&published.signed).and_then(|signed| {
            self.given
                .iter()
                .find_map(|root| signed.verify(root, self.fleet, 0).ok())
        });
        if let Some(set) = by_root {
            for key in &set.controller_keys {
                self.believed.entry(key.id()).or_insert(*key);
            }
        }
    }

    /// Takes a signature that holds: a believed key's covers every record so far,
    /// and with them the keys that they introduce.
    fn count_signature(&mut self, key: KeyId) {
        if self.believed.contains_key(&key) {
            for (id, key) in std::mem::take(&mut self.introduced) {
                // An id that is believed keeps its key.
                self.believed.entry(id).or_insert(key);
            }
            self.unbelieved = None;
        } else if self.unbelieved.is_none() {
            self.unbelieved = Some((self.next - 1, key));
        }
    }

    fn checkpoint(&mut self, checkpoint: &chain::Checkpoint) -> Result<(), Broken> {
        let last = self.next - 1;
        let key = self.key(checkpoint.key)?;
        let fits = checkpoint.seq == last && checkpoint.hash == self.hash;
        if !fits || !checkpoint.is_signed_by(&key, self.fleet) {
            return Err(Broken::Signature { seq: last });
        }
        self.count_signature(checkpoint.key);
        self.checkpoints += 1;
        Ok(())
    }

    fn seal(&mut self, seal: &chain::Seal, header: &Header) -> Result<(), Broken> {
        let last = self.next - 1;
        let key = self.key(seal.key)?;
        if !seal.is_signed_by(&key, self.fleet, &header.previous) || seal.from != header.from {
            return Err(Broken::Signature { seq: last });
        }
        if seal.seq > last {
            return Err(Broken::Truncated { after: last });
        }
        if seal.seq < last || seal.hash != self.hash {
            return Err(Broken::Signature { seq: last });
        }
        self.count_signature(seal.key);
        match self.unbelieved {
            None => Ok(()),
            Some((seq, key)) => Err(Broken::UnknownKey {
                seq,
                key: key.to_string(),
            }),
        }
    }

    fn key(&self, id: KeyId) -> Result<PublicKey, Broken> {
        self.believed
            .get(&id)
            .or_else(|| self.introduced.get(&id))
            .copied()
            .ok_or_else(|| Broken::UnknownKey {
                seq: self.next - 1,
                key: id.to_string(),
            })
    }

    fn summary(&self, header: &Header, seal: &chain::Seal) -> Summary {
        Summary {
            fleet: self.fleet,
            from: header.from,
            last: self.next - 1,
            hash: self.hash,
            checkpoints: self.checkpoints,
            sealed_at: seal.at,
        }
    }
}

/// Says what happened where record `found` stands in the place of `expected`, by
/// what follows.
fn misplaced(expected: u64, found: u64, lines: &mut Lines<impl BufRead>) -> Result<Broken, Broken> {
    // A second record of the number that stands here means that this one's own
    // number was overwritten.
    let mut again = false;
    while let Some(line) = lines.next()? {
        let Some((_, record)) = split_record(&line) else {
            continue;
        };
        let Ok(Numbered { seq }) = serde_json::from_slice(record) else {
            continue;
        };
        if seq == expected {
            return Ok(Broken::Reordered {
                seq: expected,
                found,
            });
        }
        again |= seq == found;
    }
    Ok(if found < expected {
        Broken::Reordered {
            seq: expected,
            found,
        }
    } else if again {
        Broken::Changed { seq: expected }
    } else {
        Broken::Removed {
            seq: expected,
            found,
        }
    })
}

/// The hash and the record's bytes of a record's line.
fn split_record(line: &[u8]) -> Option<(Digest, &[u8])> {
    let rest = line.strip_prefix(RECORD_OPEN.as_bytes())?;
    let (hash, rest) = rest.split_at_checked(64)?;
    let record = rest
        .strip_prefix(RECORD_MIDDLE.as_bytes())?
        .strip_suffix(RECORD_CLOSE.as_bytes())?;
    let hash = std::str::from_utf8(hash).ok()?.parse().ok()?;
    Some((hash, record))
}

struct Lines<R> {
    export: R,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    /// The next line without its end; none at the end of the export. A last line
    /// that is cut off inside, or is beyond all size, is an error further on.
    fn next(&mut self) -> Result<Option<Vec<u8>>, Broken> {
        self.number += 1;
        let mut line = Vec::new();
        let read = (&mut self.export)
            .take(LINE_BYTES_MAX)
            .read_until(b'\n', &mut line)
            .map_err(|source| Broken::Unread {
                line: self.number,
                source,
            })?;
        if read == 0 {
            return Ok(None);
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        Ok(Some(line))
    }
}
