//! The stores beside the fleet's state: contents of configs and secrets, image
//! archives; and the client that asks registries and delivers notices.
//!
//! Owns opening them, and sweeping out of them what no revision names any more.

use std::collections::BTreeSet;
use std::time::Duration;

use protocol::deployment::spec::FileKind;
use protocol::time::UnixMillis;
use tokio_util::sync::CancellationToken;

use crate::archive::Archives;
use crate::cli::failure::CliFailure;
use crate::clock;
use crate::config::Config;
use crate::domain::digest::Digest;
use crate::domain::fleet::Fleet;
use crate::engine::Engine;
use crate::exit::Exit;
use crate::layout;
use crate::notify::{Board, Courier};
use crate::operation::{Notify, Stores};
use crate::outbound::Outbound;
use crate::pki::Pki;
use crate::registry::Registries;
use crate::serve::store::coded;
use crate::vault::Vault;

/// How often what nobody names is swept out. It takes up space until then, and
/// nothing else.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);

/// Opens the stores.
///
/// # Errors
/// The first that cannot be used, with what to do.
pub(super) fn open(config: &Config, pki: &Pki) -> Result<(Stores, Notify), CliFailure> {
    let key = pki.vault_key().map_err(|error| {
        coded(
            Exit::Store,
            error.code(),
            "the key of configs and secrets cannot be used",
            &error,
        )
    })?;
    let vault = Vault::open(&config.state_dir.join(layout::VAULT), &key).map_err(|error| {
        coded(
            Exit::Store,
            error.code(),
            "the configs and secrets cannot be used",
            &error,
        )
    })?;
    let archives = Archives::open(&config.state_dir.join(layout::ARCHIVES)).map_err(|error| {
        coded(
            Exit::Store,
            error.code(),
            "the image archives cannot be used",
            &error,
        )
    })?;
    let releases =
        Archives::of_releases(&config.state_dir.join(layout::RELEASES)).map_err(|error| {
            coded(
                Exit::Store,
                error.code(),
                "the archives of releases cannot be used",
                &error,
            )
        })?;
    let outbound = Outbound::new(config.outbound.allow.clone()).map_err(|error| {
        CliFailure::because(Exit::Config, "cannot set up the HTTP client", &error)
    })?;
    let notify = Notify {
        courier: Courier::new(outbound.clone(), vault.clone(), clock::now),
        board: Board::default(),
    };
    let stores = Stores {
        vault,
        archives,
        releases,
        registries: Registries::new(outbound),
    };
    Ok((stores, notify))
}

/// Sweeps until stopped. Archives are those of images and those of releases.
pub(super) async fn sweep(
    engine: Engine,
    vault: Vault,
    archives: [Archives; 2],
    stop: CancellationToken,
) -> Result<(), std::convert::Infallible> {
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(SWEEP_EVERY) => {}
        }
        let (fleet, vault, archives) = (engine.fleet(), vault.clone(), archives.clone());
        let swept = tokio::task::spawn_blocking(move || {
            let now = clock::now();
            sweep_contents(&fleet, &vault, now);
            for store in &archives {
                sweep_uploads(store, now);
            }
        });
        if let Err(error) = swept.await {
            tracing::error!(%error, "sweeping contents broke off");
        }
    }
}

fn sweep_contents(fleet: &Fleet, vault: &Vault, now: UnixMillis) {
    match vault.sweep(&named(fleet), now) {
        Ok(0) => {}
        Ok(count) => tracing::info!(count, "removed contents that no revision names"),
        Err(error) => tracing::warn!(%error, "contents that no revision names stay"),
    }
}

/// Archives were pushed by people, and go when people say so; what nobody went on to
/// upload goes by itself.
fn sweep_uploads(archives: &Archives, now: UnixMillis) {
    let whole: BTreeSet<Digest> = archives.list().iter().map(|held| held.digest).collect();
    match archives.sweep(&whole, now) {
        Ok(0) => {}
        Ok(count) => tracing::info!(count, "removed uploads that nobody went on with"),
        Err(error) => tracing::warn!(%error, "uploads that nobody went on with stay"),
    }
}

/// The contents that the revisions which are kept name, and the signing secrets of
/// sinks.
pub(crate) fn named(fleet: &Fleet) -> BTreeSet<(FileKind, String)> {
    let secrets = fleet.sinks().iter().map(|known| known.sink.secret.clone());
    fleet
        .deployments()
        .iter()
        .flat_map(|known| known.revisions.values())
        .flat_map(|revision| revision.spec.files.values())
        .map(|file| (file.kind, file.digest.clone()))
        .chain(secrets.map(|digest| (FileKind::Secret, digest)))
        .collect()
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn uploads_of_images_and_of_releases_go_when_nobody_goes_on_with_them() {
        let named = Digest([7; 32]);
        for open in [Archives::open, Archives::of_releases] {
            let folder = TempDir::new().unwrap();
            let store = open(folder.path()).unwrap();
            store.append(named, 100, 0, b"a", clock::now()).unwrap();
            let left = || std::fs::read_dir(folder.path()).unwrap().count();
            // After a restart nobody knows the upload.
            let store = open(folder.path()).unwrap();
            sweep_uploads(&store, clock::now());
            assert_eq!(left(), 1, "it may be gone on with");
            sweep_uploads(&store, UnixMillis(clock::now().0 + 2 * 24 * 3_600_000));
            assert_eq!(left(), 0);
        }
    }
}
