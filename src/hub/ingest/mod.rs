//! From MQTT to the truth to the index, and receipts back.
//!
//! Owns the order of things: a message is acknowledged and receipted after its events are durable in the
//! truth, never before. May not answer questions (search does) nor decide what is new (the truth does).
//!
//! [`core`] decides and does no I/O. Two threads: *ingest* drives it with the truth and the link, and commits what
//! waits as one group; *indexer* brings the catalog up to the truth (see [`super::indexer`]). Neither waits for the link:
//! `outgoing` does.

pub mod core;
mod outgoing;

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc as std_mpsc};
use std::time::{Duration, Instant};

use prometheus::{Histogram, IntCounter, Registry as Metrics};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::aside::SetAside;
use super::catalog::Catalog;
use super::command::Commands;
use super::fleet::keeper::Keeper;
use super::indexer::{Batch, INDEX_BATCHES_MAX, Indexer};
use super::latency::Searchable;
use super::metrics::HubMetrics;
use super::status::HubStatus;
use super::truth::{Appended, HubRecord, JournalTruth, Outcome, StoredFile, Truth};
use crate::limits::{COMMIT_EVENTS_MAX, INGEST_MESSAGES_MAX, INGEST_QUEUE_MAX};
use crate::metrics::Part;
use crate::model::{BoxId, Epoch, Time};
use crate::mqtt::{Ack, LinkEvent, LinkSender, Message};
use crate::wire::{Command, Topic, TopicKind};
use core::{Action, Core, Effect};
pub use core::{IsOut, SpeaksFor, check_device};
use outgoing::Outgoing;

/// What waits for the ingest thread.
enum Work {
    Messages(Vec<Message>),
    Stored {
        file: StoredFile,
        done: oneshot::Sender<Result<u64, IngestError>>,
    },
    /// Events that were set aside once.
    Again {
        records: Vec<HubRecord>,
        done: Again,
    },
}

type Again = oneshot::Sender<Result<Vec<Outcome>, IngestError>>;

/// Why something could not be made durable.
#[derive(Debug, Clone, thiserror::Error)]
pub enum IngestError {
    #[error("the hub's journal can't be written: {0}")]
    Journal(String),
    #[error("the hub is stopping")]
    Stopping,
}

/// A handle for those who put things into the truth beside MQTT. Clones share it.
#[derive(Clone)]
pub struct TruthHandle {
    work: mpsc::Sender<Work>,
}

impl TruthHandle {
    /// Notes an upload whose file is durable. When this returns, the note is durable too.
    pub async fn append_stored(&self, file: StoredFile) -> Result<u64, IngestError> {
        let (done, answer) = oneshot::channel();
        self.work.send(Work::Stored { file, done }).await.map_err(|_| IngestError::Stopping)?;
        answer.await.map_err(|_| IngestError::Stopping)?
    }

    /// Offers events again that were set aside once; when this returns they are durable. From a thread.
    pub fn append_again(&self, records: Vec<HubRecord>) -> Result<Vec<Outcome>, IngestError> {
        let (done, answer) = oneshot::channel();
        self.work.blocking_send(Work::Again { records, done }).map_err(|_| IngestError::Stopping)?;
        answer.blocking_recv().map_err(|_| IngestError::Stopping)?
    }
}

struct Counters {
    events: IntCounter,
    duplicates: IntCounter,
    conflicts: IntCounter,
    commits: IntCounter,
    commit_seconds: Histogram,
    receipts: IntCounter,
    index_failures: IntCounter,
}

impl Counters {
    fn register(metrics: &Metrics) -> Result<Self, prometheus::Error> {
        let part = Part::new(metrics, "camnet_hub_ingest_");
        let commit_buckets = prometheus::exponential_buckets(0.0005, 2.0, 14)?;
        Ok(Self {
            events: part.counter("events_total", "New events made durable")?,
            duplicates: part.counter("duplicates_total", "Events that were known already")?,
            conflicts: part.counter("conflicts_total", "Events whose place was taken by another id")?,
            commits: part.counter("commits_total", "Groups made durable")?,
            commit_seconds: part.histogram(
                "commit_seconds",
                "From decoding to durable, per group",
                commit_buckets,
            )?,
            receipts: part.counter("receipts_total", "Receipts handed to the broker")?,
            index_failures: part
                .counter("index_failures_total", "Batches that the index could not take at once")?,
        })
    }
}

/// Ingest, running. Its threads end when every handle is gone and what waited is done.
pub struct Ingest {
    pub handle: TruthHandle,
    pub threads: Threads,
}

/// The two threads.
pub struct Threads(Vec<std::thread::JoinHandle<()>>);

impl Threads {
    /// Waits until both have finished what they had. Blocks until every handle is gone.
    pub fn join(self) {
        for thread in self.0 {
            if thread.join().is_err() {
                tracing::error!("an ingest thread panicked");
            }
        }
    }
}

