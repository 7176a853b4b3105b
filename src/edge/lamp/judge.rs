//! What of a cabinet's readings is worth an event: changes, faults, a slow heartbeat, and what was told by command.
//!
//! Decides, without I/O or clock. May not ask the cabinet.

use std::time::{Duration, Instant};

use super::plan::Reading;
use jiff::SignedDuration;

use crate::edge::config::CircuitConfig;
use crate::model::{Lamp, LampCommanded, LampReason};

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
    /// What it was told and not yet reported.
    commanded: Option<LampCommanded>,
}

struct Reported {
    at: Instant,
    on: bool,
    power_w: Option<f64>,
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
    /// Each circuit is reported again after a `heartbeat`. A nominal power of 0 is one that nobody knows.
    pub fn new(heartbeat: SignedDuration, circuits: &[CircuitConfig]) -> Self {
        let circuit = |c: &CircuitConfig| Circuit {
            number: c.circuit,
            nominal_w: c.nominal_power_w,
            lamp_w: c.lamps.filter(|&lamps| lamps > 0).map(|lamps| c.nominal_power_w / f64::from(lamps)),
            switched: None,
            fault: None,
            reported: None,
            commanded: None,
        };
        let heartbeat = Duration::try_from(heartbeat).unwrap_or_default();
        Self { heartbeat, circuits: circuits.iter().map(circuit).collect() }
    }

    /// Takes a reading of the circuit at `index`; says what is to be reported, if anything.
    pub fn observe(&mut self, index: usize, reading: Reading, now: Instant) -> Option<Lamp> {
        let circuit = &mut self.circuits[index];
        circuit.judge(reading, now);
        let command = circuit.commanded.take();
        let reason = match command {
            Some(_) => LampReason::Command,
            None => circuit.reason(reading, now, self.heartbeat)?,
        };
        let fault = circuit.fault;
        circuit.reported = Some(Reported { at: now, on: reading.on, power_w: reading.power_w, fault });
        Some(Lamp {
            circuit: circuit.number,
            reason,
            on: reading.on,
            current_a: reading.current_a,
            power_w: reading.power_w,
            voltage_v: reading.voltage_v,
            power_factor: reading.power_factor,
            energy_kwh: reading.energy_kwh,
            energy_total_kwh: reading.energy_total_kwh,
            dim_percent: reading.dim_percent,
            fault: fault.map(|fault| circuit.fault_text(fault, reading.power_w)),
            command: command.map(|command| LampCommanded { done: reading.shows(command.act), ..command }),
        })
    }

    /// The circuit was written to, or may have been: its next reading is reported with this.
    pub fn commanded(&mut self, index: usize, command: LampCommanded) {
        self.circuits[index].commanded = Some(command);
    }

    /// This report of the circuit was not taken: it is due again.
    pub fn not_reported(&mut self, index: usize, lamp: Lamp) {
        self.circuits[index].reported = None;
        self.circuits[index].commanded = lamp.command;
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
        let power_w = reading.power_w?;
        let residual_w = self.nominal_w * RESIDUAL_SHARE;
        if !reading.on {
            return (power_w > residual_w.max(POWER_CHANGE_W)).then_some(CircuitFault::OnWhenOff);
        }
        if power_w < residual_w {
            return Some(CircuitFault::SupplyLoss);
        }
        let has_failed = self.fault == Some(CircuitFault::LampFailure);
        let (share, of_a_lamp) =
            if has_failed { (MENDED_SHARE, MENDED_OF_A_LAMP) } else { (MISSING_SHARE, MISSING_OF_A_LAMP) };
        let tolerated_w = self.lamp_w.map_or(self.nominal_w * share, |lamp_w| lamp_w * of_a_lamp);
        (self.nominal_w - power_w > tolerated_w).then_some(CircuitFault::LampFailure)
    }

    /// A fixed name; for missing power a colon and how much follow.
    fn fault_text(&self, fault: CircuitFault, power_w: Option<f64>) -> String {
        let missing_w = self.nominal_w - power_w.unwrap_or(0.0);
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
        let power_changed = match (reading.power_w, last.power_w) {
            (Some(now), Some(last)) => (now - last).abs() > (last * POWER_CHANGE_SHARE).max(POWER_CHANGE_W),
            (now, last) => now.is_some() && last.is_none(),
        };
        if reading.on != last.on || self.fault != last.fault || power_changed {
            Some(LampReason::Change)
        } else {
            (now - last.at >= heartbeat).then_some(LampReason::Heartbeat)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::LampAct;

    fn lamps(circuit: CircuitConfig) -> Lamps {
        Lamps::new(SignedDuration::from_secs(900), &[circuit])
    }

    fn circuit(nominal_power_w: f64) -> CircuitConfig {
        let units = Default::default();
        CircuitConfig { circuit: 3, phase: None, relay: None, nominal_power_w, lamps: None, units }
    }

    #[test]
    fn where_the_number_of_lamps_is_known_one_failed_lamp_shows() {
        let mut lamps = lamps(CircuitConfig { lamps: Some(40), ..circuit(1600.0) });
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
        Reading { on, current_a: Some(power_w / 218.5), power_w: Some(power_w), ..Reading::default() }
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
            let mut lamps = lamps(circuit(nominal));
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
        let mut lamps = lamps(circuit(100.0));
        let now = Instant::now();
        let lamp = lamps.observe(0, reading(true, 100.0), now).unwrap();
        assert!(lamps.observe(0, reading(true, 100.0), now).is_none());
        lamps.not_reported(0, lamp);
        assert!(lamps.observe(0, reading(true, 100.0), now).is_some());
    }

    #[test]
    fn what_a_circuit_was_told_is_reported_with_its_next_reading() {
        let mut lamps = lamps(circuit(100.0));
        let now = Instant::now();
        lamps.observe(0, reading(true, 100.0), now).unwrap();
        let told = |on| LampCommanded {
            correlation: "c1".into(),
            act: LampAct::Switch { on },
            actor: "demo".into(),
            purpose: Some("thử".into()),
            done: false,
        };
        for (on, done) in [(true, true), (false, false)] {
            lamps.commanded(0, told(on));
            // Nothing changed, and it is an event all the same.
            let lamp = lamps.observe(0, reading(true, 100.0), now).unwrap();
            assert_eq!((lamp.reason, lamp.on), (LampReason::Command, true));
            assert_eq!(lamp.command, Some(LampCommanded { done, ..told(on) }));
            // An outbox that did not take it gets it again, with who asked.
            lamps.not_reported(0, lamp.clone());
            assert_eq!(lamps.observe(0, reading(true, 100.0), now), Some(lamp));
            assert_eq!(lamps.observe(0, reading(true, 100.0), now), None);
        }
    }
}
