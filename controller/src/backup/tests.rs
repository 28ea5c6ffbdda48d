//! Given a controller's state, when a backup of it is made, then it is put back as it was
//! or refused.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use protocol::ErrorCode;
use protocol::deployment::spec::FileKind;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::archive::Archives;
use crate::clock;
use crate::config::Config;
use crate::engine::Engine;
use crate::engine::task::EngineError;
use crate::host;
use crate::layout;
use crate::serve::store::{self, Store};
use crate::uplink::intake::Intake;
use crate::vault::Vault;

/// A controller's state with something of everything, and its engine running.
struct Running {
    config: Config,
    engine: Engine,
    backups: Backups,
    stop: CancellationToken,
    task: JoinHandle<Result<(), EngineError>>,
}

fn settings(dir: &Path) -> Config {
    crate::config::of(dir).unwrap()
}

impl Running {
    async fn start(dir: &Path, recipient: &key::Recipient) -> Self {
        let config = settings(dir);
        let Store { pki, engine, task } = store::open(&config).unwrap();
        let stop = CancellationToken::new();
        let task = crate::supervisor::spawn("engine", task.run(stop.clone()));
        let intake = Intake::open(&dir.join(layout::INTAKE_FILE)).unwrap();
        let vault = Vault::open(&dir.join(layout::VAULT), &pki.vault_key().unwrap()).unwrap();
        let now = clock::now();
        vault.put(FileKind::Secret, b"hunter2", now).unwrap();
        vault.set(FileKind::Config, "motd", b"hello", now).unwrap();
        let releases = Archives::of_releases(&dir.join(layout::RELEASES)).unwrap();
        let content = b"an archive of a release";
        let digest = crate::archive::digest_of(&mut content.as_slice())
            .unwrap()
            .0;
        releases
            .append(digest, content.len() as u64, 0, content, now)
            .unwrap();
        let backups = Backups::new(
            dir.to_owned(),
            engine.journal().clone(),
            intake,
            pki,
            vec![recipient.clone()],
        );
        let running = Self {
            config,
            engine,
            backups,
            stop,
            task,
        };
        running.go_on("ann").await;
        running
    }

    /// Something happens.
    async fn go_on(&self, name: &str) {
        host::new_admin_key(&self.engine, name).await.unwrap();
    }