/// Starts both threads and returns when the index has caught up with the journal. Blocking, within a runtime.
pub fn start(
    truth: JournalTruth,
    catalog: Arc<dyn Catalog>,
    fleet: Keeper,
    (speaks_for, is_out): (SpeaksFor, IsOut),
    link: LinkSender,
    status: Arc<HubStatus>,
    metrics: &HubMetrics,
) -> anyhow::Result<Ingest> {
    let (metrics, of_each) = (metrics.registry(), metrics.of_each());
    status.journal_next.store(truth.next(), Ordering::Release);
    let counters = Arc::new(Counters::register(metrics)?);
    let (batches, batch_queue) = std_mpsc::sync_channel(INDEX_BATCHES_MAX);
    let mut indexer = Indexer::new(truth.dir(), catalog);
    indexer.catch_up(truth.next(), |_, _| Ok(()))?;
    let index_failures = counters.index_failures.clone();
    let searchable = Searchable::register(metrics)?;
    let index_thread = std::thread::Builder::new().name("indexer".into()).spawn(move || {
        let applied = |records: &[HubRecord]| searchable.observe(records, Time::now());
        indexer.run(batch_queue, &index_failures, |records| fleet.hear(records), applied);
    })?;
    let (work, queue) = mpsc::channel(INGEST_QUEUE_MAX);
    let outgoing = Outgoing::default();
    tokio::spawn(outgoing.clone().run(link.clone(), counters.receipts.clone()));
    let worker = Worker {
        core: Core::with_aside(speaks_for, is_out, SetAside::register(metrics, of_each)?),
        truth,
        link,
        outgoing,
        batches,
        status,
        counters,
    };
    let ingest_thread = std::thread::Builder::new().name("ingest".into()).spawn(move || worker.run(queue))?;
    Ok(Ingest { handle: TruthHandle { work }, threads: Threads(vec![ingest_thread, index_thread]) })
}

/// Takes what the MQTT link brings until the link ends. Results of commands go to who waits for them at once; they are
/// acknowledged with the rest.
pub async fn serve_link(
    handle: TruthHandle,
    status: Arc<HubStatus>,
    commands: Commands,
    mut events: mpsc::Receiver<LinkEvent>,
) {
    let mut arrived = Vec::with_capacity(INGEST_MESSAGES_MAX);
    while events.recv_many(&mut arrived, INGEST_MESSAGES_MAX).await > 0 {
        let mut messages = Vec::with_capacity(arrived.len());
        for event in arrived.drain(..) {
            match event {
                LinkEvent::Up { connection } => {
                    tracing::info!(connection, "mqtt link is up");
                    status.broker_up.store(true, Ordering::Release);
                }
                LinkEvent::Down { .. } => status.broker_up.store(false, Ordering::Release),
                LinkEvent::Published { .. } => {}
                LinkEvent::Message(message) => {
                    let topic = message.topic.parse::<Topic>().ok();
                    if let Some(topic) = topic.filter(|topic| topic.kind == TopicKind::Result) {
                        commands.take(&topic, &message.payload);
                    }
                    messages.push(message);
                }
            }
        }
        if !messages.is_empty() && handle.work.send(Work::Messages(messages)).await.is_err() {
            return;
        }
    }
}

/// Who waits for a word of ours.
enum Ticket {
    Message(Ack),
    Stored(oneshot::Sender<Result<u64, IngestError>>),
}

/// The ingest thread: drives the core with the truth and the link.
struct Worker {
    core: Core<Ticket>,
    truth: JournalTruth,
    link: LinkSender,
    outgoing: Outgoing,
    batches: std_mpsc::SyncSender<Batch>,
    status: Arc<HubStatus>,
    counters: Arc<Counters>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.outgoing.close();
    }
}

/// Between two tries to write a journal that can't be written.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

impl Worker {
    fn run(mut self, mut queue: mpsc::Receiver<Work>) {
        while let Some(first) = queue.blocking_recv() {
            let started = Instant::now();
            self.take(first);
            while self.core.waiting() < COMMIT_EVENTS_MAX
                && let Ok(work) = queue.try_recv()
            {
                self.take(work);
            }
            while !self.commit() {
                // What waits stays the broker's and the boxes'. When the hub stops, they keep it.
                if queue.is_closed() {
                    return;
                }
                std::thread::sleep(RETRY_PAUSE);
            }
            self.counters.commit_seconds.observe(started.elapsed().as_secs_f64());
        }
    }

    fn take(&mut self, work: Work) {
        match work {
            Work::Again { records, done } => self.append_again(records, done),
            Work::Stored { file, done } => {
                let effects = self.core.step(Action::Stored { file, ticket: Ticket::Stored(done) });
                self.perform(effects);
            }
            Work::Messages(messages) => {
                // As precise as the journal keeps it: an index that is built anew from that is the same.
                let now = Time::now();
                let received = Time::from_microsecond(now.as_microsecond()).unwrap_or(now);
                for message in messages {
                    let effects = self.core.step(Action::Message {
                        topic: &message.topic,
                        payload: &message.payload,
                        properties: &message.user_properties,
                        received,
                        ticket: Ticket::Message(message.ack),
                    });
                    self.perform(effects);
                }
            }
        }
    }

