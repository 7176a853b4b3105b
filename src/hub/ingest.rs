//! From MQTT to the truth to the index, and receipts back.
//!
//! Owns the order of things: a message is acknowledged and receipted after its events are durable in the
//! truth, never before. May not answer questions (search does) nor decide what is new (the truth does).
//!
//! Two threads: *ingest* commits what waits as one group, then acknowledges and receipts; *indexer* brings the
//! catalog up to the truth (see [`super::indexer`]).

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc as std_mpsc};
use std::time::{Duration, Instant};

use prometheus::{Histogram, HistogramOpts, IntCounter, Registry as Metrics};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::aside::{self, SetAside};
use super::catalog::Catalog;
use super::indexer::{Batch, INDEX_BATCHES_MAX, Indexer};
use super::status::HubStatus;
use super::truth::{Arrived, HubRecord, JournalTruth, Outcome, StoredFile, Truth};
use crate::limits::{COMMIT_EVENTS_MAX, INGEST_QUEUE_MAX};
use crate::model::{Boot, BoxId, DeviceId, Epoch, EventData, Time};
use crate::mqtt::{Ack, LinkEvent, LinkSender, Message, OutMessage};
use crate::wire::{self, Command, Decoded, Refusal, RefusalReason, Topic, TopicKind};

/// Answers whether a box may speak for a device: now, or about a time when the device was its own.
pub type SpeaksFor = Arc<dyn Fn(&BoxId, &DeviceId) -> bool + Send + Sync>;

