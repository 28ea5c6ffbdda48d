//! What can be seen on the node itself: configuration, directories, files,
//! clock, certificate, the agent.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use protocol::limits::CLOCK_OFFSET_MAX;
use protocol::time::UnixMillis;

use super::{Check, Subject};
use crate::break_glass;
use crate::status::{self, LinkState, bytes, free_bytes, span};

/// First bytes of every redb file.
const STORE_MAGIC: &[u8] = b"redb\x1a\x0a\xa9\x0d\x0a";

/// Bytes written to see whether a directory takes them: one page.
const PROBE_BYTES: usize = 4096;

pub(super) fn configuration(subject: &Subject) -> Check {
    let file = &subject.dirs.config;
    match &subject.config {
        Ok(_) if file.exists() => Check::ok("config", format!("{} is good", file.display())),
        Ok(_) => Check::ok(
            "config",
            format!("{} does not exist: defaults", file.display()),
        ),
        Err(problem) => Check::failed(
            "config",
            problem.clone(),
            "correct the file; 'flotilla-agent config check' shows the same",
        ),
    }
}

/// Whether state and runtime directory take writes, and have room.
pub(super) fn folders(subject: &Subject) -> Vec<Check> {
    let least = subject
        .config
        .as_ref()
        .map_or(0, |config| config.store.free_bytes_min);
    vec![
        folder("state", &subject.dirs.state, least),
        folder("runtime", &subject.dirs.runtime, 0),
    ]
}

fn folder(name: &'static str, path: &Path, least: u64) -> Check {
    let shown = path.display();
    if let Err(error) = probe(path) {
        let advice = advice_on(error.kind());
        return Check::failed(name, format!("{shown} takes no writes: {error}"), advice);
    }
    match free_bytes(path) {
        Some(free) if free < least => Check::warning(
            name,
            format!(
                "{shown} has {} free, less than {}",
                bytes(free),
                bytes(least)
            ),
            "free space: until then no frames are kept on disk (store.free_bytes_min)",
        ),
        Some(free) => Check::ok(name, format!("{shown} takes writes, {} free", bytes(free))),
        None => Check::ok(name, format!("{shown} takes writes")),
    }
}

fn advice_on(kind: io::ErrorKind) -> &'static str {
    const BY_KIND: [(io::ErrorKind, &str); 5] = [
        (
            io::ErrorKind::NotFound,
            "create it, or start the agent once as its service (systemd makes it)",
        ),
        (
            io::ErrorKind::PermissionDenied,
            "run this as the agent's user, or as root",
        ),
        (
            io::ErrorKind::StorageFull,
            "free space on its filesystem: the agent keeps what it has, and takes no more",
        ),
        (
            io::ErrorKind::QuotaExceeded,
            "raise the quota: the agent keeps what it has, and takes no more",
        ),
        (
            io::ErrorKind::ReadOnlyFilesystem,
            "its filesystem is read-only: look for disk errors in 'dmesg', and remount it",
        ),
    ];
    BY_KIND
        .iter()
        .find(|(one, _)| *one == kind)
        .map_or("look at the filesystem below it", |(_, advice)| advice)
}

/// Writes a file through to the disk and takes it away.
fn probe(folder: &Path) -> io::Result<()> {
    let path = folder.join(format!(".doctor-{}", std::process::id()));
    let written = write_probe(&path);
    let removed = fs::remove_file(&path);
    written.and(removed)
}

fn write_probe(path: &Path) -> io::Result<()> {
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(&[0; PROBE_BYTES])?;
    file.sync_all()
}

/// Whether the identity is for the agent's user alone.
pub(super) fn permissions(subject: &Subject) -> Check {
    const NAME: &str = "permissions";
    let folder = subject.dirs.identity();
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Check::failed(
                NAME,
                format!(
                    "{} does not exist: the node has not joined",
                    folder.display()
                ),
                "join it: 'flotilla-agent join TOKEN'",
            );
        }
        Err(error) => {
            return Check::failed(
                NAME,
                format!("cannot read {}: {error}", folder.display()),
                "run this as the agent's user, or as root",
            );
        }
    };
    let files = entries.filter_map(Result::ok).map(|entry| entry.path());
    let paths = files.chain([folder.clone(), subject.dirs.state.clone()]);
    let open: Vec<String> = paths
        .filter_map(|path| complaint(&path, &subject.dirs.state))
        .collect();
    if open.is_empty() {
        Check::ok(NAME, format!("{} is closed to others", folder.display()))
    } else {
        Check::failed(
            NAME,
            open.join("\n"),
            "chmod 600 the files and 700 the directory; if others could read a key, replace the node's identity",
        )
    }
}

