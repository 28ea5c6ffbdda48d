//! The socket's end in the agent.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::report::AgentStatus;
use super::usage;

/// Clients that are answered at once; more wait in the kernel's backlog. A
/// person at the node is one.
const CLIENTS_MAX: usize = 8;

/// Time that a client has for taking its answer, which fits a socket's buffer.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// Pause after a failed accept, such as for lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Why the status is not served.
#[derive(Debug, thiserror::Error)]
pub enum BindStatusError {
    /// The socket cannot be made in the runtime directory.
    #[error("cannot make the status socket {path:?}")]
    Bind {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Answers each connection with the status.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    socket: PathBuf,
    state_dir: PathBuf,
    store: PathBuf,
    status: watch::Receiver<Arc<AgentStatus>>,
}

impl Server {
    /// Makes the socket, in place of one that an earlier run left. `store` is
    /// the store's file, whose size and disk are shown.
    ///
    /// # Errors
    /// [`BindStatusError`] when the directory cannot be written.
    pub fn bind(
        socket: &Path,
        store: &Path,
        status: watch::Receiver<Arc<AgentStatus>>,
    ) -> Result<Self, BindStatusError> {
        let fail = |source| BindStatusError::Bind {
            path: socket.to_owned(),
            source,
        };
        // Made under another name and renamed when its mode is right: it is
        // never open to others, and replaces an old one in one step.
        let fresh = socket.with_extension(format!("{}.new", std::process::id()));
        remove_if_there(&fresh).map_err(fail)?;
        let listener = UnixListener::bind(&fresh).map_err(fail)?;
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600)).map_err(fail)?;
        std::fs::rename(&fresh, socket).map_err(fail)?;
        Ok(Self {
            listener,
            socket: socket.to_owned(),
            state_dir: store.parent().unwrap_or(store).to_owned(),
            store: store.to_owned(),
            status,
        })
    }

    /// Serves until it is stopped, and takes the socket away.
    pub async fn run(self, stop: CancellationToken) {
        let mut clients = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(_) = clients.join_next() => {}
                accepted = self.listener.accept(), if clients.len() < CLIENTS_MAX => match accepted {
                    Ok((client, _)) => {
                        clients.spawn(answer(client, self.document()));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "status client not accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        if let Err(error) = remove_if_there(&self.socket) {
            tracing::debug!(%error, "status socket not removed");
        }
    }

    fn document(&self) -> Vec<u8> {
        let mut status = AgentStatus::clone(&self.status.borrow());
        status.process.pid = std::process::id();
        status.budgets.memory_bytes = usage::memory_bytes();
        status.budgets.cpu_ms = usage::cpu_ms();
        status.disk.free_bytes = usage::free_bytes(&self.state_dir).unwrap_or_default();
        status.disk.store_bytes = usage::file_bytes(&self.store);
        let mut text = serde_json::to_vec(&status).unwrap_or_default();
        text.push(b'\n');
        text
    }
}

async fn answer(mut client: UnixStream, document: Vec<u8>) {
    let write = async {
        client.write_all(&document).await?;
        client.shutdown().await
    };
    match tokio::time::timeout(ANSWER_MAX, write).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "status client went away"),
        Err(_) => tracing::debug!("status client did not read"),
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
