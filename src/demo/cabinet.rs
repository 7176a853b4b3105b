//! A lighting cabinet: a real Modbus TCP server on loopback, with lamps that burn and fail.
//!
//! Owns the circuits' state and the server. What stands where is a register map's word, the shipped one unless told
//! otherwise: the very file that a box reads it by. What is not in the map it does not have, but for registers between
//! those that the map says may be read along.

use std::collections::BTreeMap;
use std::future::{Ready, ready};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use jiff::SignedDuration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_modbus::server::Service;
use tokio_modbus::server::tcp::{Server, accept_tcp_connection};
use tokio_modbus::{ExceptionCode, Request, Response, SlaveRequest};
use tokio_util::sync::CancellationToken;

use crate::edge::config::{CircuitConfig, LampConfig};
use crate::edge::lamp::map::{CabinetMap, Function, Quantity, Register};
use crate::edge::lamp::plan::{Plan, WriteRequest, WriteValue};
use crate::model::{DeviceId, LampAct};
use crate::toml_file::ConfigFile;

/// The map that is shipped: its file's name, and what stands in it.
pub const MAP_FILE: &str = "sdm630-relays.toml";
pub const MAP: &str = include_str!("../../config/cabinets/sdm630-relays.toml");

const VOLTS: f64 = 230.0;
const POWER_FACTOR: f64 = 0.95;
const PHASES: u16 = 3;

/// One circuit and its lamps.
#[derive(Debug, Clone, PartialEq)]
pub struct Circuit {
    pub lamps: u32,
    pub lamp_power_w: f64,
    /// Commanded on.
    pub on: bool,
    pub dim_percent: u8,
    pub failed_lamps: u32,
    /// The breaker is out: no power whatever is commanded.
    pub supply_lost: bool,
    /// The contactor hangs: power although commanded off.
    pub stuck_on: bool,
    /// The switch on the cabinet is on manual: commands change nothing.
    pub manual: bool,
    /// The cabinet's own fault contact.
    pub contact: bool,
    pub energy_kwh: f64,
}

/// A running cabinet. Dropping it stops the server.
pub struct Cabinet {
    address: SocketAddr,
    registers: Registers,
    config: LampConfig,
    serving: Option<Serving>,
}

struct Serving {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Circuit {
    pub fn new(lamps: u32, lamp_power_w: f64) -> Self {
        Self {
            lamps,
            lamp_power_w,
            on: true,
            dim_percent: 100,
            failed_lamps: 0,
            supply_lost: false,
            stuck_on: false,
            manual: false,
            contact: false,
            energy_kwh: 0.0,
        }
    }

    pub fn power_w(&self) -> f64 {
        let powered = (self.on || self.stuck_on) && !self.supply_lost;
        if powered {
            let lit = f64::from(self.lamps.saturating_sub(self.failed_lamps));
            lit * self.lamp_power_w * f64::from(self.dim_percent) / 100.0
        } else {
            0.0
        }
    }

    pub fn current_a(&self) -> f64 {
        self.power_w() / (VOLTS * POWER_FACTOR)
    }

    fn value(&self, quantity: Quantity) -> f64 {
        match quantity {
            Quantity::On => f64::from(u8::from(self.on)),
            Quantity::Current => self.current_a(),
            Quantity::Power => self.power_w(),
            Quantity::Voltage => VOLTS,
            Quantity::PowerFactor => POWER_FACTOR,
            Quantity::Energy | Quantity::EnergyTotal => self.energy_kwh,
            Quantity::Fault => f64::from(u8::from(self.contact)),
            Quantity::Dim => f64::from(self.dim_percent),
        }
    }
}

impl Cabinet {
    /// Listens on 127.0.0.1 with the shipped map; port 0 takes a free one.
    pub async fn start(port: u16, circuits: Vec<Circuit>) -> io::Result<Self> {
        Self::start_with(port, circuits, MAP).await
    }

    /// As [`Cabinet::start`], with another map.
    pub async fn start_with(port: u16, circuits: Vec<Circuit>, map: &str) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let address = listener.local_addr()?;
        let wrong = |what: String| io::Error::new(io::ErrorKind::InvalidInput, what);
        let map = CabinetMap::parse(Path::new(MAP_FILE), map).map_err(|error| wrong(error.to_string()))?;
        let config = lamp_config(address, &circuits);
        let plan = Plan::new(&map, &config).map_err(wrong)?;
        let registers = Registers::new(plan, circuits);
        let serving = Some(serve(listener, registers.clone()));
        Ok(Self { address, registers, config, serving })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What a box's configuration says of this cabinet: circuits numbered from 1, three to a meter.
    pub fn config(&self, id: DeviceId, map: &Path) -> LampConfig {
        LampConfig { id, map: map.to_owned(), ..self.config.clone() }
    }

