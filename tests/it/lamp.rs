//! Lighting cabinets: the box's reader against real Modbus TCP servers, good and bad.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use camnet::demo::cabinet::{Cabinet, Circuit, MAP, MAP_FILE};
use camnet::edge::config::{CircuitConfig, LampAllowed, LampConfig};
use camnet::edge::lamp::plan::Plan;
use camnet::edge::lamp::{self, CABINET_UNREACHABLE, LampContext, MAP_WRONG, UNIT_FAILING, VALUE_ABSURD};
use camnet::edge::outbox::{Accept, Outbox};
use camnet::model::{
    ClockQuality, ClockSource, DeviceId, EventData, Fault, FaultPhase, Lamp, LampAct, LampReason, SyncState,
    Time,
};
use camnet::wire::{CommandOutcome, CommandResult, LampCommand};
use jiff::SignedDuration;
use prometheus::{Encoder, Registry, TextEncoder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::world::{root, wait_for};

const PATIENCE: Duration = Duration::from_secs(30);

fn shipped() -> PathBuf {
    root().join("config/cabinets").join(MAP_FILE)
}

fn clock() -> ClockQuality {
    ClockQuality { source: ClockSource::Box, sync: SyncState::Unknown, offset_ms: None, uncertainty_ms: None }
}

/// A box's reader of one cabinet; events and results are taken here instead of by the uplink.
struct Reader {
    events: mpsc::Receiver<Accept>,
    commands: mpsc::Sender<LampCommand>,
    results: mpsc::Receiver<CommandResult>,
    metrics: Registry,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Reader {
    fn start(config: LampConfig) -> Self {
        let plan = Plan::load(&config).unwrap();
        let (outbox, events) = Outbox::new();
        let (commands, command_queue) = mpsc::channel(16);
        let (result_queue, results) = mpsc::channel(16);
        let metrics = Registry::new();
        let context = LampContext {
            box_id: "box-01".parse().unwrap(),
            outbox,
            clock,
            metrics: lamp::Metrics::register(&metrics).unwrap(),
            commands: command_queue,
            results: result_queue,
        };
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(lamp::run(config, plan, context, shutdown.clone()));
        Self { events, commands, results, metrics, shutdown, task }
    }

    async fn next(&mut self) -> EventData {
        let accept = timeout(PATIENCE, self.events.recv()).await;
        let accept = accept.expect("an event comes").expect("the reader lives");
        accept.done.send(Ok(())).expect("the reader waits for the answer");
        accept.event.data
    }

    async fn next_lamp(&mut self) -> Lamp {
        match self.next().await {
            EventData::Lamp(lamp) => lamp,
            other => panic!("{other:?}"),
        }
    }

    async fn next_fault(&mut self) -> Fault {
        match self.next().await {
            EventData::Fault(fault) => fault,
            other => panic!("{other:?}"),
        }
    }

    /// The next events are this fault, and nothing else; its text has all of `words`.
    async fn fault(&mut self, name: &str, phase: FaultPhase, words: &[&str]) {
        let fault = self.next_fault().await;
        assert_eq!((fault.fault.as_str(), fault.phase), (name, phase), "{}", fault.detail);
        for word in words {
            assert!(fault.detail.contains(word), "{word:?} is not in {:?}", fault.detail);
        }
    }

    async fn command(&mut self, command: LampCommand) -> CommandResult {
        self.commands.send(command).await.unwrap();
        timeout(PATIENCE, self.results.recv()).await.expect("a result comes").expect("the reader lives")
    }

    /// A figure, as Prometheus shows it.
    fn figure(&self, line: &str) -> u64 {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.metrics.gather(), &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let found = text.lines().find_map(|found| found.strip_prefix(line));
        found.map_or(0, |value| value.trim().parse().unwrap())
    }

    async fn stop(self) {
        self.shutdown.cancel();
        timeout(Duration::from_secs(5), self.task).await.expect("it stops").expect("without panic");
    }
}

fn quick(config: LampConfig) -> LampConfig {
    let (poll, heartbeat) = (SignedDuration::from_millis(50), SignedDuration::from_secs(900));
    LampConfig { poll, heartbeat, answer: SignedDuration::from_millis(400), ..config }
}

fn command(correlation: &str, circuit: u16, act: LampAct) -> LampCommand {
    let now = Time::now();
    LampCommand {
        correlation: correlation.into(),
        device: "cab-01".parse().unwrap(),
        circuit,
        act,
        actor: "demo".into(),
        purpose: Some("thử đèn".into()),
        issued: now,
        valid_until: now + SignedDuration::from_secs(30),
    }
}

// --- against the demo's cabinet, by the shipped map ---

async fn cabinet(circuits: Vec<Circuit>) -> (Cabinet, LampConfig) {
    let cabinet = Cabinet::start(0, circuits).await.unwrap();
    let config = quick(cabinet.config("cab-01".parse::<DeviceId>().unwrap(), &shipped()));
    (cabinet, config)
}

#[tokio::test(flavor = "multi_thread")]
async fn values_changes_and_faults_are_reported_once() {
    // The fourth circuit hangs at a second meter.
    let sizes = [(12, 100.0), (8, 60.0), (1, 40.0), (2, 40.0)];
    let (cabinet, config) = cabinet(sizes.map(|(lamps, watts)| Circuit::new(lamps, watts)).to_vec()).await;
    let mut reader = Reader::start(config);
    for (number, power_w) in [(1, 1200.0), (2, 480.0), (3, 40.0), (4, 80.0)] {
        let lamp = reader.next_lamp().await;
        assert_eq!((lamp.circuit, lamp.on, lamp.power_w, &lamp.fault), (number, true, Some(power_w), &None));
        assert!((lamp.current_a.unwrap() - power_w / 218.5).abs() < 1e-5, "{lamp:?}");
        assert_eq!((lamp.voltage_v, lamp.power_factor, lamp.dim_percent), (Some(230.0), Some(0.95), None));
        let (own, all) = (lamp.energy_kwh.unwrap(), lamp.energy_total_kwh.unwrap());
        assert!(
            own >= 0.0 && (number == 4 && (all - own).abs() < 1e-6 || number < 4 && all > own),
            "{lamp:?}"
        );
    }
    cabinet.switch(1, false);
    let lamp = reader.next_lamp().await;
    assert_eq!((lamp.circuit, lamp.on, lamp.power_w), (2, false, Some(0.0)));
    cabinet.trip(1, true);
    assert_eq!(reader.next_lamp().await.fault.as_deref(), Some("cabinet_fault"));
    cabinet.trip(1, false);
    assert_eq!(reader.next_lamp().await.fault, None);
    // One lamp is less than a tenth of the power, so this comes from the fault alone.
    cabinet.fail_lamps(0, 1);
    let lamp = reader.next_lamp().await;
    assert_eq!(lamp.fault.as_deref(), Some("lamp_failure: 1 of 12 lamps"));
    assert_eq!((lamp.circuit, lamp.reason), (1, LampReason::Change));
    reader.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_comes_though_nothing_changes() {
    let (_cabinet, config) = cabinet(vec![Circuit::new(4, 50.0)]).await;
    let mut reader = Reader::start(LampConfig { heartbeat: SignedDuration::from_millis(300), ..config });
    let reasons = [reader.next_lamp().await.reason, reader.next_lamp().await.reason];
    assert_eq!(reasons, [LampReason::Change, LampReason::Heartbeat]);
    reader.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cabinet_that_goes_away_is_a_fault_until_it_is_back() {
    let (mut cabinet, config) = cabinet(vec![Circuit::new(4, 50.0)]).await;
    let address = cabinet.address().to_string();
    let mut reader = Reader::start(config);
    reader.next_lamp().await;
    for round in 0..2 {
        cabinet.disconnect().await;
        reader.fault(CABINET_UNREACHABLE, FaultPhase::Raised, &[&address]).await;
        cabinet.switch(0, round == 1);
        cabinet.reconnect().await.unwrap();
        // What changed meanwhile is told first, then that the cabinet answers.
        assert_eq!(reader.next_lamp().await.on, round == 1);
        reader.fault(CABINET_UNREACHABLE, FaultPhase::Cleared, &[&address]).await;
    }
    reader.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_map_that_is_not_the_cabinets_is_named_with_its_register() {
    let (_cabinet, config) = cabinet(vec![Circuit::new(4, 50.0)]).await;
    let dir = tempfile::tempdir().unwrap();
    let map = dir.path().join("wrong.toml");
    std::fs::write(&map, MAP.replace("address = 0x015A", "address = 0x0234")).unwrap();
    let mut reader = Reader::start(LampConfig { map, ..config });
    // Power and current stand elsewhere and are well.
    let lamp = reader.next_lamp().await;
    assert_eq!((lamp.power_w, lamp.energy_kwh), (Some(200.0), None));
    let words =
        ["input registers 564 to 565 of unit 1", "wrong.toml", "Illegal data address", "maker's manual"];
    reader.fault(MAP_WRONG, FaultPhase::Raised, &words).await;
    reader.stop().await;
}

// --- commands, as the cabinet's task takes them ---

/// A controller that dims, for the tests: holding registers from 100 on.
fn dimming_map() -> String {
    let dim = "[quantity.dim]\npart = \"relays\"\nfunction = \"holding_register\"\naddress = 100\nby = \"relay\"\n\
        stride = 1\ntype = \"u16\"\nscale = 0.5\nunit = \"%\"\n";
    let write = "\n[write.dim]\npart = \"relays\"\nfunction = \"holding_register\"\naddress = 100\nby = \"relay\"\n\
        stride = 1\nscale = 0.5\n";
    MAP.replace("[write.switch]", &format!("{dim}\n[write.switch]")) + write
}

const ON: LampAct = LampAct::Switch { on: true };
const OFF: LampAct = LampAct::Switch { on: false };

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_written_once_read_back_and_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let map = dir.path().join("dimming.toml");
    std::fs::write(&map, dimming_map()).unwrap();
    let circuits = vec![Circuit::new(4, 50.0); 4];
    let mut cabinet = Cabinet::start_with(0, circuits, &dimming_map()).await.unwrap();
    let config = quick(cabinet.config("cab-01".parse().unwrap(), &map));
    let mut reader =
        Reader::start(LampConfig { commands: vec![LampAllowed::Switch, LampAllowed::Dim], ..config });
    for _ in 0..4 {
        assert_eq!(reader.next_lamp().await.dim_percent, Some(100.0));
    }

    let off = command("c1", 1, OFF);
    reader.commands.send(off.clone()).await.unwrap();
    let lamp = reader.next_lamp().await;
    let told = lamp.command.clone().unwrap();
    assert_eq!((lamp.circuit, lamp.reason, lamp.on), (1, LampReason::Command, false));
    assert_eq!((told.correlation.as_str(), told.act, told.done), ("c1", OFF, true));
    assert_eq!((told.actor.as_str(), told.purpose.as_deref()), ("demo", Some("thử đèn")));
    let done = reader.results.recv().await.unwrap();
    assert_eq!((done.outcome, done.on, &done.why), (CommandOutcome::Ok, Some(false), &None));
    assert!(!cabinet.circuit(0).on);

    // The same again, as a broker may bring it: the same answer, and nothing is written.
    cabinet.switch(0, true);
    assert!(reader.next_lamp().await.on);
    let writes = cabinet.writes();
    assert_eq!(reader.command(off).await, done);
    assert!(cabinet.circuit(0).on);
    assert_eq!(cabinet.writes(), writes);
    let often = reader.command(command("c2", 1, OFF)).await;
    assert_eq!(often.outcome, CommandOutcome::Refused);
    assert!(often.why.unwrap().contains("too often"));
    assert_eq!(cabinet.writes(), writes);

    reader.commands.send(command("c3", 2, LampAct::Dim { percent: 40 })).await.unwrap();
    let lamp = reader.next_lamp().await;
    assert_eq!((lamp.reason, lamp.dim_percent, lamp.power_w), (LampReason::Command, Some(40.0), Some(80.0)));
    let done = reader.results.recv().await.unwrap();
    assert_eq!((done.outcome, done.dim_percent), (CommandOutcome::Ok, Some(40.0)));
    assert_eq!(cabinet.circuit(1).dim_percent, 40);

    // A cabinet on manual takes the write and does not follow: said, and recorded as not done.
    cabinet.change(2, |circuit| circuit.manual = true);
    reader.commands.send(command("c4", 3, OFF)).await.unwrap();
    let lamp = reader.next_lamp().await;
    assert_eq!((lamp.circuit, lamp.on, lamp.command.unwrap().done), (3, true, false));
    let failed = reader.results.recv().await.unwrap();
    assert_eq!((failed.outcome, failed.on), (CommandOutcome::Failed, Some(true)));

    // A cabinet that is away: nobody waits for ever, and nothing happens when it is back.
    cabinet.disconnect().await;
    reader.fault(CABINET_UNREACHABLE, FaultPhase::Raised, &[]).await;
    let writes = cabinet.writes();
    let failed = reader.command(command("c5", 4, OFF)).await;
    assert_eq!(failed.outcome, CommandOutcome::Failed);
    let why = failed.why.unwrap();
    assert!(why.contains("nothing written") && why.contains("can't be reached"), "{why}");
    cabinet.reconnect().await.unwrap();
    reader.fault(CABINET_UNREACHABLE, FaultPhase::Cleared, &[]).await;
    assert_eq!((cabinet.writes(), cabinet.circuit(3).on), (writes, true));
    assert_eq!(reader.figure("camnet_edge_lamp_commands_total{device=\"cab-01\",outcome=\"failed\"}"), 2);
    reader.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_word_in_the_configuration_nothing_is_written() {
    let (cabinet, config) = cabinet(vec![Circuit::new(4, 50.0)]).await;
    let mut reader = Reader::start(config.clone());
    reader.next_lamp().await;
    for (n, act) in [ON, OFF, LampAct::Dim { percent: 10 }].into_iter().enumerate() {
        let result = reader.command(command(&format!("c{n}"), 1, act)).await;
        assert_eq!(result.outcome, CommandOutcome::Refused);
        assert!(result.why.as_ref().unwrap().contains("is not allowed"), "{result:?}");
    }
    reader.stop().await;
    // Allowed, but the map knows no register for it.
    let mut reader = Reader::start(LampConfig { commands: vec![LampAllowed::Dim], ..config });
    reader.next_lamp().await;
    let result = reader.command(command("c1", 1, LampAct::Dim { percent: 10 })).await;
    assert_eq!(result.outcome, CommandOutcome::Refused);
    assert!(result.why.unwrap().contains("knows no register"));
    reader.stop().await;
    assert_eq!(cabinet.writes(), 0);
}

// --- against a server that does as a test says, down to the byte ---

/// A question that came in.
#[derive(Debug, Clone)]
struct Question {
    connection: u64,
    transaction: u16,
    unit: u8,
    pdu: Vec<u8>,
}

/// What the server does about a question, in order.
enum Step {
    Send(Vec<u8>),
    /// A slow device.
    Wait(Duration),
    Close,
}

impl Question {
    fn is(&self, function: u8, address: u16) -> bool {
        self.pdu[0] == function && self.pdu[1..3] == address.to_be_bytes()
    }

    fn count(&self) -> u16 {
        u16::from_be_bytes([self.pdu[3], self.pdu[4]])
    }
}

fn frame(transaction: u16, unit: u8, pdu: &[u8]) -> Vec<u8> {
    let length = (pdu.len() as u16 + 1).to_be_bytes();
    [&transaction.to_be_bytes()[..], &[0, 0], &length, &[unit], pdu].concat()
}

/// A Modbus TCP server of the tests' own.
struct Raw {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<(Instant, Question)>>>,
    task: JoinHandle<()>,
}

impl Raw {
    async fn start(answer: impl Fn(&Question) -> Vec<Step> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked: Arc<Mutex<Vec<(Instant, Question)>>> = Arc::default();
        let (log, answer) = (asked.clone(), Arc::new(answer));
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            for connection in 1.. {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(serve(stream, connection, log.clone(), answer.clone()));
            }
        });
        Self { address, asked, task }
    }

    /// One circuit: relay 1 of the board, phase 1 of the meter.
    fn config(&self, map: PathBuf) -> LampConfig {
        let circuit = CircuitConfig {
            circuit: 1,
            phase: Some(1),
            relay: Some(1),
            nominal_power_w: 1200.0,
            lamps: None,
            units: BTreeMap::new(),
        };
        quick(LampConfig {
            id: "cab-01".parse().unwrap(),
            address: self.address.to_string(),
            map,
            poll: SignedDuration::from_secs(1),
            heartbeat: SignedDuration::from_secs(900),
            answer: SignedDuration::from_secs(1),
            commands: Vec::new(),
            units: BTreeMap::new(),
            circuits: vec![circuit],
        })
    }

    fn asked(&self) -> Vec<(Instant, Question)> {
        self.asked.lock().unwrap().clone()
    }

    async fn wait_asked(&self, count: usize) {
        wait_for("questions", PATIENCE, || async { (self.asked().len() >= count).then_some(()) }).await;
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    mut stream: TcpStream,
    connection: u64,
    log: Arc<Mutex<Vec<(Instant, Question)>>>,
    answer: Arc<impl Fn(&Question) -> Vec<Step>>,
) {
    let mut header = [0; 7];
    while stream.read_exact(&mut header).await.is_ok() {
        let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let mut pdu = vec![0; length - 1];
        if stream.read_exact(&mut pdu).await.is_err() {
            return;
        }
        let transaction = u16::from_be_bytes([header[0], header[1]]);
        let question = Question { connection, transaction, unit: header[6], pdu };
        log.lock().unwrap().push((Instant::now(), question.clone()));
        for step in answer(&question) {
            match step {
                Step::Wait(time) => tokio::time::sleep(time).await,
                Step::Close => return,
                Step::Send(bytes) => {
                    if stream.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

/// What a good SDM630 and relay board answer. The numbers of the registers are typed from the meter's manual, not taken
/// from the map: 30001, 30007, 30013, 30031, 30073, 30347 are 0x0000, 0x0006, 0x000C, 0x001E, 0x0048, 0x015A.
fn good(question: &Question, power_w: f32) -> Vec<u8> {
    let mut input: BTreeMap<u16, u16> = (0x0000..0x002A).map(|address| (address, 0)).collect();
    let values = [
        (0x0000, 231.5),
        (0x0006, 5.5),
        (0x000C, power_w),
        (0x001E, 0.97),
        (0x0048, 4321.0),
        (0x015A, 1234.5),
    ];
    for (address, value) in values {
        let bits = f32::to_bits(value);
        input.extend([(address, (bits >> 16) as u16), (address + 1, bits as u16)]);
    }
    let address = u16::from_be_bytes([question.pdu[1], question.pdu[2]]);
    match (question.unit, question.pdu[0]) {
        (10, 1) => vec![1, 1, 1],
        (10, 2) => vec![2, 1, 0],
        (1, 4) => {
            let words = (address..address + question.count()).map(|address| input.get(&address));
            match words.collect::<Option<Vec<_>>>() {
                Some(words) => {
                    let bytes = words.iter().flat_map(|word| word.to_be_bytes());
                    [4, 2 * words.len() as u8].into_iter().chain(bytes).collect()
                }
                None => vec![0x84, 2],
            }
        }
        (_, function) => vec![function | 0x80, 1],
    }
}

fn reply(question: &Question, pdu: Vec<u8>) -> Vec<Step> {
    vec![Step::Send(frame(question.transaction, question.unit, &pdu))]
}

/// What a trap's answers say; it must never be read.
const POISON_W: f32 = 666.0;

#[tokio::test(flavor = "multi_thread")]
async fn the_shipped_map_reads_a_meter_by_its_manual() {
    let raw = Raw::start(|question| reply(question, good(question, 1200.0))).await;
    let mut reader = Reader::start(raw.config(shipped()));
    let lamp = reader.next_lamp().await;
    assert_eq!((lamp.on, lamp.current_a, lamp.power_w, &lamp.fault), (true, Some(5.5), Some(1200.0), &None));
    assert_eq!((lamp.voltage_v, lamp.power_factor), (Some(231.5), Some(0.97)));
    assert_eq!((lamp.energy_kwh, lamp.energy_total_kwh), (Some(1234.5), Some(4321.0)));
    raw.wait_asked(10).await;
    let asked: Vec<_> = raw.asked()[..5]
        .iter()
        .map(|(_, q)| (q.unit, q.pdu[0], u16::from_be_bytes([q.pdu[1], q.pdu[2]]), q.count()))
        .collect();
    assert_eq!(asked, [(1, 4, 0, 32), (1, 4, 0x48, 2), (1, 4, 0x15A, 2), (10, 1, 0, 1), (10, 2, 0, 1)]);
    reader.stop().await;
}

/// Answers by which nothing may be learnt: the connection is given up, the cabinet told as unreachable, and nothing of
/// it is reported. All of them hold the poison, where they hold anything.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_does_not_fit_is_never_believed() {
    type Trap = fn(&Question) -> Vec<Step>;
    let traps: [(&str, Trap, &str); 9] = [
        ("silence", |_| vec![Step::Wait(Duration::from_millis(800))], "did not answer within 400 ms"),
        (
            "another transaction",
            |q| vec![Step::Send(frame(q.transaction.wrapping_sub(1), q.unit, &good(q, POISON_W)))],
            "fits no question",
        ),
        (
            "another unit",
            |q| vec![Step::Send(frame(q.transaction, q.unit + 1, &good(q, POISON_W)))],
            "fits no question",
        ),
        (
            "too few values",
            |q| {
                let pdu =
                    good(&Question { pdu: [&q.pdu[..4], &[q.pdu[4] / 2]].concat(), ..q.clone() }, POISON_W);
                reply(q, if q.pdu[0] == 4 { pdu } else { vec![q.pdu[0], 0] })
            },
            "values were asked for",
        ),
        (
            "too many values",
            |q| {
                let pdu =
                    good(&Question { pdu: [&q.pdu[..4], &[q.pdu[4] + 2]].concat(), ..q.clone() }, POISON_W);
                reply(q, if q.is(4, 0) { pdu } else { vec![q.pdu[0], 2, 1, 1] })
            },
            "fits no question",
        ),
        ("another function", |q| reply(q, [&[3], &good(q, POISON_W)[1..]].concat()), "another function"),
        (
            "another protocol",
            |q| {
                let mut bytes = frame(q.transaction, q.unit, &good(q, POISON_W));
                bytes[3] = 7;
                vec![Step::Send(bytes)]
            },
            "fits no question",
        ),
        ("closed", |_| vec![Step::Close], "broke off the connection"),
        (
            "closed in the middle",
            |q| {
                let bytes = frame(q.transaction, q.unit, &good(q, POISON_W));
                vec![Step::Send(bytes[..bytes.len() - 1].to_vec()), Step::Close]
            },
            "",
        ),
    ];
    for (name, trap, words) in traps {
        let is_well = Arc::new(AtomicBool::new(false));
        let well = is_well.clone();
        let raw = Raw::start(move |question| match well.load(Ordering::SeqCst) {
            true => reply(question, good(question, 1200.0)),
            false => trap(question),
        })
        .await;
        let mut reader = Reader::start(raw.config(shipped()));
        eprintln!("trap: {name}");
        reader.fault(CABINET_UNREACHABLE, FaultPhase::Raised, &[words, &raw.address.to_string()]).await;
        is_well.store(true, Ordering::SeqCst);
        assert_eq!(reader.next_lamp().await.power_w, Some(1200.0), "{name}");
        reader.fault(CABINET_UNREACHABLE, FaultPhase::Cleared, &[]).await;
        reader.stop().await;
    }
}

/// The answer to a question comes after its deadline, while the next is waited for.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_answer_is_not_taken_for_the_next() {
    let late = Arc::new(AtomicU64::new(0));
    let count = late.clone();
    let raw = Raw::start(move |question| {
        let poison = frame(question.transaction, question.unit, &good(question, POISON_W));
        let fresh = frame(question.transaction, question.unit, &good(question, 1200.0));
        // The first power reading of each of the first three connections is late; then, on the same connection, anything
        // that is asked would find it waiting.
        if question.is(4, 0) && question.connection <= 3 {
            count.fetch_add(1, Ordering::SeqCst);
            return vec![Step::Wait(Duration::from_millis(600)), Step::Send(poison), Step::Send(fresh)];
        }
        vec![Step::Send(fresh)]
    })
    .await;
    let mut reader = Reader::start(raw.config(shipped()));
    // The relay board answered: it is the meter that fails, not the cabinet.
    let mut lamps = Vec::new();
    while lamps.is_empty() {
        match reader.next().await {
            EventData::Lamp(lamp) => lamps.push(lamp),
            EventData::Fault(fault) => assert_ne!(fault.fault, VALUE_ABSURD, "{}", fault.detail),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(lamps[0].power_w, Some(1200.0));
    assert!(late.load(Ordering::SeqCst) >= 2, "there were late answers");
    // Whatever was asked after a late answer was asked on another connection.
    let asked = raw.asked();
    for pair in asked.windows(2) {
        let ((_, before), (_, after)) = (&pair[0], &pair[1]);
        if before.is(4, 0) && before.connection <= 3 {
            assert!(after.connection > before.connection, "{before:?} then {after:?}");
        }
    }
    reader.stop().await;
}

/// A write whose answer is lost may have switched all the same: who asked is on record with the next reading.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_without_an_answer_is_reported_when_the_cabinet_shows_it() {
    let is_on = Arc::new(AtomicBool::new(true));
    let on = is_on.clone();
    let raw = Raw::start(move |question| match question.pdu[0] {
        5 => {
            on.store(question.pdu[3] == 0xff, Ordering::SeqCst);
            vec![Step::Close]
        }
        1 => reply(question, vec![1, 1, u8::from(on.load(Ordering::SeqCst))]),
        _ => reply(question, good(question, 1200.0)),
    })
    .await;
    let mut reader =
        Reader::start(LampConfig { commands: vec![LampAllowed::Switch], ..raw.config(shipped()) });
    assert!(reader.next_lamp().await.on);
    let failed = reader.command(command("c1", 1, OFF)).await;
    assert_eq!(failed.outcome, CommandOutcome::Failed);
    assert!(failed.why.unwrap().contains("whether it was done shows"));
    let lamp = reader.next_lamp().await;
    assert_eq!((lamp.reason, lamp.on), (LampReason::Command, false));
    assert!(lamp.command.unwrap().done);
    assert_eq!(raw.asked().iter().filter(|(_, q)| q.pdu[0] == 5).count(), 1, "it is not written again");
    reader.stop().await;
}

/// Gateways close connections that idle: neither readings nor commands may suffer.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_closes_idle_connections_is_no_fault() {
    let is_on = Arc::new(AtomicBool::new(true));
    let on = is_on.clone();
    let raw = Raw::start(move |question| {
        let mut steps = match question.pdu[0] {
            5 => {
                on.store(question.pdu[3] == 0xff, Ordering::SeqCst);
                reply(question, question.pdu.clone())
            }
            1 => reply(question, vec![1, 1, u8::from(on.load(Ordering::SeqCst))]),
            _ => reply(question, good(question, 1200.0)),
        };
        // After the last question of a reading.
        steps.extend((question.pdu[0] == 2).then_some(Step::Close));
        steps
    })
    .await;
    let mut reader =
        Reader::start(LampConfig { commands: vec![LampAllowed::Switch], ..raw.config(shipped()) });
    assert!(reader.next_lamp().await.on);
    raw.wait_asked(20).await;
    reader.commands.send(command("c1", 1, OFF)).await.unwrap();
    let lamp = reader.next_lamp().await;
    assert_eq!((lamp.reason, lamp.on), (LampReason::Command, false));
    assert_eq!(reader.results.recv().await.unwrap().outcome, CommandOutcome::Ok);
    raw.wait_asked(40).await;
    assert!(raw.asked().last().unwrap().1.connection >= 4, "it connects again and again");
    assert!(reader.events.try_recv().is_err(), "and says nothing of it");
    reader.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_cabinet_is_asked_again_and_told_when_it_stays_so() {
    // 5 is "acknowledge", 6 "server device busy".
    for code in [5, 6] {
        let is_well = Arc::new(AtomicBool::new(true));
        let (well, asked) = (is_well.clone(), AtomicU64::new(0));
        let raw = Raw::start(move |question| {
            let n = asked.fetch_add(1, Ordering::SeqCst);
            let is_busy = question.pdu[0] == 4 && !(well.load(Ordering::SeqCst) && n % 2 == 1);
            reply(question, if is_busy { vec![0x84, code] } else { good(question, 1200.0) })
        })
        .await;
        let mut reader = Reader::start(raw.config(shipped()));
        // Every second try is answered: a reading without a fault.
        assert_eq!(reader.next_lamp().await.power_w, Some(1200.0));
        is_well.store(false, Ordering::SeqCst);
        reader.fault(UNIT_FAILING, FaultPhase::Raised, &["still busy", "unit 1"]).await;
        is_well.store(true, Ordering::SeqCst);
        reader.fault(UNIT_FAILING, FaultPhase::Cleared, &[]).await;
        assert_eq!(raw.asked().iter().map(|(_, q)| q.connection).max(), Some(1), "the connection is kept");
        reader.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_unit_costs_only_its_own_circuits() {
    let raw = Raw::start(|question| match question.unit {
        2 => vec![Step::Wait(Duration::from_millis(500))],
        _ => reply(question, good(question, 1200.0)),
    })
    .await;
    let mut config = raw.config(shipped());
    let second = CircuitConfig {
        circuit: 2,
        units: BTreeMap::from([("meter".to_owned(), 2)]),
        ..config.circuits[0].clone()
    };
    config.circuits.insert(0, second);
    let mut reader = Reader::start(config);
    let lamp = reader.next_lamp().await;
    assert_eq!((lamp.circuit, lamp.power_w), (1, Some(1200.0)));
    reader.fault(UNIT_FAILING, FaultPhase::Raised, &["of unit 2", "did not answer"]).await;
    // One deadline a round, not one for each of its registers.
    let asked = raw.asked();
    let rounds = asked.iter().filter(|(_, q)| q.unit == 10 && q.pdu[0] == 1).count();
    let silences = asked.iter().filter(|(_, q)| q.unit == 2).count();
    assert!(silences <= rounds + 1, "{silences} questions to the silent unit in {rounds} rounds");
    reader.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_make_no_sense_are_counted_and_not_reported() {
    for (power_w, hex) in [(f32::NAN, "7fc0 0000"), (f32::INFINITY, "7f80 0000"), (1e30, "7149 f2ca")] {
        let is_well = Arc::new(AtomicBool::new(false));
        let well = is_well.clone();
        let raw = Raw::start(move |question| {
            let power_w = if well.load(Ordering::SeqCst) { 1200.0 } else { power_w };
            reply(question, good(question, power_w))
        })
        .await;
        let mut reader = Reader::start(raw.config(shipped()));
        reader
            .fault(
                VALUE_ABSURD,
                FaultPhase::Raised,
                &["circuit 1: power in input register 12", hex, MAP_FILE],
            )
            .await;
        assert!(reader.figure("camnet_edge_lamp_absurd_values_total{device=\"cab-01\"}") >= 3);
        is_well.store(true, Ordering::SeqCst);
        assert_eq!(reader.next_lamp().await.power_w, Some(1200.0));
        reader.fault(VALUE_ABSURD, FaultPhase::Cleared, &[]).await;
        reader.stop().await;
    }
}

/// 3 s for each answer: it is read in the end, it rests as long as it worked, and another cabinet notices nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_cabinet_is_read_less_often_and_holds_up_nobody() {
    let slow = Raw::start(|question| {
        let mut steps = vec![Step::Wait(Duration::from_secs(3))];
        steps.extend(reply(question, good(question, 1200.0)));
        steps
    })
    .await;
    let quick_one = Raw::start(|question| reply(question, good(question, 1200.0))).await;
    let dir = tempfile::tempdir().unwrap();
    let map = dir.path().join("small.toml");
    let optional = ["voltage", "power_factor", "energy", "energy_total", "fault"];
    let sections = MAP
        .split("\n[")
        .filter(|section| !optional.iter().any(|q| section.starts_with(&format!("quantity.{q}]"))));
    std::fs::write(&map, sections.collect::<Vec<_>>().join("\n[")).unwrap();
    let answer = SignedDuration::from_secs(10);
    let mut slow_reader = Reader::start(LampConfig { answer, ..slow.config(map.clone()) });
    let mut quick_reader = Reader::start(quick_one.config(map));
    assert_eq!(quick_reader.next_lamp().await.power_w, Some(1200.0));
    assert_eq!(slow_reader.next_lamp().await.power_w, Some(1200.0), "read in spite of all");
    slow.wait_asked(3).await;
    let times: Vec<Instant> = slow.asked().iter().map(|(at, _)| *at).collect();
    let round = times[2] - times[0];
    assert!(round >= Duration::from_secs(11), "two answers of 3 s and as long a rest: {round:?}");
    let quick_times: Vec<Instant> =
        quick_one.asked().iter().map(|(at, _)| *at).filter(|at| *at < times[2]).collect();
    let longest = quick_times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(quick_times.len() > 40 && longest < Duration::from_secs(3), "{} {longest:?}", quick_times.len());
    // Whoever commands a slow cabinet waits for one answer, not for the round.
    let began = Instant::now();
    let refused = slow_reader.command(command("c1", 1, ON)).await;
    assert_eq!(refused.outcome, CommandOutcome::Refused);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    slow_reader.stop().await;
    quick_reader.stop().await;
}
