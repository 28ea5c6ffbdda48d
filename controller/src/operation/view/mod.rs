//! What goes in and out of operations, as JSON.
//!
//! One set of types for every face and for the command line, apart from the
//! stored and wire types so that each can change alone. Requests refuse fields
//! that they do not know; answers may gain fields.

pub mod access;
pub mod alert;
pub mod audit;
pub mod backup;
pub mod breaker;
pub mod command;
pub mod content;
pub mod deployment;
pub mod node;
pub mod release;
pub mod rollout;
pub mod series;
pub mod sink;
pub mod system;
pub mod token;
pub mod trust;
pub mod window;

use std::fmt;

use protocol::time::UnixMillis;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, SchemaFormat, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// A point in time, written as RFC 3339 in UTC with milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp(pub UnixMillis);

impl From<UnixMillis> for Stamp {
    fn from(at: UnixMillis) -> Self {
        Self(at)
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Stamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Stamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let at: jiff::Timestamp = text.parse().map_err(D::Error::custom)?;
        let millis = u64::try_from(at.as_millisecond())
            .map_err(|_| D::Error::custom(format!("{text} is before 1970")))?;
        Ok(Self(UnixMillis(millis)))
    }
}

impl PartialSchema for Stamp {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
            .into()
    }
}

impl ToSchema for Stamp {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_reads_back_and_takes_other_offsets() {
        let stamp = Stamp(UnixMillis(1_795_465_140_123));
        let text = serde_json::to_string(&stamp).unwrap();
        assert_eq!(text, "\"2026-11-23T20:19:00.123Z\"");
        assert_eq!(serde_json::from_str::<Stamp>(&text).unwrap(), stamp);
        let other = serde_json::from_str::<Stamp>("\"2026-11-23T21:19:00.123+01:00\"").unwrap();
        assert_eq!(other, stamp);
        assert!(serde_json::from_str::<Stamp>("\"1969-01-01T00:00:00Z\"").is_err());
    }
}
