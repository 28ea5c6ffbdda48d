//! Rows of redb tables as bytes: out of one file, and into another.
//!
//! A copy of a file that is in use would be torn; a read transaction sees one
//! moment of it, for as long as it lives, and what is committed meanwhile does not
//! wait for it. Rows travel in chunks: key and value, each after its length in
//! four bytes, big-endian.
//!
//! **Invariant:** what [`Loading`] takes comes from outside. A chunk that is no
//! chunk, or holds what its table cannot, is refused; nothing is assumed of it.

use std::io;

use redb::{
    Database, Key, ReadTransaction, ReadableTable as _, TableDefinition, TableError, TableHandle,
    TypeName, Value, WriteTransaction,
};

/// Bytes of a chunk, unless a single row has more.
const CHUNK_BYTES: usize = 1024 * 1024;

/// The largest chunk that is read: more than any row, which is a snapshot of the
/// state of the largest fleet.
pub(crate) const CHUNK_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Rows cannot be read from a file, or put into one.
#[derive(Debug, thiserror::Error)]
pub enum RowsError {
    /// The store did not do it.
    #[error("cannot {step} table {table}")]
    Store {
        /// What was tried.
        step: &'static str,
        /// Which table.
        table: String,
        /// Why not.
        #[source]
        source: Box<redb::Error>,
    },
    /// Whoever takes the rows does not.
    #[error(transparent)]
    Sink(#[from] io::Error),
    /// There is no such table here.
    #[error("there is no table {table:?}")]
    Unknown {
        /// Its name.
        table: String,
    },
    /// The bytes are no rows of the table.
    #[error("a row of table {table} is malformed")]
    Malformed {
        /// Which table.
        table: String,
    },
}

impl RowsError {
    /// What the system said, where it was the system.
    pub(crate) fn io(&self) -> Option<&io::Error> {
        match self {
            Self::Sink(error) => Some(error),
            Self::Store { source, .. } => {
                if let redb::Error::Io(error) = source.as_ref() {
                    Some(error)
                } else {
                    None
                }
            }
            Self::Unknown { .. } | Self::Malformed { .. } => None,
        }
    }
}

/// A table, whatever it holds.
pub(crate) trait Rows: Sync {
    /// Its name.
    fn name(&self) -> &str;

    /// Makes it in a new file.
    fn make(&self, transaction: &WriteTransaction) -> Result<(), TableError>;

    /// Hands its rows to `each`, chunk by chunk. A table that is not there has none.
    fn read(
        &self,
        transaction: &ReadTransaction,
        each: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), RowsError>;

