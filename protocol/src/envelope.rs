//! The signed envelope around every message, in both directions.
//!
//! ```text
//! offset  bytes  field
//!      0      2  magic "FL"
//!      2      2  kind                  (integers are little-endian)
//!      4      2  version of the kind
//!      6      4  payload length
//!     10     10  fleet
//!     20     10  sender: a node, or zeroes for the controller
//!     30      8  key id
//!     38      8  counter
//!     46      8  sent at, milliseconds on the sender's clock
//!     54      n  payload
//!   54+n     64  Ed25519 signature over all bytes before it
//! ```
//!
//! The header decodes without any enum, so a reader can answer a kind or version
//! that it does not know. The signature covers the bytes as sent: a broker, or
//! whoever owns it, can drop or delay messages, but cannot forge, replay or
//! reorder them unnoticed.
//!
//! **Invariant:** [`open`] yields nothing of a payload whose signature does not
//! hold. Freshness is the receiver's, by [`crate::replay::ReplayWindow`].

use crate::ErrorCode;
use crate::id::{FleetId, ID_BYTES, NodeId};
use crate::key::{KeyId, PublicKey, SIGNATURE_BYTES, SigningKey};
use crate::limits::ENVELOPE_BYTES_MAX;
use crate::message::{self, DecodeError, Kind, Message};
use crate::time::UnixMillis;

const MAGIC: [u8; 2] = *b"FL";

/// Bytes before the payload.
pub const HEADER_BYTES: usize = 54;

/// Bytes that an envelope adds to its payload.
pub const OVERHEAD_BYTES: usize = HEADER_BYTES + SIGNATURE_BYTES;

/// The outer header of an envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the payload is.
    pub kind: Kind,
    /// Which version of it.
    pub version: u16,
    /// The fleet that it belongs to.
    pub fleet: FleetId,
    /// Who sent it; [`NodeId::NIL`] is the controller.
    pub sender: NodeId,
    /// Which of the sender's keys signed.
    pub key: KeyId,
    /// Grows with every envelope of this sender.
    pub counter: u64,
    /// When it was sealed, on the sender's clock.
    pub sent_at: UnixMillis,
}

/// An envelope that was opened: its signature holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened<'a> {
    /// The header.
    pub header: Header,
    /// The payload, encoded as the header's kind and version say.
    pub payload: &'a [u8],
}

/// An envelope that is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// More bytes than an envelope may have.
    #[error("{bytes} bytes are more than an envelope's {ENVELOPE_BYTES_MAX}")]
    TooLarge {
        /// How many there are.
        bytes: usize,
    },
    /// Not an envelope, or cut short, or with bytes behind it.
    #[error("not a whole envelope: {bytes} bytes, {reason}")]
    Malformed {
        /// How many bytes there are.
        bytes: usize,
        /// What is wrong with them.
        reason: &'static str,
    },
    /// It belongs to another fleet.
    #[error("belongs to fleet {found}, not {expected}")]
    WrongFleet {
        /// The fleet in the header.
        found: FleetId,
        /// Ours.
        expected: FleetId,
    },
    /// The sender or its key is not known here, or is revoked.
    #[error("sender {sender} has no key {key} here")]
    UnknownKey {
        /// The sender in the header.
        sender: NodeId,
        /// The key id in the header.
        key: KeyId,
    },
    /// The signature does not hold.
    #[error("signature of sender {sender} with key {key} does not hold")]
    BadSignature {
        /// The sender in the header.
        sender: NodeId,
        /// The key id in the header.
        key: KeyId,
    },
}

impl EnvelopeError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::TooLarge { .. } => ErrorCode::EnvelopeTooLarge,
            Self::Malformed { .. } => ErrorCode::EnvelopeMalformed,
            Self::WrongFleet { .. } => ErrorCode::EnvelopeWrongFleet,
            Self::UnknownKey { .. } => ErrorCode::EnvelopeUnknownKey,
            Self::BadSignature { .. } => ErrorCode::EnvelopeBadSignature,
        }
    }
}

/// Who seals: one sender's key in one fleet.
#[derive(Clone, Copy, Debug)]
pub struct Seal<'a> {
    /// The fleet.
    pub fleet: FleetId,
    /// The sender; [`NodeId::NIL`] is the controller.
    pub sender: NodeId,
    /// The sender's key.
    pub key: &'a SigningKey,
}

