//! Releases made to deceive, and keys that are not kept well.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::GzEncoder;
use protocol::key::PublicKey;
use protocol::release::LIFETIME_DEFAULT;
use protocol::release::PROGRAM;
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

use super::*;

const TARGET: &str = "x86_64-unknown-linux-gnu";

struct World {
    folder: TempDir,
    public: PublicKey,
}

fn ask() -> Ask {
    Ask {
        version: "0.2.0".to_owned(),
        from_min: "0.1.0".to_owned(),
        from_max: None,
        lifetime: LIFETIME_DEFAULT,
        now: UnixMillis(1_000),
    }
}

/// An archive with these entries: name, kind, link, content.
fn archive(entries: &[(&str, EntryType, &str, &[u8])]) -> Vec<u8> {
    let mut tar = Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (name, kind, link, content) in entries {
        let mut header = Header::new_gnu();
        let gnu = header.as_gnu_mut().unwrap();
        gnu.name[..name.len()].copy_from_slice(name.as_bytes());
        gnu.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(*kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        header.set_cksum();
        tar.append(&header, *content).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap()
}

fn good() -> Vec<u8> {
    archive(&[(PROGRAM, EntryType::Regular, "", b"program")])
}

impl World {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let public = key::create(&folder.path().join("key")).unwrap();
        Self { folder, public }
    }

    fn dist(&self) -> PathBuf {
        let dist = self.folder.path().join("dist");
        fs::create_dir_all(&dist).unwrap();
        dist
    }

    fn put(&self, bytes: &[u8]) -> PathBuf {
        let path = self.dist().join(archive_name("0.2.0", TARGET));
        fs::write(&path, bytes).unwrap();
        path
    }

    fn key(&self) -> SigningKey {
        key::read(&self.folder.path().join("key")).unwrap()
    }

    fn sign(&self) -> Result<(Release, PathBuf), BundleError> {
        sign(&self.dist(), &self.key(), &ask())
    }

    #[track_caller]
    fn not_signed(&self, bytes: &[u8], expected: &str) {
        self.put(bytes);
        let error = self.sign().unwrap_err();
        assert_eq!(error.code(), ErrorCode::ReleaseInvalid);
        assert!(error.to_string().contains(expected), "{error}");
        let manifest = self.dist().join(manifest_name("0.2.0"));
        assert!(!manifest.exists(), "it was signed");
    }
}

#[test]
fn what_is_signed_reads_back_and_its_signature_holds() {
    let world = World::new();
    world.put(&good());
    let (release, manifest) = world.sign().unwrap();
    assert_eq!(release.from_max, "0.2.0");
    let opened = open(&world.dist()).unwrap();
    assert_eq!(opened.release, release);
    assert_eq!(opened.signed.verify(&[world.public]), Ok(release));
    assert_eq!(open(&manifest).unwrap(), opened);
}

#[test]
fn an_archive_that_a_node_would_refuse_is_not_signed() {
    let world = World::new();
    let program = (PROGRAM, EntryType::Regular, "", b"program".as_slice());
    let with = |name, kind, link| archive(&[program, (name, kind, link, b"")]);
    world.not_signed(&with("../evil", EntryType::Regular, ""), "leads out of it");
    world.not_signed(&with("/evil", EntryType::Regular, ""), "leads out of it");
    world.not_signed(
        &with("link", EntryType::Symlink, "/etc/passwd"),
        "no plain file",
    );
    world.not_signed(&with("hard", EntryType::Link, PROGRAM), "no plain file");
    for kind in [
        EntryType::XHeader,
        EntryType::GNULongName,
        EntryType::GNUSparse,
    ] {
        world.not_signed(&with("extension", kind, ""), "no plain file");
    }
    world.not_signed(
        &with("doc/.hidden", EntryType::Regular, ""),
        "is no name of",
    );
    world.not_signed(&with(PROGRAM, EntryType::Regular, ""), "is in it twice");
    world.not_signed(
        &archive(&[("other", EntryType::Regular, "", b"x")]),
        "there is no flotilla-agent",
    );
    world.not_signed(b"no archive", "cannot be read");
    world.not_signed(&good()[..20], "cannot be read");
    for after in [b"more".as_slice(), &[0], &good()] {
        world.not_signed(&[&good(), after].concat(), "something follows its end");
    }
    let mut tar = GzEncoder::new(Vec::new(), Compression::fast());
    let plain = {
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(good().as_slice())
            .read_to_end(&mut plain)
            .unwrap();
        plain
    };
    tar.write_all(&[plain.as_slice(), b"more"].concat())
        .unwrap();
    world.not_signed(&tar.finish().unwrap(), "something follows its end");
    fs::remove_file(world.dist().join(archive_name("0.2.0", TARGET))).unwrap();
    let error = world.sign().unwrap_err();
    assert!(error.to_string().contains("there is no"), "{error}");
}

#[test]
fn a_bomb_is_not_unpacked_to_be_signed() {
    let world = World::new();
    let zeroes = vec![0; usize::try_from(UNPACKED_BYTES_MAX).unwrap() + 1];
    let bomb = archive(&[(PROGRAM, EntryType::Regular, "", &zeroes)]);
    world.not_signed(&bomb, "it has more than");
}

#[test]
fn a_changed_archive_and_another_name_are_found_before_anything_is_sent() {
    let world = World::new();
    let path = world.put(&good());
    let (_, manifest) = world.sign().unwrap();
    world.put(&archive(&[(PROGRAM, EntryType::Regular, "", b"another")]));
    let error = open(&world.dist()).unwrap_err();
    assert!(error.to_string().contains("was signed with"), "{error}");
    fs::remove_file(&path).unwrap();
    assert!(open(&world.dist()).is_err(), "an archive is missing");
    world.put(&good());

    let renamed = manifest.with_file_name(manifest_name("0.3.0"));
    fs::rename(&manifest, &renamed).unwrap();
    let error = open(&renamed).unwrap_err();
    assert!(
        error.to_string().contains("is signed as version 0.2.0"),
        "{error}"
    );
    fs::copy(&renamed, &manifest).unwrap();
    let error = open(&world.dist()).unwrap_err();
    assert!(error.to_string().contains("2 manifests"), "{error}");
    fs::write(&manifest, b"nonsense").unwrap();
    let error = open(&manifest).unwrap_err();
    assert!(error.to_string().contains("no signed manifest"), "{error}");
}

#[test]
fn a_key_that_others_may_read_is_not_used_and_none_is_overwritten() {
    let world = World::new();
    let path = world.folder.path().join("key");
    let error = key::create(&path).unwrap_err();
    assert!(matches!(error, key::KeyError::File { .. }), "{error}");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let error = key::read(&path).unwrap_err();
    assert_eq!(error.code(), ErrorCode::ConfigInvalid);
    assert!(error.to_string().contains("mode 640"), "{error}");
    let other = world.folder.path().join("other");
    fs::write(&other, b"no key").unwrap();
    fs::set_permissions(&other, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(key::read(&other).is_err());
}
