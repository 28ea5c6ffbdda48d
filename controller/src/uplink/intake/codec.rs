//! Keys and values of the tables.

use protocol::id::{CommandId, ID_BYTES, Id, NodeId};
use protocol::message;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(super) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    message::encode(value)
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    message::decode_exactly(bytes)
}

pub(super) fn node_key(node: NodeId) -> [u8; ID_BYTES] {
    *node.as_bytes()
}

pub(super) fn pair_key<K>(first: Id<K>, node: NodeId) -> [u8; 2 * ID_BYTES] {
    let mut key = [0; 2 * ID_BYTES];
    key[..ID_BYTES].copy_from_slice(first.as_bytes());
    key[ID_BYTES..].copy_from_slice(node.as_bytes());
    key
}

/// The command in a command's key.
pub(super) fn read_command(key: &[u8]) -> CommandId {
    read_first(key)
}

/// The id that a key begins with. A key of another length is no program's of
/// ours; it reads as the id of zeroes, which names nothing.
pub(super) fn read_first<K>(key: &[u8]) -> Id<K> {
    key.first_chunk()
        .map_or(Id::NIL, |bytes| Id::from_bytes(*bytes))
}

/// The node in a pair's key.
pub(super) fn read_node(key: &[u8]) -> NodeId {
    key.last_chunk()
        .map_or(NodeId::NIL, |bytes| NodeId::from_bytes(*bytes))
}
