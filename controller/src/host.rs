//! The door for whoever is on the controller's own host.
//!
//! A Unix socket in the state directory, mode 0600, that takes requests only
//! from root and from the user that the controller runs as. It can recover an
//! admin key and raise the incarnation: what must work when no API key does.
//! Everything asked here is journalled like any other request.
//!
//! One request a connection: a line of JSON, answered by a line of JSON.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use protocol::ErrorCode;
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use crate::domain::access::caller::Caller;
use crate::domain::access::key::{ApiKeyText, SecretDigest};
use crate::domain::access::manage::RecoverAdmin;
use crate::domain::event::Event;
use crate::domain::fleet::trust::RaiseIncarnation;
use crate::domain::operation::Operation;
use crate::engine::Engine;
use crate::operation::failure::Failure;

/// Name of the socket in the state directory.
pub const SOCKET: &str = "host.sock";

/// Longest request, in bytes.
const REQUEST_BYTES_MAX: u64 = 4096;

/// Time for a request to arrive and be answered.
const EXCHANGE_MAX: Duration = Duration::from_secs(10);

/// What can be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Ask {
    /// A new admin key for the principal of this name.
    Key {
        /// The principal; made if it does not exist.
        name: String,
    },
    /// A higher incarnation, because a backup was restored.
    Incarnation {
        /// Kept in the audit trail.
        reason: String,
    },
}

/// The answer.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The key, shown once.
    Key {
        /// Whose.
        principal: String,
        /// Its text.
        text: String,
    },
    /// The incarnation in force.
    Incarnation {
        /// Its number.
        incarnation: u64,
    },
    /// It was refused.
    Refused {
        /// Stable code.
        code: String,
        /// Why.
        detail: String,
    },
}

/// The socket cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {path}")]
pub struct HostSocketError {
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

/// A socket that is bound and not yet served.
pub struct HostSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl HostSocket {
    /// Binds the socket. What a killed controller left is replaced: the store's
    /// lock has made sure by then that no other controller runs.
    ///
    /// # Errors
    /// When the path cannot be bound.
    pub fn bind(state_dir: &Path) -> Result<Self, HostSocketError> {
        let path = state_dir.join(SOCKET);
        let refuse = |source| HostSocketError {
            path: path.clone(),
            source,
        };
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(refuse(error)),
        }
        let listener = UnixListener::bind(&path).map_err(refuse)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(refuse)?;
        Ok(Self { listener, path })
    }

    /// Serves until `stop`, one connection at a time.
    ///
    /// # Errors
    /// When the socket breaks.
    pub async fn run(self, engine: Engine, stop: CancellationToken) -> Result<(), HostSocketError> {
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            let (stream, _) = accepted.map_err(|source| HostSocketError {
                path: self.path.clone(),
                source,
            })?;
            match tokio::time::timeout(EXCHANGE_MAX, exchange(stream, &engine)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "a request on the host socket failed"),
                Err(_) => tracing::warn!("a request on the host socket took too long"),
            }
        }
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, "the host socket is gone already");
        }
        Ok(())
    }
}

async fn exchange(mut stream: UnixStream, engine: &Engine) -> std::io::Result<()> {
    let peer = stream.peer_cred()?.uid();
    let own = rustix::process::geteuid().as_raw();
    let (reader, mut writer) = stream.split();
    let mut line = String::new();
    BufReader::new(reader.take(REQUEST_BYTES_MAX))
        .read_line(&mut line)
        .await?;
    let answer = if peer != 0 && peer != own {
        refused(&Failure::new(
            ErrorCode::AccessDenied,
            "the host socket is for root and the controller's own user",
        ))
    } else {
        match serde_json::from_str::<Ask>(&line) {
            Ok(ask) => answer(engine, ask).await,
            Err(error) => refused(&Failure::new(ErrorCode::RequestInvalid, error.to_string())),
        }
    };
    let mut bytes = serde_json::to_vec(&answer)?;
    bytes.push(b'\n');
    writer.write_all(&bytes).await
}

async fn answer(engine: &Engine, ask: Ask) -> Answer {
    let answered = match ask {
        Ask::Key { name } => new_admin_key(engine, &name).await.map(|text| Answer::Key {
            principal: name,
            text,
        }),
        Ask::Incarnation { reason } => raise_incarnation(engine, reason)
            .await
            .map(|incarnation| Answer::Incarnation { incarnation }),
    };
    answered.unwrap_or_else(|failure| refused(&failure))
}

fn refused(failure: &Failure) -> Answer {
    Answer::Refused {
        code: failure.code.text().to_owned(),
        detail: failure.detail.clone(),
    }
}

