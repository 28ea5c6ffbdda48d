//! Alerts as the desk keeps them.
//!
//! What nodes say of conditions is taken up by the [`Book`] in the batch that holds
//! the entry, so an entry counts once however often it comes: what it led to is durable
//! with the node's position, and neither is without the other. When the batch cannot
//! be written the book is read again from what is.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::condition::Crossing;
use protocol::id::{NodeId, StoreId};
use protocol::time::UnixMillis;

use super::Desk;
use crate::domain::alert::book::{Book, Turn};
use crate::domain::notice::sink::Known;
use crate::domain::notice::{Notice, NoticeKind, NoticeState, Severity};
use crate::uplink::intake::IntakeError;
use crate::uplink::sink::FrameSink;

/// How often alerts are told of time, and of what the fleet's records changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often the controller says that it lives, while a sink wants to hear that: the
/// dead man's switch. It is written
/// with what nodes send and delivered as any notice, so it stops when any of that
/// does. Whoever waits for it should give it three of these.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(60);

/// Alerts since the start, and at the moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlertCounts {
    /// Alerts that fire or flap, by how bad they are.
    pub firing: BTreeMap<Severity, u64>,
    /// Turns, by the name of the phase that was entered.
    pub turns: BTreeMap<&'static str, u64>,
    /// Alerts that were not taken up, because there were too many.
    pub shed: u64,
}

/// What the desk has of alerts.
#[derive(Debug, Default)]
pub(super) struct AlertDesk {
    /// As they are after the batch in work.
    book: Book,
    looked_at: UnixMillis,
    /// When the last heartbeat was made in this run.
    beat_at: Option<UnixMillis>,
    /// The book may differ from what is durable.
    lost: bool,
}

impl AlertDesk {
    /// Whether the book must be read again before anything is taken.
    pub(super) fn is_lost(&self) -> bool {
        self.lost
    }

    /// The batch in work is not durable.
    pub(super) fn lose(&mut self) {
        self.lost = true;
    }
}

fn heartbeat(now: UnixMillis) -> Notice {
    Notice {
        subject: "controller".to_owned(),
        title: "The controller is alive".to_owned(),
        facts: BTreeMap::from([("every_s".to_owned(), HEARTBEAT_EVERY.as_secs().to_string())]),
        // Late ones would hide that it is dead.
        expires_at: Some(now.after(HEARTBEAT_EVERY)),
        ..Notice::new(
            now,
            NoticeKind::Heartbeat,
            Severity::Info,
            NoticeState::Once,
            "heartbeat".to_owned(),
        )
    }
}

impl<S: FrameSink> Desk<S> {
    /// Reads the book from what is durable.
    pub(super) fn load_alerts(&mut self) -> Result<(), IntakeError> {
        self.intake.reopen_if_closed()?;
        self.alerts = AlertDesk {
            book: Book::resumed(self.intake.alerts()?),
            beat_at: self.alerts.beat_at,
            ..AlertDesk::default()
        };
        self.stats.alerts.firing = self.alerts.book.firing();
        Ok(())
    }

    /// A node said that a condition begins or ceases to hold.
    pub(super) fn cross_alert(
        &mut self,
        node: NodeId,
        store: StoreId,
        crossing: &Crossing,
        now: UnixMillis,
    ) {
        let book = &mut self.alerts.book;
        book.crossed(&self.fleet, node, store, crossing, now);
    }

    /// Takes up a session: what the node told from another store is over.
    pub(super) fn greet_alerts(&mut self, node: NodeId, store: StoreId, now: UnixMillis) {
        self.alerts.book.greeted(&self.fleet, node, store, now);
    }

    /// Puts what changed into the batch.
    pub(super) fn look_at_alerts(&mut self, now: UnixMillis) {
        let desk = &mut self.alerts;
        if now.since(desk.looked_at) >= LOOK_EVERY || now < desk.looked_at {
            desk.looked_at = now;
            desk.book.look(&self.fleet, now);
        }
        let due = |at: UnixMillis| now < at || now.since(at) >= HEARTBEAT_EVERY;
        let listens = |known: &Known| known.sink.kinds.contains(&NoticeKind::Heartbeat);
        if desk.beat_at.is_none_or(due) && self.fleet.sinks().iter().any(listens) {
            desk.beat_at = Some(now);
            self.work.batch.raise(heartbeat(now));
        }
        let changes = desk.book.take_changes();
        self.stats.alerts.shed += changes.shed;
        self.work.batch.alerts.extend(changes.alerts);
        self.work.batch.alert_turns.extend(changes.turns);
        for notice in changes.notices {
            self.work.batch.raise(notice);
        }
    }

    /// Counts turns that have become durable.
    pub(super) fn count_alerts(&mut self, turns: &[Turn]) {
        for turn in turns {
            *self.stats.alerts.turns.entry(turn.to.name()).or_default() += 1;
            tracing::info!(
                node = %turn.key.node,
                rule = turn.key.rule,
                label = turn.key.label,
                phase = turn.to.name(),
                value = turn.value,
                why = turn.why.name(),
                "an alert turned"
            );
        }
        if !turns.is_empty() {
            self.stats.alerts.firing = self.alerts.book.firing();
        }
    }
}