    /// Takes a moment and writes it.
    fn back_up(&self, to: &Path) -> Manifest {
        let turn = self.backups.turn().unwrap();
        let taken = self.backups.take(turn, true, clock::now()).unwrap();
        let manifest = taken.manifest.clone();
        taken.write(fs::File::create(to).unwrap()).unwrap();
        manifest
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

/// A scratch folder with a key and a backup made with it.
struct Made {
    folder: TempDir,
    manifest: Manifest,
}

impl Made {
    async fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let recipient = key::create(&folder.path().join("key")).unwrap();
        let running = Running::start(&folder.path().join("state"), &recipient).await;
        let manifest = running.back_up(&folder.path().join("backup"));
        running.stop().await;
        Self { folder, manifest }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn verify(&self, file: &Path) -> Result<Sound, BackupError> {
        let scratch = self.path("scratch");
        let verified = verify(file, &self.path("key"), &scratch);
        assert!(!scratch.exists(), "what was unpacked is removed");
        verified
    }

    /// The same backup with other entries.
    fn changed(&self, change: impl FnOnce(&mut Vec<(String, Vec<u8>)>)) -> PathBuf {
        let mut entries = self.entries();
        change(&mut entries);
        self.pack(|tar| {
            for (name, content) in entries {
                let mut header = tar::Header::new_gnu();
                header.set_size(content.len() as u64);
                header.set_mode(0o600);
                // As it is written: `set_path` would refuse what a forger would not.
                let field = &mut header.as_old_mut().name;
                field[..name.len()].copy_from_slice(name.as_bytes());
                header.set_cksum();
                tar.append(&header, content.as_slice()).unwrap();
            }
        })
    }

    fn entries(&self) -> Vec<(String, Vec<u8>)> {
        let plain = self.plain();
        let mut tar = tar::Archive::new(plain.as_slice());
        let mut entries = Vec::new();
        for entry in tar.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
            let mut content = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
            entries.push((name, content));
        }
        entries
    }

    fn pack(&self, fill: impl FnOnce(&mut tar::Builder<&mut Vec<u8>>)) -> PathBuf {
        let mut plain = Vec::new();
        let mut tar = tar::Builder::new(&mut plain);
        fill(&mut tar);
        tar.finish().unwrap();
        drop(tar);
        self.seal(&plain)
    }

    fn seal(&self, plain: &[u8]) -> PathBuf {
        let keys = key::read(&self.path("key")).unwrap();
        let packed = zstd::encode_all(plain, 1).unwrap();
        let sealed = age::encrypt(&keys[0].to_public(), &packed).unwrap();
        let path = self.path("changed");
        fs::write(&path, sealed).unwrap();
        path
    }

    /// What is in the frame.
    fn plain(&self) -> Vec<u8> {
        let keys = key::read(&self.path("key")).unwrap();
        let sealed = fs::read(self.path("backup")).unwrap();
        zstd::decode_all(age::decrypt(&keys[0], &sealed).unwrap().as_slice()).unwrap()
    }
}

#[tokio::test]
async fn what_is_restored_is_what_was_there_at_that_moment_and_says_that_it_was_restored() {
    let folder = TempDir::new().unwrap();
    let (file, key_file) = (folder.path().join("backup"), folder.path().join("key"));
    let recipient = key::create(&key_file).unwrap();
    let running = Running::start(&folder.path().join("state"), &recipient).await;
    // The moment is before what comes while it is written.
    let turn = running.backups.turn().unwrap();
    let taken = running.backups.take(turn, true, clock::now()).unwrap();
    let then = running.engine.fleet();
    running.go_on("bob").await;
    let refused = running.backups.turn().err().unwrap();
    assert_eq!(refused.code(), ErrorCode::BackupRunning, "one at a time");
    let vault = running.config.state_dir.join(layout::VAULT);
    fs::remove_dir_all(vault.join("content")).unwrap();
    taken.write(fs::File::create(&file).unwrap()).unwrap();
    assert!(!running.config.state_dir.join(layout::BACKING_UP).exists());
    assert!(running.backups.turn().is_ok());
    running.stop().await;

    let sealed = fs::read(&file).unwrap();
    for plain in [b"hunter2".as_slice(), b"PRIVATE KEY", b"ustar", b"ann"] {
        assert!(!sealed.windows(plain.len()).any(|part| part == plain));
    }
    let config = settings(&folder.path().join("elsewhere"));
    let sound = restore(&config, &file, &key_file).unwrap();
    assert_eq!(sound.records, then.seq());
    assert_eq!((sound.archives, sound.contents), (1, 1));
    assert!(sound.manifest.root_key);
    let dir = &config.state_dir;
    assert!(!dir.join(layout::RESTORING).exists());
    assert!(
        fs::read_to_string(dir.join(layout::RESTORED_FILE))
            .unwrap()
            .contains("restored from the backup of")
    );
    for name in [layout::JOURNAL_FILE, layout::INTAKE_FILE, "pki/ca.key"] {
        let mode = fs::metadata(dir.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let again = store::open(&config).unwrap();
    assert_eq!(again.engine.fleet().id(), then.id());
    assert_eq!(
        again
            .engine
            .fleet()
            .access()
            .principals()
            .map(|known| &known.name)
            .collect::<Vec<_>>(),
        then.access()
            .principals()
            .map(|known| &known.name)
            .collect::<Vec<_>>()
    );
    let vault = Vault::open(&dir.join(layout::VAULT), &again.pki.vault_key().unwrap()).unwrap();
    let (_, entry) = vault.names().into_iter().next().unwrap();
    assert_eq!(
        vault.find(&entry.digest).unwrap().unwrap().bytes(),
        b"hello"
    );
}

#[tokio::test]
async fn a_file_that_is_cut_short_or_changed_anywhere_is_refused() {
    let made = Made::new().await;
    let sound = made.verify(&made.path("backup")).unwrap();
    assert_eq!(sound.manifest, made.manifest);
    let whole = fs::read(made.path("backup")).unwrap();
    let path = made.path("changed");
    let step = whole.len() / 40;
    for at in (0..whole.len()).step_by(step).chain([whole.len() - 1]) {
        fs::write(&path, &whole[..at]).unwrap();
        let refused = made.verify(&path).unwrap_err();
        assert_eq!(
            refused.code(),
            ErrorCode::BackupInvalid,
            "cut at {at}: {refused}"
        );
        let mut changed = whole.clone();
        changed[at] ^= 1;
        fs::write(&path, &changed).unwrap();
        let refused = made.verify(&path).unwrap_err();
        assert!(
            matches!(
                refused.code(),
                ErrorCode::BackupInvalid | ErrorCode::BackupKeyWrong
            ),
            "changed at {at}: {refused}"
        );
    }
    fs::write(&path, [whole.as_slice(), b"more"].concat()).unwrap();
    assert_eq!(
        made.verify(&path).unwrap_err().code(),
        ErrorCode::BackupInvalid
    );
    fs::write(&path, "no backup").unwrap();
    assert_eq!(
        made.verify(&path).unwrap_err().code(),
        ErrorCode::BackupInvalid
    );
}

/// Everything is there, and the proof that nothing was cut off is not.
#[tokio::test]
async fn a_file_that_is_cut_short_behind_its_last_entry_is_refused() {
    let made = Made::new().await;
    let mut plain = made.plain();
    let mut noise = 1_u64;
    // So much that does not compress that it is encrypted in chunks of its own.
    for _ in 0..50_000 {
        noise ^= noise << 13;
        noise ^= noise >> 7;
        noise ^= noise << 17;
        plain.extend_from_slice(&noise.to_le_bytes());
    }
    let path = made.seal(&plain);
    made.verify(&path).unwrap();
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 150_000]).unwrap();
    assert_eq!(
        made.verify(&path).unwrap_err().code(),
        ErrorCode::BackupInvalid
    );
}

#[tokio::test]
async fn a_backup_with_other_entries_than_one_has_is_refused() {
    let made = Made::new().await;
    let add = |name: &str| {
        let name = name.to_owned();
        made.changed(move |entries| entries.push((name, b"x".to_vec())))
    };
    for name in [
        "../escaped",
        "vault/../escaped",
        "pki/..",
        "vault/../../escaped",
        "/etc/escaped",
        "pki/.hidden",
        "pki/a/b",
        "series/1",
        "vault/content/c d",
        "fleet",
        "host.sock",
    ] {
        let refused = made.verify(&add(name)).unwrap_err();
        assert_eq!(
            refused.code(),
            ErrorCode::BackupInvalid,
            "{name}: {refused}"
        );
        assert!(refused.to_string().contains("entry"), "{name}: {refused}");
    }
    assert!(!made.path("escaped").exists());
    let large = made.changed(|entries| entries.push(("pki/large".to_owned(), vec![0; 300_000])));
    assert!(
        made.verify(&large)
            .unwrap_err()
            .to_string()
            .contains("too large")
    );
    let link = made.pack(|tar| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_cksum();
        tar.append_link(&mut header, "vault/content", "/etc")
            .unwrap();
    });
    assert_eq!(
        made.verify(&link).unwrap_err().code(),
        ErrorCode::BackupInvalid
    );
    let tables = made.changed(|entries| entries.push(("journal/cabinet/1".to_owned(), vec![0; 4])));
    let refused = made.verify(&tables).unwrap_err();
    assert_eq!(refused.code(), ErrorCode::BackupInvalid, "{refused}");
}

