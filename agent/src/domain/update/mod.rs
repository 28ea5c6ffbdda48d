//! Updates of the agent itself, decided without touching anything.
//!
//! - [`record`]: what lies on disk of the last update, and what changes it.
//! - [`launch`]: which version is started, by the program that the service manager
//!   starts (the launcher).
//! - [`course`]: what the running version does for an order.
//!
//! An update has two sides. The version that runs lays the new one beside itself,
//! writes a trial down and lets it begin. From then on the launcher decides: it
//! counts every start before it makes it, watches the new version as its parent,
//! and goes back when the version does not become ready, hangs, ends, or does not
//! confirm itself within its window. What the new version thinks of itself counts
//! only once it wrote down that it is proven.
//!
//! **Invariant:** there is always a version that can be started, and a version that
//! never proves itself is started at most [`record::TRIAL_STARTS_MAX`] times, over
//! any number of crashes and power cuts.

pub mod course;
pub mod launch;
pub mod record;

#[cfg(test)]
pub(crate) mod tests;