    pub fn switch(&self, circuit: usize, on: bool) {
        self.change(circuit, |c| c.on = on);
    }

    /// So many lamps of a circuit are dark from now on.
    pub fn fail_lamps(&self, circuit: usize, failed_lamps: u32) {
        self.change(circuit, |c| c.failed_lamps = failed_lamps);
    }

    /// Opens or closes the cabinet's own fault contact.
    pub fn trip(&self, circuit: usize, contact: bool) {
        self.change(circuit, |c| c.contact = contact);
    }

    /// Any other change of a circuit.
    pub fn change(&self, circuit: usize, change: impl FnOnce(&mut Circuit)) {
        let mut state = self.registers.lock();
        state.burn();
        change(&mut state.circuits[circuit]);
    }

    /// How a circuit is.
    pub fn circuit(&self, circuit: usize) -> Circuit {
        self.registers.lock().circuits[circuit].clone()
    }

    /// Writes that were asked for so far.
    pub fn writes(&self) -> u64 {
        self.registers.lock().writes
    }

    /// Stops answering: connections break and the port is closed.
    pub async fn disconnect(&mut self) {
        if let Some(mut serving) = self.serving.take() {
            serving.stop.cancel();
            if let Err(error) = (&mut serving.task).await {
                tracing::error!(%error, "lamp cabinet's server failed");
            }
        }
    }

