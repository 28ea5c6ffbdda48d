//! Whether a backup is sound: it is put back, aside, and opened as a start opens it.

use std::fs;
use std::io::{BufReader, BufWriter};
use std::path::Path;

use protocol::key::PublicKey;

use super::read::{Scratch, unpack};
use super::{BackupError, Manifest};
use crate::archive::{Archives, digest_of};
use crate::clock;
use crate::config::Config;
use crate::domain::fleet::Fleet;
use crate::journal::JournalReader;
use crate::journal::verify;
use crate::layout;
use crate::serve::content::named;
use crate::serve::store::{self, Store};
use crate::uplink::intake::Intake;
use crate::vault::Vault;

/// What a sound backup holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sound {
    /// What it says of itself.
    pub manifest: Manifest,
    /// Records of the audit trail, each in its place in the chain, and signed.
    pub records: u64,
    /// Nodes of the fleet.
    pub nodes: usize,
    /// Contents of configs and secrets that something names, each decrypted.
    pub contents: usize,
    /// Archives, each by its SHA-256.
    pub archives: usize,
}

/// Puts a backup back into `scratch`, opens all of it, and removes it again.
///
/// # Errors
/// [`BackupError`]: the first thing that is wrong.
pub fn verify(file: &Path, key: &Path, scratch: &Path) -> Result<Sound, BackupError> {
    let scratch = Scratch::new(scratch.to_owned())?;
    let manifest = unpack(file, key, scratch.path())?;
    let config = crate::config::of(scratch.path()).map_err(|problems| BackupError::File {
        step: "unpack into",
        path: scratch.path().to_owned(),
        source: std::io::Error::other(problems.iter().map(ToString::to_string).collect::<String>()),
    })?;
    check(file, &config, manifest)
}

/// Opens what was unpacked below the state directory of `config`.
pub(super) fn check(
    file: &Path,
    config: &Config,
    manifest: Manifest,
) -> Result<Sound, BackupError> {
    let Store { pki, engine, task } = store::open(config).map_err(BackupError::Start)?;
    let fleet = engine.fleet();
    let invalid = |reason: String| BackupError::Invalid {
        path: file.to_owned(),
        reason,
    };
    if fleet.id() != manifest.fleet || fleet.seq() != manifest.records {
        return Err(invalid(format!(
            "it says that it has {} records of fleet {}, and has {} of fleet {}",
            manifest.records,
            manifest.fleet,
            fleet.seq(),
            fleet.id()
        )));
    }
    let signing = pki.signing().borrow().public();
    let records = trail(engine.journal(), &[pki.root(), signing])?;
    let intake = Intake::open(&config.state_dir.join(layout::INTAKE_FILE))?;
    let cursor = intake.cursor()?;
    if cursor > records {
        return Err(invalid(format!(
            "what nodes reported follows record {cursor}, and there are {records}"
        )));
    }
    let vault = Vault::open(&config.state_dir.join(layout::VAULT), &pki.vault_key()?)?;
    let contents = contents(&vault, &fleet).map_err(|what| what.unwrap_or_else(invalid))?;
    let archives = archives(&config.state_dir).map_err(|what| what.unwrap_or_else(invalid))?;
    drop(task);
    Ok(Sound {
        manifest,
        records,
        nodes: fleet.nodes().count(),
        contents,
        archives,
    })
}

/// What is wrong: with a store, or with what the backup holds.
enum Wrong {
    Store(BackupError),
    Backup(String),
}

impl Wrong {
    fn unwrap_or_else(self, invalid: impl FnOnce(String) -> BackupError) -> BackupError {
        match self {
            Self::Store(error) => error,
            Self::Backup(reason) => invalid(reason),
        }
    }
}

impl<E: Into<BackupError>> From<E> for Wrong {
    fn from(error: E) -> Self {
        Self::Store(error.into())
    }
}

/// Verifies the whole chain, as someone else would with an export.
fn trail(journal: &JournalReader, keys: &[PublicKey]) -> Result<u64, BackupError> {
    let (reader, writer) = std::io::pipe().map_err(BackupError::Sink)?;
    std::thread::scope(|scope| {
        let exporting = scope.spawn(move || {
            let mut writer = BufWriter::new(writer);
            journal.export(1, clock::now(), &mut writer)
        });
        let verified = verify::verify(BufReader::new(reader), keys);
        let exported = exporting.join();
        // What is wrong with the trail says more than that writing it broke off.
        let summary = verified?;
        if let Ok(exported) = exported {
            exported?;
        }
        Ok(summary.last)
    })
}

/// Decrypts every content that a deployment, a sink or a name of Flotilla's own says.
fn contents(vault: &Vault, fleet: &Fleet) -> Result<usize, Wrong> {
    let mut wanted = named(fleet);
    let own = vault.names().into_iter();
    wanted.extend(own.map(|((kind, _), entry)| (kind, entry.digest)));
    for (kind, digest) in &wanted {
        if vault.get(*kind, digest)?.is_none() {
            return Err(Wrong::Backup(format!(
                "content {digest} is named, and is not in it"
            )));
        }
    }
    Ok(wanted.len())
}

fn archives(state_dir: &Path) -> Result<usize, Wrong> {
    let mut count = 0;
    for (name, open) in [
        (layout::ARCHIVES, Archives::open as fn(&Path) -> _),
        (layout::RELEASES, Archives::of_releases),
    ] {
        let folder = state_dir.join(name);
        let files = fs::read_dir(&folder).map_or(0, Iterator::count);
        let held = open(&folder)?.list();
        if held.len() != files {
            return Err(Wrong::Backup(format!(
                "{} of the {files} archives in {name} can be read",
                held.len()
            )));
        }
        for archive in &held {
            let path = folder.join(format!("{}.tar", archive.digest));
            let failed = |step, source| BackupError::File {
                step,
                path: path.clone(),
                source,
            };
            let mut file = fs::File::open(&path).map_err(|error| failed("open", error))?;
            let (found, _) = digest_of(&mut file).map_err(|error| failed("read", error))?;
            if found != archive.digest {
                return Err(Wrong::Backup(format!(
                    "{name}/{} is damaged",
                    archive.digest
                )));
            }
        }
        count += held.len();
    }
    Ok(count)
}
