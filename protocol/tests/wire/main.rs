//! What nodes and controllers of other versions rely on: the bytes on the wire.

// By the name that it has everywhere else.
extern crate flotilla_protocol as protocol;

#[cfg(test)]
mod golden;
