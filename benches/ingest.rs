//! `make bench`: what ingest takes and costs, beside a null subscriber and beside what people would otherwise write.
//!
//! Every round has a fresh Mosquitto without persistence, the same publishers (one event of about 300 bytes a message,
//! QoS 1, a window each, TLS) and one subscriber: the hub, the null subscriber (rumqttc, manual ack, throws away) or
//! paho + PostgreSQL. Rounds are interleaved, because the machine is noisy.
//!
//! `CAMNET_BENCH_EVENTS` (default 200,000) are the events of a round, `CAMNET_BENCH_LONG_EVENTS` (default five times as
//! many) those of the long round.
//! `CAMNET_BENCH_BOXES` (default 10,000) are the boxes of the backlog. `-- rate backlog` measures only these parts.

mod common;
#[path = "common/mosquitto.rs"]
mod mosquitto;
#[path = "common/postgres.rs"]
mod postgres;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use camnet::limits::{MQTT_BOX_INFLIGHT_MAX, MQTT_INFLIGHT_MAX, MQTT_PACKET_BYTES_MAX};
use camnet::load::events::Mix;
use camnet::load::world::{Hub, World, registry_text, usage_of};
use camnet::model::{Epoch, Time};
use camnet::mqtt::{self, HUB_NAME, LinkConfig, LinkEvent, OutMessage, PublishOutcome};
use camnet::tls::Identity;
use camnet::wire::Receipt;
use camnet::{hub::certificates, tls, wire};
use common::{Figures, Running, free_port};
use postgres::Postgres;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, Publish};
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use rumqttc::{TlsConfiguration, Transport};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const PUBLISHERS: usize = 8;
/// Events of a publisher without a receipt in the long round.
const LONG_ROUND_OWED_MAX: u64 = 20_000;
/// A round that takes longer is given up.
const ROUND_MAX: Duration = Duration::from_secs(1800);
const SETTINGS: &str =
    "Mosquitto 2.0 without persistence, TLS, MQTT 5, QoS 1, receive maximum 1000, 8 publishers";

fn main() {
    tls::install_crypto();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    if args.first().is_some_and(|arg| arg == "null-subscriber") {
        return runtime.block_on(null_subscriber(Path::new(&args[1]), &args[2], number(&args[3])));
    }
    let wanted = |part: &str| args.is_empty() || args.iter().any(|arg| part.contains(arg.as_str()));
    let mut out = Figures::append(root());
    let events = env("CAMNET_BENCH_EVENTS", 200_000);
    if wanted("rate") {
        runtime.block_on(rates(&mut out, events));
    }
    if wanted("backlog") {
        backlog(&mut out, env("CAMNET_BENCH_BOXES", 10_000));
    }
}

fn env(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| number(&text))
}

fn number(text: &str) -> u64 {
    text.replace('_', "").parse().unwrap_or_else(|_| panic!("{text} is not a number"))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What one round gave.
#[derive(Debug, Clone, Copy)]
struct Round {
    events: u64,
    per_s: f64,
    cpu_us: f64,
}

async fn rates(out: &mut Figures, events: u64) {
    let bench = Bench::prepare();
    let (mut hub, mut null) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        hub.push(bench.hub_round(events, None).await.0);
        null.push(bench.null_round(events).await);
    }
    let mean =
        |rounds: &[Round], of: fn(&Round) -> f64| rounds.iter().map(of).sum::<f64>() / rounds.len() as f64;
    let (hub_rate, null_rate) = (mean(&hub, |r| r.per_s), mean(&null, |r| r.per_s));
    let n = events as usize;
    let baseline = json!({ "name": format!("null subscriber: rumqttc v5, manual ack; {SETTINGS}"), "value": null_rate,
        "hub_per_s": hub_rate, "hub_rounds": list(&hub), "null_rounds": list(&null) });
    out.add("ingest.rate_vs_null", hub_rate / null_rate, "ratio", Some(0.7), "higher", baseline, n);
    let baseline =
        json!({ "name": "null subscriber, CPU of its process", "value": mean(&null, |r| r.cpu_us) });
    out.add("ingest.cpu_us_per_event", mean(&hub, |r| r.cpu_us), "us", Some(15.0), "lower", baseline, n);

    let postgres = Postgres::start();
    for (mode, aim, share) in [("single", 10.0, 100), ("batched", 3.0, 10)] {
        let round = bench.paho_round(&postgres, mode, (events / share).max(1000)).await;
        let how = match mode {
            "single" => "one INSERT and commit an event, then the ack",
            _ => {
                "execute_values, 500 events or 50 ms a commit, acked before the commit (paho 1.6 can't later)"
            }
        };
        let name = format!(
            "paho-mqtt 1.6 + psycopg2 2.9 + PostgreSQL 15, {how}; synchronous_commit on, fsync on, primary key (box, \
             epoch, sequence) and an index (source, time); {SETTINGS}"
        );
        let baseline = json!({ "name": name, "value": round.per_s, "cpu_us": round.cpu_us, "events": round.events,
            "hub_per_s": hub_rate });
        let figure = format!("ingest.vs_paho_postgres_{mode}");
        out.add(
            &figure,
            hub_rate / round.per_s,
            "ratio",
            Some(aim),
            "higher",
            baseline,
            round.events as usize,
        );
    }
    drop(postgres);
    long_round(out, &bench, env("CAMNET_BENCH_LONG_EVENTS", events * 5)).await;
}

