//! Images: pulled from their registry, or loaded from an archive.
//!
//! A pull that shows no progress is broken off. The engine keeps the layers that
//! are whole, so the next attempt goes on from them.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use bollard::Docker;
use bollard::auth::DockerCredentials;
use bollard::errors::Error;
use bollard::models::CreateImageInfo;
use bollard::query_parameters::{
    CreateImageOptionsBuilder, ImportImageOptionsBuilder, TagImageOptionsBuilder,
};
use bytes::Bytes;
use data_encoding::BASE64;
use futures_util::{Stream, StreamExt as _};
use protocol::ErrorCode;
use protocol::deployment::spec::Image;
use serde::Deserialize;
use tokio::io::AsyncReadExt as _;

use super::{CALL, Engine, checked, lock};
use crate::deploy::{Note, Settings};
use crate::domain::deployment::goal::{image_handle, registry};
use crate::domain::deployment::machine::{Class, StepError};
use crate::status::bytes;

/// Loading a large archive on a slow disk shows nothing for long.
const LOAD_STALL: Duration = Duration::from_secs(600);

/// Bytes of an archive handed over at a time.
const PART_BYTES: usize = 64 * 1024;

/// Bytes of a file with logins or a password.
const LOGIN_BYTES_MAX: u64 = 1024 * 1024;

/// What registries say when no attempt will succeed.
const FINAL: [&str; 10] = [
    "manifest unknown",
    "not found",
    "denied",
    "unauthorized",
    "authentication required",
    "no basic auth",
    "repository name",
    "invalid reference",
    "does not exist",
    "no matching manifest",
];

/// What a full disk makes the engine say.
const NO_SPACE: &str = "no space left on device";

impl Engine {
    pub(super) async fn pull_image(
        &self,
        docker: &Docker,
        image: &Image,
        note: Note<'_>,
    ) -> Result<(), StepError> {
        let handle = image_handle(image);
        let settings = self.settings.borrow().clone();
        let login = login(&settings, registry(&image.reference)).await?;
        let options = CreateImageOptionsBuilder::default()
            .from_image(checked(&handle)?)
            .build();
        let mut pull = std::pin::pin!(docker.create_image(Some(options), None, login));
        let mut layers = Layers::default();
        loop {
            let next = tokio::time::timeout(settings.stall_timeout, pull.next()).await;
            match next {
                Ok(Some(Ok(info))) => note(format!("{handle}: {}", layers.take(&info))),
                Ok(Some(Err(error))) => return Err(self.not_pulled(&handle, &error)),
                Ok(None) => return Ok(()),
                Err(_) => {
                    let seconds = settings.stall_timeout.as_secs();
                    return Err(StepError {
                        code: ErrorCode::ImageUnavailable,
                        class: Class::Passing,
                        detail: format!("{handle}: no progress for {seconds} s"),
                    });
                }
            }
        }
    }

    fn not_pulled(&self, handle: &str, error: &Error) -> StepError {
        let Some(text) = said(error) else {
            return self.failed("pull an image", error);
        };
        let lower = text.to_lowercase();
        let is_final = lower.contains(NO_SPACE) || FINAL.iter().any(|said| lower.contains(said));
        // A name server that is away says of a registry that it is not found.
        let passing = lower.contains("no such host") || lower.contains("dial tcp");
        StepError {
            code: ErrorCode::ImageUnavailable,
            class: if is_final && !passing {
                Class::Final
            } else {
                Class::Passing
            },
            detail: format!("{handle}: {}", text.trim()),
        }
    }

