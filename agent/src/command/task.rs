//! One command from its start to its ending.
//!
//! Owns the command's folder: made before it starts, removed when it ends.
//! **Invariant:** [`execute`] ends within the run timeout plus a bounded time
//! for killing. It fails as the action does.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use protocol::ErrorCode;
use protocol::command::{Action, Command, Outcome};
use protocol::limits::OUTPUT_BYTES_MAX;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::capture::Fitted;
use super::ending::{Ending, Stopped};
use super::executor::Clocks;
use super::logs::{self, Query};
use super::process::Bounds;
use super::progress::Progress;
use super::settings::Settings;
use super::{run, service};

/// Asks whoever owns the configuration to read it again: the answer says what
/// came of it, in words.
pub type ReloadRequest = oneshot::Sender<Result<String, String>>;

/// What a command has at hand.
pub(crate) struct Context {
    pub(crate) settings: Arc<Settings>,
    pub(crate) clocks: Clocks,
    pub(crate) folder: PathBuf,
    pub(crate) bounds: Bounds,
    pub(crate) stop: CancellationToken,
    pub(crate) progress: Progress,
    pub(crate) reload: mpsc::Sender<ReloadRequest>,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot make the command's folder {path:?}")]
struct FolderError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// What the command may take.
pub(crate) fn bounds(command: &Command, grace: Duration) -> Bounds {
    let asked = command.output_bytes_max.min(OUTPUT_BYTES_MAX);
    Bounds {
        timeout: Duration::from_millis(command.run_timeout_ms),
        grace,
        output_bytes_max: usize::try_from(asked).unwrap_or(usize::MAX),
    }
}

/// Carries a command out.
pub(crate) async fn execute(mut context: Context, action: Action) -> Ending {
    if let Action::Reload = action {
        return reload(&context).await;
    }
    let folder = match make_folder(&context.folder) {
        Ok(folder) => folder,
        Err(error) => return Ending::failed(ErrorCode::CommandStart, &error),
    };
    let ending = match action {
        Action::Run { argv } => run::execute(&mut context, &argv).await,
        Action::Service { unit, verb } => service::execute(&mut context, &unit, verb).await,
        Action::Logs {
            source,
            lines,
            since_ms,
            follow,
        } => {
            let query = Query {
                lines,
                since: (since_ms > 0).then(|| Duration::from_millis(since_ms)),
                follow,
            };
            logs::execute(&mut context, &source, query).await
        }
        Action::Ping | Action::Reload => Ending::succeeded("", Fitted::default()),
    };
    drop(folder);
    ending
}

async fn reload(context: &Context) -> Ending {
    let (reply, answer) = oneshot::channel();
    let asked = async {
        context.reload.send(reply).await.ok()?;
        answer.await.ok()
    };
    let answer = tokio::select! {
        answer = asked => answer,
        () = tokio::time::sleep(context.bounds.timeout) => {
            return Ending::stopped(Stopped::TimedOut, Fitted::default());
        }
        () = context.stop.cancelled() => {
            return Ending::stopped(Stopped::Cancelled, Fitted::default());
        }
    };
    match answer {
        Some(Ok(detail)) => Ending::succeeded(detail, Fitted::default()),
        Some(Err(detail)) => Ending::without_output(
            Outcome::Failed { exit: None },
            ErrorCode::ConfigInvalid,
            detail,
        ),
        None => Ending::without_output(
            Outcome::Failed { exit: None },
            ErrorCode::Internal,
            "the agent is stopping and does not read its configuration".to_owned(),
        ),
    }
}

/// A folder that goes away with its command.
struct Folder(PathBuf);

fn make_folder(path: &Path) -> Result<Folder, FolderError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| FolderError {
            path: path.to_owned(),
            source,
        })?;
    Ok(Folder(path.to_owned()))
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Links inside are removed, never followed.
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::debug!(folder = %self.0.display(), %error, "command folder not removed");
        }
    }
}
