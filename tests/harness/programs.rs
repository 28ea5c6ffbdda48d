//! Where the built programs are.
//!
//! `FLOTILLA_BIN_DIR` names their folder; without it cargo builds them into the
//! folder that the running test came from, once per test run.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use rustix::fs::{FlockOperation, flock};

/// The controller and operators' command line.
pub fn flotilla() -> PathBuf {
    folder().join("flotilla")
}

/// The agent.
pub fn flotilla_agent() -> PathBuf {
    folder().join("flotilla-agent")
}

/// The agent of the next release, which can be given a version and a fault.
pub fn next_agent() -> PathBuf {
    folder().join("next-agent")
}

/// A command that starts without the variables that are meant for the tests:
/// both programs refuse variables of theirs that they do not know.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("FLOTILLA_") {
            command.env_remove(name);
        }
    }
    command
}

fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| match env::var_os("FLOTILLA_BIN_DIR") {
        Some(given) => PathBuf::from(given),
        None => build(),
    })
}

/// Builds the binaries beside the running test. One process of a test run does
/// it; the others wait for it and find its mark.
fn build() -> PathBuf {
    let test = env::current_exe().expect("a process knows its own file");
    let profile = test
        .ancestors()
        .find(|folder| folder.file_name().is_some_and(|name| name == "deps"))
        .and_then(Path::parent)
        .or_else(|| test.parent())
        .expect("a test is built into a folder of cargo's");
    let run =
        env::var("NEXTEST_RUN_ID").unwrap_or_else(|_| format!("process-{}", std::process::id()));
    let mark = profile.join(".flotilla-programs-built-for");
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(profile.join(".flotilla-programs.lock"))
        .expect("the build folder is writable");
    flock(&lock, FlockOperation::LockExclusive).expect("a lock on a local file");
    if fs::read_to_string(&mark).is_ok_and(|built| built == run) {
        return profile.to_owned();
    }
    let target = profile.parent().expect("a profile lies in a target folder");
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["build", "--quiet", "--locked", "--workspace", "--bins"])
        .arg("--target-dir")
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    // What cargo tells a test about its package would make the build believe that
    // everything had changed.
    for (name, _) in env::vars_os() {
        let told = [
            "CARGO_PKG",
            "CARGO_MANIFEST",
            "CARGO_BIN",
            "CARGO_CRATE",
            "NEXTEST",
        ];
        if told
            .iter()
            .any(|told| name.to_string_lossy().starts_with(told))
        {
            cargo.env_remove(name);
        }
    }
    cargo.env_remove("LD_LIBRARY_PATH");
    if profile.file_name().is_some_and(|name| name == "release") {
        cargo.arg("--release");
    }
    let built = cargo.status().expect("cargo can be run");
    assert!(built.success(), "cargo build --workspace --bins failed");
    fs::write(&mark, &run).expect("the build folder is writable");
    profile.to_owned()
}
