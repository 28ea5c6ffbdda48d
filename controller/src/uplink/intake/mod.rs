//! What arrived from nodes and must not be lost: `intake.redb`.
//!
//! Owns how far each node's streams have arrived, the connect counters that were
//! used, the state of every command's targets, receipts, latest states,
//! lifecycle events, what each node is to have of each deployment and how its
//! changes ended, alerts, notices, and entries that could not be decoded. Who belongs to the
//! fleet and what was ordered is the journal's; samples are the series'.
//!
//! **Invariant:** one [`Batch`] is durable whole or not at all, and nothing is
//! acknowledged to a node before the batch that holds it is.
//!
//! Fails by [`IntakeError`]. After a failed write the store opens its file again
//! with the next batch, because redb refuses everything after an error: so a full
//! disk stops acknowledgements until there is space, and nothing else. A file
//! that is damaged or from a newer version is refused and left as it is.

mod alert;
mod codec;
mod deployment;
mod notice;
mod open;
mod row;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use protocol::ErrorCode;
use protocol::id::{CommandId, DeploymentId, NodeId, RolloutId};
use protocol::state::StateKey;
use redb::{Database, Durability, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use tokio::sync::watch;

use crate::domain::alert::book::{Key as AlertKey, Turn};
use crate::domain::alert::machine::Alert;
use crate::domain::notice::Notice;
use crate::domain::notice::delivery::Progress;
use crate::domain::rollout::target::TargetRow;
use crate::domain::session::Kept;
use crate::rows::{Frozen, Loading, Rows};
pub use alert::TURN_COUNT_MAX;
use codec::{decode, encode, node_key, pair_key, read_command, read_node};
pub use notice::{NOTICE_COUNT_MAX, NOTICE_KEPT_MS};
pub use open::{Medium, OpenBackend};
pub use row::{
    Ended, FinalState, Quarantined, StoredCommand, StoredDesired, StoredLifecycle, StoredReceipt,
    StoredResult, StoredRollout, StoredState, StoredWant, TargetState,
};

/// Entries that could not be decoded; the oldest go first. At 60 KiB each they
/// are at most 60 MB.
pub const QUARANTINE_COUNT_MAX: u64 = 1000;

/// Lifecycle events kept for each node.
pub const LIFECYCLE_COUNT_MAX: usize = 8;

/// Rows that one question may ask for.
pub const PAGE_COUNT_MAX: usize = 1000;

type Table = TableDefinition<'static, &'static [u8], &'static [u8]>;

const META: TableDefinition<'static, &str, u64> = TableDefinition::new("meta");
const KEPT: Table = TableDefinition::new("kept");
const COMMANDS: Table = TableDefinition::new("commands");
const TARGETS: Table = TableDefinition::new("targets");
const RECEIPTS: Table = TableDefinition::new("receipts");
const STATES: Table = TableDefinition::new("states");
const LIFECYCLES: Table = TableDefinition::new("lifecycles");
/// Deployment and node → what the node is to have.
const DESIRED: Table = TableDefinition::new("desired");
/// Rollout and node → how the last change ended that did not succeed.
const RESULTS: Table = TableDefinition::new("results");
/// Rollout → what was decided.
const ROLLOUTS: Table = TableDefinition::new("rollouts");
/// Rollout and node → where the target stands.
const ROLLOUT_TARGETS: Table = TableDefinition::new("rollout_targets");
/// Node → the last generation that it was given.
/// How long rollouts waited for maintenance windows, in milliseconds.
const ROLLOUT_WAITS: TableDefinition<'static, &'static [u8], u64> =
    TableDefinition::new("rollout_waits");
const GENERATIONS: TableDefinition<'static, &'static [u8], u64> =
    TableDefinition::new("generations");
const QUARANTINE: TableDefinition<'static, u64, &'static [u8]> = TableDefinition::new("quarantine");
/// Node, rule and label → the alert with its key.
const ALERTS: Table = TableDefinition::new("alerts");
/// A number → how an alert turned.
const ALERT_TURNS: TableDefinition<'static, u64, &'static [u8]> =
    TableDefinition::new("alert_turns");
/// A notice's number → the notice.
const NOTICES: TableDefinition<'static, u64, &'static [u8]> = TableDefinition::new("notices");
/// A notice's key → what is raised under it.
const NOTICES_RAISED: TableDefinition<'static, &'static str, &'static [u8]> =
    TableDefinition::new("notices_raised");
/// A sink's name → how far it has come.
const SINKS: TableDefinition<'static, &'static str, &'static [u8]> = TableDefinition::new("sinks");

/// Every table.
static TABLES: &[&dyn Rows] = &[
    &META,
    &KEPT,
    &COMMANDS,
    &TARGETS,
    &RECEIPTS,
    &STATES,
    &LIFECYCLES,
    &DESIRED,
    &RESULTS,
    &ROLLOUTS,
    &ROLLOUT_TARGETS,
    &ROLLOUT_WAITS,
    &GENERATIONS,
    &QUARANTINE,
    &ALERTS,
    &ALERT_TURNS,
    &NOTICES,
    &NOTICES_RAISED,
    &SINKS,
];

/// The layout of the tables. A higher number in the file is a newer program's.
const FORMAT: u64 = 3;

const META_FORMAT: &str = "format";
const META_CURSOR: &str = "journal_cursor";
const META_COUNTER: &str = "envelope_counter";

/// The store cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// It could not be opened.
    #[error("cannot open the intake store {place}")]
    Open {
        /// Its file, or what it is.
        place: String,
        /// Why.
        #[source]
        source: Box<redb::Error>,
    },
    /// A newer program wrote it.
    #[error("intake store {place} has format {found}; this program knows {FORMAT}")]
    Newer {
        /// Its file, or what it is.
        place: String,
        /// Its format.
        found: u64,
    },
    /// The file is not a store, or is cut short.
    #[error("intake store {place} is damaged: {reason}")]
    Damaged {
        /// Its file, or what it is.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A read failed.
    #[error("cannot read {what} from the intake store")]
    Read {
        /// What was read.
        what: &'static str,
        /// Why.
        #[source]
        source: Box<redb::Error>,
    },
    /// A batch could not be made durable.
    #[error("cannot write to the intake store")]
    Write(#[source] Box<redb::Error>),
    /// It is closed because of an earlier failure; the next batch opens it.
    #[error("intake store is closed after a failure")]
    Closed,
}

impl IntakeError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Open { source, .. } if matches!(**source, redb::Error::DatabaseAlreadyOpen) => {
                ErrorCode::StoreLocked
            }
            Self::Open { source, .. } | Self::Read { source, .. } | Self::Write(source) => {
                code_of(source)
            }
            Self::Newer { .. } => ErrorCode::StoreNewer,
            Self::Damaged { .. } => ErrorCode::StoreCorrupt,
            Self::Closed => ErrorCode::StoreFailed,
        }
    }
}

