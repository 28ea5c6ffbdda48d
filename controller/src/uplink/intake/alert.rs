//! The tables of alerts: what nodes said of conditions and where each alert stands,
//! and how they turned.
//!
//! Turns are a memory for people: when there are too many the oldest go.

use redb::ReadableTable as _;

use super::codec::{encode, node_key};
use super::{ALERT_TURNS, ALERTS, Batch, Intake, IntakeError};
use crate::domain::alert::book::{Key, Turn};
use crate::domain::alert::machine::Alert;

/// Turns that are kept. At 300 bytes each they are at most 3 MB.
pub const TURN_COUNT_MAX: u64 = 10_000;

impl Intake {
    /// Every alert that is known, those that are clear included.
    ///
    /// # Errors
    /// [`IntakeError`], also when a row does not decode.
    pub fn alerts(&self) -> Result<Vec<(Key, Alert)>, IntakeError> {
        let rows = self.read("alerts", |transaction| {
            let table = transaction.open_table(ALERTS)?;
            let mut rows = Vec::new();
            for row in table.iter()? {
                rows.push(row?.1.value().to_vec());
            }
            Ok(rows)
        })?;
        rows.iter()
            .map(|bytes| self.decode("an alert", bytes))
            .collect()
    }

    /// How alerts turned, the newest first.
    ///
    /// # Errors
    /// [`IntakeError`], also when a row does not decode.
    pub fn alert_turns(&self) -> Result<Vec<Turn>, IntakeError> {
        let rows = self.read("turns of alerts", |transaction| {
            let table = transaction.open_table(ALERT_TURNS)?;
            let mut rows = Vec::new();
            for row in table.iter()?.rev() {
                rows.push(row?.1.value().to_vec());
            }
            Ok(rows)
        })?;
        rows.iter()
            .map(|bytes| self.decode("a turn of an alert", bytes))
            .collect()
    }
}

/// The node, then the rule, which has no zero byte, then the label.
fn alert_key(key: &Key) -> Vec<u8> {
    [
        node_key(key.node).as_slice(),
        key.rule.as_bytes(),
        &[0],
        key.label.as_bytes(),
    ]
    .concat()
}

pub(super) fn write(
    transaction: &redb::WriteTransaction,
    batch: &Batch,
) -> Result<(), redb::Error> {
    let mut alerts = transaction.open_table(ALERTS)?;
    for (key, alert) in &batch.alerts {
        let place = alert_key(key);
        match alert {
            Some(alert) => alerts.insert(place.as_slice(), encode(&(key, alert)).as_slice())?,
            None => alerts.remove(place.as_slice())?,
        };
    }
    if batch.alert_turns.is_empty() {
        return Ok(());
    }
    let mut turns = transaction.open_table(ALERT_TURNS)?;
    let first = turns.last()?.map_or(0, |(key, _)| key.value() + 1);
    for (number, turn) in (first..).zip(&batch.alert_turns) {
        turns.insert(number, encode(turn).as_slice())?;
    }
    while redb::ReadableTableMetadata::len(&turns)? > TURN_COUNT_MAX {
        turns.pop_first()?;
    }
    Ok(())
}
