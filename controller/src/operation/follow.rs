//! Following a command as it runs.
//!
//! Subscribes to news first and reads the targets after, so that no end of a
//! target is missed in between. A reader that is too slow misses progress, and
//! is told; ends are read again from the store, so they are whole.

use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::stream::unfold;
use protocol::id::{CommandId, NodeId};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::watch;

use super::command::{node_name, stream_name};
use super::view::command::{FollowLine, ListTargets, ProgressView};
use super::{Lines, Operations, Who};
use crate::domain::fleet::Fleet;
use crate::operation::failure::Failure;
use crate::uplink::{News, NewsOf};

struct Following {
    operations: Arc<Operations>,
    who: Who,
    command: CommandId,
    news: broadcast::Receiver<Arc<News>>,
    fleet: watch::Receiver<Arc<Fleet>>,
    told: BTreeSet<NodeId>,
    ready: VecDeque<FollowLine>,
    ended: bool,
}

impl Operations {
    /// Follows a command until every target has ended.
    ///
    /// # Errors
    /// When it is denied, or there is no such command.
    pub fn follow_command(
        self: Arc<Self>,
        who: &Who,
        command: CommandId,
    ) -> Result<Lines<FollowLine>, Failure> {
        self.may_read_command(who, command)?;
        let news = self.uplink.news();
        let fleet = self.engine.watch();
        let mut following = Following {
            who: *who,
            command,
            news,
            fleet,
            told: BTreeSet::new(),
            ready: VecDeque::new(),
            ended: false,
            operations: self,
        };
        following.read_all()?;
        Ok(Box::pin(unfold(following, async |mut following| {
            let line = following.next().await?;
            Some((line, following))
        })))
    }
}

impl Following {
    async fn next(&mut self) -> Option<FollowLine> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(line);
            }
            if self.ended {
                return None;
            }
            let taken = tokio::select! {
                news = self.news.recv() => self.take(news),
                changed = self.fleet.changed() => match changed {
                    Ok(()) => self.look_for_the_end(),
                    Err(_) => return None,
                },
            };
            if let Err(failure) = taken {
                tracing::warn!(%failure, command = %self.command, "following a command failed");
                return None;
            }
        }
    }

    fn take(&mut self, news: Result<Arc<News>, RecvError>) -> Result<(), Failure> {
        match news {
            Ok(news) if news.command != self.command => Ok(()),
            Ok(news) => self.take_one(&news),
            Err(RecvError::Lagged(count)) => {
                self.ready.push_back(FollowLine::Missed { count });
                self.read_all()
            }
            Err(RecvError::Closed) => {
                self.ended = true;
                Ok(())
            }
        }
    }

    fn take_one(&mut self, news: &News) -> Result<(), Failure> {
        let progress = |kind: &str, offset, bytes: &[u8]| {
            FollowLine::Progress(ProgressView {
                node: news.node,
                name: node_name(&self.operations.engine.fleet(), news.node),
                kind: kind.to_owned(),
                offset,
                bytes: bytes.len() as u64,
                text: String::from_utf8_lossy(bytes).into_owned(),
            })
        };
        match &news.what {
            NewsOf::Started { .. } => self.ready.push_back(progress("started", 0, &[])),
            NewsOf::Output {
                stream,
                offset,
                bytes,
            } => self
                .ready
                .push_back(progress(stream_name(*stream), *offset, bytes)),
            NewsOf::Ended => self.tell(news.node)?,
        }
        Ok(())
    }

    fn tell(&mut self, node: NodeId) -> Result<(), Failure> {
        if let Some(target) = self.operations.target(self.command, node)?
            && target.done
            && self.told.insert(node)
        {
            self.ready.push_back(FollowLine::Target(target));
        }
        Ok(())
    }

    /// Reads every target, and tells of those that have ended.
    fn read_all(&mut self) -> Result<(), Failure> {
        let mut asked = ListTargets {
            after: None,
            limit: Some(1000),
        };
        loop {
            let page = self
                .operations
                .list_targets(&self.who, self.command, &asked)?;
            for target in page.targets {
                if target.done && self.told.insert(target.node) {
                    self.ready.push_back(FollowLine::Target(target));
                }
            }
            match page.next {
                Some(next) => asked.after = Some(next),
                None => return self.look_for_the_end(),
            }
        }
    }

    /// Ends the stream once the command is concluded, after a last look at the
    /// targets: their ends are durable before the conclusion is.
    fn look_for_the_end(&mut self) -> Result<(), Failure> {
        let command = self.operations.command_view(self.command)?;
        if !command.done || self.ended {
            return Ok(());
        }
        self.ended = true;
        self.read_all()?;
        self.ready.push_back(FollowLine::Command(command));
        Ok(())
    }
}