fn code_of(error: &redb::Error) -> ErrorCode {
    if let redb::Error::Corrupted(_) = error {
        ErrorCode::StoreCorrupt
    } else if let redb::Error::Io(io) = error
        && io.kind() == std::io::ErrorKind::StorageFull
    {
        ErrorCode::StoreFull
    } else {
        ErrorCode::StoreFailed
    }
}

/// Changes that become durable together.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// What is known of nodes' links.
    pub kept: BTreeMap<NodeId, Kept>,
    /// Commands that were issued.
    pub commands: BTreeMap<CommandId, StoredCommand>,
    /// Commands whose rows are not needed any more.
    pub forgotten: Vec<CommandId>,
    /// States of targets.
    pub targets: BTreeMap<(CommandId, NodeId), TargetState>,
    /// Receipts.
    pub receipts: BTreeMap<(CommandId, NodeId), StoredReceipt>,
    /// Latest states.
    pub states: BTreeMap<(NodeId, StateKey), StoredState>,
    /// Lifecycle events, to be appended.
    pub lifecycles: Vec<(NodeId, StoredLifecycle)>,
    /// Entries that could not be decoded.
    pub quarantine: Vec<Quarantined>,
    /// What nodes are to have of deployments; none takes the row away.
    pub desired: BTreeMap<(DeploymentId, NodeId), Option<StoredDesired>>,
    /// The last generation of nodes.
    pub generations: BTreeMap<NodeId, u64>,
    /// How targets of rollouts did not succeed.
    pub results: BTreeMap<(RolloutId, NodeId), StoredResult>,
    /// Rollouts that are carried out.
    pub rollouts: BTreeMap<RolloutId, StoredRollout>,
    /// Where targets of rollouts stand.
    pub rollout_targets: BTreeMap<(RolloutId, NodeId), TargetRow>,
    /// How long rollouts waited for maintenance windows.
    pub rollout_waits: BTreeMap<RolloutId, Duration>,
    /// Rollouts that are not needed any more, with their targets and results.
    pub rollouts_forgotten: Vec<RolloutId>,
    /// Alerts as they are; none takes the row away.
    pub alerts: BTreeMap<AlertKey, Option<Alert>>,
    /// How alerts turned, to be appended.
    pub alert_turns: Vec<Turn>,
    /// Notices, in the order in which they are numbered. See [`Batch::raise`].
    pub notices: Vec<Notice>,
    /// Sinks that begin, by name, with their numbers: at the notices of this batch,
    /// unless they have begun before.
    pub sinks_begun: Vec<(String, u64)>,
    /// How far sinks have come. One that has gone, or another of its name, is left
    /// as it is.
    pub sinks: BTreeMap<String, Progress>,
    /// Sinks that are gone, with their numbers.
    pub sinks_gone: Vec<(String, u64)>,
    /// The last record of the journal that is taken into account.
    pub cursor: Option<u64>,
    /// Envelope counters below this one may have been used.
    pub counter: Option<u64>,
}

