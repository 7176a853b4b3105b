//! Real processes, really killed: boxes, broker and hub under load, cut links, full disks. Afterwards every event
//! that a box accepted is looked for by its id.
//!
//! `make test` runs a short round with each broker, `make soak MINUTES=n` many. Faults are drawn from a seed, which
//! is printed; `CAMNET_SOAK_SEED` sets it. What the processes do meanwhile is real and does not repeat exactly.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use camnet::load::events::mixed;
use camnet::load::process::mark_of;
use camnet::wire::{self, Decoded};
use jiff::Timestamp;
use serde_json::Value;

use crate::proxy::{Mode, Proxy};
use crate::world::{HubWorld, Process, SmallDisk, accepted, camnet};

/// Boxes of the example registry, each with the camera that its events are about.
const BOXES: [(&str, &str); 5] = [
    ("box-01", "cam-01"),
    ("box-02", "cam-02"),
    ("box-03", "cam-04"),
    ("box-04", "cam-06"),
    ("box-05", "cam-07"),
];
const EVENTS_PER_BOX_S: u32 = 20;
/// This box's outbox and the hub's data stand on small file systems of their own, where the test may mount some.
const SMALL_BOX: usize = 0;
const SMALL_BOX_BYTES: u64 = 48 << 20;
const SMALL_HUB_BYTES: u64 = 512 << 20;
/// Kills of one round of a soak, before its events are counted.
const KILLS_PER_ROUND: u64 = 25;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Broker {
    Embedded,
    Mosquitto { persistence: bool },
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    KillBox,
    KillHub,
    /// The embedded broker lives in the hub.
    KillBroker,
    /// Hub and broker and a box, at the same moment.
    KillAll,
    /// Mosquitto ends cleanly, which writes its store; the store is then deleted.
    ForgetBroker,
    Link(Mode),
    HubLink(Mode),
    FillHub,
    FillBox,
}

/// What a round did and found.
#[derive(Debug, Default)]
struct Tally {
    kills: u64,
    faults: BTreeMap<String, u64>,
    events: u64,
    lost: u64,
    duplicated: u64,
}

/// Numbers from a seed.
struct Draw {
    seed: u64,
    drawn: u64,
}

impl Draw {
    fn below(&mut self, end: u64) -> u64 {
        self.drawn += 1;
        mixed(self.seed, self.drawn) % end
    }

    fn pause(&mut self, from_ms: u64, to_ms: u64) -> Duration {
        Duration::from_millis(from_ms + self.below(to_ms - from_ms))
    }

    fn fault(&mut self) -> Fault {
        let mode = |n| [Mode::Cut, Mode::Stall, Mode::HalfOpen][n as usize];
        match self.below(20) {
            0..5 => Fault::KillBox,
            5..9 => Fault::KillHub,
            9..12 => Fault::KillBroker,
            12..14 => Fault::KillAll,
            14 => Fault::ForgetBroker,
            15 | 16 => Fault::Link(mode(self.below(3))),
            17 => Fault::HubLink(mode(self.below(3))),
            18 => Fault::FillHub,
            _ => Fault::FillBox,
        }
    }
}

/// A ward under load.
struct Ward {
    // Unmounted first, removed last.
    hub_disk: Option<SmallDisk>,
    box_disk: Option<SmallDisk>,
    hub: Option<Process>,
    mosquitto: Option<Process>,
    boxes: Vec<Option<Process>>,
    box_proxy: Proxy,
    hub_proxy: Proxy,
    broker: Broker,
    draw: Draw,
    tally: Tally,
    began: Timestamp,
    world: HubWorld,
    _dir: tempfile::TempDir,
}

