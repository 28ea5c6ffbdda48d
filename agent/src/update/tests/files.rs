//! The files over power cuts, on a real file system whose unsynced writes are lost.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::Compression;
use flate2::write::GzEncoder;
use protocol::ErrorCode;
use protocol::release::{Archive, PROGRAM, archive_name};
use ring::digest::{SHA256, digest};
use tempfile::TempDir;

use crate::domain::update::launch::{Launch, launch};
use crate::domain::update::record::UpdateRecord;
use crate::domain::update::tests::trial;
use crate::update::launcher::prepare;
use crate::update::layout::{Layout, LayoutError};

/// Puts an archive where a download ends, with a program that says `text`.
fn download(layout: &Layout, text: &[u8]) -> Archive {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    let mut header = tar::Header::new_gnu();
    header.set_size(text.len() as u64);
    header.set_mode(0o755);
    header.set_entry_type(tar::EntryType::Regular);
    tar.append_data(&mut header, PROGRAM, text).unwrap();
    let bytes = tar.into_inner().unwrap().finish().unwrap();
    let target = "x86_64-unknown-linux-gnu";
    let archive = Archive {
        target: target.to_owned(),
        name: archive_name("0.2.0", target),
        bytes: bytes.len() as u64,
        sha256: data_encoding::HEXLOWER.encode(digest(&SHA256, &bytes).as_ref()),
        unpacked_bytes: text.len() as u64,
    };
    let path = layout.incoming(&archive.sha256);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
    archive
}

#[test]
fn a_version_is_laid_selected_and_given_up() {
    let folder = TempDir::new().unwrap();
    let layout = Layout::below(folder.path());
    assert_eq!(layout.selected(), None);
    assert_eq!(layout.record().unwrap(), None);
    let archive = download(&layout, b"program");
    assert!(!layout.has("0.2.0"));
    layout.lay("0.2.0", &archive).unwrap();
    assert!(layout.came_in("0.2.0", &archive));
    assert!(!layout.incoming(&archive.sha256).exists());
    layout.keep(&trial()).unwrap();
    layout.select(&Some("0.2.0".to_owned())).unwrap();
    assert_eq!(layout.selected().as_deref(), Some("0.2.0"));
    assert_eq!(layout.record().unwrap(), Some(trial()));
    layout.select(&None).unwrap();
    assert_eq!(layout.selected(), None);
    layout.prune(&["0.1.0"]).unwrap();
    assert!(!layout.has("0.2.0"));
}

#[test]
fn damage_and_foreign_names_are_told_and_not_followed() {
    let folder = TempDir::new().unwrap();
    let layout = Layout::below(folder.path());
    layout.keep(&trial()).unwrap();
    let path = folder.path().join("update/record");
    fs::write(&path, b"\x01nonsense").unwrap();
    let error = layout.record().unwrap_err();
    assert!(matches!(error, LayoutError::Record { .. }), "{error}");
    assert_eq!(error.code(), ErrorCode::UpdateFailed);
    fs::create_dir_all(folder.path().join("versions")).unwrap();
    std::os::unix::fs::symlink("/bin", folder.path().join("versions/current")).unwrap();
    assert_eq!(layout.selected(), None, "it leads out of the folder");
    let much = Archive {
        bytes: u64::MAX / 4,
        ..download(&layout, b"x")
    };
    let error = layout.check_space(&much).unwrap_err();
    assert!(matches!(error, LayoutError::Space { .. }), "{error}");
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
}

/// An ext4 in a file, of which a copy at any moment is what a disk without power has:
/// what was not synced is in the page cache above it, and not in the file.
struct Disk {
    folder: TempDir,
}

