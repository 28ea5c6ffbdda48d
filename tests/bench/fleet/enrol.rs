//! Enrols the simulated nodes by the real API, as agents do: keys of their own, a
//! signing request, one HTTPS connection each, pinned to the fleet's CA.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use agent::node::Identity;
use anyhow::{Context as _, bail};
use data_encoding::BASE64URL_NOPAD;
use harness::clock;
use protocol::id::NodeId;
use protocol::join::{Admission, JoinRequest, JoinResponse, JoinToken};
use protocol::key::SigningKey;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::ClientConfig;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use crate::mqtt::Door;
use crate::node::Enrolled;

/// Loopback addresses to come from: each has ports of its own, and each counts as
/// a peer of its own where the controller limits peers.
const SOURCES: u8 = 32;

/// Joins under way at once.
const AT_ONCE: usize = 32;

/// A join that is refused for the moment is tried this often.
const TRIES: u32 = 5;

/// What enrolment took.
pub(crate) struct Joined {
    /// The nodes.
    pub(crate) nodes: Vec<Enrolled>,
    /// From the first request to the last answer.
    pub(crate) took: Duration,
    /// Milliseconds of each join, connection included.
    pub(crate) latencies: Vec<f64>,
}

struct Desk {
    token: JoinToken,
    clients: Vec<(IpAddr, reqwest::Client)>,
    provider: Arc<CryptoProvider>,
    next: AtomicUsize,
    count: usize,
}

/// The loopback address of the n-th node.
fn source(index: usize) -> IpAddr {
    let turn = u8::try_from(index % usize::from(SOURCES)).unwrap_or_default();
    IpAddr::V4(Ipv4Addr::new(127, 0, 1, turn + 1))
}

/// Enrols `count` nodes with one token.
pub(crate) fn enrol(
    runtime: &Handle,
    token: &str,
    ca_file: &Path,
    count: usize,
) -> anyhow::Result<Joined> {
    let pem = std::fs::read(ca_file).context("the CA file")?;
    let clients = (0..usize::from(SOURCES))
        .map(|index| Ok((source(index), client(source(index), &pem)?)))
        .collect::<anyhow::Result<_>>()?;
    let desk = Arc::new(Desk {
        token: token.parse().context("the token")?,
        clients,
        provider: Arc::new(rustls::crypto::ring::default_provider()),
        next: AtomicUsize::new(0),
        count,
    });
    let began = clock::now();
    let mut workers = JoinSet::new();
    for _ in 0..AT_ONCE {
        workers.spawn_on(work(Arc::clone(&desk)), runtime);
    }
    let done = runtime.block_on(workers.join_all());
    let took = began.elapsed();
    let mut nodes = Vec::with_capacity(count);
    let mut latencies = Vec::with_capacity(count);
    for part in done {
        for (node, latency) in part? {
            nodes.push(node);
            latencies.push(latency.as_secs_f64() * 1000.0);
        }
    }
    Ok(Joined {
        nodes,
        took,
        latencies,
    })
}

fn client(source: IpAddr, ca_pem: &[u8]) -> anyhow::Result<reqwest::Client> {
    let ca = reqwest::Certificate::from_pem_bundle(ca_pem).context("the CA file")?;
    reqwest::Client::builder()
        .tls_certs_only(ca)
        .local_address(source)
        // An agent joins once: each join has a connection of its own.
        .pool_max_idle_per_host(0)
        .timeout(Duration::from_secs(60))
        .build()
        .context("an HTTPS client")
}

async fn work(desk: Arc<Desk>) -> anyhow::Result<Vec<(Enrolled, Duration)>> {
    let mut done = Vec::new();
    loop {
        let index = desk.next.fetch_add(1, Ordering::Relaxed);
        if index >= desk.count {
            return Ok(done);
        }
        let began = clock::now();
        let node = desk
            .join(index)
            .await
            .with_context(|| format!("join number {index}"))?;
        done.push((node, began.elapsed()));
    }
}

