//! Reading the configuration again, on SIGHUP or by a command.
//!
//! Sampling, the rules for commands and deployments, and the uplink follow at once. Directories,
//! the store's bounds and the log are fixed until the next start, and the answer
//! says so when they differ. A file with problems changes nothing.

use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::agent::target_brokers;
use crate::command::{ReloadRequest, Settings};
use crate::config::{Broker, Config, Source};
use crate::deploy;
use crate::uplink::{Password, Target};

pub(super) struct Context {
    pub(super) source: Source,
    pub(super) config: watch::Sender<Arc<Config>>,
    pub(super) settings: watch::Sender<Settings>,
    pub(super) deploy: watch::Sender<Arc<deploy::Settings>>,
    pub(super) target: watch::Sender<Arc<Target>>,
    /// The identity's brokers, where the configuration names none.
    pub(super) brokers: Vec<Broker>,
    pub(super) requests: mpsc::Receiver<ReloadRequest>,
    pub(super) stop: CancellationToken,
}

/// Reloads whenever it is asked to.
pub(super) async fn run(mut context: Context) -> Result<(), std::io::Error> {
    let mut hangup: Signal = signal(SignalKind::hangup())?;
    loop {
        let reply: Option<oneshot::Sender<_>> = tokio::select! {
            () = context.stop.cancelled() => return Ok(()),
            _ = hangup.recv() => None,
            request = context.requests.recv() => match request {
                Some(reply) => Some(reply),
                // The executor stops before this task does.
                None => {
                    context.stop.cancelled().await;
                    return Ok(());
                }
            },
        };
        let result = context.reload();
        match &result {
            Ok(text) => tracing::info!(text, "the configuration was read again"),
            Err(text) => tracing::warn!(text, "the configuration stays as it was"),
        }
        if let Some(reply) = reply {
            // Who asked may have given up meanwhile.
            drop(reply.send(result));
        }
    }
}

impl Context {
    fn reload(&self) -> Result<String, String> {
        let fresh = self.source.load().map_err(|error| crate::chain(&error))?;
        let password = password(&fresh).map_err(|error| error.to_string())?;
        let held = Arc::clone(&self.config.borrow());
        let mut fixed = Vec::new();
        if held.dirs != fresh.dirs {
            fixed.push("[state] and [runtime]");
        }
        if held.store != fresh.store {
            fixed.push("[store]");
        }
        if held.log != fresh.log {
            fixed.push("[log]");
        }
        if held.uplink.controllers != fresh.uplink.controllers {
            fixed.push("uplink.controllers");
        }
        if held.deploy.name_prefix != fresh.deploy.name_prefix {
            fixed.push("deploy.name_prefix");
        }
        let target = Target {
            brokers: target_brokers(&fresh, &self.brokers),
            proxy: fresh.uplink.proxy.clone().map(|proxy| (proxy, password)),
            retry_max: fresh.uplink.retry_max,
        };
        self.target.send_if_modified(|held| {
            let changed = **held != target;
            if changed {
                *held = Arc::new(target);
            }
            changed
        });
        self.settings.send_replace(fresh.command.clone());
        self.deploy.send_replace(Arc::new(fresh.deploy.clone()));
        self.config.send_replace(Arc::new(fresh));
        Ok(if fixed.is_empty() {
            "the configuration was read again".to_owned()
        } else {
            format!(
                "the configuration was read again; {} change at the next start",
                fixed.join(", ")
            )
        })
    }
}

/// A proxy's password cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the proxy's password from {}", path.display())]
pub struct PasswordError {
    path: std::path::PathBuf,
    #[source]
    source: std::io::Error,
}

/// The proxy's password, from its file.
pub fn password(config: &Config) -> Result<Option<Password>, PasswordError> {
    let login = config
        .uplink
        .proxy
        .as_ref()
        .and_then(|proxy| proxy.login.as_ref());
    let Some((_, path)) = login else {
        return Ok(None);
    };
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(Password(text.trim_end().to_owned()))),
        Err(source) => Err(PasswordError {
            path: path.clone(),
            source,
        }),
    }
}
