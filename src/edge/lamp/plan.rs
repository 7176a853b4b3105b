//! Which requests read a cabinet, and what its answers say of each circuit.
//!
//! Owns the joining of map and configuration: neighbouring registers are read together, in as few requests as the map
//! allows. Pure: does no I/O, and may not judge what is read.

use std::collections::BTreeMap;
use std::path::Path;

use super::map::{By, CabinetMap, Function, Quantity, Register, Write, WriteFunction};
use crate::edge::config::{CircuitConfig, LampConfig};
use crate::limits::MODBUS_BITS_MAX;
use crate::model::LampAct;
use crate::toml_file::{ConfigError, ConfigFile};

/// What the cabinet says of one circuit.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Reading {
    pub on: bool,
    /// None where nobody measures it; a cabinet always does.
    pub current_a: Option<f64>,
    pub power_w: Option<f64>,
    /// The cabinet's own fault contact.
    pub contact: bool,
    pub voltage_v: Option<f64>,
    pub power_factor: Option<f64>,
    /// Import of the circuit, and of all circuits of its meter.
    pub energy_kwh: Option<f64>,
    pub energy_total_kwh: Option<f64>,
    pub dim_percent: Option<f64>,
}

/// One read request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub unit: u8,
    pub function: Function,
    pub address: u16,
    /// Registers or bits.
    pub count: u16,
}

/// One write request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteRequest {
    pub unit: u8,
    pub address: u16,
    pub value: WriteValue,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteValue {
    Coil(bool),
    Register(u16),
    Registers(u16),
}

/// How one cabinet is read and written.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Name of the map, for errors.
    pub map: String,
    pub requests: Vec<Request>,
    circuits: Vec<CircuitPlan>,
}

#[derive(Debug, Clone)]
struct CircuitPlan {
    values: Vec<Value>,
    switch: Option<(u8, u16, Write)>,
    dim: Option<(u8, u16, Write)>,
}

/// Where the answer to one request has a value.
#[derive(Debug, Clone)]
struct Value {
    quantity: Quantity,
    register: Register,
    address: u16,
    request: usize,
    offset: usize,
}

/// What the answers of one round say of a circuit.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CircuitRound {
    /// None if something that it needs was not answered, or makes no sense.
    pub reading: Option<Reading>,
    /// What was answered and makes no sense: quantity, place and words, for people.
    pub absurd: Vec<String>,
}

impl Plan {
    /// Reads the lamp's map and joins both.
    pub fn load(config: &LampConfig) -> Result<Self, ConfigError> {
        let map = CabinetMap::load(&config.map)?;
        Self::new(&map, config).map_err(|what| ConfigError::Content {
            path: config.map.clone(),
            what: format!("lamp {}: {what}", config.id),
        })
    }

    /// Joins map and configuration; says what does not fit together.
    pub fn new(map: &CabinetMap, config: &LampConfig) -> Result<Self, String> {
        check_units(map, config)?;
        let mut wanted = BTreeMap::new();
        for circuit in &config.circuits {
            for (_, register) in map.quantities.all() {
                let (unit, address) = place(
                    map,
                    config,
                    circuit,
                    &register.part,
                    (register.address, register.by, register.stride),
                )?;
                let words =
                    wanted.entry((unit, register.function, address)).or_insert((register.words(), register));
                words.0 = words.0.max(register.words());
            }
        }
        let requests = join(map, &wanted)?;
        let circuits: Result<_, String> =
            config.circuits.iter().map(|circuit| CircuitPlan::new(map, config, circuit, &requests)).collect();
        let map_name = config.map.file_name().map(Path::new).unwrap_or(&config.map);
        Ok(Self { map: map_name.display().to_string(), requests, circuits: circuits? })
    }

