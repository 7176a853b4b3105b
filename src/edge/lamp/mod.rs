//! Reads a lighting cabinet over Modbus TCP, reports by exception, and does what it is told as far as it is allowed.
//!
//! ```text
//! map (data file) + configuration ─► plan ─► bus ═Modbus═► cabinet
//!                                             └─► judge ─► outbox
//! uplink ─► command (orders, desk) ─► bus, and the result back to the uplink
//! ```
//!
//! Owns the loop over one cabinet. A reading may fail in part: one unit behind a gateway that is silent, one request
//! that the map has wrong; the circuits that can be read are reported all the same. A slow cabinet is read less often
//! and holds up nobody else: each has a task of its own. May not write but by a command that [`command::Desk`] let pass.

mod bus;
pub mod command;
pub mod judge;
pub mod map;
pub mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::time::{Duration, Instant};

use prometheus::{GaugeVec, IntCounterVec, Registry};
use tokio::sync::mpsc;
use tokio::time::{sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::config::LampConfig;
use super::outbox::{NewEvent, Outbox, OutboxError};
use crate::limits::{
    BACKOFF_FIRST, BACKOFF_MAX, LAMP_READ_BACK_MAX, LAMP_SLOW_PAUSE_MAX, LAMP_TROUBLE_READINGS,
    MODBUS_BUSY_PAUSE,
};
use crate::metrics::Part;
use crate::model::{BoxId, ClockQuality, EventData, Fault, FaultPhase, LampAct, LampCommanded, Time};
use crate::outage::Outage;
use crate::wire::{CommandOutcome, CommandResult, LampCommand};
use bus::{Bus, BusError};
use command::Desk;
use judge::Lamps;
use plan::{Plan, Reading};

/// Name of the fault that says that nothing in the cabinet answers.
pub const CABINET_UNREACHABLE: &str = "lamp_cabinet_unreachable";
/// A part of the cabinet is silent, busy or broken while others answer.
pub const UNIT_FAILING: &str = "lamp_unit_failing";
/// The cabinet says that what the map names does not exist.
pub const MAP_WRONG: &str = "lamp_map_wrong";
/// Values that no lighting circuit can have.
pub const VALUE_ABSURD: &str = "lamp_value_absurd";

/// Figures of all cabinets. Clones share them.
#[derive(Clone)]
pub struct Metrics {
    readings: IntCounterVec,
    reading_seconds: GaugeVec,
    failures: IntCounterVec,
    absurd: IntCounterVec,
    commands: IntCounterVec,
}

impl Metrics {
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let part = Part::new(registry, "camnet_edge_lamp_");
        Ok(Self {
            readings: part.counters(
                "readings_total",
                "Times that the cabinet was read, in part at least",
                &["device"],
            )?,
            reading_seconds: part.fractions(
                "reading_seconds",
                "How long the last reading took",
                &["device"],
            )?,
            failures: part.counters(
                "failures_total",
                "Requests without a good answer",
                &["device", "kind"],
            )?,
            absurd: part.counters(
                "absurd_values_total",
                "Values that no lighting circuit can have",
                &["device"],
            )?,
            commands: part.counters(
                "commands_total",
                "Commands by what became of them",
                &["device", "outcome"],
            )?,
        })
    }
}

/// What a cabinet's task needs beside its configuration.
pub struct LampContext {
    pub box_id: BoxId,
    pub outbox: Outbox,
    pub clock: fn() -> ClockQuality,
    pub metrics: Metrics,
    pub commands: mpsc::Receiver<LampCommand>,
    pub results: mpsc::Sender<CommandResult>,
}

/// Reads the cabinet and serves its commands until shutdown.
pub async fn run(config: LampConfig, plan: Plan, context: LampContext, shutdown: CancellationToken) {
    let answer_max = Duration::try_from(config.answer).unwrap_or_default();
    let mut cabinet = Cabinet {
        lamps: Lamps::new(config.heartbeat, &config.circuits),
        desk: Desk::new(&config, Time::now()),
        bus: Bus::new(config.address.clone(), answer_max),
        config,
        plan,
        context,
        troubles: BTreeMap::new(),
        outage: Outage::default(),
    };
    tokio::select! {
        biased;
        () = shutdown.cancelled() => {}
        Err(OutboxClosed) = cabinet.work() => {}
    }
}

/// The box is stopping.
struct OutboxClosed;

