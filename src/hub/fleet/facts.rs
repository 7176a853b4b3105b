//! What was last heard of each device and each box.
//!
//! Owns the newest word of each kind: what arrives late replaces nothing that is newer. Pure; may not judge.

use std::collections::{BTreeMap, VecDeque};

use super::circuit::{Circuit, is_of_circuit, shows_well};
use super::rhythm::Rhythm;
use super::sun::Light;
use crate::limits::{FLEET_FAULTS_MAX, FLEET_STARTS_KEPT};
use crate::model::{
    BoxHealth, BoxId, CameraHealth, Coverage, DeviceId, Event, EventData, Fault, FaultPhase, Gate, SpanState,
    Status, Time, Trouble,
};
use crate::wire::DiskTrouble;

/// Everything that was heard.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Since when the hub hears what is said.
    pub listening: Time,
    /// How long lamps burnt until then stood in the fleet's journal at the start: what is heard again is not counted again.
    pub burnt_upto: Time,
    pub devices: BTreeMap<DeviceId, DeviceFacts>,
    pub boxes: BTreeMap<BoxId, BoxFacts>,
}

/// The newest words about a device.
#[derive(Debug, Clone, Default)]
pub struct DeviceFacts {
    /// The box that last spoke of it.
    pub box_id: Option<BoxId>,
    pub rhythm: Rhythm,
    /// The newest span of its account.
    pub span: Option<SpanFact>,
    pub health: Option<Said<CameraHealth>>,
    /// Faults that were raised and not cleared, by name.
    pub faults: BTreeMap<String, Said<String>>,
    /// Circuits of a cabinet, or the one of a lamp.
    pub circuits: BTreeMap<u16, Circuit>,
    /// Troubles of circuits from before a restart, until a circuit shows that they are gone, or again.
    pub left: BTreeMap<Trouble, Time>,
    pub gate: Option<Said<Gate>>,
}

/// The newest words about a box.
#[derive(Debug, Clone, Default)]
pub struct BoxFacts {
    pub rhythm: Rhythm,
    /// By its retained status and last will.
    pub online: Option<Said<bool>>,
    /// Why its disk takes nothing; it says so with its status.
    pub disk: Option<Said<DiskTrouble>>,
    pub health: Option<Said<BoxHealth>>,
    pub faults: BTreeMap<String, Said<String>>,
    /// When it started, newest last.
    pub starts: VecDeque<Time>,
}

/// A word, and when it was said.
#[derive(Debug, Clone, PartialEq)]
pub struct Said<T> {
    pub at: Time,
    pub what: T,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SpanFact {
    pub state: SpanState,
    pub start: Time,
    pub upto: Time,
    pub open: bool,
}

/// Faults that are told once, when they begin: names, and what they are as troubles.
const TOLD_ONCE: [(&str, Trouble); 4] = [
    ("battery_low", Trouble::BatteryLow),
    ("motion_pipeline_stalled", Trouble::MotionBlind),
    ("lamp_cabinet_unreachable", Trouble::CabinetUnreachable),
    ("device_unreachable", Trouble::Silent),
];

impl Facts {
    /// Takes up what was wrong with a device before a restart, as far as nobody is going to say it again: what was told
    /// once, and what only a burning lamp shows.
    pub fn take_up(&mut self, device: &DeviceId, troubles: &[Trouble], since: Time) {
        for &trouble in troubles {
            let facts = self.devices.entry(device.clone()).or_default();
            if let Some((name, _)) = TOLD_ONCE.iter().find(|(_, told)| *told == trouble) {
                let what = "from before the hub's last start".to_owned();
                facts.faults.insert((*name).to_owned(), Said { at: since, what });
            } else if is_of_circuit(trouble) {
                facts.left.insert(trouble, since);
            }
        }
    }

    /// Takes the boxes whose disk takes nothing.
    pub fn disks(&mut self, mut disks: BTreeMap<BoxId, (DiskTrouble, Time)>) {
        for (box_id, facts) in &mut self.boxes {
            facts.disk = disks.remove(box_id).map(|(what, at)| Said { at, what });
        }
    }

    /// Takes a retained status or last will that came then; the same one again changes nothing.
    pub fn online(&mut self, box_id: &BoxId, is_online: bool, at: Time) {
        let facts = self.boxes.entry(box_id.clone()).or_default();
        facts.rhythm.heard(at);
        // Since when it is so.
        if facts.online.as_ref().is_none_or(|said| said.what != is_online) {
            facts.online = Some(Said { at, what: is_online });
        }
    }

