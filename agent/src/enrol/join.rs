//! Joining a fleet.
//!
//! The token names the controller's address, the fingerprint of the fleet's CA,
//! and a secret. In this order: fetch the trust set from whoever answers, take the
//! CA of that fingerprint out of it, and go on only by TLS that this CA vouches
//! for; send the request with the secret; check that what comes back fits
//! together; write it all down at once.
//!
//! **Invariant:** the secret and the request leave the node only towards a server
//! with a certificate of the token's CA. A failure leaves nothing behind, but for
//! one case: while an operator's approval is awaited, the keys wait in
//! `identity.joining`, so that a restart asks for the same node again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use protocol::ErrorCode;
use protocol::id::NodeId;
use protocol::join::{Admission, JoinRequest, JoinResponse, JoinToken, ParseTokenError};
use protocol::key::SigningKey;
use protocol::message;
use protocol::trust::{SignedTrust, TrustError, TrustSet};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::Ed25519KeyPair;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::files::{
    self, ABOUT, AUTHORITIES, About, IdentityError, NODE_CERTIFICATE, NODE_KEY, NewFile,
    SIGNING_KEY, Summary, TRUST,
};
use super::http::{self, Body, RequestError};
use crate::clock::Clock;
use crate::config::{Dirs, Proxy};
use crate::program;
use crate::tls::{self, TlsError};
use crate::uplink::Password;

/// Attempts at a request whose answer was lost.
const ATTEMPTS_MAX: u32 = 3;

/// Between them.
const ATTEMPT_PAUSE: Duration = Duration::from_secs(2);

/// Bounds on how often a node that waits for approval asks again.
const ASK_AGAIN_MIN: Duration = Duration::from_secs(1);
const ASK_AGAIN_MAX: Duration = Duration::from_secs(300);

/// A join token's text. `Debug` hides it.
#[derive(Clone)]
pub struct TokenText(Zeroizing<String>);

impl TokenText {
    /// Takes a text, which need not be a token.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl std::fmt::Debug for TokenText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenText(hidden)")
    }
}

impl std::str::FromStr for TokenText {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self::new(text.to_owned()))
    }
}

/// How to join.
#[derive(Clone, Debug)]
pub struct JoinOptions {
    /// The token's text.
    pub token: TokenText,
    /// The name to ask for.
    pub name: String,
    /// Whether to give up an identity that is there already.
    pub existing: Existing,
    /// How long to wait for approval; none waits for ever.
    pub approval_timeout: Option<Duration>,
    /// An HTTP proxy on the way.
    pub proxy: Option<(Proxy, Option<Password>)>,
}

/// What to do with an identity that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Refuse to join.
    Keep,
    /// Join anew; the old identity and store are kept as `.previous`.
    Replace,
}

/// Why the node did not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The text is no token.
    #[error("the join token cannot be used")]
    Token(#[source] ParseTokenError),
    /// The node has an identity.
    #[error("the node is {node} already; `flotilla-agent join --replace` gives that identity up")]
    Already {
        /// Its id.
        node: String,
    },
    /// The controller has no CA of the token's fingerprint.
    #[error("the controller at {address} does not have the CA that the token names")]
    Fingerprint {
        /// Where.
        address: String,
    },
    /// A request failed.
    #[error("cannot join")]
    Request(#[source] RequestError),
    /// Nobody approved the node in time.
    #[error("no operator approved the node within {}", humantime::format_duration(*waited))]
    NotApproved {
        /// How long it waited.
        waited: Duration,
    },
    /// The trust set that came with the admission is not signed by its root.
    #[error("the controller's trust set is not to be believed")]
    Trust(#[source] TrustError),
    /// The admission does not fit the request.
    #[error("the controller's answer does not fit: {reason}")]
    Answer {
        /// What is wrong.
        reason: String,
    },
    /// Keys cannot be made.
    #[error("cannot make keys: {reason}")]
    Keys {
        /// Why.
        reason: String,
    },
    /// The identity cannot be written.
    #[error("cannot keep the identity")]
    Files(#[source] IdentityError),
}

impl JoinError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Token(error) => error.code(),
            Self::Already { .. } => ErrorCode::JoinAlready,
            Self::Fingerprint { .. } => ErrorCode::JoinFingerprint,
            Self::Request(error) => error.code(),
            Self::NotApproved { .. } => ErrorCode::JoinPending,
            Self::Trust(error) => error.code(),
            Self::Answer { .. } => ErrorCode::MessageMalformed,
            Self::Keys { .. } => ErrorCode::Internal,
            Self::Files(error) => error.code(),
        }
    }
}