impl Seal<'_> {
    /// Puts a message into a signed envelope.
    ///
    /// The caller keeps `message` within the limits of its kind; an envelope past
    /// [`ENVELOPE_BYTES_MAX`] is refused by every receiver.
    #[must_use]
    pub fn seal<M: Message>(&self, counter: u64, sent_at: UnixMillis, message: &M) -> Vec<u8> {
        self.seal_payload(
            M::KIND,
            M::VERSION,
            counter,
            sent_at,
            &message::encode(message),
        )
    }

    /// Puts an encoded payload into a signed envelope.
    #[must_use]
    pub fn seal_payload(
        &self,
        kind: Kind,
        version: u16,
        counter: u64,
        sent_at: UnixMillis,
        payload: &[u8],
    ) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let mut bytes = Vec::with_capacity(payload.len() + OVERHEAD_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&kind.0.to_le_bytes());
        bytes.extend_from_slice(&version.to_le_bytes());
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(self.fleet.as_bytes());
        bytes.extend_from_slice(self.sender.as_bytes());
        bytes.extend_from_slice(&self.key.public().id().0);
        bytes.extend_from_slice(&counter.to_le_bytes());
        bytes.extend_from_slice(&sent_at.0.to_le_bytes());
        debug_assert_eq!(bytes.len(), HEADER_BYTES);
        bytes.extend_from_slice(payload);
        let signature = self.key.sign(&bytes);
        bytes.extend_from_slice(&signature);
        bytes
    }
}

/// Opens an envelope: checks size, shape, fleet, key and signature, in this order.
///
/// `key_of` answers the public key of a sender by key id, or none when the sender
/// is unknown or revoked.
///
/// # Errors
/// [`EnvelopeError`], the first check that fails.
pub fn open(
    bytes: &[u8],
    fleet: FleetId,
    key_of: impl FnOnce(NodeId, KeyId) -> Option<PublicKey>,
) -> Result<Opened<'_>, EnvelopeError> {
    let (header, signed, signature) = split(bytes)?;
    if header.fleet != fleet {
        return Err(EnvelopeError::WrongFleet {
            found: header.fleet,
            expected: fleet,
        });
    }
    let (sender, key) = (header.sender, header.key);
    let public = key_of(sender, key)
        .filter(|public| public.id() == key)
        .ok_or(EnvelopeError::UnknownKey { sender, key })?;
    if !public.verifies(signed, signature) {
        return Err(EnvelopeError::BadSignature { sender, key });
    }
    Ok(Opened {
        header,
        payload: &signed[HEADER_BYTES..],
    })
}

/// The header of an envelope that has not been verified: for logs and routing
/// only.
///
/// # Errors
/// [`EnvelopeError::TooLarge`] or [`EnvelopeError::Malformed`].
pub fn peek(bytes: &[u8]) -> Result<Header, EnvelopeError> {
    split(bytes).map(|(header, _, _)| header)
}

impl Opened<'_> {
    /// Decodes the payload as a message of type `M`.
    ///
    /// # Errors
    /// [`DecodeError`] when kind or version differ or the payload is malformed.
    pub fn decode<M: Message>(&self) -> Result<M, DecodeError> {
        message::decode(self.header.kind, self.header.version, self.payload)
    }
}

fn split(bytes: &[u8]) -> Result<(Header, &[u8], &[u8]), EnvelopeError> {
    if bytes.len() > ENVELOPE_BYTES_MAX {
        return Err(EnvelopeError::TooLarge { bytes: bytes.len() });
    }
    let malformed = |reason| EnvelopeError::Malformed {
        bytes: bytes.len(),
        reason,
    };
    if bytes.len() < OVERHEAD_BYTES {
        return Err(malformed("cut short"));
    }
    let mut fields = Fields(bytes);
    if fields.take::<2>() != MAGIC {
        return Err(malformed("magic bytes differ"));
    }
    let kind = Kind(u16::from_le_bytes(fields.take()));
    let version = u16::from_le_bytes(fields.take());
    let length = u32::from_le_bytes(fields.take());
    if usize::try_from(length) != Ok(bytes.len() - OVERHEAD_BYTES) {
        return Err(malformed("length differs from the header's"));
    }
    let header = Header {
        kind,
        version,
        fleet: FleetId::from_bytes(fields.take::<ID_BYTES>()),
        sender: NodeId::from_bytes(fields.take::<ID_BYTES>()),
        key: KeyId(fields.take()),
        counter: u64::from_le_bytes(fields.take()),
        sent_at: UnixMillis(u64::from_le_bytes(fields.take())),
    };
    let (signed, signature) = bytes.split_at(bytes.len() - SIGNATURE_BYTES);
    Ok((header, signed, signature))
}

/// Reads fixed-size fields of a slice whose length was checked.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (head, rest) = self
            .0
            .split_first_chunk()
            .expect("the length was checked against the header's");
        self.0 = rest;
        *head
    }
}

#[cfg(test)]
mod tests;
