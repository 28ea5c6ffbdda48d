//! Output while a command runs.
//!
//! **Invariant:** a command emits at most one chunk of each stream in a
//! [`TICK`], each within the wire's limit; what exceeds that is skipped and
//! shows as a jump of the offset, and a full channel drops the chunk. Progress
//! never slows the command: the receipt is what counts. It cannot fail.

use std::time::Duration;

use protocol::command::OutputStream;
use protocol::id::CommandId;
use protocol::limits::PROGRESS_BYTES_MAX;
use tokio::sync::mpsc;

use super::CommandEvent;

/// How often chunks are handed out: a person sees it as immediate, and with the
/// chunk's limit a command takes at most 64 KiB/s of the link.
pub(crate) const TICK: Duration = Duration::from_millis(250);

/// Hands out what a command writes.
#[derive(Debug)]
pub(crate) struct Progress {
    command: CommandId,
    events: mpsc::Sender<CommandEvent>,
    stdout: Pending,
    stderr: Pending,
}

#[derive(Debug, Default)]
struct Pending {
    /// Bytes that the stream had before `bytes`.
    offset: u64,
    /// Bytes that the stream has had in all.
    seen: u64,
    bytes: Vec<u8>,
}

impl Pending {
    fn push(&mut self, bytes: &[u8]) {
        if self.bytes.is_empty() {
            self.offset = self.seen;
        }
        // A chunk is contiguous: once one byte was skipped none follows.
        if self.offset + self.bytes.len() as u64 == self.seen {
            let room = PROGRESS_BYTES_MAX - self.bytes.len();
            self.bytes.extend(bytes.iter().take(room));
        }
        self.seen += bytes.len() as u64;
    }
}

impl Progress {
    pub(crate) fn new(command: CommandId, events: mpsc::Sender<CommandEvent>) -> Self {
        Self {
            command,
            events,
            stdout: Pending::default(),
            stderr: Pending::default(),
        }
    }

    /// Takes the next bytes of a stream.
    pub(crate) fn push(&mut self, stream: OutputStream, bytes: &[u8]) {
        match stream {
            OutputStream::Stdout => self.stdout.push(bytes),
            OutputStream::Stderr => self.stderr.push(bytes),
        }
    }

    /// Hands out what has gathered, once a [`TICK`].
    pub(crate) fn flush(&mut self) {
        let Self {
            command,
            events,
            stdout,
            stderr,
        } = self;
        for (stream, pending) in [
            (OutputStream::Stdout, stdout),
            (OutputStream::Stderr, stderr),
        ] {
            if pending.bytes.is_empty() {
                continue;
            }
            let event = CommandEvent::Output {
                command: *command,
                stream,
                offset: pending.offset,
                bytes: std::mem::take(&mut pending.bytes),
            };
            if events.try_send(event).is_err() {
                tracing::trace!(%command, "progress dropped");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(receiver: &mut mpsc::Receiver<CommandEvent>) -> Vec<(OutputStream, u64, usize)> {
        std::iter::from_fn(|| receiver.try_recv().ok())
            .filter_map(|event| match event {
                CommandEvent::Output {
                    stream,
                    offset,
                    bytes,
                    ..
                } => Some((stream, offset, bytes.len())),
                CommandEvent::Started { .. } | CommandEvent::Finished(_) => None,
            })
            .collect()
    }

    #[test]
    fn chunks_are_bounded_and_a_skip_shows_in_the_offset() {
        let (sender, mut receiver) = mpsc::channel(8);
        let mut progress = Progress::new(CommandId::NIL, sender);
        progress.push(OutputStream::Stdout, &[b'x'; PROGRESS_BYTES_MAX - 1]);
        progress.push(OutputStream::Stdout, b"abc");
        progress.push(OutputStream::Stdout, b"skipped");
        progress.push(OutputStream::Stderr, b"oops");
        progress.flush();
        progress.flush();
        progress.push(OutputStream::Stdout, b"later");
        progress.flush();
        let later = PROGRESS_BYTES_MAX as u64 - 1 + 3 + 7;
        assert_eq!(
            chunks(&mut receiver),
            [
                (OutputStream::Stdout, 0, PROGRESS_BYTES_MAX),
                (OutputStream::Stderr, 0, 4),
                (OutputStream::Stdout, later, 5),
            ]
        );
    }

    #[test]
    fn full_channel_drops_a_chunk_and_goes_on() {
        let (sender, mut receiver) = mpsc::channel(1);
        let mut progress = Progress::new(CommandId::NIL, sender);
        for text in ["one", "two"] {
            progress.push(OutputStream::Stdout, text.as_bytes());
            progress.flush();
        }
        assert_eq!(chunks(&mut receiver), [(OutputStream::Stdout, 0, 3)]);
        progress.push(OutputStream::Stdout, b"three");
        progress.flush();
        assert_eq!(chunks(&mut receiver), [(OutputStream::Stdout, 6, 5)]);
    }
}
