//! Turns layers into a checked [`Config`], or into every problem at once.
//!
//! Invariant: this is the only place that knows a key's name, default and
//! range. [`KEYS`] is derived from reading a default configuration, so a key
//! cannot be read without being known, nor known without being read.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use toml::Value;

use crate::backup::key::Recipient;
use crate::broker::external::ExternalAddress;
use crate::domain::audit::backup::RECIPIENTS_MAX;
use crate::layout;
use crate::outbound::address::Network;

use super::raw::{Layers, Origin, Problem};
use super::{
    ApiConfig, BackupConfig, BrokerConfig, BrokerMode, Config, ExternalBroker, JournalConfig,
    LogConfig, LogFormat, NotifyConfig, OutboundConfig, PkiConfig, RemoteWrite, SeriesConfig,
    SessionConfig,
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const KIB: u64 = 1024;
const MIB: u64 = 1024 * 1024;

/// Every key that exists, in no particular order.
static KEYS: LazyLock<BTreeSet<&'static str>> = LazyLock::new(|| {
    let mut reader = Reader::new(&NOTHING);
    read(&mut reader);
    reader.known
});

static NOTHING: LazyLock<Layers> = LazyLock::new(Layers::default);

/// Every key that exists.
#[must_use]
pub fn keys() -> Vec<&'static str> {
    KEYS.iter().copied().collect()
}

/// Checks the layers.
///
/// # Errors
/// Every problem found, in the order of their keys.
pub(super) fn check(layers: &Layers) -> Result<Config, Vec<Problem>> {
    let mut reader = Reader::new(layers);
    let config = read(&mut reader);
    let mut problems = reader.problems;
    problems.extend(layers.unknown(&KEYS));
    problems.sort_by(|a, b| a.key.cmp(&b.key));
    if problems.is_empty() {
        Ok(config)
    } else {
        Err(problems)
    }
}

fn read(r: &mut Reader<'_>) -> Config {
    let state_dir = r.path("state_dir", "/var/lib/flotilla");
    let api = api(r);
    let broker = broker(r);
    let pki = PkiConfig {
        dir: r
            .optional_path("pki.dir")
            .unwrap_or_else(|| state_dir.join(layout::PKI)),
        node_certificate_life: r.duration(
            "pki.node_certificate_life",
            90 * DAY,
            SECOND..=3650 * DAY,
        ),
        server_certificate_life: r.duration(
            "pki.server_certificate_life",
            90 * DAY,
            SECOND..=3650 * DAY,
        ),
        rotation_overlap: r.duration("pki.rotation_overlap", 7 * DAY, SECOND..=365 * DAY),
    };
    let journal = JournalConfig {
        checkpoint_every: r.integer("journal.checkpoint_every", 1024, 1..=1_000_000),
        snapshot_every: r.integer("journal.snapshot_every", 10_000, 100..=10_000_000),
    };
    let session = SessionConfig {
        heartbeat: r.duration("session.heartbeat", 15 * SECOND, SECOND..=5 * MINUTE),
        clock_error_max: r.duration("session.clock_error_max", 30 * SECOND, SECOND..=DAY),
    };
    let notify = notify(r, session.heartbeat);
    let series = series(r);
    let outbound = OutboundConfig {
        allow: r.networks("outbound.allow"),
    };
    let backup = BackupConfig {
        recipients: r.recipients("backup.recipients"),
    };
    let log = LogConfig {
        format: r.choice(
            "log.format",
            "auto",
            &[
                ("auto", LogFormat::Auto),
                ("journald", LogFormat::Journald),
                ("text", LogFormat::Text),
                ("json", LogFormat::Json),
            ],
        ),
        filter: r.text("log.filter", "info"),
    };
    Config {
        state_dir,
        api,
        broker,
        pki,
        journal,
        session,
        notify,
        series,
        outbound,
        backup,
        log,
    }
}

fn api(r: &mut Reader<'_>) -> ApiConfig {
    ApiConfig {
        listen: r.address("api.listen", any(8443)),
        names: r.names("api.names"),
        advertise: r.optional_host_port("api.advertise"),
        handshake_timeout: r.duration("api.handshake_timeout", 10 * SECOND, SECOND..=MINUTE),
        header_timeout: r.duration("api.header_timeout", 10 * SECOND, SECOND..=MINUTE),
        body_timeout: r.duration("api.body_timeout", 20 * SECOND, SECOND..=10 * MINUTE),
        body_bytes_max: r.integer("api.body_bytes_max", 256 * KIB, KIB..=16 * MIB),
        connections_max: r.integer("api.connections_max", 4096, 8..=100_000),
        connections_per_address_max: r.integer("api.connections_per_address_max", 256, 1..=100_000),
        key_requests_per_minute: r.integer("api.key_requests_per_minute", 1200, 1..=1_000_000),
        address_requests_per_minute: r.integer(
            "api.address_requests_per_minute",
            2400,
            1..=1_000_000,
        ),
        metrics_anonymous: r.flag("api.metrics_anonymous", false),
    }
}

