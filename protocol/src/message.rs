//! What travels in an envelope: a kind, a version of that kind, and a payload.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Which message an envelope carries. Numbers are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind(pub u16);

impl Kind {
    /// [`crate::session::Hello`]
    pub const HELLO: Self = Self(1);
    /// [`crate::session::Welcome`]
    pub const WELCOME: Self = Self(2);
    /// [`crate::session::Heartbeat`]
    pub const HEARTBEAT: Self = Self(3);
    /// [`crate::session::Acks`]
    pub const ACKS: Self = Self(4);
    /// [`crate::session::Announce`]
    pub const ANNOUNCE: Self = Self(5);
    /// [`crate::session::Reject`]
    pub const REJECT: Self = Self(6);
    /// [`crate::stream::Upload`]
    pub const UPLOAD: Self = Self(7);
    /// [`crate::down::Down`]
    pub const DOWN: Self = Self(8);
    /// [`crate::command::Progress`]
    pub const PROGRESS: Self = Self(9);
    /// [`crate::session::LiveSamples`]
    pub const LIVE_SAMPLES: Self = Self(10);
    /// [`crate::join::Renew`], sent by HTTPS
    pub const RENEW: Self = Self(11);
    /// [`crate::policy::SignedPolicy`], on `all`
    pub const POLICY: Self = Self(12);
    /// [`crate::fetch::FetchFile`], sent by HTTPS
    pub const FETCH_FILE: Self = Self(13);
    /// [`crate::fetch::FetchArchive`], sent by HTTPS
    pub const FETCH_ARCHIVE: Self = Self(14);
    /// [`crate::fetch::FetchRelease`], sent by HTTPS
    pub const FETCH_RELEASE: Self = Self(15);
}

/// A payload of one kind, encoded with postcard.
///
/// Postcard is positional: a field that is added, removed or retyped makes a new
/// `VERSION`, and a reader keeps reading the older ones for as long as nodes that
/// send them exist.
pub trait Message: Serialize + DeserializeOwned {
    /// The kind, as in the envelope's header.
    const KIND: Kind;
    /// The version of this kind that this type is.
    const VERSION: u16;
}

/// A payload that is not what its header says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The header names another kind than the one that was asked for.
    #[error("kind {found} where {expected} was expected")]
    Kind {
        /// The kind in the header.
        found: u16,
        /// The kind asked for.
        expected: u16,
    },
    /// A version of the kind that this reader does not know.
    #[error("version {found} of kind {kind} is not known here (newest known: {known})")]
    Version {
        /// The kind.
        kind: u16,
        /// The version in the header.
        found: u16,
        /// The newest version known here.
        known: u16,
    },
    /// The payload is not a message of that kind and version.
    #[error("payload of kind {kind} version {version} is malformed: {reason}")]
    Malformed {
        /// The kind.
        kind: u16,
        /// The version.
        version: u16,
        /// What the decoder says.
        reason: String,
    },
}

/// Encodes a payload.
///
/// Messages hold only types that postcard can encode, so this cannot fail but
/// for memory.
#[must_use]
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect("message types hold only what postcard encodes")
}

/// Decodes a payload whose kind and version a header names.
///
/// Bytes left over are an error: they would be a newer version's fields.
///
/// # Errors
/// [`DecodeError`] when kind or version differ or the payload is malformed.
pub fn decode<M: Message>(kind: Kind, version: u16, payload: &[u8]) -> Result<M, DecodeError> {
    if kind != M::KIND {
        return Err(DecodeError::Kind {
            found: kind.0,
            expected: M::KIND.0,
        });
    }
    if version != M::VERSION {
        return Err(DecodeError::Version {
            kind: kind.0,
            found: version,
            known: M::VERSION,
        });
    }
    decode_exactly(payload).map_err(|reason| DecodeError::Malformed {
        kind: kind.0,
        version,
        reason,
    })
}

/// Decodes a value that fills the bytes exactly.
///
/// # Errors
/// What the decoder says, as text.
pub fn decode_exactly<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(format!("{} bytes are left over", rest.len())),
        Err(error) => Err(error.to_string()),
    }
}
