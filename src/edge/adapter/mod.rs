//! Devices that speak MQTT themselves, in words of their makers: lamps, plugs, contacts, motion sensors.
//!
//! ```text
//! broker ═MQTT═► gateway ─► dialect (tasmota, zigbee2mqtt) ─► speaker ─► outbox
//! ```
//!
//! Owns the translation into [`Heard`], one pure module for each dialect: bytes in, meaning out; a payload that has no
//! meaning is an error with its reason. What of it is worth an event, `speaker.rs` says. Takes no time from a device:
//! theirs have no zone, or no clock. May not command a device.

pub mod gateway;
pub mod speaker;
pub mod tasmota;
pub mod zigbee2mqtt;

use std::cell::RefCell;

use serde_json::{Map, Value};

use crate::limits::ADAPTER_PAYLOAD_BYTES_MAX;

/// What a device said.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Heard {
    /// The gateway or the device itself says whether it is there.
    pub online: Option<bool>,
    /// Its lamps by circuit, from 1; one for most.
    pub lamps: Vec<LampHeard>,
    /// Its inputs by number, from 1: what hangs on one, the configuration says.
    pub inputs: Vec<(u16, bool)>,
    /// Something moves before it, or stopped.
    pub motion: Option<bool>,
    /// A contact: open or closed.
    pub open: Option<bool>,
    pub tampered: Option<bool>,
    pub battery_percent: Option<f64>,
    pub battery_low: Option<bool>,
    /// How well its radio is heard.
    pub link_percent: Option<f64>,
    /// Values that have no meaning; the others are taken all the same.
    pub odd: Vec<AdapterError>,
}

/// What was said of one lamp; what was not said is as before.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LampHeard {
    pub circuit: u16,
    pub on: Option<bool>,
    pub dim_percent: Option<f64>,
    pub power_w: Option<f64>,
    pub current_a: Option<f64>,
    pub voltage_v: Option<f64>,
    pub power_factor: Option<f64>,
    pub energy_kwh: Option<f64>,
}

/// Why a payload has no meaning here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdapterError {
    #[error("{bytes} bytes; at most {ADAPTER_PAYLOAD_BYTES_MAX} are read")]
    TooLarge { bytes: usize },
    #[error("neither text nor JSON")]
    NotText,
    #[error("{key} = {value}: {wanted} is expected")]
    Value { key: String, value: String, wanted: &'static str },
    #[error("nothing in it is known: {0}")]
    Nothing(String),
}

impl AdapterError {
    /// A word for figures.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too_large",
            Self::NotText => "not_text",
            Self::Value { .. } => "value",
            Self::Nothing(_) => "nothing_known",
        }
    }
}

/// The payload as JSON; a word without quotes is a text. None for the empty message that takes back a retained one.
fn read(payload: &[u8]) -> Result<Option<Value>, AdapterError> {
    if payload.len() > ADAPTER_PAYLOAD_BYTES_MAX {
        return Err(AdapterError::TooLarge { bytes: payload.len() });
    }
    let text = std::str::from_utf8(payload).map_err(|_| AdapterError::NotText)?.trim();
    if text.is_empty() {
        return Ok(None);
    }
    Ok(Some(serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))))
}

/// Reads the values of an object; numbers and truths may come as text. What has no meaning is noted and taken for absent.
struct Fields<'a> {
    map: &'a Map<String, Value>,
    odd: RefCell<Vec<AdapterError>>,
}

impl<'a> Fields<'a> {
    fn new(map: &'a Map<String, Value>) -> Self {
        Self { map, odd: RefCell::default() }
    }

    /// A finite number. Absent, null and an empty text are nothing.
    fn number(&self, key: &str) -> Option<f64> {
        self.number_of(key, self.map.get(key)?)
    }

    fn number_of(&self, key: &str, value: &Value) -> Option<f64> {
        if is_nothing(value) {
            return None;
        }
        let number = match value {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        let number = number.filter(|n: &f64| n.is_finite());
        if number.is_none() {
            self.note(key, value, "a number");
        }
        number
    }

    fn truth(&self, key: &str) -> Option<bool> {
        let value = self.map.get(key).filter(|value| !is_nothing(value))?;
        let truth = match value {
            Value::Bool(truth) => Some(*truth),
            Value::Number(number) => match number.as_f64() {
                Some(0.0) => Some(false),
                Some(1.0) => Some(true),
                _ => None,
            },
            Value::String(text) => truth_of(text),
            _ => None,
        };
        if truth.is_none() {
            self.note(key, value, "on, off, true or false");
        }
        truth
    }

    fn note(&self, key: &str, value: &Value, wanted: &'static str) {
        let value: String = value.to_string().chars().take(80).collect();
        self.odd.borrow_mut().push(AdapterError::Value { key: key.to_owned(), value, wanted });
    }
}

fn is_nothing(value: &Value) -> bool {
    value.is_null() || value.as_str().is_some_and(|text| text.trim().is_empty())
}

fn truth_of(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "on" | "true" | "1" | "online" => Some(true),
        "off" | "false" | "0" | "offline" => Some(false),
        _ => None,
    }
}

/// The beginning of a payload, for an error.
fn beginning(value: &Value) -> String {
    value.to_string().chars().take(120).collect()
}
