//! What the boxes of a load run report: a ward's usual mix, as a pure function of seed, box and number.
//!
//! Owns the mix. May not do I/O or read a clock, so that an event can be made again instead of being kept.

use uuid::Uuid;

use crate::model::{
    Boot, BoxId, ClockQuality, ClockSource, DeviceId, Epoch, Event, EventData, Lamp, LampReason, Motion,
    MotionPhase, Source, Status, SyncState, Time,
};

/// One box in so many has a lighting cabinet beside its camera.
const BOXES_PER_CABINET: usize = 10;
/// Numbers 0 to 19 of a round: motion in pairs, then lamps (where there is a cabinet), then status.
const ROUND: u64 = 20;
const ROUND_LAMPS: std::ops::Range<u64> = 14..18;
const CIRCUITS: u64 = 8;
/// How long a movement lasts, seconds.
const MOTION_S: i64 = 4;

/// Makes the events of one box.
#[derive(Debug, Clone)]
pub struct Mix {
    pub box_id: BoxId,
    pub camera: DeviceId,
    pub cabinet: Option<DeviceId>,
    seed: u64,
}

impl Mix {
    /// Box number `n` of a run (from 0), with its devices.
    pub fn of_box(n: usize, seed: u64) -> Self {
        let name = |kind: &str| format!("{kind}-{:05}", n + 1);
        let cabinet = n.is_multiple_of(BOXES_PER_CABINET).then(|| name("lamp"));
        Self {
            box_id: BoxId::new(name("box")).expect("a good id"),
            camera: DeviceId::new(name("cam")).expect("a good id"),
            cabinet: cabinet.map(|id| DeviceId::new(id).expect("a good id")),
            seed: mixed(seed, n as u64),
        }
    }

    /// As [`Mix::of_box`], with ids from elsewhere.
    pub fn new(box_id: BoxId, camera: DeviceId, seed: u64) -> Self {
        Self { box_id, camera, cabinet: None, seed }
    }

    /// Event `sequence` of an epoch; the first one is the box's boot.
    pub fn event(&self, epoch: Epoch, sequence: u64, time: Time) -> Event {
        let (device, data) = if sequence == 1 {
            (None, EventData::Boot(Boot { previous: None, software: SOFTWARE.into() }))
        } else {
            self.data(epoch.0, sequence, time)
        };
        let id = self.uuid(mixed(epoch.0, sequence), time);
        event(&self.box_id, device, (epoch, sequence), (id, time), data)
    }

    /// What report number `n` of a life says, and about which device.
    pub fn data(&self, life: u64, n: u64, time: Time) -> (Option<DeviceId>, EventData) {
        let at = n % ROUND;
        match (&self.cabinet, at) {
            (Some(cabinet), _) if ROUND_LAMPS.contains(&at) => (Some(cabinet.clone()), self.lamp(life, n)),
            (_, 18) => {
                (Some(self.camera.clone()), self.status("rtsp 25 frames/s, 0 lost, ring 412 h", life, n))
            }
            (_, 19) => (None, self.status("disk 41 % used, load 0.31", life, n)),
            _ => (Some(self.camera.clone()), self.motion(life, n, time)),
        }
    }

    /// Start (even numbers) and end of a movement share their id.
    fn motion(&self, life: u64, n: u64, time: Time) -> EventData {
        let is_end = !n.is_multiple_of(2);
        let pair = mixed(mixed(self.seed, life), n - u64::from(is_end));
        let start = if is_end { time - jiff::SignedDuration::from_secs(MOTION_S) } else { time };
        EventData::Motion(Motion {
            end: is_end.then_some(time),
            ..Motion::new(
                Uuid::from_u64_pair(pair, mixed(pair, 1)),
                if is_end { MotionPhase::End } else { MotionPhase::Start },
                start,
                (pair % 1000) as f64 / 1000.0,
            )
        })
    }

    /// By exception: three of four reports are changes.
    fn lamp(&self, life: u64, n: u64) -> EventData {
        let drawn = mixed(mixed(self.seed, life), n);
        let on = drawn.is_multiple_of(2);
        let power_w = if on { 1500.0 + (drawn % 1000) as f64 / 10.0 } else { 0.0 };
        let reason = if drawn.is_multiple_of(4) { LampReason::Heartbeat } else { LampReason::Change };
        let (circuit, current_a) = ((drawn % CIRCUITS) as u16 + 1, (power_w / 2.3).round() / 100.0);
        EventData::Lamp(Lamp::new(circuit, reason, on, current_a, power_w))
    }

    fn status(&self, detail: &str, life: u64, n: u64) -> EventData {
        EventData::Status(Status::new(true, Some(format!("{detail}; report {n} of {life:x}"))))
    }

    /// A UUIDv7 that is the same whenever the same event is made.
    fn uuid(&self, drawn: u64, time: Time) -> Uuid {
        let mut random = [0; 10];
        random[..8].copy_from_slice(&mixed(self.seed, drawn).to_be_bytes());
        random[8..].copy_from_slice(&drawn.to_be_bytes()[..2]);
        let ms = time.as_millisecond().max(0) as u64;
        uuid::Builder::from_unix_timestamp_millis(ms, &random).into_uuid()
    }
}

/// What boxes of a load run say that they are.
pub const SOFTWARE: &str = concat!("camnet load ", env!("CARGO_PKG_VERSION"));

/// An event of a box, or of its device.
pub fn event(
    box_id: &BoxId,
    device: Option<DeviceId>,
    (epoch, sequence): (Epoch, u64),
    (id, time): (Uuid, Time),
    data: EventData,
) -> Event {
    let source = Source { box_id: box_id.clone(), device };
    Event { id, source, epoch, sequence, time, clock: CLOCK, data }
}

const CLOCK: ClockQuality = ClockQuality {
    source: ClockSource::Box,
    sync: SyncState::Synced,
    offset_ms: None,
    uncertainty_ms: Some(20),
};

/// Well-stirred bits of two numbers (splitmix64).
pub fn mixed(a: u64, b: u64) -> u64 {
    let mut z = a.wrapping_add(b.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::wire::{self, Decoded};

    #[test]
    fn the_mix_is_readable_unique_and_of_the_usual_size() {
        let time: Time = "2026-11-21T08:00:00Z".parse().unwrap();
        let (mut ids, mut kinds, mut bytes) = (BTreeSet::new(), BTreeSet::new(), 0);
        for (n, epoch) in [(0, Epoch(1)), (1, Epoch(1)), (0, Epoch(2))] {
            let mix = Mix::of_box(n, 7);
            for sequence in 1..=200 {
                let event = mix.event(epoch, sequence, time);
                assert_eq!(event, mix.event(epoch, sequence, time), "made again, it is the same");
                let json = wire::encode(&event);
                bytes += json.len();
                let decoded = wire::decode(&mix.box_id, &json).remove(0);
                let Decoded::Event { event: read, .. } = decoded else { panic!("{decoded:?}") };
                assert_eq!(*read, event);
                assert!(ids.insert(event.id), "{event:?}");
                kinds.insert(
                    String::from_utf8(json).unwrap().split("camnet.").nth(1).unwrap()[..4].to_owned(),
                );
            }
        }
        assert!((250..450).contains(&(bytes / 600)), "{} bytes on average", bytes / 600);
        assert_eq!(kinds.into_iter().collect::<Vec<_>>(), ["boot", "lamp", "moti", "stat"]);
    }
}
