//! The fleet CA: an ECDSA P-256 key that signs the server's and the nodes'
//! certificates.

use std::time::Duration;

use protocol::ErrorCode;
use protocol::id::{FleetId, NodeId};
use protocol::limits::CSR_BYTES_MAX;
use protocol::time::{UnixMillis, millis};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SerialNumber, date_time_ymd,
};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::certificate::{self, Validity};
use super::files::KeyDirectory;
use super::{PkiConfig, PkiError};

const CERTIFICATE: &str = "ca.pem";
const KEY: &str = "ca.key";

/// Life of the CA: longer than any fleet's hardware. It is replaced by rotation,
/// not by expiry.
const LIFE: Duration = Duration::from_secs(20 * 365 * 24 * 3600);

/// How far before its making a certificate begins to hold, so that a peer whose
/// clock runs behind accepts it. At most a tenth of its life.
const BACKDATE_MAX: Duration = Duration::from_secs(3600);

/// A certificate that was issued to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedCertificate {
    /// The certificate, PEM.
    pub pem: String,
    /// Its serial, lowercase hexadecimal.
    pub serial: String,
    /// When it expires.
    pub expires_at: UnixMillis,
}

/// A signing request that is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// It is larger than a request may be.
    #[error("signing request has {bytes} bytes; at most {CSR_BYTES_MAX}")]
    TooLarge {
        /// How many bytes it has.
        bytes: usize,
    },
    /// It is not a signing request, or its signature does not hold.
    #[error("not a valid signing request: {reason}")]
    Invalid {
        /// The library's reason.
        reason: String,
    },
    /// Its key is of another kind.
    #[error("signing request's key is not ECDSA P-256")]
    Algorithm,
    /// The certificate could not be signed.
    #[error("cannot sign the certificate: {reason}")]
    Sign {
        /// The library's reason.
        reason: String,
    },
}

impl IssueError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::TooLarge { .. } | Self::Invalid { .. } | Self::Algorithm => {
                ErrorCode::JoinCsrInvalid
            }
            Self::Sign { .. } => ErrorCode::Internal,
        }
    }
}

/// The CA.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
    pem: String,
}

/// A certificate and its key, for ourselves.
pub(super) struct OwnCertificate {
    pub(super) pem: String,
    pub(super) key_pem: String,
}

impl Authority {
    /// Reads the CA, or makes it when neither of its files exists.
    pub(super) fn open(
        files: &KeyDirectory,
        fleet: FleetId,
        now: UnixMillis,
    ) -> Result<Self, PkiError> {
        if files.read(CERTIFICATE)?.is_none() && files.read("trust.bin")?.is_none() {
            // The certificate is written last: a crash in between starts anew,
            // and nothing was issued yet.
            make(files, fleet, now)?;
        }
        let pem = files.require_text(CERTIFICATE)?;
        let der = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| files.damaged(CERTIFICATE, error))?;
        let key = KeyPair::from_pem(&files.require_text(KEY)?)
            .map_err(|error| files.damaged(KEY, error))?;
        let parsed = certificate::parse(&der).map_err(|error| files.damaged(CERTIFICATE, error))?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(files.damaged(KEY, "it is not the certificate's key"));
        }
        let organisation = parsed
            .subject()
            .iter_organization()
            .next()
            .and_then(|attribute| attribute.as_str().ok())
            .unwrap_or_default();
        if organisation != fleet.to_string() {
            return Err(PkiError::WrongFleet {
                path: files.path_of(CERTIFICATE),
                found: organisation.to_owned(),
                expected: fleet,
            });
        }
        let issuer = Issuer::from_ca_cert_der(&der, key)
            .map_err(|error| files.damaged(CERTIFICATE, error))?;
        Ok(Self { issuer, der, pem })
    }

    pub(super) fn pem(&self) -> &str {
        &self.pem
    }

    pub(super) fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    pub(super) fn fingerprint(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, &self.der).as_ref());
        bytes
    }

    pub(super) fn issue_node(
        &self,
        csr_pem: &str,
        fleet: FleetId,
        node: NodeId,
        now: UnixMillis,
        life: Duration,
    ) -> Result<IssuedCertificate, IssueError> {
        if csr_pem.len() > CSR_BYTES_MAX {
            return Err(IssueError::TooLarge {
                bytes: csr_pem.len(),
            });
        }
        let request = CertificateSigningRequestParams::from_pem(csr_pem).map_err(|error| {
            IssueError::Invalid {
                reason: error.to_string(),
            }
        })?;
        if request.public_key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
            return Err(IssueError::Algorithm);
        }
        let sign = |reason: String| IssueError::Sign { reason };
        let serial = serial().map_err(|_| sign("no random bytes".to_owned()))?;
        let mut params = leaf(&node.to_string(), fleet, now, life, &serial);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params
            .signed_by(&request.public_key, &self.issuer)
            .map_err(|error| sign(error.to_string()))?;
        let validity =
            Validity::read(certificate.der()).map_err(|error| sign(error.to_string()))?;
        Ok(IssuedCertificate {
            pem: certificate.pem(),
            serial: data_encoding::HEXLOWER.encode(&serial),
            expires_at: validity.not_after,
        })
    }

    pub(super) fn issue_server(
        &self,
        config: &PkiConfig,
        now: UnixMillis,
    ) -> Result<OwnCertificate, PkiError> {
        const WHAT: &str = "the server's certificate";
        let names = CertificateParams::new(server_names(&config.hosts))
            .map_err(|error| make_error(WHAT, error))?
            .subject_alt_names;
        let serial = serial().map_err(|error| make_error(WHAT, error))?;
        let mut params = leaf("controller", config.fleet, now, config.server_life, &serial);
        params.subject_alt_names = names;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue_own(&params, WHAT)
    }

    pub(super) fn issue_client(
        &self,
        name: &str,
        fleet: FleetId,
        now: UnixMillis,
        life: Duration,
    ) -> Result<(String, String), PkiError> {
        const WHAT: &str = "the controller's client certificate";
        let serial = serial().map_err(|error| make_error(WHAT, error))?;
        let mut params = leaf(name, fleet, now, life, &serial);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let own = self.issue_own(&params, WHAT)?;
        Ok((own.pem, own.key_pem))
    }

    fn issue_own(
        &self,
        params: &CertificateParams,
        what: &'static str,
    ) -> Result<OwnCertificate, PkiError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
            .map_err(|error| make_error(what, error))?;
        let certificate = params
            .signed_by(&key, &self.issuer)
            .map_err(|error| make_error(what, error))?;
        Ok(OwnCertificate {
            pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        })
    }
}

