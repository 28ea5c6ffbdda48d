//! Lays a version beside the running one: fetches its archive, unpacks it, and lets the
//! version test itself.

use std::ffi::OsString;
use std::num::NonZeroU64;
use std::process::Stdio;
use std::time::Duration;

use protocol::ErrorCode;
use protocol::release::{ARCHIVE_BYTES_MAX, Archive, Release};
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use super::layout::{Layout, LayoutError};
use crate::deploy::fetch::{self, Content, Download, Fetcher};
use crate::domain::deployment::machine::{Class, StepError};
use crate::program;

/// A self-test reads a configuration and prints a line.
const SELF_TEST_WITHIN: Duration = Duration::from_secs(30);

/// Bytes of what a self-test says.
const SELF_TEST_BYTES_MAX: usize = 16 * 1024;

/// Characters that are told of why a self-test failed.
const SAID_CHARS_MAX: usize = 300;

/// No part of a download may let itself be waited for longer.
const STALL: Duration = Duration::from_secs(60);

/// What a self-test says of its program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelfTest {
    /// Its version.
    pub version: String,
    /// Its target triple.
    pub target: String,
    /// The newest layout of the store that it reads and writes.
    pub store_format: u64,
}

/// How versions come to lie here.
pub struct Preparation<F> {
    /// Gets archives.
    pub fetcher: F,
    /// The files.
    pub layout: Layout,
    /// Bytes a second, on average, at which an archive is downloaded at most.
    pub bytes_per_s_max: Option<NonZeroU64>,
    /// Arguments of a self-test, such as where the configuration is.
    pub self_test: Vec<OsString>,
}

impl<F: Fetcher> Preparation<F> {
    /// Lays a version here and tests it. What is here of it already is gone on with.
    ///
    /// # Errors
    /// [`StepError`], passing when the controller does not answer.
    pub async fn lay(&self, release: &Release, archive: &Archive) -> Result<(), StepError> {
        if !self.layout.came_in(&release.version, archive) {
            self.fetch(archive).await?;
            self.unpack(release, archive).await?;
        }
        self.test(release).await
    }

    async fn fetch(&self, archive: &Archive) -> Result<(), StepError> {
        self.layout.check_space(archive).map_err(|e| step(&e))?;
        let download = Download {
            content: &Content::Release(archive.sha256.clone()),
            sha256: &archive.sha256,
            bytes_max: archive.bytes.min(ARCHIVE_BYTES_MAX),
            bytes_per_s_max: self.bytes_per_s_max,
            stall: STALL,
        };
        let path = self.layout.incoming(&archive.sha256);
        fetch::download(&self.fetcher, download, &path, &|_| {}).await
    }

    async fn unpack(&self, release: &Release, archive: &Archive) -> Result<(), StepError> {
        let layout = self.layout.clone();
        let (version, archive) = (release.version.clone(), archive.clone());
        let laid = tokio::task::spawn_blocking(move || {
            let laid = layout.lay(&version, &archive);
            if matches!(laid, Err(LayoutError::Unpack(_))) {
                layout.forget_incoming(&archive.sha256);
            }
            laid
        });
        match laid.await {
            Ok(laid) => laid.map_err(|error| step(&error)),
            Err(error) => Err(failure(format!("unpacking broke off: {error}"))),
        }
    }

    /// Lets the new version say what it is.
    async fn test(&self, release: &Release) -> Result<(), StepError> {
        let output = Command::new(self.layout.program(&release.version))
            .args(&self.self_test)
            .arg("self-test")
            .stdin(Stdio::null())
            .env_remove("NOTIFY_SOCKET")
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(SELF_TEST_WITHIN, output)
            .await
            .map_err(|_| {
                let seconds = SELF_TEST_WITHIN.as_secs();
                failure(format!("its self-test did not end within {seconds} s"))
            })?
            .map_err(|error| failure(format!("it cannot be started: {error}")))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let said: String = said.trim().chars().take(SAID_CHARS_MAX).collect();
            let status = output.status;
            return Err(failure(format!(
                "its self-test failed with {status}: {said}"
            )));
        }
        let said = output.stdout.get(..SELF_TEST_BYTES_MAX);
        let said: SelfTest = serde_json::from_slice(said.unwrap_or(&output.stdout))
            .map_err(|error| failure(format!("its self-test says nothing useful: {error}")))?;
        if said.version != release.version || said.target != program::target() {
            return Err(failure(format!(
                "the program says that it is version {} for {}, and the manifest {} for {}",
                said.version,
                said.target,
                release.version,
                program::target()
            )));
        }
        Ok(())
    }
}

fn step(error: &LayoutError) -> StepError {
    StepError {
        code: error.code(),
        class: Class::Final,
        detail: crate::chain(error),
    }
}

fn failure(detail: String) -> StepError {
    StepError {
        code: ErrorCode::UpdateFailed,
        class: Class::Final,
        detail,
    }
}
