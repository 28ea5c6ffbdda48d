//! The real programs against each other and against the world: joining, killing,
//! full disks, foreign brokers, wrong clocks, hostile callers.
//!
//! Everything runs on loopback in folders of its own. Where a foreign server is
//! needed and not installed, the test says so and passes, unless
//! `FLOTILLA_REQUIRE_ALL` is set: `tests/run --all` sets it.

#[cfg(test)]
mod alert;
#[cfg(test)]
mod api;
#[cfg(test)]
mod arm;
#[cfg(test)]
mod audit;
#[cfg(test)]
mod boot;
#[cfg(test)]
mod breaker;
#[cfg(test)]
mod broker;
#[cfg(test)]
mod certificate;
#[cfg(test)]
mod clock;
#[cfg(test)]
mod container_logs;
#[cfg(test)]
mod deploy;
#[cfg(test)]
mod disk;
#[cfg(test)]
mod docker;
#[cfg(test)]
mod engines;
#[cfg(test)]
mod external_broker;
#[cfg(test)]
mod fleet;
#[cfg(test)]
mod identity;
#[cfg(test)]
mod image;
#[cfg(test)]
mod join;
#[cfg(test)]
mod kill;
#[cfg(test)]
mod launcher;
#[cfg(test)]
mod lossy;
#[cfg(test)]
mod metrics;
#[cfg(test)]
mod notices;
#[cfg(test)]
mod notify;
#[cfg(test)]
mod remote_write;
#[cfg(test)]
mod restore;
#[cfg(test)]
mod rogue;
#[cfg(test)]
mod rollout;
#[cfg(test)]
mod service;
#[cfg(test)]
mod trust;
#[cfg(test)]
mod update;
#[cfg(test)]
mod walk;
