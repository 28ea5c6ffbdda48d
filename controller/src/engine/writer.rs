//! The engine's synchronous heart: decides a batch, writes it, and only then
//! lets it count.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use protocol::ErrorCode;
use protocol::id::{ApiKeyId, RequestId};
use protocol::time::UnixMillis;

use crate::domain::access::authorize::Denial;
use crate::domain::access::caller::Caller;
use crate::domain::audit::denial::{DenialGate, Keep};
use crate::domain::audit::event::{DenialsCounted, RequestDenied, RequestRejected};
use crate::domain::audit::record::Record;
use crate::domain::decide::{Refusal, Targets, TargetsOf, admit, decide};
use crate::domain::event::Event;
use crate::domain::fleet::Fleet;
use crate::domain::moment::Moment;
use crate::domain::operation::Operation;
use crate::domain::rejection::Rejection;
use crate::engine::state::{self, Answer, State};
use crate::engine::{Applied, Gauges, SubmitError, lock};
use crate::journal::error::JournalError;
use crate::journal::{Batch, Head, Journal, JournalReader, KeyUses, Snapshot};

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submission {
    /// Who asks.
    pub caller: Caller,
    /// The caller's own id for the request; asking again with it gets the first
    /// answer.
    pub request: Option<RequestId>,
    /// What is asked.
    pub ask: Ask,
}

/// What is asked of the writer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// To change the fleet.
    Operation(Operation),
    /// To record a denial that was decided elsewhere.
    Denied {
        /// What was asked there.
        operation: String,
        /// The denial.
        denial: Denial,
    },
}

/// The state, and the journal that it is made from.
#[derive(Debug)]
pub struct Writer {
    journal: Journal,
    reader: JournalReader,
    state: State,
    head: Head,
    /// A write failed: what is on disk must be read before anything is decided.
    unsure: bool,
    snapshot: Option<Snapshot>,
    pub(super) denials: Arc<Mutex<DenialGate>>,
    pub(super) key_uses: Arc<Mutex<KeyUseLog>>,
    pub(super) gauges: Arc<Gauges>,
}

/// When API keys were last used, and which of that is not yet written.
#[derive(Debug, Default)]
pub(super) struct KeyUseLog {
    last: KeyUses,
    unwritten: BTreeSet<ApiKeyId>,
}

/// What a batch comes to before it is written.
struct Draft {
    fleet: Fleet,
    records: Vec<Record>,
    targets: Vec<Targets>,
    /// Requests of this batch, and the answer each got.
    asked: BTreeMap<(Caller, RequestId), (String, Outcome)>,
}

/// What a request comes to.
#[derive(Clone)]
enum Outcome {
    /// It was answered before this batch.
    Known(Result<Applied, SubmitError>),
    /// It counts once the batch is written.
    Decided(Result<Applied, SubmitError>),
}

impl Writer {
    /// Makes the state from the journal.
    ///
    /// # Errors
    /// [`JournalError`]: it cannot be read, or its chain does not hold.
    pub fn open(journal: Journal) -> Result<Self, JournalError> {
        let reader = journal.reader();
        let (state, head) = State::load(&reader)?;
        let key_uses = KeyUseLog {
            last: reader.key_uses()?,
            unwritten: BTreeSet::new(),
        };
        Ok(Self {
            journal,
            reader,
            state,
            head,
            unsure: false,
            snapshot: None,
            denials: Arc::default(),
            key_uses: Arc::new(Mutex::new(key_uses)),
            gauges: Arc::default(),
        })
    }

    /// The fleet as it is on disk.
    #[must_use]
    pub fn fleet(&self) -> &Arc<Fleet> {
        &self.state.fleet
    }

    /// The state as it is on disk.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Where the chain stands.
    #[must_use]
    pub fn head(&self) -> Head {
        self.head
    }

    /// A reading end of the journal.
    #[must_use]
    pub fn reader(&self) -> &JournalReader {
        &self.reader
    }

