//! A lighting cabinet: a real Modbus TCP server on loopback, with lamps that burn and fail.
//!
//! Owns the circuits' state and the server. Circuit `i` (from 0) has coil `i` (on), input registers
//! `2i` (current, 0.01 A) and `2i + 1` (power, W) and discrete input `i` (fault contact).

use std::future::{Ready, ready};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_modbus::server::Service;
use tokio_modbus::server::tcp::{Server, accept_tcp_connection};
use tokio_modbus::{ExceptionCode, Request, Response};
use tokio_util::sync::CancellationToken;

use crate::edge::config::CircuitConfig;

const VOLTS: f64 = 230.0;
const POWER_FACTOR: f64 = 0.95;

/// One circuit and its lamps.
#[derive(Debug, Clone, PartialEq)]
pub struct Circuit {
    pub lamps: u32,
    pub lamp_power_w: f64,
    /// Commanded on.
    pub on: bool,
    pub failed_lamps: u32,
    /// The breaker is out: no power whatever is commanded.
    pub supply_lost: bool,
    /// The contactor hangs: power although commanded off.
    pub stuck_on: bool,
    /// The cabinet's own fault contact.
    pub contact: bool,
}

/// A running cabinet. Dropping it stops the server.
pub struct Cabinet {
    address: SocketAddr,
    circuits: Arc<Mutex<Vec<Circuit>>>,
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
            failed_lamps: 0,
            supply_lost: false,
            stuck_on: false,
            contact: false,
        }
    }

    pub fn power_w(&self) -> f64 {
        let powered = (self.on || self.stuck_on) && !self.supply_lost;
        if powered {
            f64::from(self.lamps.saturating_sub(self.failed_lamps)) * self.lamp_power_w
        } else {
            0.0
        }
    }

    pub fn current_a(&self) -> f64 {
        self.power_w() / (VOLTS * POWER_FACTOR)
    }
}

impl Cabinet {
    /// Listens on 127.0.0.1; port 0 takes a free one.
    pub async fn start(port: u16, circuits: Vec<Circuit>) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let address = listener.local_addr()?;
        let circuits = Arc::new(Mutex::new(circuits));
        let serving = Some(serve(listener, circuits.clone()));
        Ok(Self { address, circuits, serving })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What a box's configuration says of these circuits, numbered from 1.
    pub fn circuit_configs(&self) -> Vec<CircuitConfig> {
        let config = |(i, circuit): (usize, &Circuit)| {
            let i = u16::try_from(i).expect("a cabinet has few circuits");
            CircuitConfig {
                circuit: i + 1,
                on_coil: i,
                current_register: 2 * i,
                power_register: 2 * i + 1,
                fault_input: Some(i),
                nominal_power_w: f64::from(circuit.lamps) * circuit.lamp_power_w,
                lamps: Some(circuit.lamps),
            }
        };
        lock(&self.circuits).iter().enumerate().map(config).collect()
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
        change(&mut lock(&self.circuits)[circuit]);
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
            self.serving = Some(serve(listener, self.circuits.clone()));
        }
        Ok(())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn serve(listener: TcpListener, circuits: Arc<Mutex<Vec<Circuit>>>) -> Serving {
    let stop = CancellationToken::new();
    let stopped = stop.clone().cancelled_owned();
    let task = tokio::spawn(async move {
        let on_connected = |stream: TcpStream, peer: SocketAddr| {
            let circuits = circuits.clone();
            async move {
                accept_tcp_connection(stream, peer, |_| Ok(Some(Registers { circuits: circuits.clone() })))
            }
        };
        let on_error = |error| tracing::debug!(%error, "modbus connection ended");
        if let Err(error) = Server::new(listener).serve_until(&on_connected, on_error, stopped).await {
            tracing::error!(%error, "lamp cabinet's server failed");
        }
    });
    Serving { stop, task }
}

fn lock(circuits: &Mutex<Vec<Circuit>>) -> MutexGuard<'_, Vec<Circuit>> {
    circuits.lock().expect("nothing panics under this lock")
}

/// The circuits as Modbus sees them.
struct Registers {
    circuits: Arc<Mutex<Vec<Circuit>>>,
}

impl Service for Registers {
    type Request = Request<'static>;
    type Response = Response;
    type Exception = ExceptionCode;
    type Future = Ready<Result<Response, ExceptionCode>>;

    fn call(&self, request: Self::Request) -> Self::Future {
        ready(self.answer(&request))
    }
}

impl Registers {
    fn answer(&self, request: &Request<'_>) -> Result<Response, ExceptionCode> {
        let mut circuits = lock(&self.circuits);
        match *request {
            Request::ReadCoils(from, count) => {
                range(&circuits.iter().map(|c| c.on).collect::<Vec<_>>(), from, count)
                    .map(Response::ReadCoils)
            }
            Request::ReadDiscreteInputs(from, count) => {
                let contacts: Vec<bool> = circuits.iter().map(|c| c.contact).collect();
                range(&contacts, from, count).map(Response::ReadDiscreteInputs)
            }
            Request::ReadInputRegisters(from, count) => {
                let values =
                    |c: &Circuit| [(c.current_a() * 100.0).round() as u16, c.power_w().round() as u16];
                let registers: Vec<u16> = circuits.iter().flat_map(values).collect();
                range(&registers, from, count).map(Response::ReadInputRegisters)
            }
            Request::WriteSingleCoil(at, on) => {
                circuits.get_mut(usize::from(at)).ok_or(ExceptionCode::IllegalDataAddress)?.on = on;
                Ok(Response::WriteSingleCoil(at, on))
            }
            _ => Err(ExceptionCode::IllegalFunction),
        }
    }
}

fn range<T: Copy>(values: &[T], from: u16, count: u16) -> Result<Vec<T>, ExceptionCode> {
    let from = usize::from(from);
    let found = values.get(from..from + usize::from(count)).ok_or(ExceptionCode::IllegalDataAddress)?;
    Ok(found.to_vec())
}
