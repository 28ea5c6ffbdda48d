//! What the engine keeps in memory and can make again from the journal: the
//! fleet, and the requests that were answered.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use protocol::id::{ApiKeyId, RequestId};
use serde::{Deserialize, Serialize};

use crate::domain::access::caller::Caller;
use crate::domain::audit::record::Record;
use crate::domain::fleet::Fleet;
use crate::journal::error::JournalError;
use crate::journal::{Head, JournalReader, Snapshot};

/// Requests whose answers can be given again. A client that asks again does so
/// within minutes; ten thousand is an hour of a busy fleet, in a few megabytes.
pub const REQUESTS_MAX: usize = 10_000;

/// The version of the snapshot's encoding. Postcard is not self-describing: any
/// change of a type in the state must raise it, and a test compares the bytes.
pub const SNAPSHOT_VERSION: u32 = 5;

/// Everything that the records lead to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The fleet.
    pub fleet: Arc<Fleet>,
    /// The requests that were answered.
    pub requests: Requests,
}

/// The last requests that left records, by who made them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requests {
    order: VecDeque<(Caller, RequestId)>,
    answers: BTreeMap<(Caller, RequestId), Answer>,
}

/// Where the answer to a request stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// What was asked.
    pub operation: String,
    /// Its first record.
    pub first: u64,
    /// Its last record.
    pub last: u64,
}

impl State {
    /// The state that the journal leads to: the newest usable snapshot and the
    /// records after it, whose chain is checked on the way.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn load(journal: &JournalReader) -> Result<(Self, Head), JournalError> {
        let taken = journal.snapshot(SNAPSHOT_VERSION)?.and_then(|snapshot| {
            let state: Self = postcard::from_bytes(&snapshot.state).ok()?;
            let fits = state.fleet.seq() == snapshot.seq && state.fleet.id() == journal.fleet();
            fits.then_some((
                state,
                Head {
                    seq: snapshot.seq,
                    hash: snapshot.hash,
                },
            ))
        });
        let (mut state, mut head) = taken.unwrap_or_else(|| {
            let empty = Self {
                fleet: Arc::new(Fleet::new(journal.fleet())),
                requests: Requests::default(),
            };
            (empty, journal.genesis())
        });
        state.follow(journal, &mut head)?;
        Ok((state, head))
    }

    /// Takes in every record after `head`, which moves along.
    ///
    /// # Errors
    /// [`JournalError`]; state and head then stand at the last sound record.
    pub fn follow(&mut self, journal: &JournalReader, head: &mut Head) -> Result<(), JournalError> {
        let fleet = Arc::make_mut(&mut self.fleet);
        let requests = &mut self.requests;
        journal.replay(head, |record| {
            fleet.apply(&record);
            requests.note(&record);
        })
    }

    /// The state as a snapshot of the chain at `head`.
    ///
    /// # Errors
    /// [`JournalError::Encode`].
    pub fn snapshot(&self, head: Head) -> Result<Snapshot, JournalError> {
        let state = postcard::to_stdvec(self).map_err(|source| JournalError::Encode {
            seq: head.seq,
            source: Box::new(source),
        })?;
        Ok(Snapshot {
            seq: head.seq,
            hash: head.hash,
            version: SNAPSHOT_VERSION,
            state,
        })
    }
}

impl Requests {
    /// Takes note of a record's request.
    pub fn note(&mut self, record: &Record) {
        let Some(key) = record.request.and_then(|request| key(record.by, request)) else {
            return;
        };
        if let Some(answer) = self.answers.get_mut(&key) {
            answer.last = record.seq;
            return;
        }
        self.answers.insert(
            key,
            Answer {
                operation: record.operation.clone(),
                first: record.seq,
                last: record.seq,
            },
        );
        self.order.push_back(key);
        while self.order.len() > REQUESTS_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.answers.remove(&oldest);
            }
        }
    }

    /// Where the answer to this caller's request stands.
    #[must_use]
    pub fn get(&self, caller: Caller, request: RequestId) -> Option<&Answer> {
        self.answers.get(&key(caller, request)?)
    }
}

/// Under what a request is remembered. A principal may ask again with another of
/// its keys. Anonymous callers cannot be told apart, so theirs are not
/// remembered: one could fetch the answer to another.
pub(super) fn key(caller: Caller, request: RequestId) -> Option<(Caller, RequestId)> {
    let asker = match caller {
        Caller::Principal { id, .. } => Caller::Principal {
            id,
            key: ApiKeyId::NIL,
        },
        Caller::Host | Caller::Node(_) | Caller::System => caller,
        Caller::Anonymous => return None,
    };
    Some((asker, request))
}
