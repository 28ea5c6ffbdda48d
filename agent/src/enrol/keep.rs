//! Keeping an identity fresh while the agent runs: the certificate is renewed at
//! two thirds of its life, a newer trust set is fetched when one is missing, and
//! what changes is written down and put to use.
//!
//! Renewing is proven by the signing key, so an expired certificate is renewed like
//! any other, and so is one whose CA has left the trust set: at once. It needs no
//! MQTT link, only the controller's HTTPS.
//!
//! It fails by trying again with growing pauses; what is held stays in use.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use protocol::id::NodeId;
use protocol::join::{Renew, Renewal};
use protocol::message;
use protocol::time::UnixMillis;
use protocol::trust::{SignedTrust, TrustSet};
use rcgen::KeyPair;
use rustls::ClientConfig;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::files::{self, AUTHORITIES, IdentityError, NODE_CERTIFICATE, NewFile, TRUST};
use super::http::{self, Body, RequestError};
use super::join::signing_request;
use crate::clock::Clock;
use crate::dependency::{Dependencies, Dependency};
use crate::domain::backoff::{Backoff, Jitter};
use crate::domain::time::Tick;
use crate::node::task::{CoreGone, Nudges, StoreHandle, Trusted};
use crate::tls::{self, ClientIdentity};
use crate::uplink::Target;

/// The longest sleep between two looks at the clock, which may be set meanwhile.
const LOOK_EVERY: Duration = Duration::from_secs(3600);

/// At least this long between two requests for the trust set.
const TRUST_PAUSE: Duration = Duration::from_secs(60);

/// Pauses between failed renewals.
const RETRY_FIRST: Duration = Duration::from_secs(5);
const RETRY_MAX: Duration = Duration::from_secs(1800);

/// What is needed to keep an identity fresh.
pub struct Context {
    /// The identity's directory.
    pub dir: PathBuf,
    /// The node.
    pub node: NodeId,
    /// The TLS key, PKCS#8 PEM.
    pub key: Zeroizing<String>,
    /// The certificate, PEM.
    pub certificate: String,
    /// The trust set that is held.
    pub trust: TrustSet,
    /// The controller's HTTPS addresses: those of the identity.
    pub controllers: Vec<String>,
    /// Addresses that the configuration puts in their place.
    pub controllers_fixed: bool,
    /// Where the uplink connects; its brokers follow what the controller says,
    /// unless the configuration names them.
    pub target: watch::Sender<Arc<Target>>,
    /// Whether the configuration names the brokers.
    pub brokers_fixed: bool,
    /// The uplink's TLS.
    pub tls: watch::Sender<Arc<ClientConfig>>,
    /// When the certificate ends, for the status.
    pub expires: watch::Sender<UnixMillis>,
    /// Trust sets that came over the wire.
    pub trusted: watch::Receiver<Option<Arc<Trusted>>>,
    /// The core.
    pub core: StoreHandle,
    /// The breakers of what the agent depends on.
    pub dependencies: Dependencies,
    /// Nudges of the core and the uplink.
    pub nudges: Arc<Nudges>,
    /// Reads the time.
    pub clock: Clock,
    /// Fixes the jitter.
    pub seed: u64,
    /// When cancelled, it ends.
    pub stop: CancellationToken,
}

