//! The hub: takes what the boxes hand over, keeps it, and answers those who may ask.
//!
//! ```text
//! ═MQTT═► ingest ─► truth (journal) ─► catalog (index) ─► search ─► access ─► web ─► officer
//! ═HTTPS═► clips (files) ──────┘
//! ```
//!
//! Owns everything on the server side. May not connect to a box: boxes connect to the hub. Ingest and
//! search meet only in the catalog.

pub mod certificates;
pub mod config;
pub mod enrol;
pub mod status;

pub mod truth;

pub mod arrivals;
pub mod aside;
pub mod disk;

pub mod ingest;
pub mod replay;

pub mod command;

pub mod latency;

pub mod fleet;

pub mod indexer;

pub mod reindex;

pub mod catalog;

pub mod registry;

pub mod clips;
pub mod photos;

pub mod copies;

pub mod access;

pub mod search;

pub mod metrics;

pub mod web;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use futures_util::future::BoxFuture;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::journal::JournalError;
use crate::limits::{DRAIN_MAX, MQTT_INFLIGHT_MAX};
use crate::model::{BoxId, DeviceId, Time};
use crate::mqtt::{self, HUB_NAME, LinkConfig};
use crate::tls::{self, Identity};
use crate::wire::TopicKind;
use access::Gate;
use catalog::Catalog;
use catalog::live::Live;
use clips::{ClipStore, StoredSink};
use command::Commands;
use config::{BrokerConfig, HubConfig};
use copies::Copies;
use disk::Disk;
use enrol::Enrol;
#[cfg(feature = "broker")]
use enrol::{Shown, book::Serial};
use fleet::device_figures::DeviceSeries;
use fleet::keeper::Keeper;
use fleet::webhook::{WebhookConfig, Webhooks};
use ingest::{Ingest, IngestError, IsOut, SpeaksFor, TruthHandle};
use metrics::HubMetrics;
use photos::Photos;
use registry::{Registry, RegistryFile};
use reindex::Rebuilder;
use replay::{Filter, Replay, Replayed};
use status::HubStatus;
use truth::{JournalTruth, StoredFile, Truth};
use web::Web;
use web::boxes::BoxesWeb;

/// How long a broker keeps what waits for a hub that is away.
const SESSION_KEEP: Duration = Duration::from_secs(7 * 24 * 3600);
/// Who looks until login exists.
const ACTOR: &str = "demo";
/// Who acts on a hub that is stopped.
const COMMAND_LINE: &str = "command line";

/// A hub that is ready to run: files are open, ports are bound, nothing is served yet.
pub struct Hub {
    truth: JournalTruth,
    catalog: Arc<Live>,
    registry: Arc<Registry>,
    gate: Arc<Gate>,
    enrol: Enrol,
    metrics: HubMetrics,
    device_series: DeviceSeries,
    webhooks: Vec<WebhookConfig>,
    data_dir: PathBuf,
    base_map: Option<web::console::BaseMap>,
    officers: TcpListener,
    boxes: TcpListener,
    boxes_tls: Arc<rustls::ServerConfig>,
    /// For boxes with an invitation.
    invited: Option<(TcpListener, Arc<rustls::ServerConfig>)>,
    broker_tls: Arc<rustls::ClientConfig>,
    broker: BrokerSide,
}

/// Where the hub can be reached.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    pub officers: SocketAddr,
    pub boxes: SocketAddr,
    /// Of the embedded broker.
    pub broker: Option<SocketAddr>,
}

enum BrokerSide {
    #[cfg(feature = "broker")]
    Embedded(crate::broker::Broker),
    External {
        address: String,
    },
}

