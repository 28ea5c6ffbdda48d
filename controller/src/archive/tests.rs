use std::os::unix::fs::symlink;

use tar::{Builder, EntryType, Header};

use super::*;

const NOW: UnixMillis = UnixMillis(1_790_000_000_000);

fn digest_of(bytes: &[u8]) -> Digest {
    let mut hash = Context::new(&SHA256);
    hash.update(bytes);
    finished(hash)
}

/// A tar of these files.
fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// An archive as `docker save` writes it, of one image.
fn saved(tag: &str, config: &str) -> Vec<u8> {
    let name = format!("blobs/sha256/{}", digest_of(config.as_bytes()));
    let manifest =
        format!(r#"[{{"Config":"{name}","RepoTags":["{tag}"],"Layers":["blobs/sha256/layer"]}}]"#);
    tar_of(&[
        (&name, config.as_bytes()),
        ("blobs/sha256/layer", &[7; 5000]),
        ("manifest.json", manifest.as_bytes()),
    ])
}

struct World {
    folder: tempfile::TempDir,
    archives: Archives,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let archives = Archives::open_with(folder.path(), Kind::Images, |_| Ok(u64::MAX)).unwrap();
        Self { folder, archives }
    }

    fn upload(&self, bytes: &[u8]) -> Result<Archive, ArchiveError> {
        let digest = digest_of(bytes);
        let size = bytes.len() as u64;
        let mut progress = self.archives.begin(digest, size, NOW)?;
        let mut pieces = bytes.chunks(1000);
        loop {
            let at = match progress {
                Progress::Held(archive) => return Ok(archive),
                Progress::At(at) => at,
            };
            let piece = pieces.next().unwrap_or_default();
            progress = self.archives.append(digest, size, at, piece, NOW)?;
        }
    }

    fn files(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

#[test]
fn an_upload_is_held_says_its_images_and_survives_a_restart() {
    let world = World::new();
    let bytes = saved("acme/web:1", "{}");
    let archive = world.upload(&bytes).unwrap();
    assert_eq!(archive.size_bytes, bytes.len() as u64);
    let image = ArchivedImage {
        references: vec!["docker.io/acme/web:1".to_owned()],
        configs: vec![format!("sha256:{}", digest_of(b"{}"))],
    };
    assert_eq!(archive.images, [image]);
    assert_eq!(world.files(), [format!("{}.tar", archive.digest)]);
    let again = Archives::open(world.folder.path()).unwrap();
    assert_eq!(again.list(), std::slice::from_ref(&archive));
    let found = again.with_image("docker.io/acme/web:1");
    assert_eq!(found, Some(archive.clone()));
    assert_eq!(again.with_image("docker.io/acme/web:2"), None);
    // Uploading it again is done at once.
    let progress = again.begin(archive.digest, 1, NOW).unwrap();
    assert_eq!(progress, Progress::Held(archive));
}

#[test]
fn an_upload_that_broke_off_is_resumed_after_a_restart() {
    let world = World::new();
    let bytes = saved("acme/web:1", "{}");
    let (digest, size) = (digest_of(&bytes), bytes.len() as u64);
    world.archives.begin(digest, size, NOW).unwrap();
    world
        .archives
        .append(digest, size, 0, &bytes[..3000], NOW)
        .unwrap();
    let again = Archives::open_with(world.folder.path(), Kind::Images, |_| Ok(u64::MAX)).unwrap();
    assert_eq!(again.begin(digest, size, NOW).unwrap(), Progress::At(3000));
    let error = again
        .append(digest, size, 0, &bytes[..3000], NOW)
        .unwrap_err();
    assert_eq!(error.code(), ErrorCode::RequestConflict);
    assert!(error.to_string().contains("at byte 3000"), "{error}");
    let done = again
        .append(digest, size, 3000, &bytes[3000..], NOW)
        .unwrap();
    assert!(matches!(done, Progress::Held(_)), "{done:?}");
}

#[test]
fn an_archive_is_read_from_any_byte_on() {
    let world = World::new();
    let bytes = saved("acme/web:1", "{}");
    let digest = world.upload(&bytes).unwrap().digest;
    for offset in [0, 1, 4000, bytes.len()] {
        let (mut file, rest) = world.archives.open_at(digest, offset as u64).unwrap();
        let mut read = Vec::new();
        file.read_to_end(&mut read).unwrap();
        assert_eq!(read, &bytes[offset..]);
        assert_eq!(rest, read.len() as u64);
    }
    let behind = world.archives.open_at(digest, bytes.len() as u64 + 1);
    assert_eq!(behind.unwrap_err().code(), ErrorCode::RequestConflict);
    let (mut file, _) = world.archives.open_at(digest, 0).unwrap();
    assert!(world.archives.remove(digest).unwrap());
    assert!(!world.archives.remove(digest).unwrap());
    let absent = world.archives.open_at(digest, 0).unwrap_err();
    assert_eq!(absent.code(), ErrorCode::ArchiveNotFound);
    assert_eq!(file.read(&mut [0; 10]).unwrap(), 10);
}

#[test]
fn other_bytes_than_announced_are_refused_and_removed() {
    let world = World::new();
    let bytes = saved("acme/web:1", "{}");
    let (digest, size) = (digest_of(b"others"), bytes.len() as u64);
    let error = world
        .archives
        .append(digest, size, 0, &bytes, NOW)
        .unwrap_err();
    assert_eq!(error.code(), ErrorCode::ArchiveInvalid);
    assert!(error.to_string().contains("SHA-256"), "{error}");
    let more = world
        .archives
        .append(digest, 10, 0, &bytes, NOW)
        .unwrap_err();
    assert_eq!(more.code(), ErrorCode::RequestConflict);
    for size in [0, ARCHIVE_BYTES_MAX + 1] {
        let error = world.archives.begin(digest, size, NOW).unwrap_err();
        assert_eq!(error.code(), ErrorCode::ArchiveInvalid);
    }
}

#[test]
fn what_is_no_image_archive_is_refused_for_its_reason_and_removed() {
    let config = digest_of(b"{}");
    let named = format!("blobs/sha256/{config}");
    let manifest = |json: String| tar_of(&[("manifest.json", json.as_bytes()), (&named, b"[]")]);
    let link = |kind, target: &str| {
        let mut builder = Builder::new(Vec::new());
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        builder.append_link(&mut header, "a/b", target).unwrap();
        builder.into_inner().unwrap()
    };
    let raw = |path: &[u8], kind| {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..path.len()].copy_from_slice(path);
        header.set_entry_type(kind);
        header.set_size(0);
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend([0; 1024]);
        bytes
    };
    let long_name = {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::GNULongName);
        header.set_size(1 << 20);
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend(vec![b'a'; (1 << 20) + 1024]);
        bytes
    };
    let twice = tar_of(&[("manifest.json", b"[]"), ("./manifest.json", b"[]")]);
    let mut cut_short = saved("acme/web:1", "{}");
    cut_short.truncate(3000);
    for (bytes, expected) in [
        (cut_short, "cut short inside of \"blobs/sha256/layer\""),
        (b"hello".to_vec(), "no tar"),
        (vec![7; 2000], "no tar"),
        (vec![0x1f, 0x8b, 8, 0], "compressed"),
        (
            tar_of(&[("a", b"b")]),
            "neither manifest.json nor index.json",
        ),
        (manifest("[]".to_owned()), "no image"),
        (manifest("{}".to_owned()), "not as it should be"),
        (
            manifest(r#"[{"Config":"nope.json"}]"#.to_owned()),
            "lacks the file",
        ),
        (
            manifest(r#"[{"Config":"../x"}]"#.to_owned()),
            "leaves the archive",
        ),
        (
            manifest(format!(r#"[{{"Config":"{named}"}}]"#)),
            "not what its name says",
        ),
        (
            manifest(r#"[{"Config":"manifest.json","Layers":["none"]}]"#.to_owned()),
            "lacks \"none\"",
        ),
        (
            manifest(r#"[{"Config":"manifest.json","RepoTags":["No Image"]}]"#.to_owned()),
            "is no image",
        ),
        (
            link(EntryType::Symlink, "../../etc/passwd"),
            "leaves the archive",
        ),
        (
            link(EntryType::Symlink, "/etc/passwd"),
            "leaves the archive",
        ),
        (link(EntryType::Link, "../x"), "leaves the archive"),
        (raw(b"../escape", EntryType::Regular), "leaves the archive"),
        (
            raw(b"/etc/passwd", EntryType::Regular),
            "leaves the archive",
        ),
        (raw(b"dev", EntryType::Char), "no file, folder or link"),
        (long_name, "a path in it has more than"),
        (twice, "twice"),
    ] {
        let world = World::new();
        let error = world.upload(&bytes).expect_err(expected);
        assert!(error.to_string().contains(expected), "{expected}: {error}");
        assert_eq!(error.code(), ErrorCode::ArchiveInvalid, "{expected}");
        assert!(world.files().is_empty(), "{expected}: {:?}", world.files());
    }
}

#[test]
fn older_archives_with_links_and_long_names_are_taken() {
    let mut builder = Builder::new(Vec::new());
    let file = |builder: &mut Builder<Vec<u8>>, path: &str, content: &[u8]| {
        let mut header = Header::new_gnu();
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, path, content).unwrap();
    };
    let long = format!("{}/layer.tar", "d".repeat(200));
    file(&mut builder, &long, b"layer");
    file(&mut builder, "config.json", b"{}");
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Symlink);
    header.set_size(0);
    let target = format!("../{long}");
    builder
        .append_link(&mut header, "second/layer.tar", &target)
        .unwrap();
    let manifest = format!(
        r#"[{{"Config":"config.json","RepoTags":null,"Layers":["{long}","second/layer.tar"]}}]"#
    );
    file(&mut builder, "manifest.json", manifest.as_bytes());
    let world = World::new();
    let archive = world.upload(&builder.into_inner().unwrap()).unwrap();
    assert!(archive.images[0].references.is_empty());
}

#[test]
fn an_oci_layout_is_taken_with_the_platforms_that_it_has() {
    let config = b"{}";
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", digest_of(bytes));
    let manifest = format!(
        r#"{{"config":{{"digest":"sha256:{}"}},"layers":[]}}"#,
        digest_of(config)
    );
    let index = format!(
        r#"{{"manifests":[{{"digest":"sha256:{}"}},{{"digest":"sha256:{}"}}]}}"#,
        digest_of(manifest.as_bytes()),
        digest_of(b"another platform"),
    );
    let root = format!(
        r#"{{"manifests":[{{"digest":"sha256:{0}","annotations":{{"io.containerd.image.name":"docker.io/acme/web:1"}}}},{{"digest":"sha256:{0}","annotations":{{"org.opencontainers.image.ref.name":"web:2"}}}}]}}"#,
        digest_of(index.as_bytes())
    );
    let bytes = tar_of(&[
        ("index.json", root.as_bytes()),
        (&blob(index.as_bytes()), index.as_bytes()),
        (&blob(manifest.as_bytes()), manifest.as_bytes()),
        (&blob(config), config),
    ]);
    let world = World::new();
    let archive = world.upload(&bytes).unwrap();
    let image = ArchivedImage {
        references: vec![
            "docker.io/acme/web:1".to_owned(),
            "docker.io/library/web:2".to_owned(),
        ],
        configs: vec![format!("sha256:{}", digest_of(config))],
    };
    assert_eq!(archive.images, [image]);
}

#[test]
fn an_archive_that_would_fill_the_disk_is_refused_before_it_begins() {
    let folder = tempfile::tempdir().unwrap();
    let archives =
        Archives::open_with(folder.path(), Kind::Images, |_| Ok(RESERVE_BYTES + 100)).unwrap();
    let error = archives.begin(digest_of(b"x"), 101, NOW).unwrap_err();
    assert_eq!(error.code(), ErrorCode::StoreFull);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    let fits = archives.begin(digest_of(b"x"), 100, NOW).unwrap();
    assert_eq!(fits, Progress::At(0));
    // Nor by who says a larger size later, or does not begin at all.
    let error = archives.append(digest_of(b"x"), 500, 0, &[7; 101], NOW);
    assert_eq!(error.unwrap_err().code(), ErrorCode::StoreFull);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    assert!(crate::durable::free_bytes(folder.path()).unwrap() > 0);
}

#[test]
fn a_disk_that_fills_up_meanwhile_leaves_nothing_half_written() {
    let world = World::new();
    let digest = digest_of(b"x");
    let partial = world.folder.path().join(format!("{digest}.partial"));
    symlink("/dev/full", &partial).unwrap();
    let error = world
        .archives
        .append(digest, 100, 0, &[7; 50], NOW)
        .unwrap_err();
    assert_eq!(error.code(), ErrorCode::StoreFull);
    assert!(error.to_string().contains("partial"), "{error}");
    assert!(world.files().is_empty());
    let again = world.archives.begin(digest, 100, NOW).unwrap();
    assert_eq!(again, Progress::At(0));
}

#[test]
fn uploads_at_a_time_have_a_bound_and_resting_ones_make_room() {
    let world = World::new();
    let nth = |n: usize| digest_of(&[u8::try_from(n).unwrap()]);
    for n in 0..UPLOADS_COUNT_MAX {
        world.archives.append(nth(n), 100, 0, b"a", NOW).unwrap();
    }
    let error = world.archives.begin(nth(100), 100, NOW).unwrap_err();
    assert_eq!(error.code(), ErrorCode::EngineBusy);
    let later = UnixMillis(NOW.0 + 60_000);
    world.archives.begin(nth(100), 100, later).unwrap();
    // The one that made room goes on from the disk, in the place of another.
    for n in 0..UPLOADS_COUNT_MAX {
        let progress = world.archives.begin(nth(n), 100, later).unwrap();
        assert_eq!(progress, Progress::At(1), "{n}");
    }
}

#[test]
fn a_sweep_removes_what_is_old_and_not_kept() {
    let world = World::new();
    let kept = world.upload(&saved("acme/a:1", "{}")).unwrap().digest;
    let gone = world.upload(&saved("acme/b:1", "{ }")).unwrap().digest;
    let partial = digest_of(b"never finished");
    world.archives.append(partial, 100, 0, b"a", NOW).unwrap();
    let keep = BTreeSet::from([kept]);
    let now = crate::clock::now();
    assert_eq!(world.archives.sweep(&keep, now).unwrap(), 0);
    let later = UnixMillis(now.0 + 2 * 24 * 3_600_000);
    // An upload under way is left; after a restart it is one that nobody knows.
    assert_eq!(world.archives.sweep(&keep, later).unwrap(), 1);
    assert!(world.archives.get(gone).is_none());
    // Uploaded again, an archive is young again.
    world.archives.begin(kept, 1, later).unwrap();
    assert_eq!(world.archives.sweep(&BTreeSet::new(), later).unwrap(), 0);
    let again = Archives::open(world.folder.path()).unwrap();
    assert_eq!(again.sweep(&keep, later).unwrap(), 1);
    assert_eq!(world.files(), [format!("{kept}.tar")]);
}

#[test]
fn a_damaged_archive_is_left_out_at_start_and_can_be_uploaded_again() {
    let world = World::new();
    let bytes = saved("acme/a:1", "{}");
    let digest = world.upload(&bytes).unwrap().digest;
    fs::write(
        world.folder.path().join(format!("{digest}.tar")),
        b"damaged",
    )
    .unwrap();
    let archives =
        Archives::open_with(world.folder.path(), Kind::Images, |_| Ok(u64::MAX)).unwrap();
    assert!(archives.list().is_empty());
    let size = bytes.len() as u64;
    let done = archives.append(digest, size, 0, &bytes, NOW).unwrap();
    assert!(matches!(done, Progress::Held(_)));
    assert_eq!(archives.list().len(), 1);
}
