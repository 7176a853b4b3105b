//! `camnet load box`: one real box, outbox on disk and all, that makes events at a rate.
//!
//! Owns the making of events and the ledger of what the outbox accepted. Everything else is [`crate::edge`], as
//! `camnet edge` runs it; may not touch outbox or link itself.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use tokio_util::sync::CancellationToken;

use super::events::Mix;
use crate::edge::config::EdgeConfig;
use crate::edge::outbox::{NewEvent, Outbox, OutboxError};
use crate::edge::{Edge, clock};
use crate::limits::OUTBOX_QUEUE_MAX;
use crate::model::{DeviceId, EventData, Time};
use crate::toml_file::ConfigFile;

#[derive(Debug, Args)]
pub struct BoxArgs {
    /// The box's configuration, as of `camnet edge`.
    #[arg(long)]
    config: PathBuf,
    /// Events per second.
    #[arg(long, value_parser = super::positive)]
    rate: f64,
    /// The camera that the events are about; the registry must give it to this box.
    #[arg(long, default_value = "cam-01")]
    device: DeviceId,
    /// One line is added for each event that the outbox accepted: its mark, see `mark_of`. Not synced: it outlives
    /// the process, not a power cut.
    #[arg(long)]
    ledger: PathBuf,
}

/// Runs the box until `shutdown`.
pub async fn run(args: BoxArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let config = EdgeConfig::load(&args.config)?;
    let ledger = std::fs::OpenOptions::new().create(true).append(true).open(&args.ledger);
    let ledger = ledger.with_context(|| args.ledger.display().to_string())?;
    // Each life of the process draws its own, so that no mark comes twice.
    let (life, _) = uuid::Uuid::new_v4().as_u64_pair();
    let source = Source {
        mix: Mix::new(config.box_id.clone(), args.device, life),
        life,
        pause: Duration::from_secs_f64(1.0 / args.rate),
        ledger,
    };
    let edge = Edge::build(config)?;
    edge.run_with(shutdown, |outbox, stop| source.run(outbox, stop)).await
}

/// What tells one event of the mix from all others: it stands in the event's data, which the outbox does not make.
/// None for a boot, which the outbox makes itself.
pub fn mark_of(data: &EventData) -> Option<String> {
    match data {
        EventData::Motion(motion) => Some(format!("{}-{:?}", motion.motion, motion.phase)),
        EventData::Status(status) => status.detail.clone(),
        _ => None,
    }
}

struct Source {
    mix: Mix,
    life: u64,
    pause: Duration,
    ledger: std::fs::File,
}

impl Source {
    /// Makes events until `stop`. As many as the outbox's queue holds wait for their sync at once: a slow disk
    /// makes larger groups, not fewer events.
    async fn run(mut self, outbox: Outbox, stop: CancellationToken) {
        let mut pace = tokio::time::interval(self.pause);
        let mut waiting = tokio::task::JoinSet::new();
        let mut has_failed = false;
        let mut n = 0;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(accepted) = waiting.join_next() => {
                    self.note(accepted.expect("accepting does not panic"), &mut has_failed);
                    continue;
                }
                _ = pace.tick(), if waiting.len() < OUTBOX_QUEUE_MAX => {}
            }
            n += 1;
            let time = Time::now();
            let (device, data) = self.mix.data(self.life, n, time);
            let mark = mark_of(&data).unwrap_or_default();
            let outbox = outbox.clone();
            waiting.spawn(async move {
                let event = NewEvent { device, time, clock: clock::quality(), data };
                (mark, outbox.accept(event).await)
            });
        }
        while let Some(accepted) = waiting.join_next().await {
            self.note(accepted.expect("accepting does not panic"), &mut has_failed);
        }
    }

    fn note(&mut self, (mark, accepted): (String, Result<(), OutboxError>), has_failed: &mut bool) {
        match accepted {
            Ok(()) => {
                *has_failed = false;
                // In one write: whoever is killed in the middle leaves no half line.
                if let Err(error) = self.ledger.write_all(format!("{mark}\n").as_bytes()) {
                    tracing::error!(%error, "the ledger can't be written");
                }
            }
            Err(OutboxError::Closed) => {}
            Err(error) if !*has_failed => {
                *has_failed = true;
                tracing::warn!(%error, "the outbox does not take events");
            }
            Err(_) => {}
        }
    }
}
