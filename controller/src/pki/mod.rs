//! The fleet's keys and certificates, and how nodes get theirs.
//!
//! Owns the directory with the fleet CA, the server's certificate, the
//! controller's signing key, the root key and the signed trust set. Everything is
//! made on first start, in files that only the controller's user may read.
//!
//! **Invariant:** a certificate's subject and validity come from here, never from
//! a signing request; and no private key leaves its file but into memory.
//!
//! The root key may be moved offline once the fleet stands: everything works
//! without it except changes of the trust set. Renewing the server's certificate
//! changes a `watch` value: listeners use it from the next handshake on, and no
//! open connection is touched.
//!
//! Fails at start, with the file's path, when something is missing or damaged.
//! It is never made anew in that case: a new CA would lock out every node.

mod authority;
pub mod certificate;
pub mod enrolment;
mod files;
pub mod sender;
mod server;
#[cfg(test)]
mod tests;
mod trust;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::ErrorCode;
use protocol::id::{FleetId, NodeId};
use protocol::key::{PublicKey, SigningKey};
use protocol::time::UnixMillis;
use protocol::trust::SignedTrust;
use rustls::ServerConfig;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::vault::key::VaultKey;
use authority::Authority;
pub use authority::{IssueError, IssuedCertificate};
use files::KeyDirectory;
use trust::Trust;

/// How often the server's certificate and a running key rotation are looked at.
const CHECK_INTERVAL_MAX: Duration = Duration::from_secs(3600);

/// The file of the vault's key.
const VAULT: &str = "vault.key";

/// Where keys lie, and how long certificates live.
#[derive(Clone, Debug)]
pub struct PkiConfig {
    /// The directory; made with mode 0700 when it is missing.
    pub directory: PathBuf,
    /// The fleet; the CA's organisation.
    pub fleet: FleetId,
    /// Host names and IP addresses that the server's certificate is for, besides
    /// `localhost`, `127.0.0.1` and `::1`.
    pub hosts: Vec<String>,
    /// Life of the server's certificate; renewed at two thirds.
    pub server_life: Duration,
    /// Life of a node's certificate; nodes renew at two thirds.
    pub node_life: Duration,
    /// How long an old and a new signing key overlap in a rotation, so that every
    /// node that is not away for longer learns the new one in time.
    pub rotation_overlap: Duration,
}

/// The keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file cannot be read or written.
    #[error("cannot {step} {path}")]
    File {
        /// What was tried.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// A file that must exist beside others does not.
    #[error("{path} is missing; restore it from a backup")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A file is not what it should be.
    #[error("{path} is damaged: {reason}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The keys belong to another fleet.
    #[error("{path} belongs to fleet {found}, not {expected}")]
    WrongFleet {
        /// The file.
        path: PathBuf,
        /// The fleet that it names.
        found: String,
        /// Ours.
        expected: FleetId,
    },
    /// A key or certificate could not be made.
    #[error("cannot make {what}: {reason}")]
    Make {
        /// Which one.
        what: &'static str,
        /// The library's reason.
        reason: String,
    },
    /// The trust set cannot be changed because its key is not here.
    #[error("{path} is not here: the fleet's root key is needed to change the trust set")]
    RootOffline {
        /// Where the root key would be.
        path: PathBuf,
    },
}

impl PkiError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        ErrorCode::PkiInvalid
    }
}

/// The fleet's keys. Cheap to clone.
#[derive(Clone)]
pub struct Pki {
    inner: Arc<Inner>,
}

struct Inner {
    config: PkiConfig,
    files: KeyDirectory,
    authority: Authority,
    root: PublicKey,
    state: Mutex<State>,
    signing: watch::Sender<Arc<SigningKey>>,
    trust: watch::Sender<Arc<CurrentTrust>>,
    mqtt: watch::Sender<Arc<ServerConfig>>,
    api: watch::Sender<Arc<ServerConfig>>,
}

struct State {
    trust: Trust,
    server: server::ServerIdentity,
}

/// The trust set in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CurrentTrust {
    /// Its version.
    pub version: u64,
    /// As it travels.
    pub signed: SignedTrust,
}

