//! Typed ids: 80 random bits, written as 16 lowercase base32 characters.
//!
//! Ids are random and never reused; names are labels that people give. 80 bits
//! keep topics short (an id is in every MQTT packet) and still make a chance
//! collision in a fleet of a million nodes less likely than 10⁻¹². Whoever makes
//! an id draws the bytes: this crate has no random source.

use core::fmt;
use core::marker::PhantomData;
use core::str::FromStr;

use data_encoding::{Encoding, Specification};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::sync::LazyLock;

/// Bytes of an id.
pub const ID_BYTES: usize = 10;

/// Characters of an id's text form.
pub const ID_CHARS: usize = 16;

/// RFC 4648 base32 in lowercase: 10 bytes are exactly 16 characters, so there
/// is no padding.
static BASE32: LazyLock<Encoding> = LazyLock::new(|| {
    let mut specification = Specification::new();
    specification
        .symbols
        .push_str("abcdefghijklmnopqrstuvwxyz234567");
    specification
        .encoding()
        .expect("the alphabet has 32 distinct symbols")
});

/// An id of the kind `K`. `K` is a marker: ids of two kinds do not mix.
pub struct Id<K> {
    bytes: [u8; ID_BYTES],
    kind: PhantomData<fn() -> K>,
}

/// Names a kind of id in error messages.
pub trait IdKind {
    /// The word for it, as in `node`.
    const NAME: &'static str;
}

/// A text that is not an id of the kind that was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} id {text:?} is not 16 characters of a-z and 2-7")]
pub struct ParseIdError {
    kind: &'static str,
    text: String,
}

impl<K> Id<K> {
    /// The id with no bit set: in an envelope's sender it means the controller.
    pub const NIL: Self = Self::from_bytes([0; ID_BYTES]);

    /// An id from its bytes, which must come from a random source.
    pub const fn from_bytes(bytes: [u8; ID_BYTES]) -> Self {
        Self {
            bytes,
            kind: PhantomData,
        }
    }

    /// The bytes, as in a binary message.
    pub const fn as_bytes(&self) -> &[u8; ID_BYTES] {
        &self.bytes
    }
}

impl<K> fmt::Display for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&BASE32.encode(&self.bytes))
    }
}

impl<K: IdKind> fmt::Debug for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{self}", K::NAME)
    }
}

impl<K: IdKind> FromStr for Id<K> {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || ParseIdError {
            kind: K::NAME,
            text: text.chars().take(ID_CHARS * 2).collect(),
        };
        if text.len() != ID_CHARS {
            return Err(refuse());
        }
        let decoded = BASE32.decode(text.as_bytes()).map_err(|_| refuse())?;
        let bytes = decoded.try_into().map_err(|_| refuse())?;
        Ok(Self::from_bytes(bytes))
    }
}

impl<K> Serialize for Id<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.bytes.serialize(serializer)
        }
    }
}

impl<'de, K: IdKind> Deserialize<'de> for Id<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            text.parse().map_err(D::Error::custom)
        } else {
            <[u8; ID_BYTES]>::deserialize(deserializer).map(Self::from_bytes)
        }
    }
}

// Derives would ask for the same trait on the marker, which carries nothing.
impl<K> Clone for Id<K> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K> Copy for Id<K> {}
impl<K> PartialEq for Id<K> {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}
impl<K> Eq for Id<K> {}
impl<K> PartialOrd for Id<K> {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<K> Ord for Id<K> {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        self.bytes.cmp(&other.bytes)
    }
}
impl<K> core::hash::Hash for Id<K> {
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        self.bytes.hash(state);
    }
}

/// Marks the id of a fleet.
pub enum Fleet {}
/// Marks the id of a node: a host with an agent.
pub enum Node {}
/// Marks the id of one agent's store, made when the store is made.
pub enum Store {}
/// Marks the id of a command.
pub enum Command {}
/// Marks the id of a principal: a person or a service account.
pub enum Principal {}
/// Marks the serial of a join token; the secret is not part of it.
pub enum Token {}
/// Marks the serial of an API key; the secret is not part of it.
pub enum ApiKey {}
/// Marks the id of a deployment.
pub enum Deployment {}
/// Marks the id of a rollout.
pub enum Rollout {}
/// Marks the id that a caller gives a request, so that a retry gets the first
/// answer.
pub enum Request {}

impl IdKind for Fleet {
    const NAME: &'static str = "fleet";
}
impl IdKind for Node {
    const NAME: &'static str = "node";
}
impl IdKind for Store {
    const NAME: &'static str = "store";
}
impl IdKind for Command {
    const NAME: &'static str = "command";
}
impl IdKind for Principal {
    const NAME: &'static str = "principal";
}
impl IdKind for Token {
    const NAME: &'static str = "token";
}
impl IdKind for ApiKey {
    const NAME: &'static str = "key";
}
impl IdKind for Deployment {
    const NAME: &'static str = "deployment";
}
impl IdKind for Rollout {
    const NAME: &'static str = "rollout";
}
impl IdKind for Request {
    const NAME: &'static str = "request";
}

/// Id of a fleet: one controller's realm.
pub type FleetId = Id<Fleet>;
/// Id of a node.
pub type NodeId = Id<Node>;
/// Id of one agent's store.
pub type StoreId = Id<Store>;
/// Id of a command.
pub type CommandId = Id<Command>;
/// Id of a principal.
pub type PrincipalId = Id<Principal>;
/// Serial of a join token.
pub type TokenId = Id<Token>;
/// Serial of an API key.
pub type ApiKeyId = Id<ApiKey>;
/// Id of a deployment: what should run on the nodes that a selector matches.
pub type DeploymentId = Id<Deployment>;
/// Id of a rollout: the staged change of a deployment to another revision.
pub type RolloutId = Id<Rollout>;
/// Id of a request.
pub type RequestId = Id<Request>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bytes_are_the_same_id() {
        let id = NodeId::from_bytes([0xff, 0, 1, 2, 3, 4, 5, 6, 7, 0x80]);
        let text = id.to_string();
        assert_eq!(text.len(), ID_CHARS);
        assert_eq!(text.parse::<NodeId>(), Ok(id));
        assert_eq!(
            serde_json::from_str::<NodeId>(&serde_json::to_string(&id).unwrap()).unwrap(),
            id
        );
        let packed = postcard::to_stdvec(&id).unwrap();
        assert_eq!(packed.len(), ID_BYTES);
        assert_eq!(postcard::from_bytes::<NodeId>(&packed).unwrap(), id);
    }

    #[test]
    fn a_text_of_another_shape_is_refused_by_name() {
        for text in [
            "",
            "abc",
            "ABCDEFGHIJKLMNOP",
            "abcdefghijklmno1",
            "abcdefghijklmnopq",
            "äbcdefghijklmno",
        ] {
            let error = text.parse::<CommandId>().unwrap_err();
            assert!(error.to_string().contains("command id"), "{error}");
        }
    }
}
