//! The fleet's mind: what was heard goes in, changes and incidents come out.
//!
//! Owns the standing of every device and box, and the incidents that go on. Does no I/O and reads no clock, so a test
//! plays a month in a second.

use std::collections::BTreeMap;

use jiff::SignedDuration;

use super::cause::{self, Cause, Incident, Sufferer};
use super::facts::Facts;
use super::judge::{self, Troubles};
use super::roster::{Member, Roster};
use super::standing::{Change, Decided, Standing};
use super::sun;
use crate::model::{BoxId, DeviceId, DeviceKind, DeviceState, Event, Time, Trouble};

/// So long before and after dusk and dawn, either is right.
pub const LIGHT_MARGIN: SignedDuration = SignedDuration::from_mins(30);

#[derive(Debug, Default)]
pub struct Fleet {
    pub facts: Facts,
    /// What people decided; in use, if nothing.
    pub decided: BTreeMap<DeviceId, Decided>,
    devices: BTreeMap<DeviceId, Standing>,
    boxes: BTreeMap<BoxId, Standing>,
    incidents: BTreeMap<Cause, Incident>,
}

/// Something to be kept, shown, and told.
#[derive(Debug, Clone, PartialEq)]
pub enum Told {
    Device {
        device: DeviceId,
        change: Change,
    },
    Box {
        box_id: BoxId,
        change: Change,
    },
    Began(Incident),
    /// Others suffer from it now, or fewer do.
    Changed(Incident),
    Ended {
        incident: Incident,
        at: Time,
    },
}

impl Fleet {
    /// Takes an event that arrived at `received`.
    pub fn hear(&mut self, event: &Event, received: Time, roster: &Roster) {
        let light = |device: &DeviceId, at| {
            let point = roster.devices.get(device)?.point?;
            Some(sun::light(point, at, LIGHT_MARGIN))
        };
        self.facts.event(event, received, light);
    }

    /// Takes up a standing that was known before a restart.
    pub fn take_up(&mut self, device: &DeviceId, state: DeviceState, troubles: &[Trouble], since: Time) {
        self.facts.take_up(device, troubles, since);
        self.devices.insert(device.clone(), Standing::taken_up(state, troubles, since));
    }

    /// As [`Fleet::take_up`], for a box.
    pub fn take_up_box(&mut self, box_id: &BoxId, state: DeviceState, troubles: &[Trouble], since: Time) {
        self.boxes.insert(box_id.clone(), Standing::taken_up(state, troubles, since));
    }

    /// Takes up an incident that went on before a restart: it is told only when it changes or ends.
    pub fn take_up_incident(&mut self, incident: Incident) {
        self.incidents.insert(incident.cause.clone(), incident);
    }

    pub fn device(&self, device: &DeviceId) -> Option<&Standing> {
        self.devices.get(device)
    }

    pub fn of_box(&self, box_id: &BoxId) -> Option<&Standing> {
        self.boxes.get(box_id)
    }

    pub fn incidents(&self) -> impl Iterator<Item = &Incident> {
        self.incidents.values()
    }

    /// Judges everybody by what was heard until `now`.
    pub fn judge(&mut self, roster: &Roster, now: Time) -> Vec<Told> {
        let mut told = Vec::new();
        let boxes = self.judge_boxes(roster, now, &mut told);
        for (id, member) in &roster.devices {
            let of_box = boxes.get(&member.device.box_id);
            let found = self.find(id, member, of_box, now);
            let decided = self.decided.get(id).copied().unwrap_or(Decided::InUse);
            let standing = self.devices.entry(id.clone()).or_insert_with(|| Standing::new(member.from));
            let was_heard = self.facts.devices.get(id).and_then(|facts| facts.rhythm.last())
                >= Some(self.facts.listening);
            if let Some(change) = standing.take(&found, decided, was_heard, now) {
                told.push(Told::Device { device: id.clone(), change });
            }
        }
        for (id, standing) in &mut self.devices {
            if !roster.devices.contains_key(id)
                && let Some(change) = standing.take(&Troubles::new(), Decided::Retired, true, now)
            {
                told.push(Told::Device { device: id.clone(), change });
            }
        }
        self.find_causes(roster, now, &mut told);
        told
    }

