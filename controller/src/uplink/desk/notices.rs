//! What someone is told of: notices are raised here, in the batch that holds what
//! their cause led to.
//!
//! Causes are records of the journal ([`Desk::tell_of`]), and what time shows
//! ([`Desk::run_notices`]): nodes that are silent or heard again, certificates that
//! near their end, rollouts that wait for an approval. What time shows is judged
//! anew at every look; that nothing is told twice, and nothing is lost when a
//! batch cannot be written, is the table's doing, from which what was told is read
//! again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use protocol::id::{NodeId, RolloutId};
use protocol::time::UnixMillis;

use super::Desk;
use crate::domain::audit::record::Record;
use crate::domain::breaker::event::OverrideEnd;
use crate::domain::event::Event;
use crate::domain::fleet::node::Node;
use crate::domain::notice::cause::{self, OwnCertificate, Trouble, Words};
use crate::domain::notice::crowd::{Crowd, Told};
use crate::domain::notice::{Notice, NoticeState, Severity};
use crate::domain::rollout::machine::Stand;
use crate::domain::rollout::params::Approve;
use crate::uplink::intake::IntakeError;
use crate::uplink::sink::FrameSink;

/// How often nodes are looked at. Silence is counted in minutes.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How often certificates are looked at; also after each start, and after a node
/// got one.
const CERTIFICATES_EVERY: Duration = Duration::from_secs(24 * 3600);

/// What part of the time that makes a node silent it must have been heard again
/// before that is said: one that comes and goes is silent all the while.
const BACK_PART: u32 = 5;

/// When someone is told of nodes.
#[derive(Clone, Debug)]
pub struct Watch {
    /// How long nothing must have been heard of a node.
    pub silent_after: Duration,
    /// How long nodes' certificates hold. They should be renewed at two thirds of
    /// it, and are told of at three quarters.
    pub certificate_life: Duration,
}

/// What the desk keeps of notices. Rebuilt from what is raised.
#[derive(Debug)]
pub(super) struct Notices {
    started_at: UnixMillis,
    looked_at: UnixMillis,
    silence: Crowd,
    expiry: Crowd,
    /// Since when nodes that are told to be silent are heard again.
    back: BTreeMap<NodeId, UnixMillis>,
    /// When certificates were looked at; none makes the next look do so.
    certificates_at: Option<UnixMillis>,
    /// When nodes were heard last, as far as the looks have seen: a session that was
    /// closed does not say it any more.
    heard: BTreeMap<NodeId, UnixMillis>,
    /// Whether nodes that were not heard since the start had ever said hello.
    begun: BTreeMap<NodeId, bool>,
    /// The controller's own certificates and the CAs.
    own: Vec<OwnCertificate>,
    /// Rollouts that were told to wait for the approval of a wave.
    approvals: BTreeMap<RolloutId, u32>,
}

impl Notices {
    pub(super) fn new(now: UnixMillis) -> Self {
        Self {
            started_at: now,
            looked_at: UnixMillis::default(),
            silence: Crowd::default(),
            expiry: Crowd::default(),
            back: BTreeMap::new(),
            certificates_at: None,
            heard: BTreeMap::new(),
            begun: BTreeMap::new(),
            own: Vec::new(),
            approvals: BTreeMap::new(),
        }
    }
}

impl<S: FrameSink> Desk<S> {
    /// Reads what is raised from the store.
    pub(super) fn load_notices(&mut self) -> Result<(), IntakeError> {
        let crowd = |trouble: Trouble| {
            let raised = self.intake.raised_below(trouble.prefix())?;
            Ok::<_, IntakeError>(cause::crowd_of(trouble, raised))
        };
        let (silence, expiry) = (crowd(Trouble::Silence)?, crowd(Trouble::Certificate)?);
        self.notices = Notices {
            silence,
            expiry,
            own: std::mem::take(&mut self.notices.own),
            heard: std::mem::take(&mut self.notices.heard),
            ..Notices::new(self.notices.started_at)
        };
        Ok(())
    }

    /// The controller's own certificates and the CAs, as they are now.
    pub fn set_certificates(&mut self, own: Vec<OwnCertificate>) {
        self.notices.own = own;
        self.notices.certificates_at = None;
    }

    /// Whether [`Desk::set_certificates`] is due again.
    #[must_use]
    pub fn certificates_are_due(&self, now: UnixMillis) -> bool {
        self.notices
            .certificates_at
            .is_none_or(|at| now < at || now.since(at) >= CERTIFICATES_EVERY)
    }

