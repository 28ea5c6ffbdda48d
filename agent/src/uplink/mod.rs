//! The connection to the broker: the only owner of the MQTT client.
//!
//! It connects, subscribes to the node's two topics, carries envelopes both ways,
//! and tells the core when a connection is made or gone. What is in an envelope is
//! the core's business: a broker's acknowledgement means nothing here beyond room
//! in the window.
//!
//! **Invariant:** each connection has a client and an event loop of its own, and
//! its `poll` runs in a task of its own until the connection ends. Nothing that
//! was queued for one connection is sent on the next: the core sends again what
//! matters, under the new session.
//!
//! It fails by trying again for ever, the brokers in turn, with growing pauses.

mod connection;

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use protocol::id::{FleetId, NodeId};
use protocol::topic::Topic;
use rustls::ClientConfig;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::config::{Broker, Proxy};
use crate::domain::backoff::Backoff;
use crate::node::Input;
use crate::node::task::{Outgoing, StoreHandle};
use connection::{Connection, Distrust, Event};

/// The first pause after a failed attempt.
const RETRY_FIRST: Duration = Duration::from_secs(1);

/// A connection that held for this long was a good one: the next failure waits the
/// first pause again. A broker that takes connections and drops them at once is
/// not hammered.
const GOOD_AFTER: Duration = Duration::from_secs(30);

/// From connecting until both subscriptions are granted, on the slowest link.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// How long a broker may take to read our DISCONNECT.
const GOODBYE_MAX: Duration = Duration::from_secs(1);

/// After so many attempts that failed in a row, and after as many again, the trust
/// set is fetched by HTTPS, whatever the failures looked like: a broker that does
/// not believe our certificate may simply drop the connection.
const FAILURES_BEFORE_TRUST: u32 = 5;

/// At least this long between two certificates that are asked for because a broker
/// does not believe ours: where the fault is the broker's, each would be one more
/// record in the controller's journal, for nothing.
const RENEW_PAUSE: Duration = Duration::from_secs(3600);

/// Where and how to connect. A change makes a new connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Brokers, tried in turn.
    pub brokers: Vec<Broker>,
    /// An HTTP proxy on the way, with its password when it has one.
    pub proxy: Option<(Proxy, Option<Password>)>,
    /// Longest pause between two attempts.
    pub retry_max: Duration,
}

/// A proxy's password. `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(pub String);

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password(hidden)")
    }
}

/// What the uplink needs.
pub struct Context {
    /// The fleet.
    pub fleet: FleetId,
    /// The node.
    pub node: NodeId,
    /// Where to connect.
    pub target: watch::Receiver<Arc<Target>>,
    /// TLS with the node's certificate, as it is when a connection is made.
    pub tls: watch::Receiver<Arc<ClientConfig>>,
    /// The core.
    pub core: StoreHandle,
    /// Envelopes to publish.
    pub wire: mpsc::Receiver<Outgoing>,
    /// The core wants a new connection.
    pub nudges: Arc<crate::node::task::Nudges>,
    /// Reads the time.
    pub clock: crate::clock::Clock,
    /// Fixes the jitter.
    pub seed: u64,
    /// Whether a broker is connected, and the last failure, for the status.
    pub state: watch::Sender<State>,
    /// When cancelled, the uplink says goodbye and ends.
    pub stop: CancellationToken,
}

/// How the connection to the broker is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The broker that is connected, or is being tried.
    pub broker: Option<String>,
    /// Whether both subscriptions are granted.
    pub connected: bool,
    /// Attempts that failed in a row.
    pub failures: u32,
    /// Why the last attempt or connection ended.
    pub last_error: Option<String>,
}

/// The core has stopped, which only the end of the agent brings about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the uplink lost the node's core")]
pub struct UplinkError;

/// Why a connection ended.
enum End {
    /// The agent stops.
    Stopped,
    /// Something failed.
    Failed(String),
    /// The broker's certificate is not believed, or it does not believe ours.
    Distrusted(String, Distrust),
    /// Where to connect has changed.
    Changed,
    /// The core wants a new one.
    Asked,
}