    /// What is wrong with each box.
    fn judge_boxes(&mut self, roster: &Roster, now: Time, told: &mut Vec<Told>) -> BTreeMap<BoxId, Troubles> {
        let mut all = BTreeMap::new();
        for member in roster.devices.values() {
            let box_id = &member.device.box_id;
            if all.contains_key(box_id) {
                continue;
            }
            let found = match self.facts.boxes.get(box_id) {
                Some(facts) => {
                    let has_camera = roster.places.has_camera(box_id);
                    judge::of_box(facts, has_camera, self.facts.listening, now)
                }
                // It never spoke.
                None => Troubles::from([(Trouble::BoxSilent, member.from)]),
            };
            let standing = self.boxes.entry(box_id.clone()).or_insert_with(|| Standing::new(member.from));
            if let Some(change) = standing.take(&found, Decided::InUse, true, now) {
                told.push(Told::Box { box_id: box_id.clone(), change });
            }
            all.insert(box_id.clone(), found);
        }
        // One that speaks for nobody any more is nobody's trouble.
        self.boxes.retain(|box_id, _| all.contains_key(box_id));
        all
    }

    fn find(&self, id: &DeviceId, member: &Member, of_box: Option<&Troubles>, now: Time) -> Troubles {
        let nothing = Troubles::new();
        let of_box = of_box.unwrap_or(&nothing);
        match self.facts.devices.get(id) {
            Some(facts) => judge::of_device(&member.device, facts, of_box, self.facts.listening, now),
            None => {
                if let Some(&since) = of_box.get(&Trouble::BoxSilent) {
                    return Troubles::from([(Trouble::BoxSilent, since)]);
                }
                // It may speak for the first time as late as others speak again.
                let heartbeat = judge::heartbeat(member.device.kind == DeviceKind::Camera);
                let waited = now.duration_since(member.from.max(self.facts.listening));
                let is_silent = waited >= heartbeat;
                is_silent.then_some((Trouble::Silent, member.from)).into_iter().collect()
            }
        }
    }

    /// Groups who suffers by what they share, and says which groups are new, changed, or gone.
    fn find_causes(&mut self, roster: &Roster, now: Time, told: &mut Vec<Told>) {
        let suffers = |(device, standing): (&DeviceId, &Standing)| {
            let counts = !matches!(standing.state, DeviceState::Maintenance | DeviceState::Retired);
            let (trouble, since) = *standing.troubles().first().filter(|_| counts)?;
            Some(Sufferer { device: device.clone(), trouble, since })
        };
        let sufferers: Vec<Sufferer> = self.devices.iter().filter_map(suffers).collect();
        let mut before = std::mem::take(&mut self.incidents);
        let mut found = cause::incidents(&roster.places, &sufferers);
        // What is wrong with a box that is heard is told of all that it speaks for.
        for (box_id, standing) in &self.boxes {
            let trouble = standing.troubles().into_iter().find(|(trouble, _)| *trouble != Trouble::BoxSilent);
            let cause = Cause::Box(box_id.clone());
            if let Some((trouble, since)) = trouble
                && !found.iter().any(|incident| incident.cause == cause)
            {
                let devices = roster.places.devices_of(box_id);
                found.push(Incident { cause, since, trouble, devices });
            }
        }
        for incident in found {
            match before.remove(&incident.cause) {
                None => told.push(Told::Began(incident.clone())),
                Some(known) if known != incident => told.push(Told::Changed(incident.clone())),
                Some(_) => {}
            }
            self.incidents.insert(incident.cause.clone(), incident);
        }
        let gone = before.into_values().map(|incident| Told::Ended { incident, at: now });
        told.extend(gone);
    }
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan;

