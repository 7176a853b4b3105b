//! Reads a lighting cabinet over Modbus TCP and reports by exception, with a slow heartbeat.
//!
//! Owns the connection to one cabinet and what was last said of each of its circuits. [`Lamps`] is
//! the part that decides, without I/O or clock; [`run`] is the retry loop. May not switch lamps.

use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_modbus::client::{Context, Reader, tcp};
use tokio_modbus::{ExceptionCode, Slave};
use tokio_util::sync::CancellationToken;

use super::config::{CircuitConfig, LampConfig};
use super::outbox::{NewEvent, Outbox, OutboxError};
use crate::limits::{BACKOFF_FIRST, BACKOFF_MAX, MODBUS_ANSWER_MAX, MODBUS_CONNECT_MAX};
use crate::model::{BoxId, ClockQuality, EventData, Fault, FaultPhase, Lamp, LampReason, Time};

/// Name of the fault that says that the cabinet does not answer.
pub const CABINET_UNREACHABLE: &str = "lamp_cabinet_unreachable";

/// Power that changes by more than this share of what was last reported, and by more than
/// [`POWER_CHANGE_W`], is reported.
const POWER_CHANGE_SHARE: f64 = 0.10;
const POWER_CHANGE_W: f64 = 5.0;
/// Lamps have failed when more than this share of the nominal power is missing: one of twelve shows.
const MISSING_SHARE: f64 = 0.07;
/// And are mended when less than this is missing.
const MENDED_SHARE: f64 = 0.04;
/// The same as shares of one lamp's power, where the number of lamps is known.
const MISSING_OF_A_LAMP: f64 = 0.6;
const MENDED_OF_A_LAMP: f64 = 0.4;
/// Below this share of the nominal power the circuit has no supply; above it a switched-off circuit
/// is not off.
const RESIDUAL_SHARE: f64 = 0.05;
/// Lamps need this long to reach their power, or to lose it.
const SETTLE: Duration = Duration::from_secs(5);
/// Steps of the current register, in amperes.
const CURRENT_STEP_A: f64 = 0.01;

/// What the cabinet says of one circuit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    pub on: bool,
    pub current_a: f64,
    pub power_w: f64,
    /// The cabinet's own fault contact.
    pub contact: bool,
}

/// Decides what of a cabinet's readings is worth an event.
pub struct Lamps {
    heartbeat: Duration,
    circuits: Vec<Circuit>,
}

struct Circuit {
    number: u16,
    nominal_w: f64,
    /// Power of one lamp, where the configuration says how many there are.
    lamp_w: Option<f64>,
    /// When it was last switched, as far as seen.
    switched: Option<(bool, Instant)>,
    fault: Option<CircuitFault>,
    reported: Option<Reported>,
}

struct Reported {
    at: Instant,
    on: bool,
    power_w: f64,
    fault: Option<CircuitFault>,
}

/// What is wrong with a circuit. Its name is fixed; see `fault_text`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CircuitFault {
    Contact,
    SupplyLoss,
    LampFailure,
    OnWhenOff,
}

impl Lamps {
    pub fn new(config: &LampConfig) -> Self {
        let circuit = |c: &CircuitConfig| Circuit {
            number: c.circuit,
            nominal_w: c.nominal_power_w,
            lamp_w: c.lamps.filter(|&lamps| lamps > 0).map(|lamps| c.nominal_power_w / f64::from(lamps)),
            switched: None,
            fault: None,
            reported: None,
        };
        let heartbeat = Duration::try_from(config.heartbeat).unwrap_or_default();
        Self { heartbeat, circuits: config.circuits.iter().map(circuit).collect() }
    }

    /// Takes a reading of the circuit at `index`; says what is to be reported, if anything.
    pub fn observe(&mut self, index: usize, reading: Reading, now: Instant) -> Option<Lamp> {
        let circuit = &mut self.circuits[index];
        circuit.judge(reading, now);
        let reason = circuit.reason(reading, now, self.heartbeat)?;
        let fault = circuit.fault;
        circuit.reported = Some(Reported { at: now, on: reading.on, power_w: reading.power_w, fault });
        Some(Lamp {
            circuit: circuit.number,
            reason,
            on: reading.on,
            current_a: reading.current_a,
            power_w: reading.power_w,
            fault: fault.map(|fault| circuit.fault_text(fault, reading.power_w)),
        })
    }