impl Batch {
    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
            && self.commands.is_empty()
            && self.forgotten.is_empty()
            && self.targets.is_empty()
            && self.receipts.is_empty()
            && self.states.is_empty()
            && self.lifecycles.is_empty()
            && self.quarantine.is_empty()
            && self.desired.is_empty()
            && self.generations.is_empty()
            && self.results.is_empty()
            && self.rollouts.is_empty()
            && self.rollout_targets.is_empty()
            && self.rollout_waits.is_empty()
            && self.rollouts_forgotten.is_empty()
            && self.alerts.is_empty()
            && self.alert_turns.is_empty()
            && self.notices.is_empty()
            && self.sinks_begun.is_empty()
            && self.sinks.is_empty()
            && self.sinks_gone.is_empty()
            && self.cursor.is_none()
            && self.counter.is_none()
    }
}

/// The store. Clones share it, and their writes take turns.
#[derive(Clone)]
pub struct Intake {
    medium: Arc<Medium>,
    database: Arc<RwLock<Option<Database>>>,
    /// The number of the last notice, told after each batch that holds some.
    notices: Arc<watch::Sender<u64>>,
}

impl Intake {
    /// Opens the store in a file, making it when it is missing.
    ///
    /// # Errors
    /// [`IntakeError`] when it is locked, damaged, newer or unreadable.
    pub fn open(path: &Path) -> Result<Self, IntakeError> {
        Self::open_medium(Medium::File(path.to_owned()))
    }

    /// Opens the store on any medium; the simulation brings its own.
    ///
    /// # Errors
    /// [`IntakeError`] when it is locked, damaged, newer or unreadable.
    pub fn open_medium(medium: Medium) -> Result<Self, IntakeError> {
        let database = medium.open()?;
        Ok(Self {
            medium: Arc::new(medium),
            database: Arc::new(RwLock::new(Some(database))),
            notices: Arc::new(watch::Sender::new(0)),
        })
    }