impl Hub {
    /// Opens journals and index, imports the registry, binds the ports.
    pub async fn build(config: HubConfig) -> anyhow::Result<Self> {
        for file in config.secret_files() {
            tls::check_secret_file(file)?;
        }
        let identity = Identity {
            ca: config.boxes.ca.clone(),
            certificate: config.boxes.certificate.clone(),
            key: config.boxes.key.clone(),
        };
        let enrol = {
            let config = config.clone();
            tokio::task::spawn_blocking(move || Enrol::open(&config)).await?.context("boxes' certificates")?
        };
        let boxes_tls = web::boxes::boxes_tls(&identity, enrol.clone())?;
        let officers = bind("officers", config.officers.listen).await?;
        let boxes = bind("boxes", config.boxes.listen).await?;
        let invited = match config.boxes.enrol_listen {
            Some(address) => {
                Some((bind("boxes.enrol_listen", address).await?, tls::open_server_config(&identity)?))
            }
            None => None,
        };
        let (broker, broker_tls) = open_broker(&config.broker, &enrol).await?;
        let metrics = HubMetrics::new();
        let base_map = match &config.base_map {
            Some(path) => Some(
                web::console::BaseMap::open(path)
                    .with_context(|| format!("base_map = {:?}", path.display().to_string()))?,
            ),
            None => None,
        };
        let (device_series, webhooks) = (config.metrics.devices, config.webhooks.clone());
        let stores = tokio::task::spawn_blocking(move || Stores::open(&config)).await??;
        Disk::register(&stores.data_dir, metrics.registry())?;
        let hub = Self {
            truth: stores.truth,
            catalog: stores.catalog,
            registry: stores.registry,
            gate: stores.gate,
            enrol,
            metrics,
            device_series,
            webhooks,
            data_dir: stores.data_dir,
            base_map,
            officers,
            boxes,
            boxes_tls,
            invited,
            broker_tls,
            broker,
        };
        let Addresses { officers, boxes, broker } = hub.addresses();
        tracing::info!(%officers, %boxes, ?broker, data_dir = %hub.data_dir.display(), "hub is open");
        Ok(hub)
    }

    pub fn addresses(&self) -> Addresses {
        let local = |listener: &TcpListener| listener.local_addr().expect("a bound listener has an address");
        let broker = match &self.broker {
            #[cfg(feature = "broker")]
            BrokerSide::Embedded(broker) => Some(broker.address()),
            BrokerSide::External { .. } => None,
        };
        Addresses { officers: local(&self.officers), boxes: local(&self.boxes), broker }
    }