impl Ward {
    async fn start(broker: Broker, seed: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ids = BOXES.map(|(id, _)| id);
        let mut world = HubWorld::new(dir.path(), &ids);
        let (box_proxy, hub_proxy) = (Proxy::start(world.mqtt).await, Proxy::start(world.mqtt).await);
        world.box_link = box_proxy.port;
        if broker != Broker::Embedded {
            world.hub_link = hub_proxy.port;
            world = world.with_external_broker();
        }
        for id in ids {
            world.box_config(id, "");
        }
        let hub_disk = SmallDisk::mount(world.dir.join("data"), SMALL_HUB_BYTES);
        let box_disk = SmallDisk::mount(world.dir.join(BOXES[SMALL_BOX].0), SMALL_BOX_BYTES);
        if hub_disk.is_none() || box_disk.is_none() {
            eprintln!("chaos: no right to mount: full disks are skipped");
        }
        let mut ward = Self {
            hub_disk,
            box_disk,
            hub: None,
            mosquitto: None,
            boxes: BOXES.iter().map(|_| None).collect(),
            box_proxy,
            hub_proxy,
            broker,
            draw: Draw { seed, drawn: 0 },
            tally: Tally::default(),
            began: Timestamp::now(),
            world,
            _dir: dir,
        };
        ward.restart();
        ward.world.ready().await;
        ward
    }

    /// Starts whatever is dead.
    fn restart(&mut self) {
        if let Broker::Mosquitto { persistence } = self.broker
            && self.mosquitto.is_none()
        {
            self.mosquitto = Some(self.world.start_mosquitto(persistence));
        }
        if self.hub.is_none() {
            self.hub = Some(self.world.start_soon());
        }
        for n in 0..BOXES.len() {
            if self.boxes[n].is_none() {
                self.boxes[n] = Some(self.start_box(n));
            }
        }
    }

    fn start_box(&self, n: usize) -> Process {
        let (id, camera) = BOXES[n];
        let mut command = camnet();
        command.args(["load", "box", "--rate", &EVENTS_PER_BOX_S.to_string(), "--device", camera]);
        command.arg("--config").arg(self.world.dir.join(format!("{id}.toml")));
        command.arg("--ledger").arg(self.ledger(id));
        Process::start(&self.world.dir, id, &mut command)
    }

    /// Beside the box's folder: its disk may be full.
    fn ledger(&self, id: &str) -> PathBuf {
        self.world.dir.join(format!("{id}.ledger"))
    }

    /// Faults one after the other until `kills` processes were killed or it is `until`.
    async fn torment(&mut self, kills: u64, until: Instant) {
        let wanted = self.tally.kills + kills;
        while self.tally.kills < wanted && Instant::now() < until {
            tokio::time::sleep(self.draw.pause(200, 2500)).await;
            let fault = self.draw.fault();
            *self.tally.faults.entry(format!("{fault:?}")).or_default() += 1;
            self.strike(fault).await;
            self.check_alive();
            self.restart();
        }
    }

    async fn strike(&mut self, fault: Fault) {
        match fault {
            Fault::KillBox => {
                let n = self.draw.below(BOXES.len() as u64) as usize;
                self.kill(|ward| ward.boxes[n].take());
            }
            Fault::KillHub => self.kill(|ward| ward.hub.take()),
            Fault::KillBroker => self.kill_broker(),
            Fault::KillAll => {
                let n = self.draw.below(BOXES.len() as u64) as usize;
                self.kill(|ward| ward.hub.take());
                self.kill(|ward| ward.boxes[n].take());
                if self.mosquitto.is_some() {
                    self.kill_broker();
                }
            }
            Fault::ForgetBroker => {
                if let Some(mosquitto) = self.mosquitto.take() {
                    mosquitto.stop();
                    let _ = std::fs::remove_file(self.world.dir.join("mosquitto.db"));
                }
            }
            Fault::Link(mode) => self.disturb(mode, |ward| &ward.box_proxy).await,
            Fault::HubLink(mode) => self.disturb(mode, |ward| &ward.hub_proxy).await,
            Fault::FillHub => self.fill(|ward| &ward.hub_disk, |ward| ward.hub.take()).await,
            Fault::FillBox => self.fill(|ward| &ward.box_disk, |ward| ward.boxes[SMALL_BOX].take()).await,
        }
        // Dead for a moment or restarted at once.
        tokio::time::sleep(self.draw.pause(0, 1200)).await;
    }

    fn kill(&mut self, take: impl FnOnce(&mut Self) -> Option<Process>) {
        if let Some(process) = take(self) {
            process.kill9();
            self.tally.kills += 1;
        }
    }

