//! One device that speaks MQTT itself: what of its words is worth an event, and when it has been silent for too long.
//!
//! Owns what was last heard of it. Decides, without I/O or clock. May not know who spoke which dialect.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::tz::{Offset, TimeZone};
use uuid::Uuid;

use super::{AdapterError, Heard, LampHeard};
use crate::edge::config::{GatewayDevice, InputMeaning};
use crate::edge::lamp::judge::Lamps;
use crate::edge::lamp::plan::Reading;
use crate::limits::{BATTERY_LOW_PERCENT, ODD_PAYLOAD_FORGOTTEN, SENSOR_MOTION_MAX};
use crate::model::{EventData, Fault, FaultPhase, Gate, GateReason, Motion, MotionPhase, SeenBy, Time};

/// Nothing is heard of the device, or its gateway says that it is away.
pub const UNREACHABLE: &str = "device_unreachable";
/// Its battery is nearly empty.
pub const BATTERY_LOW: &str = "battery_low";
/// It says something that has no meaning here.
pub const ODD_PAYLOAD: &str = "payload_not_understood";

/// Hours ahead of UTC where people of the wards read a clock, all year.
const AHEAD: i8 = 7;

/// One device.
pub struct Speaker {
    config: GatewayDevice,
    lamps: Lamps,
    /// By index of the configuration's circuits; None until it was said whether it is on.
    readings: Vec<Option<Reading>>,
    gate: Option<GateKnown>,
    motion: Option<Moving>,
    /// What was raised and not cleared.
    faults: BTreeMap<&'static str, String>,
    heard: Instant,
    /// As its gateway says.
    is_away: bool,
    odd: Option<(Instant, String)>,
    battery_percent: Option<f64>,
    link_percent: Option<f64>,
}

struct GateKnown {
    open: bool,
    forced: bool,
    tampered: bool,
    reported: Instant,
}

struct Moving {
    motion: Uuid,
    start: Time,
    /// When it was last said that it moves.
    last: Instant,
}

impl Speaker {
    /// One that is listened to from `now` on.
    pub fn new(config: GatewayDevice, now: Instant) -> Self {
        Self {
            lamps: Lamps::new(config.heartbeat, &config.circuits),
            readings: vec![None; config.circuits.len()],
            gate: None,
            motion: None,
            faults: BTreeMap::new(),
            heard: now,
            is_away: false,
            odd: None,
            battery_percent: None,
            link_percent: None,
            config,
        }
    }

    /// Takes a message; says what is to be reported. One that the broker had kept says nothing of whether the device is
    /// there now, unless that is what it is about.
    pub fn hear(
        &mut self,
        said: Result<Option<Heard>, AdapterError>,
        retained: bool,
        time: Time,
        now: Instant,
    ) -> Vec<EventData> {
        let heard = match said {
            Ok(Some(heard)) => heard,
            Ok(None) => return Vec::new(),
            Err(error) => Heard { odd: vec![error], ..Heard::default() },
        };
        if !retained || heard.online == Some(true) {
            self.heard = now;
        }
        self.is_away = heard.online.map_or(self.is_away, |online| !online);
        self.battery_percent = heard.battery_percent.or(self.battery_percent);
        self.link_percent = heard.link_percent.or(self.link_percent);
        if let Some(odd) = heard.odd.first() {
            self.odd = Some((now, odd.to_string()));
        }
        let mut said = Vec::new();
        for lamp in &heard.lamps {
            self.take_lamp(lamp);
        }
        self.take_gate(&heard, time, now, &mut said);
        // A motion that the broker had kept may have been hours ago.
        if let Some(moves) = self.is_moving(&heard).filter(|_| !retained) {
            self.take_motion(moves, time, now, &mut said);
        }
        let is_low = heard.battery_low.or(heard.battery_percent.map(|left| left < BATTERY_LOW_PERCENT));
        if let Some(is_low) = is_low {
            let left = self.battery_percent.map_or(String::new(), |left| format!(": {left:.0} % left"));
            self.fault(BATTERY_LOW, is_low.then(|| format!("the battery is low{left}")), &mut said);
        }
        said.extend(self.look(time, now));
        said
    }