    /// Makes the group durable, then says so. If that fails nothing is said, and false comes back.
    fn commit(&mut self) -> bool {
        let effects = self.core.step(Action::Commit);
        self.perform(effects)
    }

    /// Does what the core asks for; false if it asks to try again.
    fn perform(&mut self, effects: Vec<Effect<Ticket>>) -> bool {
        let (mut is_done, mut acks) = (true, Vec::new());
        for effect in effects {
            match effect {
                Effect::Append(batch) => is_done = self.append(batch),
                Effect::Ack(Ticket::Message(ack)) => acks.push(ack),
                Effect::StoredAt(Ticket::Stored(done), position) => {
                    let _ = done.send(Ok(position));
                }
                Effect::NotStored(Ticket::Stored(done)) => {
                    let _ = done.send(Err(IngestError::Journal("see the hub's log".into())));
                }
                Effect::Receipt(box_id, epoch) => self.send_receipt(&box_id, epoch),
                Effect::ReceiptsOfIncomplete(box_id) => {
                    for epoch in self.truth.incomplete(&box_id) {
                        self.send_receipt(&box_id, epoch);
                    }
                }
                Effect::AskNewEpoch(box_id, epoch) => self.ask_new_epoch(&box_id, epoch),
                Effect::Index(batch) => {
                    if self.batches.send(batch).is_err() {
                        tracing::error!("the indexer has ended");
                    }
                }
                Effect::Online(box_id, online, disk) => {
                    let disk_trouble = disk.as_ref().map(|disk| disk.detail.as_str());
                    tracing::info!(%box_id, online, disk_trouble, "box status");
                    self.status.set_online(&box_id, online);
                    self.status.set_disk(&box_id, disk);
                }
                Effect::Said(box_id, epochs) => self.truth.said(&box_id, epochs),
                Effect::Retry => is_done = false,
                Effect::Ack(_) | Effect::StoredAt(..) | Effect::NotStored(_) => {
                    unreachable!("the core gives back each ticket as what it was")
                }
            }
        }
        if !acks.is_empty() {
            let _ = self.link.ack(acks);
        }
        is_done
    }

    fn append(&mut self, batch: Vec<HubRecord>) -> bool {
        let action = match self.truth.append(batch) {
            Ok(appended) => {
                self.counters.commits.inc();
                self.count(&appended);
                self.status.journal_next.store(self.truth.next(), Ordering::Release);
                Action::Appended { appended, now: Instant::now() }
            }
            Err(failed) => {
                let error = &failed.source as &dyn std::error::Error;
                tracing::error!(error, "the hub's journal can't be written; nothing is acknowledged");
                Action::Failed { batch: failed.batch }
            }
        };
        let effects = self.core.step(action);
        self.perform(effects)
    }

    /// A replay's batch stands for itself: nobody's acknowledgement hangs on it.
    fn append_again(&mut self, records: Vec<HubRecord>, done: Again) {
        let touched: BTreeSet<(BoxId, Epoch)> = records
            .iter()
            .filter_map(|record| match record {
                HubRecord::Event(arrived) => Some((arrived.box_id.clone(), arrived.event.epoch)),
                _ => None,
            })
            .collect();
        let answer = match self.truth.append(records) {
            Ok(appended) => {
                self.count(&appended);
                self.status.journal_next.store(self.truth.next(), Ordering::Release);
                if !appended.written.is_empty()
                    && self.batches.send((appended.first, appended.written)).is_err()
                {
                    tracing::error!("the indexer has ended");
                }
                for (box_id, epoch) in touched {
                    self.send_receipt(&box_id, epoch);
                }
                Ok(appended.outcomes)
            }
            Err(failed) => Err(IngestError::Journal(failed.source.to_string())),
        };
        // Who no longer waits changes nothing about what is durable.
        let _ = done.send(answer);
    }

    fn count(&self, appended: &Appended) {
        let of = |outcome| appended.outcomes.iter().filter(|&&o| o == outcome).count() as u64;
        for record in &appended.written {
            match record {
                HubRecord::Event(_) => self.counters.events.inc(),
                HubRecord::Refused { .. } | HubRecord::Stored(_) => {}
            }
        }
        self.counters.duplicates.inc_by(of(Outcome::Duplicate));
        self.counters.conflicts.inc_by(of(Outcome::Conflict));
    }

    fn send_receipt(&self, box_id: &BoxId, epoch: Epoch) {
        let Some(receipt) = self.truth.receipt(box_id, epoch) else { return };
        self.outgoing.put(box_id.clone(), TopicKind::Receipt, epoch, receipt.to_json());
    }

    fn ask_new_epoch(&self, box_id: &BoxId, epoch: Epoch) {
        let reason = "another event with the same epoch and sequence was received".to_owned();
        let command = Command::NewEpoch { correlation: Uuid::now_v7().to_string(), epoch, reason };
        self.outgoing.put(box_id.clone(), TopicKind::Command, epoch, command.to_json());
    }
}