fn complaint(path: &Path, state: &Path) -> Option<String> {
    let meta = fs::symlink_metadata(path).ok()?;
    let mode = meta.permissions().mode() & 0o7777;
    // The state directory may be listed by others; what is in it may not be
    // changed by them.
    let wrong = if path == state {
        mode & 0o022
    } else {
        mode & 0o077
    };
    let owner = meta.uid();
    let me = rustix::process::geteuid().as_raw();
    if meta.file_type().is_symlink() {
        Some(format!("{} is a symbolic link", path.display()))
    } else if wrong != 0 {
        Some(format!("{} has mode {mode:o}", path.display()))
    } else if owner != me && me != 0 {
        Some(format!("{} belongs to user {owner}", path.display()))
    } else {
        None
    }
}

/// Whether the store's file is one.
pub(super) fn store(subject: &Subject) -> Check {
    const NAME: &str = "store";
    let path = subject.dirs.store();
    let shown = path.display();
    let mut start = [0; 9];
    let read = File::open(&path).and_then(|mut file| {
        file.read_exact(&mut start)?;
        file.metadata()
    });
    match read {
        Ok(meta) if start == STORE_MAGIC && meta.is_file() => {
            Check::ok(NAME, format!("{shown} has {}", bytes(meta.len())))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Check::ok(
            NAME,
            format!("{shown} does not exist yet: the agent makes it"),
        ),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Check::failed(
            NAME,
            format!("cannot read {shown}: {error}"),
            "run this as the agent's user, or as root",
        ),
        Ok(_) | Err(_) => Check::failed(
            NAME,
            format!("{shown} is not a store, or is damaged"),
            "keep a copy for the support bundle, then move it away: the agent makes a new one, and what was not acknowledged is lost",
        ),
    }
}

/// Whether the node's certificate holds, and for how long.
pub(super) fn certificate(subject: &Subject) -> Check {
    const NAME: &str = "certificate";
    let path = subject.dirs.identity().join("node.pem");
    let life = match life_of(&path) {
        Ok(life) => life,
        Err(problem) => {
            return Check::failed(NAME, problem, "join the node: 'flotilla-agent join TOKEN'");
        }
    };
    let now = subject.now;
    let left = life.end.since(now);
    if now >= life.end {
        return Check::failed(
            NAME,
            format!("expired {}", life.end),
            "the agent renews it by its signing key once it reaches the controller's HTTPS: repair that",
        );
    }
    if now < life.start {
        return Check::warning(
            NAME,
            format!(
                "begins to hold {}, later than this node's clock",
                life.start
            ),
            "set the node's clock (a time service such as systemd-timesyncd)",
        );
    }
    let shown = format!("holds until {}, for {}", life.end, span(left.as_millis()));
    if left < life.end.since(life.start) / 4 {
        Check::warning(
            NAME,
            format!("{shown}; it should have been renewed at two thirds of its life"),
            "look in the agent's log for what stops the renewal",
        )
    } else {
        Check::ok(NAME, shown)
    }
}

struct Life {
    start: UnixMillis,
    end: UnixMillis,
}

fn life_of(path: &PathBuf) -> Result<Life, String> {
    let pem = fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let malformed = |_| format!("{} is not a certificate", path.display());
    let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).map_err(malformed)?;
    let certificate = pem
        .parse_x509()
        .map_err(|_| format!("{} is not a certificate", path.display()))?;
    let at = |seconds: i64| UnixMillis(u64::try_from(seconds).unwrap_or_default() * 1000);
    let validity = certificate.validity();
    Ok(Life {
        start: at(validity.not_before.timestamp()),
        end: at(validity.not_after.timestamp()),
    })
}

