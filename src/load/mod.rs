//! `camnet load`: many boxes at once against a real hub, and what came of their events.
//!
//! Owns the run and its report. A box of a run is real where it matters for the hub: its own certificate and
//! connection, and [`crate::edge::uplink::Core`] decides what is sent when; only its outbox is memory. A box with
//! everything real is [`process`]. Used by no other module but the command line.

pub mod boxes;
pub mod events;
pub mod fleet;
pub mod process;
pub mod report;
pub mod world;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Args, Subcommand};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::limits::{
    LOAD_BOXES_MAX, LOAD_CONNECTS_PER_S, LOAD_DRAIN_MAX, LOAD_ROWS_CHECKED_MAX, LOAD_SETTLE_MAX,
    PAGE_EVENTS_MAX,
};
use crate::model::Time;
use crate::tls;
use boxes::{Plan, Said, Says};
use events::Mix;
use report::{Report, SHARES, Totals};
use world::{Hub, World};

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct LoadArgs {
    #[command(subcommand)]
    command: Option<LoadCommand>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Debug, Subcommand)]
enum LoadCommand {
    /// One box as a process of its own, with a real outbox, that makes events at a rate.
    #[command(hide = true)]
    Box(process::BoxArgs),
    /// A whole fleet in which things go wrong to plan, and how soon and as what the hub shows each.
    Fleet(fleet::FleetArgs),
}

#[derive(Debug, Args)]
struct RunArgs {
    /// How many boxes.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=LOAD_BOXES_MAX as i64))]
    boxes: u32,
    /// Events per second of all boxes together.
    #[arg(long, default_value_t = 100.0, value_parser = positive)]
    rate: f64,
    /// How long fresh events are made.
    #[arg(long, default_value_t = 1.0, value_parser = positive)]
    minutes: f64,
    /// Hours of old events, at the same rate, that every box owes when it comes back.
    #[arg(long, default_value_t = 0.0, value_name = "HOURS", value_parser = not_negative)]
    backlog: f64,
    /// Use the broker at host:port; it must trust the CA in --dir.
    #[arg(long, value_name = "BROKER", requires = "dir")]
    external: Option<String>,
    /// Folder for everything the run writes, kept afterwards; default: a temporary one, removed at the end.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// What the mix of events is drawn from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Also write the report to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

fn positive(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|&n: &f64| n.is_finite() && n > 0.0).ok_or("must be a number above 0".into())
}

fn not_negative(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|&n: &f64| n.is_finite() && n >= 0.0).ok_or("must be a number from 0 on".into())
}

/// How often the progress is told.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// Runs the load and tells what came of it; an error if anything was lost.
pub async fn run(args: LoadArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let args = match args.command {
        Some(LoadCommand::Box(args)) => return process::run(args, shutdown).await,
        Some(LoadCommand::Fleet(args)) => return fleet::run(args, shutdown).await,
        None => args.run,
    };
    raise_file_limit(args.boxes)?;
    let folder = Folder::make(args.dir.clone())?;
    let mixes: Vec<Mix> = (0..args.boxes as usize).map(|n| Mix::of_box(n, args.seed)).collect();
    println!("folder {}; making {} certificates", folder.path.display(), mixes.len());
    let (path, external) = (folder.path.clone(), args.external.clone());
    let world = tokio::task::spawn_blocking(move || {
        let ids: Vec<_> = mixes.iter().map(|mix| mix.box_id.clone()).collect();
        World::prepare(&path, &ids, &world::registry_text(&mixes), external.as_deref()).map(|w| (w, mixes))
    });
    let (world, mixes) = world.await??;
    let hub = world.start_hub(&shutdown).await?;
    let began = Instant::now();
    let report = Run::start(&args, &world, mixes)?.finish(&args, &hub, &shutdown).await?;
    println!("\n{report}\n(the whole run took {:.0} s)", began.elapsed().as_secs_f64());
    if let Some(file) = &args.report {
        std::fs::write(file, report.to_json().to_string()).with_context(|| file.display().to_string())?;
    }
    hub.stop().await?;
    let Report { lost, duplicated, .. } = report;
    anyhow::ensure!(report.is_good(), "{lost} events lost, {duplicated} duplicated");
    Ok(())
}