    /// What the answers to [`Plan::requests`] say of the circuit at `index`.
    pub fn circuit(&self, index: usize, answers: &[Option<Vec<u16>>]) -> CircuitRound {
        let mut round = CircuitRound { reading: Some(Reading::default()), absurd: Vec::new() };
        for value in &self.circuits[index].values {
            let words = answers[value.request]
                .as_ref()
                .and_then(|words| words.get(value.offset..))
                .unwrap_or_default();
            let words = &words[..words.len().min(value.register.words().into())];
            let found = value.register.value(value.quantity, words);
            if found.is_none() && !words.is_empty() {
                let what = (value.quantity.as_str(), value.register.function.as_str());
                let hex: Vec<String> = words.iter().map(|word| format!("{word:04x}")).collect();
                let unit = self.requests[value.request].unit;
                round.absurd.push(format!(
                    "{} in {} {} of unit {unit}: {}",
                    what.0,
                    what.1,
                    value.address,
                    hex.join(" ")
                ));
            }
            match (found, &mut round.reading) {
                (Some(found), Some(reading)) => reading.set(value.quantity, found),
                (None, reading) if value.quantity.is_required() => *reading = None,
                _ => {}
            }
        }
        round
    }

    /// The requests that the circuit at `index` needs, by number.
    pub fn requests_of(&self, index: usize) -> Vec<usize> {
        let mut requests: Vec<usize> =
            self.circuits[index].values.iter().map(|value| value.request).collect();
        requests.sort_unstable();
        requests.dedup();
        requests
    }

    /// How the circuit at `index` is told to do this; None if the map knows no way.
    pub fn write(&self, index: usize, act: LampAct) -> Option<WriteRequest> {
        let circuit = &self.circuits[index];
        let (unit, address, write) = match act {
            LampAct::Switch { .. } => circuit.switch.as_ref()?,
            LampAct::Dim { .. } => circuit.dim.as_ref()?,
        };
        let number = match act {
            LampAct::Switch { on } => {
                if on {
                    write.on
                } else {
                    write.off
                }
            }
            LampAct::Dim { percent } => (f64::from(percent) / write.scale).round() as u16,
        };
        let value = match (write.function, act) {
            (WriteFunction::Coil, LampAct::Switch { on }) => WriteValue::Coil(on),
            // The map's check has refused it.
            (WriteFunction::Coil, LampAct::Dim { .. }) => return None,
            (WriteFunction::HoldingRegister, _) => WriteValue::Register(number),
            (WriteFunction::HoldingRegisters, _) => WriteValue::Registers(number),
        };
        Some(WriteRequest { unit: *unit, address: *address, value })
    }

    /// Every value that a circuit's reading is made of, and where it stands: what a server of this map has to answer.
    pub fn places(&self, index: usize) -> impl Iterator<Item = (Quantity, u8, u16, &Register)> {
        let values = self.circuits[index].values.iter();
        values
            .map(|value| (value.quantity, self.requests[value.request].unit, value.address, &value.register))
    }
}

impl Reading {
    fn set(&mut self, quantity: Quantity, value: f64) {
        match quantity {
            Quantity::On => self.on = value != 0.0,
            Quantity::Current => self.current_a = Some(value),
            Quantity::Power => self.power_w = Some(value),
            Quantity::Voltage => self.voltage_v = Some(value),
            Quantity::PowerFactor => self.power_factor = Some(value),
            Quantity::Energy => self.energy_kwh = Some(value),
            Quantity::EnergyTotal => self.energy_total_kwh = Some(value),
            Quantity::Fault => self.contact = value != 0.0,
            Quantity::Dim => self.dim_percent = Some(value),
        }
    }

    /// Whether the cabinet shows what it was told. Dimmers round to steps of their own.
    pub fn shows(&self, act: LampAct) -> bool {
        match act {
            LampAct::Switch { on } => self.on == on,
            LampAct::Dim { percent } => {
                self.dim_percent.is_some_and(|dim| (dim - f64::from(percent)).abs() <= 1.0)
            }
        }
    }
}

