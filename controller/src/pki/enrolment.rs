//! Joining and renewing: what the node-facing HTTPS routes do.
//!
//! A node that shows a join token gets a certificate for its own key, at once or
//! when an operator has approved it. A node that proves its signing key gets a
//! new certificate, also when the old one has expired; a revoked one does not.
//!
//! **Invariant:** nothing is handed out before the journal holds it, and one node
//! cannot make the journal grow by asking again and again: the same request gets
//! the same certificate for a while, another one is refused until then.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use protocol::ErrorCode;
use protocol::id::NodeId;
use protocol::join::{Admission, JoinRequest, JoinResponse, Renew, Renewal};
use protocol::time::UnixMillis;
use protocol::trust::SignedTrust;

use super::sender::{SenderError, authenticate};
use super::{IssueError, IssuedCertificate, Pki};
use crate::domain::access::caller::Caller;
use crate::domain::access::key::SecretDigest;
use crate::domain::digest::Digest;
use crate::domain::fleet::admit::AdmitNode;
use crate::domain::fleet::manage::CertifyNode;
use crate::domain::fleet::node::{AdmissionFacts, Certificate, Node, NodeState};
use crate::domain::operation::Operation;
use crate::engine::{Engine, SubmitError};

/// How soon a waiting node is to ask again.
const RETRY_AFTER_S: u32 = 5;

/// How long one node's certificate is handed out again instead of a new one; at
/// most a tenth of its life, so that short lives renew in time.
const SAME_FOR_MAX: Duration = Duration::from_secs(60);

/// Nodes whose last certificate is remembered; beyond it the oldest is forgotten,
/// which costs one record if that node asks again.
const RECENT_COUNT_MAX: usize = 20_000;

/// Where nodes find the controller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Where the broker listens: `mqtts://host:port` or `wss://host:port/path`.
    pub brokers: Vec<String>,
    /// Where the controller's HTTPS listens, `host:port`.
    pub controllers: Vec<String>,
}

/// Joining and renewing. Cheap to clone.
#[derive(Clone)]
pub struct Enrolment {
    engine: Engine,
    pki: Pki,
    addresses: Arc<Addresses>,
    clock: Arc<dyn Fn() -> UnixMillis + Send + Sync>,
    recent: Arc<Mutex<BTreeMap<NodeId, Recent>>>,
}

/// The last certificate of a node.
#[derive(Clone)]
struct Recent {
    request: Digest,
    at: UnixMillis,
    certificate: IssuedCertificate,
}

/// Why a node does not get in, or gets no certificate.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The secret is not one.
    #[error("join token is not one of this fleet")]
    Secret,
    /// The node does not have the signing key that it names.
    #[error("the proof of the signing key does not hold")]
    Proof,
    /// The signing request is refused.
    #[error("{0}")]
    Csr(IssueError),
    /// The fleet's rules, or the journal, say no.
    #[error("{0}")]
    Refused(SubmitError),
    /// The envelope is not one of a node that belongs here.
    #[error("{0}")]
    Sender(SenderError),
    /// The node left the fleet.
    #[error("node {0} was revoked or replaced")]
    Revoked(NodeId),
    /// It has got a certificate only just now.
    #[error("node {0} has got another certificate only just now")]
    TooOften(NodeId),
}

impl EnrolError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Secret => ErrorCode::TokenUnknown,
            Self::Proof => ErrorCode::JoinProofInvalid,
            Self::Csr(error) => error.code(),
            Self::Refused(error) => error.code(),
            Self::Sender(error) => error.code(),
            Self::Revoked(_) => ErrorCode::NodeRevoked,
            Self::TooOften(_) => ErrorCode::RateLimited,
        }
    }
}

impl Enrolment {
    /// Joining and renewing for one fleet.
    #[must_use]
    pub fn new(
        engine: Engine,
        pki: Pki,
        addresses: Addresses,
        clock: Arc<dyn Fn() -> UnixMillis + Send + Sync>,
    ) -> Self {
        Self {
            engine,
            pki,
            addresses: Arc::new(addresses),
            clock,
            recent: Arc::default(),
        }
    }

