//! What an officer's questions cost at the catalog, from a million clips on: warm and cold, idle and while events come
//! in, beside PostgreSQL; prints each figure and appends it to target/bench.jsonl. The recipe stands in `world.rs`.
//!
//! `SIZE=1M,10M` (default). `SIZE=100M` is `SIZE=1M,100M`: 20 GB of disk and some two hours. `POSTGRES=no` leaves
//! PostgreSQL out.

#[path = "../common/mod.rs"]
mod common;
mod postgres_catalog;
#[path = "../common/postgres.rs"]
mod postgres_server;
mod world;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use camnet::hub::catalog::embedded::Embedded;
use camnet::hub::catalog::{Catalog, ClipQuery, Order, TimeRange};
use camnet::hub::truth::{HubRecord, TruthRecords};
use camnet::journal::Journal;
use common::Figures;
use postgres_catalog::PostgresCatalog;
use postgres_server::Postgres;
use serde_json::json;
use world::{CAMERAS, QUESTIONS, Question, question};

/// Questions of a kind, asked one after the other; asked twice where the second is measured.
const WARM: u64 = 300;
const COLD: u64 = 20;
/// Records per second while events come in: five hundred times what ten thousand such cameras send.
const INGEST_PER_S: u64 = 20_000;
/// Records applied at once, as the hub does when it builds its index anew.
const BATCH: usize = camnet::limits::INDEX_REBUILD_RECORDS;
/// PostgreSQL is filled up to this size.
const POSTGRES_CLIPS_MAX: u64 = 10_000_000;
const POSTGRES_AIM: f64 = 10.0;
/// Set to the folder of an archive: only open it.
const OPEN_ONLY: &str = "CAMNET_BENCH_OPEN_ONLY";

/// Median and 99th of 100 of a question, milliseconds.
#[derive(Clone, Copy)]
struct Took {
    p50: f64,
    p99: f64,
}

fn main() {
    if let Some(dir) = std::env::var_os(OPEN_ONLY) {
        return open_only(Path::new(&dir));
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    std::fs::create_dir_all(root.join("target")).expect("target/ can be made");
    let mut out = Figures::append(root);
    let mut sizes = std::env::var("SIZE").unwrap_or_else(|_| "1M,10M".into());
    if !sizes.contains(',') {
        sizes = format!("1M,{sizes}");
    }
    let mut warm: Vec<(String, Vec<Took>)> = Vec::new();
    for name in sizes.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        let clips = clips_of(name);
        let archive = Archive::build(root, name, clips, &mut out);
        let idle = archive.measure(name, "idle_cold", COLD, true, &mut out);
        drop(idle);
        let idle = archive.measure(name, "idle", WARM, false, &mut out);
        let busy = archive.measure_during_ingest(name, &mut out);
        let ratio = |of: fn(&Took) -> f64| mean_ratio(&busy, &idle, of);
        let baseline = json!({ "name": "the same questions without ingest", "p50_ratio": round(ratio(|t| t.p50)),
            "records_per_s": INGEST_PER_S });
        let figure = format!("search.during_ingest_over_idle.{name}");
        out.add(&figure, ratio(|t| t.p99), "", Some(1.5), "lower", baseline, WARM as usize);
        if clips <= POSTGRES_CLIPS_MAX
            && clips > 1_000_000
            && std::env::var("POSTGRES").as_deref() != Ok("no")
        {
            beside_postgres(name, &archive, &idle, &mut out);
        }
        warm.push((name.to_owned(), idle));
    }
    if let [(small, first), .., (large, last)] = warm.as_slice() {
        let each: Vec<f64> = last.iter().zip(first).map(|(l, f)| round(l.p50 / f.p50)).collect();
        let baseline = json!({ "name": format!("the same questions at {small}"), "p50_ratios": each,
            "p99_ratio": round(mean_ratio(last, first, |t| t.p99)) });
        let figure = format!("search.growth_{large}_over_{small}").to_lowercase();
        out.add(&figure, mean_ratio(last, first, |t| t.p50), "", Some(1.5), "lower", baseline, WARM as usize);
    }
}

