//! Making a backup: taking the moment, which is short, and writing it, which is not.
//!
//! What can change is held by read transactions, or read, while the moment is taken;
//! what only comes and goes is held by a second name on the same disk. So writing
//! takes as long as whoever reads it, needs no space, and nothing waits for it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use protocol::time::UnixMillis;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use zeroize::Zeroizing;

use super::error::failed;
use super::key::Recipient;
use super::{BackupError, FORMAT, INTAKE, JOURNAL, MANIFEST, Manifest};
use crate::durable;
use crate::journal::JournalReader;
use crate::layout;
use crate::pki::Pki;
use crate::rows::{Frozen, RowsError};
use crate::uplink::intake::Intake;

/// zstd's own default: for the rows of a journal, a tenth of the bytes at some
/// hundred megabytes a second.
const LEVEL: i32 = 3;

/// Makes backups of one controller, one at a time. Cheap to clone.
#[derive(Clone)]
pub struct Backups {
    inner: Arc<Inner>,
    one: Arc<Semaphore>,
}

struct Inner {
    state_dir: PathBuf,
    journal: JournalReader,
    intake: Intake,
    pki: Pki,
    recipients: Vec<Recipient>,
}

/// That no other backup is made.
pub struct Turn(#[expect(dead_code, reason = "held, not used")] OwnedSemaphorePermit);

impl Backups {
    /// Backups of these parts, encrypted to these keys.
    #[must_use]
    pub fn new(
        state_dir: PathBuf,
        journal: JournalReader,
        intake: Intake,
        pki: Pki,
        recipients: Vec<Recipient>,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                state_dir,
                journal,
                intake,
                pki,
                recipients,
            }),
            one: Arc::new(Semaphore::new(1)),
        }
    }

    /// Whom backups are encrypted to.
    #[must_use]
    pub fn recipients(&self) -> &[Recipient] {
        &self.inner.recipients
    }

    /// Sees to it that one backup is made at a time: the others would hold the same
    /// moment, and each holds space of the stores.
    ///
    /// # Errors
    /// [`BackupError::Running`].
    pub fn turn(&self) -> Result<Turn, BackupError> {
        Arc::clone(&self.one)
            .try_acquire_owned()
            .map(Turn)
            .map_err(|_| BackupError::Running)
    }

    /// Takes the moment. It blocks, for some milliseconds and for what it takes to
    /// name every config, secret and archive a second time.
    ///
    /// # Errors
    /// [`BackupError`].
    pub fn take(&self, turn: Turn, archives: bool, now: UnixMillis) -> Result<Taken, BackupError> {
        let Inner {
            state_dir,
            journal,
            intake,
            pki,
            recipients,
        } = self.inner.as_ref();
        let fleet = journal.fleet();
        // Held before and after: what the journal names at its moment was there before,
        // or is so new since that it is not swept out.
        let held = Held::new(state_dir)?;
        held.all(state_dir, archives)?;
        // In this order the pair is what a crash could have left: the intake follows
        // the journal, and takes up from its cursor.
        let intake = intake.freeze()?;
        let (journal, head) = journal.freeze()?;
        let keys: Vec<_> = pki.files()?.into_iter().collect();
        held.all(state_dir, archives)?;
        let manifest = Manifest {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            layout: layout::FORMAT,
            fleet,
            made_at: now,
            records: head.seq,
            archives,
            root_key: keys.iter().any(|(name, _)| name == crate::pki::ROOT),
        };
        Ok(Taken {
            manifest,
            keys,
            intake,
            journal,
            held,
            recipients: recipients.clone(),
            _turn: turn,
        })
    }
}

/// A moment of the controller.
pub struct Taken {
    pub(super) manifest: Manifest,
    keys: Vec<(String, Zeroizing<Vec<u8>>)>,
    intake: Frozen,
    journal: Frozen,
    held: Held,
    recipients: Vec<Recipient>,
    _turn: Turn,
}