    /// Serves until `shutdown`, then drains: first the link to the boxes, then the listeners, then the journal.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let Self {
            truth,
            catalog,
            registry,
            gate,
            enrol,
            metrics,
            device_series,
            webhooks,
            data_dir,
            base_map,
            officers,
            boxes,
            boxes_tls,
            invited,
            broker_tls,
            broker,
        } = self;
        let link_stop = CancellationToken::new();
        let listeners_stop = CancellationToken::new();
        let broker_stop = CancellationToken::new();
        let mut tasks: JoinSet<(&'static str, std::io::Result<()>)> = JoinSet::new();

        let address = start_broker(broker, &enrol, &mut tasks, &broker_stop);
        let (link, link_events, link_task) = mqtt::start(link_config(address, broker_tls), link_stop.clone());
        let commands = Commands::new(link.clone(), metrics.registry())?;
        let speaks_for = speaks_for(registry.clone());
        let journal_dir = truth.dir();
        let status = Arc::new(HubStatus::default());
        let rebuilder = Arc::new(Rebuilder::new(catalog.clone(), truth.dir()));
        let keeper = {
            let (registry, status, metrics) = (registry.clone(), status.clone(), metrics.registry().clone());
            let (dir, journal_dir, upto) = (data_dir.join("fleet"), truth.dir(), truth.next());
            let opened = tokio::task::spawn_blocking(move || {
                let keeper = Keeper::open(&dir, registry, status, &metrics).context("the fleet's journal")?;
                keeper.catch_up(&journal_dir, upto)?;
                anyhow::Ok(keeper)
            });
            opened.await??
        };
        let webhooks = {
            let (dir, keeper, metrics) = (data_dir.join("webhooks"), keeper.clone(), metrics.clone());
            let open = move || Webhooks::open(&webhooks, &dir, &keeper, metrics.registry());
            tokio::task::spawn_blocking(open).await??
        };
        let is_out: IsOut = {
            let enrol = enrol.clone();
            Arc::new(move |box_id: &BoxId| enrol.is_out(box_id))
        };
        let ingest = {
            let keeper = keeper.clone();
            let (catalog, status, metrics): (Arc<dyn Catalog>, _, _) =
                (catalog.clone(), status.clone(), metrics.clone());
            let speaks_for = speaks_for.clone();
            tokio::task::spawn_blocking(move || {
                ingest::start(truth, catalog, keeper, (speaks_for, is_out), link, status, &metrics)
            })
            .await??
        };
        let Ingest { handle, threads } = ingest;
        let clips = {
            let (sink, metrics): (Arc<dyn StoredSink>, _) = (Arc::new(Sink(handle.clone())), metrics.clone());
            let data_dir = data_dir.clone();
            Arc::new(tokio::task::spawn_blocking(move || ClipStore::open(&data_dir, sink, metrics)).await??)
        };
        let photos = {
            let data_dir = data_dir.clone();
            Arc::new(tokio::task::spawn_blocking(move || Photos::open(&data_dir)).await??)
        };
        let copies = {
            let (clips, metrics) = (clips.clone(), metrics.registry().clone());
            Arc::new(tokio::task::spawn_blocking(move || Copies::open(&data_dir, clips, &metrics)).await??)
        };
        let replay: Replay = {
            let (handle, status, speaks_for) = (handle.clone(), status.clone(), speaks_for);
            Arc::new(move |filter| {
                let upto = status.journal_next.load(Ordering::Acquire);
                replay::replay(&journal_dir, upto, filter, &speaks_for, |batch| handle.append_again(batch))
            })
        };
        let web = Arc::new(Web {
            replay,
            commands: commands.clone(),
            enrol: enrol.clone(),
            catalog: catalog.clone(),
            rebuilder: rebuilder.clone(),
            registry,
            gate,
            clips: clips.clone(),
            copies,
            atlases: Arc::default(),
            fleet: keeper.clone(),
            photos,
            taking: web::Taking::default(),
            metrics: metrics.clone(),
            device_series,
            status: status.clone(),
            actor: ACTOR.to_owned(),
            demo: true,
            base_map,
        });
        let stop = listeners_stop.clone();
        tasks.spawn(async move { ("officers' listener", web::serve_officers(officers, web, stop).await) });
        let stop = listeners_stop.clone();
        let boxes_web = BoxesWeb { clips, enrol: enrol.clone(), metrics };
        tasks.spawn(async move {
            ("boxes' listener", web::boxes::serve_boxes(boxes, boxes_tls, boxes_web, stop).await)
        });
        if let Some((listener, tls)) = invited {
            let (enrol, stop) = (enrol.clone(), listeners_stop.clone());
            tasks.spawn(async move {
                ("enrolment listener", web::serve_invited(listener, tls, enrol, stop).await)
            });
        }
        let stop = listeners_stop.clone();
        tasks.spawn(async move {
            enrol.run(stop).await;
            ("watch over enrolments", Ok(()))
        });
        webhooks.start(&mut tasks, &listeners_stop);
        let judging = {
            let stop = listeners_stop.clone();
            tokio::task::spawn_blocking(move || keeper.run(&stop))
        };
        let link_forward = tokio::spawn(ingest::serve_link(handle, status, commands, link_events));

        let ended_early = tokio::select! {
            () = shutdown.cancelled() => None,
            Some(ended) = tasks.join_next() => Some(ended),
        };
        tracing::info!("hub is stopping");
        link_stop.cancel();
        let _ = tokio::time::timeout(DRAIN_MAX, link_task).await;
        let _ = tokio::time::timeout(DRAIN_MAX, link_forward).await;
        listeners_stop.cancel();
        broker_stop.cancel();
        let drained =
            tokio::time::timeout(2 * DRAIN_MAX, async { while tasks.join_next().await.is_some() {} });
        if drained.await.is_err() {
            tracing::warn!("a listener did not stop in time");
            tasks.abort_all();
            while tasks.join_next().await.is_some() {}
        }
        if tokio::time::timeout(DRAIN_MAX, judging).await.is_err() {
            tracing::warn!("the fleet's thread did not stop in time");
        }
        let finish = tokio::task::spawn_blocking(move || {
            rebuilder.stop();
            threads.join();
            if let Err(error) = catalog.flush() {
                tracing::warn!(%error, "the index is not flushed; it catches up at the next start");
            }
        });
        if tokio::time::timeout(DRAIN_MAX, finish).await.is_err() {
            tracing::warn!("ingest did not stop in time");
        }
        match ended_early {
            None => Ok(()),
            Some(Ok((name, Ok(())))) => anyhow::bail!("the {name} ended although nobody asked it to"),
            Some(Ok((name, Err(error)))) => Err(error).with_context(|| format!("the {name} failed")),
            Some(Err(error)) => Err(error).context("a task of the hub panicked"),
        }
    }
}