struct Cabinet {
    config: LampConfig,
    plan: Plan,
    bus: Bus,
    lamps: Lamps,
    desk: Desk,
    context: LampContext,
    troubles: BTreeMap<&'static str, Trouble>,
    outage: Outage,
}

/// Something that goes wrong reading after reading.
#[derive(Default)]
struct Trouble {
    readings: u32,
    /// The hub was told.
    is_raised: bool,
}

/// What came of asking everything once.
struct Round {
    /// By request of the plan; None without a good answer.
    answers: Vec<Option<Vec<u16>>>,
    /// The number of the request, and why.
    failures: Vec<(usize, BusError)>,
    took: Duration,
}

impl Round {
    /// Nothing in the cabinet said a word.
    fn is_unreachable(&self) -> bool {
        self.answers.iter().all(Option::is_none) && !self.failures.iter().any(|(_, error)| error.is_answer())
    }
}

impl Cabinet {
    async fn work(&mut self) -> Result<Infallible, OutboxClosed> {
        let period = Duration::try_from(self.config.poll).unwrap_or_default();
        let mut backoff = BACKOFF_FIRST;
        loop {
            let round = self.read_all().await?;
            self.log(&round);
            self.report(&round).await?;
            let pause = if round.is_unreachable() {
                let pause = backoff.max(period);
                backoff = (backoff * 2).min(BACKOFF_MAX);
                pause
            } else {
                backoff = BACKOFF_FIRST;
                pause_after(period, round.took)
            };
            self.serve_until(Instant::now() + pause).await?;
        }
    }

    /// Asks everything once. A unit that does not answer at all is left alone for the rest of the round, so that a
    /// dead one costs one deadline; commands need not wait for the end.
    async fn read_all(&mut self) -> Result<Round, OutboxClosed> {
        let started = Instant::now();
        let mut round = Round { answers: Vec::new(), failures: Vec::new(), took: Duration::ZERO };
        let (mut mute, mut is_unreachable) = (BTreeSet::new(), false);
        for number in 0..self.plan.requests.len() {
            while let Ok(command) = self.context.commands.try_recv() {
                self.serve(command).await?;
            }
            let request = &self.plan.requests[number];
            if is_unreachable || mute.contains(&request.unit) {
                round.answers.push(None);
                continue;
            }
            match self.bus.read(request).await {
                Ok(words) => round.answers.push(Some(words)),
                Err(error) => {
                    self.count(&error);
                    is_unreachable = matches!(error, BusError::Unreachable(_));
                    if !error.is_answer() {
                        mute.insert(request.unit);
                    }
                    round.answers.push(None);
                    round.failures.push((number, error));
                }
            }
        }
        round.took = started.elapsed();
        Ok(round)
    }

    fn count(&self, error: &BusError) {
        self.context.metrics.failures.with_label_values(&[self.config.id.as_str(), error.kind()]).inc();
    }

    /// A loss is told once, and once more for each changed reason.
    fn log(&mut self, round: &Round) {
        let (device, address) = (&self.config.id, &self.config.address);
        match round.failures.first() {
            Some((number, error)) => {
                let reason = self.say_failure(*number, error);
                if self.outage.failed(&reason) {
                    tracing::warn!(box_id = %self.context.box_id, %device, address, reason, "lamp cabinet not read");
                }
            }
            None => {
                if let Some(failures) = self.outage.ended() {
                    tracing::info!(%device, address, failures, "lamp cabinet read again");
                }
            }
        }
    }

    /// For instance "lamp cabinet 192.0.2.20:502 says Illegal data address: asked for input registers 0 to 31 of unit 1
    /// (sdm630-relays.toml)".
    fn say_failure(&self, number: usize, error: &BusError) -> String {
        let (request, map) = (&self.plan.requests[number], &self.plan.map);
        format!("lamp cabinet {} {}: asked for {request} ({map})", self.config.address, chain(error))
    }

    fn say_first(&self, round: &Round, is_such: fn(&BusError) -> bool) -> Option<String> {
        let failure = round.failures.iter().find(|(_, error)| is_such(error));
        failure.map(|(number, error)| self.say_failure(*number, error))
    }