/// A step that failed; it is logged and tried again.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// No controller gave what was asked for.
    #[error("no controller answered as it should")]
    Request(#[source] RequestError),
    /// No controller is known.
    #[error("no controller's address is known")]
    NoController,
    /// The certificate that came is unusable.
    #[error("the new certificate is unusable: {reason}")]
    Certificate {
        /// What is wrong.
        reason: String,
    },
    /// No counter for the request can be reserved while the disk is full.
    #[error("the store gives no counter for the request")]
    NoCounter,
    /// The files cannot be written.
    #[error("cannot keep what came")]
    Files(#[source] IdentityError),
    /// The agent is stopping.
    #[error("the node's core has stopped")]
    Core(#[source] CoreGone),
}

/// When a certificate is to be renewed: at two thirds of its life, give or take a
/// twentieth, so that nodes that joined together do not renew together.
fn renew_at(not_before: UnixMillis, not_after: UnixMillis, jitter: &mut Jitter) -> UnixMillis {
    let life = not_after.since(not_before);
    let earliest = life * 37 / 60;
    let latest = life * 43 / 60;
    not_before.after(jitter.between(earliest, latest))
}

/// When this certificate is to be renewed: at once when none of these CAs issued
/// it. It was checked when it was read or came; if it is unusable all the same, a
/// new one is what helps.
fn due_at(certificate: &str, authorities: &[String], jitter: &mut Jitter) -> UnixMillis {
    match files::validity(certificate) {
        Ok((not_before, not_after)) if files::is_issued_by(certificate, authorities) => {
            renew_at(not_before, not_after, jitter)
        }
        Ok(_) | Err(_) => UnixMillis(0),
    }
}

/// Keeps the identity fresh until it is stopped.
///
/// # Errors
/// [`KeepError`] when the core is gone before the agent was asked to stop. Nothing
/// else ends it.
pub async fn run(mut context: Context) -> Result<(), KeepError> {
    let mut jitter = Jitter::new(context.seed);
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX, context.seed);
    let mut due = context.due(&mut jitter);
    let mut trust_asked: Option<Tick> = None;
    // After a failure: not before this.
    let mut not_before = context.clock.tick();
    loop {
        let now = context.clock.controller_now();
        let wait = due
            .since(now)
            .max(not_before.since(context.clock.tick()))
            .min(LOOK_EVERY);
        tokio::select! {
            () = context.stop.cancelled() => return Ok(()),
            changed = context.trusted.changed() => {
                if changed.is_err() {
                    return Err(KeepError::Core(CoreGone));
                }
                context.take_trust();
                if !context.is_certificate_trusted() {
                    due = UnixMillis(0);
                }
                continue;
            }
            () = context.nudges.fetch_trust.notified() => {
                let tick = context.clock.tick();
                if trust_asked.is_none_or(|at| tick.since(at) >= TRUST_PAUSE) {
                    trust_asked = Some(tick);
                    if let Err(error) = context.fetch_trust().await {
                        tracing::warn!(error = crate::chain(&error), "no newer trust set");
                    }
                }
                continue;
            }
            () = context.nudges.renew.notified() => {}
            () = tokio::time::sleep(wait) => {
                let now = context.clock.controller_now();
                if now < due || context.clock.tick() < not_before {
                    continue;
                }
            }
        }
        match context.renew().await {
            Ok(()) => {
                backoff.succeed();
                due = context.due(&mut jitter);
                if due == UnixMillis(0) {
                    // Its CA is not known here: the trust set that came with it is
                    // on its way through the core.
                    not_before = context.clock.tick().after(RETRY_FIRST);
                }
                tracing::info!(next = %due, "the certificate was renewed");
            }
            Err(KeepError::Core(gone)) => return context.end(gone),
            Err(error) => {
                let pause = backoff.fail();
                not_before = context.clock.tick().after(pause);
                if matches!(error, KeepError::Request(RequestError::Unreachable { .. })) {
                    // The controller's own CA may be one that is not known here.
                    context.nudges.fetch_trust.notify_one();
                }
                tracing::warn!(
                    error = crate::chain(&error),
                    ?pause,
                    "no new certificate yet"
                );
            }
        }
    }
}

impl Context {
    fn end(&self, gone: CoreGone) -> Result<(), KeepError> {
        if self.stop.is_cancelled() {
            Ok(())
        } else {
            Err(KeepError::Core(gone))
        }
    }

    /// Whether a CA of the trust set issued the certificate.
    fn is_certificate_trusted(&self) -> bool {
        files::is_issued_by(&self.certificate, &self.trust.authorities)
    }

    fn due(&self, jitter: &mut Jitter) -> UnixMillis {
        if let Ok((_, not_after)) = files::validity(&self.certificate) {
            self.expires.send_replace(not_after);
        }
        due_at(&self.certificate, &self.trust.authorities, jitter)
    }

    fn client(&self, tls: ClientConfig) -> Result<reqwest::Client, KeepError> {
        let proxy = self.target.borrow().proxy.clone();
        http::client(tls, proxy.as_ref()).map_err(KeepError::Request)
    }

    fn pinned(&self) -> Result<ClientConfig, KeepError> {
        tls::pinned(&self.trust.authorities, None, &self.clock)
            .map_err(|error| KeepError::Request(RequestError::Tls(error)))
    }

    async fn renew(&mut self) -> Result<(), KeepError> {
        let unusable = |reason: String| KeepError::Certificate { reason };
        let key = KeyPair::from_pem(&self.key).map_err(|error| unusable(error.to_string()))?;
        let csr = signing_request(&key, self.node).map_err(|error| unusable(error.to_string()))?;
        let client = self.client(self.pinned()?)?;
        let mut last = KeepError::NoController;
        for address in self.controllers.clone() {
            let renew = Renew {
                csr: csr.clone(),
                trust_version: self.trust.version,
            };
            let sealed = self
                .core
                .seal_renewal(renew)
                .await
                .map_err(KeepError::Core)?;
            let body = Body::Envelope(sealed.ok_or(KeepError::NoCounter)?);
            let asked = http::request::<Renewal>(&client, &address, "/node/v1/renew", body).await;
            let silent = matches!(asked, Err(RequestError::Unreachable { .. }));
            // A renewal has its own pauses, and is never held back; what comes of it is
            // counted.
            if let Ok(permit) = self.dependencies.admit(&Dependency::Controller) {
                let controller = &Dependency::Controller;
                self.dependencies.done(controller, permit, !silent);
            }
            match asked {
                Ok(renewal) => return self.take_renewal(renewal, &key).await,
                Err(error) => last = KeepError::Request(error),
            }
        }
        Err(last)
    }

    async fn take_renewal(&mut self, renewal: Renewal, key: &KeyPair) -> Result<(), KeepError> {
        let unusable = |reason: String| KeepError::Certificate { reason };
        files::validity(&renewal.certificate).map_err(unusable)?;
        let identity = ClientIdentity {
            certificate: &renewal.certificate,
            key: &key.serialize_pem(),
        };
        // Refuses a certificate that is for another key.
        tls::pinned(&self.trust.authorities, Some(&identity), &self.clock)
            .map_err(|error| unusable(error.to_string()))?;
        let file = NewFile::new(NODE_CERTIFICATE, renewal.certificate.clone());
        files::replace(&self.dir, &file).map_err(KeepError::Files)?;
        self.certificate.clone_from(&renewal.certificate);
        files::change_about(&self.dir, |about| {
            about.brokers.clone_from(&renewal.brokers);
            about.controllers.clone_from(&renewal.controllers);
            about.known_at = about.known_at.max(renewal.now);
        })
        .map_err(KeepError::Files)?;
        self.use_addresses(&renewal);
        self.use_tls();
        if let Some(trust) = renewal.trust {
            self.core.adopt(trust).await.map_err(KeepError::Core)?;
        }
        Ok(())
    }

    fn use_addresses(&mut self, renewal: &Renewal) {
        if !self.controllers_fixed && !renewal.controllers.is_empty() {
            self.controllers.clone_from(&renewal.controllers);
        }
        let brokers: Vec<_> = renewal
            .brokers
            .iter()
            .filter_map(|text| text.parse().ok())
            .collect();
        if self.brokers_fixed || brokers.is_empty() {
            return;
        }
        self.target.send_if_modified(|target| {
            let changed = target.brokers != brokers;
            if changed {
                *target = Arc::new(Target {
                    brokers,
                    ..Target::clone(target)
                });
            }
            changed
        });
    }

    /// Puts certificate and CAs to use for the next connection.
    fn use_tls(&self) {
        let identity = ClientIdentity {
            certificate: &self.certificate,
            key: &self.key,
        };
        match tls::pinned(&self.trust.authorities, Some(&identity), &self.clock) {
            Ok(config) => {
                self.tls.send_replace(Arc::new(config));
            }
            Err(error) => {
                tracing::error!(error = crate::chain(&error), "TLS goes on as it was");
            }
        }
    }

    /// Writes a trust set down that the core believes, and puts it to use.
    fn take_trust(&mut self) {
        let Some(trusted) = self.trusted.borrow_and_update().clone() else {
            return;
        };
        if trusted.set.version <= self.trust.version {
            return;
        }
        self.trust = trusted.set.clone();
        let written = [
            NewFile::new(TRUST, message::encode(&trusted.signed)),
            NewFile::new(AUTHORITIES, trusted.set.authorities.concat()),
        ]
        .iter()
        .try_for_each(|file| files::replace(&self.dir, file));
        if let Err(error) = written {
            // It is believed all the same; after a restart it comes again.
            tracing::error!(error = crate::chain(&error), "cannot keep the trust set");
        }
        self.use_tls();
    }

    /// Asks the controllers for the trust set. One that the CAs held do not vouch
    /// for is asked as well: the root's signature is what counts, and a node that
    /// missed a change of CAs has no other way.
    async fn fetch_trust(&self) -> Result<(), KeepError> {
        let mut last = KeepError::NoController;
        for address in &self.controllers {
            let pinned = self.client(self.pinned()?)?;
            let open = tls::unauthenticated()
                .map_err(|error| KeepError::Request(RequestError::Tls(error)))?;
            let open = self.client(open)?;
            for client in [pinned, open] {
                let path = "/node/v1/trust";
                match http::request::<SignedTrust>(&client, address, path, Body::None).await {
                    Ok(signed) => {
                        return self.core.adopt(signed).await.map_err(KeepError::Core);
                    }
                    Err(error) => last = KeepError::Request(error),
                }
            }
        }
        Err(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer};

    #[test]
    fn a_certificate_of_a_ca_that_is_not_trusted_is_renewed_at_once() {
        let authority = || {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let pem = params.self_signed(&key).unwrap().pem();
            (pem, Issuer::new(params, key))
        };
        let ((ours, issuer), (other, _)) = (authority(), authority());
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &issuer).unwrap().pem();
        let mut jitter = Jitter::new(1);
        let mut due = |authorities: &[String]| due_at(&certificate, authorities, &mut jitter);
        assert_eq!(due(std::slice::from_ref(&other)), UnixMillis(0));
        assert_eq!(due(&[]), UnixMillis(0));
        assert!(due(&[other, ours]) > UnixMillis(0));
        assert_eq!(due_at("damaged", &[], &mut jitter), UnixMillis(0));
    }

    proptest! {
        #[test]
        fn invariant_renewal_falls_around_two_thirds_of_the_life(
            seed: u64,
            start in 0_u64..2_000_000_000_000,
            life in 60_000_u64..100_000_000_000,
        ) {
            let (from, to) = (UnixMillis(start), UnixMillis(start + life));
            let at = renew_at(from, to, &mut Jitter::new(seed)).0 - start;
            prop_assert!(at >= life * 6 / 10 && at <= life * 73 / 100, "{at} of {life}");
        }
    }
}
