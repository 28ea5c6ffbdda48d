//! What nodes publish: opened, told apart by its kind, and refused with a code
//! when it cannot be taken.
//!
//! **Invariant:** nothing is handed on unless a node's own signature holds over it
//! and it came by that node's own topic. What cannot be understood is answered with
//! a code and counted; a rejection never is.

use std::sync::Arc;
use std::time::Duration;

use protocol::ErrorCode;
use protocol::command::Progress;
use protocol::envelope::{self, EnvelopeError, Opened};
use protocol::id::NodeId;
use protocol::limits::DETAIL_BYTES_MAX;
use protocol::message::{DecodeError, Kind};
use protocol::session::{Heartbeat, Hello, LiveSamples, Reject};
use protocol::stream::Upload;
use protocol::time::UnixMillis;
use protocol::topic::Topic;

use super::{Answer, Desk};
use crate::broker::Delivery;
use crate::uplink::sink::FrameSink;

/// At most one 'unknown session' is said to a node in this time: whatever it
/// sends before its next hello gets the same answer.
const DISOWN_AGAIN: Duration = Duration::from_secs(1);

impl<S: FrameSink> Desk<S> {
    /// Takes one publish.
    pub(super) fn take(&mut self, delivery: &Delivery, now: UnixMillis) {
        let fleet = Arc::clone(&self.fleet);
        let opened = envelope::open(&delivery.payload, fleet.id(), |sender, key| {
            fleet
                .node(sender)
                .filter(|node| node.is_active() && node.signing_key.id() == key)
                .map(|node| node.signing_key)
        });
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.refuse_envelope(delivery, &error);
                return;
            }
        };
        let node = opened.header.sender;
        let is_own = delivery.topic.node() == Some(node)
            && delivery.sender.is_none_or(|sender| sender == node);
        if !is_own {
            // Someone carries another node's envelope: it may be genuine, and
            // must not be answered on behalf of the one who published it.
            self.refuse(ErrorCode::EnvelopeUnknownKey);
            return;
        }
        if self.seat(node).is_none() {
            return;
        }
        self.dispatch_kind(node, &opened, delivery.topic, now);
    }

    fn refuse_envelope(&mut self, delivery: &Delivery, error: &EnvelopeError) {
        self.refuse(error.code());
        tracing::debug!(
            topic = ?delivery.topic,
            code = error.code().text(),
            %error,
            "refused an envelope"
        );
    }

    fn dispatch_kind(&mut self, node: NodeId, opened: &Opened<'_>, topic: Topic, now: UnixMillis) {
        let header = opened.header;
        if header.kind == Kind::HELLO {
            match opened.decode::<Hello>() {
                Ok(hello) => self.hello(node, &hello, opened, now),
                Err(error) => self.reject_decode(node, opened, &error),
            }
            return;
        }
        let Some(seat) = self.seats.get_mut(&node) else {
            return;
        };
        if seat.link.nonce().is_none() {
            self.disown(node, opened, now);
            return;
        }
        if !seat.link.admit(header.counter) {
            self.refuse(ErrorCode::EnvelopeReplayed);
            return;
        }
        seat.link.hear(now);
        self.stats.taken += 1;
        let outcome = match (header.kind, topic) {
            (Kind::HEARTBEAT, Topic::Session(_)) => opened
                .decode::<Heartbeat>()
                .map(|heartbeat| self.heartbeat(node, &heartbeat, opened, now)),
            (Kind::UPLOAD, Topic::Up(..)) => opened
                .decode::<Upload>()
                .map(|upload| self.upload(node, topic, upload, opened, now)),
            (Kind::PROGRESS, Topic::Session(_)) => opened
                .decode::<Progress>()
                .map(|progress| self.progress(node, progress)),
            (Kind::LIVE_SAMPLES, Topic::Session(_)) => opened
                .decode::<LiveSamples>()
                .map(|live| self.live_samples(node, &live, now)),
            // A rejection is never answered, or two peers would go on for ever.
            (Kind::REJECT, Topic::Session(_)) => {
                match opened.decode::<Reject>() {
                    Ok(reject) => self.rejected(node, &reject),
                    Err(_) => self.refuse(ErrorCode::MessageMalformed),
                }
                return;
            }
            _ => {
                self.reject(
                    node,
                    opened,
                    ErrorCode::MessageUnknownKind,
                    format!("kind {} is not known on this topic", header.kind.0),
                );
                return;
            }
        };
        if let Err(error) = outcome {
            self.reject_decode(node, opened, &error);
        }
    }

    /// A node could not take what it was sent.
    fn rejected(&mut self, node: NodeId, reject: &Reject) {
        // A newer node may say a code that is not known here.
        let code = ErrorCode::from_text(&reject.code).unwrap_or(ErrorCode::Internal);
        *self.stats.rejected.entry(code).or_default() += 1;
        tracing::warn!(
            %node,
            kind = reject.kind,
            version = reject.version,
            code = code.text(),
            "a node does not take what it was sent"
        );
    }

    pub(super) fn reject_decode(&mut self, node: NodeId, opened: &Opened<'_>, error: &DecodeError) {
        let code = match error {
            DecodeError::Kind { .. } => ErrorCode::MessageUnknownKind,
            DecodeError::Version { .. } => ErrorCode::MessageUnknownVersion,
            DecodeError::Malformed { .. } => ErrorCode::MessageMalformed,
        };
        self.reject(node, opened, code, error.to_string());
    }

    pub(super) fn reject(
        &mut self,
        node: NodeId,
        opened: &Opened<'_>,
        code: ErrorCode,
        detail: String,
    ) {
        self.refuse(code);
        let detail = detail.chars().take(DETAIL_BYTES_MAX / 4).collect();
        self.work.answers.push(Answer::Reject(
            node,
            Reject {
                kind: opened.header.kind.0,
                version: opened.header.version,
                counter: opened.header.counter,
                code: code.text().to_owned(),
                detail,
            },
        ));
    }

    /// Says that there is no session.
    pub(super) fn disown(&mut self, node: NodeId, opened: &Opened<'_>, now: UnixMillis) {
        let Some(seat) = self.seats.get_mut(&node) else {
            return;
        };
        let lately = seat
            .disowned_at
            .is_some_and(|at| now.since(at) < DISOWN_AGAIN);
        if lately {
            return;
        }
        seat.disowned_at = Some(now);
        self.reject(
            node,
            opened,
            ErrorCode::SessionUnknown,
            "say hello first".to_owned(),
        );
    }
}