/// One long round: does it slow down, grow, and how much disk does an event take?
async fn long_round(out: &mut Figures, bench: &Bench, events: u64) {
    let before = bytes_below(&bench.dir.path().join("load-data"));
    let (_, samples) = bench.hub_round(events, Some(LONG_ROUND_OWED_MAX)).await;
    let after = bytes_below(&bench.dir.path().join("load-data"));
    let n = events as usize;
    let at =
        |share: f64| samples.iter().find(|s| s.applied as f64 >= share * events as f64).expect("sampled");
    let rate = |from: f64, to: f64| {
        let (from, to) = (at(from), at(to));
        (to.applied - from.applied) as f64 / (to.seconds - from.seconds).max(0.001)
    };
    let cpu_us = |from: f64, to: f64| {
        let (from, to) = (at(from), at(to));
        (to.cpu_s - from.cpu_s) * 1e6 / (to.applied - from.applied).max(1) as f64
    };
    // Towards the end the publishers may be done, and leave both cores to the hub: the CPU per event tells that apart.
    let (early, late) = (rate(0.05, 0.15), rate(0.9, 1.0));
    let baseline = json!({ "name": format!("the first tenth of one run of {events} events (aim: 10 M over 1 M; set \
        CAMNET_BENCH_LONG_EVENTS=10000000 for that)"), "value": early, "late_per_s": late,
        "early_cpu_us": cpu_us(0.05, 0.15), "late_cpu_us": cpu_us(0.9, 1.0) });
    out.add("ingest.rate_10m_over_1m", late / early, "ratio", Some(0.9), "higher", baseline, n);
    let baseline = json!({ "name": "hub at a tenth of the run, MB", "value": at(0.1).rss_mb });
    out.add("ingest.rss_mb", at(1.0).rss_mb, "MB", None, "lower", baseline, n);
    let per_event = after.saturating_sub(before) as f64 / events as f64;
    let baseline = json!({ "name": "journal and index together, after a clean stop; bytes of an event's message",
        "value": bench.message_bytes() });
    out.add("ingest.disk_bytes_per_event", per_event, "bytes", Some(150.0), "lower", baseline, n);
}

fn list(rounds: &[Round]) -> Vec<f64> {
    rounds.iter().map(|round| round.per_s.round()).collect()
}

/// A folder with certificates and a registry for the publishers.
struct Bench {
    dir: tempfile::TempDir,
    world: World,
    mixes: Vec<Mix>,
    port: u16,
}

/// How far the hub was at a moment of a round.
#[derive(Debug, Clone, Copy)]
struct Sample {
    seconds: f64,
    applied: u64,
    rss_mb: f64,
    cpu_s: f64,
}

impl Bench {
    fn prepare() -> Self {
        // Beside the checkout: /tmp may be memory.
        let dir = tempfile::tempdir_in(root().join("target")).expect("a folder");
        certificates::init(dir.path(), &certificates::loopback_names()).expect("certificates");
        let mixes: Vec<Mix> = (0..PUBLISHERS).map(|n| Mix::of_box(n, 1)).collect();
        let port = free_port();
        let broker = format!("127.0.0.1:{port}");
        let boxes: Vec<_> = mixes.iter().map(|mix| mix.box_id.clone()).collect();
        let text = registry_text(&mixes);
        let mut world = World::prepare(dir.path(), &boxes, &text, Some(&broker)).expect("a world");
        world.binary = binary();
        Self { dir, world, mixes, port }
    }