#[tokio::test]
async fn a_backup_without_what_a_controller_cannot_make_anew_is_refused() {
    let made = Made::new().await;
    for name in [
        "fleet",
        "pki/ca.key",
        "pki/trust.bin",
        "pki/vault.key",
        "intake",
        "journal",
    ] {
        let file = made.changed(|entries| {
            entries.retain(|(entry, _)| entry != name && !entry.starts_with(&format!("{name}/")));
        });
        let refused = made.verify(&file).unwrap_err();
        assert_eq!(
            refused.code(),
            ErrorCode::BackupInvalid,
            "{name}: {refused}"
        );
    }
    let empty = made.changed(Vec::clear);
    assert_eq!(
        made.verify(&empty).unwrap_err().code(),
        ErrorCode::BackupInvalid
    );
    // The record of ann's key is not what it was.
    let forged = made.changed(|entries| {
        for (name, content) in entries
            .iter_mut()
            .filter(|(name, _)| name.starts_with("journal/records/"))
        {
            let at = content
                .windows(5)
                .position(|part| part == b"\"ann\"")
                .unwrap_or_else(|| panic!("{name}"));
            content[at + 1] = b'A';
        }
    });
    assert_eq!(
        made.verify(&forged).unwrap_err().code(),
        ErrorCode::JournalBroken
    );
    let without = made.changed(|entries| {
        entries.retain(|(entry, _)| !entry.starts_with("vault/content/"));
    });
    let refused = made.verify(&without).unwrap_err();
    assert!(
        refused.to_string().contains("is named, and is not in it"),
        "{refused}"
    );
    let archive = made.changed(|entries| {
        for (_, content) in entries
            .iter_mut()
            .filter(|(name, _)| name.starts_with("releases/"))
        {
            content[0] = b'A';
        }
    });
    let refused = made.verify(&archive).unwrap_err();
    assert!(refused.to_string().contains("is damaged"), "{refused}");
}