impl Desk {
    async fn join(&self, index: usize) -> anyhow::Result<Enrolled> {
        let mut secret = [0; 32 + protocol::id::ID_BYTES];
        SystemRandom::new()
            .fill(&mut secret)
            .map_err(|_| anyhow::anyhow!("no randomness"))?;
        let (seed, id) = secret.split_first_chunk().context("32 bytes")?;
        let key = SigningKey::from_seed(seed)?;
        let node = NodeId::from_bytes(id.try_into()?);
        let tls_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let csr = CertificateParams::default()
            .serialize_request(&tls_key)?
            .pem()?;
        let proof = key.sign(&JoinRequest::proof_bytes(self.token.id, node, &csr));
        let request = JoinRequest {
            token: self.token.id,
            secret: BASE64URL_NOPAD.encode(&self.token.secret),
            node,
            name: format!("node-{index:05}"),
            csr,
            signing_key: key.public(),
            proof: BASE64URL_NOPAD.encode(&proof),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let (source, client) = self
            .clients
            .get(index % self.clients.len())
            .context("a client")?;
        let admission = self.ask(client, &request).await?;
        let trust = admission
            .trust
            .verify(&admission.root, admission.fleet, 0)?;
        let broker = broker(&admission)?;
        let door = Door {
            source: *source,
            broker,
            name: ServerName::from(broker.ip()),
            tls: self.tls(&trust.authorities, &admission, &tls_key)?,
            client: node.to_string(),
        };
        let identity = Identity {
            fleet: admission.fleet,
            node,
            key: Arc::new(key),
            root: admission.root,
            trust,
        };
        Ok(Enrolled { identity, door })
    }

    async fn ask(
        &self,
        client: &reqwest::Client,
        request: &JoinRequest,
    ) -> anyhow::Result<Admission> {
        let url = format!("https://{}/node/v1/join", self.token.address);
        let mut tries = 0;
        loop {
            tries += 1;
            let answer = client.post(&url).json(request).send().await?;
            let status = answer.status();
            if status.is_success() {
                return match answer.json().await? {
                    JoinResponse::Admitted(admission) => Ok(*admission),
                    JoinResponse::Pending { .. } => bail!("the token asks for approval"),
                };
            }
            if tries == TRIES || !(status.as_u16() == 429 || status.is_server_error()) {
                bail!("{status}: {}", answer.text().await.unwrap_or_default());
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    fn tls(
        &self,
        authorities: &[String],
        admission: &Admission,
        key: &KeyPair,
    ) -> anyhow::Result<Arc<ClientConfig>> {
        let mut roots = rustls::RootCertStore::empty();
        for ca in authorities {
            roots.add(CertificateDer::from_pem_slice(ca.as_bytes())?)?;
        }
        let provider = Arc::clone(&self.provider);
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()?;
        let chain = CertificateDer::pem_slice_iter(admission.certificate.as_bytes())
            .collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_webpki_verifier(verifier)
            .with_client_auth_cert(chain, key)?;
        // Every connection is a whole handshake: after a restart of the controller
        // no ticket of before holds.
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }
}

/// The first broker that speaks MQTT over TLS.
fn broker(admission: &Admission) -> anyhow::Result<SocketAddr> {
    let url = admission
        .brokers
        .iter()
        .find_map(|url| url.strip_prefix("mqtts://"))
        .with_context(|| format!("no mqtts:// among {:?}", admission.brokers))?;
    let (host, port) = url.rsplit_once(':').context("a port")?;
    let address = if host == "localhost" {
        "127.0.0.1"
    } else {
        host
    };
    Ok(SocketAddr::new(address.parse()?, port.parse()?))
}

/// Seconds since `began`, for messages.
pub(crate) fn seconds(began: Instant) -> String {
    format!("{:.1} s", began.elapsed().as_secs_f64())
}
