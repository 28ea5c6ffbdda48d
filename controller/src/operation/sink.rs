//! Notices and sinks: what can be seen of them, setting, removing and trying sinks.

use std::collections::BTreeMap;

use protocol::ErrorCode;
use protocol::deployment::spec::FileKind;
use protocol::selector::Selector;
use reqwest::Url;

use super::view::sink::{
    NoticeList, NoticeView, ReadNotices, SetSink, SinkList, SinkMade, SinkTried, SinkView,
};
use super::{Operations, Who, find_selector, shown_already};
use crate::clock;
use crate::domain::notice::delivery::Outcome;
use crate::domain::notice::sink::{self, Known, Sink};
use crate::domain::notice::{ParseNameError, Severity};
use crate::domain::operation::Operation;
use crate::notify::Standing;
use crate::notify::webhook::Secret;
use crate::operation::failure::Failure;
use crate::uplink::intake::PAGE_COUNT_MAX;

impl Operations {
    /// Every sink, and how its deliveries go.
    ///
    /// # Errors
    /// When it is denied.
    pub fn list_sinks(&self, who: &Who) -> Result<SinkList, Failure> {
        let fleet = self.engine.fleet();
        self.may(who, &fleet, ("sink", "read"), &[])?;
        let standings = self.notify.board.standings();
        let sinks = fleet.sinks().iter();
        Ok(SinkList {
            sinks: sinks.map(|known| view(known, &standings)).collect(),
        })
    }

    /// One sink.
    ///
    /// # Errors
    /// When it is denied, or there is no such sink.
    pub fn show_sink(&self, who: &Who, name: &str) -> Result<SinkView, Failure> {
        let fleet = self.engine.fleet();
        self.may(who, &fleet, ("sink", "read"), &[])?;
        let known = fleet.sinks().existing(name)?;
        Ok(view(known, &self.notify.board.standings()))
    }

    /// Makes a sink, or changes one. A new one begins with the notices that come
    /// from here on.
    ///
    /// # Errors
    /// When it is denied, a part is wrong, or the URL names an address that the
    /// controller may not reach.
    pub async fn set_sink(
        &self,
        who: &Who,
        name: String,
        asked: SetSink,
    ) -> Result<SinkMade, Failure> {
        let fleet = self.engine.fleet();
        // Before the secret is kept, and again by the engine.
        self.may(who, &fleet, ("sink", "set"), &[])?;
        let before = fleet.sinks().get(&name).map(|known| &known.sink);
        let mut sink = changed(before, name, &asked)?;
        self.check_url(&sink.url)?;
        let (given, made) = match (&asked.secret, before) {
            (Some(text), _) => {
                let secret = Secret::parse(text)
                    .map_err(|error| Failure::new(ErrorCode::SinkInvalid, error.to_string()))?;
                (Some(secret), None)
            }
            (None, Some(_)) if !asked.renew_secret => (None, None),
            (None, _) => {
                let secret = Secret::of(&self.secret()?);
                let text = secret.to_text().to_string();
                (Some(secret), Some(text))
            }
        };
        // What could never be recorded needs no secret kept.
        if let Some(secret) = given {
            sink.secret = self.keep_secret(&secret).await?;
        }
        let name = sink.name.clone();
        let operation = Operation::SetSink(sink::SetSink {
            sink: Box::new(sink),
        });
        let applied = self.submit(who, operation).await?;
        if applied.replayed && made.is_some() {
            return Err(shown_already("sink"));
        }
        let fleet = self.engine.fleet();
        Ok(SinkMade {
            sink: view(
                fleet.sinks().existing(&name)?,
                &self.notify.board.standings(),
            ),
            secret: made,
        })
    }

    /// Removes a sink. What waits for it is not delivered.
    ///
    /// # Errors
    /// When it is denied, or there is no such sink.
    pub async fn remove_sink(&self, who: &Who, name: String) -> Result<SinkView, Failure> {
        let fleet = self.engine.fleet();
        let before = fleet.sinks().get(&name).cloned();
        let operation = Operation::RemoveSink(sink::RemoveSink { sink: name.clone() });
        self.submit(who, operation).await?;
        match before {
            Some(known) => Ok(view(&known, &self.notify.board.standings())),
            None => Ok(view(
                fleet.sinks().existing(&name)?,
                &self.notify.board.standings(),
            )),
        }
    }

    /// Sends a notice of its own to a sink, once and at once, past its queue and its
    /// breaker.
    ///
    /// # Errors
    /// When it is denied, or there is no such sink.
    pub async fn test_sink(&self, who: &Who, name: &str) -> Result<SinkTried, Failure> {
        let fleet = self.engine.fleet();
        self.may(who, &fleet, ("sink", "test"), &[])?;
        let known = fleet.sinks().existing(name)?;
        let tried = self.notify.courier.try_sink(&fleet, &known.sink).await;
        let reason = match tried.outcome {
            Outcome::Delivered => None,
            Outcome::Refused(reason) | Outcome::Later { reason, .. } | Outcome::Failed(reason) => {
                Some(reason)
            }
        };
        Ok(SinkTried {
            delivered: reason.is_none(),
            status: tried.status,
            reason: reason.unwrap_or_default(),
        })
    }

