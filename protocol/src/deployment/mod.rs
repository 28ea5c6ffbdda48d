//! Deployments as they cross the wire: what should run, what the controller asks
//! of one node, and what the node reports.
//!
//! - [`spec`]: a Compose project in normal form, which is what a revision is.
//! - [`desired`]: what one node is to have of one deployment, by generation.
//! - [`observed`]: what the container engine says, and how a change ended.
//!
//! **Invariant:** a [`spec::Spec`] is in normal form: names sorted, defaults
//! spelled out, so that equal projects have equal bytes and one digest.

mod check;
pub mod desired;
pub mod limit;
pub mod observed;
pub mod spec;

#[cfg(test)]
mod tests;
