//! Breakers: what can be seen of them, defining, moving and overriding them.

use std::collections::BTreeSet;
use std::time::Duration;

use protocol::ErrorCode;
use protocol::breaker::BreakerState;
use protocol::breaker::rule::{BreakerRule, Confidence, Recovery, Trip};
use protocol::policy::Gated;

use super::rollout::caller_name;
use super::view::breaker::{
    BreakerDefinition, BreakerGroup, BreakerList, BreakerMove, BreakerView, LeaseView, MoveBreaker,
    OverrideBreaker, OverrideView,
};
use super::{Operations, Who, find_selector};
use crate::domain::breaker::Known;
use crate::domain::breaker::definition::{Definition, OnTrip, Span};
use crate::domain::breaker::manage;
use crate::domain::breaker::manage::Hand;
use crate::domain::fleet::Fleet;
use crate::domain::operation::Operation;
use crate::operation::failure::Failure;

impl Operations {
    /// Every breaker, every override, and the policy's number.
    ///
    /// # Errors
    /// When it is denied.
    pub fn list_breakers(&self, who: &Who) -> Result<BreakerList, Failure> {
        let fleet = self.engine.fleet();
        self.may(who, &fleet, ("breaker", "read"), &[])?;
        let breakers = fleet.breakers();
        let published = breakers.published();
        Ok(BreakerList {
            breakers: breakers
                .iter()
                .map(|known| BreakerView {
                    history: Vec::new(),
                    ..view(&fleet, known)
                })
                .collect(),
            overrides: breakers
                .overrides()
                .map(|(number, granted)| OverrideView {
                    number,
                    breaker: granted.pass.breaker.clone(),
                    nodes: granted.pass.nodes.to_string(),
                    since: granted.since.into(),
                    until: granted.pass.until.into(),
                    by: granted.pass.by.clone(),
                    reason: granted.pass.reason.clone(),
                })
                .collect(),
            policy_epoch: published.epoch,
            published_at: (published.epoch > 0).then(|| published.at.into()),
            lease_s: breakers.lease().as_secs(),
        })
    }

    /// One breaker.
    ///
    /// # Errors
    /// When it is denied, or there is no such breaker.
    pub fn show_breaker(&self, who: &Who, breaker: &str) -> Result<BreakerView, Failure> {
        let fleet = self.engine.fleet();
        self.may(who, &fleet, ("breaker", "read"), &[])?;
        Ok(view(&fleet, fleet.breakers().existing(breaker)?))
    }

    /// Defines a breaker, or defines it anew.
    ///
    /// # Errors
    /// When it is denied, or a part is wrong.
    pub async fn define_breaker(
        &self,
        who: &Who,
        breaker: String,
        asked: BreakerDefinition,
    ) -> Result<BreakerView, Failure> {
        let definition = definition(breaker.clone(), &asked)?;
        let operation = Operation::DefineBreaker(manage::DefineBreaker {
            definition: Box::new(definition),
        });
        self.submit(who, operation).await?;
        self.breaker_view(&breaker)
    }

    /// Removes a breaker that is closed.
    ///
    /// # Errors
    /// When it is denied, or the breaker is not there or not closed.
    pub async fn remove_breaker(&self, who: &Who, breaker: String) -> Result<BreakerView, Failure> {
        let before = self.breaker_view(&breaker);
        let operation = Operation::RemoveBreaker(manage::RemoveBreaker { breaker });
        self.submit(who, operation).await?;
        before
    }

    /// For how long nodes go on without a word from the controller.
    ///
    /// # Errors
    /// When it is denied.
    pub fn show_lease(&self, who: &Who) -> Result<LeaseView, Failure> {
        let fleet = self.engine.fleet();
        self.may(who, &fleet, ("breaker", "read"), &[])?;
        let lease_s = fleet.breakers().lease().as_secs();
        Ok(LeaseView { lease_s })
    }

    /// Changes that.
    ///
    /// # Errors
    /// When it is denied, or out of bounds.
    pub async fn set_lease(&self, who: &Who, asked: LeaseView) -> Result<LeaseView, Failure> {
        let lease = Duration::from_secs(asked.lease_s);
        let operation = Operation::SetLease(manage::SetLease { lease });
        self.submit(who, operation).await?;
        Ok(asked)
    }

    /// Moves a breaker by hand.
    ///
    /// # Errors
    /// When it is denied, or there is no such breaker or group.
    pub async fn move_breaker(
        &self,
        who: &Who,
        breaker: String,
        to: Hand,
        asked: MoveBreaker,
    ) -> Result<BreakerView, Failure> {
        let operation = Operation::MoveBreaker(manage::MoveBreaker {
            breaker: breaker.clone(),
            group: asked.group,
            to,
            reason: asked.reason,
        });
        self.submit(who, operation).await?;
        self.breaker_view(&breaker)
    }

    /// Lets some nodes pass a breaker for a while.
    ///
    /// # Errors
    /// When it is denied, or a value is out of bounds.
    pub async fn override_breaker(
        &self,
        who: &Who,
        breaker: String,
        asked: OverrideBreaker,
    ) -> Result<BreakerView, Failure> {
        let operation = Operation::OverrideBreaker(manage::OverrideBreaker {
            breaker: breaker.clone(),
            nodes: find_selector(&asked.nodes)?,
            lifetime: Duration::from_secs(asked.for_s),
            reason: asked.reason,
        });
        self.submit(who, operation).await?;
        self.breaker_view(&breaker)
    }

