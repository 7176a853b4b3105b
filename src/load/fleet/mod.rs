//! `camnet load fleet`: a whole fleet's devices against a real hub, with things that go wrong to plan, and how soon and as
//! what the hub shows each.
//!
//! Owns the run and its account. The plan is [`script`]; boxes speak as those of `camnet load` do, through a real broker.

pub mod script;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::boxes::{self, Plan, Said, Says};
use super::report::Totals;
use super::world::{Hub, World};
use super::{Folder, raise_file_limit};
use crate::limits::{LOAD_BOXES_MAX, LOAD_CONNECTS_PER_S, LOAD_SETTLE_MAX};
use crate::model::{BoxId, Device, DeviceId, EventData, Time};
use crate::tls;
use script::{FIRST_WORDS_S, STEP_S, Script, Scripted, Size};

#[derive(Debug, Args)]
pub struct FleetArgs {
    /// Cameras, four at a site; with 11 and --lamps 320, it is the mission's ward.
    #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u32).range(11..=50_000))]
    pub cameras: u32,
    /// Lamps, each with a word of its own; three hundred to a controller.
    #[arg(long, default_value_t = 320, value_parser = clap::value_parser!(u32).range(9..=150_000))]
    pub lamps: u32,
    /// Use the broker at host:port; it must trust the CA in --dir.
    #[arg(long, value_name = "BROKER", requires = "dir")]
    pub external: Option<String>,
    /// Folder for everything the run writes, kept afterwards; default: a temporary one, removed at the end.
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// The link that goes down is back after so many minutes; default: when all is over.
    #[arg(long, value_name = "MINUTES", value_parser = clap::value_parser!(u32).range(10..=1440))]
    pub link_back_after: Option<u32>,
    /// Also write the account to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}

impl FleetArgs {
    pub fn size(&self) -> Size {
        match (self.cameras, self.lamps) {
            (11, 320) => Size::WARD,
            (cameras, lamps) => Size::city(cameras as usize, lamps as usize),
        }
    }
}

/// All is well for so long after the first words, seconds.
const WELL_S: i64 = 120;
/// A fault that is not shown in this time is given up, seconds.
const PATIENCE_S: i64 = 300;
/// After the last fault is shown the run goes on so long, to see that nothing else is, seconds.
const AFTER_S: i64 = 120;
/// What waits in a box's queue; a controller says a word for each of its lamps at once at most.
const QUEUE: usize = 1024;
const PROGRESS_EVERY_S: i64 = 15;

/// A fault, and how long after it happened the hub showed it; None: it did not.
#[derive(Debug, Clone)]
pub struct Shown {
    pub fault: Scripted,
    pub seconds: Option<f64>,
}

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Account {
    pub size: Size,
    pub boxes: usize,
    pub shown: Vec<Shown>,
    /// How long after the link was back the hub said so; None: it did not, or the link was not back in time.
    pub well_again_s: Option<f64>,
    /// Incidents that the hub showed and nobody had planned.
    pub others: Vec<Value>,
    pub accepted: u64,
    pub receipted: u64,
    pub hub_rss_mb: f64,
    /// Of the run's time, on one core.
    pub hub_cpu_share: f64,
}

impl Account {
    pub fn is_good(&self) -> bool {
        self.others.is_empty()
            && self.receipted == self.accepted
            && self.shown.iter().all(|shown| shown.is_in_time())
    }

    /// The hub's memory shared out among all devices, registry and index and all.
    pub fn hub_bytes_per_device(&self) -> f64 {
        self.hub_rss_mb * 1024.0 * 1024.0 / self.size.devices() as f64
    }

    fn to_json(&self) -> Value {
        let faults: BTreeMap<&str, Value> = self
            .shown
            .iter()
            .map(|shown| {
                (shown.fault.name, json!({ "seconds": shown.seconds, "promised_s": shown.promised_s() }))
            })
            .collect();
        json!({
            "cameras": self.size.cameras, "lamps": self.size.lamps, "boxes": self.boxes, "faults": faults,
            "well_again_s": self.well_again_s, "others": self.others, "accepted": self.accepted, "receipted": self.receipted,
            "hub_rss_mb": self.hub_rss_mb, "hub_cpu_share": self.hub_cpu_share,
        })
    }
}

impl Shown {
    pub fn promised_s(&self) -> f64 {
        self.fault.trouble.shown_within().as_secs_f64()
    }

