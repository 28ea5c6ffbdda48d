//! Flotilla's agent: measures a host, obeys the controller, and keeps what must
//! not be lost.

pub mod command;
pub mod status;