impl Disk {
    /// None where that is impossible.
    fn new() -> Option<Self> {
        let able = rustix::process::geteuid().is_root() && Path::new("/dev/loop-control").exists();
        if !able {
            eprintln!("skipped: a file system of its own needs root and loop devices");
            return None;
        }
        let folder = TempDir::new().unwrap();
        let disk = Self { folder };
        let image = disk.path("image");
        run("truncate", &["-s", "24M", &image]);
        run("mkfs.ext4", &["-q", "-F", &image]);
        fs::create_dir(disk.path("live")).unwrap();
        fs::create_dir(disk.path("after")).unwrap();
        // Nothing is written back by itself while the test runs.
        run(
            "mount",
            &["-o", "loop,commit=600", &image, &disk.path("live")],
        );
        Some(disk)
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn live(&self) -> PathBuf {
        self.folder.path().join("live")
    }

    /// Runs `work` while there is no byte free.
    fn full<T>(&self, work: impl FnOnce() -> T) -> T {
        let filler = self.live().join("filler");
        let mut file = fs::File::create(&filler).unwrap();
        let block = [7; 512];
        // What was set aside for metadata is free again after a sync.
        loop {
            let before = file.metadata().unwrap().len();
            while file.write_all(&block).is_ok() {}
            file.sync_all().unwrap();
            if file.metadata().unwrap().len() == before {
                break;
            }
        }
        let done = work();
        fs::remove_file(filler).unwrap();
        rustix::fs::syncfs(fs::File::open(self.live()).unwrap()).unwrap();
        done
    }

    /// What is there after the power went now.
    fn after_a_cut<T>(&self, look: impl FnOnce(&Path) -> T) -> T {
        let copy = self.path("copy");
        run("cp", &["--sparse=always", &self.path("image"), &copy]);
        run("mount", &["-o", "loop", &copy, &self.path("after")]);
        let seen = look(&self.folder.path().join("after"));
        run("umount", &[&self.path("after")]);
        seen
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        for name in ["after", "live"] {
            drop(Command::new("umount").arg(self.path(name)).output());
        }
    }
}

/// After every step of a swap the power goes, and a launcher finds a version that it
/// can start: the old one before the trial is durable, the whole new one after.
#[test]
fn a_power_cut_after_every_step_leaves_a_version_to_start() {
    let Some(disk) = Disk::new() else {
        return;
    };
    let layout = Layout::below(&disk.live());
    let program = vec![b'p'; 300_000];
    // The loop sees what is not synced vanish, or it would prove nothing.
    fs::write(disk.live().join("unsynced"), b"x").unwrap();
    let vanished = disk.after_a_cut(|root| !root.join("unsynced").exists());
    assert!(vanished, "this disk loses nothing");

    let archive = download(&layout, &program);
    let check = |step: &str, swapped: bool| {
        disk.after_a_cut(|root| {
            let after = Layout::below(root);
            let record = after.record().unwrap();
            let launch = launch(record.as_ref(), &after.selected(), "0.1.0", None);
            match &launch.run {
                None => assert!(!swapped, "{step}: {launch:?}"),
                Some(version) => {
                    let found = fs::read(after.program(version)).unwrap();
                    assert!(found == program, "{step}: the program is not whole");
                    assert!(launch.watch, "{step}");
                }
            }
            assert_eq!(launch.run.is_some(), swapped, "{step}");
        });
    };
    check("downloaded", false);
    layout.lay("0.2.0", &archive).unwrap();
    check("laid", false);
    layout.keep(&trial()).unwrap();
    check("the trial is written", false);
    layout.select(&Some("0.2.0".to_owned())).unwrap();
    check("selected", true);
    let counted = UpdateRecord {
        starts: 3,
        ..trial()
    };
    layout.keep(&counted).unwrap();
    check("counted", false);
    layout.keep(&trial().reverted("it hung")).unwrap();
    check("given up", false);
    layout.select(&None).unwrap();
    check("the old one is selected", false);
}

/// A step that the disk has no room for is not half done: a launcher finds what was
/// there before. Once there is room, the same step is done.
#[test]
fn a_full_disk_at_every_step_leaves_what_was_before() {
    let Some(disk) = Disk::new() else {
        return;
    };
    let layout = Layout::below(&disk.live());
    let archive = download(&layout, &vec![b'p'; 300_000]);
    let seen = || {
        (
            layout.record().unwrap(),
            layout.selected(),
            layout.has("0.2.0"),
        )
    };
    let step = |name: &str, done: &dyn Fn() -> Result<(), LayoutError>, must_fail: bool| {
        let before = seen();
        match disk.full(done) {
            Err(error) => {
                assert_eq!(error.code(), ErrorCode::UpdateFailed, "{name}");
                assert_eq!(seen(), before, "{name}: {error}");
                done().unwrap_or_else(|error| panic!("{name}, with room: {error}"));
            }
            // What takes no room is done all the same.
            Ok(()) => assert!(!must_fail, "{name} was done on a full disk"),
        }
    };
    step("lay", &|| layout.lay("0.2.0", &archive), true);
    assert!(layout.came_in("0.2.0", &archive));
    step("begin the trial", &|| layout.keep(&trial()), true);
    step(
        "select",
        &|| layout.select(&Some("0.2.0".to_owned())),
        false,
    );
    let launching = launch(
        layout.record().unwrap().as_ref(),
        &layout.selected(),
        "0.1.0",
        None,
    );
    assert_eq!(launching.run.as_deref(), Some("0.2.0"));
    // A start that cannot be counted is none of the new version's: it could be its
    // hundredth.
    let counted = launching.record.clone();
    assert!(counted.is_some(), "{launching:?}");
    let (Launch { run, watch, .. }, record) =
        disk.full(|| prepare(&layout, launching, layout.record().unwrap()));
    assert_eq!((run, watch), (trial().from, false));
    assert_eq!(record, Some(trial()));
    step(
        "give up",
        &|| layout.keep(&trial().reverted("it hung")),
        true,
    );
    step("select the old one", &|| layout.select(&None), false);
    assert_eq!(layout.selected(), None);
}