/// A node's own half, before the controller knows it.
struct Draft {
    node: NodeId,
    tls_key: KeyPair,
    signing_pkcs8: Zeroizing<Vec<u8>>,
    signing: SigningKey,
}

/// The part of a draft that is no key, as it waits for approval.
#[derive(Serialize, Deserialize)]
struct Waiting {
    node: NodeId,
    token: protocol::id::TokenId,
}

const WAITING: &str = "waiting.toml";

fn waiting_dir(dirs: &Dirs) -> PathBuf {
    files::beside(&dirs.identity(), ".joining")
}

fn keys(reason: impl ToString) -> JoinError {
    JoinError::Keys {
        reason: reason.to_string(),
    }
}

impl Draft {
    fn make() -> Result<Self, JoinError> {
        let random = SystemRandom::new();
        let mut bytes = [0; 10];
        random.fill(&mut bytes).map_err(keys)?;
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&random).map_err(keys)?;
        Ok(Self {
            node: NodeId::from_bytes(bytes),
            tls_key: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(keys)?,
            signing: SigningKey::from_pkcs8(pkcs8.as_ref()).map_err(keys)?,
            signing_pkcs8: Zeroizing::new(pkcs8.as_ref().to_vec()),
        })
    }

    /// The draft that waits for approval under the same token, when there is one.
    fn resume(dir: &Path, token: &JoinToken) -> Option<Self> {
        let text = std::fs::read_to_string(dir.join(WAITING)).ok()?;
        let waiting: Waiting = toml::from_str(&text).ok()?;
        if waiting.token != token.id {
            return None;
        }
        let pem = Zeroizing::new(std::fs::read_to_string(dir.join(NODE_KEY)).ok()?);
        let pkcs8 = Zeroizing::new(std::fs::read(dir.join(SIGNING_KEY)).ok()?);
        Some(Self {
            node: waiting.node,
            tls_key: KeyPair::from_pem(&pem).ok()?,
            signing: SigningKey::from_pkcs8(&pkcs8).ok()?,
            signing_pkcs8: pkcs8,
        })
    }

    fn keep(&self, dir: &Path, token: &JoinToken) -> Result<(), JoinError> {
        let waiting = Waiting {
            node: self.node,
            token: token.id,
        };
        let text = toml::to_string(&waiting).map_err(keys)?;
        let files = [
            NewFile::new(NODE_KEY, self.tls_key.serialize_pem()),
            NewFile::new(SIGNING_KEY, self.signing_pkcs8.to_vec()),
            NewFile::new(WAITING, text),
        ];
        // Keys that waited under another token, or these very ones.
        crate::durable::remove_tree(dir).map_err(|source| {
            JoinError::Files(IdentityError::Write {
                path: dir.to_owned(),
                source,
            })
        })?;
        files::place(dir, &files).map_err(JoinError::Files)
    }

    fn request(&self, token: &JoinToken, name: &str) -> Result<JoinRequest, JoinError> {
        let csr = signing_request(&self.tls_key, self.node).map_err(keys)?;
        let proof = JoinRequest::proof_bytes(token.id, self.node, &csr);
        Ok(JoinRequest {
            token: token.id,
            secret: BASE64URL_NOPAD.encode(&token.secret),
            node: self.node,
            name: name.to_owned(),
            proof: BASE64URL_NOPAD.encode(&self.signing.sign(&proof)),
            csr,
            signing_key: self.signing.public(),
            agent_version: program::version().to_owned(),
        })
    }
}