    /// Puts the rows of a chunk in.
    fn put(&self, transaction: &WriteTransaction, chunk: &[u8]) -> Result<(), RowsError>;
}

impl<K: Key + 'static, V: Value + 'static> Rows for TableDefinition<'static, K, V>
where
    Self: Sync,
{
    fn name(&self) -> &str {
        TableHandle::name(self)
    }

    fn make(&self, transaction: &WriteTransaction) -> Result<(), TableError> {
        transaction.open_table(*self).map(drop)
    }

    fn read(
        &self,
        transaction: &ReadTransaction,
        each: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), RowsError> {
        let failed = |error: redb::Error| stored("read", Rows::name(self), error);
        let table = match transaction.open_table(*self) {
            Ok(table) => table,
            Err(TableError::TableDoesNotExist(_)) => return Ok(()),
            Err(error) => return Err(failed(error.into())),
        };
        let mut chunk = Vec::new();
        for row in table.iter().map_err(|error| failed(error.into()))? {
            let (key, value) = row.map_err(|error| failed(error.into()))?;
            push(&mut chunk, K::as_bytes(&key.value()).as_ref())?;
            push(&mut chunk, V::as_bytes(&value.value()).as_ref())?;
            if chunk.len() >= CHUNK_BYTES {
                each(&chunk)?;
                chunk.clear();
            }
        }
        if !chunk.is_empty() {
            each(&chunk)?;
        }
        Ok(())
    }

    fn put(&self, transaction: &WriteTransaction, chunk: &[u8]) -> Result<(), RowsError> {
        let failed = |error: redb::Error| stored("write", Rows::name(self), error);
        let malformed = || RowsError::Malformed {
            table: Rows::name(self).to_owned(),
        };
        let mut table = transaction
            .open_table(*self)
            .map_err(|error| failed(error.into()))?;
        let mut rest = chunk;
        while !rest.is_empty() {
            let key = pull(&mut rest).filter(|key| fits::<K>(key));
            let value = pull(&mut rest).filter(|value| fits::<V>(value));
            let (Some(key), Some(value)) = (key, value) else {
                return Err(malformed());
            };
            let replaced = table
                .insert(K::from_bytes(key), V::from_bytes(value))
                .map_err(|error| failed(error.into()))?;
            if replaced.is_some() {
                return Err(malformed());
            }
        }
        Ok(())
    }
}

/// Whether a type of the tables can be made of bytes: what redb would panic over is
/// refused before it sees it.
fn fits<T: Value>(bytes: &[u8]) -> bool {
    match T::fixed_width() {
        Some(width) => bytes.len() == width,
        None => T::type_name() != text() || std::str::from_utf8(bytes).is_ok(),
    }
}

fn text() -> TypeName {
    <&str as Value>::type_name()
}

fn push(chunk: &mut Vec<u8>, part: &[u8]) -> io::Result<()> {
    let length = u32::try_from(part.len()).map_err(io::Error::other)?;
    chunk.extend_from_slice(&length.to_be_bytes());
    chunk.extend_from_slice(part);
    Ok(())
}

fn pull<'b>(rest: &mut &'b [u8]) -> Option<&'b [u8]> {
    let (length, after) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let (part, after) = after.split_at_checked(length)?;
    *rest = after;
    Some(part)
}

fn stored(step: &'static str, table: &str, error: redb::Error) -> RowsError {
    RowsError::Store {
        step,
        table: table.to_owned(),
        source: Box::new(error),
    }
}

/// One moment of a file's tables.
pub(crate) struct Frozen {
    transaction: ReadTransaction,
    tables: &'static [&'static dyn Rows],
}

impl Frozen {
    pub(crate) fn new(transaction: ReadTransaction, tables: &'static [&'static dyn Rows]) -> Self {
        Self {
            transaction,
            tables,
        }
    }

    /// The moment itself.
    pub(crate) fn transaction(&self) -> &ReadTransaction {
        &self.transaction
    }

    /// Hands every row to `each`: its table, and a chunk with it and others.
    ///
    /// # Errors
    /// [`RowsError`]; also when the file was closed meanwhile because a write failed.
    pub(crate) fn read(
        &self,
        each: &mut dyn FnMut(&str, &[u8]) -> io::Result<()>,
    ) -> Result<(), RowsError> {
        for table in self.tables {
            table.read(&self.transaction, &mut |chunk| each(table.name(), chunk))?;
        }
        Ok(())
    }
}

/// A new file that tables are put into.
pub(crate) struct Loading {
    database: Database,
    tables: &'static [&'static dyn Rows],
}

impl Loading {
    /// Makes the tables, empty.
    ///
    /// # Errors
    /// [`RowsError::Store`].
    pub(crate) fn new(
        database: Database,
        tables: &'static [&'static dyn Rows],
    ) -> Result<Self, RowsError> {
        let loading = Self { database, tables };
        loading.write("all", |transaction| {
            for table in tables {
                table
                    .make(transaction)
                    .map_err(|error| stored("make", table.name(), error.into()))?;
            }
            Ok(())
        })?;
        Ok(loading)
    }

    /// Puts a chunk into a table, durably.
    ///
    /// # Errors
    /// [`RowsError`].
    pub(crate) fn put(&self, table: &str, chunk: &[u8]) -> Result<(), RowsError> {
        let known = self.tables.iter().find(|known| known.name() == table);
        let known = known.ok_or_else(|| RowsError::Unknown {
            table: table.chars().take(64).collect(),
        })?;
        self.write(table, |transaction| known.put(transaction, chunk))
    }

    fn write(
        &self,
        table: &str,
        write: impl FnOnce(&WriteTransaction) -> Result<(), RowsError>,
    ) -> Result<(), RowsError> {
        let transaction = self
            .database
            .begin_write()
            .map_err(|error| stored("begin to write", table, error.into()))?;
        write(&transaction)?;
        transaction
            .commit()
            .map_err(|error| stored("commit", table, error.into()))
    }
}