    fn mosquitto(&self) -> Running {
        mosquitto::start(root(), self.dir.path(), self.port)
    }

    /// The hub: done when the last event is durable and in the index.
    /// `owed_max`: events that a publisher may have without a receipt, as a box has a window; None: as it gets rid of
    /// them, which after some millions drowns Mosquitto 2.0.11 (16 GB, and no answer to a ping for a minute).
    async fn hub_round(&self, events: u64, owed_max: Option<u64>) -> (Round, Vec<Sample>) {
        let _mosquitto = self.mosquitto();
        let hub = self.world.start_hub(&CancellationToken::new()).await.expect("the hub starts");
        let first = applied(&hub).await;
        let before = hub.usage().expect("the hub runs");
        let publishing = self.publish(events, owed_max).await;
        let began = Instant::now();
        publishing.go.cancel();
        let mut samples = Vec::new();
        loop {
            let applied = applied(&hub).await - first;
            let usage = hub.usage().expect("the hub runs");
            let seconds = began.elapsed().as_secs_f64();
            samples.push(Sample { seconds, applied, rss_mb: usage.rss_mb, cpu_s: usage.cpu_s });
            if applied >= events {
                break;
            }
            assert!(began.elapsed() < ROUND_MAX, "only {applied} of {events} arrived");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let (seconds, after) = (began.elapsed().as_secs_f64(), hub.usage().expect("the hub runs"));
        publishing.stop().await;
        hub.stop().await.expect("the hub stops cleanly");
        let cpu_us = (after.cpu_s - before.cpu_s) * 1e6 / events as f64;
        let round = Round { events, per_s: events as f64 / seconds, cpu_us };
        println!("hub   {events} events: {:.0}/s, {cpu_us:.1} us CPU each", round.per_s);
        (round, samples)
    }

    async fn null_round(&self, events: u64) -> Round {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command
            .arg("null-subscriber")
            .arg(self.dir.path())
            .arg(self.port.to_string())
            .arg(events.to_string());
        self.child_round("null ", command, events).await
    }

    async fn paho_round(&self, postgres: &Postgres, mode: &str, events: u64) -> Round {
        let file = |name: &str| self.dir.path().join(name);
        let mut command = Command::new("/usr/bin/python3");
        command.arg(root().join("benches/paho_postgres.py")).args([
            mode,
            "localhost",
            &self.port.to_string(),
        ]);
        command.arg(file("ca.pem")).arg(file("camnet-hub.pem")).arg(file("camnet-hub.key"));
        command.arg(postgres.dsn()).arg(events.to_string());
        self.child_round(mode, command, events).await
    }

    /// A subscriber that says "ready" and then "done" with the CPU seconds it used.
    async fn child_round(&self, name: &str, mut command: Command, events: u64) -> Round {
        let _mosquitto = self.mosquitto();
        let mut child = Running(command.stdout(Stdio::piped()).spawn().expect("the subscriber starts"));
        let mut lines = Lines::of(&mut child.0);
        lines.wait("ready").await;
        let publishing = self.publish(events, None).await;
        let began = Instant::now();
        publishing.go.cancel();
        let done = lines.wait("done").await;
        let seconds = began.elapsed().as_secs_f64();
        publishing.stop().await;
        let cpu_s: f64 = done.trim_start_matches("done ").parse().expect("CPU seconds");
        let round = Round { events, per_s: events as f64 / seconds, cpu_us: cpu_s * 1e6 / events as f64 };
        println!("{name} {events} events: {:.0}/s, {:.1} us CPU each", round.per_s, round.cpu_us);
        round
    }

    /// Publishers that are connected, have their messages ready, and wait for `go`.
    async fn publish(&self, events: u64, owed_max: Option<u64>) -> Publishing {
        let (go, stop) = (CancellationToken::new(), CancellationToken::new());
        let mut tasks = tokio::task::JoinSet::new();
        for (n, mix) in self.mixes.iter().enumerate() {
            let share = events / PUBLISHERS as u64 + u64::from((n as u64) < events % PUBLISHERS as u64);
            let (ready, is_ready) = tokio::sync::oneshot::channel();
            let config = LinkConfig {
                address: format!("127.0.0.1:{}", self.port),
                client_id: mix.box_id.to_string(),
                tls: Some(tls::client_config(&self.world.identity(&mix.box_id)).expect("a certificate")),
                subscriptions: vec![format!("camnet/1/{}/receipt", mix.box_id)],
                will: None,
                inflight_max: MQTT_BOX_INFLIGHT_MAX,
                session_keep: None,
                login: None,
            };
            let plan = Plan { count: share, owed_max: owed_max.unwrap_or(u64::MAX) };
            tasks.spawn(publisher(mix.clone(), plan, config, ready, go.clone(), stop.clone()));
            is_ready.await.expect("the publisher connects");
        }
        Publishing { go, stop, tasks }
    }

    fn message_bytes(&self) -> f64 {
        let made = (2..=201).map(|n| wire::encode(&self.mixes[1].event(Epoch(1), n, Time::now())).len());
        made.sum::<usize>() as f64 / 200.0
    }
}

struct Publishing {
    go: CancellationToken,
    stop: CancellationToken,
    tasks: tokio::task::JoinSet<()>,
}

impl Publishing {
    async fn stop(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// What a publisher sends.
struct Plan {
    count: u64,
    /// Events without a receipt.
    owed_max: u64,
}

async fn publisher(
    mix: Mix,
    Plan { count, owed_max }: Plan,
    config: LinkConfig,
    ready: tokio::sync::oneshot::Sender<()>,
    go: CancellationToken,
    stop: CancellationToken,
) {
    let (epoch, topic) = (Epoch::draw(), format!("camnet/1/{}/event", mix.box_id));
    let (link, mut events, _task) = mqtt::start(config, stop.clone());
    loop {
        match events.recv().await.expect("the link runs") {
            LinkEvent::Up { .. } => break,
            LinkEvent::Down { reason, .. } => panic!("a publisher can't connect: {reason}"),
            _ => {}
        }
    }
    let _ = ready.send(());
    go.cancelled().await;
    let (mut sent, mut unanswered, mut receipted) = (0, 0, 0);
    loop {
        while sent < count && unanswered < usize::from(MQTT_BOX_INFLIGHT_MAX) && sent - receipted < owed_max {
            let message = message_of(&mix, epoch, sent + 1, &topic);
            if link.try_publish(message).is_err() {
                break;
            }
            (sent, unanswered) = (sent + 1, unanswered + 1);
        }
        let event = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            event = events.recv() => event,
        };
        // The link ends with `stop`.
        let Some(event) = event else { return };
        match event {
            LinkEvent::Published { outcome, .. } => {
                assert_eq!(outcome, PublishOutcome::Taken);
                unanswered -= 1;
            }
            LinkEvent::Down { reason, .. } => panic!("a publisher's link is down: {reason}"),
            LinkEvent::Message(message) => {
                let receipt = Receipt::from_json(&message.payload).expect("the hub sends receipts");
                if receipt.epoch == epoch {
                    receipted = receipt.upto.min(sent).max(receipted);
                }
                link.ack(vec![message.ack]).expect("the link runs");
            }
            LinkEvent::Up { .. } => {}
        }
    }
}

fn message_of(mix: &Mix, epoch: Epoch, sequence: u64, topic: &str) -> OutMessage {
    OutMessage {
        topic: topic.to_owned(),
        payload: wire::encode(&mix.event(epoch, sequence, Time::now())),
        content_type: Some(wire::CONTENT_TYPE_EVENT),
        user_properties: vec![
            (wire::PROPERTY_EPOCH.into(), epoch.to_string()),
            (wire::PROPERTY_SEQUENCES.into(), format!("{sequence}-{sequence}")),
        ],
        retain: false,
        token: sequence,
        correlation: None,
    }
}

/// Position that the hub's index has reached.
async fn applied(hub: &Hub) -> u64 {
    hub.gauge("index_applied").await.expect("the hub answers") as u64
}

/// rumqttc v5 as it comes: manual ack, nothing else.
async fn null_subscriber(dir: &Path, port: &str, count: u64) {
    let identity = Identity {
        ca: dir.join("ca.pem"),
        certificate: dir.join(format!("{HUB_NAME}.pem")),
        key: dir.join(format!("{HUB_NAME}.key")),
    };
    let mut options = MqttOptions::new(HUB_NAME, "127.0.0.1", number(port) as u16);
    options.set_manual_acks(true);
    options.set_receive_maximum(Some(MQTT_INFLIGHT_MAX));
    options.set_outgoing_inflight_upper_limit(MQTT_INFLIGHT_MAX);
    options.set_max_packet_size(Some(MQTT_PACKET_BYTES_MAX));
    let tls = tls::client_config(&identity).expect("a certificate");
    options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls)));
    // Mosquitto 2.0.11 keeps no receive maximum: what bounds it are the packet ids.
    let (client, mut event_loop) = AsyncClient::new(options, usize::from(u16::MAX));
    client.try_subscribe("camnet/1/+/event", QoS::AtLeastOnce).expect("the queue is empty");
    let mut seen = 0;
    while seen < count {
        match event_loop.poll().await.expect("the broker stays") {
            Event::Incoming(Packet::SubAck(_)) => println!("ready"),
            Event::Incoming(Packet::Publish(publish)) => {
                let ack = Publish { payload: Default::default(), topic: Default::default(), ..publish };
                client.try_ack(&ack).expect("no more than there are packet ids wait");
                seen += 1;
            }
            _ => {}
        }
    }
    println!("done {}", usage_of(std::process::id()).expect("this process").cpu_s);
}

