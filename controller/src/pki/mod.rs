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
//! without it except signing a change of the trust set, which is then done where
//! the key is. Renewing the server's certificate changes a `watch` value, and so
//! does a change of CAs: listeners use it from the next handshake on, and no open
//! connection is touched.
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

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::ErrorCode;
use protocol::id::{FleetId, NodeId};
use protocol::key::{PublicKey, SigningKey};
use protocol::time::UnixMillis;
use protocol::trust::{SignedTrust, TrustError, TrustSet};
use rustls::ServerConfig;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

pub use authority::{IssueError, IssuedCertificate};
use files::KeyDirectory;
pub(crate) use trust::ROOT;
use trust::Trust;
pub use trust::{Change, Duty, Staged, TrustFacts, fingerprints, sign_offline};

use crate::domain::digest::Digest;
use crate::domain::notice::cause::OwnCertificate;
use crate::vault::key::VaultKey;

/// How often the server's certificate and a running key rotation are looked at.
const CHECK_INTERVAL_MAX: Duration = Duration::from_secs(3600);

/// How long before its end a CA is told of: a rotation, with the renewals that
/// follow it, takes weeks.
const AUTHORITY_WARN_BEFORE: Duration = Duration::from_secs(180 * 24 * 3600);

/// The files without which a fleet's keys are not whole; the others are made anew.
pub(crate) const REQUIRED: [&str; 6] = [
    authority::CERTIFICATE,
    authority::KEY,
    trust::ROOT_PUBLIC,
    trust::SIGNING,
    trust::TRUST,
    VAULT,
];

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
    /// How long the next signing key or CA is announced before it takes over, so
    /// that every node that is not away for longer knows it in time.
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
    #[error("the fleet's root key is not in the controller's key directory")]
    RootOffline,
    /// A signed trust set is not believed.
    #[error("{0}")]
    Trust(TrustError),
    /// The controller could not work under a trust set.
    #[error("the trust set is unfit: {reason}")]
    Unfit {
        /// What is wrong with it.
        reason: String,
    },
    /// No such CA is in the trust set.
    #[error("no CA {fingerprint} is in the trust set")]
    UnknownAuthority {
        /// What was asked for.
        fingerprint: Digest,
    },
    /// The CA issues the certificates.
    #[error("CA {fingerprint} issues the certificates; rotate it first")]
    AuthorityInUse {
        /// Which.
        fingerprint: Digest,
    },
    /// No such signing key is in the trust set.
    #[error("no signing key {key} is in the trust set")]
    UnknownSigning {
        /// What was asked for.
        key: PublicKey,
    },
    /// The key signs.
    #[error("key {key} signs for the controller; rotate it first")]
    SigningInUse {
        /// Which.
        key: PublicKey,
    },
    /// The trust set holds as many CAs as it may.
    #[error("the trust set holds as many CAs as it may; retire one first")]
    TooManyAuthorities,
}

impl PkiError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::File { .. }
            | Self::Missing { .. }
            | Self::Damaged { .. }
            | Self::WrongFleet { .. }
            | Self::Make { .. } => ErrorCode::PkiInvalid,
            Self::RootOffline => ErrorCode::TrustRootOffline,
            Self::Trust(error) => error.code(),
            Self::Unfit { .. } => ErrorCode::TrustUnfit,
            Self::UnknownAuthority { .. } | Self::UnknownSigning { .. } => ErrorCode::TrustNotFound,
            Self::AuthorityInUse { .. } | Self::SigningInUse { .. } => ErrorCode::TrustInUse,
            Self::TooManyAuthorities => ErrorCode::LimitReached,
        }
    }

    /// Whether it lies with the key directory, not with what was asked for.
    #[must_use]
    pub fn is_fault(&self) -> bool {
        self.code() == ErrorCode::PkiInvalid
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

impl CurrentTrust {
    /// The digest by which the journal names it.
    #[must_use]
    pub fn digest(&self) -> Digest {
        trust::digest_of(&self.signed)
    }
}

/// What a look at running rotations brought to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TakenOver {
    /// The next signing key signs.
    pub signing: bool,
    /// The next CA issues.
    pub authority: bool,
}

