//! `flotilla trust …`.
//!
//! A request for a signature and a signed trust set travel as small text files:
//! one line that says what it is, one line of base64url.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use data_encoding::BASE64URL_NOPAD;
use serde::Serialize;

use crate::cli::Session;
use crate::cli::args::trust::{Signing, Trust};
use crate::cli::failure::CliFailure;
use crate::cli::print::{Printer, Tone};
use crate::domain::fleet::trust::signed_text;
use crate::exit::Exit;
use crate::operation::view::Stamp;
use crate::operation::view::trust::{
    ChangeTrust, InstallTrust, TrustChange, TrustChanged, TrustView,
};
use crate::pki;
use crate::serve::store::coded;

const REQUEST: &str = "flotilla trust request 1";
const SIGNED: &str = "flotilla trust set 1";

pub(super) async fn run(session: &mut Session, command: Trust) -> Result<Exit, CliFailure> {
    match command {
        Trust::Show => {
            let view: TrustView = session.client.get("/trust").await?;
            session.print.show(&view, show)?;
            Ok(Exit::Ok)
        }
        Trust::RotateSigningKey(signing) => {
            let body = asked(TrustChange::RotateSigningKey, &signing);
            change(session, body, signing).await
        }
        Trust::RotateCa(signing) => {
            let body = asked(TrustChange::RotateCa, &signing);
            change(session, body, signing).await
        }
        Trust::RetireCa {
            fingerprint,
            force,
            signing,
        } => {
            let body = ChangeTrust {
                which: Some(fingerprint),
                force,
                ..asked(TrustChange::RetireCa, &signing)
            };
            change(session, body, signing).await
        }
        Trust::RetireSigningKey { key, signing } => {
            let body = ChangeTrust {
                which: Some(key),
                ..asked(TrustChange::RetireSigningKey, &signing)
            };
            change(session, body, signing).await
        }
        Trust::Sign { .. } => Err(CliFailure::new(Exit::Bug, "signing asks no controller")),
        Trust::Install { file, force } => {
            let body = InstallTrust {
                signed: read(&file, SIGNED)?,
                force,
            };
            let changed: TrustChanged = session.client.post("/trust/install", &body).await?;
            session
                .print
                .show(&changed, |print, changed| show(print, &changed.trust))?;
            Ok(Exit::Ok)
        }
    }
}

/// Asks for a change that names a key.
pub(super) async fn ask(
    session: &mut Session,
    named: TrustChange,
    which: String,
    signing: Signing,
) -> Result<Exit, CliFailure> {
    let body = ChangeTrust {
        which: Some(which),
        ..asked(named, &signing)
    };
    change(session, body, signing).await
}

fn asked(change: TrustChange, signing: &Signing) -> ChangeTrust {
    ChangeTrust {
        change,
        which: None,
        force: false,
        unsigned: signing.out.is_some(),
    }
}

async fn change(
    session: &mut Session,
    body: ChangeTrust,
    signing: Signing,
) -> Result<Exit, CliFailure> {
    let changed: TrustChanged = session.client.post("/trust/changes", &body).await?;
    if let (Some(request), Some(out)) = (&changed.request, &signing.out) {
        write(out, REQUEST, request)?;
    }
    session.print.show(&changed, |print, changed| {
        match (&changed.request, &signing.out) {
            (Some(_), Some(out)) => print.line(format!(
                "{} is to be signed where the root key is:\n  flotilla trust sign --root-key root.key {} --to signed.trust",
                out.display(),
                out.display()
            )),
            (Some(_), None) | (None, _) => {
                if !changed.changed {
                    super::note("This rotation runs already.");
                }
                show(print, &changed.trust)
            }
        }
    })?;
    Ok(Exit::Ok)
}

