//! The agent on a box: cameras and lamp cabinets in, events and clips out.
//!
//! ```text
//! camera ─► ring ─► clip ─► upload ═HTTPS═► hub
//!    └─► motion ─┐
//! lamp, gateway ─┴─► outbox ─► uplink ═MQTT═► hub
//! ```
//!
//! Owns what happens on the box. May not know the hub's insides: it meets the hub on the wire only.

pub mod adapter;
pub mod camera;
pub mod care;
pub mod clip;
pub mod clock;
pub mod config;
pub mod coverage;
pub mod enrol;
pub mod fmp4;
pub mod health;
pub mod lamp;
pub mod memory;
pub mod motion;
pub mod outbox;
pub mod ring;
pub mod room;
pub mod set;
pub mod still;
pub mod uplink;
pub mod upload;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use prometheus::{Encoder, Registry, TextEncoder};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::limits::{COMMAND_RESULTS_MAX, DRAIN_MAX, MQTT_BOX_INFLIGHT_MAX};
use crate::model::Time;
use crate::mqtt::{self, LinkConfig};
use crate::tls::{self, OwnCertificate, TlsError};
use crate::toml_file::{ConfigError, ConfigFile};
use crate::wire::{CommandResult, LampCommand, Topic, TopicKind};
use care::{Care, Settable};
use clock::Watch;
use config::EdgeConfig;
use lamp::command::Orders;
use outbox::Outbox;
use room::{Rings, Room};
use set::{Begin, Set};
use still::Stills;
use uplink::{Signs, Uplink};
use upload::First;

/// A box that is ready to run: files are open, secrets are checked, nothing is started.
pub struct Edge {
    config: EdgeConfig,
    store: outbox::Store,
    tls: Arc<rustls::ClientConfig>,
    certificate: OwnCertificate,
    /// What the hub may set.
    settable: Option<Settable>,
    /// How each cabinet of the configuration is read.
    plans: Vec<lamp::plan::Plan>,
    metrics: Registry,
}

impl Edge {
    /// Opens what the box needs. Cameras and hub may be away: that is a state, not a failed start.
    pub fn build(config: EdgeConfig) -> anyhow::Result<Self> {
        Self::build_settable(config, None)
    }

    /// As [`Edge::build`], for a box that takes what the hub sets.
    fn build_settable(config: EdgeConfig, settable: Option<Settable>) -> anyhow::Result<Self> {
        let (tls, certificate) = tls::renewable_client_config(&enrol::identity(&config))?;
        check_secrets(&config)?;
        let plans = lamp_plans(&config)?;
        let dir = config.data_dir.join("outbox");
        let (store, recovery) = outbox::Store::open(&dir, &config.box_id, Time::now(), clock::quality())
            .with_context(|| format!("outbox in {}", dir.display()))?;
        if recovery != Default::default() {
            tracing::warn!(?recovery, "the outbox was not closed cleanly");
        }
        tracing::info!(box_id = %config.box_id, epoch = %store.epoch(), owed = store.unreceipted_count(), "outbox open");
        Ok(Self { config, store, tls, certificate, settable, plans, metrics: Registry::new() })
    }

