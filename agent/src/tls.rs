//! TLS towards the controller and its broker: version 1.3, pinned to the fleet's
//! CAs, and tolerant of a node whose clock is wrong.
//!
//! # Which time a certificate is judged by
//!
//! A node without a battery-backed clock starts in 1970, and one whose clock was
//! set by hand may be years ahead. It could then never connect, and so never learn
//! the time. Its own wall clock therefore plays no part here:
//!
//! - Once the controller's time was proven in this run (by a signed answer to a
//!   hello of this node), certificates are judged by controller time, strictly.
//! - Before that, all that is known is a time that has certainly passed: the last
//!   controller time of an earlier run or of joining, and never less than this
//!   code's own age. A certificate is refused if it had expired by then. One that
//!   is not valid yet at that time is accepted, as the true time may be later.
//!
//! So the tolerance is one-sided and ends with the first welcome. Who has stolen
//! the key of a certificate that expired since the node last knew the time could
//! pose as the broker until then, and gain nothing by it but silence: every
//! message is signed by keys that are not the broker's.
//!
//! Chain, names and key usage are always checked. Platform roots are never used.

use std::sync::Arc;

use protocol::ErrorCode;
use protocol::time::UnixMillis;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme, version,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::clock::Clock;

/// TLS material that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A CA is not a certificate.
    #[error("a certificate authority is malformed: {reason}")]
    Authority {
        /// What is wrong.
        reason: String,
    },
    /// There is no CA at all.
    #[error("there is no certificate authority to trust")]
    NoAuthority,
    /// The node's certificate or key cannot be used.
    #[error("the node's certificate or key is unusable: {reason}")]
    Identity {
        /// What is wrong.
        reason: String,
    },
}

impl TlsError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        ErrorCode::IdentityInvalid
    }
}

/// The certificate and key that a node shows.
pub struct ClientIdentity<'a> {
    /// The certificate, PEM.
    pub certificate: &'a str,
    /// Its key, PKCS#8 PEM.
    pub key: &'a str,
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// A configuration that trusts these CAs alone, and shows the node's certificate
/// where there is one.
///
/// # Errors
/// [`TlsError`] when the material cannot be used.
pub fn pinned(
    authorities: &[String],
    identity: Option<&ClientIdentity<'_>>,
    clock: &Clock,
) -> Result<ClientConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    for pem in authorities {
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let certificate = certificate.map_err(|error| TlsError::Authority {
                reason: error.to_string(),
            })?;
            roots
                .add(certificate)
                .map_err(|error| TlsError::Authority {
                    reason: error.to_string(),
                })?;
        }
    }
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|_| TlsError::NoAuthority)?;
    let verifier = Pinned {
        inner,
        clock: clock.clone(),
    };
    finish(Arc::new(verifier), identity)
}

/// A configuration that believes any server. Only for what proves itself: a trust
/// set carries the root key's signature, and a CA must have the fingerprint that a
/// join token names.
///
/// # Errors
/// [`TlsError`] when TLS cannot be configured at all.
pub fn unauthenticated() -> Result<ClientConfig, TlsError> {
    finish(Arc::new(Anyone(provider())), None)
}

fn finish(
    verifier: Arc<dyn ServerCertVerifier>,
    identity: Option<&ClientIdentity<'_>>,
) -> Result<ClientConfig, TlsError> {
    let unusable = |reason: String| TlsError::Identity { reason };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13])
        .map_err(|error| unusable(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let Some(identity) = identity else {
        return Ok(builder.with_no_client_auth());
    };
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(identity.certificate.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|error| unusable(error.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes())
        .map_err(|error| unusable(error.to_string()))?;
    builder
        .with_client_auth_cert(chain, key)
        .map_err(|error| unusable(error.to_string()))
}

#[derive(Debug)]
struct Pinned {
    inner: Arc<WebPkiServerVerifier>,
    clock: Clock,
}

/// By which time to judge a certificate that is valid from `not_before`.
fn judged_at(clock: &Clock, not_before: UnixMillis) -> UnixMillis {
    if clock.is_proven() {
        clock.controller_now()
    } else {
        clock.certainly_past().max(not_before)
    }
}

fn not_before(certificate: &CertificateDer<'_>) -> Result<UnixMillis, rustls::Error> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|_| rustls::Error::InvalidCertificate(CertificateError::BadEncoding))?;
    let seconds = u64::try_from(parsed.validity().not_before.timestamp()).unwrap_or_default();
    Ok(UnixMillis(seconds.saturating_mul(1000)))
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let at = judged_at(&self.clock, not_before(end_entity)?);
        let at = UnixTime::since_unix_epoch(std::time::Duration::from_millis(at.0));
        self.inner
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, at)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("only TLS 1.3 is spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
