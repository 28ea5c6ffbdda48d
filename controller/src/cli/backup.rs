//! `flotilla backup …`

use std::path::Path;

use protocol::ErrorCode;
use serde::Serialize;

use crate::backup::{self, BackupError, Sound, key};
use crate::cli::Session;
use crate::cli::args::ConfigSource;
use crate::cli::args::backup::{Backup, OpenBackup};
use crate::cli::failure::CliFailure;
use crate::cli::print::{Printer, Tone, bytes};
use crate::cli::save::save;
use crate::exit::Exit;
use crate::operation::view::Stamp;
use crate::operation::view::backup::MakeBackup;
use crate::serve::store::coded;

/// Asks the controller for a backup.
pub(super) async fn run(session: &mut Session, command: Backup) -> Result<Exit, CliFailure> {
    let Backup::Create {
        to,
        without_archives,
    } = command
    else {
        return Err(CliFailure::new(Exit::Bug, "this asks no controller"));
    };
    let asked = MakeBackup { without_archives };
    let response = session.client.post_for("/backups", &asked).await?;
    let count = save(response, &to, "the backup").await?;
    session.print.show(
        &serde_json::json!({"file": to, "bytes": count}),
        |print, _| print.line(format!("{} in {}", bytes(count as f64), to.display())),
    )?;
    super::note("Verify it, with the key and away from the controller: flotilla backup verify");
    Ok(Exit::Ok)
}

/// Makes a backup key, offline.
pub(super) fn create_key(print: &mut Printer, file: &Path) -> Result<Exit, CliFailure> {
    let recipient = key::create(file).map_err(|error| failure("no key was made", &error))?;
    print.line(recipient.to_string())?;
    super::note(&format!(
        "{} is the key. Keep it, away from the controller: without it no backup can be read.\n\
         Then say in the controller's configuration, and restart it:\n  [backup]\n  recipients = [\"{recipient}\"]",
        file.display()
    ));
    Ok(Exit::Ok)
}

/// Checks a backup, offline.
pub(super) fn verify(print: &mut Printer, asked: &OpenBackup) -> Result<Exit, CliFailure> {
    let name = format!("flotilla-verify-{}", super::client::request_id()?);
    let scratch = std::env::temp_dir().join(name);
    let sound = backup::verify(&asked.file, &asked.key, &scratch)
        .map_err(|error| failure("the backup does not verify", &error))?;
    show(print, &sound, "good")
}

/// Restores a backup, offline.
pub(super) fn restore(
    print: &mut Printer,
    asked: &OpenBackup,
    source: &ConfigSource,
) -> Result<Exit, CliFailure> {
    let config = super::config::load(source)?;
    let sound = backup::restore(&config, &asked.file, &asked.key)
        .map_err(|error| failure("nothing was restored", &error))?;
    show(print, &sound, "restored")?;
    super::note(&format!(
        "Start the controller on {}. What happened after the backup it does not know: nodes send \
         again the receipts that they still keep.",
        config.state_dir.display()
    ));
    Ok(Exit::Ok)
}

/// A sound backup, as it is shown.
#[derive(Debug, Serialize)]
struct SoundView {
    fleet: String,
    /// The version of the program that made it.
    version: String,
    made_at: Stamp,
    records: u64,
    nodes: usize,
    contents: usize,
    /// None where they were left out.
    archives: Option<usize>,
    root_key: bool,
}

fn show(print: &mut Printer, sound: &Sound, word: &str) -> Result<Exit, CliFailure> {
    let manifest = &sound.manifest;
    let view = SoundView {
        fleet: manifest.fleet.to_string(),
        version: manifest.version.clone(),
        made_at: manifest.made_at.into(),
        records: sound.records,
        nodes: sound.nodes,
        contents: sound.contents,
        archives: manifest.archives.then_some(sound.archives),
        root_key: manifest.root_key,
    };
    print.show(&view, |print, view| {
        let archives = match view.archives {
            Some(count) => format!("{count} archives"),
            None => "archives left out".to_owned(),
        };
        print.line(format!(
            "{}: fleet {}, made {} by {}: {} records, {} nodes, {} configs and secrets, {archives}, {} the root key",
            print.tint(word, Tone::Good),
            view.fleet,
            print.ago(view.made_at),
            view.version,
            view.records,
            view.nodes,
            view.contents,
            if view.root_key { "with" } else { "without" },
        ))
    })?;
    Ok(Exit::Ok)
}

fn failure(what: &str, error: &BackupError) -> CliFailure {
    if let BackupError::Start(failure) = error {
        return failure.clone();
    }
    let code = error.code();
    let is = |codes: &[ErrorCode]| codes.contains(&code);
    let exit = if is(&[ErrorCode::BackupKeyWrong, ErrorCode::ConfigInvalid]) {
        Exit::Usage
    } else if code == ErrorCode::BackupInTheWay {
        Exit::CannotCreate
    } else if is(&[ErrorCode::StoreFull, ErrorCode::StoreFailed]) {
        Exit::Store
    } else {
        Exit::Data
    };
    let failure = coded(exit, code, what, error);
    if matches!(error, BackupError::KeyFile(_)) {
        return failure
            .advise("name the file of a backup key, which only its owner may read (chmod 600)");
    }
    failure
}