    /// Takes a denial that was decided elsewhere: whether it must be recorded by
    /// a submission, or was counted.
    pub fn note_denial(&mut self, caller: &Caller, now: UnixMillis) -> Keep {
        lock(&self.denials).admit(caller, now)
    }

    /// Hands over a snapshot; the next commit writes it.
    pub fn offer(&mut self, snapshot: Snapshot) {
        self.snapshot = Some(snapshot);
    }

    /// Decides a batch in its order, writes it in one durable transaction, and
    /// lets it count; the answers are in the batch's order. An empty batch writes
    /// what else is due: summaries of denials, a snapshot.
    pub fn commit(
        &mut self,
        batch: &[Submission],
        at: &Moment,
    ) -> Vec<Result<Applied, SubmitError>> {
        if let Err(error) = self.become_sure() {
            let error = self.failed(error);
            return batch.iter().map(|_| Err(error.clone())).collect();
        }
        let mut draft = Draft {
            fleet: Fleet::clone(&self.state.fleet),
            records: Vec::new(),
            targets: Vec::new(),
            asked: BTreeMap::new(),
        };
        let outcomes: Vec<Outcome> = batch
            .iter()
            .enumerate()
            .map(|(index, submission)| self.take(&mut draft, submission, &at.nth(index)))
            .collect();
        let summaries = lock(&self.denials).due(at.now);
        let written = self.write(draft, &summaries, at);
        let failure = match written {
            Ok(()) => None,
            Err(error) => {
                lock(&self.denials).restore(&summaries);
                Some(self.failed(error))
            }
        };
        outcomes
            .into_iter()
            .map(|outcome| match (outcome, &failure) {
                (Outcome::Known(answer), _) | (Outcome::Decided(answer), None) => answer,
                // What was decided may rest on what the batch decided before it,
                // a refusal too.
                (Outcome::Decided(_), Some(failure)) => Err(failure.clone()),
            })
            .collect()
    }

    /// Writes what is only counted or kept in memory, and signs the head: before
    /// the end.
    ///
    /// # Errors
    /// [`JournalError`]; what was not written is lost with the process.
    pub fn finish(&mut self, at: &Moment) -> Result<(), JournalError> {
        self.become_sure()?;
        let summaries = lock(&self.denials).flush(at.now);
        let draft = Draft {
            fleet: Fleet::clone(&self.state.fleet),
            records: Vec::new(),
            targets: Vec::new(),
            asked: BTreeMap::new(),
        };
        self.snapshot = Some(self.state.snapshot(self.head)?);
        self.write(draft, &summaries, at)?;
        self.journal.checkpoint(at.now)
    }

    /// Checks, by an empty transaction, whether the journal can be written again
    /// after a failure.
    pub fn probe(&mut self) {
        let probed = self
            .become_sure()
            .and_then(|()| self.journal.append(self.head.seq, &Batch::default()));
        match probed {
            Ok(_) => *lock(&self.gauges.trouble) = None,
            Err(error) => {
                self.failed(error);
            }
        }
    }

    /// Reads what a failed write left on disk: all of it or nothing.
    fn become_sure(&mut self) -> Result<(), JournalError> {
        if self.unsure {
            self.state.follow(&self.reader, &mut self.head)?;
            self.unsure = false;
        }
        Ok(())
    }