/// What lies in the data folder.
struct Stores {
    truth: JournalTruth,
    catalog: Arc<Live>,
    registry: Arc<Registry>,
    gate: Arc<Gate>,
    data_dir: PathBuf,
}

impl Stores {
    fn open(config: &HubConfig) -> anyhow::Result<Self> {
        let data_dir = config.data_dir.clone();
        let (truth, recovery) = JournalTruth::open(&data_dir.join("journal")).context("the hub's journal")?;
        if recovery != Default::default() {
            tracing::warn!(?recovery, "the journal was not closed cleanly");
        }
        let (catalog, opened) =
            Live::open(&data_dir.join("index"), &truth.records(), truth.next()).context("the hub's index")?;
        tracing::info!(?opened, records = truth.next(), "journal and index open");
        let registry = Registry::open(&data_dir.join("acts")).context("the acts journal")?;
        let changes = registry.import(&RegistryFile::load(&config.registry)?, Time::now())?;
        tracing::info!(changes, file = %config.registry.display(), "registry imported");
        let gate = Gate::open(&data_dir.join("access"), &[ACTOR]).context("the access log")?;
        Ok(Self {
            truth,
            catalog: Arc::new(catalog),
            registry: Arc::new(registry),
            gate: Arc::new(gate),
            data_dir,
        })
    }
}

/// Puts uploads into the truth.
struct Sink(TruthHandle);

impl StoredSink for Sink {
    fn append_stored(
        &self,
        file: StoredFile,
    ) -> BoxFuture<'_, Result<u64, Box<dyn std::error::Error + Send + Sync>>> {
        Box::pin(async move { Ok(self.0.append_stored(file).await?) })
    }
}

async fn bind(what: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => anyhow::anyhow!(
            "{address} is taken by another program: stop that, or choose another port for {what} \
             (in the demo: --port; else `{what}.listen` in the configuration file)"
        ),
        _ => anyhow::Error::from(error).context(format!("can't listen for {what} on {address}")),
    })
}

async fn open_broker(
    config: &BrokerConfig,
    enrol: &Enrol,
) -> anyhow::Result<(BrokerSide, Arc<rustls::ClientConfig>)> {
    // A broker that stands elsewhere does not ask.
    #[cfg(not(feature = "broker"))]
    let _ = enrol;
    match config {
        #[cfg(feature = "broker")]
        BrokerConfig::Embedded(config) => {
            let server = Identity {
                ca: config.ca.clone(),
                certificate: config.certificate.clone(),
                key: config.key.clone(),
            };
            let broker = crate::broker::Broker::bind(config.listen, &server, admits(enrol)).await?;
            let client = Identity {
                ca: config.ca.clone(),
                certificate: config.client_certificate.clone(),
                key: config.client_key.clone(),
            };
            Ok((BrokerSide::Embedded(broker), tls::client_config(&client)?))
        }
        #[cfg(not(feature = "broker"))]
        BrokerConfig::Embedded(_) => {
            anyhow::bail!("this camnet was built without the feature `broker`; use [broker.external]")
        }
        BrokerConfig::External(config) => {
            let client = Identity {
                ca: config.ca.clone(),
                certificate: config.client_certificate.clone(),
                key: config.client_key.clone(),
            };
            Ok((BrokerSide::External { address: config.address.clone() }, tls::client_config(&client)?))
        }
    }
}

