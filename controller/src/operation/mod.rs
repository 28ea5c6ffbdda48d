//! The one operation layer: what can be asked of a controller.
//!
//! Each operation checks permission, validates, calls the engine, the uplink or
//! the series, and shapes the answer. Faces (REST today) only call this.
//!
//! **Invariant:** whatever changes the fleet is authorised by the engine in the
//! same step that decides it; whatever only reads is authorised by
//! `Operations::may` or `Operations::reach`, and a refusal is journalled
//! through the engine either way. There is no third way in.

pub use stream::Bytes;

pub mod failure;
pub mod view;

mod access;
mod alert;
mod audit;
mod backup;
mod breaker;
mod command;
mod content;
mod deployment;
mod follow;
mod node;
mod release;
mod rollout;
mod series;
mod sink;
mod stream;
mod system;
mod token;
mod trust;
mod window;

use std::sync::Arc;

use protocol::ErrorCode;
use protocol::id::{ApiKeyId, NodeId, PrincipalId, RequestId};
use protocol::selector::Selector;
use protocol::time::UnixMillis;
use ring::rand::{SecureRandom as _, SystemRandom};

use crate::archive::Archives;
use crate::backup::Backups;
use crate::clock;
use crate::domain::access::authorize::{Decision, Reach, authorize, reach};
use crate::domain::access::caller::Caller;
use crate::domain::access::key::{ApiKeyText, SecretDigest};
use crate::domain::access::permission::Permission;
use crate::domain::event::Event;
use crate::domain::fleet::Fleet;
use crate::domain::fleet::node::Node;
use crate::domain::operation::Operation;
use crate::engine::{Applied, Engine};
use crate::notify::{Board, Courier};
use crate::pki::Pki;
use crate::registry::Registries;
use crate::series::Series;
use crate::telemetry::log::RecentLog;
use crate::uplink::Uplink;
use crate::vault::Vault;
use failure::Failure;

/// A stream of things to tell one by one.
pub type Lines<T> = std::pin::Pin<Box<dyn futures_util::Stream<Item = T> + Send>>;

/// Who asks, as proven by an API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Who {
    /// The principal.
    pub principal: PrincipalId,
    /// The key.
    pub key: ApiKeyId,
    /// The request's id: given by the caller for retries, else made here.
    pub request: RequestId,
}

impl Who {
    fn caller(&self) -> Caller {
        Caller::Principal {
            id: self.principal,
            key: self.key,
        }
    }
}

/// What operations work with.
pub struct Operations {
    engine: Engine,
    uplink: Uplink,
    series: Series,
    stores: Stores,
    notify: Notify,
    backups: Backups,
    about: About,
    random: SystemRandom,
    /// Held while the trust set changes: one change at a time.
    trusting: tokio::sync::Mutex<()>,
}

/// What deployments need besides the fleet.
pub struct Stores {
    /// Contents of configs and secrets.
    pub vault: Vault,
    /// Image archives.
    pub archives: Archives,
    /// Archives of releases.
    pub releases: Archives,
    /// Says what tags name.
    pub registries: Registries,
}

/// How sinks are tried, and seen.
pub struct Notify {
    /// Makes single tries.
    pub courier: Courier,
    /// How deliveries go.
    pub board: Board,
}

/// What is known of this controller from its start on.
pub struct About {
    /// `host:port` that join tokens carry.
    pub address: String,
    /// The fleet's keys.
    pub pki: Pki,
    /// The configuration, for the support bundle. Holds no secrets.
    pub configuration: String,
    /// When this process started.
    pub started_at: UnixMillis,
    /// The newest log lines.
    pub log: RecentLog,
}

impl Operations {
    /// Operations on these parts.
    #[must_use]
    pub fn new(
        engine: Engine,
        uplink: Uplink,
        series: Series,
        stores: Stores,
        notify: Notify,
        backups: Backups,
        about: About,
    ) -> Self {
        Self {
            engine,
            uplink,
            series,
            stores,
            notify,
            backups,
            about,
            random: SystemRandom::new(),
            trusting: tokio::sync::Mutex::new(()),
        }
    }