impl CircuitPlan {
    fn new(
        map: &CabinetMap,
        config: &LampConfig,
        circuit: &CircuitConfig,
        requests: &[Request],
    ) -> Result<Self, String> {
        let mut values = Vec::new();
        for (quantity, register) in map.quantities.all() {
            let counted = (register.address, register.by, register.stride);
            let (unit, address) = place(map, config, circuit, &register.part, counted)?;
            let is_in = |request: &Request| {
                (request.unit, request.function) == (unit, register.function)
                    && (request.address..=request.address + (request.count - 1)).contains(&address)
            };
            let request = requests.iter().position(is_in).ok_or("no request covers a register")?;
            let offset = usize::from(address - requests[request].address);
            values.push(Value { quantity, register: register.clone(), address, request, offset });
        }
        let write = |write: &Option<Write>| -> Result<_, String> {
            let Some(write) = write else { return Ok(None) };
            let counted = (write.address, write.by, write.stride);
            let (unit, address) = place(map, config, circuit, &write.part, counted)?;
            Ok(Some((unit, address, write.clone())))
        };
        Ok(Self { values, switch: write(&map.writes.switch)?, dim: write(&map.writes.dim)? })
    }
}

fn check_units(map: &CabinetMap, config: &LampConfig) -> Result<(), String> {
    let named = config.units.keys().chain(config.circuits.iter().flat_map(|circuit| circuit.units.keys()));
    for part in named {
        if !map.parts.contains_key(part) {
            return Err(format!("units: the map has no part {part:?}"));
        }
    }
    Ok(())
}

/// Unit and address of what stands at (address, by, stride) for this circuit.
fn place(
    map: &CabinetMap,
    config: &LampConfig,
    circuit: &CircuitConfig,
    part: &str,
    (address, by, stride): (u16, By, u16),
) -> Result<(u8, u16), String> {
    let unit = circuit.units.get(part).or_else(|| config.units.get(part)).copied();
    let unit = unit.unwrap_or(map.parts[part].unit);
    let number = match by {
        By::One => Some(1),
        By::Circuit => Some(circuit.circuit),
        By::Phase => circuit.phase,
        By::Relay => circuit.relay,
    };
    let number = number.filter(|&number| number > 0).ok_or_else(|| {
        format!(
            "circuit {}: the map counts by {}: add `{} = …`, from 1",
            circuit.circuit,
            by.as_str(),
            by.as_str()
        )
    })?;
    let address = u32::from(address) + u32::from(number - 1) * u32::from(stride);
    // A value of two registers must fit too, and the end behind it.
    let address = u16::try_from(address).ok().filter(|&address| address <= u16::MAX - 2);
    let address =
        address.ok_or_else(|| format!("circuit {}: its registers lie beyond 65533", circuit.circuit))?;
    Ok((unit, address))
}

/// Puts neighbours into one request. `wanted` is sorted by unit, function and address.
fn join(
    map: &CabinetMap,
    wanted: &BTreeMap<(u8, Function, u16), (u16, &Register)>,
) -> Result<Vec<Request>, String> {
    let mut requests: Vec<Request> = Vec::new();
    for (&(unit, function, address), &(words, register)) in wanted {
        let part = &map.parts[&register.part];
        let most = if function.is_bits() { MODBUS_BITS_MAX } else { part.request_registers_max };
        let end = address + words;
        if let Some(last) = requests.last_mut() {
            let is_same_table = (last.unit, last.function) == (unit, function);
            let last_end = last.address + last.count;
            let is_near = address <= last_end.saturating_add(part.gap_registers_max);
            let count = end.max(last_end) - last.address;
            if is_same_table && is_near && count <= most {
                last.count = count;
                continue;
            }
            if is_same_table && address < last_end {
                return Err(format!("{} {address} of unit {unit} lies in two values", function.as_str()));
            }
        }
        requests.push(Request { unit, function, address, count: words });
    }
    Ok(requests)
}