    pub(super) async fn load_archive(
        &self,
        docker: &Docker,
        archive: &Path,
        image: &Image,
        note: Note<'_>,
    ) -> Result<(), StepError> {
        let bad = |detail: String, class| StepError {
            code: ErrorCode::ArchiveInvalid,
            class,
            detail,
        };
        let file = tokio::fs::File::open(archive).await.map_err(|error| {
            bad(
                format!("the archive cannot be read: {error}"),
                Class::Passing,
            )
        })?;
        let options = ImportImageOptionsBuilder::default().build();
        let mut load = std::pin::pin!(docker.import_image_stream(options, parts(file), None));
        let mut loaded: Vec<String> = Vec::new();
        while let Some(info) = tokio::time::timeout(LOAD_STALL, load.next())
            .await
            .map_err(|_| bad("loading stalled".to_owned(), Class::Passing))?
        {
            let info = info.map_err(|error| match said(&error) {
                Some(text) => bad(format!("the engine does not load it: {text}"), Class::Final),
                None => self.failed("load an archive", &error),
            })?;
            let line = info.stream.unwrap_or_default();
            note(line.trim().to_owned());
            for prefix in ["Loaded image: ", "Loaded image ID: "] {
                if let Some(name) = line.trim().strip_prefix(prefix) {
                    loaded.push(name.to_owned());
                }
            }
        }
        // The archive names images as `docker save` was told; without a registry,
        // where the reference has it spelled out.
        let meant = loaded
            .iter()
            .find(|name| spelled_out(name) == image.reference)
            .or(loaded.first().filter(|_| loaded.len() == 1));
        let Some(meant) = meant else {
            let detail = format!(
                "the archive has {}, not {}",
                loaded.join(", "),
                image.reference
            );
            return Err(bad(detail, Class::Final));
        };
        let handle = image_handle(image);
        let (repository, tag) = handle.split_once(':').unwrap_or((&handle, "latest"));
        let options = TagImageOptionsBuilder::default()
            .repo(repository)
            .tag(tag)
            .build();
        let call = docker.tag_image(checked(meant)?, Some(options));
        self.within(CALL, "tag an image", call).await?;
        lock(&self.digests).clear();
        Ok(())
    }
}

/// What the engine says; none when it broke off.
fn said(error: &Error) -> Option<&str> {
    if let Error::DockerResponseServerError { message, .. } = error {
        return Some(message);
    }
    if let Error::DockerStreamError { error } = error {
        return Some(error);
    }
    None
}

/// A name with registry and library spelled out, as references have it.
fn spelled_out(name: &str) -> String {
    match name.split_once('/') {
        None => format!("docker.io/library/{name}"),
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => name.to_owned(),
        Some(_) => format!("docker.io/{name}"),
    }
}

fn parts(file: tokio::fs::File) -> impl Stream<Item = Result<Bytes, std::io::Error>> {
    futures_util::stream::try_unfold(file, async |mut file| {
        let mut part = vec![0; PART_BYTES];
        let count = file.read(&mut part).await?;
        part.truncate(count);
        Ok((count > 0).then(|| (Bytes::from(part), file)))
    })
}

/// How far the layers of an image are.
#[derive(Default)]
struct Layers {
    bytes: BTreeMap<String, (u64, u64)>,
    done: usize,
}

impl Layers {
    fn take(&mut self, info: &CreateImageInfo) -> String {
        let count = |value: Option<i64>| value.and_then(|v| u64::try_from(v).ok()).unwrap_or(0);
        let status = info.status.clone().unwrap_or_default();
        if let (Some(id), Some(detail)) = (&info.id, &info.progress_detail)
            && detail.total.is_some()
            && status == "Downloading"
        {
            let progress = (count(detail.current), count(detail.total));
            self.bytes.insert(id.clone(), progress);
        }
        if status == "Pull complete" {
            self.done += 1;
        }
        if self.bytes.is_empty() {
            return status;
        }
        let (have, all) = self
            .bytes
            .values()
            .fold((0, 0), |(have, all), (a, b)| (have + a, all + b));
        format!(
            "{} of {} pulled, {} layers done",
            bytes(have),
            bytes(all),
            self.done
        )
    }
}

/// The part of a Docker `config.json` that is read.
#[derive(Deserialize)]
struct RegistryConfig {
    #[serde(default)]
    auths: BTreeMap<String, Auth>,
}

#[derive(Deserialize)]
struct Auth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
}

