//! systemd's end of the notify protocol: the socket that `NOTIFY_SOCKET` names.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use tempfile::TempDir;

/// A socket that keeps what a service says.
pub struct Notify {
    folder: TempDir,
    socket: UnixDatagram,
    said: Vec<String>,
}

impl Notify {
    /// Binds the socket.
    ///
    /// # Panics
    /// When the temporary folder is not writable.
    #[expect(clippy::new_without_default, reason = "it binds a socket")]
    pub fn new() -> Notify {
        let folder = TempDir::new().expect("the temporary folder is writable");
        let socket = UnixDatagram::bind(folder.path().join("notify"))
            .expect("a fresh folder takes a socket");
        socket
            .set_nonblocking(true)
            .expect("a socket can be set non-blocking");
        Notify {
            folder,
            socket,
            said: Vec::new(),
        }
    }

    /// What `NOTIFY_SOCKET` must say.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("notify")
    }

    /// The lines that were said so far, oldest first.
    pub fn said(&mut self) -> &[String] {
        let mut buffer = vec![0; 8192];
        while let Ok(count) = self.socket.recv(&mut buffer) {
            let text = String::from_utf8_lossy(buffer.get(..count).unwrap_or_default());
            self.said.extend(text.lines().map(str::to_owned));
        }
        &self.said
    }

    /// How often a line was said.
    pub fn count(&mut self, line: &str) -> usize {
        self.said().iter().filter(|said| *said == line).count()
    }
}
