//! What an archive must not do, and what is left after it tried.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::GzEncoder;
use protocol::ErrorCode;
use protocol::release::{ARCHIVE_FILES_MAX, PROGRAM};
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

use crate::update::unpack::unpack;

type Made = Builder<GzEncoder<Vec<u8>>>;

/// Adds an entry whose name is written as it is, past every check of the library.
fn add(tar: &mut Made, name: &str, kind: EntryType, link: Option<&str>, body: &[u8]) {
    let mut header = Header::new_gnu();
    let bytes = header.as_gnu_mut().unwrap();
    bytes.name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_size(body.len() as u64);
    header.set_mode(0o6777);
    if let Some(link) = link {
        let bytes = header.as_gnu_mut().unwrap();
        bytes.linkname[..link.len()].copy_from_slice(link.as_bytes());
    }
    header.set_cksum();
    tar.append(&header, body).unwrap();
}

struct Tried {
    folder: TempDir,
    result: Result<(), (ErrorCode, String)>,
}

impl Tried {
    fn place(&self) -> PathBuf {
        self.folder.path().join("into")
    }

    #[track_caller]
    fn refused(&self, expected: &str) {
        let (code, text) = self.result.clone().unwrap_err();
        assert_eq!(code, ErrorCode::ReleaseInvalid, "{text}");
        assert!(text.contains(expected), "{text}");
        assert!(!self.place().exists(), "something is left");
        let left: Vec<_> = fs::read_dir(self.folder.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "something was written beside it: {left:?}");
    }
}

fn try_bytes(bytes: &[u8], bytes_max: u64) -> Tried {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("archive");
    fs::write(&path, bytes).unwrap();
    let result = unpack(&path, &folder.path().join("into"), bytes_max)
        .map_err(|error| (error.code(), error.to_string()));
    Tried { folder, result }
}

fn made(make: impl FnOnce(&mut Made)) -> Vec<u8> {
    let mut tar = Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    make(&mut tar);
    tar.into_inner().unwrap().finish().unwrap()
}

fn program(tar: &mut Made) {
    add(tar, PROGRAM, EntryType::Regular, None, b"program");
}

fn try_with(make: impl FnOnce(&mut Made)) -> Tried {
    let bytes = made(|tar| {
        program(tar);
        make(tar);
    });
    try_bytes(&bytes, 1000)
}

#[test]
fn plain_files_are_unpacked_without_their_special_bits() {
    let tried = try_with(|tar| {
        add(tar, "doc/", EntryType::Directory, None, b"");
        add(tar, "doc/LICENSE", EntryType::Regular, None, b"text");
    });
    tried.result.clone().unwrap();
    let mode = |name: &str| {
        let file = fs::metadata(tried.place().join(name)).unwrap();
        file.permissions().mode() & 0o7777
    };
    assert_eq!(mode(PROGRAM), 0o755);
    assert_eq!(mode("doc/LICENSE"), 0o644);
    assert_eq!(fs::read(tried.place().join(PROGRAM)).unwrap(), b"program");
}

#[test]
fn nothing_is_written_outside_of_the_folder() {
    for name in ["../evil", "/tmp/flotilla-evil", "doc/../../evil", ".."] {
        try_with(|tar| add(tar, name, EntryType::Regular, None, b"x")).refused("leads out of it");
    }
    for kind in [EntryType::Symlink, EntryType::Link] {
        let link = |tar: &mut Made| add(tar, "link", kind, Some("/etc/passwd"), b"");
        try_with(link).refused("is no plain file");
    }
    for kind in [EntryType::Char, EntryType::Block, EntryType::Fifo] {
        try_with(|tar| add(tar, "node", kind, None, b"")).refused("is no plain file");
    }
}

#[test]
fn names_are_plain_and_come_once() {
    let twice = |tar: &mut Made| add(tar, "./flotilla-agent", EntryType::Regular, None, b"x");
    try_with(twice).refused("is in it twice");
    let both = |tar: &mut Made| {
        add(tar, "doc", EntryType::Regular, None, b"x");
        add(tar, "doc/LICENSE", EntryType::Regular, None, b"x");
    };
    try_with(both).refused("a file and a folder");
    for name in [".archive", "doc/.archive"] {
        let hidden = |tar: &mut Made| add(tar, name, EntryType::Regular, None, b"x");
        try_with(hidden).refused("is no name of a file");
    }
    let deep = |tar: &mut Made| add(tar, "a/b/c/d/e", EntryType::Regular, None, b"x");
    try_with(deep).refused("is no name of a file");
    let many = |tar: &mut Made| {
        for number in 0..ARCHIVE_FILES_MAX {
            add(tar, &format!("f{number}"), EntryType::Regular, None, b"");
        }
    };
    try_with(many).refused("more than 64 files");
    let folders = |tar: &mut Made| {
        for number in 0..2 * ARCHIVE_FILES_MAX {
            add(tar, &format!("d{number}/"), EntryType::Directory, None, b"");
        }
    };
    try_with(folders).refused("more than 128 files and folders");
    let without = made(|tar| add(tar, "other", EntryType::Regular, None, b"x"));
    try_bytes(&without, 1000).refused("there is no flotilla-agent in it");
}

