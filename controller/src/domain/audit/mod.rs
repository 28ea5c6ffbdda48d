//! The audit trail, which is the journal itself.
//!
//! Owns what a record is, how records are chained, what a checkpoint signs, and
//! which refusals are recorded one by one. No storage: that is the journal's.

pub mod backup;
pub mod chain;
pub mod denial;
pub mod event;
pub mod merkle;
pub mod record;
