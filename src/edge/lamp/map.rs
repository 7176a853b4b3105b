//! A cabinet's register map: which quantity a make of meter and relay board keeps where, as a data file
//! (`config/cabinets/*.toml`).
//!
//! Owns the file's meaning: addresses, number formats, units, and what a value may be. Does no I/O but reading the file,
//! and may not ask a cabinet (see `bus`) nor judge its lamps (see `judge`).

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use crate::limits::{
    LAMP_CURRENT_A_MAX, LAMP_ENERGY_KWH_MAX, LAMP_POWER_W_MAX, LAMP_VOLTAGE_V_MAX, MODBUS_REGISTERS_MAX,
};
use crate::toml_file::ConfigFile;

/// The version of the file's format that this code reads.
const FORMAT: u32 = 1;

/// One file of `config/cabinets`. The shipped one explains each key.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CabinetMap {
    pub format: u32,
    pub name: String,
    /// Where the addresses come from.
    pub source: String,
    /// What they were checked against.
    pub checked: String,
    #[serde(rename = "part")]
    pub parts: BTreeMap<String, Part>,
    #[serde(rename = "quantity")]
    pub quantities: Quantities,
    #[serde(default, rename = "write")]
    pub writes: Writes,
}

/// What answers under a Modbus unit of its own.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// The unit, unless the lamp's configuration says another.
    pub unit: u8,
    /// Registers of one request; cheap meters take fewer than Modbus allows.
    #[serde(default = "default_registers_max")]
    pub request_registers_max: u16,
    /// Registers between two wanted ones that may be read along.
    #[serde(default)]
    pub gap_registers_max: u16,
}

/// Where each quantity stands.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quantities {
    pub on: Register,
    pub current: Register,
    pub power: Register,
    pub voltage: Option<Register>,
    pub power_factor: Option<Register>,
    pub energy: Option<Register>,
    pub energy_total: Option<Register>,
    pub fault: Option<Register>,
    pub dim: Option<Register>,
}

/// What a register stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Quantity {
    On,
    Current,
    Power,
    Voltage,
    PowerFactor,
    Energy,
    EnergyTotal,
    Fault,
    Dim,
}

/// A value that is read.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Register {
    pub part: String,
    pub function: Function,
    /// Zero-based, as on the wire.
    pub address: u16,
    pub by: By,
    /// From one to the next.
    #[serde(default)]
    pub stride: u16,
    #[serde(rename = "type")]
    pub kind: Kind,
    #[serde(default)]
    pub words: WordOrder,
    /// Which bit of a register, from 0.
    #[serde(default)]
    pub bit: u8,
    #[serde(default = "default_scale")]
    pub scale: f64,
    pub unit: Option<Unit>,
}

/// How it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Function {
    /// Function 1.
    Coil,
    /// Function 2.
    DiscreteInput,
    /// Function 3.
    HoldingRegister,
    /// Function 4.
    InputRegister,
}

/// What is counted from `address` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    One,
    Circuit,
    Phase,
    Relay,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Bit,
    U16,
    I16,
    U32,
    I32,
    F32,
}

/// Which word of a 32-bit number comes first. Within a word the high byte does, always.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WordOrder {
    #[default]
    Big,
    Little,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Unit {
    V,
    A,
    #[serde(rename = "mA")]
    MilliA,
    W,
    #[serde(rename = "kW")]
    KiloW,
    #[serde(rename = "Wh")]
    WattHours,
    #[serde(rename = "kWh")]
    KiloWattHours,
    #[serde(rename = "%")]
    Percent,
}

/// What may be written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Writes {
    pub switch: Option<Write>,
    pub dim: Option<Write>,
}

/// A value that is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Write {
    pub part: String,
    pub function: WriteFunction,
    /// Zero-based, as on the wire.
    pub address: u16,
    pub by: By,
    #[serde(default)]
    pub stride: u16,
    /// For dim: per cent of one step.
    #[serde(default = "default_scale")]
    pub scale: f64,
    /// For a switch in a register: its two numbers.
    #[serde(default = "default_on")]
    pub on: u16,
    #[serde(default)]
    pub off: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WriteFunction {
    /// Function 5.
    Coil,
    /// Function 6.
    HoldingRegister,
    /// Function 16, for devices that know no function 6.
    HoldingRegisters,
}

fn default_registers_max() -> u16 {
    MODBUS_REGISTERS_MAX
}
fn default_scale() -> f64 {
    1.0
}
fn default_on() -> u16 {
    1
}