impl Pki {
    /// Opens the key directory, making everything in it on first start.
    ///
    /// # Errors
    /// [`PkiError`], naming the file.
    pub fn open(config: PkiConfig, now: UnixMillis) -> Result<Self, PkiError> {
        let files = KeyDirectory::open(&config.directory)?;
        let authority = Authority::open(&files, config.fleet, now)?;
        let trust = Trust::open(&files, config.fleet, &authority, now)?;
        let server = server::ServerIdentity::open(&files, &authority, &config, now)?;
        let configs = server.configs(&authority)?;
        let inner = Inner {
            root: trust.root,
            signing: watch::Sender::new(Arc::clone(&trust.signing)),
            trust: watch::Sender::new(Arc::new(trust.current())),
            mqtt: watch::Sender::new(configs.mqtt),
            api: watch::Sender::new(configs.api),
            state: Mutex::new(State { trust, server }),
            config,
            files,
            authority,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// The fleet that these keys are for.
    #[must_use]
    pub fn fleet(&self) -> FleetId {
        self.inner.config.fleet
    }

    /// The fleet CA's certificate, PEM.
    #[must_use]
    pub fn authority_pem(&self) -> &str {
        self.inner.authority.pem()
    }

    /// SHA-256 of the fleet CA's certificate, DER; what join tokens pin.
    #[must_use]
    pub fn authority_fingerprint(&self) -> [u8; 32] {
        self.inner.authority.fingerprint()
    }

    /// The fleet's root public key, which nodes pin.
    #[must_use]
    pub fn root(&self) -> PublicKey {
        self.inner.root
    }

    /// The key by which the controller signs; changes when a rotation ends.
    #[must_use]
    pub fn signing(&self) -> watch::Receiver<Arc<SigningKey>> {
        self.inner.signing.subscribe()
    }

    /// The trust set in force.
    #[must_use]
    pub fn trust(&self) -> watch::Receiver<Arc<CurrentTrust>> {
        self.inner.trust.subscribe()
    }

    /// The key under which configs and secrets are kept; made at first use.
    ///
    /// # Errors
    /// [`PkiError`], naming the file.
    pub fn vault_key(&self) -> Result<VaultKey, PkiError> {
        let files = &self.inner.files;
        if let Some(text) = files.read(VAULT)? {
            let text = Zeroizing::new(text);
            return VaultKey::from_text(&text)
                .ok_or_else(|| files.damaged(VAULT, "it is not 64 hexadecimal digits"));
        }
        let key = VaultKey::random().map_err(|reason| PkiError::Make {
            what: "the vault's key",
            reason,
        })?;
        files.write(VAULT, key.to_text().as_bytes())?;
        Ok(key)
    }

    /// TLS for the broker's listeners: client certificates are required.
    #[must_use]
    pub fn mqtt_tls(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.inner.mqtt.subscribe()
    }

    /// TLS for the HTTPS listener: clients have no certificate.
    #[must_use]
    pub fn api_tls(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.inner.api.subscribe()
    }

    /// Issues a node's certificate for the key in a signing request.
    ///
    /// # Errors
    /// When the request is malformed, its signature does not hold, or its key is
    /// not ECDSA P-256.
    pub fn issue_node(
        &self,
        csr_pem: &str,
        node: NodeId,
        now: UnixMillis,
    ) -> Result<IssuedCertificate, IssueError> {
        let life = self.inner.config.node_life;
        self.inner
            .authority
            .issue_node(csr_pem, self.fleet(), node, now, life)
    }

    /// Issues a client certificate for the controller itself, with a new key: for
    /// an external broker that trusts the fleet CA. Returns certificate and key,
    /// PEM.
    ///
    /// # Errors
    /// When the key cannot be made.
    pub fn issue_controller_client(&self, now: UnixMillis) -> Result<(String, String), PkiError> {
        let life = self.inner.config.server_life;
        self.inner
            .authority
            .issue_client("controller", self.fleet(), now, life)
    }

    /// Renews the server's certificate when two thirds of its life have passed,
    /// or when it is not for the configured hosts. Says whether it did.
    ///
    /// # Errors
    /// [`PkiError`]; the old certificate stays in use.
    pub fn renew_server(&self, now: UnixMillis) -> Result<bool, PkiError> {
        let mut state = self.lock();
        if !state.server.is_due(&self.inner.config, now) {
            return Ok(false);
        }
        let renewed = server::ServerIdentity::issue(
            &self.inner.files,
            &self.inner.authority,
            &self.inner.config,
            now,
        )?;
        let configs = renewed.configs(&self.inner.authority)?;
        state.server = renewed;
        self.inner.mqtt.send_replace(configs.mqtt);
        self.inner.api.send_replace(configs.api);
        Ok(true)
    }

    /// Begins a rotation of the controller's signing key: a new key, and a trust
    /// set with both. The old key signs until the overlap has passed. Returns the
    /// new trust set's version; a rotation that already runs is left as it is.
    ///
    /// # Errors
    /// [`PkiError::RootOffline`] when the root key was moved away, or another
    /// [`PkiError`]; nothing changed then.
    pub fn rotate_signing(&self, now: UnixMillis) -> Result<u64, PkiError> {
        let mut state = self.lock();
        state
            .trust
            .begin_rotation(&self.inner.files, self.fleet(), &self.inner.authority, now)?;
        let current = state.trust.current();
        let version = current.version;
        self.inner.trust.send_replace(Arc::new(current));
        Ok(version)
    }

    /// Ends a rotation whose overlap has passed. Says whether it did.
    ///
    /// # Errors
    /// [`PkiError`]; the old key goes on signing.
    pub fn finish_rotation(&self, now: UnixMillis) -> Result<bool, PkiError> {
        let mut state = self.lock();
        let overlap = self.inner.config.rotation_overlap;
        if !state
            .trust
            .finish_rotation(&self.inner.files, now, overlap)?
        {
            return Ok(false);
        }
        self.inner
            .signing
            .send_replace(Arc::clone(&state.trust.signing));
        Ok(true)
    }

    /// When the server's certificate expires.
    #[must_use]
    pub fn server_expires_at(&self) -> UnixMillis {
        self.lock().server.not_after
    }

    /// Keeps certificate and keys fresh until cancelled. `clock` reads the wall
    /// clock.
    pub async fn run(
        self,
        clock: impl Fn() -> UnixMillis + Send + 'static,
        cancel: CancellationToken,
    ) {
        // Short lives, as in tests, need a look more often.
        let interval = (self.inner.config.server_life / 10)
            .clamp(Duration::from_millis(200), CHECK_INTERVAL_MAX);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(interval) => {}
            }
            let now = clock();
            match self.renew_server(now) {
                Ok(true) => tracing::info!(
                    expires_at = %self.server_expires_at(),
                    "renewed the server's certificate"
                ),
                Ok(false) => {}
                Err(error) => tracing::error!(
                    error = &error as &dyn std::error::Error,
                    expires_at = %self.server_expires_at(),
                    "cannot renew the server's certificate"
                ),
            }
            match self.finish_rotation(now) {
                Ok(true) => tracing::info!("the new signing key is in use"),
                Ok(false) => {}
                Err(error) => tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "cannot end the rotation of the signing key"
                ),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic between file and memory is healed by the next start.
        self.inner
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