    fn kill_broker(&mut self) {
        match self.broker {
            Broker::Embedded => self.kill(|ward| ward.hub.take()),
            Broker::Mosquitto { .. } => {
                self.kill(|ward| ward.mosquitto.take());
                if self.draw.below(2) == 0 {
                    let _ = std::fs::remove_file(self.world.dir.join("mosquitto.db"));
                }
            }
        }
    }

    async fn disturb(&mut self, mode: Mode, proxy: impl Fn(&Self) -> &Proxy) {
        proxy(self).set(mode);
        tokio::time::sleep(self.draw.pause(300, 3000)).await;
        proxy(self).set(Mode::Pass);
    }

    /// The disk is full for a while; now and then its user is killed meanwhile.
    async fn fill(
        &mut self,
        disk: impl Fn(&Self) -> &Option<SmallDisk>,
        user: impl FnOnce(&mut Self) -> Option<Process>,
    ) {
        let Some(full) = disk(self) else { return };
        full.fill();
        tokio::time::sleep(self.draw.pause(500, 3000)).await;
        if self.draw.below(3) == 0 {
            self.kill(user);
        }
        if let Some(full) = disk(self) {
            full.free();
        }
    }

    /// Nothing may end by itself, whatever was done to others.
    fn check_alive(&mut self) {
        let boxes = self.boxes.iter_mut().flatten();
        for process in boxes.chain(&mut self.hub).chain(&mut self.mosquitto) {
            if let Some(status) = process.ended() {
                panic!("{} ended by itself with {status}:\n{}", process.name(), process.log());
            }
        }
    }

    /// Lets the ward heal, waits for what is still owed, and counts.
    async fn settle(mut self) -> Tally {
        self.box_proxy.set(Mode::Pass);
        self.hub_proxy.set(Mode::Pass);
        self.restart();
        self.world.ready().await;
        // The same boxes, without load: what they still owe, they owe from before.
        for (n, (id, _)) in BOXES.into_iter().enumerate() {
            self.kill(|ward| ward.boxes[n].take());
            self.boxes[n] = Some(self.world.start_box(id));
        }
        let mut tally = std::mem::take(&mut self.tally);
        for (id, _) in BOXES {
            self.count(id, &mut tally).await;
        }
        for edge in self.boxes.drain(..).flatten() {
            edge.stop();
        }
        self.hub.take().unwrap().stop();
        tally
    }