impl ConfigFile for CabinetMap {
    fn check(&self) -> Result<(), String> {
        if self.format != FORMAT {
            return Err(format!("format = {}: this camnet reads {FORMAT}", self.format));
        }
        for (name, part) in &self.parts {
            if !(1..=MODBUS_REGISTERS_MAX).contains(&part.request_registers_max) {
                return Err(format!("part.{name}: request_registers_max: 1 to {MODBUS_REGISTERS_MAX}"));
            }
        }
        for (quantity, register) in self.quantities.all() {
            let name = format!("quantity.{}", quantity.as_str());
            self.check_part(&name, &register.part)?;
            register.check(quantity).map_err(|what| format!("{name}: {what}"))?;
            let most = self.parts[&register.part].request_registers_max;
            if register.words() > most {
                return Err(format!("{name}: two registers, and request_registers_max = {most}"));
            }
        }
        if let Some(write) = &self.writes.switch {
            self.check_part("write.switch", &write.part)?;
        }
        if let Some(write) = &self.writes.dim {
            self.check_part("write.dim", &write.part)?;
            if self.quantities.dim.is_none() {
                return Err("write.dim: add quantity.dim, where it can be read back".into());
            }
            if write.function == WriteFunction::Coil {
                return Err("write.dim: a coil can't be dimmed; name a holding_register".into());
            }
            check_scale(write.scale).map_err(|what| format!("write.dim: {what}"))?;
        }
        Ok(())
    }

    fn paths_mut(&mut self) -> Vec<&mut PathBuf> {
        Vec::new()
    }
}

impl CabinetMap {
    fn check_part(&self, of: &str, part: &str) -> Result<(), String> {
        if self.parts.contains_key(part) {
            return Ok(());
        }
        Err(format!("{of}: part = {part:?}, but there is no [part.{part}]"))
    }
}

impl Quantities {
    /// Those that the make has.
    pub fn all(&self) -> impl Iterator<Item = (Quantity, &Register)> {
        let required =
            [(Quantity::On, &self.on), (Quantity::Current, &self.current), (Quantity::Power, &self.power)];
        let optional = [
            (Quantity::Voltage, &self.voltage),
            (Quantity::PowerFactor, &self.power_factor),
            (Quantity::Energy, &self.energy),
            (Quantity::EnergyTotal, &self.energy_total),
            (Quantity::Fault, &self.fault),
            (Quantity::Dim, &self.dim),
        ];
        let optional = optional.into_iter().filter_map(|(q, register)| Some((q, register.as_ref()?)));
        required.into_iter().chain(optional)
    }
}

impl Quantity {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Current => "current",
            Self::Power => "power",
            Self::Voltage => "voltage",
            Self::PowerFactor => "power_factor",
            Self::Energy => "energy",
            Self::EnergyTotal => "energy_total",
            Self::Fault => "fault",
            Self::Dim => "dim",
        }
    }

    /// Without it there is no reading at all.
    pub fn is_required(self) -> bool {
        matches!(self, Self::On | Self::Current | Self::Power)
    }

    fn is_yes_or_no(self) -> bool {
        matches!(self, Self::On | Self::Fault)
    }

    /// What one step of `unit` is in volts, amperes, watts, kilowatt-hours or per cent; None for a unit of something else.
    fn factor(self, unit: Option<Unit>) -> Option<f64> {
        match (self, unit) {
            (Self::On | Self::Fault | Self::PowerFactor, None) => Some(1.0),
            (Self::Current, Some(Unit::A)) => Some(1.0),
            (Self::Current, Some(Unit::MilliA)) => Some(1e-3),
            (Self::Power, Some(Unit::W)) => Some(1.0),
            (Self::Power, Some(Unit::KiloW)) => Some(1e3),
            (Self::Voltage, Some(Unit::V)) => Some(1.0),
            (Self::Energy | Self::EnergyTotal, Some(Unit::KiloWattHours)) => Some(1.0),
            (Self::Energy | Self::EnergyTotal, Some(Unit::WattHours)) => Some(1e-3),
            (Self::Dim, Some(Unit::Percent)) => Some(1.0),
            _ => None,
        }
    }

    /// Whether a lighting circuit can have this value. A current transformer that is turned round makes power negative,
    /// which is a mistake of the wiring and not of the bus.
    fn is_plausible(self, value: f64) -> bool {
        let (least, most) = match self {
            Self::On | Self::Fault => (0.0, 1.0),
            Self::Current => (-LAMP_CURRENT_A_MAX, LAMP_CURRENT_A_MAX),
            Self::Power => (-LAMP_POWER_W_MAX, LAMP_POWER_W_MAX),
            Self::Voltage => (0.0, LAMP_VOLTAGE_V_MAX),
            // Meters round.
            Self::PowerFactor => (-1.01, 1.01),
            Self::Energy | Self::EnergyTotal => (0.0, LAMP_ENERGY_KWH_MAX),
            Self::Dim => (0.0, 100.5),
        };
        // Not a number is in no range.
        (least..=most).contains(&value)
    }
}

