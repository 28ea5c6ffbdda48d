//! The domain's way to say no.

use protocol::ErrorCode;
use serde::{Deserialize, Serialize};

use protocol::limits::DETAIL_BYTES_MAX;

/// A request that the rules of the fleet do not allow. A normal answer, which is
/// recorded; not a fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{detail}")]
pub struct Rejection {
    /// The stable code.
    pub code: ErrorCode,
    /// What was asked and why it cannot be, for the caller to read. Names no
    /// secret.
    pub detail: String,
}

impl Rejection {
    /// A rejection; `detail` is a lowercase fragment that names the subject. It
    /// is cut at [`DETAIL_BYTES_MAX`], because rejections are recorded and parts
    /// of them come from the caller.
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: cut(detail.into(), DETAIL_BYTES_MAX),
        }
    }
}

/// `text` cut to at most `bytes_max` bytes at a character boundary.
pub(crate) fn cut(mut text: String, bytes_max: usize) -> String {
    if text.len() > bytes_max {
        let end = (0..=bytes_max)
            .rev()
            .find(|&index| text.is_char_boundary(index))
            .unwrap_or(0);
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_detail_is_cut_at_a_character() {
        assert_eq!(cut("aé".to_owned(), 2), "a");
        assert_eq!(cut("aé".to_owned(), 3), "aé");
        assert_eq!(cut("é".to_owned(), 0), "");
    }
}