/// Opens an archive's index and says what that took, for [`Archive::opened_elsewhere`].
fn open_only(dir: &Path) {
    let empty = tempfile::tempdir().expect("a folder");
    let (journal, _) = Journal::open(empty.path()).expect("a journal");
    let (before, began) = (rss_mb(), Instant::now());
    let index = Embedded::open(&dir.join("index"), &TruthRecords::of(&journal), u64::MAX).expect("the index");
    println!("{:.1} {:.3}", rss_mb() - before, began.elapsed().as_secs_f64());
    drop(index);
}

fn clips_of(name: &str) -> u64 {
    let millions: u64 = name.strip_suffix('M').and_then(|n| n.parse().ok()).expect("SIZE like 1M,10M");
    millions * 1_000_000
}

/// Geometric mean over the questions.
fn mean_ratio(of: &[Took], to: &[Took], figure: fn(&Took) -> f64) -> f64 {
    let logs: f64 = of.iter().zip(to).map(|(a, b)| (figure(a) / figure(b)).ln()).sum();
    (logs / of.len() as f64).exp()
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

struct Archive {
    dir: tempfile::TempDir,
    journal: TruthRecords,
    rounds: u64,
    /// Position behind the last record of each round.
    ends: Vec<u64>,
}

impl Archive {
    fn build(root: &Path, name: &str, clips: u64, out: &mut Figures) -> Self {
        let dir = tempfile::tempdir_in(root.join("target")).expect("a folder beside the build");
        // The index joins events with a journal; clips and spans it tells by itself.
        let (journal, _) = Journal::open(&dir.path().join("journal")).expect("a journal");
        let (journal, rounds) = (TruthRecords::of(&journal), clips / CAMERAS);
        let mut archive = Self { dir, journal, rounds, ends: Vec::new() };
        let index = archive.open();
        let (began, cpu) = (Instant::now(), common::cpu_s("self"));
        for (round, of_round) in (0..).zip(drawn(0, archive.rounds)) {
            for batch in of_round.chunks(BATCH) {
                index.apply(index.applied(), batch).expect("the index takes it");
            }
            archive.ends.push(index.applied());
            if (round + 1u64).is_multiple_of(500) {
                let (clips, seconds) = ((round + 1) * CAMERAS, began.elapsed().as_secs_f64());
                println!("  {clips} clips after {seconds:.0} s, {:.0} MB", rss_mb());
            }
        }
        drop(index);
        let million = clips as f64 / 1e6;
        let baseline = json!({ "name": "records of this archive", "value": archive.ends.last(),
            "cpu_us_per_clip": round((common::cpu_s("self") - cpu) * 1e6 / clips as f64) });
        let rate = clips as f64 / began.elapsed().as_secs_f64();
        out.add(&format!("search.build_clips_per_s.{name}"), rate, "1/s", None, "higher", baseline, 1);
        let disk = bytes_below(&archive.dir.path().join("index")) as f64 / 1e6 / million;
        let aim = json!({ "name": "20 GB for 100 M", "value": 200.0 });
        out.add(
            &format!("search.disk_mb_per_million_clips.{name}"),
            disk,
            "MB",
            Some(200.0),
            "lower",
            aim,
            1,
        );
        let (memory_mb, opened_s) = archive.opened_elsewhere();
        let opened =
            json!({ "name": "a process before it opened the archive", "value": 0, "opened_s": opened_s });
        let memory = memory_mb / million;
        out.add(
            &format!("search.memory_mb_per_million_clips.{name}"),
            memory,
            "MB",
            None,
            "lower",
            opened,
            1,
        );
        archive
    }

    /// Megabytes and seconds that a process of its own takes to open the index: this one keeps what it once had.
    fn opened_elsewhere(&self) -> (f64, f64) {
        let program = std::env::current_exe().expect("this program has a path");
        let output = std::process::Command::new(program).env(OPEN_ONLY, self.dir.path()).output();
        let text = String::from_utf8(output.expect("it starts").stdout).expect("text");
        let mut figures = text.split_whitespace().map(|figure| figure.parse().expect("a number"));
        let mut next = || figures.next().expect("two figures");
        (next(), next())
    }

    /// What the index had not yet written is applied again, as the hub does from its journal.
    fn open(&self) -> Embedded {
        let (index, _) =
            Embedded::open(&self.dir.path().join("index"), &self.journal, u64::MAX).expect("the index");
        let round = self.ends.partition_point(|&end| end <= index.applied());
        for (n, of_round) in (round..).zip(drawn(round as u64, self.ends.len() as u64)) {
            let known = of_round.len() as u64 - (self.ends[n] - index.applied());
            index.apply(index.applied(), &of_round[known as usize..]).expect("the index takes it");
        }
        index
    }

    /// Asks every kind `n` times. Cold: with the machine's cache dropped before each.
    fn measure(&self, name: &str, state: &str, n: u64, is_cold: bool, out: &mut Figures) -> Vec<Took> {
        let index = self.open();
        let mut all = Vec::new();
        for kind in 0..QUESTIONS.len() {
            let mut times = Vec::new();
            for again in [false, true] {
                for asked in (0..n).map(|n| question(kind, n, self.rounds)) {
                    if is_cold {
                        drop_caches();
                    }
                    let began = Instant::now();
                    let (clips, spans) = ask(&index, &asked);
                    if again || is_cold {
                        times.push(began.elapsed().as_secs_f64() * 1e3);
                    }
                    assert!(clips > 0 && spans > 0, "{asked:?} has no answer");
                }
                if is_cold {
                    break;
                }
            }
            all.push(tell(out, kind, name, state, times));
        }
        all
    }

    fn measure_during_ingest(&self, name: &str, out: &mut Figures) -> Vec<Took> {
        let index = Arc::new(self.open());
        let stop = Arc::new(AtomicBool::new(false));
        let writer = std::thread::spawn({
            let (index, stop, mut round) = (index.clone(), stop.clone(), self.rounds);
            move || {
                let mut sent = 0u64;
                let began = Instant::now();
                while !stop.load(Ordering::Relaxed) {
                    for batch in world::records(round).chunks(500) {
                        index.apply(index.applied(), batch).expect("the index takes it");
                        sent += batch.len() as u64;
                        let due = Duration::from_secs_f64(sent as f64 / INGEST_PER_S as f64);
                        std::thread::sleep(due.saturating_sub(began.elapsed()));
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                    }
                    round += 1;
                }
                sent as f64 / began.elapsed().as_secs_f64()
            }
        });
        let mut all = Vec::new();
        for kind in 0..QUESTIONS.len() {
            let mut times = Vec::new();
            for again in [false, true] {
                for asked in (0..WARM).map(|n| question(kind, n, self.rounds)) {
                    let began = Instant::now();
                    ask(&index, &asked);
                    if again {
                        times.push(began.elapsed().as_secs_f64() * 1e3);
                    }
                }
            }
            all.push(tell(out, kind, name, "ingest", times));
        }
        stop.store(true, Ordering::Relaxed);
        println!("  meanwhile {:.0} records per second came in", writer.join().expect("the writer ends"));
        all
    }
}

/// The records of some rounds, drawn by a thread of its own.
fn drawn(from: u64, to: u64) -> Receiver<Vec<HubRecord>> {
    let (send, rounds_drawn) = sync_channel(2);
    std::thread::spawn(move || (from..to).try_for_each(|round| send.send(world::records(round))));
    rounds_drawn
}

/// A page of clips and the accounts of all cameras, as a search asks for them. Returns how many there were.
fn ask(index: &Embedded, asked: &Question) -> (usize, usize) {
    let devices: Vec<_> = asked.cameras.iter().map(|&camera| world::device(camera)).collect();
    let range = TimeRange { from: world::time(asked.from_us), to: world::time(asked.to_us) };
    // Of a whole archive nobody asks for the account of every second.
    let day = world::time(asked.from_us.max(asked.to_us - 86_400_000_000));
    let coverage = index.coverage(&devices, TimeRange { from: day, to: range.to }).expect("an answer");
    let query =
        ClipQuery { devices, ranges: vec![range], order: Order::Newest, after: None, limit: asked.limit };
    let clips = index.clips(&query).expect("an answer");
    (clips.len(), coverage.iter().map(Vec::len).sum())
}

fn tell(out: &mut Figures, kind: usize, size: &str, state: &str, mut times: Vec<f64>) -> Took {
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize];
    let took = Took { p50: at(0.5), p99: at(0.99) };
    let name = QUESTIONS[kind].0;
    let aim = (kind == 0 && state == "idle").then_some(10.0);
    let none = json!(null);
    out.add(
        &format!("search.{name}.{size}.{state}.p50_ms"),
        took.p50,
        "ms",
        None,
        "lower",
        none.clone(),
        times.len(),
    );
    out.add(&format!("search.{name}.{size}.{state}.p99_ms"), took.p99, "ms", aim, "lower", none, times.len());
    took
}

