//! What was sent of one stream, and how much more may be.
//!
//! **Invariant:** never more is in flight than the window and the controller's
//! credit allow; what is not acknowledged within the patience is sent again.

use std::collections::VecDeque;

use protocol::limits::{ACK_STALL, UPLOAD_BYTES_MAX};
use protocol::session::StreamOffer;
use protocol::stream::StreamAck;

use crate::domain::time::Tick;

/// Uploads of one stream in flight. One lost upload costs sending at most this
/// many again; a fast link is kept busy by two.
const WINDOW_UPLOADS_MAX: usize = 4;

/// A stall doubles the patience, up to this many times.
const STALL_DOUBLINGS_MAX: u32 = 4;

#[derive(Clone, Copy, Debug)]
struct InFlight {
    last: u64,
    bytes: usize,
    sent: Tick,
}

/// What was sent of one stream.
#[derive(Clone, Debug)]
pub(super) struct Lane {
    pub(super) acked: u64,
    pub(super) sent: u64,
    pub(super) last: u64,
    in_flight: VecDeque<InFlight>,
    pub(super) credit_bytes: usize,
    window: usize,
    /// When the acknowledgement moved last, or sending began.
    pub(super) moved: Tick,
    pub(super) stalls: u32,
}

impl Lane {
    pub(super) fn new(offer: StreamOffer) -> Self {
        Self {
            acked: offer.acked,
            sent: offer.acked,
            last: offer.last,
            in_flight: VecDeque::new(),
            credit_bytes: 0,
            window: 1,
            moved: Tick::default(),
            stalls: 0,
        }
    }

    /// Starts sending anew after `acked`.
    pub(super) fn restart(&mut self, acked: u64, now: Tick) {
        self.acked = acked;
        self.sent = acked;
        self.in_flight.clear();
        self.window = 1;
        self.moved = now;
    }

    fn bytes_in_flight(&self) -> usize {
        self.in_flight.iter().map(|upload| upload.bytes).sum()
    }

    pub(super) fn room(&self) -> Option<usize> {
        let waiting = self.last > self.sent;
        let open = self.in_flight.len() < self.window;
        let room = self.credit_bytes.saturating_sub(self.bytes_in_flight());
        (waiting && open && room > 0).then_some(room.min(UPLOAD_BYTES_MAX))
    }

    /// Takes an acknowledgement; when it moved, says when the newest upload that
    /// it covers was sent.
    pub(super) fn acknowledge(&mut self, ack: StreamAck, now: Tick) -> Option<Tick> {
        self.credit_bytes = usize::try_from(ack.credit_bytes).unwrap_or(usize::MAX);
        if ack.acked <= self.acked || ack.acked > self.last {
            return None;
        }
        self.acked = ack.acked;
        self.sent = self.sent.max(ack.acked);
        let mut sent = self.moved;
        while let Some(upload) = self.in_flight.front()
            && upload.last <= ack.acked
        {
            sent = upload.sent;
            self.in_flight.pop_front();
        }
        self.window = (self.window + 1).min(WINDOW_UPLOADS_MAX);
        self.moved = now;
        self.stalls = 0;
        Some(sent)
    }

    /// Another stream's upload of the time `sent` was acknowledged. What was sent
    /// after it is on its way behind it, so the link is slow and nothing is lost;
    /// what was sent before it and is not acknowledged may well be lost.
    pub(super) fn other_moved(&mut self, sent: Tick, now: Tick) {
        if self
            .in_flight
            .front()
            .is_some_and(|oldest| oldest.sent > sent)
        {
            self.moved = now;
        }
    }

    pub(super) fn uploaded(&mut self, last: u64, bytes: usize, now: Tick) {
        if self.in_flight.is_empty() {
            self.moved = now;
        }
        self.sent = last;
        self.last = self.last.max(last);
        self.in_flight.push_back(InFlight {
            last,
            bytes,
            sent: now,
        });
    }

    pub(super) fn stalls_at(&self) -> Option<Tick> {
        let patience = ACK_STALL.saturating_mul(2_u32.saturating_pow(self.stalls));
        (!self.in_flight.is_empty()).then(|| self.moved.after(patience))
    }

    pub(super) fn stall(&mut self, now: Tick) {
        self.stalls = (self.stalls + 1).min(STALL_DOUBLINGS_MAX);
        self.restart(self.acked, now);
    }
}