impl Function {
    /// Coils and discrete inputs hold a bit, the others 16.
    pub fn is_bits(self) -> bool {
        matches!(self, Self::Coil | Self::DiscreteInput)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Coil => "coil",
            Self::DiscreteInput => "discrete input",
            Self::HoldingRegister => "holding register",
            Self::InputRegister => "input register",
        }
    }
}

impl By {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::One => "one",
            Self::Circuit => "circuit",
            Self::Phase => "phase",
            Self::Relay => "relay",
        }
    }
}

impl Register {
    fn check(&self, quantity: Quantity) -> Result<(), String> {
        if self.function.is_bits() && self.kind != Kind::Bit {
            return Err(format!("a {} holds a bit: type = \"bit\"", self.function.as_str()));
        }
        if (self.kind == Kind::Bit) != quantity.is_yes_or_no() && self.kind != Kind::U16 {
            return Err("a yes or no is a bit (or u16, 0 for no); anything else is a number".into());
        }
        if self.bit > 15 || (self.bit > 0 && (self.kind != Kind::Bit || self.function.is_bits())) {
            return Err("bit: 0 to 15, and only of a register with type = \"bit\"".into());
        }
        check_scale(self.scale)?;
        if quantity.factor(self.unit).is_none() {
            return Err(
                "unit: V for voltage, A or mA, W or kW, kWh or Wh, % for dim, none for the rest".into()
            );
        }
        Ok(())
    }

    /// Registers (or bits) that it takes.
    pub fn words(&self) -> u16 {
        match self.kind {
            Kind::Bit | Kind::U16 | Kind::I16 => 1,
            Kind::U32 | Kind::I32 | Kind::F32 => 2,
        }
    }

    /// The value in the quantity's own unit; None if no lighting circuit can have it.
    pub fn value(&self, quantity: Quantity, words: &[u16]) -> Option<f64> {
        let raw = self.raw(words)?;
        let value = if quantity.is_yes_or_no() {
            f64::from(u8::from(raw != 0.0))
        } else {
            raw * self.scale * quantity.factor(self.unit)?
        };
        quantity.is_plausible(value).then_some(value)
    }

    fn raw(&self, words: &[u16]) -> Option<f64> {
        let long = || {
            let (&first, &second) = (words.first()?, words.get(1)?);
            let (high, low) = if self.words == WordOrder::Big { (first, second) } else { (second, first) };
            Some(u32::from(high) << 16 | u32::from(low))
        };
        Some(match self.kind {
            Kind::Bit => f64::from(words.first()? >> self.bit & 1),
            Kind::U16 => f64::from(*words.first()?),
            Kind::I16 => f64::from(*words.first()? as i16),
            Kind::U32 => f64::from(long()?),
            Kind::I32 => f64::from(long()? as i32),
            // By its shortest text: the digits beyond are not the meter's.
            Kind::F32 => f32::from_bits(long()?).to_string().parse().ok()?,
        })
    }

    /// The words that say `value`: what a cabinet would answer.
    pub fn words_of(&self, quantity: Quantity, value: f64) -> Vec<u16> {
        let factor = quantity.factor(self.unit).unwrap_or(1.0);
        let raw = if quantity.is_yes_or_no() { value } else { value / factor / self.scale };
        let long = |bits: u32| {
            let (high, low) = ((bits >> 16) as u16, bits as u16);
            if self.words == WordOrder::Big { vec![high, low] } else { vec![low, high] }
        };
        match self.kind {
            Kind::Bit => vec![u16::from(raw != 0.0) << self.bit],
            Kind::U16 => vec![raw.round() as u16],
            Kind::I16 => vec![raw.round() as i16 as u16],
            Kind::U32 => long(raw.round() as u32),
            Kind::I32 => long(raw.round() as i32 as u32),
            Kind::F32 => long((raw as f32).to_bits()),
        }
    }
}