/// A run under way: every box is a task.
struct Run {
    plan: Arc<Plan>,
    totals: Arc<Totals>,
    boxes: JoinSet<Said>,
    count: usize,
    began: Instant,
}

impl Run {
    /// Starts the boxes one after the other, so that the broker is not asked for 10,000 handshakes at once.
    fn start(args: &RunArgs, world: &World, mixes: Vec<Mix>) -> anyhow::Result<Self> {
        let count = mixes.len();
        let pause = Duration::try_from_secs_f64(count as f64 / args.rate).context("--rate")?;
        let backlog_over = Duration::try_from_secs_f64(args.backlog * 3600.0).context("--backlog")?;
        let plan = Arc::new(Plan {
            broker: world.broker.clone(),
            pause,
            backlog: (backlog_over.as_secs_f64() / pause.as_secs_f64()) as u64,
            backlog_over,
            began: Time::now(),
            go: CancellationToken::new(),
            enough: CancellationToken::new(),
            stop: CancellationToken::new(),
        });
        let totals = Arc::new(Totals::default());
        let mut boxes = JoinSet::new();
        for (n, mix) in mixes.into_iter().enumerate() {
            let box_id = mix.box_id.clone();
            let tls = tls::client_config(&world.identity(&box_id))?;
            let (plan, totals) = (plan.clone(), totals.clone());
            let (_always, linked) = watch::channel(true);
            let wait = Duration::from_secs(1).mul_f64(n as f64 / f64::from(LOAD_CONNECTS_PER_S));
            boxes.spawn(async move {
                tokio::time::sleep(wait).await;
                boxes::run(box_id, Says::Mix(Box::new(mix)), tls, plan, totals, linked).await
            });
        }
        Ok(Self { plan, totals, boxes, count, began: Instant::now() })
    }

