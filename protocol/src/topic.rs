//! The MQTT topics, the one place where their text is made and read.
//!
//! ```text
//! flotilla/1/{fleet}/n/{node}/up/{session|control|state|telemetry|backfill}
//! flotilla/1/{fleet}/n/{node}/down
//! flotilla/1/{fleet}/all
//! ```
//!
//! Everything travels with QoS 1 and is never retained. A node may publish below
//! its own `up`, and read its own `down` and `all`.

use crate::id::{FleetId, NodeId};
use crate::stream::Stream;

/// Where a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Topic {
    /// A node's hello, heartbeats, progress and live samples: nothing stored.
    Session(NodeId),
    /// Entries of one of a node's streams.
    Up(NodeId, Stream),
    /// What the controller says to one node.
    Down(NodeId),
    /// What the controller says to all nodes.
    All,
}

/// A text that is not one of Flotilla's topics.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a topic of Flotilla's")]
pub struct ParseTopicError {
    text: String,
}

const SESSION: &str = "session";

impl Topic {
    /// The topic's text in a fleet.
    #[must_use]
    pub fn print(self, fleet: FleetId) -> String {
        match self {
            Self::Session(node) => format!("flotilla/1/{fleet}/n/{node}/up/{SESSION}"),
            Self::Up(node, stream) => format!("flotilla/1/{fleet}/n/{node}/up/{}", stream.name()),
            Self::Down(node) => format!("flotilla/1/{fleet}/n/{node}/down"),
            Self::All => format!("flotilla/1/{fleet}/all"),
        }
    }

    /// Reads a topic's text.
    ///
    /// # Errors
    /// When it is not a topic of this version, with the text (cut) in the error.
    pub fn parse(text: &str) -> Result<(FleetId, Self), ParseTopicError> {
        Self::read(text).ok_or_else(|| ParseTopicError {
            text: text.chars().take(128).collect(),
        })
    }

    fn read(text: &str) -> Option<(FleetId, Self)> {
        let mut parts = text.split('/');
        if parts.next()? != "flotilla" || parts.next()? != "1" {
            return None;
        }
        let fleet = parts.next()?.parse().ok()?;
        let topic = match parts.next()? {
            "all" => Self::All,
            "n" => {
                let node = parts.next()?.parse().ok()?;
                match (parts.next()?, parts.next()) {
                    ("down", None) => Self::Down(node),
                    ("up", Some(SESSION)) => Self::Session(node),
                    ("up", Some(stream)) => Self::Up(node, Stream::from_name(stream)?),
                    _ => return None,
                }
            }
            _ => return None,
        };
        parts.next().is_none().then_some((fleet, topic))
    }

    /// The node that the topic belongs to; none for `all`.
    #[must_use]
    pub fn node(self) -> Option<NodeId> {
        match self {
            Self::Session(node) | Self::Up(node, _) | Self::Down(node) => Some(node),
            Self::All => None,
        }
    }
}

/// The filter by which a controller on an external broker reads every node.
#[must_use]
pub fn up_filter(fleet: FleetId) -> String {
    format!("flotilla/1/{fleet}/n/+/up/+")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_topic_reads_back() {
        let (fleet, node) = (FleetId::from_bytes([1; 10]), NodeId::from_bytes([2; 10]));
        let ups = Stream::ALL.map(|stream| Topic::Up(node, stream));
        for topic in [Topic::Session(node), Topic::Down(node), Topic::All]
            .into_iter()
            .chain(ups)
        {
            assert_eq!(Topic::parse(&topic.print(fleet)), Ok((fleet, topic)));
        }
    }

    #[test]
    fn foreign_topics_are_refused() {
        let node = NodeId::from_bytes([2; 10]);
        let good = Topic::Down(node).print(FleetId::from_bytes([1; 10]));
        for text in [
            "",
            "flotilla",
            "flotilla/2/x",
            "$SYS/broker",
            &format!("{good}/x"),
            &good.replace("down", "up"),
            &good.replace("down", "up/other"),
            &good.replace("/n/", "/m/"),
        ] {
            assert!(Topic::parse(text).is_err(), "{text}");
        }
    }
}