#[tokio::test]
async fn a_newer_backup_is_told_from_a_damaged_one() {
    let made = Made::new().await;
    for key in ["format", "layout"] {
        let file = made.changed(|entries| {
            let mut manifest: serde_json::Value = serde_json::from_slice(&entries[0].1).unwrap();
            manifest[key] = 9.into();
            entries[0].1 = serde_json::to_vec(&manifest).unwrap();
        });
        let refused = made.verify(&file).unwrap_err();
        assert_eq!(refused.code(), ErrorCode::BackupNewer, "{key}: {refused}");
    }
    let late = made.changed(|entries| entries.swap(0, 1));
    assert_eq!(
        made.verify(&late).unwrap_err().code(),
        ErrorCode::BackupInvalid
    );
}

#[tokio::test]
async fn another_key_no_key_and_one_that_others_may_read_are_told_apart() {
    let made = Made::new().await;
    let backup = made.path("backup");
    let other = made.path("other");
    key::create(&other).unwrap();
    assert!(key::create(&other).is_err(), "a key is never overwritten");
    let scratch = made.path("scratch");
    let refused = verify(&backup, &other, &scratch).unwrap_err();
    assert_eq!(refused.code(), ErrorCode::BackupKeyWrong);
    assert!(refused.to_string().contains("other"), "{refused}");
    for text in ["", "# nothing\n", "AGE-SECRET-KEY-1NONE\n"] {
        fs::write(&other, text).unwrap();
        let refused = verify(&backup, &other, &scratch).unwrap_err();
        assert_eq!(refused.code(), ErrorCode::BackupKeyWrong, "{text:?}");
    }
    fs::set_permissions(&other, fs::Permissions::from_mode(0o640)).unwrap();
    let refused = verify(&backup, &other, &scratch).unwrap_err();
    assert_eq!(refused.code(), ErrorCode::ConfigInvalid, "{refused}");
    // Where both are in one file, the right one is found.
    let both = fs::read_to_string(made.path("key")).unwrap() + "\n";
    key::create(&made.path("third")).unwrap();
    let third = fs::read_to_string(made.path("third")).unwrap();
    fs::write(made.path("third"), third + &both).unwrap();
    verify(&backup, &made.path("third"), &scratch).unwrap();
}