fn check_scale(scale: f64) -> Result<(), String> {
    let is_good = scale.is_finite() && scale > 0.0;
    if is_good { Ok(()) } else { Err(format!("scale = {scale}: give a number above 0")) }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const SHIPPED: &str = include_str!("../../../config/cabinets/sdm630-relays.toml");

    fn parse(text: &str) -> Result<CabinetMap, String> {
        CabinetMap::parse(Path::new("map.toml"), text).map_err(|error| error.to_string())
    }

    fn register(kind: Kind, words: WordOrder, scale: f64, unit: Option<Unit>) -> Register {
        let (part, function, by) = ("meter".to_owned(), Function::InputRegister, By::One);
        Register { part, function, address: 0, by, stride: 0, kind, words, bit: 0, scale, unit }
    }

    #[test]
    fn numbers_are_read_as_the_map_says() {
        use Kind::*;
        use Quantity::*;
        use WordOrder::{Big, Little};
        let (w, v, ma, wh) = (Some(Unit::W), Some(Unit::V), Some(Unit::MilliA), Some(Unit::WattHours));
        // (quantity, type, word order, scale, unit, words, value); 0x43664000 is 230.25 as IEEE 754.
        type Row<'a> = (Quantity, Kind, WordOrder, f64, Option<Unit>, &'a [u16], Option<f64>);
        let table: [Row; 17] = [
            (Voltage, F32, Big, 1.0, v, &[0x4366, 0x4000], Some(230.25)),
            (Voltage, F32, Little, 1.0, v, &[0x4000, 0x4366], Some(230.25)),
            (Power, U16, Big, 1.0, w, &[65_535], Some(65_535.0)),
            (Power, I16, Big, 1.0, w, &[0xffff], Some(-1.0)),
            (Power, U32, Big, 0.1, w, &[1, 0], Some(6553.6)),
            (Power, I32, Little, 1.0, w, &[0xfff6, 0xffff], Some(-10.0)),
            (Power, U16, Big, 1.0, Some(Unit::KiloW), &[2], Some(2000.0)),
            (Current, U16, Big, 1.0, ma, &[1500], Some(1.5)),
            (Energy, U32, Big, 10.0, wh, &[0, 250], Some(2.5)),
            (On, Bit, Big, 1.0, None, &[1], Some(1.0)),
            (On, U16, Big, 1.0, None, &[7], Some(1.0)),
            (On, U16, Big, 1.0, None, &[0], Some(0.0)),
            // What no circuit can have: not a number, words the wrong way round, a dead input.
            (Voltage, F32, Big, 1.0, v, &[0x7fc0, 0], None),
            (Voltage, F32, Big, 1.0, v, &[0x7f80, 0], None),
            (Power, F32, Big, 1.0, w, &[0x7149, 0xf2ca], None),
            (Voltage, U16, Big, 1.0, v, &[0xffff], None),
            (Voltage, F32, Big, 1.0, v, &[0x4366], None),
        ];
        for (quantity, kind, words, scale, unit, raw, expected) in table {
            let register = register(kind, words, scale, unit);
            let found = register.value(quantity, raw);
            let is_same = match (found, expected) {
                (Some(found), Some(expected)) => (found - expected).abs() < 1e-6,
                (found, expected) => found == expected,
            };
            assert!(is_same, "{quantity:?} {kind:?} {words:?} {raw:x?}: {found:?}, expected {expected:?}");
            if let Some(value) = found.filter(|_| !quantity.is_yes_or_no()) {
                assert_eq!(register.words_of(quantity, value), raw, "{quantity:?} {kind:?} back to words");
            }
        }
        let flags = Register { bit: 3, ..register(Bit, Big, 1.0, None) };
        assert_eq!(flags.value(Fault, &[0b1000]), Some(1.0));
        assert_eq!(flags.value(Fault, &[0b0111]), Some(0.0));
    }

    #[test]
    fn a_map_that_makes_no_sense_is_refused_with_what_to_do() {
        parse(SHIPPED).unwrap();
        let table = [
            ("format = 1", "format = 2", "this camnet reads 1"),
            ("format = 1", "format = 1\ncolour = 3", "unknown field `colour`"),
            ("request_registers_max = 60", "request_registers_max = 126", "1 to 125"),
            ("request_registers_max = 60", "request_registers_max = 1", "request_registers_max = 1"),
            ("part = \"meter\"", "part = \"metre\"", "there is no [part.metre]"),
            ("type = \"bit\"", "type = \"f32\"", "holds a bit"),
            ("unit = \"W\"", "unit = \"V\"", "quantity.power: unit"),
            ("unit = \"W\"", "unit = \"HP\"", "HP"),
            ("unit = \"W\"", "unit = \"W\"\nscale = 0.0", "above 0"),
            (
                "function = \"coil\"\naddress = 0x0000\nby = \"relay\"\nstride = 1\ntype = \"bit\"",
                "",
                "quantity",
            ),
            ("address = 0x0006", "address = 70000", "70000"),
            ("[write.switch]", "[write.dim]", "add quantity.dim"),
        ];
        for (from, to, expected) in table {
            let text = SHIPPED.replacen(from, to, 1);
            assert_ne!(text, SHIPPED, "{from} stands in the shipped map");
            let error = parse(&text).expect_err(to);
            assert!(error.contains(expected), "{to}: {error}");
        }
    }
}