impl std::fmt::Display for Request {
    /// For instance "input registers 0 to 35 of unit 1".
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (what, first, unit) = (self.function.as_str(), self.address, self.unit);
        match self.count {
            1 => write!(f, "{what} {first} of unit {unit}"),
            count => write!(f, "{what}s {first} to {} of unit {unit}", first + (count - 1)),
        }
    }
}

impl std::fmt::Display for WriteRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = if matches!(self.value, WriteValue::Coil(_)) { "coil" } else { "holding register" };
        write!(f, "{what} {} of unit {}", self.address, self.unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::config::EdgeConfig;

    const SHIPPED: &str = include_str!("../../../config/cabinets/sdm630-relays.toml");
    const EDGE: &str = include_str!("../../../config/edge.toml");

    fn map(text: &str) -> CabinetMap {
        CabinetMap::parse(Path::new("map.toml"), text).unwrap()
    }

    /// The lamp of the shipped configuration: circuits 1 and 4, each phase 1 of its own meter.
    fn config() -> LampConfig {
        EdgeConfig::parse(Path::new("config/edge.toml"), EDGE).unwrap().lamps.remove(0)
    }

    fn told(plan: &Plan) -> Vec<String> {
        plan.requests.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn neighbours_are_read_together_as_far_as_the_map_allows() {
        let config = config();
        let expected = [
            "input registers 0 to 31 of unit 1",
            "input registers 72 to 73 of unit 1",
            "input registers 346 to 347 of unit 1",
            "input registers 0 to 31 of unit 2",
            "input registers 72 to 73 of unit 2",
            "input registers 346 to 347 of unit 2",
            "coils 0 to 3 of unit 10",
            "discrete inputs 0 to 3 of unit 10",
        ];
        assert_eq!(told(&Plan::new(&map(SHIPPED), &config).unwrap()), expected);
        // Relays 2 and 3 are nobody's: a map that says nothing of gaps leaves them out.
        let without = Plan::new(&map(&SHIPPED.replace("gap_registers_max = 7", "")), &config).unwrap();
        assert_eq!(told(&without)[6..8], ["coil 0 of unit 10", "coil 3 of unit 10"]);
        // A cheap meter.
        for (most, requests) in [(125, 8), (16, 10), (2, 14)] {
            let text =
                SHIPPED.replace("request_registers_max = 60", &format!("request_registers_max = {most}"));
            let plan = Plan::new(&map(&text), &config).unwrap();
            assert_eq!(plan.requests.len(), requests, "{most}: {:?}", told(&plan));
            let registers = plan.requests.iter().filter(|request| !request.function.is_bits());
            assert!(registers.clone().all(|request| request.count <= most), "{:?}", told(&plan));
        }
    }

    #[test]
    fn an_answer_that_is_missing_or_makes_no_sense_costs_only_its_circuit() {
        let plan = Plan::new(&map(SHIPPED), &config()).unwrap();
        let words = |value: f32| [(value.to_bits() >> 16) as u16, value.to_bits() as u16];
        let answer = |power_w: f32| {
            let mut registers = vec![0; 32];
            registers[..2].copy_from_slice(&words(230.5));
            registers[6..8].copy_from_slice(&words(5.2));
            registers[12..14].copy_from_slice(&words(power_w));
            registers[30..32].copy_from_slice(&words(-0.98));
            Some(registers)
        };
        let energy = |kwh: f32| Some(words(kwh).to_vec());
        let (coils, inputs) = (Some(vec![1, 0, 0, 1]), Some(vec![0; 4]));
        let meters = [answer(1200.0), energy(300.0), energy(100.5), answer(f32::NAN), energy(7.0), None];
        let mut answers: Vec<_> = meters.into_iter().chain([coils, inputs]).collect();
        let first = plan.circuit(0, &answers);
        let reading = Reading {
            on: true,
            current_a: Some(5.2),
            power_w: Some(1200.0),
            contact: false,
            voltage_v: Some(230.5),
            power_factor: Some(-0.98),
            energy_kwh: Some(100.5),
            energy_total_kwh: Some(300.0),
            dim_percent: None,
        };
        assert_eq!(first, CircuitRound { reading: Some(reading), absurd: vec![] });
        let second = plan.circuit(1, &answers);
        let absurd = "power in input register 12 of unit 2: 7fc0 0000".to_owned();
        assert_eq!(second, CircuitRound { reading: None, absurd: vec![absurd] });
        // What a circuit can do without is left out.
        answers[3] = answer(800.0);
        answers[2] = energy(-1.0);
        assert_eq!(
            plan.circuit(1, &answers).reading.map(|r| (r.power_w, r.energy_kwh)),
            Some((Some(800.0), None))
        );
        let first = plan.circuit(0, &answers);
        assert_eq!((first.reading.map(|r| r.energy_kwh), first.absurd.len()), (Some(None), 1));
        // Without a required one there is no reading.
        answers[6] = None;
        assert_eq!(plan.circuit(0, &answers).reading, None);
    }

    #[test]
    fn what_does_not_fit_together_is_refused_with_what_to_do() {
        type Change = fn(&mut LampConfig);
        let table: [(Change, &str); 5] = [
            (|lamp| lamp.circuits[1].phase = None, "circuit 4: the map counts by phase: add `phase"),
            (|lamp| lamp.circuits[0].relay = Some(0), "circuit 1: the map counts by relay"),
            (|lamp| lamp.units.extend([("metre".to_owned(), 1)]), "no part \"metre\""),
            (|lamp| lamp.circuits[0].units.extend([("relais".to_owned(), 1)]), "no part \"relais\""),
            (|lamp| lamp.circuits[0].phase = Some(40_000), "beyond 65533"),
        ];
        for (change, expected) in table {
            let mut config = config();
            change(&mut config);
            let error = Plan::new(&map(SHIPPED), &config).unwrap_err();
            assert!(error.contains(expected), "{expected}: {error}");
        }
        let twice = SHIPPED.replace("address = 0x0006", "address = 0x000D");
        let error = Plan::new(
            &map(&twice.replace("request_registers_max = 60", "request_registers_max = 2")),
            &config(),
        );
        assert!(error.unwrap_err().contains("lies in two values"));
    }

    #[test]
    fn a_command_is_written_as_the_map_says() {
        let config = config();
        let (on, off, dim) =
            (LampAct::Switch { on: true }, LampAct::Switch { on: false }, LampAct::Dim { percent: 40 });
        let plan = Plan::new(&map(SHIPPED), &config).unwrap();
        let coil = |address, on| Some(WriteRequest { unit: 10, address, value: WriteValue::Coil(on) });
        assert_eq!(
            [plan.write(0, on), plan.write(1, off), plan.write(0, dim)],
            [coil(0, true), coil(3, false), None]
        );
        // A controller that switches and dims by registers.
        let quantity = "[quantity.dim]\npart = \"relays\"\nfunction = \"holding_register\"\naddress = 100\n\
            by = \"relay\"\nstride = 1\ntype = \"u16\"\nscale = 0.5\nunit = \"%\"\n";
        let writes = "[write.switch]\npart = \"relays\"\nfunction = \"holding_register\"\naddress = 200\n\
            by = \"relay\"\nstride = 2\non = 0xff\noff = 0x0f\n[write.dim]\npart = \"relays\"\n\
            function = \"holding_registers\"\naddress = 100\nby = \"relay\"\nstride = 1\nscale = 0.5\n";
        let text = format!("{}{quantity}{writes}", SHIPPED.split("[write.switch]").next().unwrap());
        let plan = Plan::new(&map(&text), &config).unwrap();
        let written = |address, value| Some(WriteRequest { unit: 10, address, value });
        let expected = [
            written(206, WriteValue::Register(0xff)),
            written(206, WriteValue::Register(0x0f)),
            written(103, WriteValue::Registers(80)),
        ];
        assert_eq!([plan.write(1, on), plan.write(1, off), plan.write(1, dim)], expected);
    }
}
