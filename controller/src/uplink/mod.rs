//! Sessions with nodes: what comes up is checked, kept and acknowledged; what
//! goes down is numbered and repaired.

pub mod board;
pub mod desk;
pub mod dispatch;
pub mod intake;
pub mod sink;