    async fn finish(
        mut self,
        args: &RunArgs,
        hub: &Hub,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<Report> {
        let backlog = self.plan.backlog * self.count as u64;
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let totals = self.totals.clone();
        if backlog == 0 {
            let ramp = Duration::from_secs((self.count as u64).div_ceil(LOAD_CONNECTS_PER_S.into()));
            let is_up = || load(&totals.connected) == self.count as u64;
            self.watch("connecting", ramp + LOAD_SETTLE_MAX, shutdown, is_up).await;
        }
        let before = hub.usage()?;
        let histogram = hub.histogram("motion_searchable_seconds").await?;
        let (accepted_before, fresh_from) = (load(&totals.accepted), Instant::now());
        self.plan.go.cancel();
        let minutes = Duration::try_from_secs_f64(args.minutes * 60.0).context("--minutes")?;
        // A backlog's fresh events go on until it is drained, so that they are measured all the while.
        let mut drain_s = None;
        if backlog > 0 {
            let is_drained = || load(&totals.old_receipted) == backlog;
            if self.watch("draining", LOAD_DRAIN_MAX, shutdown, is_drained).await {
                drain_s = Some(self.began.elapsed().as_secs_f64());
            }
        }
        self.watch("running", minutes.saturating_sub(fresh_from.elapsed()), shutdown, || false).await;
        self.plan.enough.cancel();
        let seconds = fresh_from.elapsed().as_secs_f64();
        // An event that is just being made is still counted.
        self.watch("settling", Duration::from_millis(100), shutdown, || false).await;
        let is_settled = || load(&totals.receipted) == load(&totals.accepted);
        self.watch("settling", LOAD_SETTLE_MAX, shutdown, is_settled).await;
        let after = hub.usage()?;
        self.plan.stop.cancel();
        let mut said = Vec::with_capacity(self.count);
        while let Some(done) = self.boxes.join_next().await {
            said.push(done.context("a box of the run panicked")?);
        }
        let checked = check(hub, &said, &self.plan).await?;
        let later = hub.histogram("motion_searchable_seconds").await?;
        let measured = load(&totals.accepted) - if backlog > 0 { 0 } else { accepted_before };
        Ok(Report {
            boxes: self.count,
            seconds,
            accepted: load(&totals.accepted),
            sent: load(&totals.sent),
            messages: load(&totals.messages),
            receipts: load(&totals.receipts),
            receipted: load(&totals.receipted),
            indexed: checked.indexed,
            refused: load(&totals.refused),
            links_lost: load(&totals.links_lost),
            lost: checked.lost,
            duplicated: checked.duplicated,
            rows_checked: checked.rows,
            receipt_ms: SHARES.map(|share| totals.fresh.percentile_ms(share)),
            // A backlog's events are hours old: the histogram can't tell them from fresh ones.
            searchable_ms: SHARES.map(|share| {
                (backlog == 0).then(|| world::percentile_ms(&histogram, &later, share)).flatten()
            }),
            hub_cpu_us_per_event: (after.cpu_s - before.cpu_s) * 1e6 / measured.max(1) as f64,
            hub_rss_mb: after.rss_mb,
            backlog,
            drain_s,
        })
    }

    /// Tells how it goes until `is_done`, `within` or a signal; true if it was done.
    async fn watch(
        &self,
        phase: &str,
        within: Duration,
        shutdown: &CancellationToken,
        is_done: impl Fn() -> bool,
    ) -> bool {
        let deadline = tokio::time::Instant::now() + within;
        let mut look = tokio::time::interval(Duration::from_millis(50));
        let mut told = Instant::now();
        loop {
            if is_done() {
                return true;
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return false,
                () = tokio::time::sleep_until(deadline) => return false,
                _ = look.tick() => {}
            }
            if told.elapsed() >= PROGRESS_EVERY {
                told = Instant::now();
                self.tell(phase);
            }
        }
    }

    fn tell(&self, phase: &str) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (accepted, receipted) = (load(&self.totals.accepted), load(&self.totals.receipted));
        let ms = |share| self.totals.fresh.percentile_ms(share).map_or("-".into(), |ms| format!("{ms:.0}"));
        println!(
            "{:5.0} s {phase:<10} {}/{} connected, accepted {accepted}, receipted {receipted}, owed {}, receipt p50 {} \
             p99 {} ms, links lost {}",
            self.began.elapsed().as_secs_f64(),
            load(&self.totals.connected),
            self.count,
            accepted.saturating_sub(receipted),
            ms(0.5),
            ms(0.99),
            load(&self.totals.links_lost),
        );
    }
}

/// What the hub's API says of the run's events.
#[derive(Default)]
struct Checked {
    indexed: u64,
    lost: u64,
    duplicated: u64,
    rows: u64,
}

