//! Reading certificates: whom one names, and how long it holds.

use protocol::id::{FleetId, NodeId};
use protocol::time::UnixMillis;
use ring::digest::{SHA256, digest};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Whom a node's certificate names: the node in the common name, the fleet in the
/// organisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeSubject {
    /// The fleet.
    pub fleet: FleetId,
    /// The node.
    pub node: NodeId,
}

/// A certificate that does not name a node of a fleet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadCertificateError {
    /// It is not a certificate.
    #[error("not a certificate")]
    Malformed,
    /// A part of the subject is missing or not an id.
    #[error("the certificate's {part} is not an id")]
    Subject {
        /// Which part.
        part: &'static str,
    },
}

impl NodeSubject {
    /// Reads the subject of a certificate whose chain was verified before.
    ///
    /// # Errors
    /// [`ReadCertificateError`] when it names no node of a fleet.
    pub fn read(certificate: &CertificateDer<'_>) -> Result<Self, ReadCertificateError> {
        let parsed = parse(certificate)?;
        let subject = parsed.subject();
        let fleet = subject
            .iter_organization()
            .next()
            .and_then(|attribute| attribute.as_str().ok())
            .and_then(|text| text.parse().ok())
            .ok_or(ReadCertificateError::Subject {
                part: "organisation",
            })?;
        let node = subject
            .iter_common_name()
            .next()
            .and_then(|attribute| attribute.as_str().ok())
            .and_then(|text| text.parse().ok())
            .ok_or(ReadCertificateError::Subject {
                part: "common name",
            })?;
        Ok(Self { fleet, node })
    }
}

/// From when to when a certificate holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) not_before: UnixMillis,
    pub(super) not_after: UnixMillis,
}

impl Validity {
    pub(super) fn read(certificate: &CertificateDer<'_>) -> Result<Self, ReadCertificateError> {
        let parsed = parse(certificate)?;
        let point = |seconds: i64| UnixMillis(u64::try_from(seconds).unwrap_or(0) * 1000);
        Ok(Self {
            not_before: point(parsed.validity().not_before.timestamp()),
            not_after: point(parsed.validity().not_after.timestamp()),
        })
    }
}

pub(super) fn parse<'a>(
    certificate: &'a CertificateDer<'_>,
) -> Result<X509Certificate<'a>, ReadCertificateError> {
    let (rest, parsed) =
        X509Certificate::from_der(certificate).map_err(|_| ReadCertificateError::Malformed)?;
    if rest.is_empty() {
        Ok(parsed)
    } else {
        Err(ReadCertificateError::Malformed)
    }
}

/// SHA-256 of a certificate, DER: what join tokens and people name a CA by.
pub(super) fn fingerprint(certificate: &CertificateDer<'_>) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, certificate).as_ref());
    bytes
}

/// The fingerprint of the certificate in a PEM text; none when there is none.
pub(super) fn fingerprint_of_pem(pem: &str) -> Option<[u8; 32]> {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .ok()
        .map(|der| fingerprint(&der))
}

/// The id of a certificate's own key; CAs have one.
pub(super) fn subject_key(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let parsed = parse(certificate).ok()?;
    parsed.iter_extensions().find_map(|extension| {
        if let ParsedExtension::SubjectKeyIdentifier(id) = extension.parsed_extension() {
            Some(id.0.to_vec())
        } else {
            None
        }
    })
}

/// The id of the key that signed a certificate.
pub(super) fn issuer_key(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let parsed = parse(certificate).ok()?;
    parsed.iter_extensions().find_map(|extension| {
        if let ParsedExtension::AuthorityKeyIdentifier(id) = extension.parsed_extension() {
            id.key_identifier.as_ref().map(|id| id.0.to_vec())
        } else {
            None
        }
    })
}
