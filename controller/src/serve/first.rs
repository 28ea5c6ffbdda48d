//! The first admin key.
//!
//! A fleet without a principal gets one named `admin`; its key is written into
//! a profile in the state directory, mode 0600, and nowhere else.

use std::path::{Path, PathBuf};

use crate::cli::failure::CliFailure;
use crate::cli::profile::{self, Profile};
use crate::engine::Engine;
use crate::exit::Exit;
use crate::host;
use crate::serve::Ready;

/// Name of the profile in the state directory.
pub(crate) const PROFILE_FILE: &str = "admin-profile.toml";

/// Name of the first principal.
pub(crate) const ADMIN: &str = "admin";

/// Makes the first key if nobody has one; the profile's path if it is there.
pub(super) async fn admin_profile(
    engine: &Engine,
    state_dir: &Path,
    ready: &Ready,
) -> Result<Option<PathBuf>, CliFailure> {
    let path = state_dir.join(PROFILE_FILE);
    if engine.fleet().access().principals().next().is_none() {
        write_new(engine, &path, ready).await?;
        tracing::info!(profile = %path.display(), "made the first admin key");
    }
    Ok(path.exists().then_some(path))
}

/// Makes an admin key and writes a profile with it.
pub(crate) async fn write_new(
    engine: &Engine,
    path: &Path,
    ready: &Ready,
) -> Result<(), CliFailure> {
    let key = host::new_admin_key(engine, ADMIN)
        .await
        .map_err(|failure| CliFailure::new(Exit::Store, failure.detail))?;
    let written = profile::write(
        path,
        &Profile {
            api: Some(ready.api.clone()),
            ca_file: Some(ready.ca_file.clone()),
            key: Some(key),
        },
    );
    written.map_err(|error| {
        CliFailure::because(
            Exit::CannotCreate,
            format_args!("cannot write the profile {}", path.display()),
            &error,
        )
        .advise("make room, then `flotilla recover key`")
    })
}