/// Asks the index by box and epoch, and reads a share of the events back one by one.
async fn check(hub: &Hub, said: &[Said], plan: &Plan) -> anyhow::Result<Checked> {
    let accepted: u64 = said.iter().map(|said| said.last).sum();
    let deadline = tokio::time::Instant::now() + LOAD_SETTLE_MAX;
    let mut checked = Checked::default();
    // The index may be a batch behind the receipts.
    loop {
        let boxes = hub.get("/api/v1/boxes").await?;
        checked.indexed = indexed(&boxes, said);
        if checked.indexed >= accepted || tokio::time::Instant::now() > deadline {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    checked.lost = accepted.saturating_sub(checked.indexed);
    let from =
        plan.began - jiff::SignedDuration::try_from(plan.backlog_over)? - jiff::SignedDuration::from_secs(60);
    for said in said {
        if checked.rows + said.last > LOAD_ROWS_CHECKED_MAX {
            break;
        }
        let rows = rows(hub, said, from).await?;
        checked.rows += rows.len() as u64;
        let mut unique = rows.clone();
        unique.sort_unstable();
        unique.dedup();
        checked.duplicated += (rows.len() - unique.len()) as u64;
        let found = unique.iter().filter(|&&sequence| (1..=said.last).contains(&sequence)).count() as u64;
        // The account by box said that they are there: rows that can't be found are lost all the same.
        checked.lost = checked.lost.max(said.last - found);
    }
    Ok(checked)
}

fn indexed(boxes: &serde_json::Value, said: &[Said]) -> u64 {
    let none = Vec::new();
    let by_box: std::collections::HashMap<&str, &serde_json::Value> = boxes["boxes"]
        .as_array()
        .unwrap_or(&none)
        .iter()
        .filter_map(|row| Some((row["id"].as_str()?, row)))
        .collect();
    let of_box = |said: &Said| {
        let epochs = by_box.get(said.box_id.as_str())?["epochs"].as_array()?;
        let epoch = said.epoch.to_string();
        let row = epochs.iter().find(|row| row["epoch"] == epoch.as_str())?;
        let number = |name: &str| row[name].as_u64().unwrap_or(0);
        Some(number("upto").saturating_sub(number("missing") + number("refused")))
    };
    said.iter().filter_map(of_box).sum()
}

/// Sequences of every row that the index has of a box's epoch.
async fn rows(hub: &Hub, said: &Said, from: Time) -> anyhow::Result<Vec<u64>> {
    let path = format!("/api/v1/events?box={}&from={from}&limit={PAGE_EVENTS_MAX}", said.box_id);
    let epoch = said.epoch.to_string();
    let (mut rows, mut page) = (Vec::new(), String::new());
    for _ in 0..=LOAD_ROWS_CHECKED_MAX {
        let answer = hub.get(&format!("{path}{page}")).await?;
        let events = answer["events"].as_array().context("the hub's list of events")?;
        let ours = events.iter().filter(|event| event["epoch"] == epoch.as_str());
        rows.extend(ours.filter_map(|event| event["sequence"].as_u64()));
        match answer["next"].as_str() {
            Some(token) => page = format!("&page={token}"),
            None => break,
        }
    }
    Ok(rows)
}

/// Each box is a connection here, and one at the broker, which may be our child and then has the same limit. Some are
/// there twice for a moment, when they come back.
fn raise_file_limit(boxes: u32) -> anyhow::Result<()> {
    let wanted = u64::from(boxes + boxes / 4) + 1024;
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit writes one rlimit, which is ours.
    let is_read = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } == 0;
    anyhow::ensure!(is_read, "the limit of open files can't be read");
    if limit.rlim_cur >= wanted {
        return Ok(());
    }
    // Only root may raise the hard limit; others get as far as it goes.
    let raised = libc::rlimit { rlim_cur: wanted, rlim_max: limit.rlim_max.max(wanted) };
    // SAFETY: setrlimit reads one rlimit, which is ours.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raised) } == 0 {
        return Ok(());
    }
    let most = limit.rlim_max;
    anyhow::ensure!(
        most >= wanted,
        "{boxes} boxes need {wanted} open files, {most} are allowed: raise `ulimit -Hn`"
    );
    let soft = libc::rlimit { rlim_cur: wanted, rlim_max: most };
    // SAFETY: as above.
    let is_set = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &soft) } == 0;
    anyhow::ensure!(is_set, "the limit of open files can't be set");
    Ok(())
}

/// A folder that is removed at the end unless it was asked for.
struct Folder {
    path: PathBuf,
    is_temporary: bool,
}

impl Folder {
    fn make(asked: Option<PathBuf>) -> anyhow::Result<Self> {
        let is_temporary = asked.is_none();
        let path = asked.unwrap_or_else(|| {
            std::env::temp_dir().join(format!("camnet-load-{}", uuid::Uuid::new_v4().simple()))
        });
        std::fs::create_dir_all(&path).with_context(|| format!("folder {}", path.display()))?;
        Ok(Self { path, is_temporary })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.is_temporary
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            tracing::warn!(folder = %self.path.display(), %error, "the run's folder stays");
        }
    }
}