    /// What is due although nothing was heard. `gateway_away` says why nobody of this gateway can be heard.
    pub fn tick(&mut self, gateway_away: Option<&str>, time: Time, now: Instant) -> Vec<EventData> {
        let mut said = Vec::new();
        if let Some(why) = gateway_away {
            self.fault(UNREACHABLE, Some(why.to_owned()), &mut said);
            // Silence while nobody listens is none.
            self.heard = now;
            return said;
        }
        said.extend(self.look(time, now));
        said
    }

    fn look(&mut self, time: Time, now: Instant) -> Vec<EventData> {
        let mut said = Vec::new();
        let silence = Duration::try_from(self.config.silence()).unwrap_or_default();
        let away = match (self.is_away, now.duration_since(self.heard)) {
            (true, _) => Some("its gateway, or its last will, says that it is offline".to_owned()),
            (false, silent) if silent >= silence => {
                Some(format!("nothing was heard of it for {} min", silence.as_secs() / 60))
            }
            _ => None,
        };
        let is_here = away.is_none();
        self.fault(UNREACHABLE, away, &mut said);
        if self.odd.as_ref().is_some_and(|(at, _)| now.duration_since(*at) >= ODD_PAYLOAD_FORGOTTEN) {
            self.odd = None;
        }
        let odd = self.odd.as_ref().map(|(_, odd)| odd.clone());
        self.fault(ODD_PAYLOAD, odd, &mut said);
        if let Some(moving) = &self.motion
            && now.duration_since(moving.last) >= Duration::try_from(SENSOR_MOTION_MAX).unwrap_or_default()
        {
            self.take_motion(false, time, now, &mut said);
        }
        // Of what is not there nothing is repeated.
        if is_here {
            let readings = self.readings.iter().enumerate();
            let due = readings.filter_map(|(index, reading)| self.lamps.observe(index, (*reading)?, now));
            said.extend(due.map(EventData::Lamp));
            self.repeat_gate(now, &mut said);
        }
        said
    }

    fn take_lamp(&mut self, heard: &LampHeard) {
        let circuits = &self.config.circuits;
        let Some(index) = circuits.iter().position(|circuit| circuit.circuit == heard.circuit) else {
            return;
        };
        let known = &mut self.readings[index];
        let Some(on) = heard.on.or(known.map(|known| known.on)) else { return };
        // What was measured before it was switched says nothing of what it draws now.
        let before = known.filter(|known| known.on == on).unwrap_or_default();
        *known = Some(Reading {
            on,
            power_w: heard.power_w.or(before.power_w),
            current_a: heard.current_a.or(before.current_a),
            voltage_v: heard.voltage_v.or(before.voltage_v),
            power_factor: heard.power_factor.or(before.power_factor),
            energy_kwh: heard.energy_kwh.or(known.and_then(|known| known.energy_kwh)),
            dim_percent: heard.dim_percent.or(before.dim_percent),
            ..Reading::default()
        });
    }

    /// What the inputs that mean so say; the newest of them.
    fn input(&self, heard: &Heard, meanings: &[(InputMeaning, bool)]) -> Option<bool> {
        let mut said = heard.inputs.iter().rev().filter_map(|(number, is_on)| {
            let meaning = self.config.inputs.get(&number.to_string())?;
            let (_, when_on) = meanings.iter().find(|(wanted, _)| wanted == meaning)?;
            Some(*is_on == *when_on)
        });
        said.next()
    }

    fn is_moving(&self, heard: &Heard) -> Option<bool> {
        heard.motion.or(self.input(heard, &[(InputMeaning::Motion, true)]))
    }

    fn take_motion(&mut self, moves: bool, time: Time, now: Instant, said: &mut Vec<EventData>) {
        let by_sensor = |motion| Motion { seen_by: Some(SeenBy::Sensor), ..motion };
        match (moves, &mut self.motion) {
            (true, Some(moving)) => moving.last = now,
            (true, None) => {
                let motion = Uuid::now_v7();
                self.motion = Some(Moving { motion, start: time, last: now });
                let motion = Motion::new(motion, MotionPhase::Start, time, 0.0);
                said.push(EventData::Motion(by_sensor(motion)));
            }
            (false, _) => {
                let Some(Moving { motion, start, .. }) = self.motion.take() else { return };
                let motion = Motion { end: Some(time), ..Motion::new(motion, MotionPhase::End, start, 0.0) };
                said.push(EventData::Motion(by_sensor(motion)));
            }
        }
    }

