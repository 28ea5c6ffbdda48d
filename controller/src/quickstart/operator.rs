//! The operator's profile of a quickstart.
//!
//! The directory has a profile of its own. It is also put where every
//! subcommand looks, unless a profile of another fleet is there: one is known
//! to be ours by the CA file that it names.

use std::path::{Path, PathBuf};

use protocol::id::RequestId;

use crate::cli::failure::CliFailure;
use crate::cli::profile;
use crate::exit::Exit;
use crate::serve::Controller;
use crate::serve::first;

/// What became of the profile where every subcommand looks.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Shared {
    /// It is ours.
    Written(PathBuf),
    /// It is another fleet's.
    Kept(PathBuf),
}

/// The directory's own profile, with a key that works.
pub(super) async fn own_profile(
    controller: &Controller,
    dir: &Path,
) -> Result<PathBuf, CliFailure> {
    let path = dir.join("profile.toml");
    let works = profile::read(&path, false)?.is_some_and(|profile| {
        let key = profile.key.unwrap_or_default();
        profile.api.as_deref() == Some(controller.ready.api.as_str())
            && controller
                .operations
                .authenticate(&key, RequestId::NIL)
                .is_ok()
    });
    if !works {
        first::write_new(&controller.engine, &path, &controller.ready).await?;
    }
    Ok(path)
}

/// Puts the profile where every subcommand looks, unless another fleet's is there.
pub(super) fn share_profile(
    own: &Path,
    dir: &Path,
    place: Option<PathBuf>,
) -> Result<Shared, CliFailure> {
    let Some(place) = place else {
        return Ok(Shared::Kept(PathBuf::from("(no home directory)")));
    };
    let ours = match profile::read(&place, false) {
        Ok(None) => true,
        Ok(Some(there)) => there.ca_file.is_some_and(|ca| ca.starts_with(dir)),
        // Not a profile that we understand, so not one that we wrote.
        Err(_) => false,
    };
    if !ours {
        return Ok(Shared::Kept(place));
    }
    let profile = profile::read(own, true)?
        .ok_or_else(|| CliFailure::new(Exit::CannotCreate, format!("{} is gone", own.display())))?;
    profile::write(&place, &profile).map_err(|error| {
        CliFailure::because(
            Exit::CannotCreate,
            format_args!("cannot write the profile {}", place.display()),
            &error,
        )
    })?;
    Ok(Shared::Written(place))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::profile::Profile;

    fn profile(ca: &Path) -> Profile {
        Profile {
            api: Some("https://127.0.0.1:1".to_owned()),
            ca_file: Some(ca.to_owned()),
            key: Some("flk1_x".to_owned()),
        }
    }

    #[test]
    fn a_profile_of_another_fleet_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("profile.toml");
        profile::write(&own, &profile(&dir.path().join("ca.pem"))).unwrap();
        let place = dir.path().join("home/profile.toml");
        let share = || share_profile(&own, dir.path(), Some(place.clone())).unwrap();
        assert_eq!(share(), Shared::Written(place.clone()));
        assert_eq!(share(), Shared::Written(place.clone()));

        let other = profile(Path::new("/elsewhere/ca.pem"));
        profile::write(&place, &other).unwrap();
        assert_eq!(share(), Shared::Kept(place.clone()));
        assert_eq!(profile::read(&place, true).unwrap(), Some(other));
        std::fs::write(&place, "written by a newer version = true").unwrap();
        assert_eq!(share(), Shared::Kept(place.clone()));
    }
}