/// The same questions in PostgreSQL, on the same machine, both warm and idle.
fn beside_postgres(size: &str, archive: &Archive, ours: &[Took], out: &mut Figures) {
    let (rounds, index) = (archive.rounds, archive.open());
    let server = Postgres::start();
    let began = Instant::now();
    let mut catalog = PostgresCatalog::filled(&server.dsn(), rounds);
    println!(
        "  PostgreSQL filled in {:.0} s, {:.0} MB",
        began.elapsed().as_secs_f64(),
        catalog.bytes() as f64 / 1e6
    );
    let mut theirs = Vec::new();
    for kind in 0..QUESTIONS.len() {
        let mut times = Vec::new();
        for again in [false, true] {
            for asked in (0..WARM).map(|n| question(kind, n, rounds)) {
                let began = Instant::now();
                let answer = catalog.ask(&asked);
                if again {
                    times.push(began.elapsed().as_secs_f64() * 1e3);
                } else {
                    assert_eq!(answer, ask(&index, &asked), "both tell the same: {asked:?}");
                }
            }
        }
        theirs.push(tell(out, kind, size, "postgres", times));
    }
    for (kind, (theirs, ours)) in theirs.iter().zip(ours).enumerate() {
        let baseline = json!({ "name": "PostgreSQL, p50 ms", "value": round(theirs.p50), "p99_ratio":
            round(theirs.p99 / ours.p99) });
        let figure = format!("search.vs_postgis.{}", QUESTIONS[kind].0);
        out.add(&figure, theirs.p50 / ours.p50, "", Some(POSTGRES_AIM), "higher", baseline, WARM as usize);
    }
    let baseline = json!({ "name": "PostgreSQL; geometric mean over the questions, p50", "p99_ratio":
        round(mean_ratio(&theirs, ours, |t| t.p99)), "disk_mb": catalog.bytes() / 1_000_000 });
    let ratio = mean_ratio(&theirs, ours, |t| t.p50);
    out.add("search.vs_postgis", ratio, "", Some(POSTGRES_AIM), "higher", baseline, WARM as usize);
}

/// Where it may (root), the machine forgets what it read.
fn drop_caches() {
    let _ = std::process::Command::new("sync").status();
    if std::fs::write("/proc/sys/vm/drop_caches", "3").is_err() {
        println!("  the machine's cache stays: this is not cold");
    }
}

fn bytes_below(dir: &Path) -> u64 {
    let mut bytes = 0;
    let mut folders: Vec<PathBuf> = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry")) {
            let meta = entry.metadata().expect("a file's size");
            match meta.is_dir() {
                true => folders.push(entry.path()),
                false => bytes += std::os::unix::fs::MetadataExt::blocks(&meta) * 512,
            }
        }
    }
    bytes
}

fn rss_mb() -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).expect("Linux");
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<f64>().ok()).expect("kB") / 1024.0
}
