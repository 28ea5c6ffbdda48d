//! The operator's profile: where the controller is and with which key to ask.
//!
//! Flags win over the environment, which wins over the file. The file holds a
//! secret, so it is written with mode 0600, and a profile of another fleet is
//! never overwritten.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cli::args::Global;
use crate::cli::failure::CliFailure;
use crate::exit::Exit;

/// The file as written.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Base URL of the controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<String>,
    /// PEM file with the CA of its certificate; the system's without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// API key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

impl std::fmt::Debug for Profile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Profile")
            .field("api", &self.api)
            .field("ca_file", &self.ca_file)
            .finish_non_exhaustive()
    }
}

/// Where the profile lies when nothing else is said.
#[must_use]
pub fn default_path() -> Option<PathBuf> {
    let config = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".config")))?;
    Some(config.join("flotilla/profile.toml"))
}

/// What to connect with.
#[derive(Clone, PartialEq, Eq)]
pub struct Connection {
    /// Base URL without a slash at the end.
    pub api: String,
    /// PEM of the CA, if pinned.
    pub ca: Option<Vec<u8>>,
    /// API key.
    pub key: String,
}

/// Puts flags, environment and file together. `key` is `FLOTILLA_KEY`.
///
/// # Errors
/// When the file cannot be read, or something needed is nowhere.
pub fn connection(global: &Global, key: Option<String>) -> Result<Connection, CliFailure> {
    let path = global.profile.clone().or_else(default_path);
    let asked_for = global.profile.is_some();
    let profile = match &path {
        Some(path) => read(path, asked_for)?,
        None => None,
    };
    let (api, ca_file, stored) = profile.map_or((None, None, None), |profile| {
        (profile.api, profile.ca_file, profile.key)
    });
    let missing = |what: &str, how: &str| {
        CliFailure::new(Exit::Config, format!("no {what} is known"))
            .advise(format!(
                "run `flotilla quickstart`, or give {how}, or write it into {}",
                path.as_deref()
                    .unwrap_or(Path::new("~/.config/flotilla/profile.toml"))
                    .display()
            ))
            .coded(protocol::ErrorCode::ProfileMissing)
    };
    let api = global
        .api
        .clone()
        .or(api)
        .ok_or_else(|| missing("controller", "--api URL or FLOTILLA_API"))?;
    if !api.starts_with("https://") {
        return Err(CliFailure::new(
            Exit::Config,
            format!("{api} does not begin with https://: the API speaks TLS only"),
        ));
    }
    let ca = match global.ca.clone().or(ca_file) {
        Some(path) => Some(std::fs::read(&path).map_err(|error| {
            CliFailure::because(
                Exit::Config,
                format_args!("cannot read the CA file {}", path.display()),
                &error,
            )
        })?),
        None => None,
    };
    let key = key
        .filter(|key| !key.is_empty())
        .or(stored)
        .ok_or_else(|| missing("API key", "FLOTILLA_KEY"))?;
    Ok(Connection {
        api: api.trim_end_matches('/').to_owned(),
        ca,
        key,
    })
}

/// Reads a profile; none when there is none and it was not asked for.
///
/// # Errors
/// When it cannot be read, or is no profile.
pub fn read(path: &Path, asked_for: bool) -> Result<Option<Profile>, CliFailure> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !asked_for => {
            return Ok(None);
        }
        Err(error) => {
            return Err(CliFailure::because(
                Exit::Config,
                format_args!("cannot read the profile {}", path.display()),
                &error,
            ));
        }
    };
    toml::from_str(&text).map(Some).map_err(|error| {
        CliFailure::because(
            Exit::Config,
            format_args!("{} is no profile", path.display()),
            &error,
        )
    })
}

/// Writes a profile with mode 0600, replacing what is there in one step.
///
/// # Errors
/// When directory or file cannot be written.
pub fn write(path: &Path, profile: &Profile) -> std::io::Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let text = toml::to_string(profile).map_err(std::io::Error::other)?;
    let new = path.with_extension("toml.new");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    drop(file);
    std::fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::cli::args::Format;

    fn global(profile: Option<PathBuf>, api: Option<&str>) -> Global {
        Global {
            api: api.map(str::to_owned),
            ca: None,
            profile,
            output: Format::Table,
        }
    }

    #[test]
    fn a_profile_is_private_and_gives_the_connection() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/profile.toml");
        let profile = Profile {
            api: Some("https://127.0.0.1:1/".to_owned()),
            ca_file: None,
            key: Some("flk1_file".to_owned()),
        };
        write(&path, &profile).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!format!("{profile:?}").contains("flk1"));

        let from_file = connection(&global(Some(path.clone()), None), None).unwrap();
        assert_eq!(from_file.api, "https://127.0.0.1:1");
        assert_eq!(from_file.key, "flk1_file");
        let over = connection(
            &global(Some(path), Some("https://other:2")),
            Some("flk1_env".to_owned()),
        )
        .unwrap();
        assert_eq!(
            (over.api.as_str(), over.key.as_str()),
            ("https://other:2", "flk1_env")
        );
    }

    #[test]
    fn what_is_missing_is_named_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let missing = connection(&global(Some(dir.path().join("none.toml")), None), None);
        let Err(failure) = missing else {
            panic!("a profile out of nothing")
        };
        assert_eq!(failure.exit, Exit::Config);
        assert!(failure.message.contains("none.toml"), "{failure}");
        // A file that was asked for by name is another matter than none at all.
        assert_eq!(failure.code, None);

        let path = dir.path().join("empty.toml");
        std::fs::write(&path, "").unwrap();
        for (api, what) in [(None, "controller"), (Some("https://x"), "API key")] {
            let Err(failure) = connection(&global(Some(path.clone()), api), None) else {
                panic!("a connection without its {what}")
            };
            assert_eq!(failure.code.as_deref(), Some("profile.missing"));
            assert!(failure.message.contains(what), "{failure}");
        }

        let path = dir.path().join("profile.toml");
        std::fs::write(&path, "api = 'http://x'\nkey = 'k'").unwrap();
        let Err(failure) = connection(&global(Some(path.clone()), None), None) else {
            panic!("plain HTTP")
        };
        assert!(failure.message.contains("TLS only"), "{failure}");
        std::fs::write(&path, "apo = 'x'").unwrap();
        let Err(failure) = connection(&global(Some(path), None), None) else {
            panic!("an unknown field")
        };
        assert!(failure.message.contains("apo"), "{failure}");
    }
}
