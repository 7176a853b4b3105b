//! Webhooks: incidents told to others by HTTP, for wards without Prometheus.
//!
//! ```text
//! the fleet's journal ─► place (how far, durable) ─► notice (what is said) ─► post (once) ─► receiver
//!                          ▲────────────── again with pauses, then on ──────────────┘
//! ```
//!
//! Owns one task for each webhook. The fleet's journal is the queue, so nothing waits in memory, a restart loses nothing,
//! and a receiver that is slow or dead holds up neither the fleet nor other webhooks. Each message comes at least once, in
//! the journal's order; its id stays the same. One that is not taken in [`WEBHOOK_KEEP`] ([`WEBHOOK_REFUSED_KEEP`] where
//! the receiver calls it wrong) is passed by, counted and logged. May not judge.

mod config;
pub mod notice;
mod place;
mod post;

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use prometheus::{Error, IntCounterVec, IntGaugeVec, Registry as Metrics};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::book::{Entry, decode};
use super::keeper::Keeper;
use crate::journal::{JournalError, Records};
use crate::limits::{
    BACKOFF_FIRST, WEBHOOK_KEEP, WEBHOOK_PAUSE_MAX, WEBHOOK_READ_RECORDS, WEBHOOK_REFUSED_KEEP, WEBHOOK_RETRY,
};
use crate::metrics::Part;
use crate::model::Time;
use crate::outage::Outage;
pub use config::{WebhookConfig, check_all};
use notice::{Notice, NoticeKind};
use place::Place;
use post::Receiver;

/// All webhooks of a hub, ready to start.
pub struct Webhooks(Vec<Webhook>);

/// One webhook: its journal, its place in it, its receiver.
struct Webhook {
    config: WebhookConfig,
    keeper: Keeper,
    records: Records,
    place: Place,
    receiver: Receiver,
    figures: Figures,
    outage: Outage,
}

/// A message, and which record it comes from.
struct Message {
    number: u64,
    since: Time,
    notice: Notice,
}

/// How sending a message ended.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Sent {
    Taken,
    PassedBy,
    /// The hub stops; it is sent after the next start.
    Stopped,
}

#[derive(Clone)]
struct Figures {
    posts: IntCounterVec,
    up: IntGaugeVec,
    waiting: IntGaugeVec,
}

impl Figures {
    fn register(metrics: &Metrics) -> Result<Self, Error> {
        let part = Part::new(metrics, "camnet_webhook_");
        Ok(Self {
            posts: part.counters("posts_total", "Messages by what became of them", &["webhook", "result"])?,
            up: part.gauges("up", "0 while the receiver takes nothing", &["webhook"])?,
            waiting: part.gauges(
                "waiting_since_timestamp_seconds",
                "When the message that waits for its receiver was written; absent if none waits",
                &["webhook"],
            )?,
        })
    }

    fn begin(&self, name: &str) {
        for result in ["taken", "failed", "passed_by"] {
            self.posts.with_label_values(&[name, result]);
        }
        self.up.with_label_values(&[name]).set(1);
    }

    fn posted(&self, name: &str, result: &str) {
        self.posts.with_label_values(&[name, result]).inc();
    }
}

impl Webhooks {
    /// Reads secrets and places; `dir` is made if it is missing. Blocking.
    pub fn open(
        configs: &[WebhookConfig],
        dir: &Path,
        keeper: &Keeper,
        metrics: &Metrics,
    ) -> anyhow::Result<Self> {
        let mut webhooks = Vec::new();
        if configs.is_empty() {
            return Ok(Self(webhooks));
        }
        let figures = Figures::register(metrics)?;
        for config in configs {
            let name = &config.name;
            if let Some(area) = &config.area
                && keeper.look(|inner| inner.history.area(area).is_none())
            {
                anyhow::bail!("webhook {name}: the registry has no area {area}");
            }
            let (records, end) = keeper.records();
            let receiver = Receiver::open(config).with_context(|| format!("webhook {name}"))?;
            let place = Place::open(dir, name, end).with_context(|| format!("webhook {name}: its place"))?;
            figures.begin(name);
            let (keeper, figures, outage) = (keeper.clone(), figures.clone(), Outage::default());
            let config = config.clone();
            webhooks.push(Webhook { config, keeper, records, place, receiver, figures, outage });
        }
        Ok(Self(webhooks))
    }

    /// A task for each, until `stop`.
    pub fn start(self, tasks: &mut JoinSet<(&'static str, io::Result<()>)>, stop: &CancellationToken) {
        for webhook in self.0 {
            let stop = stop.clone();
            tasks.spawn(async move {
                webhook.run(stop).await;
                ("webhook", Ok(()))
            });
        }
    }
}

impl Webhook {
    async fn run(mut self, stop: CancellationToken) {
        let mut written = self.keeper.written();
        while !stop.is_cancelled() {
            let end = *written.borrow_and_update();
            if self.place.next() >= end {
                tokio::select! {
                    () = stop.cancelled() => break,
                    _ = written.changed() => continue,
                }
            }
            if let Err(error) = self.go_on(end, &stop).await {
                let name = &self.config.name;
                tracing::error!(webhook = name, error = %format!("{error:#}"), "a webhook can't go on; it tries again");
                pause(WEBHOOK_RETRY, &stop).await;
            }
        }
        if self.place.unsaved() > 0
            && let Err(error) = self.save().await
        {
            tracing::warn!(webhook = self.config.name, %error, "what was said last may be said again");
        }
    }