async fn login(
    settings: &Settings,
    registry: &str,
) -> Result<Option<DockerCredentials>, StepError> {
    let credentials = |user: String, password: String| DockerCredentials {
        username: Some(user),
        password: Some(password),
        serveraddress: Some(registry.to_owned()),
        ..DockerCredentials::default()
    };
    if let Some(login) = settings.logins.iter().find(|one| one.registry == registry) {
        let password = small_file(&login.password_file).await?;
        let password = password.trim_end_matches(['\r', '\n']).to_owned();
        return Ok(Some(credentials(login.user.clone(), password)));
    }
    let Some(file) = &settings.registry_config else {
        return Ok(None);
    };
    let text = small_file(file).await?;
    let config: RegistryConfig = serde_json::from_str(&text)
        .map_err(|_| no_login(format!("{} is no Docker config.json", file.display())))?;
    let hub = registry == "docker.io";
    let found = config.auths.into_iter().find(|(at, _)| {
        at == registry
            || at.trim_start_matches("https://").trim_end_matches('/') == registry
            || hub && at.contains("index.docker.io")
    });
    let Some((_, auth)) = found else {
        return Ok(None);
    };
    if let (Some(user), Some(password)) = (auth.username, auth.password) {
        return Ok(Some(credentials(user, password)));
    }
    let decoded = auth
        .auth
        .and_then(|text| BASE64.decode(text.as_bytes()).ok())
        .and_then(|bytes| String::from_utf8(bytes).ok());
    match decoded.as_deref().and_then(|text| text.split_once(':')) {
        Some((user, password)) => Ok(Some(credentials(user.to_owned(), password.to_owned()))),
        None => Err(no_login(format!(
            "{} has no usable login for {registry}",
            file.display()
        ))),
    }
}

async fn small_file(path: &Path) -> Result<String, StepError> {
    let read = async {
        let file = tokio::fs::File::open(path).await?;
        let mut text = String::new();
        file.take(LOGIN_BYTES_MAX).read_to_string(&mut text).await?;
        Ok::<_, std::io::Error>(text)
    };
    read.await
        .map_err(|error| no_login(format!("{} cannot be read: {error}", path.display())))
}

fn no_login(detail: String) -> StepError {
    StepError {
        code: ErrorCode::ImageUnavailable,
        class: Class::Final,
        detail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deploy::settings::Login;

    #[test]
    fn names_of_archives_are_spelled_out() {
        for (name, whole) in [
            ("web:1", "docker.io/library/web:1"),
            ("me/web:1", "docker.io/me/web:1"),
            ("registry:5000/web:1", "registry:5000/web:1"),
            ("localhost/web:1", "localhost/web:1"),
        ] {
            assert_eq!(spelled_out(name), whole);
        }
    }

    #[tokio::test]
    async fn logins_come_from_their_files_and_the_own_ones_win() {
        let dir = tempfile::tempdir().unwrap();
        let (config, password) = (dir.path().join("config.json"), dir.path().join("password"));
        let text =
            r#"{"auths": {"r.example": {"auth": "bWU6ZnJvbS1jb25maWc="}, "bad.example": {}}}"#;
        std::fs::write(&config, text).unwrap();
        std::fs::write(&password, "from-file\n").unwrap();
        let mut settings = Settings {
            registry_config: Some(config),
            ..Settings::default()
        };
        let user = |login: &DockerCredentials| (login.username.clone(), login.password.clone());
        let pair = |user: &str, password: &str| (Some(user.to_owned()), Some(password.to_owned()));
        let found = login(&settings, "r.example").await.unwrap().unwrap();
        assert_eq!(user(&found), pair("me", "from-config"));
        assert_eq!(login(&settings, "other.example").await.unwrap(), None);
        assert!(login(&settings, "bad.example").await.is_err());
        settings.logins.push(Login {
            registry: "r.example".to_owned(),
            user: "you".to_owned(),
            password_file: password,
        });
        let found = login(&settings, "r.example").await.unwrap().unwrap();
        assert_eq!(user(&found), pair("you", "from-file"));
        settings.logins[0].password_file = dir.path().join("missing");
        assert!(login(&settings, "r.example").await.is_err());
    }
}
