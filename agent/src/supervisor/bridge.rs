//! Between the core and the executor: orders one way, receipts the other.
//!
//! **Invariant:** it never waits to hand an order over while an event waits to be
//! taken, so the two tasks at its ends cannot hold each other up.

use protocol::command::ProgressStep;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::command::{CommandEvent, Order as ExecutorOrder};
use crate::node::task::{CoreGone, Order, StoreHandle};

/// Carries orders and events until it is stopped, and then until the executor has
/// told its last.
pub(super) async fn run(
    mut orders: mpsc::Receiver<Order>,
    executor: mpsc::Sender<ExecutorOrder>,
    mut events: mpsc::Receiver<CommandEvent>,
    core: StoreHandle,
    clock: Clock,
    stop: CancellationToken,
) -> Result<(), CoreGone> {
    let mut next: Option<ExecutorOrder> = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            event = events.recv() => match event {
                Some(event) => tell(&core, &clock, event).await?,
                None => break,
            },
            order = orders.recv(), if next.is_none() => {
                next = order.map(|order| match order {
                    Order::Start(command) => ExecutorOrder::Start(*command),
                    Order::Cancel(command) => ExecutorOrder::Cancel(command),
                });
            }
            permit = executor.reserve(), if next.is_some() => {
                if let (Ok(permit), Some(order)) = (permit, next.take()) {
                    permit.send(order);
                }
            }
        }
    }
    // The executor was stopped first; what it still tells are receipts.
    while let Some(event) = events.recv().await {
        tell(&core, &clock, event).await?;
    }
    Ok(())
}

async fn tell(core: &StoreHandle, clock: &Clock, event: CommandEvent) -> Result<(), CoreGone> {
    match event {
        CommandEvent::Started { command, at } => {
            core.show_progress(command, at, ProgressStep::Started);
            Ok(())
        }
        CommandEvent::Output {
            command,
            stream,
            offset,
            bytes,
        } => {
            let step = ProgressStep::Output {
                stream,
                offset,
                bytes,
            };
            // A chunk does not say when it was written; it comes at once.
            core.show_progress(command, clock.controller_now(), step);
            Ok(())
        }
        CommandEvent::Finished(receipt) => core.finish(receipt).await,
    }
}