    use super::*;
    use crate::hub::fleet::cause::{Place, Places};
    use crate::limits::FLEET_ENDS_AFTER;
    use crate::model::*;

    fn at(seconds: i64) -> Time {
        "2026-11-22T13:00:00Z".parse::<Time>().unwrap() + seconds.seconds()
    }

    /// The mission's ward: eleven cameras at seven points, each point with a box, and three cabinets.
    fn roster() -> Roster {
        let (mut devices, mut places) = (BTreeMap::new(), BTreeMap::new());
        let mut add = |id: String, kind, site: usize| {
            let box_id = BoxId::new(format!("box-{site}")).unwrap();
            let site_id = SiteId::new(format!("site-{site}")).unwrap();
            let device = Device {
                id: DeviceId::new(&id).unwrap(),
                name: id.clone(),
                kind,
                site: site_id.clone(),
                box_id: box_id.clone(),
                enrolled: None,
                view: None,
                lamps: None,
                circuits: Vec::new(),
            };
            let areas = vec![AreaId::new("ward").unwrap()];
            let place = Place { kind, box_id, site: site_id, areas };
            let point = Some(Point { lat: 10.776, lon: 106.701 });
            places.insert(device.id.clone(), place);
            let member = Member { device, point, owner: None, from: at(0) };
            devices.insert(member.device.id.clone(), member);
        };
        for n in 0..11 {
            add(format!("cam-{n:02}"), DeviceKind::Camera, n % 7);
        }
        for n in 0..3 {
            add(format!("lamp-{n}"), DeviceKind::Lamp, n);
        }
        Roster { devices, places: Places::of(places) }
    }

    fn event(box_id: &BoxId, device: Option<&DeviceId>, time: Time, data: EventData) -> Event {
        let source = match device {
            Some(device) => Source::of_device(box_id, device),
            None => Source::of_box(box_id),
        };
        let clock = ClockQuality {
            source: ClockSource::Box,
            sync: SyncState::Synced,
            offset_ms: None,
            uncertainty_ms: Some(20),
        };
        Event { id: uuid::Uuid::nil(), source, epoch: Epoch(1), sequence: 1, time, clock, data }
    }

    /// What somebody hears of a device at some second; None: nothing.
    type Says<'a> = &'a dyn Fn(&Member, i64) -> Option<EventData>;

    fn well(member: &Member) -> EventData {
        match member.device.kind {
            DeviceKind::Lamp => EventData::Lamp(Lamp::new(1, LampReason::Heartbeat, true, 2.0, 400.0)),
            _ => span(SpanState::Recorded, at(0)),
        }
    }

    fn span(state: SpanState, start: Time) -> EventData {
        EventData::Coverage(Coverage {
            span: uuid::Uuid::nil(),
            state,
            start,
            upto: start,
            open: true,
            run: None,
            ring_from: None,
            detail: None,
        })
    }

    /// Plays the ward for some time: every device says something each minute, and is judged each five seconds.
    fn play(seconds: i64, says: Says) -> Vec<(i64, Told)> {
        let (roster, mut fleet, mut all) = (roster(), Fleet::default(), Vec::new());
        for second in (0..seconds).step_by(5) {
            let now = at(second);
            for member in roster.devices.values() {
                if second % 60 == 0
                    && let Some(data) = says(member, second)
                {
                    let device = &member.device;
                    fleet.hear(&event(&device.box_id, Some(&device.id), now, data), now, &roster);
                }
            }
            all.extend(fleet.judge(&roster, now).into_iter().map(|told| (second, told)));
        }
        all
    }

    fn incidents(told: &[(i64, Told)]) -> Vec<(Cause, Trouble, usize)> {
        let began = told.iter().filter_map(|(_, told)| match told {
            Told::Began(incident) => Some((incident.cause.clone(), incident.trouble, incident.devices.len())),
            _ => None,
        });
        began.collect()
    }

