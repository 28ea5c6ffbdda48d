//! Foreign servers: an external broker, a Prometheus, a Docker engine.
//!
//! Each gives `None`, and says so, where its program is not installed; with
//! `FLOTILLA_REQUIRE_ALL` that is a failure. `tests/run` installs them.

use std::env;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::process::Process;
use crate::wait;

const START_LIMIT: Duration = Duration::from_secs(20);

/// Says that something was not tried, or fails where everything is required.
///
/// # Panics
/// When `FLOTILLA_REQUIRE_ALL` is set.
pub fn skipped(what: &str, why: &str) {
    assert!(
        env::var_os("FLOTILLA_REQUIRE_ALL").is_none(),
        "{what} is required, but {why}"
    );
    crate::say(&format!("not tried: {what}: {why}"));
}

/// The path of an installed program.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(name))
        .find(|file| file.is_file());
    if found.is_none() {
        skipped(name, "it is not installed");
    }
    found
}

/// A port that was free a moment ago, for programs that cannot tell which one they
/// took.
///
/// # Panics
/// When loopback has no port left.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("loopback has a free port")
        .port()
}

/// The socket of a Docker engine that tests may use.
pub fn docker() -> Option<PathBuf> {
    let socket = env::var_os("FLOTILLA_TEST_DOCKER").map(PathBuf::from);
    if socket.is_none() {
        skipped(
            "a Docker engine",
            "FLOTILLA_TEST_DOCKER names no socket (tests/run starts one)",
        );
    }
    socket
}

/// The certificates that a TLS server of the tests shows and trusts.
pub struct TlsFiles<'a> {
    /// CA of the clients.
    pub ca: &'a Path,
    /// The server's certificate chain.
    pub certificate: &'a Path,
    /// The server's private key.
    pub key: &'a Path,
}

/// A mosquitto that speaks TLS with client certificates.
pub struct Mosquitto {
    folder: TempDir,
    address: SocketAddr,
    controller: String,
    process: Option<Process>,
}

/// What the broker lets nodes read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hearing {
    /// Their own topic and what goes to all.
    Everything,
    /// Nothing: what is published to them is dropped in silence.
    Nothing,
}

impl Mosquitto {
    /// Starts one. Clients must show a certificate; nodes may use their own topics
    /// and the controller, whose certificate is named `controller`, all.
    ///
    /// # Panics
    /// When it is installed and does not start.
    pub fn start(tls: &TlsFiles<'_>, controller: &str) -> Option<Mosquitto> {
        program("mosquitto")?;
        let folder = TempDir::new().expect("the temporary folder is writable");
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        for (from, name) in [
            (tls.ca, "ca.pem"),
            (tls.certificate, "server.pem"),
            (tls.key, "server.key"),
        ] {
            fs::copy(from, folder.path().join(name)).expect("a certificate can be copied");
        }
        let place = folder.path().display();
        let config = format!(
            "listener {} 127.0.0.1\nallow_anonymous false\nrequire_certificate true\n\
             use_identity_as_username true\ncafile {place}/ca.pem\n\
             certfile {place}/server.pem\nkeyfile {place}/server.key\n\
             acl_file {place}/acl\npersistence false\nuser root\n",
            address.port()
        );
        fs::write(folder.path().join("mosquitto.conf"), config)
            .expect("a fresh folder is writable");
        let mut mosquitto = Mosquitto {
            folder,
            address,
            controller: controller.to_owned(),
            process: None,
        };
        mosquitto.write_rules(Hearing::Everything);
        mosquitto.run();
        Some(mosquitto)
    }

    /// Starts it again on the same port.
    ///
    /// # Panics
    /// When it does not listen within the limit.
    pub fn run(&mut self) {
        let program = program("mosquitto").expect("it was installed a moment ago");
        let mut command = Command::new(program);
        command
            .arg("-c")
            .arg(self.folder.path().join("mosquitto.conf"));
        let log = self.folder.path().join("log");
        let process = Process::start("mosquitto", &mut command, &log);
        self.process = Some(process);
        let address = self.address;
        wait::until_true("mosquitto listens", START_LIMIT, || {
            TcpStream::connect(address).is_ok()
        });
    }

    /// Changes what nodes may read, while their connections stay.
    ///
    /// # Panics
    /// When it does not run, or does not read its rules again.
    #[track_caller]
    pub fn let_nodes_hear(&self, hearing: Hearing) {
        let id = self.id().expect("mosquitto runs");
        let reloads = || self.output().matches("Reloading config").count();
        let before = reloads();
        self.write_rules(hearing);
        crate::process::signal(id, rustix::process::Signal::HUP);
        wait::until_true("mosquitto reads its rules", START_LIMIT, || {
            reloads() > before
        });
    }

    fn write_rules(&self, hearing: Hearing) {
        let controller = &self.controller;
        let mut rules = format!(
            "user {controller}\ntopic readwrite flotilla/#\n\n\
             pattern write flotilla/1/+/n/%u/up/#\n"
        );
        if hearing == Hearing::Everything {
            rules.push_str(
                "pattern read flotilla/1/+/n/%u/down\n\
                 pattern read flotilla/1/+/all\n",
            );
        }
        fs::write(self.folder.path().join("acl"), rules).expect("its folder is writable");
    }

    /// Ends it with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process id, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// What it logged.
    pub fn output(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

/// A Prometheus that takes remote writes.
pub struct Prometheus {
    _folder: TempDir,
    address: SocketAddr,
    _process: Process,
}

impl Prometheus {
    /// Starts one that scrapes nothing.
    ///
    /// # Panics
    /// When it is installed and does not start.
    pub fn start() -> Option<Prometheus> {
        let program = program("prometheus")?;
        let folder = TempDir::new().expect("the temporary folder is writable");
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let config = folder.path().join("prometheus.yml");
        fs::write(&config, "global: {}\n").expect("a fresh folder is writable");
        let mut command = Command::new(program);
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .arg("--web.enable-remote-write-receiver");
        let process = Process::start("prometheus", &mut command, &folder.path().join("log"));
        let ready = format!("http://{address}/-/ready");
        let client = plain_client();
        wait::until_true("prometheus is ready", START_LIMIT, || {
            let answer = client.get(&ready).send();
            answer.is_ok_and(|answer| answer.status().is_success())
        });
        Some(Prometheus {
            _folder: folder,
            address,
            _process: process,
        })
    }

    /// Where remote writes go.
    pub fn write_url(&self) -> String {
        format!("http://{}/api/v1/write", self.address)
    }

    /// Asks an instant query and gives the results.
    ///
    /// # Panics
    /// When it answers something else than JSON.
    pub fn query(&self, query: &str) -> Vec<serde_json::Value> {
        let url = format!("http://{}/api/v1/query", self.address);
        let answer = plain_client().get(url).query(&[("query", query)]).send();
        let text = answer.and_then(|a| a.text()).expect("prometheus answers");
        let answer: serde_json::Value = serde_json::from_str(&text).expect("an answer is JSON");
        answer["data"]["result"]
            .as_array()
            .cloned()
            .unwrap_or_default()
    }
}

fn plain_client() -> reqwest::blocking::Client {
    let _set_already = rustls::crypto::ring::default_provider().install_default();
    reqwest::blocking::Client::builder()
        .timeout(Duration::from_secs(5))
        .build()
        .expect("a client can be made")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prometheus_of_debians_answers() {
        if let Some(prometheus) = Prometheus::start() {
            assert!(prometheus.query("up").is_empty());
        }
    }
}
