//! Deployments: what operators hand in, and how two revisions of it differ.

pub mod compose;
pub mod diff;