    #[test]
    fn a_ward_that_is_well_has_nothing_to_tell() {
        let told = play(7200, &|member, _| Some(well(member)));
        assert_eq!(told, []);
    }

    #[test]
    fn a_box_that_falls_silent_is_one_incident_of_its_site_and_ends() {
        let silent = 1800..4200;
        let told = play(7200, &|member, second| {
            let is_silent = member.device.site.as_str() == "site-2" && silent.contains(&second);
            (!is_silent).then(|| well(member))
        });
        let site = Cause::Site(SiteId::new("site-2").unwrap());
        assert_eq!(incidents(&told), [(site.clone(), Trouble::BoxSilent, 3)], "{told:#?}");
        let ended: Vec<_> = told
            .iter()
            .filter_map(|(second, told)| match told {
                Told::Ended { incident, .. } => Some((*second, incident.cause.clone())),
                _ => None,
            })
            .collect();
        let [(second, cause)] = &ended[..] else { panic!("{ended:?}") };
        assert_eq!(*cause, site);
        assert!((4200..4200 + 120).contains(second), "{second}");
    }

    #[test]
    fn one_camera_away_is_the_camera_and_in_its_time() {
        let told = play(3600, &|member, second| {
            let is_away = member.device.id.as_str() == "cam-03" && second >= 1800;
            let gap = SpanState::Gap { cause: GapCause::CameraUnreachable };
            Some(if is_away { span(gap, at(1800)) } else { well(member) })
        });
        let camera = DeviceId::new("cam-03").unwrap();
        assert_eq!(incidents(&told), [(Cause::Device(camera.clone()), Trouble::CameraUnreachable, 1)]);
        let (second, change) = told
            .iter()
            .find_map(|(second, told)| match told {
                Told::Device { device, change } if *device == camera => Some((second, change)),
                _ => None,
            })
            .unwrap();
        assert!((1800..1860).contains(second), "after {second} s");
        assert_eq!(
            (change.state, change.since),
            (DeviceState::Unreachable, at(1800)),
            "since when it was so"
        );
    }

    #[test]
    fn a_lamp_by_day_and_a_dark_one_by_night_are_found() {
        // 13:00 UTC is 20:00 in the ward; 01:00 UTC is 8 in the morning.
        let told = play(13 * 3600, &|member, second| {
            let is_night = second < 9 * 3600 + 2700;
            let burns = match member.device.id.as_str() {
                "lamp-0" => true,
                "lamp-1" => false,
                _ => is_night,
            };
            Some(match member.device.kind {
                DeviceKind::Lamp => EventData::Lamp(Lamp::new(1, LampReason::Heartbeat, burns, 0.0, 0.0)),
                _ => well(member),
            })
        });
        let found = incidents(&told);
        let lamp = |n: usize| Cause::Device(DeviceId::new(format!("lamp-{n}")).unwrap());
        assert!(found.contains(&(lamp(0), Trouble::OnByDay, 1)), "{found:?}");
        assert!(found.contains(&(lamp(1), Trouble::OffByNight, 1)), "{found:?}");
        assert_eq!(found.len(), 2, "{found:?}");
    }

    #[test]
    fn what_was_never_heard_is_unreachable_since_it_was_enrolled() {
        let told = play(600, &|member, _| (member.device.site.as_str() != "site-5").then(|| well(member)));
        assert_eq!(incidents(&told).len(), 1);
        assert!(told.iter().any(|(_, told)| matches!(told, Told::Device { change, .. }
            if change.state == DeviceState::Unreachable && change.since == at(0))));
    }

