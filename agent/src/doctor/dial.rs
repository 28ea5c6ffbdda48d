//! A TLS connection by hand, with a deadline at each step and a name for the
//! step that fails.
//!
//! Blocking on purpose: the doctor is a program of its own, and must not need
//! what it examines.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, ClientConnection, StreamOwned};
use rustls_pki_types::ServerName;

use crate::config::Proxy;

/// Time for each step: to connect, to shake hands, to answer. What takes longer
/// is of no use to an agent either.
const STEP_MAX: Duration = Duration::from_secs(5);

/// Time in which a server says that it does not like the node's certificate: in
/// TLS 1.3 that comes after the handshake.
const OBJECTION_MAX: Duration = Duration::from_millis(500);

/// Longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// An open TLS connection.
pub(super) type Connection = StreamOwned<ClientConnection, TcpStream>;

/// Why there is no connection, by step.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("{0:?} is not host:port")]
    Address(String),
    #[error("the name {host:?} has no address")]
    Resolve {
        host: String,
        #[source]
        source: io::Error,
    },
    #[error("nobody answers at {address}")]
    Connect {
        address: String,
        #[source]
        source: io::Error,
    },
    #[error("the proxy does not connect to {address}: {answer}")]
    Proxy { address: String, answer: String },
    #[error("cannot read the proxy's password {path:?}")]
    Password {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("TLS with {address} fails")]
    Tls {
        address: String,
        #[source]
        source: io::Error,
    },
    #[error("{address} does not answer a request")]
    Answer {
        address: String,
        #[source]
        source: io::Error,
    },
}

impl DialError {
    /// What to do about it.
    pub(super) fn advice(&self) -> &'static str {
        match self {
            Self::Address(_) => "correct the address in the configuration",
            Self::Resolve { .. } => "look at the node's name service, or give an address",
            Self::Connect { .. } => {
                "is the controller running, and does a firewall let this node reach the port?"
            }
            Self::Proxy { .. } | Self::Password { .. } => {
                "correct the proxy and its login (uplink.proxy)"
            }
            Self::Tls { .. } => {
                "the certificates do not fit: look at 'certificate' and 'clock' here, and at the node's state on the controller (revoked?)"
            }
            Self::Answer { .. } => "something else may listen there: is the port right?",
        }
    }
}

/// Connects, through the proxy where there is one.
pub(super) fn dial(
    address: &str,
    proxy: Option<&Proxy>,
    tls: &Arc<ClientConfig>,
) -> Result<Connection, DialError> {
    let (host, _) = split(address)?;
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| DialError::Address(address.to_owned()))?;
    let stream = match proxy {
        None => connect(address)?,
        Some(proxy) => through(proxy, address)?,
    };
    let fail = |source| DialError::Tls {
        address: address.to_owned(),
        source,
    };
    let session = ClientConnection::new(Arc::clone(tls), name)
        .map_err(|error| fail(io::Error::other(error)))?;
    let mut connection = StreamOwned::new(session, stream);
    while connection.conn.is_handshaking() {
        connection
            .conn
            .complete_io(&mut connection.sock)
            .map_err(fail)?;
    }
    hear_objection(&mut connection).map_err(fail)?;
    Ok(connection)
}

/// A server that refuses the node's certificate says so now.
fn hear_objection(connection: &mut Connection) -> io::Result<()> {
    connection.sock.set_read_timeout(Some(OBJECTION_MAX))?;
    let heard = connection.conn.read_tls(&mut connection.sock);
    connection.sock.set_read_timeout(Some(STEP_MAX))?;
    match heard {
        Ok(0) => Err(io::Error::new(
            ErrorKind::ConnectionReset,
            "the server closed the connection after the handshake",
        )),
        Ok(_) => {
            connection
                .conn
                .process_new_packets()
                .map_err(io::Error::other)?;
            Ok(())
        }
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(()),
        Err(error) => Err(error),
    }
}

fn split(address: &str) -> Result<(&str, u16), DialError> {
    let refuse = || DialError::Address(address.to_owned());
    let (host, port) = address.rsplit_once(':').ok_or_else(refuse)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = port.parse().map_err(|_| refuse())?;
    if host.is_empty() {
        return Err(refuse());
    }
    Ok((host, port))
}

fn connect(address: &str) -> Result<TcpStream, DialError> {
    let (host, port) = split(address)?;
    let found = (host, port)
        .to_socket_addrs()
        .map_err(|source| DialError::Resolve {
            host: host.to_owned(),
            source,
        })?;
    let fail = |source| DialError::Connect {
        address: address.to_owned(),
        source,
    };
    let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for one in found {
        match TcpStream::connect_timeout(&one, STEP_MAX) {
            Ok(stream) => {
                stream.set_read_timeout(Some(STEP_MAX)).map_err(fail)?;
                stream.set_write_timeout(Some(STEP_MAX)).map_err(fail)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(fail(last))
}

fn through(proxy: &Proxy, address: &str) -> Result<TcpStream, DialError> {
    let mut stream = connect(&format!("{}:{}", proxy.host, proxy.port))?;
    let mut request = format!("CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n");
    if let Some((user, path)) = &proxy.login {
        let password = std::fs::read_to_string(path).map_err(|source| DialError::Password {
            path: path.clone(),
            source,
        })?;
        let login = format!("{user}:{}", password.trim_end());
        let login = data_encoding::BASE64.encode(login.as_bytes());
        request.push_str(&format!("Proxy-Authorization: Basic {login}\r\n"));
    }
    request.push_str("\r\n");
    let refuse = |answer: String| DialError::Proxy {
        address: address.to_owned(),
        answer,
    };
    stream
        .write_all(request.as_bytes())
        .map_err(|error| refuse(error.to_string()))?;
    let head = read_head(&mut stream).map_err(|error| refuse(error.to_string()))?;
    let first = head.lines().next().unwrap_or_default();
    if first.split(' ').nth(1) == Some("200") {
        Ok(stream)
    } else {
        Err(refuse(first.to_owned()))
    }
}

/// Reads up to the empty line that ends a head, and not a byte further.
fn read_head(stream: &mut impl Read) -> io::Result<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && (head.len() as u64) < ANSWER_BYTES_MAX {
        if stream.read(&mut byte)? == 0 {
            break;
        }
        head.extend_from_slice(&byte);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// The head of the answer to a GET.
pub(super) fn get(
    stream: &mut (impl Read + Write),
    host: &str,
    path: &str,
) -> Result<String, DialError> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: flotilla-agent doctor\r\nConnection: close\r\n\r\n"
    );
    let asked = stream
        .write_all(request.as_bytes())
        .and_then(|()| stream.flush())
        .and_then(|()| read_head(stream));
    asked.map_err(|source| DialError::Answer {
        address: host.to_owned(),
        source,
    })
}
