use super::*;

const NOW: UnixMillis = UnixMillis(1_790_000_000_000);
const LATER: UnixMillis = UnixMillis(NOW.0 + 7_200_000);

fn key(byte: u8) -> VaultKey {
    VaultKey::from_text(format!("{byte:02x}").repeat(32).as_bytes()).unwrap()
}

struct World {
    folder: tempfile::TempDir,
    vault: Vault,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let vault = Vault::open(folder.path(), &key(1)).unwrap();
        Self { folder, vault }
    }

    fn reopen(&self) -> Result<Vault, VaultError> {
        Vault::open(self.folder.path(), &key(1))
    }

    fn put(&self, kind: FileKind, content: &str) -> String {
        self.vault.put(kind, content.as_bytes(), NOW).unwrap()
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut all = vec![self.folder.path().join(HEADER)];
        for folder in [CONTENTS, NAMES] {
            let folder = self.folder.path().join(folder);
            all.extend(list(&folder).unwrap().iter().map(|name| folder.join(name)));
        }
        all
    }
}

#[test]
fn contents_come_back_after_a_restart() {
    let world = World::new();
    let config = world.put(FileKind::Config, "listen 80;");
    let secret = world.put(FileKind::Secret, "hunter2");
    assert_eq!(world.put(FileKind::Secret, "hunter2"), secret);
    for vault in [world.vault.clone(), world.reopen().unwrap()] {
        let got = vault.get(FileKind::Config, &config).unwrap().unwrap();
        assert_eq!(got.bytes(), b"listen 80;");
        assert_eq!(vault.find(&secret).unwrap().unwrap().bytes(), b"hunter2");
        assert!(vault.get(FileKind::Config, &secret).unwrap().is_none());
        assert!(vault.find("../../etc/passwd").unwrap().is_none());
    }
}

#[test]
fn a_secret_is_nowhere_in_clear_and_its_digest_is_keyed() {
    let world = World::new();
    let digest = world.put(FileKind::Secret, "hunter2");
    world
        .vault
        .set(FileKind::Secret, "db", b"hunter2", NOW)
        .unwrap();
    for path in world.files() {
        let bytes = fs::read(&path).unwrap();
        assert!(!bytes.windows(7).any(|part| part == b"hunter2"), "{path:?}");
    }
    let plain = ring::digest::digest(&ring::digest::SHA256, b"hunter2");
    assert_ne!(digest, HEXLOWER.encode(plain.as_ref()));
    let other = tempfile::tempdir().unwrap();
    let other = Vault::open(other.path(), &key(2)).unwrap();
    assert_ne!(digest, other.digest(FileKind::Secret, b"hunter2"));
    let content = world.vault.find(&digest).unwrap().unwrap();
    let shown = format!("{content:?} {:?} {:?}", world.vault, key(1));
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(
        !shown.contains("01, 1") && !shown.contains("0101"),
        "{shown}"
    );
}

#[test]
fn a_configs_digest_is_its_sha256() {
    let world = World::new();
    let digest = world.put(FileKind::Config, "");
    assert!(digest.starts_with("e3b0c44298fc1c14"), "{digest}");
}

#[test]
fn names_are_set_listed_and_removed() {
    let world = World::new();
    let first = world
        .vault
        .set(FileKind::Secret, "db", b"one", NOW)
        .unwrap();
    let second = world
        .vault
        .set(FileKind::Secret, "db", b"two", LATER)
        .unwrap();
    assert_ne!(first.digest, second.digest);
    let vault = world.reopen().unwrap();
    let named = vault.named(FileKind::Secret, "db").unwrap();
    assert_eq!((named.digest, named.size_bytes), (second.digest.clone(), 3));
    assert_eq!(vault.named(FileKind::Config, "db"), None);
    assert_eq!(vault.names().len(), 1);
    assert!(vault.remove(FileKind::Secret, "db").unwrap());
    assert!(!vault.remove(FileKind::Secret, "db").unwrap());
    assert!(world.reopen().unwrap().names().is_empty());
    for bad in ["", ".a", "a/b", "../a", "a b", "a.partial", &"a".repeat(41)] {
        let error = vault.set(FileKind::Secret, bad, b"x", NOW).unwrap_err();
        assert_eq!(error.code(), ErrorCode::RequestInvalid, "{bad}");
    }
}