/// What waits for the ingest thread.
enum Work {
    Message(Message),
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
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(format!("camnet_hub_ingest_{name}"), help)?;
            metrics.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let opts =
            HistogramOpts::new("camnet_hub_ingest_commit_seconds", "From decoding to durable, per group");
        let commit_seconds =
            Histogram::with_opts(opts.buckets(prometheus::exponential_buckets(0.0005, 2.0, 14)?))?;
        metrics.register(Box::new(commit_seconds.clone()))?;
        Ok(Self {
            events: counter("events_total", "New events made durable")?,
            duplicates: counter("duplicates_total", "Events that were known already")?,
            conflicts: counter("conflicts_total", "Events whose place was taken by another id")?,
            commits: counter("commits_total", "Groups made durable")?,
            commit_seconds,
            receipts: counter("receipts_total", "Receipts handed to the broker")?,
            index_failures: counter("index_failures_total", "Batches that the index could not take at once")?,
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

/// Starts both threads and returns when the index has caught up with the journal. Blocking.
pub fn start(
    truth: JournalTruth,
    catalog: Arc<dyn Catalog>,
    speaks_for: SpeaksFor,
    link: LinkSender,
    status: Arc<HubStatus>,
    metrics: &Metrics,
) -> anyhow::Result<Ingest> {
    status.journal_next.store(truth.next(), Ordering::Release);
    let counters = Arc::new(Counters::register(metrics)?);
    let (batches, batch_queue) = std_mpsc::sync_channel(INDEX_BATCHES_MAX);
    let mut indexer = Indexer::new(truth.dir(), catalog);
    indexer.catch_up(truth.next(), |_, _| {})?;
    let index_failures = counters.index_failures.clone();
    let index_thread = std::thread::Builder::new()
        .name("indexer".into())
        .spawn(move || indexer.run(batch_queue, &index_failures))?;
    let (work, queue) = mpsc::channel(INGEST_QUEUE_MAX);
    let aside = SetAside::register(metrics)?;
    let asked_for_epoch = HashMap::new();
    let worker = Worker { truth, speaks_for, link, batches, status, counters, aside, asked_for_epoch };
    let ingest_thread = std::thread::Builder::new().name("ingest".into()).spawn(move || worker.run(queue))?;
    Ok(Ingest { handle: TruthHandle { work }, threads: Threads(vec![ingest_thread, index_thread]) })
}

/// Takes what the MQTT link brings until the link ends.
pub async fn serve_link(handle: TruthHandle, status: Arc<HubStatus>, mut events: mpsc::Receiver<LinkEvent>) {
    while let Some(event) = events.recv().await {
        match event {
            LinkEvent::Up { connection } => {
                tracing::info!(connection, "mqtt link is up");
                status.broker_up.store(true, Ordering::Release);
            }
            LinkEvent::Down { .. } => status.broker_up.store(false, Ordering::Release),
            LinkEvent::Published { .. } => {}
            LinkEvent::Message(message) => {
                if handle.work.send(Work::Message(message)).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// The ingest thread.
struct Worker {
    truth: JournalTruth,
    speaks_for: SpeaksFor,
    link: LinkSender,
    batches: std_mpsc::SyncSender<Batch>,
    status: Arc<HubStatus>,
    counters: Arc<Counters>,
    aside: SetAside,
    asked_for_epoch: HashMap<(BoxId, Epoch), Instant>,
}

/// What one group brings, before it is durable.
#[derive(Default)]
struct Group {
    records: Vec<HubRecord>,
    touched: BTreeSet<(BoxId, Epoch)>,
    /// Place of each record, where it has one.
    places: Vec<Option<(BoxId, Epoch)>>,
    acks: Vec<Ack>,
    stored: Vec<(usize, oneshot::Sender<Result<u64, IngestError>>)>,
    again: Vec<(Range<usize>, Again)>,
}

impl Worker {
    fn run(mut self, mut queue: mpsc::Receiver<Work>) {
        while let Some(first) = queue.blocking_recv() {
            let started = Instant::now();
            let mut group = Group::default();
            self.take(first, &mut group);
            while group.records.len() < COMMIT_EVENTS_MAX
                && let Ok(work) = queue.try_recv()
            {
                self.take(work, &mut group);
            }
            self.commit(group);
            self.counters.commit_seconds.observe(started.elapsed().as_secs_f64());
        }
    }

    fn take(&mut self, work: Work, group: &mut Group) {
        match work {
            Work::Stored { file, done } => {
                group.stored.push((group.records.len(), done));
                group.push(HubRecord::Stored(file), None);
            }
            Work::Again { records, done } => {
                let first = group.records.len();
                for record in records {
                    let HubRecord::Event(arrived) = &record else { continue };
                    let place = (arrived.box_id.clone(), arrived.event.epoch);
                    group.push(record, Some(place));
                }
                group.again.push((first..group.records.len(), done));
            }
            Work::Message(message) => {
                self.take_message(&message, group);
                group.acks.push(message.ack);
            }
        }
    }

    fn take_message(&mut self, message: &Message, group: &mut Group) {
        let topic = match message.topic.parse::<Topic>() {
            Ok(topic) => topic,
            Err(reason) => {
                // The broker's ACL lets nothing else in; there is no box to set it aside for.
                tracing::warn!(reason, "message on an unexpected topic dropped");
                self.aside.count_topic();
                return;
            }
        };
        match topic.kind {
            TopicKind::Event => self.take_events(&topic.box_id, message, group),
            TopicKind::Status => self.note_status(topic.box_id, &message.payload),
            _ => {}
        }
    }

    fn note_status(&mut self, box_id: BoxId, payload: &[u8]) {
        let Some(online) = wire::read_status(payload) else {
            self.aside.count(&box_id, "bad_status", 1);
            return;
        };
        tracing::info!(%box_id, online, "box status");
        self.status.set_online(&box_id, online);
    }

    fn take_events(&mut self, box_id: &BoxId, message: &Message, group: &mut Group) {
        let received = Time::now();
        let mut items = wire::decode(box_id, &message.payload);
        for item in &mut items {
            check_device(&self.speaks_for, box_id, item);
        }
        let places = aside::refused_places(&items, wire::read_places(&message.user_properties));
        for (item, places) in items.into_iter().zip(places) {
            match item {
                Decoded::Event { event, json } => {
                    let place = (box_id.clone(), event.epoch);
                    // A first event names the epoch before: if that has holes, the box must hear of them.
                    if let EventData::Boot(Boot { previous: Some(previous), .. }) = &event.data {
                        group.touched.insert((box_id.clone(), previous.epoch));
                    }
                    let arrived = Arrived { box_id: box_id.clone(), received, conflict: false, event, json };
                    group.push(HubRecord::Event(arrived), Some(place));
                }
                Decoded::Refused(refusal) => {
                    for record in self.aside.records(box_id, received, refusal, places) {
                        let HubRecord::Refused { epoch, .. } = &record else { continue };
                        let place = epoch.map(|epoch| (box_id.clone(), epoch));
                        group.push(record, place);
                    }
                }
            }
        }
    }

    /// Makes the group durable, then says so. If that fails nothing is said: the boxes send again.
    fn commit(&mut self, group: Group) {
        let places = group.places;
        let appended = match self.truth.append(group.records) {
            Ok(appended) => appended,
            Err(error) => {
                tracing::error!(%error, "the hub's journal can't be written; nothing is acknowledged");
                let error = IngestError::Journal(error.to_string());
                for (_, done) in group.stored {
                    let _ = done.send(Err(error.clone()));
                }
                for (_, done) in group.again {
                    let _ = done.send(Err(error.clone()));
                }
                std::thread::sleep(Duration::from_millis(200));
                return;
            }
        };
        self.counters.commits.inc();
        self.count(&appended.outcomes, &appended.written);
        self.status.journal_next.store(appended.first + appended.written.len() as u64, Ordering::Release);
        for ack in group.acks {
            let _ = self.link.ack_blocking(ack);
        }
        for (_, done) in group.stored {
            let _ = done.send(Ok(appended.first));
        }
        for (range, done) in group.again {
            let _ = done.send(Ok(appended.outcomes[range].to_vec()));
        }
        for (box_id, epoch) in &group.touched {
            self.send_receipt(box_id, *epoch);
        }
        self.ask_for_new_epochs(&places, &appended.outcomes);
        if self.batches.send((appended.first, appended.written)).is_err() {
            tracing::error!("the indexer has ended");
        }
    }

    fn count(&self, outcomes: &[Outcome], written: &[HubRecord]) {
        let of = |outcome| outcomes.iter().filter(|&&o| o == outcome).count() as u64;
        let events = written.iter().filter(|r| matches!(r, HubRecord::Event(_))).count() as u64;
        self.counters.events.inc_by(events);
        self.counters.duplicates.inc_by(of(Outcome::Duplicate));
        self.counters.conflicts.inc_by(of(Outcome::Conflict));
    }

    fn send_receipt(&self, box_id: &BoxId, epoch: Epoch) {
        let Some(receipt) = self.truth.receipt(box_id, epoch) else { return };
        self.counters.receipts.inc();
        self.publish(box_id, TopicKind::Receipt, receipt.to_json());
    }

    /// Two boxes with one name, or a box restored from an old image: each must go on under an epoch of its own.
    fn ask_for_new_epochs(&mut self, places: &[Option<(BoxId, Epoch)>], outcomes: &[Outcome]) {
        let conflicts = places.iter().zip(outcomes).filter(|(_, outcome)| **outcome == Outcome::Conflict);
        let epochs: BTreeSet<(BoxId, Epoch)> = conflicts.filter_map(|(place, _)| place.clone()).collect();
        self.asked_for_epoch.retain(|_, asked| asked.elapsed() < Duration::from_secs(60));
        for (box_id, epoch) in epochs {
            if self.asked_for_epoch.insert((box_id.clone(), epoch), Instant::now()).is_some() {
                continue;
            }
            tracing::warn!(%box_id, %epoch, "two events with one place: the box is asked for a new epoch");
            let reason = "another event with the same epoch and sequence was received".to_owned();
            let command = Command::NewEpoch { correlation: Uuid::now_v7().to_string(), epoch, reason };
            self.publish(&box_id, TopicKind::Command, command.to_json());
        }
    }

    fn publish(&self, box_id: &BoxId, kind: TopicKind, payload: Vec<u8>) {
        let message = OutMessage {
            topic: Topic::new(box_id, kind).to_string(),
            payload,
            content_type: Some("application/json"),
            user_properties: Vec::new(),
            retain: false,
            token: 0,
        };
        // A receipt that is lost is sent again when the box sends again.
        let _ = self.link.publish_blocking(message);
    }
}

/// Refuses an event of a device that is not the box's: a box may speak only for itself and its own devices.
pub fn check_device(speaks_for: &SpeaksFor, box_id: &BoxId, item: &mut Decoded) {
    let Decoded::Event { event, json } = item else { return };
    let Some(device) = &event.source.device else { return };
    if speaks_for(box_id, device) {
        return;
    }
    let detail = format!("the registry has no device {device} on box {box_id}; add it to the registry file");
    let why = (RefusalReason::NotAllowed, detail);
    *item = Decoded::Refused(Refusal::new(why, Some(event.epoch), Some(event.sequence), json));
}

impl Group {
    fn push(&mut self, record: HubRecord, place: Option<(BoxId, Epoch)>) {
        self.touched.extend(place.clone());
        self.records.push(record);
        self.places.push(place);
    }
}
