//! Rollouts: the staged change of a deployment from one revision to another.
//!
//! - [`params`]: how one is to go, checked; [`ask`] is the form in which an
//!   operator writes it.
//! - [`plan`]: who is in which wave, fixed when the rollout is made.
//! - [`event`]: what the journal records; [`course`] is the fold over it.
//! - [`target`]: where one node stands: a row of the intake.
//! - [`machine`]: steps all of it by what nodes report and by time.
//! - [`halt`], [`budget`], [`pace`], [`tally`]: what the machine judges by.
//!
//! A rollout's state is two things that outlive a controller: the decisions in
//! the journal, and a row for each target in the intake. Everything else is
//! derived from them, so that a controller that starts again goes on as if it had
//! not stopped.
//!
//! # Defaults, and why they are what they are
//!
//! The first wave is three nodes, or one in fleets of up to ten: small enough to
//! lose, and of three one may fail for reasons of its own. Half of a wave failing
//! halts, whatever the numbers: this alone protects small fleets, where no bound
//! by statistics ever trips. In large waves, and over the whole rollout, the
//! lower end of a Wilson interval at three standard deviations above 1.8 % halts
//! once two have failed. That is deep enough in the tail that judging after every
//! single result, which is thousands of looks at the same numbers, still stops few
//! good revisions. Inside a wave the rate starts low and grows with success, so
//! that little is under way when the first failures are told. `bench-rollouts`
//! measures this against other systems' ways.
//!
//! **Invariants.** A decision is durable before anything follows from it. Who is
//! in which wave never changes. After a halt nothing is started until someone
//! resumes. No change makes more nodes unavailable than the budget allows.

pub mod ask;
pub mod budget;
pub mod course;
pub mod event;
pub mod halt;
pub mod machine;
pub mod pace;
pub mod params;
pub mod plan;
pub mod tally;
pub mod target;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
