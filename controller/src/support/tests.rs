//! What is in a controller's bundle, and what must not be.

use super::*;
use flate2::read::GzDecoder;
use std::collections::BTreeMap;
use std::io::Read;

const SECRETS: [&str; 4] = [
    "MIGHAgEAMBMGByqGSM49",
    "abcdefghijklmnopqrstuvwxyz234567",
    "hunter2",
    "BYTES-OF-THE-JOURNAL",
];

struct Host {
    dir: tempfile::TempDir,
    config: Config,
}

fn host() -> Host {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    fs::create_dir_all(state.join("pki")).unwrap();
    fs::write(
        state.join("pki/ca.key"),
        "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49\n-----END PRIVATE KEY-----\n",
    )
    .unwrap();
    fs::write(state.join("journal.redb"), "BYTES-OF-THE-JOURNAL").unwrap();
    std::os::unix::fs::symlink("/etc", state.join("link")).unwrap();
    let password = dir.path().join("password");
    fs::write(&password, "hunter2").unwrap();
    let flags = [
        ("state_dir", state.display().to_string()),
        (
            "series.remote_write.url",
            "https://ana:hunter2@metrics.example/write".to_owned(),
        ),
    ]
    .map(|(key, value)| (key.to_owned(), value));
    let file = dir.path().join("controller.toml");
    fs::write(&file, "").unwrap();
    let config = crate::config::load(Some(&file), Vec::new(), &flags).unwrap();
    Host { dir, config }
}

fn bundle(host: &Host, config: Option<&Config>, answers: &[Answer]) -> BTreeMap<String, String> {
    let path = host.dir.path().join("bundle.tar.gz");
    let subject = Subject {
        config,
        answers,
        now: UnixMillis(1_795_465_800_000),
    };
    write(&subject, &path).unwrap();
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut archive = tar::Archive::new(GzDecoder::new(File::open(&path).unwrap()));
    let entries = archive.entries().unwrap();
    entries
        .map(|entry| {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            (name.replace("flotilla-support/", ""), text)
        })
        .collect()
}

fn answers() -> Vec<Answer> {
    let key = "flk1_aaaaaaaaaaaaaaaaabcdefghijklmnopqrstuvwxyz234567";
    vec![
        Answer {
            name: "healthz.json".to_owned(),
            text: "{\"status\": \"ok\"}".to_owned(),
        },
        Answer {
            name: "../../etc/passwd".to_owned(),
            text: format!("refused {key}\nAuthorization: Bearer {key}"),
        },
    ]
}

#[test]
fn bundle_holds_what_helps() {
    let host = host();
    let entries = bundle(&host, Some(&host.config), &answers());
    for (name, words) in [
        ("README.txt", "Support bundle"),
        (
            "versions.txt",
            concat!("controller ", env!("CARGO_PKG_VERSION")),
        ),
        ("config.txt", "metrics.example"),
        ("disk.txt", "bytes free"),
        ("files.txt", "pki/ca.key"),
        ("journal.txt", ""),
        ("answers/healthz.json", "ok"),
        ("answers/_.._etc_passwd", "refused"),
    ] {
        let text = entries.get(name);
        assert!(
            text.is_some_and(|text| text.contains(words)),
            "{name}: {text:?}\n{:?}",
            entries.keys()
        );
    }
    assert!(
        !entries["files.txt"].contains("link/"),
        "a link was followed"
    );
}

#[test]
fn no_secret_is_in_the_bundle() {
    let host = host();
    for (name, text) in bundle(&host, Some(&host.config), &answers()) {
        for secret in SECRETS {
            assert!(!text.contains(secret), "{name} holds {secret}");
        }
    }
}

#[test]
fn bundle_is_written_without_a_configuration() {
    let host = host();
    let entries = bundle(&host, None, &[]);
    assert!(entries["config.txt"].contains("no configuration"));
}

#[test]
fn existing_file_is_not_replaced() {
    let host = host();
    let path = host.dir.path().join("bundle.tar.gz");
    fs::write(&path, "precious").unwrap();
    let subject = Subject {
        config: None,
        answers: &[],
        now: UnixMillis(0),
    };
    let error = write(&subject, &path).unwrap_err();
    assert_eq!(error.exit(), Exit::CannotCreate);
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn long_answers_keep_their_end_from_a_line_on() {
    let text = "0123456789\n".repeat(ANSWER_BYTES_MAX / 5);
    let kept = newest(&text);
    assert!(kept.len() <= ANSWER_BYTES_MAX);
    assert!(kept.starts_with("\n0123456789\n"));
    assert!(text.ends_with(kept));
    assert_eq!(newest("short"), "short");
}