    /// Who a key's text belongs to.
    ///
    /// # Errors
    /// When it is no key of this fleet, or does not work any more. Such requests
    /// are anonymous: they are counted and never journalled one by one.
    pub fn authenticate(&self, text: &str, request: RequestId) -> Result<Who, Failure> {
        let text: ApiKeyText = text
            .parse()
            .map_err(|error| Failure::new(ErrorCode::KeyInvalid, format!("{error}")))?;
        let now = clock::now();
        let digest = SecretDigest::of(&text.secret);
        match self
            .engine
            .fleet()
            .access()
            .authenticate(text.id, &digest, now)?
        {
            Caller::Principal { id, key } => {
                self.engine.used(key, now);
                Ok(Who {
                    principal: id,
                    key,
                    request,
                })
            }
            Caller::Host | Caller::Node(_) | Caller::System | Caller::Anonymous => Err(
                Failure::new(ErrorCode::KeyInvalid, "the key belongs to no principal"),
            ),
        }
    }

    /// Asks the engine to change something.
    async fn submit(&self, who: &Who, operation: Operation) -> Result<Applied, Failure> {
        self.engine
            .submit(who.caller(), Some(who.request), operation)
            .await
            .map_err(|error| Failure::new(error.code(), error.to_string()))
    }

    /// Checks a permission to read, on these nodes or on the fleet as such.
    fn may(
        &self,
        who: &Who,
        fleet: &Fleet,
        permission: (&'static str, &'static str),
        on: &[NodeId],
    ) -> Result<(), Failure> {
        let wanted = Permission::of(permission.0, permission.1);
        match authorize(fleet, &who.caller(), &wanted, on) {
            Decision::Allowed { .. } => Ok(()),
            Decision::Denied(denial) => {
                let failure = Failure::new(denial.code, denial.reason.clone());
                self.engine.deny(
                    who.caller(),
                    Some(who.request),
                    &wanted.to_string(),
                    denial,
                    clock::now(),
                );
                Err(failure)
            }
        }
    }

    /// The nodes on which a permission to read is held; lists show these alone.
    fn reach<'a>(
        &self,
        who: &Who,
        fleet: &'a Fleet,
        permission: (&'static str, &'static str),
    ) -> Result<Reach<'a>, Failure> {
        let wanted = Permission::of(permission.0, permission.1);
        reach(fleet.access(), &who.caller(), &wanted).map_err(|denial| {
            let failure = Failure::new(denial.code, denial.reason.clone());
            self.engine.deny(
                who.caller(),
                Some(who.request),
                &wanted.to_string(),
                denial,
                clock::now(),
            );
            failure
        })
    }

    /// 256 random bits.
    fn secret(&self) -> Result<[u8; 32], Failure> {
        let mut secret = [0; 32];
        self.random
            .fill(&mut secret)
            .map_err(|_| Failure::new(ErrorCode::Internal, "no random source"))?;
        Ok(secret)
    }
}

/// A node by id or name.
fn find_node<'a>(fleet: &'a Fleet, text: &str) -> Result<&'a Arc<Node>, Failure> {
    let by_id = text.parse::<NodeId>().ok().and_then(|id| fleet.node(id));
    by_id.or_else(|| fleet.node_named(text)).ok_or_else(|| {
        Failure::new(
            ErrorCode::NodeNotFound,
            format!("there is no node {text:?}"),
        )
    })
}

/// A selector as operators type it: an id or a name alone means that node.
fn find_selector(text: &str) -> Result<Selector, Failure> {
    let text = text.trim();
    let bare = !text.is_empty()
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    let written = match text.parse::<NodeId>() {
        Ok(id) => return Ok(Selector::node(id)),
        Err(_) if bare => format!("name={text}"),
        Err(_) => text.to_owned(),
    };
    written
        .parse::<Selector>()
        .map_err(|error| Failure::new(error.code(), error.to_string()))
}

/// The answer to a request that was sent before with the same id: what was made
/// then cannot be shown again.
fn shown_already(what: &str) -> Failure {
    Failure::new(
        ErrorCode::RequestConflict,
        format!("this request was carried out before, and the secret of its {what} was shown then"),
    )
}

/// The engine answered without the event that the operation always makes.
fn unexpected(events: &[Event]) -> Failure {
    let names: Vec<_> = events.iter().map(Event::name).collect();
    Failure::new(
        ErrorCode::Internal,
        format!("the engine answered with {names:?}"),
    )
}