    /// Raises and resolves what a record is the cause of.
    pub(super) fn tell_of(&mut self, record: &Record, now: UnixMillis) {
        if let Event::BreakerMoved(event) = &record.event {
            let notice = cause::breaker_moved(event, now);
            // An end is told to whoever was told of the beginning, whatever the
            // definition has come to say since.
            let known = self.fleet.breakers().get(&event.breaker);
            let notify = known.is_none_or(|known| known.definition.notify);
            if notify || notice.state == NoticeState::Resolved {
                self.work.batch.raise(notice);
            }
        } else if let Event::BreakerOverridden(event) = &record.event {
            self.work.batch.raise(cause::overridden(event, now));
        } else if let Event::OverrideEnded(event) = &record.event {
            let end = format!("/{}", event.number);
            self.resolve_overrides("override/", &end, event.why, now);
        } else if let Event::BreakerRemoved(event) = &record.event {
            let of = cause::overrides_of(&event.breaker);
            self.resolve_overrides(&of, "", OverrideEnd::Withdrawn, now);
        } else if let Some(decision) = record.event.decision() {
            let fleet = std::sync::Arc::clone(&self.fleet);
            let rollout = fleet.rollouts().get(decision.rollout());
            let name = rollout.map_or("?", |rollout| rollout.name.as_str());
            self.notices.approvals.remove(&decision.rollout());
            for notice in cause::rollout_decided(&decision, name, now) {
                self.work.batch.raise(notice);
            }
        } else {
            self.tell_of_node(&record.event, now);
        }
    }

    fn tell_of_node(&mut self, event: &Event, now: UnixMillis) {
        if let Event::IdentitySuspected(event) = event {
            let name = self.name_of(event.node);
            let notice = cause::suspected(event.node, &name, event.doubt, &event.detail, now);
            self.work.batch.raise(notice);
        } else if let Event::IdentityResolved(event) = event {
            self.resolve_suspicion(event.node, &event.note, now);
        } else if let Event::NodeRevoked(event) = event {
            self.resolve_suspicion(event.node, "the node was revoked", now);
        } else if let Event::NodeReplaced(event) = event {
            self.resolve_suspicion(event.old, "the node was replaced", now);
        } else if let Event::NodeCertified(_) = event {
            self.notices.certificates_at = None;
        } else if let Event::SinkSet(event) = event {
            let begun = (event.sink.name.clone(), event.number);
            self.work.batch.sinks_begun.push(begun);
        } else if let Event::SinkRemoved(event) = event {
            let gone = (event.sink.clone(), event.number);
            self.work.batch.sinks_gone.push(gone);
        }
    }

    fn resolve_suspicion(&mut self, node: NodeId, why: &str, now: UnixMillis) {
        let name = self.name_of(node);
        self.work
            .batch
            .raise(cause::suspicion_over(node, &name, why, now));
    }

