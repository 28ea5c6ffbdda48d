//! A notice as an HTTP request, and what the answer to it means.
//!
//! Requests follow the Standard Webhooks specification: `webhook-id` is the same
//! for every try of a notice, `webhook-timestamp` is the try's own time, and
//! `webhook-signature` is `v1,` and the HMAC-SHA256 over id, time and body, each
//! followed by a dot but the last, in base64. So any receiver's library for it can
//! check them.

use core::fmt;
use std::collections::BTreeMap;
use std::time::Duration;

use data_encoding::BASE64;
use protocol::id::FleetId;
use protocol::time::UnixMillis;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Method, Url};
use ring::hmac;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::domain::notice::Notice;
use crate::domain::notice::delivery::Outcome;
use crate::outbound::{Answer, OutboundError, Request};

/// The version of the body's `data`. Fields are added without changing it; one
/// that goes or means something else raises it.
pub const BODY_VERSION: u32 = 1;

/// How long a receiver may take to answer: what it does with a notice it should do
/// after the answer.
const ANSWER_MAX: Duration = Duration::from_secs(15);

/// Bytes of an answer that says why a notice is not taken.
const REASON_BYTES_MAX: usize = 512;

/// What the text of a secret begins with.
const PREFIX: &str = "whsec_";

/// Bytes of a secret, least and most: what the specification recommends.
const SECRET_BYTES: core::ops::RangeInclusive<usize> = 24..=64;

/// A signing secret. `Debug` hides it, and its memory is cleared.
pub struct Secret(Zeroizing<Vec<u8>>);

/// A text that is no signing secret. Never with the text in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a signing secret is whsec_ and 24 to 64 bytes in base64")]
pub struct ParseSecretError;

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// A secret of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Zeroizing::new(bytes.to_vec()))
    }

    /// Reads a secret's text, with white space around it.
    ///
    /// # Errors
    /// [`ParseSecretError`].
    pub fn parse(text: &str) -> Result<Self, ParseSecretError> {
        let encoded = text.trim().strip_prefix(PREFIX).ok_or(ParseSecretError)?;
        let bytes = BASE64
            .decode(encoded.as_bytes())
            .map_err(|_| ParseSecretError)?;
        let secret = Self(Zeroizing::new(bytes));
        if SECRET_BYTES.contains(&secret.0.len()) {
            Ok(secret)
        } else {
            Err(ParseSecretError)
        }
    }

    /// The text of it, to be shown once.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{PREFIX}{}", BASE64.encode(&self.0)))
    }

    /// The bytes, to be kept in the vault.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The signature of a body, as its header has it.
    #[must_use]
    pub fn sign(&self, id: &str, timestamp_s: u64, body: &[u8]) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        let mut context = hmac::Context::with_key(&key);
        context.update(format!("{id}.{timestamp_s}.").as_bytes());
        context.update(body);
        format!("v1,{}", BASE64.encode(context.sign().as_ref()))
    }
}

/// What goes to a receiver.
#[derive(Serialize)]
struct Body<'a> {
    r#type: String,
    timestamp: String,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    version: u32,
    fleet: String,
    seq: u64,
    kind: &'static str,
    severity: &'static str,
    state: &'static str,
    key: &'a str,
    subject: &'a str,
    node: Option<Node<'a>>,
    title: &'a str,
    detail: &'a str,
    facts: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Node<'a> {
    id: String,
    name: &'a str,
}

/// A notice that is to be delivered.
#[derive(Debug)]
pub struct Letter<'a> {
    /// The fleet.
    pub fleet: FleetId,
    /// The notice's number; 0 for one that tries a sink.
    pub seq: u64,
    /// The notice.
    pub notice: &'a Notice,
    /// The name of the node that it is about; empty when it is about none that is
    /// known.
    pub node_name: &'a str,
}

impl Letter<'_> {
    /// Names the notice for the receiver: the same for every try of it, and never
    /// for another, also after a backup was put back and numbers are given again.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}_{}_{}", self.fleet, self.seq, self.notice.at.0)
    }

    fn body(&self) -> Vec<u8> {
        let Notice {
            at,
            kind,
            severity,
            state,
            key,
            subject,
            node,
            title,
            detail,
            facts,
            expires_at: _,
        } = self.notice;
        let body = Body {
            r#type: format!("{}.{}", kind.name(), state.name()),
            timestamp: at.to_string(),
            data: Data {
                version: BODY_VERSION,
                fleet: self.fleet.to_string(),
                seq: self.seq,
                kind: kind.name(),
                severity: severity.name(),
                state: state.name(),
                key,
                subject,
                node: node.map(|node| Node {
                    id: node.to_string(),
                    name: self.node_name,
                }),
                title,
                detail,
                facts,
            },
        };
        // Texts and numbers under fixed names: nothing that could fail.
        serde_json::to_vec(&body).unwrap_or_default()
    }

    /// The request that delivers it.
    #[must_use]
    pub fn request(&self, url: Url, secret: &Secret, now: UnixMillis) -> Request {
        let body = self.body();
        let (id, timestamp_s) = (self.id(), now.0 / 1000);
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for (name, value) in [
            ("webhook-signature", secret.sign(&id, timestamp_s, &body)),
            ("webhook-timestamp", timestamp_s.to_string()),
            ("webhook-id", id),
        ] {
            // All three are letters, digits and a few signs.
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(name, value);
            }
        }
        Request {
            method: Method::POST,
            url,
            headers,
            body,
            timeout: ANSWER_MAX,
            bytes_max: REASON_BYTES_MAX,
        }
    }
}

/// What an answer means for the notice: every 2xx is taken; 408 and 429 are for
/// later, as is what shows a receiver in trouble (5xx) or not yet set right (a
/// redirect); any other 4xx is for good.
#[must_use]
pub fn outcome(answer: &Result<Answer, OutboundError>) -> Outcome {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return Outcome::Failed(error.to_string()),
    };
    let reason = said(answer);
    match answer.status {
        200..=299 => Outcome::Delivered,
        408 | 429 => Outcome::Later {
            reason,
            pause_ms: retry_after_ms(&answer.headers),
        },
        400..=499 => Outcome::Refused(reason),
        _ => Outcome::Failed(reason),
    }
}

/// `Retry-After` in seconds, as milliseconds. A date in it is not read: the usual
/// pause holds then.
fn retry_after_ms(headers: &HeaderMap) -> Option<u64> {
    let seconds: u64 = headers
        .get(RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    Some(seconds.saturating_mul(1000))
}

/// The status, and the first line of what was said with it.
fn said(answer: &Answer) -> String {
    let text = String::from_utf8_lossy(&answer.body);
    let line = text.trim().lines().next().unwrap_or_default();
    let line: String = line
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(120)
        .collect();
    if line.is_empty() {
        format!("it answered {}", answer.status)
    } else {
        format!("it answered {}: {line}", answer.status)
    }
}