    /// Makes a batch durable.
    ///
    /// # Errors
    /// [`IntakeError`]; nothing of the batch is durable then, as far as this
    /// program can know. Writing it again is harmless.
    pub fn commit(&self, batch: &Batch) -> Result<(), IntakeError> {
        if batch.is_empty() {
            return Ok(());
        }
        self.reopen_if_closed()?;
        let outcome = {
            let guard = self.database.read().unwrap_or_else(PoisonError::into_inner);
            let database = guard.as_ref().ok_or(IntakeError::Closed)?;
            write(database, batch).map_err(|error| IntakeError::Write(Box::new(error)))
        };
        match outcome {
            Ok(last) => {
                if let Some(last) = last {
                    self.notices.send_replace(last);
                }
                Ok(())
            }
            Err(error) => {
                // redb answers `PreviousIo` to everything from here on.
                *self
                    .database
                    .write()
                    .unwrap_or_else(PoisonError::into_inner) = None;
                Err(error)
            }
        }
    }

    /// Opens the store again if an earlier failure closed it.
    ///
    /// # Errors
    /// [`IntakeError`] when it cannot be opened yet.
    pub fn reopen_if_closed(&self) -> Result<(), IntakeError> {
        let mut guard = self
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if guard.is_none() {
            *guard = Some(self.medium.open()?);
        }
        Ok(())
    }

