//! Taking a state directory forward to the layout of this program.
//!
//! Each store changes its own file when it is opened; here a copy of everything that
//! cannot be made anew comes first, so that the older program can go on with it, and
//! what is newer than this program is left alone. A start that was cut off migrates
//! again: the copy appears under its name when it is whole, and is never replaced.

use std::fs;
use std::io;
use std::path::Path;

use protocol::ErrorCode;

use crate::cli::failure::CliFailure;
use crate::config::Config;
use crate::durable;
use crate::exit::Exit;
use crate::journal::{Journal, JournalReader};
use crate::layout;
use crate::pki::Pki;
use crate::serve::store::{cannot, coded};

/// Refuses a directory that a newer program wrote, before anything in it is opened.
pub(super) fn refuse_newer(dir: &Path) -> Result<(), CliFailure> {
    let found = format_of(dir)?;
    if found <= layout::FORMAT {
        return Ok(());
    }
    let code = ErrorCode::StoreNewer;
    Err(CliFailure::new(
        Exit::Store,
        format!(
            "{} has format {found}, which a newer controller wrote; this one knows {}",
            dir.display(),
            layout::FORMAT
        ),
    )
    .advise(code.info().action)
    .coded(code))
}

/// Copies an older directory, and says that it is of this program's format.
pub(super) fn migrate(
    config: &Config,
    journal: &JournalReader,
    pki: &Pki,
) -> Result<(), CliFailure> {
    let dir = &config.state_dir;
    let found = format_of(dir)?;
    if found == layout::FORMAT {
        return Ok(());
    }
    let copy = dir.join(layout::copy_before(layout::FORMAT));
    if !copy.exists() {
        check_space(dir)?;
        let partial = copy.with_added_extension("partial");
        copy_into(&partial, dir, journal, pki)?;
        durable::rename(&partial, &copy).map_err(|error| cannot("put in place", &copy, &error))?;
    }
    tracing::info!(from = found, to = layout::FORMAT, copy = %copy.display(), "the state directory is taken forward");
    layout::write_format(dir, layout::FORMAT)
        .map_err(|error| cannot("write", &dir.join(layout::FORMAT_FILE), &error))
}

fn format_of(dir: &Path) -> Result<u32, CliFailure> {
    layout::read_format(dir).map_err(|error| {
        coded(
            Exit::Store,
            ErrorCode::StoreCorrupt,
            format_args!("{} is damaged", dir.join(layout::FORMAT_FILE).display()),
            &error,
        )
    })
}

/// Refuses to begin a copy that would fill the disk.
fn check_space(dir: &Path) -> Result<(), CliFailure> {
    let size = |name: &str| fs::metadata(dir.join(name)).map_or(0, |found| found.len());
    let needed = size(layout::JOURNAL_FILE) + size(layout::INTAKE_FILE);
    let free = durable::free_bytes(dir).map_err(|error| cannot("look at", dir, &error))?;
    if needed.saturating_add(crate::archive::RESERVE_BYTES) <= free {
        return Ok(());
    }
    Err(CliFailure::new(
        Exit::Store,
        format!(
            "{} is taken forward to another format after it was copied, which takes {needed} bytes besides a reserve of {}; {free} are free",
            dir.display(),
            crate::archive::RESERVE_BYTES
        ),
    )
    .advise("make space on its disk, or go back to the version before").coded(ErrorCode::StoreFull))
}

/// A state directory that the older program starts from, without metrics and archives.
fn copy_into(
    into: &Path,
    dir: &Path,
    journal: &JournalReader,
    pki: &Pki,
) -> Result<(), CliFailure> {
    let made =
        |path: &Path, done: io::Result<()>| done.map_err(|error| cannot("copy to", path, &error));
    made(into, durable::remove_tree(into))?;
    let keys = into.join(layout::PKI);
    made(&keys, durable::make_private(&keys))?;
    let files = pki.files();
    let files =
        files.map_err(|error| coded(Exit::Store, error.code(), "cannot copy the keys", &error))?;
    for (name, content) in &files {
        let to = keys.join(name);
        made(&to, durable::replace(&to, content))?;
    }
    copy_journal(journal, &into.join(layout::JOURNAL_FILE)).map_err(|error| {
        CliFailure::because(Exit::Store, "cannot copy the journal", error.as_ref())
    })?;
    for name in [layout::INTAKE_FILE, layout::FLEET_FILE, layout::FORMAT_FILE] {
        let (from, to) = (dir.join(name), into.join(name));
        match fs::copy(&from, &to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            copied => made(&to, copied.map(drop))?,
        }
    }
    let vault = into.join(layout::VAULT);
    made(
        &vault,
        durable::hold_below(&dir.join(layout::VAULT), &vault),
    )?;
    // All of it is on the disk before its name is.
    made(into, durable::sync_all_of(into))
}