#[tokio::test]
async fn nothing_is_restored_over_something_and_a_restore_that_broke_off_is_begun_anew() {
    let made = Made::new().await;
    let (backup, key) = (made.path("backup"), made.path("key"));
    let config = settings(&made.path("there"));
    let dir = &config.state_dir;
    fs::create_dir_all(dir.join("lost+found")).unwrap();
    fs::write(dir.join("notes"), "mine").unwrap();
    let refused = restore(&config, &backup, &key).unwrap_err();
    assert_eq!(refused.code(), ErrorCode::BackupInTheWay);
    assert!(refused.to_string().contains("notes"), "{refused}");
    assert_eq!(fs::read_to_string(dir.join("notes")).unwrap(), "mine");
    fs::remove_file(dir.join("notes")).unwrap();

    // A backup that does not verify leaves nothing.
    let cut = made.path("changed");
    let whole = fs::read(&backup).unwrap();
    fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    restore(&config, &cut, &key).unwrap_err();
    assert_eq!(fs::read_dir(dir).unwrap().count(), 1);

    // Broken off while parts were moved: it does not start, and is done again.
    fs::create_dir_all(dir.join(layout::RESTORING)).unwrap();
    fs::write(dir.join(layout::JOURNAL_FILE), "half").unwrap();
    fs::create_dir_all(&config.pki.dir).unwrap();
    fs::write(config.pki.dir.join("ca.pem"), "half").unwrap();
    let refused = store::open(&config).err().unwrap();
    assert!(
        refused.to_string().contains("not restored to its end"),
        "{refused}"
    );
    restore(&config, &backup, &key).unwrap();
    drop(store::open(&config).unwrap());
    assert!(dir.join("lost+found").exists());
    // Now a controller is there.
    assert_eq!(
        restore(&config, &backup, &key).unwrap_err().code(),
        ErrorCode::BackupInTheWay
    );
}

#[tokio::test]
async fn keys_may_lie_elsewhere_than_the_state() {
    let made = Made::new().await;
    let mut config = settings(&made.path("there"));
    config.pki.dir = made.path("keys");
    restore(&config, &made.path("backup"), &made.path("key")).unwrap();
    assert!(made.path("keys/ca.key").exists());
    assert!(!made.path("there/pki").exists());
    drop(store::open(&config).unwrap());
}

#[tokio::test]
async fn nothing_is_unpacked_where_somebody_else_may_look() {
    let made = Made::new().await;
    let there = made.path("there");
    fs::create_dir(&there).unwrap();
    let refused = read::unpack(&made.path("backup"), &made.path("key"), &there).unwrap_err();
    assert_eq!(refused.code(), ErrorCode::StoreFailed, "{refused}");
    assert_eq!(fs::read_dir(&there).unwrap().count(), 0);
}

#[test]
fn a_text_that_is_no_recipient_is_refused_without_being_repeated() {
    let secret = "AGE-SECRET-KEY-1QQPQYQSZQGPQYQSZQGPQYQSZQGPQYQSZQGPQYQSZQGPQYQSZQGPQQQQ";
    let refused = secret.parse::<key::Recipient>().unwrap_err().to_string();
    assert!(!refused.contains("QQPQ"), "{refused}");
    assert!("age1".parse::<key::Recipient>().is_err());
}

#[test]
fn what_a_crash_left_of_a_backup_is_swept() {
    let folder = TempDir::new().unwrap();
    let held = folder.path().join(layout::BACKING_UP).join("vault");
    fs::create_dir_all(&held).unwrap();
    sweep(folder.path()).unwrap();
    assert!(!folder.path().join(layout::BACKING_UP).exists());
}
