//! Values as they lie on disk: a byte that says which layout they have, and postcard.

use protocol::message;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The bytes of a value in a layout.
#[must_use]
pub fn encode<T: Serialize>(format: u8, value: &T) -> Vec<u8> {
    let mut bytes = vec![format];
    bytes.extend(message::encode(value));
    bytes
}

/// Reads what [`encode`] wrote in that layout. `what` names the value in errors.
///
/// # Errors
/// What is wrong with the bytes, as text.
pub fn decode<T: DeserializeOwned>(format: u8, bytes: &[u8], what: &str) -> Result<T, String> {
    match bytes.split_first() {
        Some((found, rest)) if *found == format => {
            message::decode_exactly(rest).map_err(|reason| format!("{what} is damaged: {reason}"))
        }
        Some((found, _)) => Err(format!("{what} has format {found}")),
        None => Err(format!("{what} is empty")),
    }
}