    fn take(&self, draft: &mut Draft, submission: &Submission, at: &Moment) -> Outcome {
        let Submission {
            caller,
            request,
            ask,
        } = submission;
        let operation = match ask {
            Ask::Operation(operation) => operation.name(),
            Ask::Denied { operation, .. } => operation,
        };
        let key = request.and_then(|request| state::key(*caller, request));
        if let Some(key) = key {
            if let Some(answer) = self.state.requests.get(key.0, key.1) {
                return Outcome::Known(self.answer_again(answer, operation));
            }
            if let Some((asked, outcome)) = draft.asked.get(&key) {
                return match again(asked, operation) {
                    Ok(()) => outcome.clone().replayed(),
                    Err(error) => Outcome::Decided(Err(error)),
                };
            }
        }
        let decided = match ask {
            Ask::Denied { denial, .. } => {
                let denied = Refusal::Denied(denial.clone());
                draft.record(at, *caller, *request, operation, [denied.event()]);
                Err(denied.into())
            }
            Ask::Operation(asked) => {
                match admit(&draft.fleet, caller, asked).and_then(|()| {
                    decide(&draft.fleet, caller, asked, at).map_err(Refusal::Rejected)
                }) {
                    Ok(decided) => {
                        draft.targets.extend(decided.targets);
                        draft.record(at, *caller, *request, operation, decided.events.clone());
                        Ok(Applied {
                            seq: draft.fleet.seq(),
                            events: decided.events,
                            replayed: false,
                        })
                    }
                    Err(refusal) => {
                        if lock(&self.denials).admit(caller, at.now) == Keep::Record {
                            draft.record(at, *caller, *request, operation, [refusal.event()]);
                        } else {
                            super::count(&self.gauges.denials_counted);
                        }
                        Err(refusal.into())
                    }
                }
            }
        };
        let outcome = Outcome::Decided(decided);
        if let Some(key) = key {
            draft
                .asked
                .insert(key, (operation.to_owned(), outcome.clone()));
        }
        outcome
    }

    /// The answer that a request got, read back from its records.
    fn answer_again(&self, answer: &Answer, operation: &str) -> Result<Applied, SubmitError> {
        again(&answer.operation, operation)?;
        let count = usize::try_from(answer.last - answer.first + 1).unwrap_or(usize::MAX);
        let records = self
            .reader
            .read(answer.first, count)
            .map_err(|error| SubmitError::Unavailable(Arc::new(error)))?;
        let mut events = Vec::with_capacity(records.len());
        for stored in records {
            if let Some(refused) = refusal_in(&stored.record.event) {
                return Err(refused);
            }
            events.push(stored.record.event);
        }
        Ok(Applied {
            seq: answer.last,
            events,
            replayed: true,
        })
    }

    fn write(
        &mut self,
        mut draft: Draft,
        summaries: &[DenialsCounted],
        at: &Moment,
    ) -> Result<(), JournalError> {
        for summary in summaries {
            let event = Event::DenialsCounted(summary.clone());
            draft.record(at, Caller::System, None, "request.count", [event]);
        }
        if draft.records.is_empty() && self.snapshot.is_none() {
            return Ok(());
        }
        let commands = self.state.fleet.commands().iter().map(|command| command.id);
        let rollouts = self.state.fleet.rollouts().iter().map(|rollout| rollout.id);
        let forgotten: Vec<TargetsOf> = commands
            .filter(|id| draft.fleet.commands().get(*id).is_none())
            .map(TargetsOf::from)
            .chain(
                rollouts
                    .filter(|id| draft.fleet.rollouts().get(*id).is_none())
                    .map(TargetsOf::from),
            )
            .collect();
        let key_uses = lock(&self.key_uses).unwritten(&draft.fleet);
        let written = self.journal.append(
            self.head.seq,
            &Batch {
                records: &draft.records,
                targets: &draft.targets,
                forgotten: &forgotten,
                key_uses: &key_uses,
                snapshot: self.snapshot.as_ref(),
            },
        )?;
        self.head = written;
        self.snapshot = None;
        lock(&self.key_uses).written(&key_uses);
        for record in &draft.records {
            self.state.requests.note(record);
        }
        self.state.fleet = Arc::new(draft.fleet);
        super::count(&self.gauges.commits);
        self.gauges.records.fetch_add(
            draft.records.len() as u64,
            std::sync::atomic::Ordering::Relaxed,
        );
        *lock(&self.gauges.trouble) = None;
        Ok(())
    }

