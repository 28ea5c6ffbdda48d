//! `flotilla release …` and `flotilla update …`

use std::path::Path;

use data_encoding::BASE64;
use protocol::message;

use crate::bundle::{self, Ask, Bundle, key};
use crate::cli::Session;
use crate::cli::args::release::{ApplyUpdate, Release, ReleaseKey, SignRelease, Update};
use crate::cli::content;
use crate::cli::failure::CliFailure;
use crate::cli::print::{Printer, Tone, bytes};
use crate::clock;
use crate::exit::Exit;
use crate::operation::view::content::{ArchivePiece, UploadView};
use crate::operation::view::deployment::{ApplyAnswer, DeploymentList};
use crate::operation::view::release as view;
use crate::operation::view::release::{AddRelease, ReleaseList, ReleaseView, RevokeRelease};
use crate::operation::view::trust::TrustChange;
use crate::serve::store::coded;

pub(super) async fn run(session: &mut Session, command: Release) -> Result<Exit, CliFailure> {
    match command {
        Release::Key(ReleaseKey::Create { .. }) | Release::Sign(_) => {
            return Err(CliFailure::new(Exit::Bug, "this asks no controller"));
        }
        Release::Key(ReleaseKey::Add { key, signing }) => {
            return super::trust::ask(session, TrustChange::AddReleaseKey, key, signing).await;
        }
        Release::Key(ReleaseKey::Remove { key, signing }) => {
            return super::trust::ask(session, TrustChange::RemoveReleaseKey, key, signing).await;
        }
        Release::Add { path } => {
            let release = add(session, &path).await?;
            session.print.show(&release, |print, release| {
                print.line(format!("Release {} is {}.", release.version, release.state))
            })?;
        }
        Release::List => {
            let list: ReleaseList = session.client.get("/releases").await?;
            session.print.show(&list, table)?;
        }
        Release::Revoke { version, reason } => {
            let path = format!("/releases/{version}/revoke");
            let release: ReleaseView = session
                .client
                .post(&path, &RevokeRelease { reason })
                .await?;
            session.print.show(&release, |print, release| {
                print.line(format!(
                    "Release {} is revoked; {} nodes run it.",
                    release.version, release.nodes
                ))
            })?;
        }
        Release::Remove { version } => {
            let path = format!("/releases/{version}");
            let release: ReleaseView = session.client.delete(&path).await?;
            session.print.show(&release, |print, release| {
                print.line(format!("Release {} is removed.", release.version))
            })?;
        }
    }
    Ok(Exit::Ok)
}

/// Makes a release key, offline.
pub(super) fn create_key(print: &mut Printer, file: &Path) -> Result<Exit, CliFailure> {
    let public = key::create(file)
        .map_err(|error| coded(Exit::Usage, error.code(), "no key was made", &error))?;
    print.line(public.to_string())?;
    super::note(&format!(
        "{} is the key. Keep it offline; let the fleet believe it with\n  flotilla release key add {public}",
        file.display()
    ));
    Ok(Exit::Ok)
}

/// Signs a release, offline.
pub(super) fn sign(print: &mut Printer, asked: &SignRelease) -> Result<Exit, CliFailure> {
    let key = key::read(&asked.key)
        .map_err(|error| coded(Exit::Usage, error.code(), "nothing was signed", &error))?;
    let ask = Ask {
        version: asked.release_version.clone(),
        from_min: asked.from_min.clone(),
        from_max: asked.from_max.clone(),
        lifetime: asked.expires,
        now: clock::now(),
    };
    let (release, manifest) = bundle::sign(&asked.folder, &key, &ask)
        .map_err(|error| coded(Exit::Usage, error.code(), "nothing was signed", &error))?;
    for archive in &release.archives {
        let size = bytes(archive.bytes as f64);
        print.line(format!("{}  {size}  {}", archive.sha256, archive.name))?;
    }
    print.line(format!(
        "{} is signed by {}: version {}, over {} to {}, until {}",
        manifest.display(),
        key.public().id(),
        release.version,
        release.from_min,
        release.from_max,
        release.expires_at
    ))?;
    Ok(Exit::Ok)
}

async fn add(session: &mut Session, path: &Path) -> Result<ReleaseView, CliFailure> {
    let opened = bundle::open(path)
        .map_err(|error| coded(Exit::Usage, error.code(), "nothing was sent", &error))?;
    let body = AddRelease {
        manifest: BASE64.encode(&message::encode(&opened.signed)),
    };
    let mut release: ReleaseView = session.client.post("/releases", &body).await?;
    send_archives(session, &opened).await?;
    let list: ReleaseList = session.client.get("/releases").await?;
    let sent = list.releases.into_iter();
    if let Some(found) = sent.into_iter().find(|it| it.version == release.version) {
        release = found;
    }
    Ok(release)
}

async fn send_archives(session: &mut Session, opened: &Bundle) -> Result<(), CliFailure> {
    for (archive, path) in opened.release.archives.iter().zip(&opened.files) {
        let url = format!(
            "/releases/{}/archives/{}",
            opened.release.version, archive.sha256
        );
        let size_bytes = archive.bytes;
        let place = ArchivePiece {
            size_bytes,
            offset: 0,
        };
        // Without bytes it says where the upload stands.
        let at: UploadView = session.client.put_bytes(&url, &place, Vec::new()).await?;
        content::send(session, path, &url, size_bytes, at).await?;
    }
    Ok(())
}

fn table(print: &mut Printer, list: &ReleaseList) -> Result<(), CliFailure> {
    let mut table = print.table(&["VERSION", "STATE", "NODES", "OVER", "TARGETS", "ADDED"]);
    for release in &list.releases {
        let tone = match release.state.as_str() {
            "ready" => Tone::Good,
            "revoked" => Tone::Bad,
            _ => Tone::Warn,
        };
        let targets: Vec<&str> = release
            .archives
            .iter()
            .map(|archive| archive.target.as_str())
            .collect();
        let over = format!("{} to {}", release.from_min, release.from_max);
        table.add_row(vec![
            print.cell(&release.version, Tone::Plain),
            print.cell(&release.state, tone),
            print.cell(release.nodes, Tone::Plain),
            print.cell(over, Tone::Plain),
            print.cell(targets.join(", "), Tone::Plain),
            print.cell(print.ago(release.added_at), Tone::Plain),
        ]);
    }
    print.print(table, "No releases yet. Try: flotilla release add dist")
}

pub(super) async fn update(session: &mut Session, command: Update) -> Result<Exit, CliFailure> {
    let Update::Apply(asked) = command;
    apply(session, asked).await
}

async fn apply(session: &mut Session, asked: ApplyUpdate) -> Result<Exit, CliFailure> {
    let known: DeploymentList = session.client.get("/deployments").await?;
    let known = known.deployments.iter().find(|it| it.name == asked.name);
    let mut body = view::ApplyUpdate {
        name: asked.name.clone(),
        version: asked.version.clone(),
        on: asked.on.clone(),
        base: known.map_or(0, |known| known.revision),
        rollout: super::deploy::parameters(&asked.staged)?,
        dry_run: true,
        allow_empty: asked.allow_empty,
    };
    let plan: ApplyAnswer = session.client.post("/updates", &body).await?;
    if !super::deploy::goes_on(session, &plan, "Roll it out?", &asked.manner)? {
        return Ok(Exit::Ok);
    }
    body.dry_run = false;
    let answer: ApplyAnswer = session.client.post("/updates", &body).await?;
    super::deploy::conclude(session, answer, &asked.manner).await
}