    async fn report(&mut self, round: &Round) -> Result<(), OutboxClosed> {
        if round.is_unreachable() {
            let detail = self.say_first(round, |_| true);
            return self.trouble(CABINET_UNREACHABLE, 1, detail).await;
        }
        let metrics = self.context.metrics.clone();
        let device = self.config.id.to_string();
        metrics.readings.with_label_values(&[&device]).inc();
        metrics.reading_seconds.with_label_values(&[&device]).set(round.took.as_secs_f64());
        let mut absurd = Vec::new();
        for index in 0..self.config.circuits.len() {
            let read = self.plan.circuit(index, &round.answers);
            metrics.absurd.with_label_values(&[&device]).inc_by(read.absurd.len() as u64);
            let number = self.config.circuits[index].circuit;
            absurd.extend(read.absurd.into_iter().map(|what| format!("circuit {number}: {what}")));
            if let Some(reading) = read.reading {
                self.take(index, reading).await?;
            }
        }
        self.report_troubles(round, &absurd).await
    }

    async fn report_troubles(&mut self, round: &Round, absurd: &[String]) -> Result<(), OutboxClosed> {
        let map_wrong = self
            .say_first(round, BusError::is_map_wrong)
            .map(|what| format!("{what}; compare the map with the maker's manual, and the units"));
        let failing = self.say_first(round, |error| !error.is_map_wrong());
        let absurd = (!absurd.is_empty()).then(|| {
            let shown = absurd.iter().take(4).cloned().collect::<Vec<_>>().join("; ");
            let map = &self.plan.map;
            format!(
                "{} values make no sense ({map}), for instance {shown}; compare type, words and scale",
                absurd.len()
            )
        });
        self.trouble(MAP_WRONG, 1, map_wrong).await?;
        self.trouble(UNIT_FAILING, LAMP_TROUBLE_READINGS, failing).await?;
        self.trouble(VALUE_ABSURD, LAMP_TROUBLE_READINGS, absurd).await?;
        self.trouble(CABINET_UNREACHABLE, 1, None).await
    }

    /// Reports a reading if it is worth it; false if the outbox did not take the report.
    async fn take(&mut self, index: usize, reading: Reading) -> Result<bool, OutboxClosed> {
        let Some(lamp) = self.lamps.observe(index, reading, Instant::now()) else { return Ok(true) };
        let is_taken = self.accept(EventData::Lamp(lamp.clone())).await?;
        if !is_taken {
            // The cabinet is well; the event is due again with the next reading.
            self.lamps.not_reported(index, lamp);
        }
        Ok(is_taken)
    }

    /// Notes whether this trouble is there. It is a fault after so many readings in a row, until the first without it.
    async fn trouble(
        &mut self,
        fault: &'static str,
        after: u32,
        detail: Option<String>,
    ) -> Result<(), OutboxClosed> {
        let trouble = self.troubles.entry(fault).or_default();
        let (phase, detail) = match detail {
            Some(detail) => {
                trouble.readings = trouble.readings.saturating_add(1);
                if trouble.is_raised || trouble.readings < after {
                    return Ok(());
                }
                (FaultPhase::Raised, detail)
            }
            None => {
                trouble.readings = 0;
                if !trouble.is_raised {
                    return Ok(());
                }
                (
                    FaultPhase::Cleared,
                    format!("lamp cabinet {} answers as it should again", self.config.address),
                )
            }
        };
        let is_raised = phase == FaultPhase::Raised;
        let said = self.accept(EventData::Fault(Fault { fault: fault.into(), phase, detail })).await?;
        if said && let Some(trouble) = self.troubles.get_mut(fault) {
            trouble.is_raised = is_raised;
        }
        Ok(())
    }

    /// False if the outbox could not take it.
    async fn accept(&mut self, data: EventData) -> Result<bool, OutboxClosed> {
        let device = Some(self.config.id.clone());
        let event = NewEvent { device, time: Time::now(), clock: (self.context.clock)(), data };
        match self.context.outbox.accept(event).await {
            Ok(()) => Ok(true),
            Err(OutboxError::Closed) => Err(OutboxClosed),
            Err(error) => {
                tracing::error!(device = %self.config.id, %error, "lamp event not accepted");
                Ok(false)
            }
        }
    }
}

/// Commands.
impl Cabinet {
    async fn serve_until(&mut self, deadline: Instant) -> Result<(), OutboxClosed> {
        loop {
            let command = tokio::select! {
                () = sleep_until(deadline.into()) => return Ok(()),
                Some(command) = self.context.commands.recv() => command,
            };
            self.serve(command).await?;
        }
    }