    fn read<T>(
        &self,
        what: &'static str,
        read: impl FnOnce(&redb::ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, IntakeError> {
        let guard = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = guard.as_ref().ok_or(IntakeError::Closed)?;
        let run = || read(&database.begin_read()?);
        run().map_err(|source| IntakeError::Read {
            what,
            source: Box::new(source),
        })
    }

    /// What is committed now, for as long as it is held.
    ///
    /// # Errors
    /// [`IntakeError`].
    pub(crate) fn freeze(&self) -> Result<Frozen, IntakeError> {
        self.reopen_if_closed()?;
        let guard = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = guard.as_ref().ok_or(IntakeError::Closed)?;
        let transaction = database.begin_read().map_err(|error| IntakeError::Read {
            what: "all of it",
            source: Box::new(error.into()),
        })?;
        Ok(Frozen::new(transaction, TABLES))
    }

    /// A new file for the rows of another store.
    ///
    /// # Errors
    /// [`IntakeError`] when it cannot be made.
    pub(crate) fn load(path: &Path) -> Result<Loading, IntakeError> {
        Medium::File(path.to_owned()).load()
    }

    /// The last record of the journal that is taken into account.
    ///
    /// # Errors
    /// [`IntakeError::Read`].
    pub fn cursor(&self) -> Result<u64, IntakeError> {
        self.meta(META_CURSOR)
    }

    /// Envelope counters below this one may have been used.
    ///
    /// # Errors
    /// [`IntakeError::Read`].
    pub fn counter(&self) -> Result<u64, IntakeError> {
        self.meta(META_COUNTER)
    }

    fn meta(&self, key: &str) -> Result<u64, IntakeError> {
        self.read("a position", |transaction| {
            let table = transaction.open_table(META)?;
            Ok(table.get(key)?.map_or(0, |value| value.value()))
        })
    }

    /// What is known of a node's link; nothing before its first hello.
    ///
    /// # Errors
    /// [`IntakeError`], also when the row does not decode.
    pub fn kept(&self, node: NodeId) -> Result<Option<Kept>, IntakeError> {
        self.row("a node's positions", KEPT, &node_key(node))
    }

    /// Every command with its row.
    ///
    /// # Errors
    /// [`IntakeError`], also when a row does not decode.
    pub fn commands(&self) -> Result<Vec<(CommandId, StoredCommand)>, IntakeError> {
        let rows = self.read("commands", |transaction| {
            let table = transaction.open_table(COMMANDS)?;
            let mut rows = Vec::new();
            for row in table.iter()? {
                let (key, value) = row?;
                rows.push((read_command(key.value()), value.value().to_vec()));
            }
            Ok(rows)
        })?;
        rows.into_iter()
            .map(|(command, bytes)| Ok((command, self.decode("a command", &bytes)?)))
            .collect()
    }

    /// States of a command's targets by node id, from the one after `after` on.
    ///
    /// # Errors
    /// [`IntakeError`], also when a row does not decode.
    pub fn targets(
        &self,
        command: CommandId,
        after: Option<NodeId>,
        limit: usize,
    ) -> Result<Vec<(NodeId, TargetState)>, IntakeError> {
        self.page(TARGETS, "a command's targets", command, after, limit)
    }

    /// Rows of a table by node id, from the one after `after` on, of those whose key
    /// begins with `first`.
    fn page<K, V: serde::de::DeserializeOwned>(
        &self,
        table: Table,
        what: &'static str,
        first: protocol::id::Id<K>,
        after: Option<NodeId>,
        limit: usize,
    ) -> Result<Vec<(NodeId, V)>, IntakeError> {
        let from = pair_key(first, after.unwrap_or(NodeId::NIL));
        let to = pair_key(first, NodeId::from_bytes([0xff; 10]));
        let rows = self.read(what, |transaction| {
            let table = transaction.open_table(table)?;
            let mut rows = Vec::new();
            for row in table.range(from.as_slice()..=to.as_slice())? {
                let (key, value) = row?;
                let node = read_node(key.value());
                if Some(node) == after {
                    continue;
                }
                if rows.len() == limit {
                    break;
                }
                rows.push((node, value.value().to_vec()));
            }
            Ok(rows)
        })?;
        rows.into_iter()
            .map(|(node, bytes)| Ok((node, self.decode(what, &bytes)?)))
            .collect()
    }

    /// The state of one target.
    ///
    /// # Errors
    /// [`IntakeError`], also when the row does not decode.
    pub fn target(
        &self,
        command: CommandId,
        node: NodeId,
    ) -> Result<Option<TargetState>, IntakeError> {
        self.row("a target", TARGETS, &pair_key(command, node))
    }

    /// A node's receipt for a command.
    ///
    /// # Errors
    /// [`IntakeError`], also when the row does not decode.
    pub fn receipt(
        &self,
        command: CommandId,
        node: NodeId,
    ) -> Result<Option<StoredReceipt>, IntakeError> {
        self.row("a receipt", RECEIPTS, &pair_key(command, node))
    }

    /// The latest states of a node.
    ///
    /// # Errors
    /// [`IntakeError`], also when a row does not decode.
    pub fn states(&self, node: NodeId) -> Result<Vec<StoredState>, IntakeError> {
        let from = [node.as_bytes().as_slice(), &[0, 0]].concat();
        let to = [node.as_bytes().as_slice(), &[0xff, 0xff]].concat();
        let rows = self.read("a node's states", |transaction| {
            let table = transaction.open_table(STATES)?;
            let mut rows = Vec::new();
            for row in table.range(from.as_slice()..=to.as_slice())? {
                rows.push(row?.1.value().to_vec());
            }
            Ok(rows)
        })?;
        rows.iter()
            .map(|bytes| self.decode("a state", bytes))
            .collect()
    }

    /// The last lifecycle events of a node, oldest first.
    ///
    /// # Errors
    /// [`IntakeError`], also when the row does not decode.
    pub fn lifecycles(&self, node: NodeId) -> Result<Vec<StoredLifecycle>, IntakeError> {
        Ok(self
            .row("a node's events", LIFECYCLES, &node_key(node))?
            .unwrap_or_default())
    }

    /// Entries that could not be decoded, newest first.
    ///
    /// # Errors
    /// [`IntakeError`], also when a row does not decode.
    pub fn quarantine(&self, limit: usize) -> Result<Vec<Quarantined>, IntakeError> {
        let rows = self.read("quarantined entries", |transaction| {
            let table = transaction.open_table(QUARANTINE)?;
            let mut rows = Vec::new();
            for row in table.iter()?.rev().take(limit) {
                rows.push(row?.1.value().to_vec());
            }
            Ok(rows)
        })?;
        rows.iter()
            .map(|bytes| self.decode("a quarantined entry", bytes))
            .collect()
    }

    fn row<T: serde::de::DeserializeOwned>(
        &self,
        what: &'static str,
        table: Table,
        key: &[u8],
    ) -> Result<Option<T>, IntakeError> {
        let bytes = self.read(what, |transaction| {
            let table = transaction.open_table(table)?;
            Ok(table.get(key)?.map(|value| value.value().to_vec()))
        })?;
        bytes.map(|bytes| self.decode(what, &bytes)).transpose()
    }

    fn decode<T: serde::de::DeserializeOwned>(
        &self,
        what: &'static str,
        bytes: &[u8],
    ) -> Result<T, IntakeError> {
        decode(bytes).map_err(|reason| IntakeError::Damaged {
            place: self.medium.place(),
            reason: format!("{what}: {reason}"),
        })
    }
}

/// Writes a batch. Says the number of the last notice when it holds some.
fn write(database: &Database, batch: &Batch) -> Result<Option<u64>, redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    {
        let mut table = transaction.open_table(KEPT)?;
        for (node, kept) in &batch.kept {
            table.insert(node_key(*node).as_slice(), encode(kept).as_slice())?;
        }
    }
    write_commands(&transaction, batch)?;
    deployment::write(&transaction, batch)?;
    alert::write(&transaction, batch)?;
    let last = notice::write(&transaction, batch)?;
    {
        let mut table = transaction.open_table(STATES)?;
        for ((node, key), state) in &batch.states {
            let key = [node.as_bytes().as_slice(), &key.0.to_be_bytes()].concat();
            table.insert(key.as_slice(), encode(state).as_slice())?;
        }
        let mut table = transaction.open_table(LIFECYCLES)?;
        for (node, event) in &batch.lifecycles {
            let key = node_key(*node);
            let held = table
                .get(key.as_slice())?
                .map(|value| value.value().to_vec());
            // An unreadable list is begun anew: these are hints for people.
            let mut events: Vec<StoredLifecycle> = held
                .and_then(|bytes| decode(&bytes).ok())
                .unwrap_or_default();
            events.push(event.clone());
            let surplus = events.len().saturating_sub(LIFECYCLE_COUNT_MAX);
            events.drain(..surplus);
            table.insert(key.as_slice(), encode(&events).as_slice())?;
        }
    }
    if !batch.quarantine.is_empty() {
        let mut table = transaction.open_table(QUARANTINE)?;
        let first = table.last()?.map_or(0, |(key, _)| key.value() + 1);
        for (number, entry) in (first..).zip(&batch.quarantine) {
            table.insert(number, encode(entry).as_slice())?;
        }
        while redb::ReadableTableMetadata::len(&table)? > QUARANTINE_COUNT_MAX {
            table.pop_first()?;
        }
    }
    {
        let mut table = transaction.open_table(META)?;
        if let Some(cursor) = batch.cursor {
            table.insert(META_CURSOR, cursor)?;
        }
        if let Some(counter) = batch.counter {
            table.insert(META_COUNTER, counter)?;
        }
    }
    transaction.commit()?;
    Ok(last)
}

fn write_commands(transaction: &redb::WriteTransaction, batch: &Batch) -> Result<(), redb::Error> {
    let mut commands = transaction.open_table(COMMANDS)?;
    let mut targets = transaction.open_table(TARGETS)?;
    let mut receipts = transaction.open_table(RECEIPTS)?;
    for (command, row) in &batch.commands {
        commands.insert(command.as_bytes().as_slice(), encode(row).as_slice())?;
    }
    for ((command, node), state) in &batch.targets {
        targets.insert(
            pair_key(*command, *node).as_slice(),
            encode(state).as_slice(),
        )?;
    }
    for ((command, node), receipt) in &batch.receipts {
        receipts.insert(
            pair_key(*command, *node).as_slice(),
            encode(receipt).as_slice(),
        )?;
    }
    for command in &batch.forgotten {
        commands.remove(command.as_bytes().as_slice())?;
        let from = pair_key(*command, NodeId::NIL);
        let to = pair_key(*command, NodeId::from_bytes([0xff; 10]));
        targets.retain_in(from.as_slice()..=to.as_slice(), |_, _| false)?;
        receipts.retain_in(from.as_slice()..=to.as_slice(), |_, _| false)?;
    }
    Ok(())
}
