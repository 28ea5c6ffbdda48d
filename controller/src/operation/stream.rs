//! Bytes that are made while they are read: exports, backups.

use std::error::Error;
use std::io::{self, Write};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Bytes as they are made. An error ends them, so that whoever reads them sees that
/// they are not whole.
pub(super) type Bytes = ReceiverStream<io::Result<Vec<u8>>>;

/// Chunks that wait for a slow reader. The writer waits when they are full.
const CHUNKS_MAX: usize = 8;

/// Size of a chunk, in bytes.
const CHUNK_BYTES: usize = 64 * 1024;

/// How long a reader may take no chunk. What is being written holds a moment of the
/// stores, so nobody may hold it for ever.
const READER_SILENT_MAX: Duration = Duration::from_secs(60);

/// Runs `write` on a thread of its own, and gives what it writes. It ends by itself:
/// with what there is to write, or when the reader goes or is silent.
pub(super) fn written<E: Error>(
    what: &'static str,
    write: impl FnOnce(&mut dyn Write) -> Result<(), E> + Send + 'static,
) -> Bytes {
    written_to(READER_SILENT_MAX, what, write)
}

fn written_to<E: Error>(
    silent_max: Duration,
    what: &'static str,
    write: impl FnOnce(&mut dyn Write) -> Result<(), E> + Send + 'static,
) -> Bytes {
    let (chunks, stream) = mpsc::channel(CHUNKS_MAX);
    let runtime = Handle::current();
    drop(tokio::task::spawn_blocking(move || {
        let mut writer = ChunkWriter {
            chunks,
            runtime,
            silent_max,
            buffer: Vec::with_capacity(CHUNK_BYTES),
        };
        let done = write(&mut writer);
        if let Err(error) = &done {
            tracing::warn!(error = super::failure::chain(error), "{what} broke off");
            writer.send(Err(io::Error::other("it broke off"))).ok();
        } else if writer.flush().is_err() {
            tracing::debug!("the reader of {what} went");
        }
    }));
    ReceiverStream::new(stream)
}

/// Hands what is written to a stream, in chunks.
struct ChunkWriter {
    chunks: mpsc::Sender<io::Result<Vec<u8>>>,
    runtime: Handle,
    silent_max: Duration,
    buffer: Vec<u8>,
}

impl ChunkWriter {
    fn send(&self, chunk: io::Result<Vec<u8>>) -> io::Result<()> {
        let sent = tokio::time::timeout(self.silent_max, self.chunks.send(chunk));
        match self.runtime.block_on(sent) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(io::ErrorKind::BrokenPipe.into()),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::take(&mut self.buffer);
        self.send(Ok(chunk))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;

    use super::*;

    /// Writes until nobody takes it.
    fn fill(to: &mut dyn Write) -> io::Error {
        loop {
            if let Err(error) = to.write_all(&[7; CHUNK_BYTES]) {
                return error;
            }
        }
    }

    #[tokio::test]
    async fn what_breaks_off_ends_with_an_error_after_what_was_written() {
        let mut stream = written("a test", |to| {
            to.write_all(&[7; 3 * CHUNK_BYTES])?;
            Err(io::Error::other("the disk"))
        });
        let mut bytes = 0;
        let error = loop {
            match stream.next().await.expect("it says that it is not whole") {
                Ok(chunk) => bytes += chunk.len(),
                Err(error) => break error,
            }
        };
        assert_eq!(bytes, 3 * CHUNK_BYTES);
        assert_eq!(error.to_string(), "it broke off");
        assert!(stream.next().await.is_none());
    }

    #[tokio::test]
    async fn a_reader_that_takes_nothing_does_not_hold_the_writer_for_ever() {
        let (ended, end) = tokio::sync::oneshot::channel();
        let stream = written_to(Duration::from_millis(50), "a test", move |to| {
            let error = fill(to);
            ended.send(error.kind()).ok();
            Err(error)
        });
        assert_eq!(end.await.unwrap(), io::ErrorKind::TimedOut);
        drop(stream);
    }

    #[tokio::test]
    async fn a_reader_that_goes_ends_the_writer() {
        let (ended, end) = tokio::sync::oneshot::channel();
        let stream = written("a test", move |to| {
            let error = fill(to);
            ended.send(error.kind()).ok();
            Err(error)
        });
        drop(stream);
        assert_eq!(end.await.unwrap(), io::ErrorKind::BrokenPipe);
    }
}
