//! The vocabulary of the wire.
