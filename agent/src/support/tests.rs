//! What is in a bundle, and what must not be.

use super::*;
use crate::config::{Dirs, Source};
use flate2::read::GzDecoder;
use std::collections::BTreeMap;

const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49\n-----END PRIVATE KEY-----\n";
const SECRETS: [&str; 5] = [
    "MIGHAgEAMBMGByqGSM49",
    "BYTES-OF-THE-SIGNING-KEY",
    "AbCdEfTokenSecret",
    "hunter2",
    "BYTES-OF-THE-STORE",
];

struct Node {
    dir: tempfile::TempDir,
    subject: Subject,
}

fn node() -> Node {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path();
    let dirs = Dirs {
        state: base.join("state"),
        runtime: base.join("run"),
        config: base.join("agent.toml"),
    };
    fs::create_dir_all(dirs.identity()).unwrap();
    fs::create_dir(&dirs.runtime).unwrap();
    fs::write(dirs.identity().join("node.key"), KEY).unwrap();
    fs::write(
        dirs.identity().join("signing.key"),
        "BYTES-OF-THE-SIGNING-KEY",
    )
    .unwrap();
    fs::write(dirs.identity().join("node.pem"), KEY).unwrap();
    fs::write(dirs.store(), "redb\x1a BYTES-OF-THE-STORE").unwrap();
    fs::write(base.join("password"), "hunter2").unwrap();
    fs::write(
        base.join("agent.log"),
        format!("joined with flj1_AbCdEfTokenSecret\npassword=hunter2\n{KEY}kept line\n"),
    )
    .unwrap();
    let source = Source {
        file: dirs.config.clone(),
        file_required: false,
        environment: Vec::new(),
        flags: Vec::new(),
    };
    let text = format!(
        "[uplink]\nproxy = \"proxy.example:3128\"\nproxy_user = \"ana\"\nproxy_password_file = \"{}\"\n",
        base.join("password").display()
    );
    let mut config = source.check(&text).unwrap();
    config.command.own_log = Some(base.join("agent.log"));
    let subject = Subject {
        dirs,
        config: Ok(config),
        now: UnixMillis(1_795_465_800_000),
        brokers: Vec::new(),
        controllers: Vec::new(),
        tls: Err("the node has not joined".to_owned()),
    };
    Node { dir, subject }
}

fn bundle(node: &Node) -> BTreeMap<String, String> {
    let path = node.dir.path().join("bundle.tar.gz");
    write(&node.subject, &path).unwrap();
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
            (name.replace("flotilla-agent-support/", ""), text)
        })
        .collect()
}

#[test]
fn bundle_holds_what_helps() {
    let node = node();
    let entries = bundle(&node);
    for (name, words) in [
        ("README.txt", "Support bundle"),
        ("versions.txt", concat!("agent ", env!("CARGO_PKG_VERSION"))),
        ("config.txt", "proxy.example"),
        ("doctor.txt", "certificate"),
        ("status.json", "the agent is not running"),
        ("files.txt", "node.key"),
        ("journal.txt", ""),
        ("log.txt", "kept line"),
    ] {
        let text = entries.get(name);
        assert!(
            text.is_some_and(|text| text.contains(words)),
            "{name}: {text:?}"
        );
    }
}

#[test]
fn no_secret_is_in_the_bundle() {
    let entries = bundle(&node());
    for (name, text) in &entries {
        for secret in SECRETS {
            assert!(!text.contains(secret), "{name} holds {secret}");
        }
    }
}

#[test]
fn values_of_a_wrong_configuration_are_not_copied() {
    let mut node = node();
    node.subject.config = Err("uplink.pass: hunter2 is an unknown key".to_owned());
    for (name, text) in bundle(&node) {
        assert!(!text.contains("hunter2"), "{name}");
    }
}

#[test]
fn existing_file_is_not_replaced() {
    let node = node();
    let path = node.dir.path().join("bundle.tar.gz");
    fs::write(&path, "precious").unwrap();
    let error = write(&node.subject, &path).unwrap_err();
    assert_eq!(error.exit(), Exit::CannotCreate);
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn name_of_the_archive_tells_the_time() {
    assert_eq!(
        default_output(UnixMillis(1_795_465_800_000)),
        Path::new("flotilla-agent-support-20261123T203000.tar.gz")
    );
}
