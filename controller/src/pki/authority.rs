//! The fleet CA: an ECDSA P-256 key that signs the server's and the nodes'
//! certificates.
//!
//! In a rotation the next CA waits beside the one in use. The one in use vouches
//! for it by a certificate of its own, the link: who knows nothing but the older
//! CA then follows the server's chain through the link. A CA's file holds its
//! certificate first and its links after it, newest first.
//!
//! The next CA takes over in three writes: its key, its certificates, and the
//! removal of the waiting files. Where the keys are equal and the files are still
//! there, the next start does the rest.

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
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::certificate::{self, Validity};
use super::files::KeyDirectory;
use super::{PkiConfig, PkiError};

pub(super) const CERTIFICATE: &str = "ca.pem";
pub(super) const KEY: &str = "ca.key";
const NEXT_CERTIFICATE: &str = "ca.next.pem";
const NEXT_KEY: &str = "ca.next.key";

/// CAs below a CA on the way to a certificate: as many links as there can be
/// older CAs in a trust set.
const LINKS_MAX: u8 = 2;

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
    /// SHA-256 of the CA that issued it, its certificate in DER.
    pub authority: [u8; 32],
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
    links: Vec<CertificateDer<'static>>,
}

/// A certificate and its key, for ourselves.
pub(super) struct OwnCertificate {
    pub(super) pem: String,
    pub(super) key_pem: String,
}

impl Authority {
    /// Reads the CA, or makes it when neither of its files exists. A takeover that
    /// was interrupted is brought to its end.
    pub(super) fn open(
        files: &KeyDirectory,
        fleet: FleetId,
        now: UnixMillis,
    ) -> Result<Self, PkiError> {
        if files.read(CERTIFICATE)?.is_none() && files.read("trust.bin")?.is_none() {
            // The certificate is written last: a crash in between starts anew,
            // and nothing was issued yet.
            make_first(files, fleet, now)?;
        }
        let key = files.read(KEY)?;
        if key.is_some() && files.read(NEXT_KEY)? == key {
            finish_takeover(files)?;
        }
        Self::read(files, fleet, CERTIFICATE, KEY)
    }

