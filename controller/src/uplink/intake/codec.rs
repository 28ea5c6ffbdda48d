//! Keys and values of the tables.

use protocol::id::{CommandId, ID_BYTES, NodeId};
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

pub(super) fn pair_key(command: CommandId, node: NodeId) -> [u8; 2 * ID_BYTES] {
    let mut key = [0; 2 * ID_BYTES];
    key[..ID_BYTES].copy_from_slice(command.as_bytes());
    key[ID_BYTES..].copy_from_slice(node.as_bytes());
    key
}

/// The command in a command's key. A key of another length is no program's of
/// ours; it reads as the id of zeroes, which names nothing.
pub(super) fn read_command(key: &[u8]) -> CommandId {
    key.first_chunk()
        .map_or(CommandId::NIL, |bytes| CommandId::from_bytes(*bytes))
}

/// The node in a pair's key.
pub(super) fn read_node(key: &[u8]) -> NodeId {
    key.last_chunk()
        .map_or(NodeId::NIL, |bytes| NodeId::from_bytes(*bytes))
}
