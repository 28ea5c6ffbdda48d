//! Updates of the agent itself: another version is laid beside the running one, tried,
//! and kept or given up.
//!
//! The decisions are those of [`crate::domain::update`]; here they are carried out.
//! [`layout`] owns the files, [`unpack`] reads an archive, [`prepare`] lays a version
//! beside the running one, in which [`task`] drives an order; [`launcher`] is what the
//! service manager starts, and [`guard`] is the launcher while it watches a version that
//! is not proven.
//!
//! **Invariant:** what is not on the disk is not relied upon: every file is synced
//! before the name that leads to it, and a start is counted before it is made.

pub mod guard;
pub mod launcher;
pub mod layout;
pub mod prepare;
pub mod task;
pub mod unpack;

#[cfg(test)]
mod tests;