    /// `POST /node/v1/join`: lets a node in that shows a join token. `peer` is the
    /// address that it asks from. Asking again with the same id, key and token
    /// gets the same answer.
    ///
    /// # Errors
    /// [`EnrolError`]; nothing is half done then.
    pub async fn join(
        &self,
        request: JoinRequest,
        peer: String,
    ) -> Result<JoinResponse, EnrolError> {
        let secret = BASE64URL_NOPAD
            .decode(request.secret.as_bytes())
            .ok()
            .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
            .ok_or(EnrolError::Secret)?;
        let proof = BASE64URL_NOPAD
            .decode(request.proof.as_bytes())
            .map_err(|_| EnrolError::Proof)?;
        let proven = JoinRequest::proof_bytes(request.token, request.node, &request.csr);
        if !request.signing_key.verifies(&proven, &proof) {
            return Err(EnrolError::Proof);
        }
        let now = (self.clock)();
        // Before the token is spent: a bad request must not use it up.
        let issued = self
            .pki
            .issue_node(&request.csr, request.node, now)
            .map_err(EnrolError::Csr)?;
        let admit = AdmitNode {
            token: request.token,
            secret: SecretDigest::of(&secret),
            node: request.node,
            name: request.name,
            signing_key: request.signing_key,
            facts: AdmissionFacts {
                agent_version: request.agent_version,
                address: peer,
            },
        };
        self.engine
            .submit(Caller::Anonymous, None, Operation::AdmitNode(admit))
            .await
            .map_err(EnrolError::Refused)?;

        let fleet = self.engine.fleet();
        let Some(node) = fleet.node(request.node) else {
            return Err(EnrolError::Refused(SubmitError::Stopped));
        };
        match node.state {
            NodeState::Pending => Ok(JoinResponse::Pending {
                retry_after_s: RETRY_AFTER_S,
            }),
            NodeState::Active => {
                let certificate = self.certify(node, &request.csr, issued, now).await?;
                let admission = self.admission(node, certificate, now);
                Ok(JoinResponse::Admitted(Box::new(admission)))
            }
            NodeState::Revoked { .. } | NodeState::Replaced { .. } => {
                Err(EnrolError::Revoked(request.node))
            }
        }
    }

    fn admission(&self, node: &Node, certificate: String, now: UnixMillis) -> Admission {
        Admission {
            fleet: self.pki.fleet(),
            node: node.id,
            name: node.name.clone(),
            labels: node.labels.clone(),
            certificate,
            root: self.pki.root(),
            trust: self.trust(),
            brokers: self.addresses.brokers.clone(),
            controllers: self.addresses.controllers.clone(),
            now,
        }
    }

    /// `POST /node/v1/renew`: a new certificate for a node that proves its signing
    /// key by a sealed envelope.
    ///
    /// A recorded envelope that is played back gets a certificate for the key in
    /// it, which is of no use without the private half; so freshness is not
    /// checked.
    ///
    /// # Errors
    /// [`EnrolError`].
    pub async fn renew(&self, body: &[u8]) -> Result<Renewal, EnrolError> {
        let fleet = self.engine.fleet();
        let (node, opened) = authenticate(&fleet, body).map_err(EnrolError::Sender)?;
        let content = opened.decode().map_err(SenderError::Content);
        let renew: Renew = content.map_err(EnrolError::Sender)?;
        let now = (self.clock)();
        let issued = self
            .pki
            .issue_node(&renew.csr, node.id, now)
            .map_err(EnrolError::Csr)?;
        let certificate = self.certify(node, &renew.csr, issued, now).await?;
        let trust = self.pki.trust();
        let current = Arc::clone(&trust.borrow());
        Ok(Renewal {
            certificate,
            trust: (current.version > renew.trust_version).then(|| current.signed.clone()),
            brokers: self.addresses.brokers.clone(),
            controllers: self.addresses.controllers.clone(),
            now,
        })
    }

    /// `GET /node/v1/trust`: the trust set, which needs no secrecy.
    #[must_use]
    pub fn trust(&self) -> SignedTrust {
        self.pki.trust().borrow().signed.clone()
    }

    /// Records a certificate and hands it out; or the one of a moment ago.
    async fn certify(
        &self,
        node: &Node,
        csr: &str,
        issued: IssuedCertificate,
        now: UnixMillis,
    ) -> Result<String, EnrolError> {
        let request = Digest::of("flotilla csr", &[csr.as_bytes()]);
        let same_for = SAME_FOR_MAX.min(issued.expires_at.since(now) / 10);
        let recent = self.lock().get(&node.id).cloned();
        if let Some(recent) = recent.filter(|recent| now.since(recent.at) < same_for) {
            return if recent.request == request {
                Ok(recent.certificate.pem)
            } else {
                Err(EnrolError::TooOften(node.id))
            };
        }
        let certify = CertifyNode {
            node: node.id,
            certificate: Certificate {
                serial: issued.serial.clone(),
                expires_at: issued.expires_at,
            },
        };
        self.engine
            .submit(Caller::System, None, Operation::CertifyNode(certify))
            .await
            .map_err(EnrolError::Refused)?;
        let pem = issued.pem.clone();
        let mut recent = self.lock();
        if recent.len() >= RECENT_COUNT_MAX {
            let oldest = recent
                .iter()
                .min_by_key(|(_, recent)| recent.at)
                .map(|(id, _)| *id);
            if let Some(oldest) = oldest {
                recent.remove(&oldest);
            }
        }
        recent.insert(
            node.id,
            Recent {
                request,
                at: now,
                certificate: issued,
            },
        );
        Ok(pem)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<NodeId, Recent>> {
        // Every change is a single insert or remove.
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