    fn failed(&mut self, error: JournalError) -> SubmitError {
        self.unsure = true;
        super::count(&self.gauges.failures);
        *lock(&self.gauges.trouble) = Some(chain_of(&error));
        SubmitError::Unavailable(Arc::new(error))
    }
}

impl Draft {
    fn record(
        &mut self,
        at: &Moment,
        by: Caller,
        request: Option<RequestId>,
        operation: &str,
        events: impl IntoIterator<Item = Event>,
    ) {
        for event in events {
            let record = Record {
                seq: self.fleet.seq() + 1,
                at: at.now,
                by,
                request,
                operation: operation.to_owned(),
                version: event.version(),
                event,
            };
            self.fleet.apply(&record);
            self.records.push(record);
        }
    }
}

impl Outcome {
    fn replayed(self) -> Self {
        match self {
            Self::Known(answer) => Self::Known(answer),
            Self::Decided(answer) => Self::Decided(answer.map(|applied| Applied {
                replayed: true,
                ..applied
            })),
        }
    }
}

impl Refusal {
    fn event(&self) -> Event {
        match self {
            Self::Denied(denial) => Event::RequestDenied(RequestDenied {
                code: denial.code,
                reason: denial.reason.clone(),
                nodes: denial.nodes.clone(),
                node_count: denial.node_count,
            }),
            Self::Rejected(rejection) => Event::RequestRejected(RequestRejected {
                code: rejection.code,
                detail: rejection.detail.clone(),
            }),
        }
    }
}

impl From<Refusal> for SubmitError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Denied(denial) => Self::Denied(denial),
            Refusal::Rejected(rejection) => Self::Rejected(rejection),
        }
    }
}

impl KeyUseLog {
    pub(super) fn note(&mut self, key: ApiKeyId, now: UnixMillis) {
        let last = self.last.entry(key).or_insert(now);
        *last = now.max(*last);
        self.unwritten.insert(key);
    }

    pub(super) fn last(&self, key: ApiKeyId) -> Option<UnixMillis> {
        self.last.get(&key).copied()
    }

    /// What is to be written, for keys that the fleet still knows; the others are
    /// forgotten, so that the table is no larger than the keys.
    fn unwritten(&mut self, fleet: &Fleet) -> Vec<(ApiKeyId, UnixMillis)> {
        let is_known = |key: &ApiKeyId| fleet.access().key(*key).is_some();
        self.unwritten.retain(|key| is_known(key));
        self.last.retain(|key, _| is_known(key));
        self.unwritten
            .iter()
            .filter_map(|key| Some((*key, *self.last.get(key)?)))
            .collect()
    }

    fn written(&mut self, uses: &[(ApiKeyId, UnixMillis)]) {
        for (key, at) in uses {
            if self.last.get(key) == Some(at) {
                self.unwritten.remove(key);
            }
        }
    }
}

/// The refusal that an event records, if it does.
fn refusal_in(event: &Event) -> Option<SubmitError> {
    if let Event::RequestDenied(event) = event {
        Some(SubmitError::Denied(Denial {
            code: event.code,
            reason: event.reason.clone(),
            nodes: event.nodes.clone(),
            node_count: event.node_count,
        }))
    } else if let Event::RequestRejected(event) = event {
        Some(SubmitError::Rejected(Rejection {
            code: event.code,
            detail: event.detail.clone(),
        }))
    } else {
        None
    }
}

/// A request id stands for one request.
fn again(asked: &str, operation: &str) -> Result<(), SubmitError> {
    if asked == operation {
        return Ok(());
    }
    Err(SubmitError::Rejected(Rejection::new(
        ErrorCode::RequestConflict,
        format!("request id was used for {asked}, and is now for {operation}"),
    )))
}

/// An error and its sources, for the log and for people.
fn chain_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