    async fn serve(&mut self, command: LampCommand) -> Result<(), OutboxClosed> {
        let (result, is_new) = match self.desk.judge(&command, Time::now(), Instant::now()) {
            Ok(index) => (self.carry_out(index, &command).await?, true),
            Err(result) => (result, false),
        };
        if is_new {
            self.desk.done(&result);
        }
        let (device, outcome, why) =
            (&self.config.id, result.outcome.as_str(), result.why.as_deref().unwrap_or_default());
        self.context.metrics.commands.with_label_values(&[device.as_str(), outcome]).inc();
        let (correlation, actor, circuit, act) =
            (&result.correlation, command::clip(&command.actor), command.circuit, command.act);
        tracing::warn!(%device, circuit, ?act, actor, correlation, outcome, why, "lamp command");
        // Who asked has long stopped waiting when this queue is full.
        let _ = self.context.results.try_send(result);
        Ok(())
    }

    async fn carry_out(
        &mut self,
        index: usize,
        command: &LampCommand,
    ) -> Result<CommandResult, OutboxClosed> {
        let id = &command.correlation;
        let Some(write) = self.plan.write(index, command.act) else {
            let why = format!("the map {} knows no register for this", self.plan.map);
            return Ok(CommandResult::refused(id, why));
        };
        // A cabinet that does not answer is told nothing; and a connection that idled is fresh after this.
        if let Some(&number) = self.plan.requests_of(index).first()
            && let Err(error) = self.bus.read(&self.plan.requests[number]).await
        {
            self.count(&error);
            return Ok(CommandResult::failed(
                id,
                format!("nothing written: {}", self.say_failure(number, &error)),
            ));
        }
        let written = self.bus.write(&write).await;
        if let Err(error) = &written {
            self.count(error);
            if !error.is_unsure() {
                return Ok(CommandResult::failed(
                    id,
                    format!("the cabinet {}: write to {write}", chain(error)),
                ));
            }
        }
        // Written, or perhaps: the next reading tells, now or when the cabinet answers again.
        self.lamps.commanded(index, commanded(command));
        if let Err(error) = written {
            let why = format!(
                "the cabinet {}: write to {write}; whether it was done shows when it answers",
                chain(&error)
            );
            return Ok(CommandResult::failed(id, why));
        }
        match self.read_back(index, command.act).await {
            Ok(reading) => {
                let is_recorded = self.take(index, reading).await?;
                Ok(result_of(command, reading, is_recorded))
            }
            Err(why) => Ok(CommandResult::failed(id, format!("written, but not read back: {why}"))),
        }
    }

    /// Reads the circuit until it shows what it was told, or has had its time.
    async fn read_back(&mut self, index: usize, act: LampAct) -> Result<Reading, String> {
        let deadline = Instant::now() + LAMP_READ_BACK_MAX;
        loop {
            let mut answers = vec![None; self.plan.requests.len()];
            for number in self.plan.requests_of(index) {
                match self.bus.read(&self.plan.requests[number]).await {
                    Ok(words) => answers[number] = Some(words),
                    Err(error) => {
                        self.count(&error);
                        return Err(self.say_failure(number, &error));
                    }
                }
            }
            let round = self.plan.circuit(index, &answers);
            let reading = round.reading.ok_or_else(|| round.absurd.join("; "))?;
            if reading.shows(act) || Instant::now() >= deadline {
                return Ok(reading);
            }
            sleep(MODBUS_BUSY_PAUSE).await;
        }
    }
}

fn commanded(command: &LampCommand) -> LampCommanded {
    LampCommanded {
        correlation: command.correlation.clone(),
        act: command.act,
        actor: command.actor.clone(),
        purpose: command.purpose.clone(),
        done: false,
    }
}

fn result_of(command: &LampCommand, reading: Reading, is_recorded: bool) -> CommandResult {
    let (outcome, why) = match (reading.shows(command.act), is_recorded) {
        (true, true) => (CommandOutcome::Ok, None),
        (true, false) => {
            (CommandOutcome::Failed, Some("done, but the box can't record it: its disk is full or broken"))
        }
        (false, _) => {
            (CommandOutcome::Failed, Some("written, but the cabinet does not show it: is it on manual?"))
        }
    };
    let (on, dim_percent) = (Some(reading.on), reading.dim_percent);
    CommandResult {
        correlation: command.correlation.clone(),
        outcome,
        why: why.map(str::to_owned),
        on,
        dim_percent,
        clip: None,
    }
}

/// The rest of the period; a cabinet that is slower than that rests as long as it worked, within reason.
fn pause_after(period: Duration, took: Duration) -> Duration {
    period.saturating_sub(took).max(took.min(LAMP_SLOW_PAUSE_MAX))
}

/// The error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
