//! The server's certificate, and the TLS configurations made from it.

use std::sync::Arc;

use protocol::time::{UnixMillis, millis};
use rustls::crypto::ring::default_provider;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig, version};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::extensions::GeneralName;

use super::authority::{self, Authority, make_error, private_key};
use super::certificate::{self, Validity};
use super::files::KeyDirectory;
use super::{PkiConfig, PkiError};

const CERTIFICATE: &str = "server.pem";
const KEY: &str = "server.key";
const WHAT: &str = "the TLS configuration";

/// The server's certificate and key.
pub(super) struct ServerIdentity {
    leaf: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    names: Vec<String>,
    not_before: UnixMillis,
    pub(super) not_after: UnixMillis,
}

/// What listeners use.
pub(super) struct TlsConfigs {
    pub(super) mqtt: Arc<ServerConfig>,
    pub(super) api: Arc<ServerConfig>,
}

impl ServerIdentity {
    /// Reads the certificate; issues one when there is none, when it is due, or
    /// when it is not for the configured hosts. It can always be made anew, so a
    /// damaged one is replaced.
    pub(super) fn open(
        files: &KeyDirectory,
        authority: &Authority,
        config: &PkiConfig,
        now: UnixMillis,
    ) -> Result<Self, PkiError> {
        match Self::read(files)? {
            Some(identity) if !identity.is_due(authority, config, now) => Ok(identity),
            Some(_) | None => Self::issue(files, authority, config, now),
        }
    }

    /// Issues a certificate with a new key and writes both.
    pub(super) fn issue(
        files: &KeyDirectory,
        authority: &Authority,
        config: &PkiConfig,
        now: UnixMillis,
    ) -> Result<Self, PkiError> {
        let own = authority.issue_server(config, now)?;
        files.write(KEY, own.key_pem.as_bytes())?;
        files.write(CERTIFICATE, own.pem.as_bytes())?;
        Self::read(files)?.ok_or_else(|| files.damaged(CERTIFICATE, "it does not read back"))
    }

    /// The certificate on disk; none when it, or its key, is missing or damaged,
    /// or when they do not belong together (a crash between the two writes).
    fn read(files: &KeyDirectory) -> Result<Option<Self>, PkiError> {
        let (Some(pem), Some(key)) = (files.read(CERTIFICATE)?, files.read(KEY)?) else {
            return Ok(None);
        };
        Ok(Self::parse(&pem, &key))
    }

    fn parse(pem: &[u8], key: &[u8]) -> Option<Self> {
        let leaf = CertificateDer::from_pem_slice(pem).ok()?;
        let key = std::str::from_utf8(key).ok()?;
        let public = rcgen::KeyPair::from_pem(key).ok()?;
        let validity = Validity::read(&leaf).ok()?;
        let parsed = certificate::parse(&leaf).ok()?;
        if parsed.public_key().subject_public_key.data.as_ref() != public.public_key_raw() {
            return None;
        }
        let names = parsed
            .subject_alternative_name()
            .ok()??
            .value
            .general_names
            .iter()
            .filter_map(name_text)
            .collect();
        Some(Self {
            key: private_key(key)?,
            names,
            not_before: validity.not_before,
            not_after: validity.not_after,
            leaf,
        })
    }

    /// Whether it should be replaced: two thirds of its life have passed, it was
    /// made in the future, it is not for exactly the configured hosts, or another
    /// CA issued it.
    pub(super) fn is_due(
        &self,
        authority: &Authority,
        config: &PkiConfig,
        now: UnixMillis,
    ) -> bool {
        let life = self.not_after.since(self.not_before);
        let age = now.since(self.not_before);
        let mut wanted = authority::server_names(&config.hosts);
        let mut names = self.names.clone();
        wanted.sort();
        names.sort();
        now < self.not_before
            || millis(age) * 3 >= millis(life) * 2
            || names != wanted
            || !authority.is_issuer_of(&self.leaf)
    }

    /// What the server shows: its certificate, and the links that lead to it from
    /// older CAs among the trusted ones.
    pub(super) fn chain(
        &self,
        authority: &Authority,
        trusted: &[CertificateDer<'_>],
    ) -> (CertificateDer<'static>, Vec<CertificateDer<'static>>) {
        let links = if authority.is_issuer_of(&self.leaf) {
            authority.links_from(trusted).to_vec()
        } else {
            Vec::new()
        };
        (self.leaf.clone(), links)
    }

    /// What listeners use: clients' certificates may come from any of the trusted
    /// CAs, and who knows an older one of them is led to the one in use.
    pub(super) fn configs(
        &self,
        authority: &Authority,
        trusted: &[CertificateDer<'static>],
    ) -> Result<TlsConfigs, PkiError> {
        let mut roots = RootCertStore::empty();
        for certificate in trusted {
            roots
                .add(certificate.clone())
                .map_err(|error| make_error(WHAT, error))?;
        }
        let (leaf, links) = self.chain(authority, trusted);
        let chain = [vec![leaf], links].concat();
        let provider = Arc::new(default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()
                .map_err(|error| make_error(WHAT, error))?;
        let builder = || {
            ServerConfig::builder_with_provider(Arc::clone(&provider))
                .with_protocol_versions(&[&version::TLS13, &version::TLS12])
                .map_err(|error| make_error(WHAT, error))
        };
        let mut mqtt = builder()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), self.key.clone_key())
            .map_err(|error| make_error(WHAT, error))?;
        // Connections last for days, and a resumed one would skip the check that
        // the certificate still holds.
        mqtt.session_storage = Arc::new(NoServerSessionStorage {});
        mqtt.send_tls13_tickets = 0;
        let mut api = builder()?
            .with_no_client_auth()
            .with_single_cert(chain.clone(), self.key.clone_key())
            .map_err(|error| make_error(WHAT, error))?;
        // The API speaks HTTP/1.1 alone: see controller/decisions/0005.
        api.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsConfigs {
            mqtt: Arc::new(mqtt),
            api: Arc::new(api),
        })
    }
}

fn name_text(name: &GeneralName<'_>) -> Option<String> {
    if let GeneralName::DNSName(name) = name {
        Some((*name).to_owned())
    } else if let GeneralName::IPAddress(bytes) = name {
        let four = <[u8; 4]>::try_from(*bytes).map(std::net::IpAddr::from);
        let sixteen = <[u8; 16]>::try_from(*bytes).map(std::net::IpAddr::from);
        four.or(sixteen).ok().map(|address| address.to_string())
    } else {
        None
    }
}