    /// The last report of this circuit was not taken: it is due again.
    pub fn not_reported(&mut self, index: usize) {
        self.circuits[index].reported = None;
    }
}

impl Circuit {
    fn judge(&mut self, reading: Reading, now: Instant) {
        match self.switched {
            Some((on, _)) if on == reading.on => {}
            // How long it was so before the first look is not known: let it settle.
            _ => self.switched = Some((reading.on, now)),
        }
        let settled = self.switched.is_some_and(|(_, since)| now - since >= SETTLE);
        self.fault = match (reading.contact, settled) {
            (true, _) => Some(CircuitFault::Contact),
            (false, true) => self.judge_power(reading),
            // What is measured while it settles says nothing; what was wrong before is past.
            (false, false) => None,
        };
    }

    fn judge_power(&self, reading: Reading) -> Option<CircuitFault> {
        let residual_w = self.nominal_w * RESIDUAL_SHARE;
        if !reading.on {
            return (reading.power_w > residual_w.max(POWER_CHANGE_W)).then_some(CircuitFault::OnWhenOff);
        }
        if reading.power_w < residual_w {
            return Some(CircuitFault::SupplyLoss);
        }
        let has_failed = self.fault == Some(CircuitFault::LampFailure);
        let (share, of_a_lamp) =
            if has_failed { (MENDED_SHARE, MENDED_OF_A_LAMP) } else { (MISSING_SHARE, MISSING_OF_A_LAMP) };
        let tolerated_w = self.lamp_w.map_or(self.nominal_w * share, |lamp_w| lamp_w * of_a_lamp);
        (self.nominal_w - reading.power_w > tolerated_w).then_some(CircuitFault::LampFailure)
    }

    /// A fixed name; for missing power a colon and how much follow.
    fn fault_text(&self, fault: CircuitFault, power_w: f64) -> String {
        let missing_w = self.nominal_w - power_w;
        match (fault, self.lamp_w) {
            (CircuitFault::Contact, _) => "cabinet_fault".into(),
            (CircuitFault::SupplyLoss, _) => "supply_loss".into(),
            (CircuitFault::OnWhenOff, _) => "on_when_off".into(),
            (CircuitFault::LampFailure, None) => {
                format!("lamp_failure: {missing_w:.0} W of {:.0} W missing", self.nominal_w)
            }
            (CircuitFault::LampFailure, Some(lamp_w)) => {
                let (failed, all) = (missing_w / lamp_w, self.nominal_w / lamp_w);
                format!("lamp_failure: {failed:.0} of {all:.0} lamps")
            }
        }
    }

    fn reason(&self, reading: Reading, now: Instant, heartbeat: Duration) -> Option<LampReason> {
        let Some(last) = &self.reported else { return Some(LampReason::Change) };
        let power_changed =
            (reading.power_w - last.power_w).abs() > (last.power_w * POWER_CHANGE_SHARE).max(POWER_CHANGE_W);
        if reading.on != last.on || self.fault != last.fault || power_changed {
            Some(LampReason::Change)
        } else {
            (now - last.at >= heartbeat).then_some(LampReason::Heartbeat)
        }
    }
}

/// Reads the cabinet until shutdown; reconnects with growing pauses.
pub async fn run(
    lamp: LampConfig,
    box_id: BoxId,
    outbox: Outbox,
    clock: fn() -> ClockQuality,
    shutdown: CancellationToken,
) {
    let lamps = Lamps::new(&lamp);
    let mut cabinet = Cabinet { config: lamp, lamps, outbox, clock, unreachable: false };
    let mut backoff = BACKOFF_FIRST;
    loop {
        let mut answered = false;
        let error = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            error = cabinet.run_once(&mut answered) => error,
        };
        if matches!(error, LampError::Outbox(OutboxError::Closed)) {
            return;
        }
        tracing::warn!(
            box_id = %box_id, device = %cabinet.config.id, address = cabinet.config.address,
            error = &error as &dyn std::error::Error, "lamp cabinet not read"
        );
        if answered {
            backoff = BACKOFF_FIRST;
        }
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = async { cabinet.say_unreachable(&error).await; sleep(backoff).await } => {}
        }
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