fn broker(r: &mut Reader<'_>) -> BrokerConfig {
    let mode = r.choice(
        "broker.mode",
        "embedded",
        &[("embedded", false), ("external", true)],
    );
    let url = r.optional_text("broker.external.url");
    let external = ExternalBroker {
        url: url.clone().unwrap_or_default(),
        ca_file: r.optional_path("broker.external.ca_file"),
        certificate_file: r.optional_path("broker.external.certificate_file"),
        key_file: r.optional_path("broker.external.key_file"),
        username: r.optional_text("broker.external.username"),
        password_file: r.optional_path("broker.external.password_file"),
    };
    if mode && url.is_none() {
        r.problem(
            "broker.external.url",
            "needed when broker.mode is \"external\", for instance mqtts://broker.example.net:8883",
        );
    }
    if let Some(url) = &url
        && url.parse::<ExternalAddress>().is_err()
    {
        r.problem(
            "broker.external.url",
            "must be mqtts://host:port or wss://host:port/path: the link is always encrypted",
        );
    }
    if external.certificate_file.is_some() != external.key_file.is_some() {
        r.problem(
            "broker.external.certificate_file",
            "certificate_file and key_file go together",
        );
    }
    BrokerConfig {
        mode: if mode {
            BrokerMode::External(external)
        } else {
            BrokerMode::Embedded
        },
        listen: r.address("broker.listen", any(8883)),
        websocket_listen: r.optional_address("broker.websocket_listen"),
        advertise: r.list("broker.advertise"),
        connections_max: r.integer("broker.connections_max", 20_000, 8..=1_000_000),
    }
}

/// A node that is late with two heartbeats is not silent.
const SILENT_HEARTBEATS: u32 = 3;

fn notify(r: &mut Reader<'_>, heartbeat: Duration) -> NotifyConfig {
    let key = "notify.silent_after";
    let silent_after = r.duration(key, 5 * MINUTE, SECOND..=7 * DAY);
    if silent_after < heartbeat * SILENT_HEARTBEATS {
        r.problem(
            key,
            "it must be at least three times session.heartbeat, or nodes would be silent now and then",
        );
    }
    NotifyConfig { silent_after }
}

fn series(r: &mut Reader<'_>) -> SeriesConfig {
    let url = r.optional_text("series.remote_write.url");
    let bearer_token_file = r.optional_path("series.remote_write.bearer_token_file");
    let ca_file = r.optional_path("series.remote_write.ca_file");
    if let Some(url) = &url
        && !(url.starts_with("http://") || url.starts_with("https://"))
    {
        r.problem(
            "series.remote_write.url",
            "must begin with http:// or https://",
        );
    }
    SeriesConfig {
        retention: r.duration("series.retention", 7 * DAY, HOUR..=3650 * DAY),
        retention_rollup: r.duration("series.retention_rollup", 90 * DAY, HOUR..=3650 * DAY),
        bytes_max: r.integer("series.bytes_max", 4096 * MIB, MIB..=u64::MAX >> 12),
        remote_write: url.map(|url| RemoteWrite {
            url,
            bearer_token_file,
            ca_file,
        }),
    }
}

fn any(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)
}

