//! Reading certificates: whom one names, and how long it holds.

use protocol::id::{FleetId, NodeId};
use protocol::time::UnixMillis;
use rustls_pki_types::CertificateDer;
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