    async fn count(&self, id: &str, tally: &mut Tally) {
        let box_dir = self.world.dir.join(id);
        let marks = ledger(&self.ledger(id));
        assert!(!marks.is_empty(), "{id} made no events");
        let deadline = Instant::now() + Duration::from_secs(150);
        loop {
            let indexed = self.indexed(id).await;
            let accepted = accepted(&box_dir);
            let lost: Vec<&String> = accepted.keys().filter(|id| !indexed.ids.contains_key(*id)).collect();
            let lost_marks: Vec<&String> =
                marks.iter().filter(|mark| !indexed.marks.contains_key(*mark)).collect();
            if lost.is_empty() && lost_marks.is_empty() || Instant::now() > deadline {
                let twice = indexed.ids.values().chain(indexed.marks.values()).filter(|&&count| count > 1);
                let held: BTreeSet<String> = accepted.values().map(place).collect();
                assert!(indexed.places.values().any(|at| held.contains(at)), "{id}: places are told alike");
                let is_invented = |&(event, at): &(&String, &String)| {
                    // A box whose disk was full has given up what the hub has: only its places can be asked.
                    let may_be_gone = id == BOXES[SMALL_BOX].0 && !held.contains(at);
                    !accepted.contains_key(event) && !may_be_gone
                };
                let invented: Vec<_> = indexed.places.iter().filter(is_invented).take(3).collect();
                assert!(
                    invented.is_empty(),
                    "{id}: in the index, but never accepted by the box: {invented:?}"
                );
                tally.duplicated += twice.count() as u64 + indexed.conflicts;
                tally.lost += lost.len().max(lost_marks.len()) as u64;
                tally.events += accepted.len() as u64;
                if !lost.is_empty() || !lost_marks.is_empty() {
                    self.tell_loss(id, &lost, &lost_marks).await;
                }
                return;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// What is needed to find out why.
    async fn tell_loss(&self, id: &str, lost: &[&String], marks: &[&String]) {
        let accepted = accepted(&self.world.dir.join(id));
        let few = |names: &[&String]| names.iter().take(3).map(|name| name.to_string()).collect::<Vec<_>>();
        eprintln!("{id}: {} lost, {} of the ledger, for instance {:?}", lost.len(), marks.len(), few(marks));
        let mut places = BTreeMap::<String, Vec<u64>>::new();
        for event in lost.iter().filter_map(|id| accepted.get(*id)) {
            let sequence = event["sequence"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0);
            places.entry(event["epoch"].to_string()).or_default().push(sequence);
        }
        for (epoch, sequences) in places {
            eprintln!(
                "  epoch {epoch}: {} from {:?} to {:?}",
                sequences.len(),
                sequences.iter().min(),
                sequences.iter().max()
            );
        }
        let boxes = self.world.get("/api/v1/boxes").await;
        let row = boxes["boxes"].as_array().and_then(|rows| rows.iter().find(|row| row["id"] == id));
        eprintln!("  the hub says: {}", row.map(ToString::to_string).unwrap_or_default());
        eprintln!("  set aside: {}", self.world.get(&format!("/api/v1/refused?box={id}&limit=3")).await);
        let keep = std::env::temp_dir().join(format!("camnet-chaos-{}", self.draw.seed));
        let copied = Command::new("cp").arg("-a").arg(&self.world.dir).arg(&keep).status();
        eprintln!("  the folder is kept: {} ({copied:?})", keep.display());
    }

    async fn indexed(&self, id: &str) -> Indexed {
        let from = self.began - jiff::SignedDuration::from_mins(1);
        let mut indexed = Indexed::default();
        for event in
            self.world.all(&format!("/api/v1/events?box={id}&from={from}&limit=1000"), "events").await
        {
            indexed.conflicts += u64::from(event["conflict"] == true);
            let name = event["id"].as_str().unwrap();
            *indexed.ids.entry(name.to_owned()).or_default() += 1;
            indexed.places.insert(name.to_owned(), place(&event));
            if let Some(mark) = mark(&event) {
                *indexed.marks.entry(mark).or_default() += 1;
            }
        }
        indexed
    }
}

/// What the index has of one box: how often each id and each mark.
#[derive(Default)]
struct Indexed {
    ids: BTreeMap<String, u64>,
    /// Where each id stands.
    places: BTreeMap<String, String>,
    marks: BTreeMap<String, u64>,
    conflicts: u64,
}

/// An event's epoch and sequence, however its sequence is written.
fn place(event: &Value) -> String {
    let sequence = match &event["sequence"] {
        Value::String(text) => text.parse().expect("a sequence"),
        number => number.as_u64().expect("a sequence"),
    };
    format!("{} {sequence}", event["epoch"].as_str().expect("an epoch"))
}

/// Whole lines only: a kill may have cut the last one, whose event then counts by the outbox's own files.
fn ledger(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(str::to_owned).collect()
}

/// The mark of an event as the API shows it, by way of the wire's own reader.
fn mark(shown: &serde_json::Value) -> Option<String> {
    let body = serde_json::json!({
        "specversion": "1.0", "id": shown["id"], "source": shown["source"], "type": shown["type"],
        "time": shown["time"], "epoch": shown["epoch"], "data": shown["data"],
        "sequence": format!("{:020}", shown["sequence"].as_u64()?),
    });
    let box_id = shown["box"].as_str()?.parse().ok()?;
    match wire::decode(&box_id, body.to_string().as_bytes()).remove(0) {
        Decoded::Event { event, .. } => mark_of(&event.data),
        Decoded::Refused(refusal) => panic!("the API shows what can't be read: {refusal:?}"),
    }
}

fn seed() -> u64 {
    match std::env::var("CAMNET_SOAK_SEED") {
        Ok(text) => text.parse().expect("CAMNET_SOAK_SEED is a number"),
        Err(_) => Timestamp::now().as_millisecond() as u64,
    }
}

async fn round(broker: Broker, seed: u64, kills: u64, until: Instant) -> Tally {
    println!("{broker:?}, seed {seed}");
    let mut ward = Ward::start(broker, seed).await;
    ward.torment(kills, until).await;
    ward.settle().await
}

#[tokio::test(flavor = "multi_thread")]
async fn six_kills_with_the_embedded_broker_lose_nothing() {
    let tally = round(Broker::Embedded, seed(), 6, Instant::now() + Duration::from_secs(60)).await;
    assert_eq!((tally.lost, tally.duplicated), (0, 0), "{tally:?}");
    assert!(tally.kills >= 3 && tally.events > 50, "{tally:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn six_kills_with_mosquitto_lose_nothing() {
    let broker = Broker::Mosquitto { persistence: seed().is_multiple_of(2) };
    let tally = round(broker, seed(), 6, Instant::now() + Duration::from_secs(60)).await;
    assert_eq!((tally.lost, tally.duplicated), (0, 0), "{tally:?}");
    assert!(tally.kills >= 3 && tally.events > 50, "{tally:?}");
}

/// `make soak MINUTES=n`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "runs for CAMNET_SOAK_MINUTES"]
async fn soak() {
    let minutes: u64 = std::env::var("CAMNET_SOAK_MINUTES").ok().and_then(|m| m.parse().ok()).unwrap_or(10);
    let (began, seed) = (Instant::now(), seed());
    let until = began + Duration::from_secs(60 * minutes);
    println!("soak of {minutes} min, seed {seed}");
    let brokers =
        [Broker::Embedded, Broker::Mosquitto { persistence: true }, Broker::Mosquitto { persistence: false }];
    let mut all = Tally::default();
    for n in 0.. {
        if Instant::now() >= until {
            break;
        }
        let tally = round(brokers[n % brokers.len()], mixed(seed, n as u64), KILLS_PER_ROUND, until).await;
        all.kills += tally.kills;
        all.events += tally.events;
        all.lost += tally.lost;
        all.duplicated += tally.duplicated;
        for (fault, count) in tally.faults {
            *all.faults.entry(fault).or_default() += count;
        }
        println!(
            "{:6.0} s  kills {}, events {}, lost {}, duplicated {}",
            began.elapsed().as_secs_f64(),
            all.kills,
            all.events,
            all.lost,
            all.duplicated
        );
    }
    println!("seed {seed}: {all:#?}");
    assert_eq!((all.lost, all.duplicated), (0, 0), "seed {seed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_cuts_stalls_and_leaves_half_open() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let echo = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::start(echo.local_addr().unwrap().port()).await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = echo.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    let connect = || tokio::net::TcpStream::connect(("127.0.0.1", proxy.port));
    let soon = Duration::from_millis(300);
    let mut buffer = [0; 2];

    let mut stream = connect().await.unwrap();
    stream.write_all(b"ab").await.unwrap();
    stream.read_exact(&mut buffer).await.unwrap();
    proxy.set(Mode::Stall);
    stream.write_all(b"cd").await.unwrap();
    assert!(tokio::time::timeout(soon, stream.read_exact(&mut buffer)).await.is_err(), "stalled");
    proxy.set(Mode::Pass);
    stream.read_exact(&mut buffer).await.unwrap();
    assert_eq!(&buffer, b"cd", "held, not lost");

    proxy.set(Mode::HalfOpen);

    stream.write_all(b"ef").await.unwrap();
    assert!(tokio::time::timeout(soon, stream.read_exact(&mut buffer)).await.is_err(), "swallowed");
    proxy.set(Mode::Pass);
    assert!(tokio::time::timeout(soon, stream.read_exact(&mut buffer)).await.is_err(), "dead for good");
    let mut other = connect().await.unwrap();
    other.write_all(b"gh").await.unwrap();
    other.read_exact(&mut buffer).await.unwrap();

    proxy.set(Mode::Cut);
    for stream in [&mut stream, &mut other] {
        assert_eq!(stream.read(&mut buffer).await.unwrap_or(0), 0, "closed");
    }
    assert_eq!(connect().await.unwrap().read(&mut buffer).await.unwrap_or(0), 0, "closed at once");
    assert_eq!(proxy.taken(), 3);
}