    /// Resolves overrides whose keys begin and end like that, in the store or in the
    /// batch in work.
    fn resolve_overrides(&mut self, prefix: &str, end: &str, why: OverrideEnd, now: UnixMillis) {
        let mut keys: BTreeSet<String> = match self.intake.raised_below(prefix) {
            Ok(raised) => raised.into_iter().map(|(key, _)| key).collect(),
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "cannot read what is raised"
                );
                BTreeSet::new()
            }
        };
        let notices = self.work.batch.notices.iter();
        keys.extend(
            notices
                .map(|notice| notice.key.clone())
                .filter(|key| key.starts_with(prefix)),
        );
        for key in keys.into_iter().filter(|key| key.ends_with(end)) {
            self.work.batch.raise(cause::override_ended(key, why, now));
        }
    }

    fn name_of(&self, node: NodeId) -> String {
        self.fleet
            .node(node)
            .map_or_else(|| node.to_string(), |node| node.name.clone())
    }

    /// Raises and resolves what time shows.
    pub(super) fn run_notices(&mut self, now: UnixMillis) {
        let looked_at = self.notices.looked_at;
        if now >= looked_at && now.since(looked_at) < LOOK_EVERY {
            return;
        }
        self.notices.looked_at = now;
        self.look_at_silence(now);
        self.look_at_approvals(now);
        if self.certificates_are_due(now) {
            self.notices.certificates_at = Some(now);
            self.look_at_certificates(now);
        }
    }

    fn look_at_silence(&mut self, now: UnixMillis) {
        let fleet = std::sync::Arc::clone(&self.fleet);
        let active = || fleet.nodes().filter(|node| node.is_active());
        for (node, seat) in &self.seats {
            if let Some(view) = seat.link.view() {
                self.notices.heard.insert(*node, view.proven_at);
            }
        }
        // Until then it is not known who is silent: nobody had the time to be heard
        // since the start.
        let silent_after = self.config.watch.silent_after;
        self.notices.started_at = self.notices.started_at.min(now);
        if now.since(self.notices.started_at) < silent_after {
            return;
        }
        let back_after = silent_after / BACK_PART;
        let mut bad = BTreeMap::new();
        let mut back = std::mem::take(&mut self.notices.back);
        back.retain(|node, _| self.notices.silence.has_told(*node));
        for node in active() {
            let told = self.notices.silence.has_told(node.id);
            if self.is_silent(node, now) {
                back.remove(&node.id);
                bad.insert(node.id, Severity::Warning);
            } else if told && now.since(*back.entry(node.id).or_insert(now)) < back_after {
                bad.insert(node.id, Severity::Warning);
            }
        }
        self.notices.back = back;
        let told = self.notices.silence.look(&bad, active().count());
        self.tell_crowd(Trouble::Silence, told, now, |desk, node| {
            desk.heard_at(node)
        });
    }

    /// Whether nothing was heard of a node for too long. One that never said hello
    /// is not silent: it has not begun.
    fn is_silent(&mut self, node: &Node, now: UnixMillis) -> bool {
        let heard = self.heard_at(node.id);
        let since = heard.unwrap_or(self.notices.started_at);
        now.since(since) >= self.config.watch.silent_after
            && (heard.is_some() || self.has_begun(node.id))
    }

    /// When the node was heard last, since the start.
    fn heard_at(&self, node: NodeId) -> Option<UnixMillis> {
        self.notices.heard.get(&node).copied()
    }

    fn has_begun(&mut self, node: NodeId) -> bool {
        if let Some(begun) = self.notices.begun.get(&node) {
            return *begun;
        }
        match self.intake.kept(node) {
            Ok(kept) => *self.notices.begun.entry(node).or_insert(kept.is_some()),
            // Told with the next look that can be read.
            Err(_) => false,
        }
    }

    fn look_at_certificates(&mut self, now: UnixMillis) {
        let fleet = std::sync::Arc::clone(&self.fleet);
        let warn_before = self.config.watch.certificate_life / 4;
        let active = || fleet.nodes().filter(|node| node.is_active());
        let near = |node: &Node| {
            let expires_at = node.certificate.as_ref()?.expires_at;
            cause::near_end(expires_at, warn_before, now)
        };
        let bad: BTreeMap<NodeId, Severity> = active()
            .filter_map(|node| Some((node.id, near(node)?)))
            .collect();
        let told = self.notices.expiry.look(&bad, active().count());
        self.tell_crowd(Trouble::Certificate, told, now, |desk, node| {
            let certificate = desk.fleet.node(node)?.certificate.as_ref()?;
            Some(certificate.expires_at)
        });
        let own: Vec<Notice> = self.notices.own.iter().map(|it| it.notice(now)).collect();
        self.resolve_gone(&own, now);
        for notice in own {
            self.work.batch.raise(notice);
        }
    }

    /// Resolves what was told of certificates that are not in use any more.
    fn resolve_gone(&mut self, own: &[Notice], now: UnixMillis) {
        match self.intake.raised_below(OwnCertificate::PREFIX) {
            Ok(raised) if !own.is_empty() => {
                let gone = raised
                    .into_iter()
                    .map(|(key, _)| key)
                    .filter(|key| own.iter().all(|notice| notice.key != *key));
                for key in gone {
                    self.work.batch.raise(OwnCertificate::gone(key, now));
                }
            }
            Ok(_) => {}
            Err(error) => tracing::error!(
                error = &error as &dyn std::error::Error,
                "cannot read what is raised"
            ),
        }
    }

    fn tell_crowd(
        &mut self,
        trouble: Trouble,
        told: Vec<Told>,
        now: UnixMillis,
        time: impl Fn(&Self, NodeId) -> Option<UnixMillis>,
    ) {
        for told in told {
            let words = |node| Words {
                name: self.name_of(node),
                time: time(self, node),
            };
            let notice = trouble.notice(told, words, now);
            self.work.batch.raise(notice);
        }
    }

    fn look_at_approvals(&mut self, now: UnixMillis) {
        let mut waiting = BTreeMap::new();
        for (id, running) in &self.deployments.running {
            let course = running.machine.course();
            let done = course.wave.is_none() || running.machine.stand(now) == Stand::Done;
            if course.is_running() && course.gate() == Some(Approve::Human) && done {
                waiting.insert(*id, course.next_wave());
            }
        }
        for (id, wave) in &waiting {
            if self.notices.approvals.get(id) == Some(wave) {
                continue;
            }
            let name = self.fleet.rollouts().get(*id).map(|it| it.name.clone());
            let name = name.unwrap_or_default();
            let notice = cause::waits_for_approval(*id, &name, *wave, now);
            self.work.batch.raise(notice);
        }
        self.notices.approvals = waiting;
    }
}
