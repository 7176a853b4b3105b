//! The Modbus TCP connection to one cabinet. The only module that names tokio-modbus.
//!
//! Owns connecting, the deadline of each answer, and what an answer must be to be believed. May not decide what is
//! asked, nor when it is asked again.
//!
//! **A late answer is never taken for the answer of a later request.** The connection is given up after anything but a
//! whole, fitting answer or a Modbus exception: after a timeout, a wrong transaction id or unit, an answer that is too
//! short or garbled, and when a request is dropped on the way. tokio-modbus 0.17 compares transaction id, unit and
//! function; it does not compare the number of registers (a debug build panics on a short answer, so [`Context::call`]
//! is used and the number compared here), and tells a closed connection with whatever error the system last had.

use std::io;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_modbus::client::{Client, Context, tcp};
use tokio_modbus::slave::SlaveContext;
use tokio_modbus::{Error, ExceptionCode, ProtocolError, Request as Pdu, Response, Slave};

use super::map::Function;
use super::plan::{Request, WriteRequest, WriteValue};
use crate::limits::{MODBUS_BUSY_PAUSE, MODBUS_BUSY_TRIES, MODBUS_CONNECT_MAX};

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    #[error("can't be reached")]
    Unreachable(#[source] io::Error),
    #[error("did not answer within {waited_ms} ms")]
    Silent { waited_ms: u128 },
    #[error("broke off the connection")]
    Closed(#[source] Option<io::Error>),
    #[error("gave an answer that fits no question: {0}")]
    Garbled(String),
    #[error("says {0}")]
    Refused(ExceptionCode),
    #[error("is still busy after {MODBUS_BUSY_TRIES} tries")]
    Busy,
}

impl BusError {
    /// The device answered: it refuses, or has no time. Else nothing is known about it.
    pub fn is_answer(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Busy)
    }

    /// The request may have been carried out although nobody said so.
    pub fn is_unsure(&self) -> bool {
        !self.is_answer() && !matches!(self, Self::Unreachable(_))
    }

    /// What was asked does not exist there: the map is not this device's.
    pub fn is_map_wrong(&self) -> bool {
        use ExceptionCode::{IllegalDataAddress, IllegalDataValue, IllegalFunction};
        matches!(self, Self::Refused(IllegalFunction | IllegalDataAddress | IllegalDataValue))
    }

    /// Label of the counter.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Silent { .. } => "silent",
            Self::Closed(_) => "closed",
            Self::Garbled(_) => "garbled",
            Self::Refused(_) => "refused",
            Self::Busy => "busy",
        }
    }
}

/// A cabinet's bus. It connects when it is asked something.
pub struct Bus {
    address: String,
    answer_max: Duration,
    context: Option<Context>,
}

impl Bus {
    pub fn new(address: String, answer_max: Duration) -> Self {
        Self { address, answer_max, context: None }
    }

    /// The words (or bits, as 0 and 1) that were asked for, all of them. Gateways close connections that idle between two
    /// readings: one that was open before and is closed now is made anew, once.
    pub async fn read(&mut self, request: &Request) -> Result<Vec<u16>, BusError> {
        let was_open = self.context.is_some();
        match self.read_once(request).await {
            Err(BusError::Closed(_)) if was_open => self.read_once(request).await,
            answer => answer,
        }
    }

    async fn read_once(&mut self, request: &Request) -> Result<Vec<u16>, BusError> {
        let (address, count) = (request.address, request.count);
        let pdu = match request.function {
            Function::Coil => Pdu::ReadCoils(address, count),
            Function::DiscreteInput => Pdu::ReadDiscreteInputs(address, count),
            Function::HoldingRegister => Pdu::ReadHoldingRegisters(address, count),
            Function::InputRegister => Pdu::ReadInputRegisters(address, count),
        };
        let count = usize::from(count);
        match self.ask(request.unit, pdu).await? {
            // Bits come in whole bytes.
            Response::ReadCoils(bits) | Response::ReadDiscreteInputs(bits)
                if bits.len() == count.next_multiple_of(8) =>
            {
                Ok(bits[..count].iter().map(|&bit| u16::from(bit)).collect())
            }
            Response::ReadHoldingRegisters(words) | Response::ReadInputRegisters(words)
                if words.len() == count =>
            {
                Ok(words)
            }
            other => Err(self.garbled(format!("{count} values were asked for, it sent {}", sent(&other)))),
        }
    }