    fn take_gate(&mut self, heard: &Heard, time: Time, now: Instant, said: &mut Vec<EventData>) {
        let of_inputs = [(InputMeaning::GateOpen, true), (InputMeaning::GateClosed, false)];
        let open = heard.open.or(self.input(heard, &of_inputs));
        let tampered = heard.tampered.or(self.input(heard, &[(InputMeaning::Tampered, true)]));
        let before = self.gate.as_ref().map(|gate| (gate.open, gate.tampered, gate.forced));
        let (was_open, was_tampered, was_forced) = match (before, open) {
            (Some((was_open, tampered, forced)), _) => (Some(was_open), tampered, forced),
            // A gate is one that says whether it is open.
            (None, Some(_)) => (None, false, false),
            (None, None) => return,
        };
        let Some(open) = open.or(was_open) else { return };
        // One that is found open at the box's start may have been opened meanwhile.
        let has_opened = was_open != Some(true) && open;
        let forced = open && (was_forced || has_opened && self.is_to_be_closed(time));
        let tampered = tampered.unwrap_or(was_tampered);
        if before != Some((open, tampered, forced)) {
            self.gate = Some(GateKnown { open, forced, tampered, reported: now });
            said.extend(self.say_gate(GateReason::Change));
        }
    }

    fn is_to_be_closed(&self, time: Time) -> bool {
        let zone = TimeZone::fixed(Offset::constant(AHEAD));
        self.config.closed.is_some_and(|hours| hours.contain(time.to_zoned(zone).time()))
    }

    fn repeat_gate(&mut self, now: Instant, said: &mut Vec<EventData>) {
        let heartbeat = Duration::try_from(self.config.heartbeat).unwrap_or_default();
        let Some(gate) = self.gate.as_mut().filter(|gate| now.duration_since(gate.reported) >= heartbeat)
        else {
            return;
        };
        gate.reported = now;
        said.extend(self.say_gate(GateReason::Heartbeat));
    }

    fn say_gate(&self, reason: GateReason) -> Option<EventData> {
        let GateKnown { open, forced, tampered, .. } = *self.gate.as_ref()?;
        let (battery_percent, link_percent) = (self.battery_percent, self.link_percent);
        Some(EventData::Gate(Gate { reason, open, forced, tampered, battery_percent, link_percent }))
    }