    /// The CA that waits to take over; none when there is none, or when a crash
    /// left it half made.
    pub(super) fn next(files: &KeyDirectory, fleet: FleetId) -> Result<Option<Self>, PkiError> {
        if files.read(NEXT_CERTIFICATE)?.is_none() || files.read(NEXT_KEY)?.is_none() {
            return Ok(None);
        }
        match Self::read(files, fleet, NEXT_CERTIFICATE, NEXT_KEY) {
            Ok(next) => Ok(Some(next)),
            Err(PkiError::Damaged { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes the CA that is to follow this one, with the link from here to there.
    pub(super) fn make_next(
        &self,
        files: &KeyDirectory,
        fleet: FleetId,
        now: UnixMillis,
    ) -> Result<Self, PkiError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
            .map_err(|error| make_error(WHAT, error))?;
        let serial = serial().map_err(|error| make_error(WHAT, error))?;
        let (tag, _) = serial.split_at(4);
        // A name of its own: in lists, and for libraries that find issuers by name.
        let name = format!("{COMMON_NAME} {}", data_encoding::HEXLOWER.encode(tag));
        let mut params = authority_params(&name, fleet, now, &serial);
        let certificate = params
            .self_signed(&key)
            .map_err(|error| make_error(WHAT, error))?;
        params.use_authority_key_identifier_extension = true;
        let link = params
            .signed_by(&key, &self.issuer)
            .map_err(|error| make_error(WHAT, error))?;
        let older = self.links.iter().take(usize::from(LINKS_MAX) - 1);
        let pem: String = [certificate.pem(), link.pem()]
            .into_iter()
            .chain(older.map(pem_of))
            .collect();
        // The certificates last: before them there is no next CA.
        files.write(NEXT_KEY, key.serialize_pem().as_bytes())?;
        files.write(NEXT_CERTIFICATE, pem.as_bytes())?;
        Self::read(files, fleet, NEXT_CERTIFICATE, NEXT_KEY)
    }

    /// Removes the CA that waits. The certificates first: without them there is
    /// none.
    pub(super) fn forget_next(files: &KeyDirectory) -> Result<(), PkiError> {
        files.remove(NEXT_CERTIFICATE)?;
        files.remove(NEXT_KEY)
    }

    /// Puts the waiting CA in the place of this one.
    pub(super) fn take_over(files: &KeyDirectory, fleet: FleetId) -> Result<Self, PkiError> {
        files.write(KEY, &files.require(NEXT_KEY)?)?;
        finish_takeover(files)?;
        Self::read(files, fleet, CERTIFICATE, KEY)
    }

    fn read(
        files: &KeyDirectory,
        fleet: FleetId,
        certificates: &'static str,
        key: &'static str,
    ) -> Result<Self, PkiError> {
        let text = files.require_text(certificates)?;
        let mut all = CertificateDer::pem_slice_iter(text.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| files.damaged(certificates, error))?;
        if all.is_empty() {
            return Err(files.damaged(certificates, "it holds no certificate"));
        }
        let links = all.split_off(1);
        let der = all.remove(0);
        let pem = if links.is_empty() { text } else { pem_of(&der) };
        let pair = KeyPair::from_pem(&files.require_text(key)?)
            .map_err(|error| files.damaged(key, error))?;
        let parsed =
            certificate::parse(&der).map_err(|error| files.damaged(certificates, error))?;
        if parsed.public_key().subject_public_key.data.as_ref() != pair.public_key_raw() {
            return Err(files.damaged(key, "it is not the certificate's key"));
        }
        let organisation = parsed
            .subject()
            .iter_organization()
            .next()
            .and_then(|attribute| attribute.as_str().ok())
            .unwrap_or_default();
        if organisation != fleet.to_string() {
            return Err(PkiError::WrongFleet {
                path: files.path_of(certificates),
                found: organisation.to_owned(),
                expected: fleet,
            });
        }
        let issuer = Issuer::from_ca_cert_der(&der, pair)
            .map_err(|error| files.damaged(certificates, error))?;
        Ok(Self {
            issuer,
            der,
            pem,
            links,
        })
    }

    pub(super) fn pem(&self) -> &str {
        &self.pem
    }

    pub(super) fn fingerprint(&self) -> [u8; 32] {
        certificate::fingerprint(&self.der)
    }

    /// Whether this CA issued a certificate, going by the ids of the keys.
    pub(super) fn is_issuer_of(&self, leaf: &CertificateDer<'_>) -> bool {
        let own = certificate::subject_key(&self.der);
        own.is_some() && certificate::issuer_key(leaf) == own
    }

    /// The links that lead from this CA to the oldest of `trusted` from which one
    /// leads here.
    pub(super) fn links_from(&self, trusted: &[CertificateDer<'_>]) -> &[CertificateDer<'static>] {
        let keys: Vec<_> = trusted.iter().map(certificate::subject_key).collect();
        let count = self
            .links
            .iter()
            .rposition(|link| {
                let issuer = certificate::issuer_key(link);
                issuer.is_some() && keys.contains(&issuer)
            })
            .map_or(0, |last| last + 1);
        self.links.get(..count).unwrap_or_default()
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
            authority: self.fingerprint(),
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

const WHAT: &str = "the fleet CA";
const COMMON_NAME: &str = "Flotilla CA";

fn make_first(files: &KeyDirectory, fleet: FleetId, now: UnixMillis) -> Result<(), PkiError> {
    let key =
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|error| make_error(WHAT, error))?;
    let serial = serial().map_err(|error| make_error(WHAT, error))?;
    let certificate = authority_params(COMMON_NAME, fleet, now, &serial)
        .self_signed(&key)
        .map_err(|error| make_error(WHAT, error))?;
    files.write(KEY, key.serialize_pem().as_bytes())?;
    files.write(CERTIFICATE, certificate.pem().as_bytes())
}

/// What is left to do of a takeover once the key is in place. Where the waiting
/// certificates are gone, they are in place as well.
fn finish_takeover(files: &KeyDirectory) -> Result<(), PkiError> {
    if let Some(certificates) = files.read(NEXT_CERTIFICATE)? {
        files.write(CERTIFICATE, &certificates)?;
        files.remove(NEXT_CERTIFICATE)?;
    }
    files.remove(NEXT_KEY)
}

fn authority_params(
    name: &str,
    fleet: FleetId,
    now: UnixMillis,
    serial: &[u8],
) -> CertificateParams {
    let mut params = leaf(name, fleet, now, LIFE, serial);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(LINKS_MAX));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = false;
    params
}

/// A certificate in PEM (RFC 7468).
fn pem_of(der: &CertificateDer<'_>) -> String {
    let text = data_encoding::BASE64.encode(der);
    let lines: Vec<_> = text
        .as_bytes()
        .chunks(64)
        .map(String::from_utf8_lossy)
        .collect();
    format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        lines.join("\n")
    )
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
