//! Who may break the glass, and what the file must say.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use super::*;

const GOOD: &str = "reason = \"the controller's host burnt\"\nexpires = 2033-05-18T05:33:20Z\n";

/// Two hours before `expires` of [`GOOD`].
const NOW: UnixMillis = UnixMillis(2_000_000_000_000);

fn me() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// A folder that is its owner's alone, and a file in it.
fn written(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("break-glass.toml");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    (folder, path)
}

fn check(text: &str, written: UnixMillis, expected: Result<UnixMillis, &str>) {
    let found = parse(Path::new("file"), text, written, NOW)
        .map(|glass| glass.until)
        .map_err(|error| error.to_string());
    match (&found, expected) {
        (Ok(until), Ok(expected)) => assert_eq!(*until, expected),
        (Err(error), Err(expected)) => assert!(error.contains(expected), "{error}"),
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn the_file_says_why_and_until_when_and_nothing_else() {
    check(GOOD, NOW, Ok(NOW.after(Duration::from_secs(7_200))));
    let expires = |at: &str| format!("reason = \"x\"\nexpires = {at}\n");
    for (text, problem) in [
        (String::new(), "not understood"),
        ("reason = 5".to_owned(), "not understood"),
        (GOOD.replace("reason", "cause"), "not understood"),
        (format!("{GOOD}also = 1\n"), "not understood"),
        (
            GOOD.replace("the controller's host burnt", "  "),
            "a reason",
        ),
        (
            GOOD.replace("the controller's host burnt", &"x".repeat(641)),
            "a reason",
        ),
        (expires("2033-05-18"), "needs an expiry"),
        (expires("2033-05-18T05:33:20"), "needs an expiry"),
        (expires("05:33:20"), "needs an expiry"),
        (expires("2033-05-18T03:33:20Z"), "expired"),
        (expires("2033-05-19T03:33:21Z"), "at most 24 hours"),
    ] {
        check(&text, NOW, Err(problem));
    }
    let day = NOW.after(BREAK_GLASS_MAX);
    check(&expires("2033-05-19T03:33:20Z"), NOW, Ok(day));
    // It was written for longer, and waited until what is left is short.
    let long_ago = NOW.before(Duration::from_secs(23 * 3600));
    check(GOOD, long_ago, Err("at most 24 hours"));
    // A file from the future does not last longer for that.
    check(
        &expires("2033-05-19T03:33:21Z"),
        day,
        Err("at most 24 hours"),
    );
}

#[test]
fn only_a_file_that_nobody_else_can_write_counts() {
    let (folder, path) = written(GOOD);
    // What was written just now expires in years: the content is the complaint, so
    // the file itself was taken.
    let complaint = |path: &Path| match read_of(me(), path, NOW) {
        Ok(Some(_)) => "good".to_owned(),
        Ok(None) => "none".to_owned(),
        Err(error) => error.to_string(),
    };
    assert!(complaint(&path).contains("at most 24 hours"));
    assert_eq!(complaint(&folder.path().join("other")), "none");
    assert_eq!(complaint(&folder.path().join("no/such/file")), "none");

    for mode in [0o664, 0o646, 0o666] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        assert!(complaint(&path).contains("may write it"), "{mode:o}");
    }
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    assert!(complaint(&path).contains("at most 24 hours"));

    for mode in [0o770, 0o707, 0o1777] {
        fs::set_permissions(folder.path(), Permissions::from_mode(mode)).unwrap();
        assert!(complaint(&path).contains("may write it"), "{mode:o}");
    }
    fs::set_permissions(folder.path(), Permissions::from_mode(0o700)).unwrap();

    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(complaint(&link).contains("cannot read"));
    let inner = folder.path().join("inner");
    fs::create_dir(&inner).unwrap();
    assert!(complaint(&inner).contains("not a regular file"));

    // A folder of others above is enough to exchange what lies below.
    let file = inner.join("break-glass.toml");
    fs::write(&file, GOOD).unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o707)).unwrap();
    assert!(complaint(&file).contains("may write it"));
    fs::set_permissions(folder.path(), Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn a_file_of_another_user_does_not_count() {
    let (_folder, path) = written(GOOD);
    if me() == OWNER {
        let other = rustix::fs::Uid::from_raw(12_345);
        rustix::fs::chown(&path, Some(other), None).unwrap();
    }
    let error = read(&path, NOW).unwrap_err().to_string();
    assert!(error.contains("not to root"), "{error}");
}

#[test]
fn a_good_file_of_the_owner_is_read() {
    let (_folder, path) = written(GOOD);
    let now = fs::metadata(&path).unwrap().modified().map(unix).unwrap();
    let until = now.after(Duration::from_secs(3_600));
    fs::write(&path, format!("reason = \"x\"\nexpires = {until}\n")).unwrap();
    let found = read_of(me(), &path, now).unwrap().unwrap();
    assert_eq!(found.reason, "x");
    assert_eq!(found.until, until);
}
