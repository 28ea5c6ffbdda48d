//! Joining and renewing: the token, and the bodies of the HTTPS requests.
//!
//! These bodies are JSON over HTTPS, pinned to the CA whose fingerprint the token
//! carries; MQTT comes after.

use core::fmt;
use core::str::FromStr;

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};

use crate::ErrorCode;
use crate::id::{FleetId, NodeId, TokenId};
use crate::key::PublicKey;
use crate::label::Labels;
use crate::message::{self, Kind, Message};
use crate::time::UnixMillis;
use crate::trust::SignedTrust;

/// A join token: where the controller is, how to recognise it, and a secret.
///
/// Its text is `flj1_` and base64url of the encoded fields. `Debug` hides the
/// secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// The controller's HTTPS address, `host:port`.
    pub address: String,
    /// SHA-256 of the fleet CA's certificate, DER.
    pub authority: [u8; 32],
    /// The token's serial.
    pub id: TokenId,
    /// 256 random bits.
    pub secret: [u8; 32],
}

/// A text that is not a join token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a join token: {0}")]
pub struct ParseTokenError(&'static str);

impl ParseTokenError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        ErrorCode::TokenMalformed
    }
}

const PREFIX: &str = "flj1_";

/// Bytes of a token's text that are looked at; a longer one is none.
const TEXT_BYTES_MAX: usize = 1024;

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        f.write_str(&BASE64URL_NOPAD.encode(&message::encode(self)))
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({} for {})", self.id, self.address)
    }
}

impl FromStr for JoinToken {
    type Err = ParseTokenError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if text.len() > TEXT_BYTES_MAX {
            return Err(ParseTokenError("it is too long"));
        }
        let body = text
            .strip_prefix(PREFIX)
            .ok_or(ParseTokenError("it does not begin with flj1_"))?;
        let bytes = BASE64URL_NOPAD
            .decode(body.as_bytes())
            .map_err(|_| ParseTokenError("it is damaged; copy it again, whole"))?;
        message::decode_exactly(&bytes)
            .map_err(|_| ParseTokenError("it is damaged; copy it again, whole"))
    }
}

/// `POST /node/v1/join`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// The token's serial.
    pub token: TokenId,
    /// The token's secret, base64url without padding.
    pub secret: String,
    /// The id that the node drew for itself. Asking again with the same id, key
    /// and token gets the same answer, so a lost response is harmless.
    pub node: NodeId,
    /// The name that it would like; the host's name.
    pub name: String,
    /// The certificate signing request (RFC 2986), PEM. Only its key is used.
    pub csr: String,
    /// The key by which the node will sign.
    pub signing_key: PublicKey,
    /// Signature by that key over `flotilla join 1\0`, the token's id, the node's
    /// id and the CSR: proves that the node has it. Base64url without padding.
    pub proof: String,
    /// The agent's version (semver).
    pub agent_version: String,
}

impl JoinRequest {
    /// The bytes that `proof` signs.
    #[must_use]
    pub fn proof_bytes(token: TokenId, node: NodeId, csr: &str) -> Vec<u8> {
        [
            b"flotilla join 1\0".as_slice(),
            token.as_bytes(),
            node.as_bytes(),
            csr.as_bytes(),
        ]
        .concat()
    }
}

/// The answer to a join request: 200 with `Admitted`, 202 with `Pending`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum JoinResponse {
    /// The node is in the fleet.
    Admitted(Box<Admission>),
    /// An operator must approve it; ask again after some seconds.
    Pending {
        /// When to ask again, in seconds.
        retry_after_s: u32,
    },
}

/// What a node gets when it is admitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admission {
    /// The fleet.
    pub fleet: FleetId,
    /// The node's id.
    pub node: NodeId,
    /// The node's name; another than asked for when that one was taken.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// Its certificate, PEM.
    pub certificate: String,
    /// The fleet's root public key, pinned from here on.
    pub root: PublicKey,
    /// The trust set: controller keys and CAs.
    pub trust: SignedTrust,
    /// Where the broker listens: `mqtts://host:port` or `wss://host:port/path`.
    pub brokers: Vec<String>,
    /// Where the controller's HTTPS listens, `host:port`.
    pub controllers: Vec<String>,
    /// The controller's clock.
    pub now: UnixMillis,
}

/// `POST /node/v1/renew`: the body is an envelope that the node signed, so an
/// expired certificate does not lock it out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renew {
    /// The certificate signing request, PEM. Only its key is used.
    pub csr: String,
    /// The trust set's version that the node holds.
    pub trust_version: u64,
}

impl Message for Renew {
    const KIND: Kind = Kind::RENEW;
    const VERSION: u16 = 1;
}

/// The answer to a renewal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewal {
    /// The new certificate, PEM.
    pub certificate: String,
    /// The trust set, when it is newer than the node's.
    pub trust: Option<SignedTrust>,
    /// Where the broker listens.
    pub brokers: Vec<String>,
    /// Where the controller's HTTPS listens.
    pub controllers: Vec<String>,
    /// The controller's clock.
    pub now: UnixMillis,
}

/// The body of every HTTP error (RFC 9457, `application/problem+json`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The stable code, as in `token.expired`.
    pub code: String,
    /// What is wrong, for a person.
    pub detail: String,
    /// What to do about it.
    pub action: String,
    /// Finds the request in the controller's log.
    pub request: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> JoinToken {
        JoinToken {
            address: "controller.example:7443".to_owned(),
            authority: [1; 32],
            id: TokenId::from_bytes([2; 10]),
            secret: [3; 32],
        }
    }

    #[test]
    fn a_token_reads_back_and_hides_its_secret() {
        let text = token().to_string();
        assert!(text.starts_with("flj1_"));
        assert_eq!(format!(" {text}\n").parse::<JoinToken>(), Ok(token()));
        let shown = format!("{:?}", token());
        assert!(!shown.contains('3') || !shown.contains("3, 3"), "{shown}");
    }

    #[test]
    fn a_damaged_token_is_refused() {
        let text = token().to_string();
        for bad in [
            "",
            "flj1_",
            "flj2_abc",
            &text.chars().take(text.len() - 1).collect::<String>(),
            &format!("{text}AA"),
            &"flj1_A".repeat(400),
        ] {
            let error = bad.parse::<JoinToken>().unwrap_err();
            assert_eq!(error.code(), ErrorCode::TokenMalformed, "{bad}");
        }
    }
}