/// Everything that the server's certificate is for.
pub(super) fn server_names(hosts: &[String]) -> Vec<String> {
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"]
        .map(str::to_owned)
        .to_vec();
    for host in hosts {
        if !names.contains(host) {
            names.push(host.clone());
        }
    }
    names
}

/// The bytes of a private key in PEM.
pub(super) fn private_key(pem: &str) -> Option<PrivateKeyDer<'static>> {
    PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes())
        .ok()
        .map(PrivateKeyDer::Pkcs8)
}

fn make(files: &KeyDirectory, fleet: FleetId, now: UnixMillis) -> Result<(), PkiError> {
    const WHAT: &str = "the fleet CA";
    let key =
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|error| make_error(WHAT, error))?;
    let serial = serial().map_err(|error| make_error(WHAT, error))?;
    let mut params = leaf("Flotilla CA", fleet, now, LIFE, &serial);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = false;
    let certificate = params
        .self_signed(&key)
        .map_err(|error| make_error(WHAT, error))?;
    files.write(KEY, key.serialize_pem().as_bytes())?;
    files.write(CERTIFICATE, certificate.pem().as_bytes())
}

fn leaf(
    common_name: &str,
    fleet: FleetId,
    now: UnixMillis,
    life: Duration,
    serial: &[u8],
) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, fleet.to_string());
    name.push(DnType::CommonName, common_name);
    params.distinguished_name = name;
    let epoch = date_time_ymd(1970, 1, 1);
    let at = |point: UnixMillis| epoch + Duration::from_millis(point.0);
    params.not_before = at(now.before(BACKDATE_MAX.min(life / 10)));
    params.not_after = at(UnixMillis(
        now.0.saturating_add(millis(life)).min(END_OF_TIME),
    ));
    params.serial_number = Some(SerialNumber::from_slice(serial));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params
}

/// The last second that X.509 can name: 9999-12-31T23:59:59Z (RFC 5280 4.1.2.5).
const END_OF_TIME: u64 = 253_402_300_799_000;

/// A positive serial of 126 random bits (RFC 5280 4.1.2.2 asks for at most 20
/// octets, and CAs for at least 64 random bits).
fn serial() -> Result<[u8; 16], ring::error::Unspecified> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes)?;
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    Ok(bytes)
}

pub(super) fn make_error(what: &'static str, error: impl ToString) -> PkiError {
    PkiError::Make {
        what,
        reason: error.to_string(),
    }
}