fn copy_journal(
    journal: &JournalReader,
    to: &Path,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let (frozen, _) = journal.freeze()?;
    let loading = Journal::load(to)?;
    frozen.read(&mut |table, chunk| loading.put(table, chunk).map_err(io::Error::other))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::store;
    use crate::uplink::intake::Intake;

    fn settings(dir: &Path) -> Config {
        crate::config::of(dir).unwrap()
    }

    /// A directory as a program of before formats were numbered left it.
    fn older(dir: &Path) {
        drop(store::open(&settings(dir)).unwrap());
        drop(Intake::open(&dir.join(layout::INTAKE_FILE)).unwrap());
        Intake::make_older(&dir.join(layout::INTAKE_FILE));
        fs::create_dir_all(dir.join(layout::VAULT).join("content")).unwrap();
        fs::write(dir.join(layout::VAULT).join("content/c-1"), "sealed").unwrap();
        fs::remove_file(dir.join(layout::FORMAT_FILE)).unwrap();
    }

    #[test]
    fn a_new_directory_is_of_this_format_and_has_no_copy() {
        let dir = tempfile::tempdir().unwrap();
        drop(store::open(&settings(dir.path())).unwrap());
        drop(store::open(&settings(dir.path())).unwrap());
        assert_eq!(layout::read_format(dir.path()).unwrap(), layout::FORMAT);
        assert!(!dir.path().join("before-format-1").exists());
    }

    #[test]
    fn an_older_directory_is_copied_and_taken_forward_and_the_copy_starts_by_itself() {
        let dir = tempfile::tempdir().unwrap();
        older(dir.path());
        // What a start left that was cut off while it copied.
        let partial = dir.path().join("before-format-1.partial");
        fs::create_dir(&partial).unwrap();
        fs::write(partial.join("rubbish"), "").unwrap();
        let before = store::open(&settings(dir.path())).unwrap();
        let fleet = before.engine.fleet().id();
        drop(before);
        drop(Intake::open(&dir.path().join(layout::INTAKE_FILE)).unwrap());
        assert_eq!(layout::read_format(dir.path()).unwrap(), layout::FORMAT);
        assert!(!partial.exists());
        let copy = dir.path().join("before-format-1");
        assert_eq!(layout::read_format(&copy).unwrap(), 0);
        assert_eq!(Intake::format_in(&copy.join(layout::INTAKE_FILE)), 2);
        assert_eq!(Intake::format_in(&dir.path().join(layout::INTAKE_FILE)), 3);
        let sealed = copy.join(layout::VAULT).join("content/c-1");
        assert_eq!(fs::read_to_string(sealed).unwrap(), "sealed");
        // Another start leaves the copy as it is.
        fs::remove_file(dir.path().join(layout::FORMAT_FILE)).unwrap();
        drop(store::open(&settings(dir.path())).unwrap());
        assert_eq!(Intake::format_in(&copy.join(layout::INTAKE_FILE)), 2);
        let again = store::open(&settings(&copy)).unwrap();
        assert_eq!(again.engine.fleet().id(), fleet);
    }

    #[test]
    fn a_newer_or_damaged_format_is_refused_and_nothing_is_touched() {
        let dir = tempfile::tempdir().unwrap();
        drop(store::open(&settings(dir.path())).unwrap());
        for (text, code) in [("2\n", "store.newer"), ("two\n", "store.corrupt")] {
            fs::write(dir.path().join(layout::FORMAT_FILE), text).unwrap();
            let refused = store::open(&settings(dir.path())).err().unwrap();
            assert_eq!(refused.code.as_deref(), Some(code), "{refused}");
            let after = fs::read_to_string(dir.path().join(layout::FORMAT_FILE)).unwrap();
            assert_eq!(after, text);
        }
    }
}
