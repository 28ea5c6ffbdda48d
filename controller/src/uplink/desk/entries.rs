//! Entries of streams: taken, handed on, or quarantined.

use protocol::ErrorCode;
use protocol::command::Receipt;
use protocol::condition::Crossing;
use protocol::deployment::observed::DeploymentResult;
use protocol::envelope::Opened;
use protocol::id::NodeId;
use protocol::message;
use protocol::policy::NAME_BYTES_MAX;
use protocol::state::{Lifecycle, StateItem, StateValue};
use protocol::stream::{Entry, EntryKind, Stream, Upload};
use protocol::telemetry::limit::LABEL_BYTES_MAX;
use protocol::time::UnixMillis;
use protocol::topic::Topic;
use serde::de::DeserializeOwned;

use super::{Desk, DeskEvent, Seen};
use crate::domain::session::Untaken;
use crate::uplink::dispatch::Settled;
use crate::uplink::intake::{
    Ended, FinalState, Quarantined, StoredLifecycle, StoredReceipt, StoredState, TargetState,
};
use crate::uplink::sink::{FrameArrival, FrameOutcome, FrameSink};

/// Why an entry is quarantined.
struct Unfit {
    code: ErrorCode,
    reason: String,
}

impl<S: FrameSink> Desk<S> {
    pub(super) fn upload(
        &mut self,
        node: NodeId,
        topic: Topic,
        upload: Upload,
        opened: &Opened<'_>,
        now: UnixMillis,
    ) {
        if topic != Topic::Up(node, upload.stream) {
            self.reject(
                node,
                opened,
                ErrorCode::MessageMalformed,
                format!("stream {} came on another topic", upload.stream.name()),
            );
            return;
        }
        let Some(seat) = self.seats.get_mut(&node) else {
            return;
        };
        let (stream, store) = (upload.stream, upload.store);
        match seat.link.upload(&upload) {
            Ok(intake) => {
                if let Some(suspect) = intake.doubt {
                    self.work
                        .events
                        .push(DeskEvent::Suspected { node, suspect });
                }
                self.stats.duplicates += intake.fresh_from as u64;
                let position = seat.link.position(stream);
                self.work
                    .frames_after
                    .entry((node, stream))
                    .or_insert(position);
                for entry in upload.entries.into_iter().skip(intake.fresh_from) {
                    self.stats.entries += 1;
                    if let Some(seat) = self.seats.get_mut(&node) {
                        seat.link.advance(stream, &entry);
                    }
                    self.entry(node, store, stream, entry, now);
                }
            }
            // The acknowledgement below is the answer: it makes the node go back.
            Err(Untaken::Gap) => self.refuse(ErrorCode::StreamGap),
            Err(untaken @ (Untaken::OtherStore | Untaken::Disordered)) => {
                self.reject(
                    node,
                    opened,
                    ErrorCode::MessageMalformed,
                    match untaken {
                        Untaken::OtherStore => "the upload is of another store".to_owned(),
                        Untaken::Gap | Untaken::Disordered => {
                            "the entries' numbers do not rise".to_owned()
                        }
                    },
                );
                return;
            }
        }
        self.acknowledge(node, Some(stream), opened.header.sent_at);
    }

    fn entry(
        &mut self,
        node: NodeId,
        store: protocol::id::StoreId,
        stream: Stream,
        entry: Entry,
        now: UnixMillis,
    ) {
        let carries_frames = match stream {
            Stream::Telemetry | Stream::Backfill => true,
            Stream::Control | Stream::State => false,
        };
        let outcome = match (entry.kind, carries_frames) {
            (EntryKind::FRAME, true) => {
                self.work.frames.push(FrameArrival {
                    node,
                    store,
                    stream,
                    seq: entry.seq,
                    body: entry.body,
                });
                return;
            }
            (EntryKind::RECEIPT, false) => {
                read(&entry, Receipt::VERSION).and_then(|receipt| self.receipt(node, receipt, now))
            }
            (EntryKind::STATE, false) => read(&entry, StateItem::VERSION).map(|item: StateItem| {
                let key = item.value.key();
                if let StateValue::Deployment(state) = &item.value {
                    self.deployment_state(node, state, now);
                    let seen = Seen::State(state.clone());
                    self.work.seen.push((node, seen));
                }
                let state = StoredState {
                    received_at: now,
                    item,
                };
                self.work.batch.states.insert((node, key), state);
            }),
            (EntryKind::DEPLOYMENT_RESULT, false) => read(&entry, DeploymentResult::VERSION)
                .map(|result: DeploymentResult| self.deployment_result(node, result, now)),
            (EntryKind::CONDITION, false) => {
                read(&entry, Crossing::VERSION).and_then(|crossing: Crossing| {
                    if crossing.rule.len() > NAME_BYTES_MAX
                        || crossing.label.len() > LABEL_BYTES_MAX
                    {
                        return Err(Unfit {
                            code: ErrorCode::MessageMalformed,
                            reason: "a rule's name or a label is too long".to_owned(),
                        });
                    }
                    if crossing.holds {
                        self.condition_crossed(node, &crossing.rule, now);
                    }
                    self.cross_alert(node, store, &crossing, now);
                    self.work.seen.push((node, Seen::Crossed(crossing)));
                    Ok(())
                })
            }
            (EntryKind::LIFECYCLE, false) => {
                read(&entry, Lifecycle::VERSION).map(|event: Lifecycle| {
                    let event = StoredLifecycle {
                        received_at: now,
                        event,
                    };
                    self.work.batch.lifecycles.push((node, event));
                })
            }
            (kind, _) => Err(Unfit {
                code: ErrorCode::MessageUnknownKind,
                reason: format!("kind {} is not known in stream {}", kind.0, stream.name()),
            }),
        };
        if let Err(unfit) = outcome {
            self.quarantine(node, stream, entry, unfit, now);
        }
    }

