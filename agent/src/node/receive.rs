//! What comes in from the wire: opened, told apart, and answered when it cannot be
//! understood.
//!
//! **Invariant:** nothing is acted on unless a controller that is trusted signed
//! it, for this node, and it was not seen before. A message that cannot be
//! understood is answered with a code, a rejection never.

use std::time::Duration;

use protocol::ErrorCode;
use protocol::envelope::{self, EnvelopeError, Opened};
use protocol::id::NodeId;
use protocol::message::{DecodeError, Kind};
use protocol::session::Reject;
use protocol::topic::Topic;

use super::{Action, Node};
use crate::domain::time::Moment;

/// At least this long between two rejections, so that a peer that sends rubbish
/// does not make the node send as much.
const REJECT_PAUSE: Duration = Duration::from_secs(1);

impl Node {
    pub(super) fn receive(&mut self, topic: &str, bytes: &[u8], now: Moment) {
        self.received_bytes += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let ours = match Topic::parse(topic) {
            Ok((fleet, Topic::Down(node))) => {
                fleet == self.identity.fleet && node == self.identity.node
            }
            Ok((fleet, Topic::All)) => fleet == self.identity.fleet,
            Ok((_, Topic::Session(_) | Topic::Up(..))) | Err(_) => false,
        };
        if !ours {
            self.dropped.foreign += 1;
            return;
        }
        let trust = &self.identity.trust;
        let opened = envelope::open(bytes, self.identity.fleet, |sender, key| {
            (sender == NodeId::NIL)
                .then(|| trust.controller_key(key))
                .flatten()
        });
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.drop_for(error.code(), now);
                if let EnvelopeError::UnknownKey { sender, .. } = error
                    && sender == NodeId::NIL
                {
                    self.actions.push(Action::FetchTrust);
                }
                return;
            }
        };
        // What goes to all is ordered by time and incarnation, or by its epoch, and
        // its counter may overtake those of the node's own topic.
        let broadcast = matches!(opened.header.kind, Kind::ANNOUNCE | Kind::POLICY);
        if !broadcast && !self.replay.admit(opened.header.counter) {
            self.drop_for(ErrorCode::EnvelopeReplayed, now);
            return;
        }
        if let Err(error) = self.dispatch(&opened, now) {
            self.reject(&opened, &error, now);
        }
    }

    /// Counts a message that is not taken.
    pub(super) fn drop_for(&mut self, code: ErrorCode, now: Moment) {
        *self.dropped.by_code.entry(code).or_default() += 1;
        if code == ErrorCode::EnvelopeBadSignature {
            self.forged_at = Some(now.tick);
        }
    }

    fn dispatch(&mut self, opened: &Opened<'_>, now: Moment) -> Result<(), DecodeError> {
        let outputs = match opened.header.kind {
            Kind::WELCOME => self.session.welcomed(opened.decode()?, now),
            Kind::ACKS => self.session.acknowledged(&opened.decode()?, now),
            Kind::DOWN => self.session.ordered(opened.decode()?, now),
            Kind::POLICY => {
                self.take_policy(opened.decode()?, now);
                Vec::new()
            }
            Kind::ANNOUNCE => self.session.announced(&opened.decode()?, now),
            Kind::REJECT => {
                let reject: Reject = opened.decode()?;
                self.dropped.refused += 1;
                if reject.code == ErrorCode::SessionUnknown.text() {
                    self.session.disowned(now)
                } else {
                    let detail = format!("{}: {}", reject.code, reject.detail);
                    let code = ErrorCode::from_text(&reject.code).unwrap_or(ErrorCode::Internal);
                    self.problem(code, &detail);
                    Vec::new()
                }
            }
            Kind(kind) => {
                return Err(DecodeError::Kind {
                    found: kind,
                    expected: 0,
                });
            }
        };
        self.act(outputs, now);
        Ok(())
    }

    fn reject(&mut self, opened: &Opened<'_>, error: &DecodeError, now: Moment) {
        let code = match error {
            DecodeError::Kind { .. } => ErrorCode::MessageUnknownKind,
            DecodeError::Version { .. } => ErrorCode::MessageUnknownVersion,
            DecodeError::Malformed { .. } => ErrorCode::MessageMalformed,
        };
        self.drop_for(code, now);
        let lately = self
            .rejected_at
            .is_some_and(|at| now.tick.since(at) < REJECT_PAUSE);
        // A rejection is never answered, or two peers would go on for ever.
        if lately || opened.header.kind == Kind::REJECT {
            return;
        }
        self.rejected_at = Some(now.tick);
        let reject = Reject {
            kind: opened.header.kind.0,
            version: opened.header.version,
            counter: opened.header.counter,
            code: code.text().to_owned(),
            detail: error.to_string(),
        };
        self.publish(Topic::Session(self.identity.node), &reject, now);
    }
}
