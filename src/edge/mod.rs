//! The agent on a box: cameras and lamp cabinets in, events and clips out.
//!
//! ```text
//! camera ─► ring ─► clip ─► upload ═HTTPS═► hub
//!    └─► motion ─┐
//! lamp ──────────┴─► outbox ─► uplink ═MQTT═► hub
//! ```
//!
//! Owns what happens on the box. May not know the hub's insides: it meets the hub on the wire only.

pub mod camera;
pub mod clip;
pub mod clock;
pub mod config;
pub mod coverage;
pub mod fmp4;
pub mod lamp;
pub mod memory;
pub mod motion;
pub mod outbox;
pub mod ring;
pub mod room;
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
use crate::tls::{self, Identity};
use crate::toml_file::ConfigError;
use crate::wire::{CommandResult, LampCommand, Topic, TopicKind};
use clock::Watch;
use config::EdgeConfig;
use lamp::command::Orders;
use outbox::Outbox;
use room::{Rings, Room};
use uplink::Uplink;

/// A box that is ready to run: files are open, secrets are checked, nothing is started.
pub struct Edge {
    config: EdgeConfig,
    store: outbox::Store,
    tls: Arc<rustls::ClientConfig>,
    /// How each cabinet of the configuration is read.
    plans: Vec<lamp::plan::Plan>,
    metrics: Registry,
}

impl Edge {
    /// Opens what the box needs. Cameras and hub may be away: that is a state, not a failed start.
    pub fn build(config: EdgeConfig) -> anyhow::Result<Self> {
        let identity = Identity {
            ca: config.hub.ca.clone(),
            certificate: config.hub.certificate.clone(),
            key: config.hub.key.clone(),
        };
        let tls = tls::client_config(&identity)?;
        for file in config.cameras.iter().filter_map(|camera| camera.password_file.as_ref()) {
            tls::check_secret_file(file)?;
        }
        let plans = lamp_plans(&config)?;
        let dir = config.data_dir.join("outbox");
        let (store, recovery) = outbox::Store::open(&dir, &config.box_id, Time::now(), clock::quality())
            .with_context(|| format!("outbox in {}", dir.display()))?;
        if recovery != Default::default() {
            tracing::warn!(?recovery, "the outbox was not closed cleanly");
        }
        tracing::info!(box_id = %config.box_id, epoch = %store.epoch(), owed = store.unreceipted_count(), "outbox open");
        Ok(Self { config, store, tls, plans, metrics: Registry::new() })
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
        let Self { config, store, tls, plans, metrics } = self;
        let (outbox, accepts) = Outbox::new();
        let sources_stop = CancellationToken::new();
        let outbox_stop = CancellationToken::new();
        let link_stop = CancellationToken::new();

        let (link, link_events, link_task) =
            mqtt::start(link_config(&config, tls.clone()), link_stop.clone());
        let rings = Rings::default();
        let ask_disk = Box::new(room::ask_disk);
        let (lamps, orders, results) = Lamps::new(plans, &config, &metrics)?;
        let uplink = Uplink {
            box_id: config.box_id.clone(),
            store,
            room: Room::new(&config.data_dir, config.outbox.clone(), rings.clone(), ask_disk, &metrics)?,
            accepts,
            link,
            link_events,
            orders,
            results,
            metrics: uplink::Metrics::register(&metrics)?,
        };
        let uplink_task = tokio::spawn(uplink.run(outbox_stop.clone()));
        let source = source(outbox.clone(), sources_stop.clone());
        // The uplink ends when nobody can give it events any more: a box without devices still owes what it owes.
        let kept_outbox = outbox.clone();
        let mut sources = start_sources(&config, outbox, rings, tls, &metrics, &sources_stop)?;
        lamps.start(&mut sources, &config, &kept_outbox, &sources_stop);
        sources.spawn(async move {
            source.await;
            "the further source".to_owned()
        });

        let ended_early = tokio::select! {
            () = shutdown.cancelled() => None,
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
    }
}

/// Starts a task for each camera, and the upload; each returns its name when it ends.
fn start_sources(
    config: &EdgeConfig,
    outbox: Outbox,
    rings: Rings,
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
    };
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
    let url = url::Url::parse(&config.hub.url).with_context(|| format!("hub.url {:?}", config.hub.url))?;
    let (data_dir, upload_stop) = (config.data_dir.clone(), stop.clone());
    tasks.spawn(async move {
        upload::run(data_dir, client, url, upload_stop).await;
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