    #[test]
    fn what_went_on_before_a_restart_is_not_told_again_and_ends() {
        let (roster, mut fleet) = (roster(), Fleet::default());
        let silent = DeviceId::new("cam-06").unwrap();
        let (cause, trouble) = (Cause::Site(SiteId::new("site-6").unwrap()), Trouble::BoxSilent);
        fleet.take_up(&silent, DeviceState::Unreachable, &[trouble], at(0));
        fleet.take_up_box(&BoxId::new("box-6").unwrap(), DeviceState::Unreachable, &[trouble], at(0));
        let devices = [silent.clone()].into();
        fleet.take_up_incident(Incident { cause: cause.clone(), since: at(0), trouble, devices });
        fleet.facts.listening = at(100);
        let of_site = |told: Vec<Told>| -> Vec<Told> {
            let is_it = |told: &Told| match told {
                Told::Began(incident) | Told::Changed(incident) | Told::Ended { incident, .. } => {
                    incident.cause == cause
                }
                _ => false,
            };
            told.into_iter().filter(is_it).collect()
        };
        assert_eq!(of_site(fleet.judge(&roster, at(100))), []);
        let mut told = Vec::new();
        for second in (105..400).step_by(5) {
            for member in roster.devices.values() {
                let (device, now) = (&member.device, at(second));
                fleet.hear(&event(&device.box_id, Some(&device.id), now, well(member)), now, &roster);
            }
            told.extend(of_site(fleet.judge(&roster, at(second))));
        }
        assert!(matches!(&told[..], [Told::Ended { .. }]), "{told:?}");
    }

    #[test]
    fn a_device_that_leaves_the_registry_is_retired() {
        let (mut roster, mut fleet) = (roster(), Fleet::default());
        fleet.judge(&roster, at(0));
        let gone = DeviceId::new("cam-00").unwrap();
        roster.devices.remove(&gone);
        let told = fleet.judge(&roster, at(0) + SignedDuration::from_secs(5));
        assert!(told.iter().any(|told| matches!(told, Told::Device { device, change }
            if *device == gone && change.state == DeviceState::Retired)));
    }

    #[test]
    fn what_was_wrong_before_a_restart_ends_only_when_somebody_shows_it() {
        let (roster, mut fleet) = (roster(), Fleet::default());
        let lamp = DeviceId::new("lamp-0").unwrap();
        let box_id = roster.devices[&lamp].device.box_id.clone();
        fleet.take_up(&lamp, DeviceState::Degraded, &[Trouble::LampFailure, Trouble::BatteryLow], at(-900));
        // Everybody is heard; the lamp is off, as lamps are by day, then it burns, then its battery is changed.
        let mut states = Vec::new();
        for second in (0..900).step_by(5) {
            let now = at(second);
            if second % 60 == 0 {
                let on = second >= 300;
                let word = EventData::Lamp(Lamp::new(1, LampReason::Heartbeat, on, 0.0, 0.0));
                fleet.hear(&event(&box_id, Some(&lamp), now, word), now, &roster);
            }
            if second == 600 {
                let (fault, phase) = ("battery_low".to_owned(), FaultPhase::Cleared);
                let fault = EventData::Fault(Fault { fault, phase, detail: "97 %".into() });
                fleet.hear(&event(&box_id, Some(&lamp), now, fault), now, &roster);
            }
            fleet.judge(&roster, now);
            let mut troubles: Vec<_> =
                fleet.device(&lamp).unwrap().troubles().into_iter().map(|(t, _)| t).collect();
            troubles.retain(|trouble| matches!(trouble, Trouble::LampFailure | Trouble::BatteryLow));
            troubles.sort();
            if states.last().is_none_or(|(_, last)| *last != troubles) {
                states.push((second, troubles));
            }
        }
        let ends = FLEET_ENDS_AFTER.as_secs();
        let expected = [
            (0, vec![Trouble::LampFailure, Trouble::BatteryLow]),
            (300 + ends, vec![Trouble::BatteryLow]),
            (600 + ends, vec![]),
        ];
        assert_eq!(states, expected);
    }
}