/// A bomb is told by its headers, or ends with the bytes that the manifest says.
#[test]
fn a_zip_bomb_is_not_unpacked() {
    let zeroes = vec![0; 50_000_000];
    let bomb = |tar: &mut Made| add(tar, "bomb", EntryType::Regular, None, &zeroes);
    try_with(bomb).refused("more than the 1000 bytes");
    let mut after = made(program);
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let mut plain = Vec::new();
    std::io::Read::read_to_end(
        &mut flate2::read::GzDecoder::new(after.as_slice()),
        &mut plain,
    )
    .unwrap();
    encoder.write_all(&plain).unwrap();
    encoder.write_all(&vec![1; 50_000_000]).unwrap();
    after = encoder.finish().unwrap();
    try_bytes(&after, 1000).refused("follows its end");
}

/// As many files and folders as there may be, each with the most padding.
#[test]
fn an_archive_at_its_bounds_is_unpacked() {
    let folders = 60;
    let bytes = made(|tar| {
        program(tar);
        for number in 0..folders {
            add(tar, &format!("d{number}/"), EntryType::Directory, None, b"");
        }
        for number in 1..ARCHIVE_FILES_MAX {
            add(tar, &format!("f{number}"), EntryType::Regular, None, b"x");
        }
    });
    let bytes_max = u64::try_from("program".len() + ARCHIVE_FILES_MAX - 1).unwrap();
    let tried = try_bytes(&bytes, bytes_max);
    tried.result.clone().unwrap();
    let files = fs::read_dir(tried.place()).unwrap().count();
    assert_eq!(files, ARCHIVE_FILES_MAX);
}

/// Headers that say more of the entry after them would be read into memory whole.
#[test]
fn headers_that_extend_others_are_refused() {
    let pax = b"30 path=../../../../evil/evil\n";
    for kind in [
        EntryType::XHeader,
        EntryType::XGlobalHeader,
        EntryType::GNULongName,
        EntryType::GNULongLink,
        EntryType::GNUSparse,
        EntryType::Continuous,
    ] {
        let extended = |tar: &mut Made| {
            add(tar, "extension", kind, None, pax);
            add(tar, "evil", EntryType::Regular, None, b"x");
        };
        try_with(extended).refused("extension is no plain file");
    }
    let folder = |tar: &mut Made| add(tar, "doc/", EntryType::Directory, None, b"content");
    try_with(folder).refused("doc is no plain file");
}

#[test]
fn what_follows_the_end_is_refused() {
    let whole = made(program);
    let another = made(|tar| add(tar, "evil", EntryType::Regular, None, b"x"));
    for after in [another.as_slice(), b"x", &[0]] {
        try_bytes(&[whole.as_slice(), after].concat(), 1000).refused("something follows its end");
    }
    // Zeroes have no end here: they come to the bound, and go on.
    let mut plain = Vec::new();
    let mut decoder = flate2::read::GzDecoder::new(whole.as_slice());
    std::io::Read::read_to_end(&mut decoder, &mut plain).unwrap();
    plain.resize(50_000_000, 0);
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&plain).unwrap();
    try_bytes(&encoder.finish().unwrap(), 1000).refused("something follows its end");
}

#[test]
fn damage_is_told() {
    let whole = made(program);
    for cut in [0, 5, whole.len() / 2, whole.len() - 9, whole.len() - 1] {
        try_bytes(&whole[..cut], 1000).refused("it cannot be read: ");
    }
    let mut changed = whole.clone();
    let checksum = whole.len() - 8;
    changed[checksum] ^= 1;
    try_bytes(&changed, 1000).refused("it cannot be read: ");
    try_bytes(b"this is no archive at all", 1000).refused("it cannot be read: ");
}

#[test]
fn what_is_there_already_is_left_alone() {
    let folder = TempDir::new().unwrap();
    let (archive, into) = (folder.path().join("archive"), folder.path().join("into"));
    fs::write(&archive, made(program)).unwrap();
    fs::create_dir(&into).unwrap();
    fs::write(into.join("kept"), "kept").unwrap();
    let error = unpack(&archive, &into, 1000).unwrap_err();
    assert_eq!(error.code(), ErrorCode::UpdateFailed);
    assert!(error.to_string().contains("into"), "{error}");
    assert_eq!(fs::read(into.join("kept")).unwrap(), b"kept");
}

/// On a real file system that is full.
#[test]
fn a_full_disk_leaves_nothing_behind() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: mounting a small file system needs root");
        return;
    }
    let folder = TempDir::new().unwrap();
    let small = folder.path().join("small");
    fs::create_dir(&small).unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"])
        .arg(&small)
        .status()
        .unwrap();
    assert!(mounted.success());
    let archive = folder.path().join("archive");
    let body = vec![7; 1_000_000];
    let large = made(|tar| add(tar, PROGRAM, EntryType::Regular, None, &body));
    fs::write(&archive, large).unwrap();
    let result = unpack(&archive, &small.join("into"), 2_000_000);
    let left = small.join("into").exists();
    let unmounted = std::process::Command::new("umount").arg(&small).status();
    assert!(unmounted.unwrap().success());
    let error = result.unwrap_err();
    assert_eq!(error.code(), ErrorCode::UpdateFailed);
    assert!(error.to_string().contains("flotilla-agent"), "{error}");
    assert!(!left);
}
