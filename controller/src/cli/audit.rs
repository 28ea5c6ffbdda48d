//! `flotilla audit …`.

use std::io::BufReader;
use std::path::Path;
use std::time::Duration;

use comfy_table::Table;
use protocol::key::PublicKey;
use serde::Serialize;

use crate::cli::Session;
use crate::cli::args::{Audit, Format};
use crate::cli::failure::CliFailure;
use crate::cli::print::{Printer, Tone, fit};
use crate::cli::save::{cannot_write, save};
use crate::exit::Exit;
use crate::operation::view::Stamp;
use crate::operation::view::audit::{AuditKey, ReadAudit, RecordPage, RecordView};
use crate::serve::signal::Signals;

/// How often new records are asked for while following.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);

/// The width of a table where there is no terminal.
const WIDTH_DEFAULT: usize = 160;

/// Columns of a table of records without their details: sequence, time, caller and
/// kind, each as wide as it usually is.
const COLUMNS_WIDTH: usize = 66;

/// Details are never narrower than this; a narrow terminal wraps them.
const DETAILS_WIDTH_MIN: usize = 20;

pub(super) async fn run(session: &mut Session, command: Audit) -> Result<Exit, CliFailure> {
    match command {
        Audit::Tail { lines, follow } => tail(session, lines, follow).await,
        Audit::Export { to } => export(session, &to).await,
        Audit::Verify { file, key } => verify(&mut session.print, &file, key.as_deref()),
    }
}

async fn tail(session: &mut Session, lines: u32, follow: bool) -> Result<Exit, CliFailure> {
    let mut asked = ReadAudit {
        after: None,
        limit: Some(lines),
    };
    let page: RecordPage = session.client.query("/audit/records", &asked).await?;
    if !follow {
        session
            .print
            .show(&page, |print, page| table(print, &page.records))?;
        return Ok(Exit::Ok);
    }
    let mut page = page;
    asked.limit = None;
    let mut signals = Signals::listen()?;
    loop {
        for record in &page.records {
            match session.print.format {
                Format::Json => session.print.json_line(record)?,
                Format::Table => session.print.line(line(record))?,
            }
            asked.after = Some(record.sequence);
        }
        tokio::select! {
            () = tokio::time::sleep(FOLLOW_EVERY) => {}
            () = signals.next() => return Ok(Exit::Ok),
        }
        page = session.client.query("/audit/records", &asked).await?;
    }
}

fn line(record: &RecordView) -> String {
    format!(
        "{} {} {} {} {}",
        record.sequence, record.at, record.caller, record.kind, record.summary
    )
}

/// What of a table's width is for details: the columns before them are narrow.
fn details_width() -> usize {
    let width = Table::new().width().map_or(WIDTH_DEFAULT, usize::from);
    width.saturating_sub(COLUMNS_WIDTH).max(DETAILS_WIDTH_MIN)
}

fn table(print: &mut Printer, records: &[RecordView]) -> Result<(), CliFailure> {
    let width = details_width();
    let mut table = print.table(&["SEQ", "AT", "BY", "WHAT", "DETAILS"]);
    for record in records {
        let tone = match record.kind.as_str() {
            "request.denied" | "request.rejected" | "denials.counted" => Tone::Warn,
            _ => Tone::Plain,
        };
        table.add_row(vec![
            print.cell(record.sequence, Tone::Faint),
            print.cell(print.ago(record.at), Tone::Plain),
            print.cell(&record.caller, Tone::Plain),
            print.cell(&record.kind, tone),
            print.cell(fit(&record.summary, width), Tone::Plain),
        ]);
    }
    print.print(table, "No records.")
}

/// Writes the export, and the public key beside it. An export that broke off
/// leaves no file that looks whole.
async fn export(session: &mut Session, to: &Path) -> Result<Exit, CliFailure> {
    let key: AuditKey = session.client.get("/audit/key").await?;
    let response = session.client.download("/audit/export").await?;
    let count = save(response, to, "the export").await?;
    let beside = key_file(to);
    std::fs::write(&beside, key.public_keys.join("\n") + "\n")
        .map_err(|error| cannot_write(&beside, &error))?;
    session.print.show(&key, |print, _| {
        print.line(format!(
            "{count} bytes in {}, public key in {}",
            to.display(),
            beside.display()
        ))
    })?;
    Ok(Exit::Ok)
}

fn key_file(export: &Path) -> std::path::PathBuf {
    export.with_added_extension("pub")
}

/// Verifies an export offline.
pub(super) fn verify(
    print: &mut Printer,
    file: &Path,
    key: Option<&str>,
) -> Result<Exit, CliFailure> {
    let keys = public_keys(file, key)?;
    let unreadable = |error: &std::io::Error| {
        CliFailure::because(
            Exit::NotFound,
            format_args!("cannot read {}", file.display()),
            error,
        )
    };
    let export = std::fs::File::open(file).map_err(|error| unreadable(&error))?;
    let summary =
        crate::journal::verify::verify(BufReader::new(export), &keys).map_err(|broken| {
            CliFailure::because(Exit::Data, "the trail does not verify", &broken)
                .advise("compare with another export; the record named is the first that is wrong")
                .coded(broken.code())
        })?;
    let verified = Verified {
        fleet: summary.fleet.to_string(),
        first: summary.from,
        last: summary.last,
        checkpoints: summary.checkpoints,
        hash: summary.hash.to_string(),
        sealed_at: summary.sealed_at.into(),
    };
    print.show(&verified, |print, verified| {
        let good = print.tint("good", Tone::Good);
        print.line(format!(
            "{good}: records {} to {} of fleet {}, {} checkpoints, exported {}",
            verified.first,
            verified.last,
            verified.fleet,
            verified.checkpoints,
            print.ago(verified.sealed_at)
        ))
    })?;
    Ok(Exit::Ok)
}

/// What a sound export holds.
#[derive(Debug, Serialize)]
struct Verified {
    fleet: String,
    first: u64,
    last: u64,
    checkpoints: u64,
    hash: String,
    sealed_at: Stamp,
}

/// The key given, or those in the file beside the export: one a line.
fn public_keys(file: &Path, key: Option<&str>) -> Result<Vec<PublicKey>, CliFailure> {
    let wrong = |what: String| {
        CliFailure::new(Exit::Usage, what).advise(
            "give --key with 64 hex digits, or a file that holds them; `flotilla audit export` writes one",
        )
    };
    if let Some(text) = key
        && let Ok(key) = text.parse::<PublicKey>()
    {
        return Ok(vec![key]);
    }
    let path = key.map_or_else(|| key_file(file), std::path::PathBuf::from);
    let text = std::fs::read_to_string(&path).map_err(|error| {
        wrong(format!(
            "cannot read the public key {}: {error}",
            path.display()
        ))
    })?;
    text.split_whitespace()
        .map(|line| {
            line.parse()
                .map_err(|_| wrong(format!("{} holds no public key", path.display())))
        })
        .collect()
}