    fn is_in_time(&self) -> bool {
        self.seconds.is_some_and(|seconds| seconds <= self.promised_s())
    }
}

impl std::fmt::Display for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { size, boxes, others, accepted, receipted, .. } = self;
        writeln!(f, "{} cameras, {} lamps, {boxes} boxes", size.cameras, size.lamps)?;
        for shown in &self.shown {
            let (name, promised) = (shown.fault.name, shown.promised_s());
            match shown.seconds {
                Some(seconds) => {
                    writeln!(f, "{name:<24} shown after {seconds:4.0} s (promised {promised:.0} s)")?
                }
                None => writeln!(f, "{name:<24} NOT SHOWN (promised {promised:.0} s)")?,
            }
        }
        if let Some(seconds) = self.well_again_s {
            writeln!(f, "the link is back         well again after {seconds:.0} s")?;
        }
        writeln!(f, "shown without a reason   {}", others.len())?;
        for other in others {
            writeln!(f, "  {} {} since {}", other["cause"], other["trouble"], other["since"])?;
        }
        writeln!(f, "events                   {accepted}, receipted {receipted}")?;
        write!(
            f,
            "the hub                  {:.0} MB, {:.0} bytes a device, {:.2} of a core",
            self.hub_rss_mb,
            self.hub_bytes_per_device(),
            self.hub_cpu_share
        )
    }
}

/// Runs the fleet and tells what the hub showed; an error if that was too little, too late or too much.
pub async fn run(args: FleetArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let folder = Folder::make(args.dir.clone())?;
    let account =
        play(args.size(), &folder.path, args.external.as_deref(), None, args.link_back_after, &shutdown)
            .await?;
    println!("\n{account}");
    if let Some(file) = &args.report {
        std::fs::write(file, account.to_json().to_string()).with_context(|| file.display().to_string())?;
    }
    ensure!(account.is_good(), "not every fault was shown in time under its cause, or something else was");
    Ok(())
}

/// Plays the script in folder `dir`; `binary` is the program that is started as the hub, if it is not this one.
pub async fn play(
    size: Size,
    dir: &std::path::Path,
    external: Option<&str>,
    binary: Option<PathBuf>,
    link_back_after_min: Option<u32>,
    shutdown: &CancellationToken,
) -> anyhow::Result<Account> {
    ensure!(
        size.is_enough(),
        "at least 21 cameras or the ward's 11, and at least 601 lamps or the ward's 320"
    );
    let start = Time::now();
    let registry = script::registry(&size, start);
    let mut boxes: BTreeMap<BoxId, Vec<(usize, Device)>> = BTreeMap::new();
    for (n, device) in registry.devices.iter().enumerate() {
        boxes.entry(device.box_id.clone()).or_default().push((n, device.clone()));
    }
    ensure!(boxes.len() <= LOAD_BOXES_MAX as usize, "{} boxes, at most {LOAD_BOXES_MAX}", boxes.len());
    raise_file_limit(boxes.len() as u32)?;
    println!("folder {}; making {} certificates", dir.display(), boxes.len());
    let text = toml::to_string(&registry)?;
    let ids: Vec<BoxId> = boxes.keys().cloned().collect();
    let (dir, external) = (dir.to_owned(), external.map(str::to_owned));
    let world = move || World::prepare(&dir, &ids, &text, external.as_deref());
    let mut world = tokio::task::spawn_blocking(world).await??;
    world.binary = binary.unwrap_or(world.binary);
    let hub = world.start_hub(shutdown).await?;
    let run = Run::start(&world, boxes).await?;
    run.connect(shutdown).await;
    let account = run.play(size, &hub, link_back_after_min, shutdown).await?;
    hub.stop().await?;
    Ok(account)
}

type Word = (Option<DeviceId>, EventData);

/// A box of the run, and how to speak through it.
struct Voice {
    devices: Vec<(usize, Device)>,
    words: mpsc::Sender<Word>,
    linked: watch::Sender<bool>,
}

struct Run {
    plan: Arc<Plan>,
    totals: Arc<Totals>,
    voices: BTreeMap<BoxId, Voice>,
    boxes: JoinSet<Said>,
}