/// Makes an admin key in the name of the host, and returns its text.
///
/// # Errors
/// When the journal cannot be written.
pub async fn new_admin_key(engine: &Engine, name: &str) -> Result<String, Failure> {
    let mut secret = [0; 32];
    SystemRandom::new()
        .fill(&mut secret)
        .map_err(|_| Failure::new(ErrorCode::Internal, "no random source"))?;
    let operation = Operation::RecoverAdmin(RecoverAdmin {
        name: name.to_owned(),
        secret: SecretDigest::of(&secret),
        lifetime: None,
    });
    let applied = engine
        .submit(Caller::Host, None, operation)
        .await
        .map_err(|error| Failure::new(error.code(), error.to_string()))?;
    let id = applied.events.iter().find_map(|event| {
        if let Event::KeyCreated(created) = event {
            Some(created.key)
        } else {
            None
        }
    });
    let id = id.ok_or_else(|| Failure::new(ErrorCode::Internal, "the recovery made no key"))?;
    Ok(ApiKeyText { id, secret }.reveal())
}

/// Raises the incarnation, and returns the new one.
///
/// # Errors
/// When the journal cannot be written.
pub async fn raise_incarnation(engine: &Engine, reason: String) -> Result<u64, Failure> {
    let above = engine.fleet().incarnation();
    let operation = Operation::RaiseIncarnation(RaiseIncarnation { above, reason });
    engine
        .submit(Caller::System, None, operation)
        .await
        .map_err(|error| Failure::new(error.code(), error.to_string()))?;
    Ok(engine.fleet().incarnation())
}

/// Asks a running controller; none when there is none.
///
/// # Errors
/// When it runs and does not answer.
pub async fn ask(state_dir: &Path, ask: &Ask) -> std::io::Result<Option<Answer>> {
    let mut stream = match UnixStream::connect(state_dir.join(SOCKET)).await {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let mut bytes = serde_json::to_vec(ask)?;
    bytes.push(b'\n');
    let talk = async {
        stream.write_all(&bytes).await?;
        let mut line = String::new();
        BufReader::new(&mut stream).read_line(&mut line).await?;
        Ok(Some(serde_json::from_str(&line)?))
    };
    tokio::time::timeout(EXCHANGE_MAX, talk)
        .await
        .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::serve::store;

    fn settings(dir: &Path) -> config::Config {
        let set = vec![("state_dir".to_owned(), dir.display().to_string())];
        config::load(None, Vec::new(), &set).unwrap()
    }

    #[tokio::test]
    async fn a_lost_key_is_replaced_while_the_controller_runs_and_while_it_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let config = settings(dir.path());
        let store = store::open(&config).unwrap();
        let stop = CancellationToken::new();
        let engine = store.engine.clone();
        let task = crate::supervisor::spawn("engine", store.task.run(stop.clone()));
        let socket = HostSocket::bind(dir.path()).unwrap();
        let mode = std::fs::metadata(dir.path().join(SOCKET)).unwrap();
        assert_eq!(mode.permissions().mode() & 0o777, 0o600);
        let door = crate::supervisor::spawn("host", socket.run(engine.clone(), stop.clone()));

        let wanted = Ask::Key {
            name: "alice".to_owned(),
        };
        let Some(Answer::Key { text, .. }) = ask(dir.path(), &wanted).await.unwrap() else {
            panic!("no key");
        };
        let text: ApiKeyText = text.parse().unwrap();
        let digest = SecretDigest::of(&text.secret);
        let now = crate::clock::now();
        assert!(
            engine
                .fleet()
                .access()
                .authenticate(text.id, &digest, now)
                .is_ok()
        );
        let records = engine.journal().read(1, 100).unwrap();
        assert!(
            records
                .iter()
                .any(|stored| stored.record.by == Caller::Host)
        );
        let before = engine.fleet().incarnation();
        let raise = Ask::Incarnation {
            reason: "test".to_owned(),
        };
        let Some(Answer::Incarnation { incarnation }) = ask(dir.path(), &raise).await.unwrap()
        else {
            panic!("no incarnation");
        };
        assert!(incarnation > before);
        // Whoever asks for the state while it is in use is told so.
        let taken = store::open_alone(&config);
        assert_eq!(
            taken.err().map(|failure| failure.exit),
            Some(crate::exit::Exit::Store)
        );

        stop.cancel();
        task.await.unwrap().unwrap();
        door.await.unwrap().unwrap();
        std::mem::drop((engine, store.engine, store.pki));
        assert!(ask(dir.path(), &wanted).await.unwrap().is_none());
        let (engine, alone) = store::open_alone(&config).unwrap();
        assert!(new_admin_key(&engine, "alice").await.is_ok());
        alone.close().await;
    }
}