/// The embedded broker's question about a box that connects.
#[cfg(feature = "broker")]
fn admits(enrol: &Enrol) -> crate::broker::Admits {
    let enrol = enrol.clone();
    Arc::new(move |box_id: &BoxId, serial: &str| {
        let (box_id, serial) = (box_id.clone(), Serial::read(serial));
        // rmqtt does not say until when an unknown one is valid; the boxes' listener does when the box comes there.
        let expires = enrol.look(|known| known.certificates.get(&serial).map(|known| known.expires));
        let shown = Shown { box_id, serial, expires: expires.unwrap_or(Time::MAX) };
        let arrived = match expires {
            Some(_) => enrol.arrives(&shown),
            None => enrol.check(&shown.box_id, &shown.serial),
        };
        arrived.inspect_err(|error| tracing::warn!(%error, "mqtt client refused")).is_ok()
    })
}

/// Closes the embedded broker's connections of certificates that are revoked.
#[cfg(feature = "broker")]
async fn close_revoked(enrol: Enrol, clients: crate::broker::Clients, stop: CancellationToken) {
    use tokio::sync::broadcast::error::RecvError;
    let mut revocations = enrol.revocations();
    loop {
        let revocation = tokio::select! {
            () = stop.cancelled() => return,
            revocation = revocations.recv() => revocation,
        };
        let boxes = match revocation {
            Ok(revocation) => vec![revocation.box_id],
            Err(RecvError::Lagged(_)) => enrol.look(|known| known.boxes.keys().cloned().collect()),
            Err(RecvError::Closed) => return,
        };
        for box_id in boxes {
            let Some(serial) = clients.serial(&box_id) else { continue };
            // A box that has come with its new certificate stays.
            if enrol.check(&box_id, &Serial::read(&serial)).is_err() {
                tracing::warn!(%box_id, serial, "mqtt connection of a revoked certificate is closed");
                clients.close(&box_id).await;
            }
        }
    }
}

