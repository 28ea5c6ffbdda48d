//! `flotilla secret …` and `flotilla image …`.
//!
//! A secret's content comes from standard input or a file, never from the command
//! line, where every user of the machine could read it. An archive is hashed first
//! and sent in pieces; a broken upload goes on where the controller has got to.

use std::fs::File;
use std::io::{IsTerminal as _, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use data_encoding::BASE64;

use crate::archive::digest_of;
use crate::cli::Session;
use crate::cli::args::deploy::{Image, Secret};
use crate::cli::failure::CliFailure;
use crate::cli::print::{Printer, Tone, bytes};
use crate::exit::Exit;
use crate::operation::view::content::{
    ArchiveList, ArchivePiece, ArchiveView, BeginArchive, ContentKind, ContentList, ContentView,
    SetContent, UploadView,
};

/// Bytes of an archive that are sent at once; what the controller takes.
const PIECE_BYTES: usize = 4 * 1024 * 1024;

/// Bytes that are read of a content: what a config or secret may have, and one more
/// to see that it has more.
const CONTENT_BYTES_MAX: u64 = protocol::deployment::limit::FILE_BYTES_MAX as u64 + 1;

pub(super) async fn secret(session: &mut Session, command: Secret) -> Result<Exit, CliFailure> {
    match command {
        Secret::Set { name, from, config } => {
            let body = SetContent {
                content: BASE64.encode(&content(from)?),
            };
            let path = format!("/contents/{}/{name}", kind_name(config));
            let view: ContentView = session.client.put(&path, &body).await?;
            session.print.show(&view, |print, view| {
                print.line(format!(
                    "{} {} is set, {}. Deployments get it when they are applied again.",
                    title(view.kind),
                    view.name,
                    bytes(f64::from(view.size_bytes))
                ))
            })?;
        }
        Secret::List => {
            let list: ContentList = session.client.get("/contents").await?;
            session.print.show(&list, table)?;
        }
        Secret::Remove { name, config } => {
            let path = format!("/contents/{}/{name}", kind_name(config));
            let view: ContentView = session.client.delete(&path).await?;
            session.print.show(&view, |print, view| {
                print.line(format!("{} {} is removed.", title(view.kind), view.name))
            })?;
        }
    }
    Ok(Exit::Ok)
}

pub(super) async fn image(session: &mut Session, command: Image) -> Result<Exit, CliFailure> {
    match command {
        Image::Push { archive } => {
            let view = push(session, &archive).await?;
            session.print.show(&view, |print, view| {
                print.line(format!(
                    "{} is held: {}",
                    view.digest,
                    view.images.join(", ")
                ))
            })?;
        }
        Image::List => {
            let list: ArchiveList = session.client.get("/images").await?;
            session.print.show(&list, archives)?;
        }
        Image::Remove { digest } => {
            let path = format!("/images/{digest}");
            let view: ArchiveView = session.client.delete(&path).await?;
            session.print.show(&view, |print, view| {
                print.line(format!("{} is removed.", view.digest))
            })?;
        }
    }
    Ok(Exit::Ok)
}

fn content(from: Option<PathBuf>) -> Result<Vec<u8>, CliFailure> {
    let mut content = Vec::new();
    let read = match &from {
        Some(path) => {
            File::open(path).and_then(|file| file.take(CONTENT_BYTES_MAX).read_to_end(&mut content))
        }
        None => {
            if std::io::stdin().is_terminal() {
                super::note("Type the content; it ends with Ctrl-D on a line of its own.");
            }
            std::io::stdin()
                .take(CONTENT_BYTES_MAX)
                .read_to_end(&mut content)
        }
    };
    read.map_err(|error| CliFailure::because(Exit::NotFound, "cannot read the content", &error))?;
    Ok(content)
}

async fn push(session: &mut Session, path: &Path) -> Result<ArchiveView, CliFailure> {
    let hashed = File::open(path).and_then(|mut file| digest_of(&mut file));
    let (digest, size_bytes) = hashed.map_err(|error| unreadable(path, &error))?;
    let url = format!("/images/{digest}");
    let begin = BeginArchive { size_bytes };
    let at: UploadView = session.client.post(&url, &begin).await?;
    send(session, path, &url, size_bytes, at).await
}

fn unreadable(path: &Path, error: &std::io::Error) -> CliFailure {
    let what = format_args!("cannot read {}", path.display());
    CliFailure::because(Exit::NotFound, what, error)
}

/// Uploads an archive to `url`, from wherever the controller has got to.
pub(super) async fn send(
    session: &mut Session,
    path: &Path,
    url: &str,
    size_bytes: u64,
    mut at: UploadView,
) -> Result<ArchiveView, CliFailure> {
    let unreadable = |error: std::io::Error| unreadable(path, &error);
    let mut file = File::open(path).map_err(unreadable)?;
    loop {
        if let Some(archive) = at.archive {
            return Ok(archive);
        }
        super::note(&format!(
            "{} of {}",
            bytes(at.offset as f64),
            bytes(size_bytes as f64)
        ));
        file.seek(SeekFrom::Start(at.offset)).map_err(unreadable)?;
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        (&mut file)
            .take(PIECE_BYTES as u64)
            .read_to_end(&mut piece)
            .map_err(unreadable)?;
        if piece.is_empty() {
            return Err(CliFailure::new(
                Exit::Failed,
                format!("{} became shorter while it was sent", path.display()),
            ));
        }
        let place = ArchivePiece {
            size_bytes,
            offset: at.offset,
        };
        at = session.client.put_bytes(url, &place, piece).await?;
    }
}

fn kind_name(config: bool) -> &'static str {
    if config { "config" } else { "secret" }
}

fn title(kind: ContentKind) -> &'static str {
    match kind {
        ContentKind::Config => "Config",
        ContentKind::Secret => "Secret",
    }
}

fn table(print: &mut Printer, list: &ContentList) -> Result<(), CliFailure> {
    let mut table = print.table(&["NAME", "KIND", "SIZE", "SET"]);
    for content in &list.contents {
        table.add_row(vec![
            print.cell(&content.name, Tone::Plain),
            print.cell(title(content.kind).to_lowercase(), Tone::Plain),
            print.cell(bytes(f64::from(content.size_bytes)), Tone::Plain),
            print.cell(print.ago(content.set_at), Tone::Plain),
        ]);
    }
    print.print(
        table,
        "No secrets yet. Try: flotilla secret set db-password < password.txt",
    )
}

fn archives(print: &mut Printer, list: &ArchiveList) -> Result<(), CliFailure> {
    let mut table = print.table(&["DIGEST", "SIZE", "IMAGES"]);
    for archive in &list.archives {
        table.add_row(vec![
            print.cell(&archive.digest, Tone::Plain),
            print.cell(bytes(archive.size_bytes as f64), Tone::Plain),
            print.cell(archive.images.join(", "), Tone::Plain),
        ]);
    }
    print.print(
        table,
        "No image archives. Try: docker save shop:1.4 -o shop.tar && flotilla image push shop.tar",
    )
}