/// A certificate signing request for the key, PEM.
pub(super) fn signing_request(key: &KeyPair, node: NodeId) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, node.to_string());
    params.serialize_request(key)?.pem()
}

/// Joins the fleet of the token, and writes the identity down.
///
/// # Errors
/// [`JoinError`]; nothing is written then, but for keys that wait for approval.
pub async fn join(dirs: &Dirs, options: &JoinOptions, clock: &Clock) -> Result<Summary, JoinError> {
    let token: JoinToken = options.token.0.parse().map_err(JoinError::Token)?;
    let dir = dirs.identity();
    match (files::load(&dir), options.existing) {
        (Err(IdentityError::Missing { .. }), _) | (_, Existing::Replace) => {}
        (Ok(loaded), Existing::Keep) => {
            return Err(JoinError::Already {
                node: loaded.identity.node.to_string(),
            });
        }
        (Err(error), Existing::Keep) => return Err(JoinError::Files(error)),
    }
    let waiting = waiting_dir(dirs);
    let draft = match Draft::resume(&waiting, &token) {
        Some(draft) => draft,
        None => Draft::make()?,
    };
    let authority = find_authority(&token, options).await?;
    let result = ask(&token, options, &draft, &authority, &waiting, clock).await;
    let admission = match result {
        Ok(admission) => admission,
        Err(error) => {
            // A definite no ends the waiting; a controller that cannot be reached
            // just now does not.
            let passing = match &error {
                JoinError::Request(error) => error.is_passing(),
                JoinError::NotApproved { .. } => true,
                JoinError::Token(_)
                | JoinError::Already { .. }
                | JoinError::Fingerprint { .. }
                | JoinError::Trust(_)
                | JoinError::Answer { .. }
                | JoinError::Keys { .. }
                | JoinError::Files(_) => false,
            };
            if !passing {
                drop(std::fs::remove_dir_all(&waiting));
            }
            return Err(error);
        }
    };
    let files = identity_files(&draft, &admission)?;
    if options.existing == Existing::Replace {
        set_store_aside(dirs).map_err(JoinError::Files)?;
    }
    files::place(&dir, &files).map_err(JoinError::Files)?;
    drop(std::fs::remove_dir_all(&waiting));
    Summary::read(&dir).map_err(JoinError::Files)
}