impl Taken {
    /// Writes it, compressed and encrypted. It blocks as long as `sink` does. What
    /// breaks off is no backup, and is found to be none.
    ///
    /// # Errors
    /// [`BackupError`].
    pub fn write(self, sink: impl Write) -> Result<(), BackupError> {
        let recipients = self.recipients.iter().map(Recipient::of);
        let encrypted = age::Encryptor::with_recipients(recipients)
            .map_err(io::Error::other)
            .and_then(|encryptor| encryptor.wrap_output(sink))
            .map_err(BackupError::Sink)?;
        let packed = zstd::Encoder::new(encrypted, LEVEL).map_err(BackupError::Sink)?;
        let mut tar = Tar(tar::Builder::new(packed));
        self.put(&mut tar)?;
        tar.0
            .into_inner()
            .and_then(zstd::Encoder::finish)
            .and_then(age::stream::StreamWriter::finish)
            .and_then(|mut sink| sink.flush())
            .map_err(BackupError::Sink)
    }

    fn put<W: Write>(&self, tar: &mut Tar<W>) -> Result<(), BackupError> {
        let manifest = serde_json::to_vec_pretty(&self.manifest).map_err(io::Error::other);
        let manifest = manifest.map_err(BackupError::Sink)?;
        tar.bytes(MANIFEST, &manifest).map_err(BackupError::Sink)?;
        let fleet = format!("{}\n", self.manifest.fleet);
        tar.bytes(layout::FLEET_FILE, fleet.as_bytes())
            .map_err(BackupError::Sink)?;
        for (name, content) in &self.keys {
            tar.bytes(&format!("{}/{name}", layout::PKI), content)
                .map_err(BackupError::Sink)?;
        }
        put_rows(tar, INTAKE, "intake", &self.intake)?;
        put_rows(tar, JOURNAL, "journal", &self.journal)?;
        self.held.put(tar)
    }
}

fn put_rows<W: Write>(
    tar: &mut Tar<W>,
    folder: &str,
    what: &'static str,
    frozen: &Frozen,
) -> Result<(), BackupError> {
    let mut number = 0_u64;
    let read = frozen.read(&mut |table, chunk| {
        number += 1;
        tar.bytes(&format!("{folder}/{table}/{number}"), chunk)
    });
    read.map_err(|source| {
        if let RowsError::Sink(source) = source {
            BackupError::Sink(source)
        } else {
            BackupError::Rows { what, source }
        }
    })
}

/// The archive that is written.
struct Tar<W: Write>(tar::Builder<W>);

impl<W: Write> Tar<W> {
    fn bytes(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        self.stream(name, content.len() as u64, content)
    }

    fn stream(&mut self, name: &str, size: u64, content: impl Read) -> io::Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(0o600);
        header.set_size(size);
        self.0.append_data(&mut header, name, content)
    }
}

/// Second names for files that may be taken away while a backup is written. They are
/// never changed: whoever writes one anew writes another file.
struct Held {
    folder: PathBuf,
}

impl Held {
    fn new(state_dir: &Path) -> Result<Self, BackupError> {
        sweep(state_dir)?;
        Ok(Self {
            folder: state_dir.join(layout::BACKING_UP),
        })
    }

    /// Holds what is there now, besides what it holds already.
    fn all(&self, state_dir: &Path, archives: bool) -> Result<(), BackupError> {
        let folders: &[&str] = if archives {
            &[layout::VAULT, layout::ARCHIVES, layout::RELEASES]
        } else {
            &[layout::VAULT]
        };
        for name in folders {
            let from = state_dir.join(name);
            durable::hold_below(&from, &self.folder.join(name)).map_err(failed("hold", &from))?;
        }
        Ok(())
    }

    fn put<W: Write>(&self, tar: &mut Tar<W>) -> Result<(), BackupError> {
        let files = durable::files_below(&self.folder).map_err(failed("list", &self.folder))?;
        for name in files {
            let path = self.folder.join(&name);
            let file = File::open(&path).map_err(failed("open", &path))?;
            let size = file.metadata().map_err(failed("look at", &path))?.len();
            tar.stream(&name, size, file.take(size))
                .map_err(BackupError::Sink)?;
        }
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Err(error) = durable::remove_tree(&self.folder) {
            tracing::warn!(folder = %self.folder.display(), %error, "names held for a backup stay until the next start");
        }
    }
}

/// Removes what a crash left of making a backup, or of restoring one that is in place.
///
/// # Errors
/// [`BackupError::File`].
pub fn sweep(state_dir: &Path) -> Result<(), BackupError> {
    for name in [layout::BACKING_UP, layout::RESTORING] {
        let path = state_dir.join(name);
        durable::remove_tree(&path).map_err(failed("remove", &path))?;
    }
    Ok(())
}