    /// Looks at the next records, and sends what is to be said of them.
    async fn go_on(&mut self, end: u64, stop: &CancellationToken) -> anyhow::Result<()> {
        let (records, next) = (self.records.clone(), self.place.next());
        let upto = end.min(next + WEBHOOK_READ_RECORDS as u64);
        let entries = tokio::task::spawn_blocking(move || read(&records, next, upto)).await??;
        for (number, since, entry) in entries {
            let Some(notice) = self.notice(&entry, since).await? else { continue };
            let message = Message { number, since, notice };
            match self.send(&message, stop).await {
                Sent::Stopped => return Ok(()),
                Sent::Taken => self.note(&message.notice),
                // Its end is of no use to who does not know of it.
                Sent::PassedBy if message.notice.kind == NoticeKind::Ended => self.note(&message.notice),
                Sent::PassedBy => {}
            }
            self.place.go_on(number + 1);
            self.save().await?;
        }
        self.place.go_on(upto);
        if self.place.unsaved() >= WEBHOOK_READ_RECORDS as u64 {
            self.save().await?;
        }
        Ok(())
    }

    async fn notice(&self, entry: &Entry, since: Time) -> anyhow::Result<Option<Notice>> {
        let Some(incident) = notice::incident_of(entry) else { return Ok(None) };
        let is_told = self.place.is_told(incident);
        let (entry, config, keeper) = (entry.clone(), self.config.clone(), self.keeper.clone());
        let say = move || keeper.look(|inner| notice::of(&entry, since, is_told, &config, inner));
        Ok(tokio::task::spawn_blocking(say).await?)
    }

    /// What the receiver knows now.
    fn note(&mut self, notice: &Notice) {
        match notice.kind {
            NoticeKind::Began | NoticeKind::Changed => self.place.told(notice.data.incident),
            NoticeKind::Ended => self.place.ended(notice.data.incident),
        }
    }

    /// Sends one message until it is taken, or its time is over.
    async fn send(&mut self, message: &Message, stop: &CancellationToken) -> Sent {
        let name = self.config.name.clone();
        let body = serde_json::to_vec(&message.notice).expect("a message has only text keys");
        let id = message.id();
        self.figures.waiting.with_label_values(&[&name]).set(message.since.as_second());
        let (began, mut rest) = (Instant::now(), BACKOFF_FIRST);
        let sent = loop {
            let posted = tokio::select! {
                () = stop.cancelled() => break Sent::Stopped,
                posted = self.receiver.post(&id, &body, Time::now()) => posted,
            };
            let Err(error) = posted else { break Sent::Taken };
            self.figures.posted(&name, "failed");
            self.figures.up.with_label_values(&[&name]).set(0);
            let keep = if error.is_refusal() { WEBHOOK_REFUSED_KEEP } else { WEBHOOK_KEEP };
            let error = error.to_string();
            if began.elapsed() >= keep {
                tracing::error!(webhook = name, id, error, "a message is passed by");
                break Sent::PassedBy;
            }
            if self.outage.failed(&error) {
                tracing::warn!(webhook = name, id, error, "a message was not taken; it is sent again");
            }
            pause(rest, stop).await;
            rest = WEBHOOK_PAUSE_MAX.min(rest * 2);
        };
        if sent == Sent::Taken {
            self.figures.posted(&name, "taken");
            self.figures.up.with_label_values(&[&name]).set(1);
            if let Some(failures) = self.outage.ended() {
                tracing::info!(webhook = name, failures, "messages are taken again");
            }
        } else if sent == Sent::PassedBy {
            self.figures.posted(&name, "passed_by");
        }
        let _ = self.figures.waiting.remove_label_values(&[&name]);
        sent
    }

    /// Notes how far it is. Durable on return.
    async fn save(&mut self) -> anyhow::Result<()> {
        self.place.save().await.context("its place can't be written")
    }
}

impl Message {
    /// The same for the same record, and no other's though the journal comes from a backup.
    fn id(&self) -> String {
        format!("{}-{}", self.notice.data.incident, self.number)
    }
}

/// The readable records from `next` to before `upto`. Blocking.
fn read(records: &Records, next: u64, upto: u64) -> Result<Vec<(u64, Time, Entry)>, JournalError> {
    let mut entries = Vec::new();
    for number in next..upto {
        match records.read_record(number) {
            Ok(Some(record)) => match decode(&record.payload) {
                Ok((time, entry)) => entries.push((number, time, entry)),
                Err(error) => tracing::error!(number, %error, "a record of the fleet is unreadable"),
            },
            Ok(None) => {}
            // Told at the start already; what stands behind it can be read.
            Err(JournalError::Damaged(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(entries)
}

async fn pause(time: Duration, stop: &CancellationToken) {
    let _ = tokio::time::timeout(time, stop.cancelled()).await;
}

#[cfg(test)]
mod tests;