/// Signs a request, offline.
pub(super) fn sign(
    print: &mut Printer,
    root_key: &Path,
    request: &Path,
    to: &Path,
) -> Result<Exit, CliFailure> {
    let malformed = || no_file_of(request, REQUEST);
    let text = read(request, REQUEST)?;
    let bytes = BASE64URL_NOPAD
        .decode(text.as_bytes())
        .map_err(|_| malformed())?;
    let root = std::fs::read(root_key).map_err(|error| unreadable(root_key, &error))?;
    let (set, signed) = pki::sign_offline(&bytes, &root)
        .map_err(|error| coded(Exit::Usage, error.code(), "nothing was signed", &error))?;
    write(to, SIGNED, &signed_text(&signed))?;
    let signed = SignedView {
        fleet: set.fleet.to_string(),
        version: set.version,
        issued_at: set.issued_at.into(),
        keys: set
            .controller_keys
            .iter()
            .map(ToString::to_string)
            .collect(),
        authorities: pki::fingerprints(&set)
            .iter()
            .map(ToString::to_string)
            .collect(),
        file: to.to_owned(),
    };
    print.show(&signed, |print, signed| {
        print.line(format!(
            "Signed trust set {} of fleet {}, drafted {}:",
            signed.version,
            signed.fleet,
            print.ago(signed.issued_at)
        ))?;
        for key in &signed.keys {
            print.line(format!("  signing key {key}"))?;
        }
        for fingerprint in &signed.authorities {
            print.line(format!("  CA {fingerprint}"))?;
        }
        print.line(format!(
            "Put it in force: flotilla trust install {}",
            signed.file.display()
        ))
    })?;
    Ok(Exit::Ok)
}

/// What was signed: whoever holds the root key should know.
#[derive(Debug, Serialize)]
struct SignedView {
    fleet: String,
    version: u64,
    issued_at: Stamp,
    keys: Vec<String>,
    authorities: Vec<String>,
    file: PathBuf,
}

fn show(print: &mut Printer, view: &TrustView) -> Result<(), CliFailure> {
    let root = if view.root_here { "here" } else { "elsewhere" };
    print.line(format!(
        "Trust set {} of fleet {}, drafted {}, digest {}",
        view.version,
        view.fleet,
        print.ago(view.issued_at),
        view.digest
    ))?;
    print.line(format!("Root key {}, kept {root}", view.root))?;
    print.line(format!(
        "Nodes: {} hold it, {} are behind, {} not heard since the controller's start",
        view.nodes_current, view.nodes_behind, view.nodes_unheard
    ))?;
    let mut table = print.table(&[
        "KIND",
        "KEY OR FINGERPRINT",
        "DUTY",
        "FROM",
        "EXPIRES",
        "NODES",
    ]);
    for key in &view.keys {
        table.add_row(vec![
            print.cell("key", Tone::Plain),
            print.cell(&key.public_key, Tone::Plain),
            print.cell(&key.duty, tone(&key.duty)),
            print.cell(print.ago_or_dash(key.from), Tone::Plain),
            print.cell("-", Tone::Faint),
            print.cell("-", Tone::Faint),
        ]);
    }
    for authority in &view.authorities {
        table.add_row(vec![
            print.cell("CA", Tone::Plain),
            print.cell(&authority.fingerprint, Tone::Plain),
            print.cell(&authority.duty, tone(&authority.duty)),
            print.cell(print.ago_or_dash(authority.from), Tone::Plain),
            print.cell(print.ago(authority.expires_at), Tone::Plain),
            print.cell(authority.nodes, Tone::Plain),
        ]);
    }
    print.print(table, "")
}

fn tone(duty: &str) -> Tone {
    match duty {
        "in_use" => Tone::Good,
        "next" => Tone::Warn,
        _ => Tone::Faint,
    }
}

/// The second line of a file whose first says what it is.
fn read(path: &Path, kind: &str) -> Result<String, CliFailure> {
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(path, &error))?;
    let mut lines = text.lines();
    match (lines.next(), lines.next()) {
        (Some(first), Some(second)) if first == kind => Ok(second.trim().to_owned()),
        _ => Err(no_file_of(path, kind)),
    }
}

fn write(path: &Path, kind: &str, text: &str) -> Result<(), CliFailure> {
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| {
            file.write_all(format!("{kind}\n{text}\n").as_bytes())?;
            file.sync_all()
        });
    written.map_err(|error| {
        CliFailure::because(
            Exit::CannotCreate,
            format_args!("cannot write {}", path.display()),
            &error,
        )
    })
}

fn unreadable(path: &Path, error: &std::io::Error) -> CliFailure {
    CliFailure::because(
        Exit::NotFound,
        format_args!("cannot read {}", path.display()),
        error,
    )
}

fn no_file_of(path: &Path, kind: &str) -> CliFailure {
    CliFailure::new(
        Exit::Usage,
        format!("{} is no file of the kind {kind:?}", path.display()),
    )
    .advise("`--out` writes a request, `flotilla trust sign` makes a trust set of it, and `flotilla trust install` takes that")
}