    /// Ends an override.
    ///
    /// # Errors
    /// When it is denied, or the override has ended.
    pub async fn end_override(&self, who: &Who, number: u64) -> Result<BreakerView, Failure> {
        let breaker = self
            .engine
            .fleet()
            .breakers()
            .overrides()
            .find(|(known, _)| *known == number)
            .map(|(_, granted)| granted.pass.breaker.clone());
        let operation = Operation::EndOverride(manage::EndOverride { number });
        self.submit(who, operation).await?;
        self.breaker_view(&breaker.unwrap_or_default())
    }

    fn breaker_view(&self, breaker: &str) -> Result<BreakerView, Failure> {
        let fleet = self.engine.fleet();
        Ok(view(&fleet, fleet.breakers().existing(breaker)?))
    }
}

fn view(fleet: &Fleet, known: &Known) -> BreakerView {
    let state = known
        .open()
        .map(|(_, cell)| cell.moved.to)
        .max_by_key(|state| match state {
            BreakerState::Closed => 0,
            BreakerState::HalfOpen => 1,
            BreakerState::Open => 2,
            BreakerState::Isolated => 3,
        })
        .unwrap_or_default();
    BreakerView {
        name: known.definition.name.clone(),
        definition: BreakerDefinition::from(&known.definition),
        state: state.name().to_owned(),
        groups: known
            .open()
            .map(|(group, cell)| BreakerGroup {
                group: group.to_string(),
                state: cell.moved.to.name().to_owned(),
                since: cell.moved.at.into(),
                reason: cell.moved.reason.to_string(),
                tries_at: cell.tries_at().map(Into::into),
                probes: cell.probes.iter().copied().collect(),
            })
            .collect(),
        history: known
            .log
            .iter()
            .rev()
            .map(|logged| BreakerMove {
                at: logged.transition.at.into(),
                by: caller_name(fleet, logged.by),
                group: logged.group.to_string(),
                from: logged.transition.from.name().to_owned(),
                to: logged.transition.to.name().to_owned(),
                reason: logged.transition.reason.to_string(),
            })
            .collect(),
    }
}

impl Default for BreakerDefinition {
    fn default() -> Self {
        Self::from(&Definition::fleet())
    }
}

impl From<&Definition> for BreakerDefinition {
    fn from(definition: &Definition) -> Self {
        let (trip, recovery) = (&definition.rule.trip, &definition.rule.recovery);
        Self {
            nodes: definition.nodes.to_string(),
            watches: definition.watches.iter().map(ToString::to_string).collect(),
            gates: definition.gated.names(),
            span: match &definition.span {
                Span::Fleet => "fleet".to_owned(),
                Span::Deployment => "deployment".to_owned(),
                Span::Label(key) => format!("label:{key}"),
            },
            rollouts: match definition.rollouts {
                OnTrip::Hold => "hold",
                OnTrip::Halt => "halt",
                OnTrip::Revert => "revert",
            }
            .to_owned(),
            notify: definition.notify,
            consecutive: trip.consecutive,
            count: trip.count,
            percent: trip.percent,
            min_samples: trip.min_samples,
            confidence: match trip.confidence {
                Confidence::Plain => "plain",
                Confidence::P80 => "p80",
                Confidence::P90 => "p90",
                Confidence::P95 => "p95",
                Confidence::P99 => "p99",
            }
            .to_owned(),
            window_s: trip.window_ms / 1000,
            cool_down_s: recovery.cool_down_ms / 1000,
            cool_down_s_max: recovery.cool_down_ms_max / 1000,
            probes: recovery.probes,
            successes: recovery.successes,
            probe_limit_s: recovery.probe_limit_ms / 1000,
        }
    }
}

fn definition(name: String, asked: &BreakerDefinition) -> Result<Definition, Failure> {
    let invalid = |detail: String| Failure::new(ErrorCode::BreakerInvalid, detail);
    let watches = asked
        .watches
        .iter()
        .map(|text| text.parse().map_err(|error| invalid(format!("{error}"))))
        .collect::<Result<BTreeSet<_>, _>>()?;
    let gates: BTreeSet<String> = asked.gates.iter().cloned().collect();
    let span = match asked.span.as_str() {
        "fleet" => Span::Fleet,
        "deployment" => Span::Deployment,
        other => match other.strip_prefix("label:") {
            Some(key) => Span::Label(key.to_owned()),
            None => return Err(invalid(format!("{other:?} is no span"))),
        },
    };
    let rollouts = match asked.rollouts.as_str() {
        "hold" => OnTrip::Hold,
        "halt" => OnTrip::Halt,
        "revert" => OnTrip::Revert,
        other => return Err(invalid(format!("{other:?} is not hold, halt or revert"))),
    };
    let confidence = match asked.confidence.as_str() {
        "plain" => Confidence::Plain,
        "p80" => Confidence::P80,
        "p90" => Confidence::P90,
        "p95" => Confidence::P95,
        "p99" => Confidence::P99,
        other => return Err(invalid(format!("{other:?} is no confidence"))),
    };
    let millis = |seconds: u64| seconds.saturating_mul(1000);
    Ok(Definition {
        name,
        nodes: find_selector(&asked.nodes)?,
        watches,
        rule: BreakerRule {
            trip: Trip {
                consecutive: asked.consecutive,
                count: asked.count,
                percent: asked.percent,
                min_samples: asked.min_samples,
                confidence,
                window_ms: millis(asked.window_s),
            },
            recovery: Recovery {
                cool_down_ms: millis(asked.cool_down_s),
                cool_down_ms_max: millis(asked.cool_down_s_max),
                probes: asked.probes,
                successes: asked.successes,
                probe_limit_ms: millis(asked.probe_limit_s),
            },
        },
        gated: Gated::of(gates),
        span,
        rollouts,
        notify: asked.notify,
    })
}
