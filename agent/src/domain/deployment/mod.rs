//! Deployments on a node, decided without touching anything.
//!
//! - [`record`]: what a node keeps of a deployment over a crash, and how that
//!   changes.
//! - [`catch_up`]: when a node begins with what it is late with.
//! - [`goal`]: what a revision means on this node: names, and what makes two
//!   containers the same.
//! - [`observed`]: what the engine says there is.
//! - [`plan`]: what to do now, from goal and observation.
//! - [`machine`]: the course of one change, its deadlines and its failures.
//! - [`rules`]: what the node's own configuration allows.
//!
//! Everything is a level: the plan is made anew from what is observed after every
//! round, so an executor that was killed between two calls goes on where it was.
//!
//! **Invariant:** a container without our labels is never in a plan. The
//! containers of the committed revision are not removed before the new one was
//! healthy for as long as asked. Of one service at most one container is meant
//! to stay.

pub mod catch_up;
pub mod goal;
pub mod machine;
pub mod observed;
pub mod plan;
pub mod record;
pub mod rules;

#[cfg(test)]
mod tests;