/// Starts the embedded broker, if that is the one; returns where the hub's own link connects.
fn start_broker(
    broker: BrokerSide,
    enrol: &Enrol,
    tasks: &mut JoinSet<(&'static str, std::io::Result<()>)>,
    stop: &CancellationToken,
) -> String {
    match broker {
        #[cfg(feature = "broker")]
        BrokerSide::Embedded(broker) => {
            // The certificate always names localhost, whatever address is bound.
            let address = format!("localhost:{}", broker.address().port());
            let (clients, of_boxes, closing_stop) = (broker.clients(), enrol.clone(), stop.clone());
            tasks.spawn(async move {
                close_revoked(of_boxes, clients, closing_stop).await;
                ("watch over revoked boxes", Ok(()))
            });
            let stop = stop.clone();
            tasks.spawn(async move {
                broker.run(stop).await;
                ("embedded broker", Ok(()))
            });
            address
        }
        BrokerSide::External { address } => {
            let _ = (tasks, enrol, stop);
            address
        }
    }
}

fn link_config(address: String, tls: Arc<rustls::ClientConfig>) -> LinkConfig {
    LinkConfig {
        address,
        client_id: HUB_NAME.to_owned(),
        tls: Some(tls),
        subscriptions: [TopicKind::Event, TopicKind::Status, TopicKind::Result]
            .map(TopicKind::of_all_boxes)
            .into(),
        will: None,
        inflight_max: MQTT_INFLIGHT_MAX,
        session_keep: Some(SESSION_KEEP),
        login: None,
    }
}

/// Makes a CA, the hub's certificates and one for each box in `dir`. Nothing that exists is overwritten.
pub fn make_certificates(dir: &Path, names: &[String], boxes: &[BoxId]) -> anyhow::Result<()> {
    let mut all = certificates::loopback_names();
    all.extend(names.iter().filter(|name| !all.contains(name)).cloned().collect::<Vec<_>>());
    certificates::init(dir, &all)?;
    for box_id in boxes {
        certificates::issue_box(dir, box_id)?;
    }
    Ok(())
}

/// `camnet hub init`: a folder with all that a hub needs to start. Run again with further boxes, it makes their
/// certificates.
pub fn init(dir: &Path, names: &[String], boxes: &[BoxId]) -> anyhow::Result<()> {
    if let Some(box_id) = boxes.iter().find(|box_id| box_id.as_str() == mqtt::HUB_NAME) {
        anyhow::bail!("{box_id} is the hub's own name; call the box otherwise");
    }
    std::fs::create_dir_all(dir).with_context(|| format!("folder {}", dir.display()))?;
    if dir.join("ca.key").exists() {
        for box_id in boxes {
            certificates::issue_box(dir, box_id)?;
            println!("{}: certificate and key for box {box_id}", dir.join(format!("{box_id}.pem")).display());
        }
        if boxes.is_empty() {
            anyhow::bail!(
                "{} has a CA already; name boxes with --box to make their certificates",
                dir.display()
            );
        }
        return Ok(());
    }
    make_certificates(dir, names, boxes)?;
    let mut hub_toml = include_str!("../../config/hub.toml").to_owned();
    if let Some(name) = names.first() {
        hub_toml = hub_toml.replacen("# name = \"hub.example\"", &format!("name = {name:?}"), 1);
    }
    for (name, content) in
        [("hub.toml", hub_toml.as_str()), ("ward.toml", include_str!("../../config/ward.toml"))]
    {
        let path = dir.join(name);
        if !path.exists() {
            std::fs::write(&path, content).with_context(|| format!("{}", path.display()))?;
        }
    }
    println!("{}: CA, certificates, hub.toml, ward.toml", dir.display());
    println!(
        "next: describe your ward in ward.toml, then camnet hub --config {}",
        dir.join("hub.toml").display()
    );
    Ok(())
}

/// Offers again what a stopped hub set aside, by its own configuration and registry; None if the hub runs. The next
/// start of the hub brings what came of it into the index.
pub async fn replay_stopped(
    config: &HubConfig,
    filter: &Filter,
    purpose: Option<String>,
) -> anyhow::Result<Option<Replayed>> {
    let dir = config.data_dir.join("journal");
    let mut truth = match JournalTruth::open(&dir) {
        Ok((truth, _)) => truth,
        Err(JournalError::Locked { .. }) => return Ok(None),
        Err(error) => return Err(error).context("the hub's journal"),
    };
    let registry = Registry::open(&config.data_dir.join("acts")).context("the acts journal")?;
    registry.import(&RegistryFile::load(&config.registry)?, Time::now())?;
    let gate = Gate::open(&config.data_dir.join("access"), &[COMMAND_LINE]).context("the access log")?;
    let (actor, action) = (access::Actor(COMMAND_LINE.to_owned()), access::Action::Replay);
    let subject = serde_json::to_value(filter)?;
    gate.pass(access::Look { actor, action, purpose, subject, remote: None }).await?;
    let speaks_for = speaks_for(Arc::new(registry));
    let filter = filter.clone();
    let replayed = tokio::task::spawn_blocking(move || {
        let upto = truth.next();
        replay::replay(&dir, upto, &filter, &speaks_for, |batch| {
            let appended =
                truth.append(batch).map_err(|failed| IngestError::Journal(failed.source.to_string()))?;
            Ok(appended.outcomes)
        })
    });
    Ok(Some(replayed.await??))
}

/// Does something with the book of the boxes while the hub is stopped; None if it runs. `subject` goes into the access
/// log.
pub async fn enrol_stopped<T: Send + 'static>(
    config: &HubConfig,
    subject: serde_json::Value,
    act: impl FnOnce(&Enrol, &str) -> Result<T, enrol::EnrolError> + Send + 'static,
) -> anyhow::Result<Option<T>> {
    use enrol::book::BookError;
    let enrol = match Enrol::open(config) {
        Ok(enrol) => enrol,
        Err(enrol::EnrolError::Book(BookError::Journal(JournalError::Locked { .. }))) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let gate = Gate::open(&config.data_dir.join("access"), &[COMMAND_LINE]).context("the access log")?;
    let (actor, action) = (access::Actor(COMMAND_LINE.to_owned()), access::Action::Box);
    gate.pass(access::Look { actor, action, purpose: None, subject, remote: None }).await?;
    Ok(Some(tokio::task::spawn_blocking(move || act(&enrol, COMMAND_LINE)).await??))
}

fn speaks_for(registry: Arc<Registry>) -> SpeaksFor {
    Arc::new(move |box_id: &BoxId, device: &DeviceId| registry.history().ever_spoke_for(box_id, device))
}