/// Reads keys one by one, remembering each and collecting what is wrong.
struct Reader<'a> {
    layers: &'a Layers,
    known: BTreeSet<&'static str>,
    problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    fn new(layers: &'a Layers) -> Self {
        Self {
            layers,
            known: BTreeSet::new(),
            problems: Vec::new(),
        }
    }

    fn take(&mut self, key: &'static str) -> Option<(&'a Value, &'a Origin)> {
        self.known.insert(key);
        self.layers.get(key)
    }

    fn problem(&mut self, key: &str, detail: &str) {
        self.problems.push(Problem {
            key: key.to_owned(),
            detail: detail.to_owned(),
        });
    }

    fn wrong(&mut self, key: &str, value: &Value, origin: &Origin, wanted: impl Display) {
        self.problem(key, &format!("{value} (in {origin}) is not {wanted}"));
    }

    fn optional_text(&mut self, key: &'static str) -> Option<String> {
        let (value, origin) = self.take(key)?;
        match value {
            Value::String(text) if !text.is_empty() => Some(text.clone()),
            Value::Integer(number) => Some(number.to_string()),
            Value::String(_)
            | Value::Float(_)
            | Value::Boolean(_)
            | Value::Datetime(_)
            | Value::Array(_)
            | Value::Table(_) => {
                self.wrong(key, value, origin, "a text");
                None
            }
        }
    }

    fn text(&mut self, key: &'static str, default: &str) -> String {
        self.optional_text(key)
            .unwrap_or_else(|| default.to_owned())
    }

    fn optional_path(&mut self, key: &'static str) -> Option<PathBuf> {
        let path = PathBuf::from(self.optional_text(key)?);
        if path.is_absolute() {
            Some(path)
        } else {
            self.problem(key, &format!("{} is not an absolute path", path.display()));
            None
        }
    }

    fn path(&mut self, key: &'static str, default: &str) -> PathBuf {
        self.optional_path(key).unwrap_or_else(|| default.into())
    }

    fn flag(&mut self, key: &'static str, default: bool) -> bool {
        match self.take(key) {
            None => default,
            Some((Value::Boolean(flag), _)) => *flag,
            Some((value, origin)) => {
                self.wrong(key, value, origin, "true or false");
                default
            }
        }
    }

    fn integer<N>(&mut self, key: &'static str, default: N, range: RangeInclusive<N>) -> N
    where
        N: TryFrom<i64> + PartialOrd + Display + Copy,
    {
        let Some((value, origin)) = self.take(key) else {
            return default;
        };
        let number = value
            .as_integer()
            .and_then(|number| N::try_from(number).ok());
        match number {
            Some(number) if range.contains(&number) => number,
            _ => {
                let wanted = format!("a number from {} to {}", range.start(), range.end());
                self.wrong(key, value, origin, wanted);
                default
            }
        }
    }

    fn duration(
        &mut self,
        key: &'static str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let Some((value, origin)) = self.take(key) else {
            return default;
        };
        let duration = value
            .as_str()
            .and_then(|text| humantime::parse_duration(text).ok());
        match duration {
            Some(duration) if range.contains(&duration) => duration,
            _ => {
                let wanted = format!(
                    "a duration from {} to {}, such as \"30s\" or \"12h\"",
                    humantime::format_duration(*range.start()),
                    humantime::format_duration(*range.end())
                );
                self.wrong(key, value, origin, wanted);
                default
            }
        }
    }

    fn optional_address(&mut self, key: &'static str) -> Option<SocketAddr> {
        let (value, origin) = self.take(key)?;
        let address = value.as_str().and_then(|text| text.parse().ok());
        if address.is_none() {
            self.wrong(
                key,
                value,
                origin,
                "an address and port, such as \"0.0.0.0:8443\" or \"[::]:8443\"",
            );
        }
        address
    }

    fn address(&mut self, key: &'static str, default: SocketAddr) -> SocketAddr {
        self.optional_address(key).unwrap_or(default)
    }

    fn optional_host_port(&mut self, key: &'static str) -> Option<String> {
        let (value, origin) = self.take(key)?;
        let good = value
            .as_str()
            .and_then(|text| text.rsplit_once(':'))
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        if !good {
            self.wrong(
                key,
                value,
                origin,
                "a host and port, such as \"fleet.example.net:8443\"",
            );
            return None;
        }
        value.as_str().map(str::to_owned)
    }

    fn list(&mut self, key: &'static str) -> Vec<String> {
        let Some((value, origin)) = self.take(key) else {
            return Vec::new();
        };
        let texts = if let Some(text) = value.as_str() {
            Some(text.split(',').map(|one| one.trim().to_owned()).collect())
        } else {
            value.as_array().and_then(|values| {
                values
                    .iter()
                    .map(|one| one.as_str().map(str::to_owned))
                    .collect()
            })
        };
        texts.unwrap_or_else(|| {
            self.wrong(key, value, origin, "a list of texts");
            Vec::new()
        })
    }

    fn networks(&mut self, key: &'static str) -> Vec<Network> {
        self.list(key)
            .iter()
            .filter_map(|text| match text.parse() {
                Ok(network) => Some(network),
                Err(error) => {
                    self.problem(key, &format!("{error}"));
                    None
                }
            })
            .collect()
    }

    fn recipients(&mut self, key: &'static str) -> Vec<Recipient> {
        let texts = self.list(key);
        if texts.len() > RECIPIENTS_MAX {
            self.problem(
                key,
                &format!("{} are more than {RECIPIENTS_MAX}", texts.len()),
            );
        }
        texts
            .iter()
            .filter_map(|text| match text.parse() {
                Ok(recipient) => Some(recipient),
                Err(error) => {
                    self.problem(key, &format!("{error}"));
                    None
                }
            })
            .collect()
    }

    /// DNS names and addresses for a certificate.
    fn names(&mut self, key: &'static str) -> Vec<String> {
        let names = self.list(key);
        for name in &names {
            let plain = name.parse::<IpAddr>().is_ok()
                || (!name.is_empty()
                    && name
                        .chars()
                        .all(|c| c.is_ascii_alphanumeric() || c == '.' || c == '-'));
            if !plain {
                self.problem(
                    key,
                    &format!("{name:?} is neither a DNS name nor an address"),
                );
            }
        }
        names
    }

    fn choice<T: Clone>(&mut self, key: &'static str, default: &str, choices: &[(&str, T)]) -> T {
        let given = self.take(key);
        let text = given.map_or(Some(default), |(value, _)| value.as_str());
        let found = choices
            .iter()
            .find(|(name, _)| Some(*name) == text)
            .map(|(_, choice)| choice.clone());
        found.unwrap_or_else(|| {
            if let Some((value, origin)) = given {
                let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
                self.wrong(key, value, origin, format!("one of {}", names.join(", ")));
            }
            choices[0].1.clone()
        })
    }
}
