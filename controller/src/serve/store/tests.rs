//! A state directory that has lost something is damage; one that a first start
//! has not finished is not.

use std::fs;
use std::path::Path;

use super::*;
use crate::config;

fn settings(dir: &Path) -> Config {
    let set = vec![("state_dir".to_owned(), dir.display().to_string())];
    config::load(None, Vec::new(), &set).unwrap()
}

/// A fleet that was founded, and is closed.
fn founded() -> (tempfile::TempDir, Config, FleetId) {
    let dir = tempfile::tempdir().unwrap();
    let config = settings(dir.path());
    let fleet = open(&config).unwrap().engine.fleet().id();
    (dir, config, fleet)
}

/// The refusal names what is lost, and nothing was made in its place.
#[track_caller]
fn refused(config: &Config, lost: &Path) {
    let Err(failure) = open(config) else {
        panic!("{} is missed by nobody", lost.display());
    };
    assert_eq!(failure.exit, Exit::Store);
    assert_eq!(failure.code.as_deref(), Some("store.corrupt"), "{failure}");
    let text = failure.to_string();
    assert!(text.contains(&lost.display().to_string()), "{text}");
    assert!(text.contains("--restored"), "{text}");
    assert!(!lost.exists(), "{} was made anew", lost.display());
}

#[test]
fn a_journal_that_is_gone_is_never_begun_anew() {
    let (dir, config, _) = founded();
    let journal = dir.path().join(layout::JOURNAL_FILE);
    fs::remove_file(&journal).unwrap();
    refused(&config, &journal);
    refused(&config, &journal);
    // Neither by who recovers a key.
    let Err(failure) = open_alone(&config) else {
        panic!("a key is recovered into a new journal");
    };
    assert_eq!(failure.code.as_deref(), Some("store.corrupt"));
    assert!(!journal.exists());
}

#[test]
fn a_fleet_file_and_keys_that_are_gone_are_never_made_anew() {
    let (dir, config, _) = founded();
    let fleet = dir.path().join(layout::FLEET_FILE);
    let aside = dir.path().join("aside");
    fs::rename(&fleet, &aside).unwrap();
    refused(&config, &fleet);
    // The keys alone tell that there was a fleet, and so does the intake.
    fs::rename(
        dir.path().join(layout::JOURNAL_FILE),
        dir.path().join("journal"),
    )
    .unwrap();
    refused(&config, &fleet);
    fs::write(dir.path().join(layout::INTAKE_FILE), "").unwrap();
    fs::rename(&config.pki.dir, dir.path().join("keys")).unwrap();
    refused(&config, &fleet);

    fs::rename(aside, &fleet).unwrap();
    fs::rename(
        dir.path().join("journal"),
        dir.path().join(layout::JOURNAL_FILE),
    )
    .unwrap();
    refused(&config, &config.pki.dir.join(AUTHORITY_FILE));
    fs::rename(dir.path().join("keys"), &config.pki.dir).unwrap();
    assert!(open(&config).is_ok(), "all of it is back");
}

#[test]
fn a_first_start_that_was_cut_off_anywhere_is_finished_by_the_next() {
    let (dir, config, fleet) = founded();
    let founding = dir.path().join(layout::FOUNDING_FILE);
    assert!(!founding.exists());
    // Before the last step, before the journal, and before the keys.
    fs::rename(dir.path().join(layout::FLEET_FILE), &founding).unwrap();
    assert_eq!(open(&config).unwrap().engine.fleet().id(), fleet);
    assert!(!founding.exists());
    fs::rename(dir.path().join(layout::FLEET_FILE), &founding).unwrap();
    fs::remove_file(dir.path().join(layout::JOURNAL_FILE)).unwrap();
    assert_eq!(open(&config).unwrap().engine.fleet().id(), fleet);
    fs::rename(dir.path().join(layout::FLEET_FILE), &founding).unwrap();
    fs::remove_file(dir.path().join(layout::JOURNAL_FILE)).unwrap();
    fs::remove_dir_all(&config.pki.dir).unwrap();
    assert_eq!(open(&config).unwrap().engine.fleet().id(), fleet);
    assert!(dir.path().join(layout::FLEET_FILE).exists());
}
