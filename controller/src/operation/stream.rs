//! Bytes that are made while they are read: exports, backups.

use std::error::Error;
use std::io::{self, Write};
use std::pin::Pin;
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt as _};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

use crate::clock;

/// Bytes as they are made. An error ends them, so that whoever reads them sees that
/// they are not whole.
pub type Bytes = Pin<Box<dyn Stream<Item = io::Result<Vec<u8>>> + Send>>;

/// Chunks that wait for a slow reader. The writer waits when they are full.
const CHUNKS_MAX: usize = 8;

/// Size of a chunk, in bytes.
const CHUNK_BYTES: usize = 64 * 1024;

/// How long a reader may take no chunk. What is being written holds a moment of the
/// stores, so nobody may hold it for ever.
const READER_SILENT_MAX: Duration = Duration::from_secs(60);

/// How long all of it may take: space that the stores give up meanwhile is not used
/// again. At a megabyte a second it is 20 GB.
const WHOLE_MAX: Duration = Duration::from_secs(6 * 3600);

/// Runs `write` on a thread of its own, and gives what it writes. It ends by itself:
/// with what there is to write, or when the reader goes, is silent or too slow.
pub(super) fn written<E: Error>(
    what: &'static str,
    write: impl FnOnce(&mut dyn Write) -> Result<(), E> + Send + 'static,
) -> Bytes {
    written_to(READER_SILENT_MAX, WHOLE_MAX, what, write)
}

fn written_to<E: Error>(
    silent_max: Duration,
    whole_max: Duration,
    what: &'static str,
    write: impl FnOnce(&mut dyn Write) -> Result<(), E> + Send + 'static,
) -> Bytes {
    let (chunks, stream) = mpsc::channel(CHUNKS_MAX);
    let (whole, ended) = oneshot::channel();
    let runtime = Handle::current();
    let end = clock::monotonic() + whole_max;
    drop(tokio::task::spawn_blocking(move || {
        let mut writer = ChunkWriter {
            chunks,
            runtime,
            silent_max,
            end,
            buffer: Vec::with_capacity(CHUNK_BYTES),
        };
        match write(&mut writer) {
            Err(error) => {
                tracing::warn!(error = super::failure::chain(&error), "{what} broke off");
            }
            Ok(()) if writer.flush().is_err() => tracing::debug!("the reader of {what} went"),
            // Nobody hears it where the reader has gone.
            Ok(()) => drop(whole.send(())),
        }
    }));
    // Behind the last chunk, so that it needs no room among them: bytes that simply
    // ended would look whole.
    let broken = futures_util::stream::once(ended).filter_map(|ended| {
        let broken = ended.is_err();
        std::future::ready(broken.then(|| Err(io::Error::other("it broke off"))))
    });
    let chunks = ReceiverStream::new(stream).map(Ok);
    Box::pin(chunks.chain(broken))
}

/// Hands what is written to a stream, in chunks.
struct ChunkWriter {
    chunks: mpsc::Sender<Vec<u8>>,
    runtime: Handle,
    silent_max: Duration,
    end: Instant,
    buffer: Vec<u8>,
}

impl ChunkWriter {
    fn send(&self, chunk: Vec<u8>) -> io::Result<()> {
        let left = self.end.saturating_duration_since(clock::monotonic());
        let sent = tokio::time::timeout(self.silent_max.min(left), self.chunks.send(chunk));
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
        self.send(chunk)
    }
}

#[cfg(test)]
mod tests {
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
        let silent_max = Duration::from_millis(50);
        let stream = written_to(silent_max, WHOLE_MAX, "a test", move |to| {
            let error = fill(to);
            ended.send(error.kind()).ok();
            Err(error)
        });
        assert_eq!(end.await.unwrap(), io::ErrorKind::TimedOut);
        drop(stream);
    }

    #[tokio::test]
    async fn a_reader_that_goes_on_slowly_does_not_either() {
        let (ended, mut end) = tokio::sync::oneshot::channel();
        let whole_max = Duration::from_millis(300);
        let mut stream = written_to(READER_SILENT_MAX, whole_max, "a test", move |to| {
            let error = fill(to);
            ended.send(error.kind()).ok();
            Err(error)
        });
        let kind = loop {
            tokio::select! {
                kind = &mut end => break kind.unwrap(),
                () = tokio::time::sleep(Duration::from_millis(20)) => {
                    stream.next().await.unwrap().unwrap();
                }
            }
        };
        assert_eq!(kind, io::ErrorKind::TimedOut);
        // Whoever still reads learns that it is not whole, though no chunk had room.
        let mut last = None;
        while let Some(chunk) = stream.next().await {
            last = Some(chunk);
        }
        assert!(last.unwrap().is_err());
    }

    #[tokio::test]
    async fn what_is_whole_ends_without_an_error() {
        let stream = written("a test", |to| to.write_all(&[7; 3 * CHUNK_BYTES + 1]));
        let chunks: Vec<_> = stream.collect().await;
        let bytes: usize = chunks
            .iter()
            .map(|chunk| chunk.as_ref().unwrap().len())
            .sum();
        assert_eq!(bytes, 3 * CHUNK_BYTES + 1);
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