/// Keeps a connection until it is stopped.
///
/// # Errors
/// [`UplinkError`] when the core is gone before the agent was asked to stop.
pub async fn run(mut context: Context) -> Result<(), UplinkError> {
    let mut turn = 0_usize;
    let mut renewal_asked = None;
    let retry_max = context.target.borrow().retry_max;
    let mut backoff = Backoff::new(RETRY_FIRST, retry_max, context.seed);
    loop {
        let target = Arc::clone(&context.target.borrow_and_update());
        let broker = target
            .brokers
            .get(turn % target.brokers.len().max(1))
            .cloned();
        let started = context.clock.tick();
        let end = match &broker {
            Some(broker) => connected(&mut context, &target, broker).await?,
            None => End::Failed("no broker is known".to_owned()),
        };
        if context.clock.tick().since(started) >= GOOD_AFTER {
            backoff.succeed();
        }
        let pause = match end {
            End::Stopped => return Ok(()),
            End::Changed => continue,
            End::Asked => {
                turn = turn.wrapping_add(1);
                backoff.fail()
            }
            End::Failed(reason) => {
                turn = turn.wrapping_add(1);
                let pause = failed(&context, &mut backoff, reason);
                if backoff.failures().is_multiple_of(FAILURES_BEFORE_TRUST) {
                    context.nudges.fetch_trust.notify_one();
                }
                pause
            }
            End::Distrusted(reason, distrust) => {
                turn = turn.wrapping_add(1);
                // The CAs may have changed while the node was away.
                context.nudges.fetch_trust.notify_one();
                let now = context.clock.tick();
                let is_asked = renewal_asked.is_some_and(|at| now.since(at) < RENEW_PAUSE);
                if distrust == Distrust::OfNode && !is_asked {
                    renewal_asked = Some(now);
                    context.nudges.renew.notify_one();
                }
                failed(&context, &mut backoff, reason)
            }
        };
        tokio::select! {
            () = context.stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
            changed = context.target.changed() => changed.map_err(|_| UplinkError)?,
            // Another certificate or other CAs: perhaps what was wrong.
            Ok(()) = context.tls.changed() => {}
        }
    }
}

/// Notes a failure; how long to wait.
fn failed(context: &Context, backoff: &mut Backoff, reason: String) -> Duration {
    let pause = backoff.fail();
    tracing::warn!(reason, ?pause, "no connection to the broker");
    context.state.send_modify(|state| {
        state.failures = backoff.failures();
        state.last_error = Some(reason);
    });
    pause
}

/// One connection, from its first packet to its last.
async fn connected(
    context: &mut Context,
    target: &Target,
    broker: &Broker,
) -> Result<End, UplinkError> {
    context.state.send_modify(|state| {
        state.broker = Some(broker.to_string());
        state.connected = false;
    });
    let topics = [
        Topic::Down(context.node).print(context.fleet),
        Topic::All.print(context.fleet),
    ];
    let tls = Arc::clone(&context.tls.borrow_and_update());
    let mut connection = match Connection::open(context.node, target, broker, tls, topics) {
        Ok(connection) => connection,
        Err(error) => return Ok(End::Failed(error.to_string())),
    };
    let end = carry(context, &mut connection).await;
    let ready = context.state.borrow().connected;
    context.state.send_modify(|state| state.connected = false);
    if ready
        && context.core.link(Input::Disconnected).await.is_err()
        && !context.stop.is_cancelled()
    {
        return Err(UplinkError);
    }
    if matches!(end, Ok(End::Stopped)) {
        connection.goodbye(GOODBYE_MAX).await;
    }
    end
}

async fn carry(context: &mut Context, connection: &mut Connection) -> Result<End, UplinkError> {
    let mut ready = false;
    let deadline = tokio::time::sleep(READY_WITHIN);
    tokio::pin!(deadline);
    loop {
        tokio::select! {
            () = context.stop.cancelled() => {
                flush(context, connection);
                return Ok(End::Stopped);
            }
            () = context.nudges.reconnect.notified(), if ready => {
                tracing::info!("the controller does not answer on this connection");
                return Ok(End::Asked);
            }
            changed = context.target.changed() => {
                return changed.map(|()| End::Changed).map_err(|_| UplinkError);
            }
            () = &mut deadline, if !ready => {
                return Ok(End::Failed("the broker granted no subscriptions in time".to_owned()));
            }
            Some(outgoing) = context.wire.recv(), if ready => {
                connection.publish(context.fleet, outgoing);
            }
            event = connection.next() => match event {
                Event::Ready => {
                    ready = true;
                    // What an earlier connection left behind belongs to its session.
                    while context.wire.try_recv().is_ok() {}
                    // So does a wish to be rid of it.
                    let _stale = context.nudges.reconnect.notified().now_or_never();
                    tracing::info!("connected to the broker");
                    context.state.send_modify(|state| {
                        state.connected = true;
                        state.failures = 0;
                        state.last_error = None;
                    });
                    tell(context, Input::Connected).await?;
                }
                Event::Message { topic, bytes } => {
                    tell(context, Input::Message { topic, bytes }).await?;
                }
                Event::Ended(reason) => return Ok(End::Failed(reason)),
                Event::Distrusted(reason, distrust) => {
                    return Ok(End::Distrusted(reason, distrust));
                }
            }
        }
    }
}

/// Puts what is ready into the client's queue, so that the last receipts leave.
fn flush(context: &mut Context, connection: &mut Connection) {
    while let Ok(outgoing) = context.wire.try_recv() {
        connection.publish(context.fleet, outgoing);
    }
}

async fn tell(context: &Context, input: Input) -> Result<(), UplinkError> {
    match context.core.link(input).await {
        Ok(()) => Ok(()),
        Err(_) if context.stop.is_cancelled() => Ok(()),
        Err(_) => Err(UplinkError),
    }
}

#[cfg(test)]
mod tests;