impl Pki {
    /// Opens the key directory, making everything in it on first start.
    ///
    /// # Errors
    /// [`PkiError`], naming the file.
    pub fn open(config: PkiConfig, now: UnixMillis) -> Result<Self, PkiError> {
        let files = KeyDirectory::open(&config.directory)?;
        let trust = Trust::open(&files, config.fleet, now)?;
        let server = server::ServerIdentity::open(&files, &trust.authority, &config, now)?;
        let configs = server.configs(&trust.authority, &trust.authorities(&files)?)?;
        let inner = Inner {
            root: trust.root,
            signing: watch::Sender::new(Arc::clone(&trust.signing)),
            trust: watch::Sender::new(Arc::new(trust.current())),
            mqtt: watch::Sender::new(configs.mqtt),
            api: watch::Sender::new(configs.api),
            state: Mutex::new(State { trust, server }),
            config,
            files,
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

    /// The certificates of every CA in the trust set, PEM.
    #[must_use]
    pub fn authorities_pem(&self) -> String {
        self.lock().trust.authorities_pem()
    }

    /// SHA-256 of the certificate of the CA that issues, DER; what join tokens
    /// pin.
    #[must_use]
    pub fn authority_fingerprint(&self) -> [u8; 32] {
        self.lock().trust.authority.fingerprint()
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

    /// Every file of the key directory, for a backup: none is written meanwhile. What
    /// was moved away, as the root key may be, is not in it.
    ///
    /// # Errors
    /// [`PkiError::File`].
    pub(crate) fn files(&self) -> Result<BTreeMap<String, Zeroizing<Vec<u8>>>, PkiError> {
        let _writing = self.lock();
        self.inner.files.all()
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
        self.lock()
            .trust
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
        self.lock()
            .trust
            .authority
            .issue_client("controller", self.fleet(), now, life)
    }

    /// Renews the server's certificate when two thirds of its life have passed,
    /// when it is not for the configured hosts, or when it is by another CA than
    /// the one that issues. Says whether it did.
    ///
    /// # Errors
    /// [`PkiError`]; the old certificate stays in use.
    pub fn renew_server(&self, now: UnixMillis) -> Result<bool, PkiError> {
        let mut state = self.lock();
        let config = &self.inner.config;
        if !state.server.is_due(&state.trust.authority, config, now) {
            return Ok(false);
        }
        let renewed =
            server::ServerIdentity::issue(&self.inner.files, &state.trust.authority, config, now)?;
        state.server = renewed;
        self.use_tls(&state)?;
        Ok(true)
    }

    /// Puts certificate and trusted CAs to use, from the next handshake on.
    fn use_tls(&self, state: &State) -> Result<(), PkiError> {
        let trusted = state.trust.authorities(&self.inner.files)?;
        let configs = state.server.configs(&state.trust.authority, &trusted)?;
        self.inner.mqtt.send_replace(configs.mqtt);
        self.inner.api.send_replace(configs.api);
        Ok(())
    }

    /// The trust set that a change leads to, not signed; none when the change is
    /// in force already. The next key or CA is made where there is none, and is of
    /// no effect before a set with it is in force.
    ///
    /// # Errors
    /// [`PkiError`]; nothing changed then.
    pub fn draft(&self, change: Change, now: UnixMillis) -> Result<Option<TrustSet>, PkiError> {
        self.lock().trust.draft(&self.inner.files, change, now)
    }

    /// Signs a trust set by the root key.
    ///
    /// # Errors
    /// [`PkiError::RootOffline`] when the root key was moved away, or another
    /// [`PkiError`].
    pub fn sign(&self, set: &TrustSet) -> Result<SignedTrust, PkiError> {
        self.lock().trust.sign(&self.inner.files, set)
    }

    /// Checks a signed trust set and writes it down, without putting it in force:
    /// that is for [`Pki::install`], once the journal holds it. A later one takes
    /// its place.
    ///
    /// # Errors
    /// [`PkiError::Trust`] when the root did not sign it, or it is another
    /// fleet's or not newer; [`PkiError::Unfit`] when the controller could not
    /// work under it; another [`PkiError`].
    pub fn stage(&self, signed: SignedTrust, now: UnixMillis) -> Result<Staged, PkiError> {
        self.lock().trust.stage(&self.inner.files, signed, now)
    }

    /// Puts a staged trust set in force.
    ///
    /// # Errors
    /// [`PkiError`]; the next start does it then.
    pub fn install(&self, staged: Staged) -> Result<(), PkiError> {
        let mut state = self.lock();
        state.trust.install(&self.inner.files, staged)?;
        self.publish(&state)
    }

    /// Decides at a start about a trust set that a crash left staged: it comes into
    /// force if `recorded`, the digest that the journal holds, is its own.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn settle(&self, recorded: Option<Digest>) -> Result<(), PkiError> {
        let mut state = self.lock();
        if state.trust.settle(&self.inner.files, recorded)? {
            self.publish(&state)?;
        }
        Ok(())
    }

    fn publish(&self, state: &State) -> Result<(), PkiError> {
        self.inner
            .trust
            .send_replace(Arc::new(state.trust.current()));
        self.use_tls(state)
    }

    /// The trust set in force, key by key.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn trust_facts(&self) -> Result<TrustFacts, PkiError> {
        let overlap = self.inner.config.rotation_overlap;
        self.lock().trust.facts(&self.inner.files, overlap)
    }

    /// Ends rotations whose overlap has passed. The server's certificate is then
    /// due for renewal where the CA has changed.
    ///
    /// # Errors
    /// [`PkiError`]; what was in use goes on.
    pub fn take_over(&self, now: UnixMillis) -> Result<TakenOver, PkiError> {
        let mut state = self.lock();
        let (files, overlap) = (&self.inner.files, self.inner.config.rotation_overlap);
        let signing = state.trust.finish_signing(files, now, overlap)?;
        if signing {
            self.inner
                .signing
                .send_replace(Arc::clone(&state.trust.signing));
        }
        let authority = state.trust.finish_authority(files, now, overlap)?;
        Ok(TakenOver { signing, authority })
    }

    /// The server's certificate and the CAs, with when each is told of before its
    /// end: the server's at three quarters of its life, since it renews itself at two
    /// thirds; a CA's half a year before, since a person must rotate it.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn own_certificates(&self) -> Result<Vec<OwnCertificate>, PkiError> {
        let server = OwnCertificate {
            name: "server".to_owned(),
            what: "the controller's certificate".to_owned(),
            expires_at: self.server_expires_at(),
            warn_before: self.inner.config.server_life / 4,
        };
        let mut own = vec![server];
        for (fingerprint, expires_at, _) in self.trust_facts()?.authorities {
            let name: String = fingerprint.to_string().chars().take(16).collect();
            own.push(OwnCertificate {
                what: format!("the CA {name}"),
                name,
                expires_at,
                warn_before: AUTHORITY_WARN_BEFORE,
            });
        }
        Ok(own)
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
        let shortest = self
            .inner
            .config
            .server_life
            .min(self.inner.config.rotation_overlap);
        let interval = (shortest / 10).clamp(Duration::from_millis(200), CHECK_INTERVAL_MAX);
        loop {
            self.look(clock());
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(interval) => {}
            }
        }
    }

    /// Does what is due: first rotations, as a new CA makes the server's
    /// certificate due.
    fn look(&self, now: UnixMillis) {
        match self.take_over(now) {
            Ok(taken) => {
                if taken.signing {
                    tracing::info!("the next signing key is in use");
                }
                if taken.authority {
                    tracing::info!("the next CA is in use");
                }
            }
            Err(error) => tracing::error!(
                error = &error as &dyn std::error::Error,
                "cannot end a rotation of keys"
            ),
        }
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
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic between file and memory is healed by the next start.
        self.inner
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
