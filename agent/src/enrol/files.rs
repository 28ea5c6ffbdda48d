//! The identity's files.
//!
//! ```text
//! identity/node.key       TLS key, PKCS#8 PEM
//! identity/node.pem       its certificate, PEM
//! identity/signing.key    signing key, PKCS#8 DER
//! identity/ca.pem         the CAs of the trust set, PEM
//! identity/trust          the trust set as the root signed it
//! identity/identity.toml  fleet, node, name, addresses, root key
//! ```

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use protocol::ErrorCode;
use protocol::id::{FleetId, NodeId};
use protocol::key::{PublicKey, SigningKey};
use protocol::message;
use protocol::time::UnixMillis;
use protocol::trust::{SignedTrust, TrustSet};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};
use x509_parser::extensions::ParsedExtension;
use zeroize::Zeroizing;

use crate::durable;
use crate::node::Identity;

pub(super) const NODE_KEY: &str = "node.key";
pub(super) const NODE_CERTIFICATE: &str = "node.pem";
pub(super) const SIGNING_KEY: &str = "signing.key";
pub(super) const AUTHORITIES: &str = "ca.pem";
pub(super) const TRUST: &str = "trust";
pub(super) const ABOUT: &str = "identity.toml";

/// Why the identity cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The node has not joined a fleet.
    #[error("the node has no identity in {}; run `flotilla-agent join TOKEN`", path.display())]
    Missing {
        /// Where it would be.
        path: PathBuf,
    },
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{} is damaged: {reason}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl IdentityError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Missing { .. } => ErrorCode::IdentityMissing,
            Self::Read { .. } | Self::Write { .. } | Self::Invalid { .. } => {
                ErrorCode::IdentityInvalid
            }
        }
    }
}

/// `identity.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct About {
    pub(super) fleet: FleetId,
    pub(super) node: NodeId,
    pub(super) name: String,
    pub(super) root: PublicKey,
    pub(super) brokers: Vec<String>,
    pub(super) controllers: Vec<String>,
    /// Controller time when this was written: a time that has certainly passed.
    pub(super) known_at: UnixMillis,
}

/// An identity as it was read.
pub struct Loaded {
    /// For the node's core.
    pub identity: Identity,
    /// The TLS key, PKCS#8 PEM.
    pub key: Zeroizing<String>,
    /// The certificate, PEM.
    pub certificate: String,
    /// The node's name when it joined.
    pub name: String,
    /// Where the broker listens.
    pub brokers: Vec<String>,
    /// Where the controller's HTTPS listens.
    pub controllers: Vec<String>,
    /// A controller time that has certainly passed.
    pub known_at: UnixMillis,
}

/// What may be shown of an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The fleet.
    pub fleet: FleetId,
    /// The node.
    pub node: NodeId,
    /// Its name when it joined.
    pub name: String,
    /// Where the broker listens.
    pub brokers: Vec<String>,
    /// Where the controller's HTTPS listens.
    pub controllers: Vec<String>,
    /// The trust set's version.
    pub trust_version: u64,
    /// When the certificate begins to be valid.
    pub certificate_not_before: UnixMillis,
    /// When it ends.
    pub certificate_not_after: UnixMillis,
}

impl Summary {
    /// Reads what may be shown from an identity directory.
    ///
    /// # Errors
    /// [`IdentityError`] when there is none or it is damaged.
    pub fn read(dir: &Path) -> Result<Self, IdentityError> {
        let loaded = load(dir)?;
        let (not_before, not_after) = loaded.validity(dir)?;
        Ok(Self {
            fleet: loaded.identity.fleet,
            node: loaded.identity.node,
            name: loaded.name,
            brokers: loaded.brokers,
            controllers: loaded.controllers,
            trust_version: loaded.identity.trust.version,
            certificate_not_before: not_before,
            certificate_not_after: not_after,
        })
    }
}

impl Loaded {
    fn validity(&self, dir: &Path) -> Result<(UnixMillis, UnixMillis), IdentityError> {
        validity(&self.certificate).map_err(|reason| IdentityError::Invalid {
            path: dir.join(NODE_CERTIFICATE),
            reason,
        })
    }
}

/// From when until when a certificate in PEM is valid.
pub(super) fn validity(pem: &str) -> Result<(UnixMillis, UnixMillis), String> {
    let certificate =
        CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| error.to_string())?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&certificate)
        .map_err(|_| "it is not a certificate".to_owned())?;
    let millis = |seconds: i64| UnixMillis(u64::try_from(seconds).unwrap_or_default() * 1000);
    let validity = parsed.validity();
    Ok((
        millis(validity.not_before.timestamp()),
        millis(validity.not_after.timestamp()),
    ))
}

/// Whether one of these CAs issued a certificate, going by the ids of their keys. A
/// certificate that names no key is taken for theirs: this only decides whether to
/// ask for another one.
pub(super) fn is_issued_by(pem: &str, authorities: &[String]) -> bool {
    let issuer = key_id(pem, |extension| {
        if let ParsedExtension::AuthorityKeyIdentifier(id) = extension {
            id.key_identifier.as_ref().map(|id| id.0.to_vec())
        } else {
            None
        }
    });
    issuer.is_none()
        || authorities.iter().any(|authority| {
            let own = key_id(authority, |extension| {
                if let ParsedExtension::SubjectKeyIdentifier(id) = extension {
                    Some(id.0.to_vec())
                } else {
                    None
                }
            });
            own == issuer
        })
}