    /// Takes an event that arrived at `received`. `light` says what light there was where a device stands.
    pub fn event(
        &mut self,
        event: &Event,
        received: Time,
        light: impl FnOnce(&DeviceId, Time) -> Option<Light>,
    ) {
        let at = said_at(event.time, received);
        let of_box = self.boxes.entry(event.source.box_id.clone()).or_default();
        of_box.rhythm.heard(received);
        if matches!(event.data, EventData::Boot(_)) {
            self.forget_faults(&event.source.box_id, at);
            // By arrival: a box that starts again and again has no clock yet.
            let starts = &mut self.boxes.entry(event.source.box_id.clone()).or_default().starts;
            starts.push_back(received);
            if starts.len() > FLEET_STARTS_KEPT {
                starts.pop_front();
            }
        }
        let of_box = self.boxes.entry(event.source.box_id.clone()).or_default();
        let Some(device) = &event.source.device else { return of_box.take(&event.data, at) };
        let facts = self.devices.entry(device.clone()).or_default();
        facts.box_id = Some(event.source.box_id.clone());
        facts.rhythm.heard(received);
        let light = matches!(event.data, EventData::Lamp(_)).then(|| light(device, at)).flatten();
        facts.take(&event.data, at, light, self.burnt_upto);
    }

    /// A fault is cleared by the process that raised it; that one has ended, and the next one raises it again.
    fn forget_faults(&mut self, box_id: &BoxId, upto: Time) {
        let of_box = self.boxes.get_mut(box_id).map(|facts| &mut facts.faults);
        let of_devices = self.devices.values_mut().filter(|facts| facts.box_id.as_ref() == Some(box_id));
        for faults in of_devices.map(|facts| &mut facts.faults).chain(of_box) {
            faults.retain(|_, said| said.at > upto);
        }
    }
}

impl DeviceFacts {
    fn take(&mut self, data: &EventData, at: Time, light: Option<Light>, burnt_upto: Time) {
        match data {
            EventData::Coverage(coverage) => self.span(coverage, at),
            EventData::Status(Status { camera: Some(health), .. }) => newest(&mut self.health, at, health),
            EventData::Fault(fault) => note_fault(&mut self.faults, fault, at),
            EventData::Gate(gate) => {
                self.is_heard_itself();
                newest(&mut self.gate, at, gate);
            }
            EventData::Lamp(lamp) => {
                self.is_heard_itself();
                self.left.retain(|&trouble, since| *since >= at || !shows_well(trouble, lamp, light));
                let word = Said { at, what: lamp.clone() };
                let is_full = self.circuits.len() >= FLEET_FAULTS_MAX;
                match self.circuits.get_mut(&lamp.circuit) {
                    Some(known) if known.word.at <= at => known.hear(word, light, burnt_upto),
                    None if !is_full => {
                        let circuit = Circuit::new(word, light, burnt_upto);
                        self.circuits.insert(lamp.circuit, circuit);
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }

    /// A device whose own words come is within reach: its box repeats nothing of one that is not.
    fn is_heard_itself(&mut self) {
        for name in ["device_unreachable", "lamp_cabinet_unreachable"] {
            if let Some(said) = self.faults.get_mut(name) {
                said.what.clear();
            }
        }
    }

    fn span(&mut self, coverage: &Coverage, at: Time) {
        let Coverage { state, start, upto, open, .. } = *coverage;
        let (start, upto) = (start.min(at), upto.min(at));
        if self.span.is_none_or(|known| (known.start, known.upto) <= (start, upto)) {
            self.span = Some(SpanFact { state, start, upto, open });
        }
    }
}

impl BoxFacts {
    fn take(&mut self, data: &EventData, at: Time) {
        match data {
            EventData::Status(Status { of_box: Some(health), .. }) => newest(&mut self.health, at, health),
            EventData::Fault(fault) => note_fault(&mut self.faults, fault, at),
            _ => {}
        }
    }
}

fn newest<T: Clone>(known: &mut Option<Said<T>>, at: Time, what: &T) {
    if known.as_ref().is_none_or(|known| known.at <= at) {
        *known = Some(Said { at, what: what.clone() });
    }
}

/// Cleared faults stay, so that a late "raised" does not raise them again; see [`is_raised`].
fn note_fault(faults: &mut BTreeMap<String, Said<String>>, fault: &Fault, at: Time) {
    let known = faults.get(&fault.fault);
    if known.is_some_and(|said| said.at > at) || known.is_none() && faults.len() >= FLEET_FAULTS_MAX {
        return;
    }
    let what = match fault.phase {
        FaultPhase::Raised => fault.detail.clone(),
        FaultPhase::Cleared => String::new(),
    };
    faults.insert(fault.fault.clone(), Said { at, what });
}

/// Since when a fault is raised.
pub fn is_raised(faults: &BTreeMap<String, Said<String>>, name: &str) -> Option<Time> {
    faults.get(name).filter(|said| !said.what.is_empty()).map(|said| said.at)
}

/// A clock that can't be right says nothing: then it was said when it came. Nothing was said later than that.
fn said_at(time: Time, received: Time) -> Time {
    match crate::hub::catalog::is_plausible(time, received) {
        true => time.min(received),
        false => received,
    }
}