#[test]
fn a_sweep_leaves_what_is_kept_named_or_young() {
    let world = World::new();
    let kept = world.put(FileKind::Config, "kept");
    let gone = world.put(FileKind::Config, "gone");
    let again = world.put(FileKind::Secret, "again");
    let named = world
        .vault
        .set(FileKind::Secret, "db", b"named", NOW)
        .unwrap();
    let keep = BTreeSet::from([(FileKind::Config, kept.clone())]);
    assert_eq!(world.vault.sweep(&keep, NOW).unwrap(), 0);
    // Put again, it is as young as on its first day.
    world.vault.put(FileKind::Secret, b"again", LATER).unwrap();
    assert_eq!(world.vault.sweep(&keep, LATER).unwrap(), 1);
    for vault in [world.vault.clone(), world.reopen().unwrap()] {
        assert!(vault.find(&gone).unwrap().is_none());
        for digest in [&kept, &again, &named.digest] {
            assert!(vault.find(digest).unwrap().is_some());
        }
    }
}

#[test]
fn a_damaged_file_is_said_by_its_path_and_healed_by_putting_it_again() {
    let world = World::new();
    let digest = world.put(FileKind::Secret, "hunter2");
    let path = world.folder.path().join(format!("{CONTENTS}/s-{digest}"));
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let error = world.vault.find(&digest).unwrap_err();
        assert!(
            error.to_string().contains(path.to_str().unwrap()),
            "{error}"
        );
        // The last bit of the format's number makes it an older one.
        assert_eq!(error.code(), ErrorCode::StoreCorrupt, "byte {at}");
    }
    fs::write(&path, &whole[..20]).unwrap();
    assert!(world.vault.find(&digest).is_err());
    world.put(FileKind::Secret, "hunter2");
    assert_eq!(
        world.vault.find(&digest).unwrap().unwrap().bytes(),
        b"hunter2"
    );
}

#[test]
fn two_files_that_were_exchanged_are_found_out() {
    let world = World::new();
    let one = world.put(FileKind::Secret, "one");
    let two = world.put(FileKind::Secret, "two");
    let path = |digest: &str| world.folder.path().join(format!("{CONTENTS}/s-{digest}"));
    fs::copy(path(&one), path(&two)).unwrap();
    assert_eq!(
        world.vault.find(&two).unwrap_err().code(),
        ErrorCode::StoreCorrupt
    );
}

#[test]
fn another_key_and_a_newer_format_are_refused_and_left_as_they_are() {
    let world = World::new();
    world.put(FileKind::Secret, "hunter2");
    let error = Vault::open(world.folder.path(), &key(2)).unwrap_err();
    assert!(error.to_string().contains("vault.key"), "{error}");
    assert_eq!(error.code(), ErrorCode::PkiInvalid);

    let header = world.folder.path().join(HEADER);
    let mut bytes = fs::read(&header).unwrap();
    bytes[MAGIC.len()] = FORMAT + 1;
    fs::write(&header, &bytes).unwrap();
    assert_eq!(world.reopen().unwrap_err().code(), ErrorCode::StoreNewer);
    assert_eq!(fs::read(&header).unwrap(), bytes);

    fs::write(&header, b"something").unwrap();
    assert_eq!(world.reopen().unwrap_err().code(), ErrorCode::StoreCorrupt);
}

#[test]
fn what_is_too_large_is_refused() {
    let world = World::new();
    let most = vec![7; FILE_BYTES_MAX];
    let digest = world.vault.put(FileKind::Config, &most, NOW).unwrap();
    assert_eq!(world.vault.find(&digest).unwrap().unwrap().bytes(), most);
    let error = world
        .vault
        .put(FileKind::Config, &vec![7; FILE_BYTES_MAX + 1], NOW);
    assert_eq!(error.unwrap_err().code(), ErrorCode::RequestTooLarge);
}

#[test]
fn half_written_files_of_a_crash_are_not_taken() {
    let world = World::new();
    world.vault.set(FileKind::Secret, "db", b"x", NOW).unwrap();
    let left = world.folder.path().join(format!("{NAMES}/s-db.partial"));
    fs::write(left, b"half").unwrap();
    fs::write(
        world.folder.path().join(format!("{CONTENTS}/s-00")),
        b"half",
    )
    .unwrap();
    assert_eq!(world.reopen().unwrap().names().len(), 1);
}

#[test]
fn a_disk_that_fails_is_an_error_that_names_the_path() {
    let world = World::new();
    fs::remove_dir_all(world.folder.path().join(CONTENTS)).unwrap();
    let error = world.vault.put(FileKind::Config, b"x", NOW).unwrap_err();
    assert_eq!(error.code(), ErrorCode::StoreFailed);
    assert!(error.to_string().contains(CONTENTS), "{error}");
    let full = VaultError::File {
        step: "write",
        path: PathBuf::from("x"),
        source: io::ErrorKind::StorageFull.into(),
    };
    assert_eq!(full.code(), ErrorCode::StoreFull);
}