    /// Says a fault when it begins and when it ends.
    fn fault(&mut self, name: &'static str, detail: Option<String>, said: &mut Vec<EventData>) {
        let (phase, detail) = match (detail, self.faults.contains_key(name)) {
            (Some(detail), false) => {
                self.faults.insert(name, detail.clone());
                (FaultPhase::Raised, detail)
            }
            (None, true) => {
                let was = self.faults.remove(name).unwrap_or_default();
                (FaultPhase::Cleared, format!("no longer: {was}"))
            }
            _ => return,
        };
        said.push(EventData::Fault(Fault { fault: name.into(), phase, detail }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::adapter::{tasmota, zigbee2mqtt};

    fn device(toml: &str) -> GatewayDevice {
        toml::from_str(&format!("id = 'den-01'\nname = 'den'\n{toml}")).unwrap()
    }

    /// What is reported after each of these messages and pauses, in short. Times begin at 20:00 in the ward.
    struct Play {
        speaker: Speaker,
        start: Instant,
        second: u64,
    }

    impl Play {
        fn of(toml: &str) -> Self {
            let start = Instant::now();
            Self { speaker: Speaker::new(device(toml), start), start, second: 0 }
        }

        fn now(&self) -> (Time, Instant) {
            let time: Time = "2026-11-22T13:00:00Z".parse().unwrap();
            let passed = Duration::from_secs(self.second);
            (time + passed, self.start + passed)
        }

        fn zigbee(&mut self, payload: &str) -> Vec<String> {
            let (time, now) = self.now();
            short(self.speaker.hear(zigbee2mqtt::hear("z/den", payload.as_bytes()), false, time, now))
        }

        fn tasmota(&mut self, topic: &str, payload: &str) -> Vec<String> {
            let (time, now) = self.now();
            short(self.speaker.hear(tasmota::hear(topic, payload.as_bytes()), false, time, now))
        }

        /// Ticks each 5 s, as the gateway does.
        fn pause(&mut self, seconds: u64) -> Vec<String> {
            let mut said = Vec::new();
            for _ in 0..seconds / 5 {
                self.second += 5;
                let (time, now) = self.now();
                said.extend(short(self.speaker.tick(None, time, now)));
            }
            said
        }
    }

    fn short(said: Vec<EventData>) -> Vec<String> {
        let one = |data| match data {
            EventData::Lamp(lamp) => {
                let on = if lamp.on { "on" } else { "off" };
                let power = lamp.power_w.map_or("-".into(), |watts| format!("{watts}"));
                format!("lamp {} {on} {power} {}", lamp.circuit, lamp.fault.unwrap_or_default())
            }
            EventData::Gate(gate) => format!(
                "gate {}{}{}",
                if gate.open { "open" } else { "closed" },
                if gate.forced { " forced" } else { "" },
                if gate.tampered { " tampered" } else { "" }
            ),
            EventData::Motion(motion) => format!("motion {:?} {:?}", motion.phase, motion.seen_by.unwrap()),
            EventData::Fault(fault) => format!("{:?} {}", fault.phase, fault.fault),
            other => format!("{other:?}"),
        };
        said.into_iter().map(one).map(|text| text.trim_end().to_owned()).collect()
    }

    const NOTHING: [&str; 0] = [];
    const LAMP: &str = "[[circuit]]\ncircuit = 1\nnominal_power_w = 40.0";

    #[test]
    fn a_lamp_is_reported_on_change_and_at_the_heartbeat_and_judged_by_its_power() {
        let mut play = Play::of(LAMP);
        assert_eq!(play.zigbee(r#"{"state":"ON","power":40}"#), ["lamp 1 on 40"]);
        assert_eq!(play.zigbee(r#"{"state":"ON","power":"40.5"}"#), NOTHING);
        assert_eq!(play.pause(895), NOTHING);
        assert_eq!(play.pause(5), ["lamp 1 on 40.5"], "heartbeat");
        assert_eq!(play.zigbee(r#"{"power":0}"#), ["lamp 1 on 0 supply_loss"]);
        assert_eq!(play.zigbee(r#"{"power":40}"#), ["lamp 1 on 40"]);
    }

    #[test]
    fn power_that_was_measured_before_switching_is_no_fault() {
        let mut play = Play::of(LAMP);
        assert_eq!(play.tasmota("stat/den/POWER", "OFF"), ["lamp 1 off -"]);
        assert_eq!(play.tasmota("tele/den/SENSOR", r#"{"ENERGY":{"Power":0}}"#), ["lamp 1 off 0"]);
        play.pause(60);
        assert_eq!(play.tasmota("stat/den/POWER", "ON"), ["lamp 1 on -"]);
        assert_eq!(play.pause(60), NOTHING, "its power was not told yet");
        assert_eq!(play.tasmota("tele/den/SENSOR", r#"{"ENERGY":{"Power":39}}"#), ["lamp 1 on 39"]);
    }

    #[test]
    fn who_is_offline_or_silent_is_out_of_reach_until_it_speaks() {
        let mut play = Play::of(LAMP);
        play.tasmota("stat/den/POWER", "ON");
        assert_eq!(play.tasmota("tele/den/LWT", "Offline"), ["Raised device_unreachable"]);
        assert_eq!(play.pause(1800), NOTHING, "nothing is repeated of what is not there");
        let back = play.tasmota("tele/den/LWT", "Online");
        assert_eq!(back, ["Cleared device_unreachable", "lamp 1 on -"]);
        let silent = play.pause(2 * 3600);
        assert_eq!(silent.iter().filter(|said| said.starts_with("Raised")).count(), 1, "{silent:?}");
        assert_eq!(silent.last().unwrap(), "Raised device_unreachable");
        assert_eq!(play.tasmota("stat/den/POWER", "ON")[0], "Cleared device_unreachable");
    }

    #[test]
    fn a_gate_is_forced_when_it_opens_in_hours_in_which_it_is_to_be_closed() {
        let mut play = Play::of("closed = '22:00-05:00'");
        assert_eq!(play.zigbee(r#"{"contact":true}"#), ["gate closed"]);
        assert_eq!(play.zigbee(r#"{"contact":false}"#), ["gate open"], "at eight in the evening");
        assert_eq!(play.zigbee(r#"{"contact":true}"#), ["gate closed"]);
        assert!(play.pause(3 * 3600).iter().all(|said| said == "gate closed"));
        assert_eq!(play.zigbee(r#"{"contact":false}"#), ["gate open forced"], "at eleven");
        assert_eq!(play.zigbee(r#"{"contact":false,"tamper":true}"#), ["gate open forced tampered"]);
        assert_eq!(play.zigbee(r#"{"contact":true,"tamper":false}"#), ["gate closed"]);
        let mut found = Play::of("closed = '19:00-05:00'");
        assert_eq!(
            found.zigbee(r#"{"contact":false}"#),
            ["gate open forced"],
            "found open at the box's start"
        );
        assert_eq!(play.zigbee(r#"{"battery":10}"#), ["Raised battery_low"]);
        assert_eq!(play.zigbee(r#"{"battery":100}"#), ["Cleared battery_low"]);
    }

    #[test]
    fn inputs_mean_what_the_configuration_says() {
        let mut play = Play::of("inputs = { 1 = 'gate_closed', 2 = 'motion' }");
        let sensor = |one, two| format!(r#"{{"Switch1":"{one}","Switch2":"{two}"}}"#);
        let mut says = |one, two| play.tasmota("tele/den/SENSOR", &sensor(one, two));
        assert_eq!(says("ON", "OFF"), ["gate closed"]);
        assert_eq!(says("OFF", "ON"), ["gate open", "motion Start Sensor"]);
        assert_eq!(says("OFF", "OFF"), ["motion End Sensor"]);
    }

    #[test]
    fn motion_begins_once_and_ends_at_last() {
        let mut play = Play::of("");
        assert_eq!(play.zigbee(r#"{"occupancy":true}"#), ["motion Start Sensor"]);
        assert_eq!(play.pause(300), NOTHING);
        assert_eq!(play.zigbee(r#"{"occupancy":true}"#), NOTHING);
        assert_eq!(play.pause(595), NOTHING);
        assert_eq!(play.pause(5), ["motion End Sensor"], "the sensor never said so");
        assert_eq!(play.zigbee(r#"{"occupancy":false}"#), NOTHING);
    }

    #[test]
    fn what_has_no_meaning_is_told_once_and_the_rest_is_taken() {
        let mut play = Play::of(LAMP);
        let said = play.zigbee(r#"{"state":"ON","power":"viel"}"#);
        assert_eq!(said, ["Raised payload_not_understood", "lamp 1 on -"]);
        assert_eq!(play.zigbee("[1]"), NOTHING);
        let later = play.pause(3700);
        assert!(later.contains(&"Cleared payload_not_understood".to_owned()), "{later:?}");
    }

    #[test]
    fn what_the_broker_had_kept_is_no_sign_of_life_and_no_motion() {
        let mut play = Play::of(LAMP);
        let (time, now) = play.now();
        let kept = |payload: &str| zigbee2mqtt::hear("z/den", payload.as_bytes());
        let said = play.speaker.hear(kept(r#"{"state":"ON","occupancy":true}"#), true, time, now);
        assert_eq!(short(said), ["lamp 1 on -"]);
        play.pause(3590);
        let (time, now) = play.now();
        play.speaker.hear(kept(r#"{"state":"ON"}"#), true, time, now);
        assert_eq!(play.pause(10).last().unwrap(), "Raised device_unreachable");
    }
}
