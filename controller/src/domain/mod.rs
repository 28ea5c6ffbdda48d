//! The controller's decisions, as pure functions over the fleet's state.
//!
//! A request becomes an [`operation`]; [`decide::admit`] says who may ask,
//! [`decide::decide`] what then happens, as [`event`]s; [`fleet::Fleet::apply`]
//! takes a recorded event into the state. Time and ids come in as a [`moment`].
//!
//! **Invariant:** nothing here does input or output, reads a clock or draws a
//! random number; the state is what the records say, and nothing else.

pub mod access;
pub mod alert;
pub mod audit;
pub mod breaker;
pub mod command;
pub mod decide;
pub mod deployment;
pub mod digest;
pub mod event;
pub mod fleet;
pub mod moment;
pub mod notice;
pub mod operation;
pub mod rejection;
pub mod release;
pub mod rollout;
pub mod session;
pub mod window;

#[cfg(test)]
pub(crate) mod given;
