//! Stands between an agent and its engine's socket, and holds one call that changes
//! something: before the engine has it, or once the engine has carried it out. An
//! agent that is killed while a call is held dies at exactly that step.
//!
//! It tells calls apart by how a request begins: clients of engines write each with
//! one write, and wait for the answer before the next on the same connection.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock;

const PAUSE: Duration = Duration::from_millis(5);

/// The requests that change something.
const CHANGING: [&[u8]; 2] = [b"POST ", b"DELETE "];

/// Where a call is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// The engine never gets it.
    Before,
    /// The engine has carried it out, and nobody hears of it.
    After,
}

/// A running relay. Dropping it ends its connections.
pub struct Relay {
    at: PathBuf,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
}

struct Shared {
    engine: PathBuf,
    /// Changing calls that are still let through before one is held; one more than
    /// there are when none is.
    left: AtomicUsize,
    when: Mutex<Hold>,
    changing: Mutex<Vec<String>>,
    holding: AtomicBool,
    ended: AtomicBool,
}

impl Relay {
    /// Listens at `at` and passes everything to the engine's socket.
    ///
    /// # Panics
    /// When the socket cannot be made.
    pub fn to(engine: &Path, at: &Path) -> Relay {
        let listener = UnixListener::bind(at).expect("a fresh folder takes a socket");
        listener
            .set_nonblocking(true)
            .expect("a socket can be set non-blocking");
        let shared = Arc::new(Shared {
            engine: engine.to_owned(),
            left: AtomicUsize::new(usize::MAX),
            when: Mutex::new(Hold::Before),
            changing: Mutex::default(),
            holding: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        });
        let inside = Arc::clone(&shared);
        let listener = std::thread::spawn(move || accept(&listener, &inside));
        Relay {
            at: at.to_owned(),
            shared,
            listener: Some(listener),
        }
    }

    /// The socket for the agent.
    pub fn socket(&self) -> &Path {
        &self.at
    }

    /// Holds a changing call after `passed` others.
    pub fn hold(&self, passed: usize, when: Hold) {
        *lock(&self.shared.when) = when;
        lock(&self.shared.changing).clear();
        self.shared.left.store(passed, Ordering::SeqCst);
    }

    /// The changing calls since, each by its first words.
    pub fn changing(&self) -> Vec<String> {
        lock(&self.shared.changing).clone()
    }

    /// Whether a call is held.
    pub fn is_holding(&self) -> bool {
        self.shared.holding.load(Ordering::SeqCst)
    }

    /// Holds no call any more; the connection of one that is held ends.
    pub fn let_go(&self) {
        self.shared.left.store(usize::MAX, Ordering::SeqCst);
        self.shared.holding.store(false, Ordering::SeqCst);
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.let_go();
        if let Some(listener) = self.listener.take() {
            let _panicked = listener.join();
        }
    }
}

impl Shared {
    /// What is to be done with a request: hold it, or nothing.
    fn judge(&self, request: &[u8]) -> Option<Hold> {
        if !CHANGING.iter().any(|verb| request.starts_with(verb)) {
            return None;
        }
        let line = request.split(|byte| *byte == b'\r').next();
        let line = String::from_utf8_lossy(line.unwrap_or_default()).into_owned();
        lock(&self.changing).push(line);
        let count = |left: usize| (left != usize::MAX).then(|| left.wrapping_sub(1));
        let before = self
            .left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, count);
        (before == Ok(0)).then(|| *lock(&self.when))
    }

    fn hold(&self) {
        self.holding.store(true, Ordering::SeqCst);
        while self.holding.load(Ordering::SeqCst) {
            clock::pass(PAUSE);
        }
    }
}

fn accept(listener: &UnixListener, shared: &Arc<Shared>) {
    while !shared.ended.load(Ordering::SeqCst) {
        match listener.accept() {
            Ok((client, _)) => connect(client, shared),
            Err(e) if e.kind() == ErrorKind::WouldBlock => clock::pass(PAUSE),
            Err(_) => return,
        }
    }
}