impl Run {
    /// Starts the boxes one after the other, so that the broker is not asked for thousands of handshakes at once.
    async fn start(world: &World, boxes: BTreeMap<BoxId, Vec<(usize, Device)>>) -> anyhow::Result<Self> {
        let plan = Arc::new(Plan::of_words(world.broker.clone()));
        let totals = Arc::new(Totals::default());
        let (mut voices, mut tasks) = (BTreeMap::new(), JoinSet::new());
        for (n, (box_id, devices)) in boxes.into_iter().enumerate() {
            let tls = tls::client_config(&world.identity(&box_id))?;
            let (words, told) = mpsc::channel(QUEUE);
            let (linked, is_linked) = watch::channel(true);
            let (plan, totals, id) = (plan.clone(), totals.clone(), box_id.clone());
            let wait = Duration::from_secs(1).mul_f64(n as f64 / f64::from(LOAD_CONNECTS_PER_S));
            tasks.spawn(async move {
                tokio::time::sleep(wait).await;
                boxes::run(id, Says::Told(told), tls, plan, totals, is_linked).await
            });
            voices.insert(box_id, Voice { devices, words, linked });
        }
        Ok(Self { plan, totals, voices, boxes: tasks })
    }

    async fn connect(&self, shutdown: &CancellationToken) {
        let ramp = Duration::from_secs((self.voices.len() as u64).div_ceil(LOAD_CONNECTS_PER_S.into()));
        let deadline = Instant::now() + ramp + LOAD_SETTLE_MAX;
        let is_up = || self.totals.connected.load(Ordering::Relaxed) == self.voices.len() as u64;
        while !is_up() && Instant::now() < deadline && !shutdown.is_cancelled() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn play(
        mut self,
        size: Size,
        hub: &Hub,
        link_back_after_min: Option<u32>,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<Account> {
        let boxes = self.voices.len();
        let fault_at = FIRST_WORDS_S + WELL_S;
        let back_at = link_back_after_min.map_or(i64::MAX, |minutes| fault_at + 60 * i64::from(minutes));
        let script = Script { start: Time::now(), fault_at, back_at };
        let mut watch = Watch::default();
        let before = hub.usage()?;
        let began = Instant::now();
        let mut second = 0;
        let mut look = tokio::time::interval(Duration::from_secs(1));
        while !watch.is_done(second, &script) && !shutdown.is_cancelled() {
            if second % STEP_S == 0 {
                self.speak(&script, second).await;
            }
            let at = began.elapsed().as_secs_f64() - fault_at as f64;
            watch.look(&hub.get("/api/v1/fleet?limit=1").await?, at, &script);
            if second % PROGRESS_EVERY_S == 0 {
                self.tell(second, &watch);
            }
            look.tick().await;
            second += 1;
        }
        let (after, seconds) = (hub.usage()?, began.elapsed().as_secs_f64());
        let (accepted, receipted) = self.settle().await?;
        Ok(Account {
            size,
            boxes,
            shown: watch.shown,
            well_again_s: watch.well_again_s,
            others: watch.others,
            accepted,
            receipted,
            hub_rss_mb: after.rss_mb,
            hub_cpu_share: (after.cpu_s - before.cpu_s) / seconds,
        })
    }

    /// Power and link are back everywhere: waits for the last receipts. Events, and those of them that have one.
    async fn settle(mut self) -> anyhow::Result<(u64, u64)> {
        self.voices.values().for_each(|voice| _ = voice.linked.send_replace(true));
        let deadline = Instant::now() + LOAD_SETTLE_MAX;
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        while load(&self.totals.receipted) < load(&self.totals.accepted) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.plan.stop.cancel();
        let (mut accepted, mut receipted) = (0, 0);
        while let Some(said) = self.boxes.join_next().await {
            let said = said.context("a box of the run panicked")?;
            (accepted, receipted) = (accepted + said.last, receipted + said.receipted);
        }
        Ok((accepted, receipted))
    }

    async fn speak(&mut self, script: &Script, second: i64) {
        for (box_id, voice) in &self.voices {
            let is_linked = !script.is_cut(box_id, second);
            voice.linked.send_if_modified(|linked| std::mem::replace(linked, is_linked) != is_linked);
            let of_box = script.of_box(box_id, second).into_iter().map(|data| (None, data));
            let of_devices = voice.devices.iter().flat_map(|(n, device)| {
                let said = script.of_device(device, *n, second).into_iter();
                said.map(|data| (Some(device.id.clone()), data))
            });
            for word in of_box.chain(of_devices) {
                // A box that has ended takes no more; that shows as an event without a receipt.
                let _ = voice.words.send(word).await;
            }
        }
    }

    fn tell(&self, second: i64, watch: &Watch) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        println!(
            "{second:5} s  {}/{} connected, {} events, {} receipted; {} of {} faults shown, {} others",
            load(&self.totals.connected),
            self.voices.len(),
            load(&self.totals.accepted),
            load(&self.totals.receipted),
            watch.shown.iter().filter(|shown| shown.seconds.is_some()).count(),
            watch.shown.len(),
            watch.others.len(),
        );
    }
}

/// What the hub has shown so far.
struct Watch {
    shown: Vec<Shown>,
    others: Vec<Value>,
    /// Since when all are shown, seconds after they happened.
    all_shown: Option<f64>,
    well_again_s: Option<f64>,
    at: f64,
}

impl Default for Watch {
    fn default() -> Self {
        let shown = script::faults().into_iter().map(|fault| Shown { fault, seconds: None }).collect();
        Self { shown, others: Vec::new(), all_shown: None, well_again_s: None, at: f64::MIN }
    }
}

impl Watch {
    /// `at` seconds after the faults happened, the hub answers this.
    fn look(&mut self, fleet: &Value, at: f64, script: &Script) {
        self.at = at;
        let back_s = at - (script.back_at.saturating_sub(script.fault_at)) as f64;
        for incident in fleet["incidents"].as_array().into_iter().flatten() {
            let is_it = |shown: &&mut Shown| {
                json!(shown.fault.cause) == incident["cause"]
                    && json!(shown.fault.trouble) == incident["trouble"]
            };
            match self.shown.iter_mut().find(is_it).filter(|_| at >= 0.0) {
                Some(shown) => _ = shown.seconds.get_or_insert(at),
                None => self.add_other(incident),
            }
        }
        let is_far = |incident: &Value| json!(script::link_down().cause) == incident["cause"];
        let is_away = fleet["incidents"].as_array().into_iter().flatten().any(is_far);
        if back_s >= 0.0 && !is_away {
            self.well_again_s.get_or_insert(back_s);
        }
        if self.shown.iter().all(|shown| shown.seconds.is_some()) {
            self.all_shown.get_or_insert(at);
        }
    }