/// A new identity is a new node: what waits in the old store is another's.
fn set_store_aside(dirs: &Dirs) -> Result<(), IdentityError> {
    let store = dirs.store();
    let previous = store.with_extension("redb.previous");
    match std::fs::rename(&store, &previous) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(IdentityError::Write {
            path: previous,
            source,
        }),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The CA that the token names, from whoever answers at its address.
async fn find_authority(token: &JoinToken, options: &JoinOptions) -> Result<String, JoinError> {
    let tls = tls::unauthenticated().map_err(tls_error)?;
    let client = http::client(tls, options.proxy.as_ref()).map_err(JoinError::Request)?;
    let mut attempt = 1;
    let signed: SignedTrust = loop {
        let answer = http::request(&client, &token.address, "/node/v1/trust", Body::None).await;
        match answer {
            Ok(signed) => break signed,
            Err(error) if error.is_passing() && attempt < ATTEMPTS_MAX => {
                attempt += 1;
                tokio::time::sleep(ATTEMPT_PAUSE).await;
            }
            Err(error) => return Err(JoinError::Request(error)),
        }
    };
    let found = message::decode_exactly::<TrustSet>(&signed.bytes)
        .ok()
        .and_then(|set| set.authorities.into_iter().find(|pem| named(pem, token)));
    found.ok_or_else(|| JoinError::Fingerprint {
        address: token.address.clone(),
    })
}

fn named(pem: &str, token: &JoinToken) -> bool {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .is_ok_and(|der| digest(&SHA256, &der).as_ref() == token.authority)
}

fn tls_error(error: TlsError) -> JoinError {
    JoinError::Request(RequestError::Tls(error))
}

/// Sends the request until there is an answer, and while approval is awaited.
async fn ask(
    token: &JoinToken,
    options: &JoinOptions,
    draft: &Draft,
    authority: &str,
    waiting: &Path,
    clock: &Clock,
) -> Result<Admission, JoinError> {
    let tls = tls::pinned(&[authority.to_owned()], None, clock).map_err(tls_error)?;
    let client = http::client(tls, options.proxy.as_ref()).map_err(JoinError::Request)?;
    let request = draft.request(token, &options.name)?;
    let body = Zeroizing::new(serde_json::to_string(&request).map_err(keys)?);
    let started = clock.tick();
    let mut failures = 0;
    let mut pending = false;
    loop {
        let body = Body::Json(body.to_string());
        let answer: Result<JoinResponse, RequestError> =
            http::request(&client, &token.address, "/node/v1/join", body).await;
        let pause = match answer {
            Ok(JoinResponse::Admitted(admission)) => return Ok(*admission),
            Ok(JoinResponse::Pending { retry_after_s }) => {
                if !pending {
                    pending = true;
                    draft.keep(waiting, token)?;
                    tracing::info!(node = %draft.node, "waiting for an operator's approval");
                }
                Duration::from_secs(u64::from(retry_after_s)).clamp(ASK_AGAIN_MIN, ASK_AGAIN_MAX)
            }
            // While approval is awaited a controller may well be restarted.
            Err(error) if error.is_passing() && (pending || failures + 1 < ATTEMPTS_MAX) => {
                failures += 1;
                ATTEMPT_PAUSE
            }
            Err(error) => return Err(JoinError::Request(error)),
        };
        let waited = clock.tick().since(started);
        if let Some(most) = options.approval_timeout
            && pending
            && waited.saturating_add(pause) > most
        {
            return Err(JoinError::NotApproved { waited });
        }
        tokio::time::sleep(pause).await;
    }
}

/// Checks that the admission fits, and makes the identity's files of it.
fn identity_files(draft: &Draft, admission: &Admission) -> Result<Vec<NewFile>, JoinError> {
    let misfit = |reason: &str| JoinError::Answer {
        reason: reason.to_owned(),
    };
    if admission.node != draft.node {
        return Err(misfit("it is for another node"));
    }
    let trust = admission
        .trust
        .verify(&admission.root, admission.fleet, 0)
        .map_err(JoinError::Trust)?;
    let certificate = CertificateDer::from_pem_slice(admission.certificate.as_bytes())
        .map_err(|_| misfit("its certificate is malformed"))?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&certificate)
        .map_err(|_| misfit("its certificate is malformed"))?;
    if parsed.public_key().subject_public_key.data.as_ref() != draft.tls_key.public_key_raw() {
        return Err(misfit("its certificate is for another key"));
    }
    let about = About {
        fleet: admission.fleet,
        node: admission.node,
        name: admission.name.clone(),
        root: admission.root,
        brokers: admission.brokers.clone(),
        controllers: admission.controllers.clone(),
        known_at: admission.now,
    };
    Ok(vec![
        NewFile::new(NODE_KEY, draft.tls_key.serialize_pem()),
        NewFile::new(NODE_CERTIFICATE, admission.certificate.clone()),
        NewFile::new(SIGNING_KEY, draft.signing_pkcs8.to_vec()),
        NewFile::new(AUTHORITIES, trust.authorities.concat()),
        NewFile::new(TRUST, message::encode(&admission.trust)),
        NewFile::new(ABOUT, files::about_text(&about)),
    ])
}

#[cfg(test)]
mod tests;