    /// The newest notices.
    ///
    /// # Errors
    /// When it is denied, or they cannot be read.
    pub fn list_notices(&self, who: &Who, asked: &ReadNotices) -> Result<NoticeList, Failure> {
        let fleet = self.engine.fleet();
        self.may(who, &fleet, ("notice", "read"), &[])?;
        let limit = (asked.limit as usize).min(PAGE_COUNT_MAX);
        let notices = self
            .uplink
            .notices(limit)
            .map_err(|error| Failure::fault(error.code(), "the notices cannot be read", &error))?;
        Ok(NoticeList {
            notices: notices
                .into_iter()
                .map(|(seq, notice)| NoticeView {
                    seq,
                    at: notice.at.into(),
                    kind: notice.kind.name().to_owned(),
                    severity: notice.severity.name().to_owned(),
                    state: notice.state.name().to_owned(),
                    key: notice.key,
                    subject: notice.subject,
                    node: notice.node,
                    title: notice.title,
                    detail: notice.detail,
                })
                .collect(),
        })
    }

    /// Refuses a URL that could never be reached. What a name resolves to is judged
    /// at each try.
    fn check_url(&self, text: &str) -> Result<(), Failure> {
        let invalid = |detail: &str| Failure::new(ErrorCode::SinkInvalid, detail);
        let url: Url = text
            .parse()
            .map_err(|_| invalid("the URL cannot be read"))?;
        if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
            return Err(invalid(
                "the URL must not hold a user, a password or a fragment: it stands in the audit trail",
            ));
        }
        self.notify
            .courier
            .check(&url)
            .map_err(|error| Failure::new(error.code(), error.to_string()))
    }

    /// Keeps a signing secret in the vault. It stays there as long as a sink names
    /// it.
    async fn keep_secret(&self, secret: &Secret) -> Result<String, Failure> {
        let (vault, now) = (self.stores.vault.clone(), clock::now());
        let bytes = zeroize::Zeroizing::new(secret.bytes().to_vec());
        super::content::blocking(move || vault.put(FileKind::Secret, &bytes, now)).await
    }
}

/// The sink that was there with what was asked for in its place.
fn changed(before: Option<&Sink>, name: String, asked: &SetSink) -> Result<Sink, Failure> {
    let wrong = |error: ParseNameError| Failure::new(ErrorCode::SinkInvalid, error.to_string());
    let mut sink = match (before, &asked.url) {
        (Some(before), _) => before.clone(),
        (None, Some(url)) => Sink {
            name,
            url: url.clone(),
            kinds: std::collections::BTreeSet::new(),
            severity: Severity::Info,
            nodes: Selector::every(),
            secret: String::new(),
        },
        (None, None) => {
            return Err(Failure::new(
                ErrorCode::SinkInvalid,
                "a new sink needs a URL",
            ));
        }
    };
    if let Some(url) = &asked.url {
        sink.url.clone_from(url);
    }
    if let Some(kinds) = &asked.kinds {
        let kinds = kinds.iter().map(|kind| kind.parse());
        sink.kinds = kinds.collect::<Result<_, _>>().map_err(wrong)?;
    }
    if let Some(severity) = &asked.severity {
        sink.severity = severity.parse().map_err(wrong)?;
    }
    if let Some(nodes) = &asked.nodes {
        sink.nodes = match nodes.trim() {
            "*" => Selector::every(),
            text => find_selector(text)?,
        };
    }
    sink.check()?;
    Ok(sink)
}

fn view(known: &Known, standings: &BTreeMap<String, Standing>) -> SinkView {
    let sink = &known.sink;
    let standing = standings
        .get(&sink.name)
        .filter(|standing| standing.progress.number == known.number);
    let progress = standing.map(|it| it.progress.clone()).unwrap_or_default();
    let totals = progress.totals;
    let state = match (&progress.failing, progress.delivered_at) {
        (Some(_), _) => "failing",
        (None, Some(_)) => "ok",
        (None, None) => "idle",
    };
    let given_up = progress.given_up.as_ref();
    SinkView {
        name: sink.name.clone(),
        url: sink.url.clone(),
        kinds: sink.kinds.iter().map(|it| it.name().to_owned()).collect(),
        severity: sink.severity.name().to_owned(),
        nodes: sink.nodes.to_string(),
        state: state.to_owned(),
        delivered_at: progress.delivered_at.map(Into::into),
        delivered: totals.delivered,
        pending: standing.map_or(0, |it| u32::try_from(it.waiting).unwrap_or(u32::MAX)),
        pending_since: standing.and_then(|it| it.waiting_since).map(Into::into),
        failing_since: progress.failing.as_ref().map(|it| it.at.into()),
        failing_reason: progress.failing.as_ref().map(|it| it.reason.clone()),
        failed: totals.failed,
        given_up: given_up.map(|it| it.reason.clone()),
        given_up_at: given_up.map(|it| it.at.into()),
        expired: totals.expired,
        lost: totals.lost,
        breaker: standing.map_or("closed", |it| it.breaker.name()).to_owned(),
    }
}