    /// Runs cameras, lamps, uploads and uplink until `shutdown`, then drains: first those who make events, then
    /// the outbox, then the link.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        self.run_with(shutdown, |_, stop| stop.cancelled_owned()).await
    }

    /// As [`Edge::run`], with one more source of events beside cameras and lamps; it is told when to stop.
    pub async fn run_with<S>(
        self,
        shutdown: CancellationToken,
        source: impl FnOnce(Outbox, CancellationToken) -> S,
    ) -> anyhow::Result<()>
    where
        S: Future<Output = ()> + Send + 'static,
    {
        let Self { config, store, tls, certificate, settable, plans, metrics } = self;
        let again = settable.as_ref().map(|settable| settable.again.clone()).unwrap_or_default();
        let signs = Signs::default();
        let (outbox, accepts) = Outbox::new();
        let sources_stop = CancellationToken::new();
        let outbox_stop = CancellationToken::new();
        let link_stop = CancellationToken::new();

        let (link, link_events, link_task) =
            mqtt::start(link_config(&config, tls.clone()), link_stop.clone());
        let rings = Rings::default();
        let ask_disk = Box::new(room::ask_disk);
        let (lamps, orders, results) = Lamps::new(plans, &config, &metrics)?;
        let (stills, still_results) = (Stills::default(), lamps.results.clone());
        let uplink_metrics = uplink::Metrics::register(&metrics)?;
        let of_uplink = uplink_metrics.clone();
        let uplink = Uplink {
            box_id: config.box_id.clone(),
            store,
            room: Room::new(&config.data_dir, config.outbox.clone(), rings.clone(), ask_disk, &metrics)?,
            accepts,
            link,
            link_events,
            orders,
            stills: stills.clone(),
            still_results,
            results,
            signs: signs.clone(),
            metrics: uplink_metrics,
        };
        let uplink_task = tokio::spawn(uplink.run(outbox_stop.clone()));
        let source = source(outbox.clone(), sources_stop.clone());
        // The uplink ends when nobody can give it events any more: a box without devices still owes what it owes.
        let kept_outbox = outbox.clone();
        let care = Care {
            box_id: config.box_id.clone(),
            client: care::client(&tls)?,
            url: hub_url(&config)?,
            identity: enrol::identity(&config),
            certificate,
            signs,
            trial: config.trial.try_into().unwrap_or_default(),
            settable,
        };
        let mut sources = start_sources(&config, outbox, rings, stills, tls, &metrics, &sources_stop)?;
        let care_stop = sources_stop.clone();
        sources.spawn(async move {
            care.run(care_stop).await;
            "the box's care for itself".to_owned()
        });
        lamps.start(&mut sources, &config, &kept_outbox, &sources_stop);
        adapter::gateway::start(&config, &kept_outbox, &metrics, &mut sources, &sources_stop)?;
        let of_box = health::this_box::BoxWatch {
            machine: health::machine::Machine::new(&config.machine_root, &config.data_dir),
            data_dir: config.data_dir.clone(),
            outbox: kept_outbox.clone(),
            uplink: of_uplink,
        };
        let box_stop = sources_stop.clone();
        sources.spawn(async move {
            health::this_box::run(of_box, box_stop).await;
            "the box's health".to_owned()
        });
        sources.spawn(async move {
            source.await;
            "the further source".to_owned()
        });

        let ended_early = tokio::select! {
            () = shutdown.cancelled() => None,
            () = again.cancelled() => None,
            Some(ended) = sources.join_next() => Some(ended),
        };
        tracing::info!("box is stopping");
        sources_stop.cancel();
        let drained = tokio::time::timeout(DRAIN_MAX, async { while sources.join_next().await.is_some() {} });
        if drained.await.is_err() {
            tracing::warn!("a camera or lamp did not stop in time");
            sources.abort_all();
        }
        outbox_stop.cancel();
        if tokio::time::timeout(DRAIN_MAX, uplink_task).await.is_err() {
            tracing::warn!("the uplink did not stop in time");
        }
        link_stop.cancel();
        let _ = tokio::time::timeout(DRAIN_MAX, link_task).await;
        match ended_early {
            None => Ok(()),
            Some(Ok(name)) => anyhow::bail!("{name} ended although nobody asked it to"),
            Some(Err(error)) => Err(error).context("a task of the box panicked"),
        }
    }
}

fn hub_url(config: &EdgeConfig) -> anyhow::Result<url::Url> {
    url::Url::parse(&config.hub.url).with_context(|| format!("hub.url {:?}", config.hub.url))
}

