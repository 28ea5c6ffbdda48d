//! Starting the broker: the embedded one, or the client of yours.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::broker::embedded::{EmbeddedBroker, EmbeddedConfig};
use crate::broker::external::{ExternalBroker as Client, ExternalConfig, ParseAddressError};
use crate::broker::{Deliveries, Pipe};
use crate::cli::failure::CliFailure;
use crate::clock;
use crate::config::{BrokerMode, Config, ExternalBroker};
use crate::engine::Engine;
use crate::exit::Exit;
use crate::pki::Pki;
use crate::serve::store::host_of;
use crate::supervisor::{Stage, Supervisor};
use crate::uplink::FleetGate;

/// The pipe to nodes.
pub struct Broker {
    /// The sending half.
    pub pipe: Arc<dyn Pipe>,
    /// What nodes send.
    pub deliveries: Deliveries,
    /// Where the embedded broker listens for MQTT.
    pub address: Option<SocketAddr>,
    websocket: Option<SocketAddr>,
}

/// Starts the broker as configured.
///
/// # Errors
/// When an address cannot be listened on, or a file of the external broker's
/// TLS is wrong.
pub async fn start(
    supervisor: &mut Supervisor,
    config: &Config,
    pki: &Pki,
    engine: &Engine,
) -> Result<Broker, CliFailure> {
    match &config.broker.mode {
        BrokerMode::Embedded => embedded(supervisor, config, pki, engine).await,
        BrokerMode::External(external) => client(supervisor, external, pki, engine),
    }
}

async fn embedded(
    supervisor: &mut Supervisor,
    config: &Config,
    pki: &Pki,
    engine: &Engine,
) -> Result<Broker, CliFailure> {
    let settings = EmbeddedConfig {
        fleet: engine.fleet().id(),
        mqtt: vec![config.broker.listen],
        websocket: config.broker.websocket_listen.into_iter().collect(),
        connections_max: config.broker.connections_max,
    };
    let gate = Arc::new(FleetGate::new(engine.watch()));
    let (broker, deliveries) = EmbeddedBroker::start(settings, pki.mqtt_tls(), gate)
        .await
        .map_err(|error| {
            CliFailure::because(Exit::Unavailable, "the broker cannot start", &error)
                .advise("choose another address with broker.listen, or stop what listens there")
        })?;
    let bound = broker.addresses();
    let pipe = broker.pipe();
    let stop = supervisor.stop(Stage::Work);
    supervisor.start("broker", Stage::Work, Exit::Unavailable, async move {
        broker.run(stop).await;
        Ok::<(), std::convert::Infallible>(())
    });
    Ok(Broker {
        pipe,
        deliveries,
        address: bound.mqtt.first().copied(),
        websocket: bound.websocket.first().copied(),
    })
}

fn client(
    supervisor: &mut Supervisor,
    external: &ExternalBroker,
    pki: &Pki,
    engine: &Engine,
) -> Result<Broker, CliFailure> {
    let address = external
        .url
        .parse()
        .map_err(|error: ParseAddressError| wrong(error.to_string()))?;
    let credentials = match (&external.username, &external.password_file) {
        (Some(user), Some(file)) => {
            let password =
                std::fs::read_to_string(file).map_err(|error| unreadable(file, &error))?;
            Some((user.clone(), password.trim_end().to_owned()))
        }
        (Some(user), None) => Some((user.clone(), String::new())),
        (None, _) => None,
    };
    let (broker, deliveries) = Client::new(ExternalConfig {
        fleet: engine.fleet().id(),
        address,
        tls: Arc::new(client_tls(external, pki)?),
        credentials,
    });
    let pipe = broker.pipe();
    let stop = supervisor.stop(Stage::Work);
    supervisor.start("broker link", Stage::Work, Exit::Unavailable, async move {
        broker.run(stop).await;
        Ok::<(), std::convert::Infallible>(())
    });
    Ok(Broker {
        pipe,
        deliveries,
        address: None,
        websocket: None,
    })
}

/// TLS towards the external broker: its CA, or the fleet's; our certificate, or
/// one of the fleet CA.
fn client_tls(external: &ExternalBroker, pki: &Pki) -> Result<rustls::ClientConfig, CliFailure> {
    let authority = match &external.ca_file {
        Some(file) => std::fs::read(file).map_err(|error| unreadable(file, &error))?,
        None => pki.authorities_pem().into_bytes(),
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&authority) {
        let certificate =
            certificate.map_err(|error| wrong(format!("the broker's CA: {error}")))?;
        roots
            .add(certificate)
            .map_err(|error| wrong(format!("the broker's CA: {error}")))?;
    }
    let (chain, key) = match (&external.certificate_file, &external.key_file) {
        (Some(certificate), Some(key)) => (
            std::fs::read_to_string(certificate)
                .map_err(|error| unreadable(certificate, &error))?,
            std::fs::read_to_string(key).map_err(|error| unreadable(key, &error))?,
        ),
        (None, _) | (_, None) => pki
            .issue_controller_client(clock::now())
            .map_err(|error| CliFailure::because(Exit::Store, "no client certificate", &error))?,
    };
    let chain = CertificateDer::pem_slice_iter(chain.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| wrong(format!("the client certificate: {error}")))?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|error| wrong(format!("the client certificate's key: {error}")))?;
    rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(|error| wrong(format!("the client certificate: {error}")))
}

fn wrong(what: String) -> CliFailure {
    CliFailure::new(Exit::Config, what).advise("see broker.external in the configuration")
}

fn unreadable(file: &std::path::Path, error: &std::io::Error) -> CliFailure {
    CliFailure::because(
        Exit::Config,
        format_args!("cannot read {}", file.display()),
        error,
    )
}

impl Broker {
    /// The addresses told to nodes: as configured, else the listeners under the
    /// host that the API is advertised with.
    #[must_use]
    pub fn advertised(&self, config: &Config, api: &str) -> Vec<String> {
        if !config.broker.advertise.is_empty() {
            return config.broker.advertise.clone();
        }
        if let BrokerMode::External(external) = &config.broker.mode {
            return vec![external.url.clone()];
        }
        let host = host_of(api).unwrap_or("localhost");
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.to_owned()
        };
        let mqtt = self
            .address
            .map(|at| format!("mqtts://{host}:{}", at.port()));
        let websocket = self
            .websocket
            .map(|at| format!("wss://{host}:{}", at.port()));
        mqtt.into_iter().chain(websocket).collect()
    }
}