/// Two threads a connection, which end with it.
fn connect(client: UnixStream, shared: &Arc<Shared>) {
    // While the engine is away its socket refuses, and so does this.
    let Ok(engine) = UnixStream::connect(&shared.engine) else {
        return;
    };
    let blocking = client.set_nonblocking(false).is_ok();
    let (Ok(requests), Ok(forward), true) = (client.try_clone(), engine.try_clone(), blocking)
    else {
        return;
    };
    let swallow = Arc::new(AtomicBool::new(false));
    let (shared, swallowed) = (Arc::clone(shared), Arc::clone(&swallow));
    let inside = Arc::clone(&shared);
    let _ends_with_its_connection = std::thread::spawn(move || {
        pass(requests, forward, |request| match inside.judge(request) {
            Some(Hold::Before) => {
                inside.hold();
                false
            }
            Some(Hold::After) => {
                swallow.store(true, Ordering::SeqCst);
                true
            }
            None => true,
        });
    });
    let _ends_with_its_connection = std::thread::spawn(move || {
        pass(engine, client, |_| {
            let held = swallowed.load(Ordering::SeqCst);
            if held {
                shared.hold();
            }
            !held
        });
    });
}

/// Passes bytes on for as long as `goes_on` says of each piece.
fn pass(mut from: UnixStream, mut to: UnixStream, goes_on: impl Fn(&[u8]) -> bool) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read) = from.read(&mut buffer) {
        let bytes = buffer.get(..read).unwrap_or_default();
        if read == 0 || !goes_on(bytes) || to.write_all(bytes).is_err() {
            break;
        }
    }
    let _already_closed = (to.shutdown(Shutdown::Both), from.shutdown(Shutdown::Both));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait;

    /// An engine that answers every request, and remembers it.
    fn engine(at: &Path) -> Arc<Mutex<Vec<String>>> {
        let listener = UnixListener::bind(at).unwrap();
        let heard: Arc<Mutex<Vec<String>>> = Arc::default();
        let inside = Arc::clone(&heard);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten().take(8) {
                let mut buffer = [0; 64];
                while let Ok(read) = stream.read(&mut buffer)
                    && read > 0
                {
                    let text = String::from_utf8_lossy(&buffer[..read]).into_owned();
                    inside.lock().unwrap().push(text);
                    stream.write_all(b"done").unwrap();
                }
            }
        });
        heard
    }

    fn ask(relay: &Relay, request: &str) -> String {
        let mut stream = UnixStream::connect(relay.socket()).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut buffer = [0; 16];
        let read = stream.read(&mut buffer).unwrap_or(0);
        String::from_utf8_lossy(&buffer[..read]).into_owned()
    }

    #[test]
    fn a_call_is_held_before_or_after_the_engine_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let heard = engine(&folder.path().join("engine"));
        let relay = Relay::to(&folder.path().join("engine"), &folder.path().join("relay"));
        for (when, reaches) in [(Hold::Before, 2), (Hold::After, 3)] {
            heard.lock().unwrap().clear();
            relay.hold(1, when);
            assert!(relay.changing().is_empty());
            assert_eq!(ask(&relay, "GET /ps"), "done");
            assert_eq!(ask(&relay, "POST /create"), "done");
            std::thread::scope(|scope| {
                let held = scope.spawn(|| ask(&relay, "DELETE /old"));
                let limit = Duration::from_secs(10);
                wait::until_true("it is held", limit, || relay.is_holding());
                assert_eq!(heard.lock().unwrap().len(), reaches);
                assert_eq!(relay.changing(), ["POST /create", "DELETE /old"]);
                relay.let_go();
                assert_eq!(held.join().unwrap(), "", "nobody hears of it");
            });
            assert_eq!(heard.lock().unwrap().len(), reaches);
            assert_eq!(ask(&relay, "POST /create"), "done");
        }
    }
}