    fn quarantine(
        &mut self,
        node: NodeId,
        stream: Stream,
        entry: Entry,
        unfit: Unfit,
        now: UnixMillis,
    ) {
        self.stats.quarantined += 1;
        tracing::warn!(
            %node,
            stream = stream.name(),
            seq = entry.seq,
            code = unfit.code.text(),
            reason = unfit.reason,
            "quarantined an entry"
        );
        self.work.batch.quarantine.push(Quarantined {
            received_at: now,
            node,
            stream,
            seq: entry.seq,
            kind: entry.kind,
            version: entry.version,
            code: unfit.code.text().to_owned(),
            reason: unfit.reason,
            body: entry.body,
        });
    }

    fn receipt(&mut self, node: NodeId, receipt: Receipt, now: UnixMillis) -> Result<(), Unfit> {
        let key = (receipt.command, node);
        let ended = Ended::from(receipt.outcome);
        self.stats.receipts += 1;
        let action = self
            .dispatch
            .run(receipt.command)
            .map(|run| run.command.action.clone());
        if self.dispatch.settle(receipt.command, node, ended) == Settled::Now {
            self.work.batch.targets.insert(
                key,
                TargetState::Final(FinalState {
                    ended,
                    at: now,
                    code: receipt.code.clone(),
                    detail: receipt.detail.clone(),
                }),
            );
            if let Some(action) = action {
                let seen = Seen::Receipt(action, receipt.outcome);
                self.work.seen.push((node, seen));
            }
            self.keep_receipt(node, receipt, false, now);
            return Ok(());
        }
        let held = |fault: crate::uplink::intake::IntakeError| Unfit {
            code: fault.code(),
            reason: fault.to_string(),
        };
        let target = match self.work.batch.targets.get(&key) {
            Some(state) => Some(state.clone()),
            None => self.intake.target(key.0, key.1).map_err(held)?,
        };
        match target {
            Some(TargetState::Final(_)) => {
                let known = self.work.batch.receipts.contains_key(&key)
                    || self.intake.receipt(key.0, key.1).map_err(held)?.is_some();
                if !known {
                    self.keep_receipt(node, receipt, true, now);
                }
                Ok(())
            }
            // The index in memory differs from the store and will be read again;
            // the store is what counts.
            Some(TargetState::Waiting | TargetState::Sent { .. }) => {
                self.stale = true;
                self.work.batch.targets.insert(
                    key,
                    TargetState::Final(FinalState {
                        ended,
                        at: now,
                        code: receipt.code.clone(),
                        detail: receipt.detail.clone(),
                    }),
                );
                self.keep_receipt(node, receipt, false, now);
                Ok(())
            }
            None => Err(Unfit {
                code: ErrorCode::CommandNotFound,
                reason: format!(
                    "command {} is not known here for this node",
                    receipt.command
                ),
            }),
        }
    }

    fn keep_receipt(&mut self, node: NodeId, receipt: Receipt, late: bool, now: UnixMillis) {
        let key = (receipt.command, node);
        let stored = StoredReceipt {
            received_at: now,
            late,
            receipt,
        };
        self.work.batch.receipts.insert(key, stored);
    }

    /// Hands the batch's frames on. When they cannot be kept, the streams that
    /// carry frames go back to where they were.
    pub(super) fn store_frames(&mut self, now: UnixMillis) {
        let frames = std::mem::take(&mut self.work.frames);
        if frames.is_empty() {
            return;
        }
        let places: Vec<(NodeId, Stream, u64)> = frames
            .iter()
            .map(|frame| (frame.node, frame.stream, frame.seq))
            .collect();
        match self.sink.ingest(frames, now) {
            Ok(outcomes) => {
                for ((node, stream, seq), outcome) in places.into_iter().zip(outcomes) {
                    if let FrameOutcome::Refused(code) = outcome {
                        let entry = Entry {
                            seq,
                            kind: EntryKind::FRAME,
                            version: 0,
                            // The series has logged what is wrong; a frame that
                            // cannot be read is of no further use.
                            body: Vec::new(),
                        };
                        let unfit = Unfit {
                            code,
                            reason: "the frame cannot be taken".to_owned(),
                        };
                        self.quarantine(node, stream, entry, unfit, now);
                    }
                }
            }
            Err(error) => {
                tracing::error!(
                    %error,
                    code = error.code.text(),
                    "cannot keep frames; they are not acknowledged"
                );
                for (node, stream, _) in places {
                    self.take_back_frames(node, stream);
                }
            }
        }
    }

    fn take_back_frames(&mut self, node: NodeId, stream: Stream) {
        let Some(to) = self.work.frames_after.remove(&(node, stream)) else {
            return;
        };
        if let Some(seat) = self.seats.get_mut(&node) {
            seat.link.retreat(stream, to);
        }
        if let Some((streams, _)) = self.work.acks.get_mut(&node) {
            streams.remove(&stream);
        }
    }
}

fn read<T: DeserializeOwned>(entry: &Entry, version: u16) -> Result<T, Unfit> {
    if entry.version != version {
        return Err(Unfit {
            code: ErrorCode::MessageUnknownVersion,
            reason: format!(
                "version {} of kind {} is not known",
                entry.version, entry.kind.0
            ),
        });
    }
    message::decode_exactly(&entry.body).map_err(|reason| Unfit {
        code: ErrorCode::MessageMalformed,
        reason,
    })
}
