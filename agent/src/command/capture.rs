//! What is kept of a command's output: its beginning and its end.
//!
//! A capture owns at most twice its limit in bytes however much the command
//! writes. **Invariant:** what is handed out never exceeds the limit, the place
//! of the cut is marked in the text, and the bytes left out are counted. It
//! cannot fail.

use std::collections::VecDeque;

/// The smallest limit that still leaves room for the mark and some text on
/// both sides of it, in bytes.
pub(crate) const CAPTURE_BYTES_MIN: usize = 256;

/// The longest mark that [`mark`] can print, in bytes.
pub(crate) const MARK_BYTES_MAX: usize = 48;

/// The beginning and the end of one output stream.
#[derive(Debug)]
pub(crate) struct Capture {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    limit: usize,
    total: u64,
}

impl Capture {
    /// Keeps up to `limit` bytes from each end.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            head: Vec::new(),
            tail: VecDeque::new(),
            limit: limit.max(CAPTURE_BYTES_MIN),
            total: 0,
        }
    }

    /// Takes the next bytes of the stream.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.total = self.total.saturating_add(bytes.len() as u64);
        let room = self.limit.saturating_sub(self.head.len());
        let (first, rest) = bytes.split_at(room.min(bytes.len()));
        self.head.extend_from_slice(first);
        let newest = rest.split_at(rest.len().saturating_sub(self.limit)).1;
        let overflow = (self.tail.len() + newest.len()).saturating_sub(self.limit);
        self.tail.drain(..overflow);
        self.tail.extend(newest);
    }

    /// How many bytes the stream has carried.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// The text within `limit` bytes, and how many bytes were left out.
    fn render(self, limit: usize) -> (Vec<u8>, u64) {
        let limit = limit.min(self.limit);
        if self.total <= limit as u64 {
            return (self.head, 0);
        }
        let room = limit.saturating_sub(MARK_BYTES_MAX);
        let head_len = (room / 2).min(self.head.len());
        let tail_len = room - head_len;
        // The stream's end may lie partly in the head when little was written
        // after the head had filled up.
        let from_tail = tail_len.min(self.tail.len());
        let from_head = (tail_len - from_tail).min(self.head.len() - head_len);
        let cut = self.total - (head_len + from_head + from_tail) as u64;
        let mut text = Vec::with_capacity(limit);
        text.extend(self.head.iter().take(head_len));
        text.extend_from_slice(mark(cut).as_bytes());
        text.extend(self.head.iter().skip(self.head.len() - from_head));
        text.extend(self.tail.iter().skip(self.tail.len() - from_tail));
        (text, cut)
    }
}

/// The line that stands where bytes were left out.
pub(crate) fn mark(cut: u64) -> String {
    format!("\n[... {cut} bytes cut ...]\n")
}

/// Fits both streams of a command within `limit` bytes together. Standard
/// error keeps at least a quarter when it needs it, since it says what failed;
/// neither stream takes room that the other does not use.
pub(crate) fn fit(stdout: Capture, stderr: Capture, limit: usize) -> Fitted {
    let limit = limit.max(CAPTURE_BYTES_MIN);
    let need = |capture: &Capture| usize::try_from(capture.total()).unwrap_or(usize::MAX);
    let spare = limit.saturating_sub(need(&stdout));
    let stderr_limit = need(&stderr).min(spare.max(limit / 4));
    let (stderr, stderr_cut) = stderr.render(stderr_limit);
    let (stdout, stdout_cut) = stdout.render(limit - stderr_limit);
    Fitted {
        stdout,
        stderr,
        cut: stdout_cut.saturating_add(stderr_cut),
    }
}

/// Output that fits a receipt.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Fitted {
    /// Standard output, with a mark where bytes were left out.
    pub(crate) stdout: Vec<u8>,
    /// Standard error, with a mark where bytes were left out.
    pub(crate) stderr: Vec<u8>,
    /// Bytes left out of both.
    pub(crate) cut: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn capture(limit: usize, bytes: &[u8], chunk: usize) -> Capture {
        let mut capture = Capture::new(limit);
        for piece in bytes.chunks(chunk) {
            capture.push(piece);
        }
        capture
    }

    fn numbered(len: usize) -> Vec<u8> {
        (b'a'..=b'z').cycle().take(len).collect()
    }

    #[test]
    fn short_output_is_kept_whole() {
        let fitted = fit(
            capture(1000, b"hello\n", 2),
            capture(1000, b"warning\n", 3),
            1000,
        );
        assert_eq!(fitted.stdout, b"hello\n");
        assert_eq!(fitted.stderr, b"warning\n");
        assert_eq!(fitted.cut, 0);
    }

    #[test]
    fn long_output_keeps_both_ends_and_says_how_much_is_missing() {
        let text = numbered(10_000);
        let fitted = fit(capture(1000, &text, 7), Capture::new(1000), 1000);
        assert!(fitted.stdout.len() <= 1000);
        assert!(fitted.stdout.starts_with(&text[..400]));
        assert!(fitted.stdout.ends_with(&text[9_600..]));
        let said = mark(fitted.cut);
        let shown = String::from_utf8(fitted.stdout.clone()).unwrap();
        assert!(shown.contains(&said), "no mark in {shown}");
        let kept = fitted.stdout.len() - said.len();
        assert_eq!(kept as u64 + fitted.cut, 10_000);
    }

    #[test]
    fn errors_keep_their_quarter_beside_endless_output() {
        let noise = numbered(100_000);
        let errors = numbered(250);
        let fitted = fit(capture(1000, &noise, 999), capture(1000, &errors, 10), 1000);
        assert_eq!(fitted.stderr, errors);
        assert!(fitted.stdout.len() <= 750);
    }

    #[test]
    fn mark_has_its_stated_bound() {
        assert!(mark(u64::MAX).len() <= MARK_BYTES_MAX);
    }

    proptest! {
        #[test]
        fn invariant_output_never_exceeds_the_limit_and_every_byte_is_counted(
            out in 0usize..5_000, err in 0usize..5_000, limit in 0usize..3_000, chunk in 1usize..700,
        ) {
            let (out, err) = (numbered(out), numbered(err));
            let limit_used = limit.max(CAPTURE_BYTES_MIN);
            let fitted = fit(capture(limit, &out, chunk), capture(limit, &err, chunk), limit);
            prop_assert!(fitted.stdout.len() + fitted.stderr.len() <= limit_used);
            let whole = (out.len() + err.len()) as u64;
            if whole <= limit_used as u64 {
                prop_assert_eq!(fitted.cut, 0);
                prop_assert_eq!(fitted.stdout, out);
                prop_assert_eq!(fitted.stderr, err);
            } else {
                prop_assert!(fitted.cut > 0 && fitted.cut <= whole);
            }
        }
    }
}
