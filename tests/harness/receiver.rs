//! A receiver of notices, as anyone would write one: HTTPS, a signature that is
//! checked by the Standard Webhooks specification alone, and an answer.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;
use serde_json::Value;
use tempfile::TempDir;

use crate::clock;

/// How long a request may take to arrive.
const READ_LIMIT: Duration = Duration::from_secs(5);

/// How often the listener looks whether it is to end.
const PAUSE: Duration = Duration::from_millis(10);

/// What the receiver does with requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Answers with this status.
    Answers(u16),
    /// Takes the request, and holds the connection without a word.
    Hangs,
}

/// A request, as it came.
#[derive(Clone, Debug)]
pub struct Got {
    /// `webhook-id`.
    pub id: String,
    /// `webhook-timestamp`.
    pub timestamp: String,
    /// `webhook-signature`.
    pub signature: String,
    /// The body's bytes.
    pub bytes: Vec<u8>,
    /// The body.
    pub body: Value,
}

/// A running receiver. Dropping it ends it.
pub struct Receiver {
    folder: TempDir,
    url: String,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
}

struct Shared {
    tls: Arc<ServerConfig>,
    ended: AtomicBool,
    manner: Mutex<Manner>,
    got: Mutex<Vec<Got>>,
    /// Connections that are held without a word.
    held: Mutex<Vec<TcpStream>>,
}

impl Receiver {
    /// Listens on a free loopback port, with a certificate of a CA of its own.
    ///
    /// # Panics
    /// When loopback has no port left, or no certificate can be made.
    pub fn start() -> Receiver {
        let folder = TempDir::new().expect("the temporary folder is writable");
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        listener
            .set_nonblocking(true)
            .expect("a socket can be set non-blocking");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            tls: tls(folder.path()),
            ended: AtomicBool::new(false),
            manner: Mutex::new(Manner::Answers(204)),
            got: Mutex::default(),
            held: Mutex::default(),
        });
        let inside = Arc::clone(&shared);
        let listener = std::thread::spawn(move || inside.accept(&listener));
        Receiver {
            folder,
            url: format!("https://localhost:{}/hook", address.port()),
            shared,
            listener: Some(listener),
        }
    }

    /// Where notices are to be posted to.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The CA of its certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// What it does from the next request on.
    pub fn set(&self, manner: Manner) {
        *lock(&self.shared.manner) = manner;
    }

    /// The requests so far.
    pub fn got(&self) -> Vec<Got> {
        lock(&self.shared.got).clone()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        if let Some(listener) = self.listener.take() {
            let _panicked = listener.join();
        }
    }
}

impl Got {
    /// Whether the signature is of this secret: what README shows, in Rust.
    pub fn verifies(&self, secret: &str) -> bool {
        let Some(key) = secret
            .strip_prefix("whsec_")
            .and_then(|key| data_encoding::BASE64.decode(key.as_bytes()).ok())
        else {
            return false;
        };
        let mut signed = format!("{}.{}.", self.id, self.timestamp).into_bytes();
        signed.extend_from_slice(&self.bytes);
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &key);
        self.signature
            .split(' ')
            .filter_map(|signature| signature.strip_prefix("v1,"))
            .filter_map(|tag| data_encoding::BASE64.decode(tag.as_bytes()).ok())
            .any(|tag| ring::hmac::verify(&key, &signed, &tag).is_ok())
    }
}

impl Shared {
    fn accept(&self, listener: &TcpListener) {
        while !self.ended.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok((stream, _)) => {
                    // A connection that breaks is the sender's to try again.
                    let _broken = self.serve(stream);
                }
                Err(_nobody) => clock::pass(PAUSE),
            }
        }
    }

    fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(READ_LIMIT))?;
        let kept = stream.try_clone()?;
        let connection =
            rustls::ServerConnection::new(Arc::clone(&self.tls)).map_err(std::io::Error::other)?;
        let mut tls = rustls::StreamOwned::new(connection, stream);
        let got = read(&mut tls)?;
        lock(&self.got).push(got);
        let manner = *lock(&self.manner);
        match manner {
            Manner::Answers(status) => {
                write!(
                    tls,
                    "HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                )?;
                tls.conn.send_close_notify();
                tls.flush()
            }
            Manner::Hangs => {
                lock(&self.held).push(kept);
                Ok(())
            }
        }
    }
}

fn read(stream: &mut impl Read) -> std::io::Result<Got> {
    let mut bytes = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let count = stream.read(&mut piece)?;
        if count == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend(piece.iter().take(count));
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, _)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let header = |name: &str| {
            head.lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(found, _)| found.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.trim().to_owned())
                .unwrap_or_default()
        };
        let length: usize = header("content-length").parse().unwrap_or(0);
        let body = bytes.get(head.len() + 4..).unwrap_or_default();
        if body.len() >= length {
            return Ok(Got {
                id: header("webhook-id"),
                timestamp: header("webhook-timestamp"),
                signature: header("webhook-signature"),
                bytes: body.to_vec(),
                body: serde_json::from_slice(body).unwrap_or_default(),
            });
        }
    }
}

/// A CA, whose certificate is written down, and a certificate of it for localhost.
fn tls(folder: &Path) -> Arc<ServerConfig> {
    let make = || -> Result<ServerConfig, Box<dyn std::error::Error>> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&key)?;
        std::fs::write(folder.join("ca.pem"), ca.pem())?;
        let issuer = Issuer::new(params, key);
        let own = KeyPair::generate()?;
        let certificate =
            CertificateParams::new(vec!["localhost".to_owned()])?.signed_by(&own, &issuer)?;
        let private = PrivateKeyDer::try_from(own.serialize_der())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)?;
        Ok(config)
    };
    match make() {
        Ok(config) => Arc::new(config),
        Err(error) => panic!("the receiver has no certificate: {error}"),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