    /// Answers again at the same address.
    pub async fn reconnect(&mut self) -> io::Result<()> {
        if self.serving.is_none() {
            let listener = TcpListener::bind(self.address).await?;
            self.serving = Some(serve(listener, self.registers.clone()));
        }
        Ok(())
    }
}

fn lamp_config(address: SocketAddr, circuits: &[Circuit]) -> LampConfig {
    let config = |(i, circuit): (usize, &Circuit)| {
        let i = u16::try_from(i).expect("a cabinet has few circuits");
        let meter = u8::try_from(i / PHASES + 1).expect("a cabinet has few meters");
        let units = if meter == 1 { BTreeMap::new() } else { BTreeMap::from([("meter".to_owned(), meter)]) };
        CircuitConfig {
            circuit: i + 1,
            phase: Some(i % PHASES + 1),
            relay: Some(i + 1),
            nominal_power_w: f64::from(circuit.lamps) * circuit.lamp_power_w,
            lamps: Some(circuit.lamps),
            units,
        }
    };
    LampConfig {
        id: DeviceId::new("cabinet").expect("a good id"),
        address: address.to_string(),
        map: MAP_FILE.into(),
        poll: SignedDuration::from_secs(1),
        heartbeat: SignedDuration::from_secs(300),
        answer: SignedDuration::from_secs(10),
        commands: Vec::new(),
        units: BTreeMap::new(),
        circuits: circuits.iter().enumerate().map(config).collect(),
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn serve(listener: TcpListener, registers: Registers) -> Serving {
    let stop = CancellationToken::new();
    let stopped = stop.clone().cancelled_owned();
    let task = tokio::spawn(async move {
        let on_connected = |stream: TcpStream, peer: SocketAddr| {
            let registers = registers.clone();
            async move { accept_tcp_connection(stream, peer, |_| Ok(Some(registers.clone()))) }
        };
        let on_error = |error| tracing::debug!(%error, "modbus connection ended");
        if let Err(error) = Server::new(listener).serve_until(&on_connected, on_error, stopped).await {
            tracing::error!(%error, "lamp cabinet's server failed");
        }
    });
    Serving { stop, task }
}

/// The circuits as Modbus sees them.
#[derive(Clone)]
struct Registers {
    state: Arc<Mutex<State>>,
    layout: Arc<Layout>,
}

struct State {
    circuits: Vec<Circuit>,
    /// Energy is counted up to here.
    burned: Instant,
    writes: u64,
}

/// Where the map has what.
struct Layout {
    plan: Plan,
    places: BTreeMap<(u8, Function, u16), Place>,
    circuits: usize,
}

struct Place {
    quantity: Quantity,
    register: Register,
    /// Those whose value it is: one, or all of a meter.
    circuits: Vec<usize>,
}

impl State {
    fn burn(&mut self) {
        let hours = self.burned.elapsed().as_secs_f64() / 3600.0;
        self.burned = Instant::now();
        for circuit in &mut self.circuits {
            circuit.energy_kwh += circuit.power_w() / 1000.0 * hours;
        }
    }
}

impl Service for Registers {
    type Request = SlaveRequest<'static>;
    type Response = Response;
    type Exception = ExceptionCode;
    type Future = Ready<Result<Response, ExceptionCode>>;

    fn call(&self, request: Self::Request) -> Self::Future {
        ready(self.answer(request.slave, &request.request))
    }
}

impl Registers {
    fn new(plan: Plan, circuits: Vec<Circuit>) -> Self {
        let mut places: BTreeMap<_, Place> = BTreeMap::new();
        for index in 0..circuits.len() {
            for (quantity, unit, address, register) in plan.places(index) {
                let place = places.entry((unit, register.function, address)).or_insert_with(|| Place {
                    quantity,
                    register: register.clone(),
                    circuits: Vec::new(),
                });
                place.circuits.push(index);
            }
        }
        let layout = Layout { plan, places, circuits: circuits.len() };
        let state = State { circuits, burned: Instant::now(), writes: 0 };
        Self { state: Arc::new(Mutex::new(state)), layout: Arc::new(layout) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics under this lock")
    }

    fn answer(&self, unit: u8, request: &Request<'_>) -> Result<Response, ExceptionCode> {
        if !self.layout.plan.requests.iter().any(|known| known.unit == unit) {
            return Err(ExceptionCode::GatewayTargetDevice);
        }
        let bits = |words: Vec<u16>| words.into_iter().map(|word| word != 0).collect();
        let write = |address, value| self.write(&WriteRequest { unit, address, value });
        match request {
            &Request::ReadCoils(from, count) => {
                self.read(unit, Function::Coil, from, count).map(bits).map(Response::ReadCoils)
            }
            &Request::ReadDiscreteInputs(from, count) => self
                .read(unit, Function::DiscreteInput, from, count)
                .map(bits)
                .map(Response::ReadDiscreteInputs),
            &Request::ReadHoldingRegisters(from, count) => {
                self.read(unit, Function::HoldingRegister, from, count).map(Response::ReadHoldingRegisters)
            }
            &Request::ReadInputRegisters(from, count) => {
                self.read(unit, Function::InputRegister, from, count).map(Response::ReadInputRegisters)
            }
            &Request::WriteSingleCoil(at, on) => {
                write(at, WriteValue::Coil(on)).map(|()| Response::WriteSingleCoil(at, on))
            }
            &Request::WriteSingleRegister(at, word) => {
                write(at, WriteValue::Register(word)).map(|()| Response::WriteSingleRegister(at, word))
            }
            Request::WriteMultipleRegisters(at, words) if words.len() == 1 => {
                write(*at, WriteValue::Registers(words[0])).map(|()| Response::WriteMultipleRegisters(*at, 1))
            }
            _ => Err(ExceptionCode::IllegalFunction),
        }
    }

    /// Only ranges within what the plan asks for exist; in them, what no place covers is 0.
    fn read(&self, unit: u8, function: Function, from: u16, count: u16) -> Result<Vec<u16>, ExceptionCode> {
        let end = from.checked_add(count).ok_or(ExceptionCode::IllegalDataAddress)?;
        let is_known = self.layout.plan.requests.iter().any(|known| {
            (known.unit, known.function) == (unit, function)
                && from >= known.address
                && end <= known.address + known.count
        });
        if !is_known {
            return Err(ExceptionCode::IllegalDataAddress);
        }
        let mut state = self.lock();
        state.burn();
        let mut words = vec![0; usize::from(count)];
        for (&(_, _, address), place) in self.layout.places.range((unit, function, 0)..=(unit, function, end))
        {
            let value = place.circuits.iter().map(|&circuit| state.circuits[circuit].value(place.quantity));
            let value =
                if place.quantity == Quantity::EnergyTotal { value.sum() } else { value.take(1).sum() };
            for (at, word) in (address..).zip(place.register.words_of(place.quantity, value)) {
                if let Some(slot) = at.checked_sub(from).and_then(|at| words.get_mut(usize::from(at))) {
                    *slot |= word;
                }
            }
        }
        Ok(words)
    }

    fn write(&self, request: &WriteRequest) -> Result<(), ExceptionCode> {
        let switches = [false, true].map(|on| LampAct::Switch { on });
        let dims = (0..=100).map(|percent| LampAct::Dim { percent });
        let acts: Vec<LampAct> = switches.into_iter().chain(dims).collect();
        for index in 0..self.layout.circuits {
            let is_this = |act: &&LampAct| self.layout.plan.write(index, **act).as_ref() == Some(request);
            let Some(act) = acts.iter().find(is_this) else { continue };
            let mut state = self.lock();
            state.burn();
            state.writes += 1;
            let circuit = &mut state.circuits[index];
            match act {
                _ if circuit.manual => {}
                LampAct::Switch { on } => circuit.on = *on,
                LampAct::Dim { percent } => circuit.dim_percent = *percent,
            }
            return Ok(());
        }
        Err(ExceptionCode::IllegalDataAddress)
    }
}