    /// Writes one value; the device must say that it wrote this very one. Never tried twice but when it is busy.
    pub async fn write(&mut self, request: &WriteRequest) -> Result<(), BusError> {
        let address = request.address;
        let (pdu, echo) = match request.value {
            WriteValue::Coil(on) => {
                (Pdu::WriteSingleCoil(address, on), Response::WriteSingleCoil(address, on))
            }
            WriteValue::Register(word) => {
                (Pdu::WriteSingleRegister(address, word), Response::WriteSingleRegister(address, word))
            }
            WriteValue::Registers(word) => (
                Pdu::WriteMultipleRegisters(address, vec![word].into()),
                Response::WriteMultipleRegisters(address, 1),
            ),
        };
        let answer = self.ask(request.unit, pdu).await?;
        if answer == echo {
            Ok(())
        } else {
            Err(self.garbled(format!("to the write of {request}: {answer:?}")))
        }
    }

    /// One question and its answer; again if the device is busy.
    async fn ask(&mut self, unit: u8, pdu: Pdu<'static>) -> Result<Response, BusError> {
        for tries in 1..=MODBUS_BUSY_TRIES {
            match self.ask_once(unit, pdu.clone()).await? {
                Ok(response) => return Ok(response),
                // "Acknowledge" says that it takes long, and to ask again later.
                Err(ExceptionCode::ServerDeviceBusy | ExceptionCode::Acknowledge) => {
                    if tries < MODBUS_BUSY_TRIES {
                        sleep(MODBUS_BUSY_PAUSE * tries).await;
                    }
                }
                Err(code) => return Err(BusError::Refused(code)),
            }
        }
        Err(BusError::Busy)
    }

    /// The connection is put back only after an answer that fits, so that it is gone after all else.
    async fn ask_once(
        &mut self,
        unit: u8,
        pdu: Pdu<'static>,
    ) -> Result<Result<Response, ExceptionCode>, BusError> {
        let mut context = match self.context.take() {
            Some(context) => context,
            None => connect(&self.address).await?,
        };
        context.set_slave(Slave(unit));
        let silent = |_| BusError::Silent { waited_ms: self.answer_max.as_millis() };
        let answer =
            timeout(self.answer_max, context.call(pdu)).await.map_err(silent)?.map_err(unanswered)?;
        self.context = Some(context);
        Ok(answer)
    }

    fn garbled(&mut self, what: String) -> BusError {
        self.context = None;
        BusError::Garbled(what)
    }
}

async fn connect(address: &str) -> Result<Context, BusError> {
    let stream = timeout(MODBUS_CONNECT_MAX, TcpStream::connect(address)).await;
    let stream = stream.map_err(|_| BusError::Unreachable(io::ErrorKind::TimedOut.into()))?;
    let stream = stream.map_err(BusError::Unreachable)?;
    // Each request waits for its answer; without this the kernel may wait for more.
    let _ = stream.set_nodelay(true);
    Ok(tcp::attach(stream))
}

fn unanswered(error: Error) -> BusError {
    match error {
        Error::Protocol(ProtocolError::HeaderMismatch { message, .. }) => BusError::Garbled(message),
        Error::Protocol(ProtocolError::FunctionCodeMismatch { request, .. }) => {
            BusError::Garbled(format!("another function than {request}"))
        }
        Error::Transport(error) => match error.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof => {
                BusError::Garbled(error.to_string())
            }
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted => {
                BusError::Closed(Some(error))
            }
            _ => BusError::Closed(None),
        },
    }
}

fn sent(response: &Response) -> String {
    match response {
        Response::ReadCoils(bits) | Response::ReadDiscreteInputs(bits) => format!("{} bits", bits.len()),
        Response::ReadHoldingRegisters(words) | Response::ReadInputRegisters(words) => {
            format!("{}", words.len())
        }
        other => format!("{other:?}"),
    }
}
