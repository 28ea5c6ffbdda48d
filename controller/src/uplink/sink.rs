//! Where frames go before they are acknowledged.

use protocol::ErrorCode;
use protocol::id::{NodeId, StoreId};
use protocol::stream::Stream;
use protocol::time::UnixMillis;

use crate::series::{Arrival, Outcome, Series};

/// A frame that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameArrival {
    /// From which node.
    pub node: NodeId,
    /// From which of its stores.
    pub store: StoreId,
    /// In which stream.
    pub stream: Stream,
    /// Its number there.
    pub seq: u64,
    /// The frame.
    pub body: Vec<u8>,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameOutcome {
    /// It is durable, or was before.
    Kept,
    /// It cannot be taken, ever: it is quarantined and acknowledged.
    Refused(ErrorCode),
}

/// Frames could not be made durable: none of them is acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("frames cannot be stored: {reason}")]
pub struct SinkError {
    /// The stable code.
    pub code: ErrorCode,
    /// Why.
    pub reason: String,
}

/// Takes frames. Called on a thread that may block.
pub trait FrameSink: Send {
    /// Makes frames durable; one outcome for each, in their order.
    ///
    /// # Errors
    /// [`SinkError`] when nothing of the list counts.
    fn ingest(
        &mut self,
        frames: Vec<FrameArrival>,
        now: UnixMillis,
    ) -> Result<Vec<FrameOutcome>, SinkError>;

    /// Shows a frame of live mode, which is not stored. One that is malformed is
    /// dropped.
    fn live(&mut self, node: NodeId, frame: &[u8], now: UnixMillis);
}

impl FrameSink for Series {
    fn ingest(
        &mut self,
        frames: Vec<FrameArrival>,
        now: UnixMillis,
    ) -> Result<Vec<FrameOutcome>, SinkError> {
        let arrivals: Vec<Arrival> = frames
            .into_iter()
            .map(|frame| Arrival {
                node: frame.node,
                store: frame.store,
                stream: frame.stream,
                seq: frame.seq,
                body: frame.body,
            })
            .collect();
        let outcomes = self
            .ingest_blocking(&arrivals, now)
            .map_err(|error| SinkError {
                code: error.code(),
                reason: error.to_string(),
            })?;
        Ok(outcomes
            .into_iter()
            .map(|outcome| match outcome {
                Outcome::Stored | Outcome::Duplicate => FrameOutcome::Kept,
                Outcome::Refused(code) => FrameOutcome::Refused(code),
            })
            .collect())
    }

    fn live(&mut self, node: NodeId, frame: &[u8], _now: UnixMillis) {
        if let Err(error) = Series::live(self, node, frame) {
            tracing::debug!(%node, %error, "dropped a live frame");
        }
    }
}