/// Why the cabinet was not read.
#[derive(Debug, thiserror::Error)]
enum LampError {
    #[error("lamp cabinet {address} can't be reached")]
    Connect { address: String, source: std::io::Error },
    #[error("lamp cabinet {address} did not answer within {waited_ms} ms")]
    Silent { address: String, waited_ms: u128 },
    #[error("lamp cabinet {address} broke off")]
    Broken { address: String, source: tokio_modbus::Error },
    #[error("lamp cabinet {address} refuses {what} {number} of circuit {circuit}: {code}")]
    Refused { address: String, circuit: u16, what: &'static str, number: u16, code: ExceptionCode },
    #[error("event not accepted")]
    Outbox(#[from] OutboxError),
}

struct Cabinet {
    config: LampConfig,
    lamps: Lamps,
    outbox: Outbox,
    clock: fn() -> ClockQuality,
    /// The hub was told that the cabinet does not answer.
    unreachable: bool,
}

impl Cabinet {
    /// One connection, read until it breaks. Sets `answered` once every circuit was read.
    async fn run_once(&mut self, answered: &mut bool) -> LampError {
        match self.connection(answered).await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn connection(&mut self, answered: &mut bool) -> Result<std::convert::Infallible, LampError> {
        let mut modbus = self.connect().await?;
        let period = Duration::try_from(self.config.poll).unwrap_or_default().max(Duration::from_millis(50));
        let mut poll = interval(period);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            poll.tick().await;
            for index in 0..self.config.circuits.len() {
                let reading = read(&mut modbus, &self.config.address, &self.config.circuits[index]).await?;
                self.take(index, reading).await?;
            }
            *answered = true;
            self.say_reachable().await?;
        }
    }

    async fn connect(&self) -> Result<Context, LampError> {
        let address = self.config.address.clone();
        let failed = |source| LampError::Connect { address: address.clone(), source };
        let connect = tokio::net::TcpStream::connect(&self.config.address);
        let stream = timeout(MODBUS_CONNECT_MAX, connect)
            .await
            .map_err(|_| silent(&address, MODBUS_CONNECT_MAX))?
            .map_err(failed)?;
        Ok(tcp::attach_slave(stream, Slave(self.config.unit)))
    }

    async fn take(&mut self, index: usize, reading: Reading) -> Result<(), LampError> {
        let Some(lamp) = self.lamps.observe(index, reading, Instant::now()) else { return Ok(()) };
        match self.accept(EventData::Lamp(lamp)).await {
            Ok(()) => Ok(()),
            Err(OutboxError::Closed) => Err(OutboxError::Closed.into()),
            Err(error) => {
                // The cabinet is well; the event is due again with the next reading.
                self.lamps.not_reported(index);
                tracing::error!(device = %self.config.id, %error, "lamp event not accepted");
                Ok(())
            }
        }
    }

    async fn say_unreachable(&mut self, error: &LampError) {
        if self.unreachable {
            return;
        }
        let mut detail = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            detail = format!("{detail}: {cause}");
            source = cause.source();
        }
        self.unreachable = self.say(FaultPhase::Raised, detail).await.is_ok();
    }

    async fn say_reachable(&mut self) -> Result<(), LampError> {
        if self.unreachable {
            let detail = format!("lamp cabinet {} answers again", self.config.address);
            self.say(FaultPhase::Cleared, detail).await?;
            self.unreachable = false;
        }
        Ok(())
    }

    async fn say(&self, phase: FaultPhase, detail: String) -> Result<(), OutboxError> {
        self.accept(EventData::Fault(Fault { fault: CABINET_UNREACHABLE.into(), phase, detail })).await
    }

    async fn accept(&self, data: EventData) -> Result<(), OutboxError> {
        let device = Some(self.config.id.clone());
        self.outbox.accept(NewEvent { device, time: Time::now(), clock: (self.clock)(), data }).await
    }
}

async fn read(modbus: &mut Context, address: &str, circuit: &CircuitConfig) -> Result<Reading, LampError> {
    let ask = Ask { address, circuit: circuit.circuit };
    let on = ask.first("coil", circuit.on_coil, modbus.read_coils(circuit.on_coil, 1)).await?;
    let (current, power) = (circuit.current_register, circuit.power_register);
    let current = ask.first("input register", current, modbus.read_input_registers(current, 1)).await?;
    let power = ask.first("input register", power, modbus.read_input_registers(power, 1)).await?;
    let contact = match circuit.fault_input {
        Some(input) => ask.first("discrete input", input, modbus.read_discrete_inputs(input, 1)).await?,
        None => false,
    };
    let current_a = f64::from(current) * CURRENT_STEP_A;
    Ok(Reading { on, current_a, power_w: f64::from(power), contact })
}

/// Who is asked, for the errors.
struct Ask<'a> {
    address: &'a str,
    circuit: u16,
}