/// Files that only the owner may read.
fn check_secrets(config: &EdgeConfig) -> Result<(), TlsError> {
    let of_cameras = config.cameras.iter().filter_map(|camera| camera.password_file.as_ref());
    let of_gateways = config.gateways.iter().filter_map(|gateway| gateway.password_file.as_ref());
    of_cameras.chain(of_gateways).try_for_each(|file| tls::check_secret_file(file))
}

/// Runs a box from its file until `shutdown`, with what the hub sets for it: whenever that changes it starts anew.
///
/// A configuration of the hub that can't even start is given up at once; the box's own file must be good.
pub async fn run_from_file(path: &Path, shutdown: CancellationToken) -> anyhow::Result<()> {
    loop {
        let own = EdgeConfig::load(path)?;
        let mut set = Set::open(&own.data_dir)
            .with_context(|| format!("what the hub set, in {}", own.data_dir.display()))?;
        let begin = set.begin().context("what the hub set can't be noted")?;
        let again = CancellationToken::new();
        let edge = match begin {
            Begin::Own => {
                let settable =
                    Settable { path: path.into(), own: own.clone(), set, begin, again: again.clone() };
                Edge::build_settable(own, Some(settable))?
            }
            Begin::Confirmed(version) | Begin::Trial(version) => {
                let merged = set
                    .read(version)
                    .map_err(|error| format!("its file can't be read: {error}"))
                    .and_then(|text| set::merge(&own, path, &text))
                    .and_then(|merged| {
                        let good = lamp_plans(&merged).map(drop).map_err(|error| error.to_string());
                        good.and(check_secrets(&merged).map_err(|error| error.to_string())).map(|()| merged)
                    });
                match merged {
                    Ok(merged) => {
                        tracing::info!(version, ?begin, "the box runs with what the hub set");
                        let settable = Settable { path: path.into(), own, set, begin, again: again.clone() };
                        Edge::build_settable(merged, Some(settable))?
                    }
                    Err(why) => {
                        tracing::error!(version, why, "what the hub set can't be used; it is given up");
                        set.fail(version, &why).context("what the hub set can't be given up")?;
                        continue;
                    }
                }
            }
        };
        edge.run(shutdown.clone()).await?;
        if shutdown.is_cancelled() {
            return Ok(());
        }
        tracing::info!("the box starts anew");
    }
}

/// Reads the register map of each cabinet; what is wrong with one stops the start.
pub fn lamp_plans(config: &EdgeConfig) -> Result<Vec<lamp::plan::Plan>, ConfigError> {
    config.lamps.iter().map(lamp::plan::Plan::load).collect()
}

/// The cabinets' tasks before they start: their plans, and the ends of their queues.
struct Lamps {
    cabinets: Vec<(lamp::plan::Plan, mpsc::Receiver<LampCommand>)>,
    results: mpsc::Sender<CommandResult>,
    metrics: lamp::Metrics,
}

impl Lamps {
    /// Also the uplink's ends.
    fn new(
        plans: Vec<lamp::plan::Plan>,
        config: &EdgeConfig,
        metrics: &Registry,
    ) -> anyhow::Result<(Self, Orders, mpsc::Receiver<CommandResult>)> {
        let mut orders = Orders::default();
        let (results, result_queue) = mpsc::channel(COMMAND_RESULTS_MAX);
        let ids = config.lamps.iter().map(|lamp| &lamp.id);
        let cabinets = plans.into_iter().zip(ids).map(|(plan, id)| (plan, orders.open(id))).collect();
        Ok((Self { cabinets, results, metrics: lamp::Metrics::register(metrics)? }, orders, result_queue))
    }