#[cfg(test)]
mod tests {
    use redb::ReadableDatabase as _;

    use super::*;

    const NUMBERS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("numbers");
    const NAMES: TableDefinition<'_, &str, u64> = TableDefinition::new("names");
    const PAIRS: TableDefinition<'_, (&[u8; 10], u32), &[u8]> = TableDefinition::new("pairs");
    const LATER: TableDefinition<'_, u64, u64> = TableDefinition::new("later");
    static TABLES: &[&dyn Rows] = &[&NUMBERS, &NAMES, &PAIRS, &LATER];

    fn empty() -> Database {
        Database::builder()
            .create_with_backend(redb::backends::InMemoryBackend::new())
            .unwrap()
    }

    fn rows(database: &Database) -> Vec<(String, Vec<u8>)> {
        let mut rows = Vec::new();
        Frozen::new(database.begin_read().unwrap(), TABLES)
            .read(&mut |table, chunk| {
                rows.push((table.to_owned(), chunk.to_vec()));
                Ok(())
            })
            .unwrap();
        rows
    }

    #[test]
    fn what_is_read_at_one_moment_is_put_elsewhere_whatever_comes_after() {
        let from = empty();
        let write = from.begin_write().unwrap();
        write.open_table(NAMES).unwrap().insert("a", 1).unwrap();
        {
            let mut numbers = write.open_table(NUMBERS).unwrap();
            // More than one chunk, and a row that is larger than a chunk.
            for number in 0..3_000_u64 {
                numbers.insert(number, [7_u8; 500].as_slice()).unwrap();
            }
            let large = vec![8_u8; 2 * CHUNK_BYTES];
            numbers.insert(3_000, large.as_slice()).unwrap();
            let mut pairs = write.open_table(PAIRS).unwrap();
            pairs.insert((&[3; 10], 4), [].as_slice()).unwrap();
        }
        write.commit().unwrap();
        let frozen = Frozen::new(from.begin_read().unwrap(), TABLES);
        let before = rows(&from);
        let write = from.begin_write().unwrap();
        write.open_table(NAMES).unwrap().insert("b", 2).unwrap();
        write.commit().unwrap();

        let loading = Loading::new(empty(), TABLES).unwrap();
        let mut chunks = 0;
        frozen
            .read(&mut |table, chunk| {
                chunks += 1;
                loading.put(table, chunk).map_err(io::Error::other)
            })
            .unwrap();
        assert_eq!(chunks, 4, "two of them of one table");
        assert_eq!(rows(&loading.database), before);
    }

    #[test]
    fn bytes_that_are_no_rows_of_the_table_are_refused_and_nothing_panics() {
        let mut good = Vec::new();
        push(&mut good, &7_u64.to_le_bytes()).unwrap();
        push(&mut good, b"value").unwrap();
        let mut short_key = Vec::new();
        push(&mut short_key, b"1234567").unwrap();
        push(&mut short_key, b"value").unwrap();
        let mut no_text = Vec::new();
        push(&mut no_text, &[0xff, 0xfe]).unwrap();
        push(&mut no_text, &7_u64.to_le_bytes()).unwrap();
        let twice = [good.clone(), good.clone()].concat();
        let loading = Loading::new(empty(), TABLES).unwrap();
        for (table, chunk) in [
            ("numbers", &good[..good.len() - 1]),
            ("numbers", &good[..5]),
            ("numbers", &good[..12]),
            ("numbers", short_key.as_slice()),
            ("numbers", twice.as_slice()),
            ("names", no_text.as_slice()),
            ("numbers", &[0xff, 0xff, 0xff, 0xff]),
        ] {
            let refused = loading.put(table, chunk);
            assert!(
                matches!(refused, Err(RowsError::Malformed { .. })),
                "{chunk:?}: {refused:?}"
            );
        }
        assert!(matches!(
            loading.put("cabinet", &good),
            Err(RowsError::Unknown { .. })
        ));
        loading.put("numbers", &good).unwrap();
    }
}
