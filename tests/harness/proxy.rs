//! A TCP proxy that stands between two parties and makes the network bad: it
//! holds bytes back, throws them away, cuts connections and refuses new ones.
//!
//! Bytes are never reordered or altered inside a connection: TLS would notice, and
//! a real network below TCP cannot do it either.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock;

/// What the proxy does with bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Weather {
    /// Passes everything on.
    Fair = 0,
    /// Keeps connections open and bytes back, as a silent partition does.
    Still = 1,
    /// Ends all connections and refuses new ones.
    Down = 2,
}

/// A running proxy. Dropping it ends its connections.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
}

struct Shared {
    weather: AtomicU8,
    delay_ms: AtomicU64,
    ended: AtomicBool,
    passed: AtomicU64,
    open: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    /// Listens on a free loopback port and passes everything to `target`.
    ///
    /// # Panics
    /// When loopback has no port left.
    pub fn to(target: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        listener
            .set_nonblocking(true)
            .expect("a socket can be set non-blocking");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            weather: AtomicU8::new(Weather::Fair as u8),
            delay_ms: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            passed: AtomicU64::new(0),
            open: Mutex::new(Vec::new()),
        });
        let inside = Arc::clone(&shared);
        let listener = std::thread::spawn(move || accept(&listener, target, &inside));
        Proxy {
            address,
            shared,
            listener: Some(listener),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes passed on so far, both ways.
    pub fn passed(&self) -> u64 {
        self.shared.passed.load(Ordering::Relaxed)
    }

    /// Changes the weather, for open connections too.
    pub fn set(&self, weather: Weather) {
        self.shared.weather.store(weather as u8, Ordering::Relaxed);
        if weather == Weather::Down {
            self.cut();
        }
    }

    /// Holds every piece of data back for `time`.
    pub fn delay(&self, time: Duration) {
        let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.shared.delay_ms.store(ms, Ordering::Relaxed);
    }

    /// Ends all open connections; new ones are welcome.
    pub fn cut(&self) {
        for stream in self.shared.drain() {
            let _already_closed = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        self.cut();
        if let Some(listener) = self.listener.take() {
            let _panicked = listener.join();
        }
    }
}

impl Shared {
    fn drain(&self) -> Vec<TcpStream> {
        match self.open.lock() {
            Ok(mut open) => std::mem::take(&mut *open),
            Err(poisoned) => std::mem::take(&mut *poisoned.into_inner()),
        }
    }

    fn keep(&self, stream: &TcpStream) {
        if let (Ok(copy), Ok(mut open)) = (stream.try_clone(), self.open.lock()) {
            open.push(copy);
        }
    }

    fn is(&self, weather: Weather) -> bool {
        self.weather.load(Ordering::Relaxed) == weather as u8
    }

    fn ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }
}

fn accept(listener: &TcpListener, target: SocketAddr, shared: &Arc<Shared>) {
    while !shared.ended() {
        match listener.accept() {
            Ok((client, _)) => {
                if !shared.is(Weather::Down) {
                    connect(client, target, shared);
                }
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => clock::pass(Duration::from_millis(5)),
            Err(_) => return,
        }
    }
}

/// Two threads a connection: tests have few. They end with the connection.
fn connect(client: TcpStream, target: SocketAddr, shared: &Arc<Shared>) {
    let Ok(server) = TcpStream::connect(target) else {
        return;
    };
    let blocking = client.set_nonblocking(false).is_ok();
    let copies = (client.try_clone(), server.try_clone());
    let (Ok(client_in), Ok(server_in), true) = (copies.0, copies.1, blocking) else {
        return;
    };
    shared.keep(&client);
    shared.keep(&server);
    for (from, to) in [(client_in, server), (server_in, client)] {
        let shared = Arc::clone(shared);
        let _ends_with_its_connection = std::thread::spawn(move || pass(from, to, &shared));
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, shared: &Shared) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(read) = from.read(&mut buffer) {
        if read == 0 {
            break;
        }
        while shared.is(Weather::Still) && !shared.ended() {
            clock::pass(Duration::from_millis(10));
        }
        let delay = shared.delay_ms.load(Ordering::Relaxed);
        if delay > 0 {
            clock::pass(Duration::from_millis(delay));
        }
        let bytes = buffer.get(..read).unwrap_or_default();
        if shared.ended() || to.write_all(bytes).is_err() {
            break;
        }
        let count = u64::try_from(read).unwrap_or(0);
        shared.passed.fetch_add(count, Ordering::Relaxed);
    }
    let _already_closed = (to.shutdown(Shutdown::Both), from.shutdown(Shutdown::Both));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten().take(3) {
                let mut back = stream.try_clone().unwrap();
                std::thread::spawn(move || std::io::copy(&mut &stream, &mut back).ok());
            }
        });
        address
    }

    fn says(stream: &mut TcpStream, word: &[u8]) -> bool {
        let mut back = vec![0; word.len()];
        stream
            .set_read_timeout(Some(Duration::from_millis(300)))
            .unwrap();
        stream.write_all(word).is_ok() && stream.read_exact(&mut back).is_ok() && back == word
    }

    #[test]
    fn fair_weather_passes_still_weather_holds_and_down_refuses() {
        let proxy = Proxy::to(echo());
        let mut stream = TcpStream::connect(proxy.address()).unwrap();
        assert!(says(&mut stream, b"hello"));
        assert_eq!(proxy.passed(), 10);
        proxy.set(Weather::Still);
        assert!(!says(&mut stream, b"held"));
        proxy.set(Weather::Down);
        assert!(!says(&mut stream, b"gone"));
        proxy.set(Weather::Fair);
        let mut stream = TcpStream::connect(proxy.address()).unwrap();
        assert!(says(&mut stream, b"again"));
    }
}