    /// A task for each; it returns its name when it ends.
    fn start(
        self,
        tasks: &mut JoinSet<String>,
        config: &EdgeConfig,
        outbox: &Outbox,
        stop: &CancellationToken,
    ) {
        for ((plan, commands), lamp) in self.cabinets.into_iter().zip(config.lamps.clone()) {
            let context = lamp::LampContext {
                box_id: config.box_id.clone(),
                outbox: outbox.clone(),
                clock: clock::quality,
                metrics: self.metrics.clone(),
                commands,
                results: self.results.clone(),
            };
            let stop = stop.clone();
            tasks.spawn(async move {
                let name = format!("lamp {}", lamp.id);
                lamp::run(lamp, plan, context, stop).await;
                name
            });
        }
    }
}

fn link_config(config: &EdgeConfig, tls: Arc<rustls::ClientConfig>) -> LinkConfig {
    let topic = |kind| Topic::new(&config.box_id, kind).to_string();
    LinkConfig {
        address: config.hub.mqtt.clone(),
        client_id: config.box_id.to_string(),
        tls: Some(tls),
        subscriptions: vec![topic(TopicKind::Receipt), topic(TopicKind::Command)],
        will: Some((topic(TopicKind::Status), uplink::status_body(false))),
        inflight_max: MQTT_BOX_INFLIGHT_MAX,
        session_keep: None,
        login: None,
    }
}

/// Starts a task for each camera, and the upload; each returns its name when it ends.
fn start_sources(
    config: &EdgeConfig,
    outbox: Outbox,
    rings: Rings,
    stills: Stills,
    tls: Arc<rustls::ClientConfig>,
    metrics: &Registry,
    stop: &CancellationToken,
) -> anyhow::Result<JoinSet<String>> {
    let mut tasks = JoinSet::new();
    let context = camera::CameraContext {
        box_id: config.box_id.clone(),
        data_dir: config.data_dir.clone(),
        ring: config.ring.clone(),
        outbox: outbox.clone(),
        rings,
        metrics: camera::CamerasMetrics::register(metrics)?,
        clock: Watch::of_machine(&config.data_dir),
        stills,
        first: First::default(),
    };
    let first = context.first.clone();
    let (watch, clock_outbox, clock_stop) = (context.clock.clone(), outbox.clone(), stop.clone());
    tasks.spawn(async move {
        clock::run(watch, clock_outbox, clock_stop).await;
        "clock".to_owned()
    });
    for camera in config.cameras.clone() {
        let (context, stop) = (context.clone(), stop.clone());
        tasks.spawn(async move {
            let name = format!("camera {}", camera.id);
            camera::run(context, camera, stop).await;
            name
        });
    }
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured((*tls).clone())
        .connect_timeout(Duration::from_secs(10))
        .build()?;
    let url = hub_url(config)?;
    let (data_dir, upload_stop) = (config.data_dir.clone(), stop.clone());
    tasks.spawn(async move {
        upload::run(data_dir, client, url, first, upload_stop).await;
        "upload".to_owned()
    });
    if let Some(file) = config.metrics_file.clone() {
        let (metrics, stop) = (metrics.clone(), stop.clone());
        tasks.spawn(async move {
            write_metrics(&file, &metrics, stop).await;
            "metrics file".to_owned()
        });
    }
    Ok(tasks)
}

/// Rewrites the metrics file every 15 s, whole or not at all, as node exporter's textfile collector asks.
async fn write_metrics(file: &Path, metrics: &Registry, stop: CancellationToken) {
    let mut every = tokio::time::interval(Duration::from_secs(15));
    let mut has_failed = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = every.tick() => {}
        }
        let mut text = Vec::new();
        if TextEncoder::new().encode(&metrics.gather(), &mut text).is_err() {
            continue;
        }
        let part = file.with_extension("part");
        let written = async {
            tokio::fs::write(&part, &text).await?;
            tokio::fs::rename(&part, file).await
        };
        match written.await {
            Ok(()) => has_failed = false,
            Err(error) if !has_failed => {
                tracing::warn!(file = %file.display(), %error, "metrics file can't be written");
                has_failed = true;
            }
            Err(_) => {}
        }
    }
}