/// Whether the node's clock is right, by the agent's own measurement or by what
/// the controller just said.
pub(super) fn clock(subject: &Subject, controller: Option<UnixMillis>) -> Check {
    const NAME: &str = "clock";
    let measured = status::fetch(&subject.dirs.socket())
        .ok()
        .and_then(|status| status.clock.offset_ms);
    let ahead = match (measured, controller) {
        (Some(offset), _) => offset.saturating_neg(),
        (None, Some(time)) => subject.now.offset_from(time),
        (None, None) => {
            return Check::skipped(NAME, format!("{}; nothing to compare it with", subject.now));
        }
    };
    let off = Duration::from_millis(ahead.unsigned_abs());
    let shown = format!(
        "{} {} the controller's",
        span(off.as_millis()),
        if ahead < 0 { "behind" } else { "ahead of" }
    );
    if off > CLOCK_OFFSET_MAX {
        Check::failed(
            NAME,
            shown,
            "set the node's clock and keep it right (a time service such as systemd-timesyncd); samples are corrected meanwhile, and the node is flagged",
        )
    } else {
        Check::ok(NAME, shown)
    }
}

/// Whether an agent runs, and is heard.
pub(super) fn agent(subject: &Subject) -> Check {
    const NAME: &str = "agent";
    let status = match status::fetch(&subject.dirs.socket()) {
        Ok(status) => status,
        Err(error) => {
            return Check::warning(
                NAME,
                error.to_string(),
                "start it: 'systemctl start flotilla-agent'",
            );
        }
    };
    let process = format!("{}, process {}", status.process.version, status.process.pid);
    if let Some(code) = &status.disk.failing {
        return Check::failed(
            NAME,
            format!("{process}: its store fails ({code})"),
            "repair the state directory's disk as said above",
        );
    }
    match status.link.state {
        LinkState::Up => Check::ok(NAME, format!("{process}, link up")),
        LinkState::Down => Check::warning(
            NAME,
            format!(
                "{process}, link down{}",
                status
                    .link
                    .problem
                    .map_or(String::new(), |why| format!(": {why}"))
            ),
            "look at broker and controller above; what is measured meanwhile is kept",
        ),
        LinkState::NotJoined => Check::warning(
            NAME,
            format!("{process}, and the node has not joined"),
            "join it: 'flotilla-agent join TOKEN'",
        ),
    }
}

/// What of the fleet's policy stops the node, and whether a break-glass file lets it
/// pass.
pub(super) fn gate(subject: &Subject) -> Check {
    const NAME: &str = "gate";
    let file = subject
        .config
        .as_ref()
        .ok()
        .map(|config| break_glass::read(&config.gate.break_glass_file, subject.now));
    match file {
        Some(Ok(Some(glass))) => {
            return Check::warning(
                NAME,
                format!(
                    "a break-glass file lets pass everything until {}: {}",
                    glass.until, glass.reason
                ),
                "remove it as soon as the controller is back",
            );
        }
        Some(Err(error)) => {
            return Check::warning(
                NAME,
                format!(
                    "the break-glass file does not count: {}",
                    crate::chain(&error)
                ),
                "remove it, or correct what the message names",
            );
        }
        Some(Ok(None)) | None => {}
    }
    let Ok(status) = status::fetch(&subject.dirs.socket()) else {
        return Check::skipped(NAME, "the agent does not say what it is refused");
    };
    let stops: Vec<String> = status
        .gate
        .stops
        .iter()
        .map(|stop| {
            format!(
                "breaker {} stops {}: {}",
                stop.breaker, stop.what, stop.reason
            )
        })
        .collect();
    if status.gate.lease.is_some_and(|lease| lease.is_over) {
        return Check::warning(
            NAME,
            "the controller was not heard for longer than the lease: gated operations are refused",
            "repair the way to the controller; if it is dead, write the break-glass file (see [gate] in agent.toml)",
        );
    }
    if stops.is_empty() {
        return Check::ok(NAME, format!("policy epoch {}", status.trust.policy_epoch));
    }
    Check::warning(
        NAME,
        stops.join("\n"),
        "see 'flotilla breaker show'; it is reset at the controller",
    )
}