    fn add_other(&mut self, incident: &Value) {
        let of = |incident: &Value| (incident["cause"].clone(), incident["trouble"].clone());
        if !self.others.iter().any(|other| of(other) == of(incident)) {
            tracing::warn!(%incident, "nobody planned this");
            self.others.push(incident.clone());
        }
    }

    fn is_done(&self, second: i64, script: &Script) -> bool {
        if script.back_at < i64::MAX {
            return second >= script.back_at + PATIENCE_S;
        }
        let is_over = self.all_shown.is_some_and(|at| self.at > at + AFTER_S as f64);
        is_over || second >= script.fault_at + PATIENCE_S + AFTER_S
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_planned_is_told_apart() {
        let mut watch = Watch::default();
        let script = Script { start: Time::now(), fault_at: 100, back_at: i64::MAX };
        let incident =
            |id: &str| json!({ "cause": { "kind": "device", "id": id }, "trouble": "camera_unreachable" });
        watch.look(&json!({ "incidents": [incident("cam-000000"), incident("cam-000009")] }), 12.0, &script);
        watch.look(&json!({ "incidents": [incident("cam-000000"), incident("cam-000009")] }), 13.0, &script);
        let shown = watch.shown.iter().find(|shown| shown.fault.name == "camera_unplugged").unwrap();
        assert_eq!((shown.seconds, watch.others.len()), (Some(12.0), 1));
        assert!(shown.is_in_time());
        let mut early = Watch::default();
        early.look(&json!({ "incidents": [incident("cam-000000")] }), -1.0, &script);
        assert_eq!(early.others.len(), 1, "before it happened, it is nothing that was planned");
        assert!(!early.is_done(0, &script) && early.is_done(100 + PATIENCE_S + AFTER_S, &script));
    }

    #[test]
    fn a_link_is_back_when_its_incident_is_gone() {
        let mut watch = Watch::default();
        let script = Script { start: Time::now(), fault_at: 100, back_at: 3700 };
        let down = json!({ "incidents": [{ "cause": script::link_down().cause, "trouble": "box_silent" }] });
        watch.look(&down, 3599.0, &script);
        watch.look(&down, 3610.0, &script);
        assert_eq!(watch.well_again_s, None);
        watch.look(&json!({ "incidents": [] }), 3690.0, &script);
        watch.look(&json!({ "incidents": [] }), 3691.0, &script);
        assert_eq!(watch.well_again_s, Some(90.0));
    }
}