/// What a child prints, read by a thread of its own.
struct Lines(tokio::sync::mpsc::UnboundedReceiver<String>);

impl Lines {
    fn of(child: &mut Child) -> Self {
        let stdout: ChildStdout = child.stdout.take().expect("piped");
        let (lines, read) = tokio::sync::mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = lines.send(line);
            }
        });
        Self(read)
    }

    async fn wait(&mut self, word: &str) -> String {
        let wait = async {
            while let Some(line) = self.0.recv().await {
                if line.starts_with(word) {
                    return line;
                }
            }
            panic!("the subscriber ended before it was {word}")
        };
        tokio::time::timeout(ROUND_MAX, wait).await.expect("in time")
    }
}

/// Boxes that come back after a day offline, while fresh events go on.
fn backlog(out: &mut Figures, boxes: u64) {
    const HOURS: u64 = 24;
    let rate = boxes as f64 / 500.0;
    let file = tempfile::NamedTempFile::new().expect("a file");
    let status = Command::new(binary())
        .args(["load", "--boxes", &boxes.to_string(), "--rate", &rate.to_string()])
        .args(["--backlog", &HOURS.to_string(), "--minutes", "0.5", "--report"])
        .arg(file.path())
        .status()
        .expect("camnet load runs");
    assert!(status.success(), "camnet load: {status}");
    let report: Value = serde_json::from_slice(&std::fs::read(file.path()).expect("a report")).expect("JSON");
    let (old, n) = (report["backlog"].as_u64().expect("a count"), boxes as usize);
    let baseline = json!({ "name": format!("{boxes} boxes, {HOURS} h offline, {old} events; embedded broker, hub, boxes on \
        one machine"), "value": null, "lost": report["lost"], "hub_rss_mb": report["hub_rss_mb"],
        "hub_cpu_us_per_event": report["hub_cpu_us_per_event"] });
    out.add(
        "backlog.drain_s",
        report["drain_s"].as_f64().expect("drained"),
        "s",
        None,
        "lower",
        baseline.clone(),
        n,
    );
    let p99 = report["receipt_ms"][1].as_f64().expect("fresh events");
    out.add("backlog.fresh_event_p99_ms", p99, "ms", None, "lower", baseline, n);
}

/// The program that cargo built with this bench.
fn binary() -> PathBuf {
    env!("CARGO_BIN_EXE_camnet").into()
}

fn bytes_below(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => bytes_below(&entry.path()),
        // What it takes on disk, holes not counted.
        Ok(meta) => std::os::unix::fs::MetadataExt::blocks(&meta) * 512,
        Err(_) => 0,
    };
    entries.filter_map(Result::ok).map(size).sum()
}