impl Ask<'_> {
    async fn first<T: Copy>(
        &self,
        what: &'static str,
        number: u16,
        answer: impl Future<Output = tokio_modbus::Result<Vec<T>>>,
    ) -> Result<T, LampError> {
        let address = || self.address.to_string();
        let refused =
            |code| LampError::Refused { address: address(), circuit: self.circuit, what, number, code };
        let values = timeout(MODBUS_ANSWER_MAX, answer)
            .await
            .map_err(|_| silent(self.address, MODBUS_ANSWER_MAX))?
            .map_err(|source| LampError::Broken { address: address(), source })?
            .map_err(refused)?;
        values.first().copied().ok_or_else(|| refused(ExceptionCode::IllegalDataAddress))
    }
}

fn silent(address: &str, waited: Duration) -> LampError {
    LampError::Silent { address: address.to_string(), waited_ms: waited.as_millis() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(circuits: Vec<CircuitConfig>, address: String) -> LampConfig {
        LampConfig {
            id: "cab-01".parse().unwrap(),
            address,
            unit: 1,
            poll: jiff::SignedDuration::from_millis(50),
            heartbeat: jiff::SignedDuration::from_secs(900),
            circuits,
        }
    }

    fn circuit(nominal_power_w: f64) -> CircuitConfig {
        CircuitConfig {
            circuit: 3,
            on_coil: 0,
            current_register: 0,
            power_register: 1,
            fault_input: None,
            nominal_power_w,
            lamps: None,
        }
    }

    #[test]
    fn where_the_number_of_lamps_is_known_one_failed_lamp_shows() {
        let mut lamps =
            Lamps::new(&config(vec![CircuitConfig { lamps: Some(40), ..circuit(1600.0) }], String::new()));
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        lamps.observe(0, reading(true, 1600.0), at(0)).unwrap();
        assert_eq!(lamps.observe(0, reading(true, 1580.0), at(10)), None, "half a lamp is the meter's error");
        let report = lamps.observe(0, reading(true, 1560.0), at(20)).unwrap();
        assert_eq!(report.fault.as_deref(), Some("lamp_failure: 1 of 40 lamps"));
        assert_eq!(lamps.observe(0, reading(true, 1560.0), at(21)), None, "said once");
        let report = lamps.observe(0, reading(true, 1599.0), at(30)).unwrap();
        assert_eq!(report.fault, None, "mended");
    }

    fn reading(on: bool, power_w: f64) -> Reading {
        Reading { on, current_a: power_w / 218.5, power_w, contact: false }
    }

    #[test]
    fn a_circuit_is_reported_when_something_changes_and_at_the_heartbeat() {
        use LampReason::{Change, Heartbeat};
        let contact = |reading: Reading| Reading { contact: true, ..reading };
        // (second, reading, reason and fault that are reported)
        type Step = (u64, Reading, Option<(LampReason, Option<&'static str>)>);
        let nominal = 1200.0;
        let table: Vec<(&str, Vec<Step>)> = vec![
            ("the first reading", vec![(0, reading(true, nominal), Some((Change, None)))]),
            (
                "nothing changes until the heartbeat",
                vec![
                    (0, reading(true, nominal), Some((Change, None))),
                    (1, reading(true, 1201.0), None),
                    (899, reading(true, 1195.0), None),
                    (900, reading(true, 1195.0), Some((Heartbeat, None))),
                    (901, reading(true, 1195.0), None),
                ],
            ),
            (
                "switching off and on",
                vec![
                    (0, reading(true, nominal), Some((Change, None))),
                    (10, reading(false, 0.0), Some((Change, None))),
                    (20, reading(false, 2.0), None),
                    (30, reading(true, nominal), Some((Change, None))),
                ],
            ),
            (
                "one lamp of twelve fails and is mended",
                vec![
                    (0, reading(true, nominal), Some((Change, None))),
                    (9, reading(true, 1100.0), Some((Change, Some("lamp_failure: 100 W of 1200 W missing")))),
                    (10, reading(true, 1110.0), None),
                    (11, reading(true, 1130.0), None),
                    (12, reading(true, 1190.0), Some((Change, None))),
                ],
            ),
            (
                "lamps that warm up have not failed",
                vec![
                    (0, reading(false, 0.0), Some((Change, None))),
                    (10, reading(true, 300.0), Some((Change, None))),
                    (12, reading(true, 1150.0), Some((Change, None))),
                    (16, reading(true, nominal), None),
                ],
            ),
            (
                "the supply is lost and comes back",
                vec![
                    (0, reading(true, nominal), Some((Change, None))),
                    (10, reading(true, 0.0), Some((Change, Some("supply_loss")))),
                    (11, reading(true, 0.0), None),
                    (12, reading(true, nominal), Some((Change, None))),
                ],
            ),
            (
                "power although switched off",
                vec![
                    (0, reading(false, 0.0), Some((Change, None))),
                    (10, reading(false, 600.0), Some((Change, Some("on_when_off")))),
                    (11, reading(false, 0.0), Some((Change, None))),
                ],
            ),
            (
                "the cabinet's own contact says so at once",
                vec![
                    (0, contact(reading(true, nominal)), Some((Change, Some("cabinet_fault")))),
                    (1, contact(reading(true, nominal)), None),
                    (2, reading(true, nominal), Some((Change, None))),
                ],
            ),
            (
                "a small circuit's small changes are not worth an event",
                vec![(0, reading(true, 1195.0), Some((Change, None))), (1, reading(true, 1199.0), None)],
            ),
        ];
        let start = Instant::now();
        for (name, steps) in table {
            let mut lamps = Lamps::new(&config(vec![circuit(nominal)], String::new()));
            for (second, reading, expected) in steps {
                let found = lamps.observe(0, reading, start + Duration::from_secs(second));
                let said = found.as_ref().map(|lamp| (lamp.reason, lamp.fault.as_deref()));
                assert_eq!(said, expected, "{name}, second {second}");
                if let Some(lamp) = found {
                    let told = (lamp.circuit, lamp.on, lamp.power_w);
                    assert_eq!(told, (3, reading.on, reading.power_w), "{name}");
                }
            }
        }
    }

    #[test]
    fn what_the_outbox_refused_is_due_again() {
        let mut lamps = Lamps::new(&config(vec![circuit(100.0)], String::new()));
        let now = Instant::now();
        assert!(lamps.observe(0, reading(true, 100.0), now).is_some());
        assert!(lamps.observe(0, reading(true, 100.0), now).is_none());
        lamps.not_reported(0);
        assert!(lamps.observe(0, reading(true, 100.0), now).is_some());
    }

    #[cfg(feature = "demo")]
    mod against_a_cabinet {
        use tokio::sync::mpsc;

        use super::*;
        use crate::demo::cabinet::{Cabinet, Circuit};
        use crate::edge::outbox::Accept;
        use crate::model::{ClockSource, SyncState};

        fn clock() -> ClockQuality {
            ClockQuality {
                source: ClockSource::Box,
                sync: SyncState::Unknown,
                offset_ms: None,
                uncertainty_ms: None,
            }
        }

        /// A box with one cabinet; events are read here instead of by the uplink.
        struct Box {
            events: mpsc::Receiver<Accept>,
            shutdown: CancellationToken,
            task: tokio::task::JoinHandle<()>,
        }

        impl Box {
            fn start(config: LampConfig) -> Self {
                let (outbox, events) = Outbox::new();
                let shutdown = CancellationToken::new();
                let box_id = "box-01".parse().unwrap();
                let task = tokio::spawn(run(config, box_id, outbox, clock, shutdown.clone()));
                Self { events, shutdown, task }
            }

            async fn next(&mut self) -> EventData {
                let accept = timeout(Duration::from_secs(20), self.events.recv()).await;
                let accept = accept.expect("an event comes").expect("the box lives");
                assert_eq!(accept.event.device.as_ref().map(|d| d.as_str()), Some("cab-01"));
                accept.done.send(Ok(())).expect("the box waits for the answer");
                accept.event.data
            }

            async fn next_lamp(&mut self) -> Lamp {
                match self.next().await {
                    EventData::Lamp(lamp) => lamp,
                    other => panic!("{other:?}"),
                }
            }

            async fn stop(self) {
                self.shutdown.cancel();
                timeout(Duration::from_secs(5), self.task).await.expect("it stops").expect("without panic");
            }
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn values_changes_and_faults_are_reported_once() {
            let cabinet =
                Cabinet::start(0, vec![Circuit::new(12, 100.0), Circuit::new(8, 60.0)]).await.unwrap();
            let mut edge = Box::start(config(cabinet.circuit_configs(), cabinet.address().to_string()));
            for (number, power_w) in [(1, 1200.0), (2, 480.0)] {
                let lamp = edge.next_lamp().await;
                assert_eq!((lamp.circuit, lamp.on, lamp.power_w, lamp.fault), (number, true, power_w, None));
                assert!((lamp.current_a - power_w / 218.5).abs() < 0.006, "{}", lamp.current_a);
            }
            cabinet.switch(1, false);
            let lamp = edge.next_lamp().await;
            assert_eq!((lamp.circuit, lamp.on, lamp.power_w), (2, false, 0.0));
            cabinet.trip(1, true);
            assert_eq!(edge.next_lamp().await.fault.as_deref(), Some("cabinet_fault"));
            cabinet.trip(1, false);
            assert_eq!(edge.next_lamp().await.fault, None);
            // One lamp is less than a tenth of the power, so this comes from the fault alone.
            cabinet.fail_lamps(0, 1);
            let lamp = edge.next_lamp().await;
            assert_eq!(lamp.fault.as_deref(), Some("lamp_failure: 1 of 12 lamps"));
            assert_eq!((lamp.circuit, lamp.reason), (1, LampReason::Change));
            edge.stop().await;
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn a_heartbeat_comes_though_nothing_changes() {
            let cabinet = Cabinet::start(0, vec![Circuit::new(4, 50.0)]).await.unwrap();
            let mut config = config(cabinet.circuit_configs(), cabinet.address().to_string());
            config.heartbeat = jiff::SignedDuration::from_millis(300);
            let mut edge = Box::start(config);
            let reasons = [edge.next_lamp().await.reason, edge.next_lamp().await.reason];
            assert_eq!(reasons, [LampReason::Change, LampReason::Heartbeat]);
            edge.stop().await;
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn a_cabinet_that_goes_away_is_a_fault_until_it_is_back() {
            let mut cabinet = Cabinet::start(0, vec![Circuit::new(4, 50.0)]).await.unwrap();
            let address = cabinet.address().to_string();
            let mut edge = Box::start(config(cabinet.circuit_configs(), address.clone()));
            edge.next_lamp().await;
            for round in 0..2 {
                cabinet.disconnect().await;
                let EventData::Fault(fault) = edge.next().await else { panic!("round {round}") };
                assert_eq!((fault.fault.as_str(), fault.phase), (CABINET_UNREACHABLE, FaultPhase::Raised));
                assert!(fault.detail.contains(&address), "{}", fault.detail);
                cabinet.switch(0, round == 1);
                cabinet.reconnect().await.unwrap();
                // What changed meanwhile is told first, then that the cabinet answers.
                assert_eq!(edge.next_lamp().await.on, round == 1);
                let EventData::Fault(fault) = edge.next().await else { panic!("round {round}") };
                assert_eq!((fault.fault.as_str(), fault.phase), (CABINET_UNREACHABLE, FaultPhase::Cleared));
            }
            edge.stop().await;
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn registers_that_the_cabinet_has_not_are_named() {
            let cabinet = Cabinet::start(0, vec![Circuit::new(4, 50.0)]).await.unwrap();
            let mut circuits = cabinet.circuit_configs();
            circuits[0].power_register = 77;
            let mut edge = Box::start(config(circuits, cabinet.address().to_string()));
            let EventData::Fault(fault) = edge.next().await else { panic!() };
            assert!(fault.detail.contains("input register 77 of circuit 1"), "{}", fault.detail);
            edge.stop().await;
        }
    }
}