/// What `pick` finds in the extensions of a certificate in PEM.
fn key_id(pem: &str, pick: impl Fn(&ParsedExtension<'_>) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).ok()?;
    parsed
        .iter_extensions()
        .find_map(|extension| pick(extension.parsed_extension()))
}

/// Where an identity goes that another one takes the place of.
#[must_use]
pub fn previous_identity(dir: &Path) -> PathBuf {
    beside(dir, ".previous")
}

/// A path beside another, with something behind its name.
pub(super) fn beside(dir: &Path, suffix: &str) -> PathBuf {
    let mut name = dir.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn read(dir: &Path, name: &str) -> Result<Zeroizing<Vec<u8>>, IdentityError> {
    let path = dir.join(name);
    std::fs::read(&path)
        .map(Zeroizing::new)
        .map_err(|source| IdentityError::Read { path, source })
}

fn read_text(dir: &Path, name: &str) -> Result<String, IdentityError> {
    let bytes = read(dir, name)?;
    String::from_utf8(bytes.to_vec()).map_err(|_| IdentityError::Invalid {
        path: dir.join(name),
        reason: "it is not text".to_owned(),
    })
}

/// Reads and checks an identity.
///
/// # Errors
/// [`IdentityError`] when there is none or it is damaged.
pub fn load(dir: &Path) -> Result<Loaded, IdentityError> {
    if !dir.join(ABOUT).exists() {
        return Err(IdentityError::Missing {
            path: dir.to_owned(),
        });
    }
    let invalid = |name: &str, reason: String| IdentityError::Invalid {
        path: dir.join(name),
        reason,
    };
    let about: About = toml::from_str(&read_text(dir, ABOUT)?)
        .map_err(|error| invalid(ABOUT, error.to_string()))?;
    let key = SigningKey::from_pkcs8(&read(dir, SIGNING_KEY)?)
        .map_err(|error| invalid(SIGNING_KEY, error.to_string()))?;
    let signed: SignedTrust =
        message::decode_exactly(&read(dir, TRUST)?).map_err(|reason| invalid(TRUST, reason))?;
    let trust: TrustSet = signed
        .verify(&about.root, about.fleet, 0)
        .map_err(|error| invalid(TRUST, error.to_string()))?;
    let certificate = read_text(dir, NODE_CERTIFICATE)?;
    validity(&certificate).map_err(|reason| invalid(NODE_CERTIFICATE, reason))?;
    Ok(Loaded {
        identity: Identity {
            fleet: about.fleet,
            node: about.node,
            key: Arc::new(key),
            root: about.root,
            trust,
        },
        key: Zeroizing::new(read_text(dir, NODE_KEY)?),
        certificate,
        name: about.name,
        brokers: about.brokers,
        controllers: about.controllers,
        known_at: about.known_at,
    })
}

/// One file of an identity.
pub(super) struct NewFile {
    pub(super) name: &'static str,
    pub(super) bytes: Zeroizing<Vec<u8>>,
}

impl NewFile {
    pub(super) fn new(name: &'static str, bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            name,
            bytes: Zeroizing::new(bytes.into()),
        }
    }
}

/// The text of `identity.toml`.
pub(super) fn about_text(about: &About) -> String {
    // Every field has a TOML form, so this cannot fail; an empty file would be
    // refused when it is read.
    toml::to_string(about).unwrap_or_default()
}

fn written(path: &Path) -> impl FnOnce(io::Error) -> IdentityError {
    let path = path.to_owned();
    move |source| IdentityError::Write { path, source }
}

/// Makes a directory of these files, whole or not at all. One that is there already
/// is kept as the previous one.
pub(super) fn place(dir: &Path, files: &[NewFile]) -> Result<(), IdentityError> {
    let fresh = beside(dir, ".new");
    let result = fill(&fresh, files).and_then(|()| swap(&fresh, dir));
    if result.is_err() {
        // What is left would hold keys; the error that led here says more.
        drop(durable::remove_tree(&fresh));
    }
    result
}

fn fill(fresh: &Path, files: &[NewFile]) -> Result<(), IdentityError> {
    durable::remove_tree(fresh).map_err(written(fresh))?;
    if let Some(parent) = fresh.parent() {
        durable::make_private(parent).map_err(written(parent))?;
    }
    DirBuilder::new()
        .mode(0o700)
        .create(fresh)
        .map_err(written(fresh))?;
    for file in files {
        let path = fresh.join(file.name);
        durable::write(&path, &file.bytes).map_err(written(&path))?;
    }
    durable::sync(fresh).map_err(written(fresh))
}

fn swap(fresh: &Path, dir: &Path) -> Result<(), IdentityError> {
    if dir.exists() {
        let previous = previous_identity(dir);
        durable::remove_tree(&previous).map_err(written(&previous))?;
        std::fs::rename(dir, &previous).map_err(written(&previous))?;
    }
    std::fs::rename(fresh, dir).map_err(written(dir))?;
    match dir.parent() {
        Some(parent) => durable::sync(parent).map_err(written(parent)),
        None => Ok(()),
    }
}

/// Replaces one file in the directory.
pub(super) fn replace(dir: &Path, file: &NewFile) -> Result<(), IdentityError> {
    durable::replace(dir, file.name, &file.bytes).map_err(written(&dir.join(file.name)))
}

/// Changes `identity.toml`.
pub(super) fn change_about(
    dir: &Path,
    change: impl FnOnce(&mut About),
) -> Result<(), IdentityError> {
    let mut about: About =
        toml::from_str(&read_text(dir, ABOUT)?).map_err(|error| IdentityError::Invalid {
            path: dir.join(ABOUT),
            reason: error.to_string(),
        })?;
    let before = about.clone();
    change(&mut about);
    if about == before {
        return Ok(());
    }
    replace(dir, &NewFile::new(ABOUT, about_text(&about)))
}
