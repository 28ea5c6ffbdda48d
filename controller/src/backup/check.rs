//! Whether a backup is sound: it is put back, aside, and opened as a start opens it.

use std::fs;
use std::io::{BufReader, BufWriter};
use std::path::Path;

use protocol::key::PublicKey;

use super::error::{failed, invalid};
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
    let config = crate::config::of(scratch.path()).map_err(|problems| {
        let said: String = problems.iter().map(ToString::to_string).collect();
        failed("unpack into", scratch.path())(std::io::Error::other(said))
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
    if fleet.id() != manifest.fleet || fleet.seq() != manifest.records {
        return Err(invalid(
            file,
            format!(
                "it says that it has {} records of fleet {}, and has {} of fleet {}",
                manifest.records,
                manifest.fleet,
                fleet.seq(),
                fleet.id()
            ),
        ));
    }
    let signing = pki.signing().borrow().public();
    let records = trail(engine.journal(), &[pki.root(), signing])?;
    let intake = Intake::open(&config.state_dir.join(layout::INTAKE_FILE))?;
    let cursor = intake.cursor()?;
    if cursor > records {
        return Err(invalid(
            file,
            format!("what nodes reported follows record {cursor}, and there are {records}"),
        ));
    }
    let vault = Vault::open(&config.state_dir.join(layout::VAULT), &pki.vault_key()?)?;
    let contents = contents(file, &vault, &fleet)?;
    let archives = archives(file, &config.state_dir)?;
    drop(task);
    Ok(Sound {
        manifest,
        records,
        nodes: fleet.nodes().count(),
        contents,
        archives,
    })
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
fn contents(file: &Path, vault: &Vault, fleet: &Fleet) -> Result<usize, BackupError> {
    let mut wanted = named(fleet);
    let own = vault.names().into_iter();
    wanted.extend(own.map(|((kind, _), entry)| (kind, entry.digest)));
    for (kind, digest) in &wanted {
        if vault.get(*kind, digest)?.is_none() {
            return Err(invalid(
                file,
                format!("content {digest} is named, and is not in it"),
            ));
        }
    }
    Ok(wanted.len())
}

fn archives(file: &Path, state_dir: &Path) -> Result<usize, BackupError> {
    let mut count = 0;
    for (name, open) in [
        (layout::ARCHIVES, Archives::open as fn(&Path) -> _),
        (layout::RELEASES, Archives::of_releases),
    ] {
        let folder = state_dir.join(name);
        let files = fs::read_dir(&folder).map_or(0, Iterator::count);
        let store = open(&folder)?;
        let held = store.list();
        if held.len() != files {
            return Err(invalid(
                file,
                format!(
                    "{} of the {files} archives in {name} can be read",
                    held.len()
                ),
            ));
        }
        for archive in &held {
            let (mut content, _) = store.open_at(archive.digest, 0)?;
            let (found, _) = digest_of(&mut content).map_err(failed("read", &folder))?;
            if found != archive.digest {
                return Err(invalid(
                    file,
                    format!("{name}/{} is damaged", archive.digest),
                ));
            }
        }
        count += held.len();
    }
    Ok(count)
}
