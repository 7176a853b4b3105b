//! How long a lamp circuit burnt, how much of it by day, and what it drew.
//!
//! Owns the sums between two writings to the fleet's journal. Pure. Time that no word covers counts for nothing: it is
//! told how much time is known.

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use super::sun::Light;
use crate::limits::LAMP_WORD_HOLDS;
use crate::model::{Lamp, Time};

/// What a circuit did in some time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Burnt {
    /// Seconds of which something is known, in which it burnt, and in which it burnt by day.
    pub known_s: u64,
    pub burnt_s: u64,
    pub by_day_s: u64,
    pub energy_kwh: f64,
}

/// A circuit's sum, and the word that it goes on from.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Burning {
    last: Option<Last>,
    known: SignedDuration,
    burnt: SignedDuration,
    by_day: SignedDuration,
    energy_kwh: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Last {
    at: Time,
    on: bool,
    light: Option<Light>,
    meter_kwh: Option<f64>,
}

impl Burning {
    /// Takes the next word. What lies before `from` stands in the journal already.
    pub fn hear(&mut self, at: Time, lamp: &Lamp, light: Option<Light>, from: Time) {
        let meter_kwh = lamp.energy_kwh.or(self.last.and_then(|last| last.meter_kwh));
        if let Some(last) = self.last.filter(|last| last.at >= from && last.at <= at) {
            let passed = at.duration_since(last.at);
            // What it did in a longer silence nobody knows; its meter does.
            if passed <= SignedDuration::try_from(LAMP_WORD_HOLDS).unwrap_or_default() {
                self.known += passed;
                self.burnt += if last.on { passed } else { SignedDuration::ZERO };
                let by_day = last.on && last.light == Some(Light::Day);
                self.by_day += if by_day { passed } else { SignedDuration::ZERO };
            }
            // A meter that counts backwards was replaced.
            let drawn = lamp.energy_kwh.zip(last.meter_kwh).map(|(now, last)| now - last);
            self.energy_kwh += drawn.filter(|drawn| *drawn > 0.0).unwrap_or(0.0);
        }
        self.last = Some(Last { at, on: lamp.on, light, meter_kwh });
    }

    /// What came together since the last time that this was asked; None if nothing did.
    pub fn take(&mut self) -> Option<Burnt> {
        let whole = |time: &mut SignedDuration| {
            let seconds = time.as_secs().max(0);
            *time -= SignedDuration::from_secs(seconds);
            seconds.unsigned_abs()
        };
        let burnt = Burnt {
            known_s: whole(&mut self.known),
            burnt_s: whole(&mut self.burnt),
            by_day_s: whole(&mut self.by_day),
            energy_kwh: std::mem::take(&mut self.energy_kwh),
        };
        (burnt != Burnt::default()).then_some(burnt)
    }

    /// What came together since then, left where it is.
    pub fn so_far(&self) -> Burnt {
        self.clone().take().unwrap_or_default()
    }
}

impl Burnt {
    pub fn add(&mut self, other: &Self) {
        self.known_s += other.known_s;
        self.burnt_s += other.burnt_s;
        self.by_day_s += other.by_day_s;
        self.energy_kwh += other.energy_kwh;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::LampReason;

    fn at(minutes: i64) -> Time {
        Time::from_second(1_800_000_000 + 60 * minutes).unwrap()
    }

    fn lamp(on: bool, meter_kwh: f64) -> Lamp {
        Lamp { energy_kwh: Some(meter_kwh), ..Lamp::new(1, LampReason::Heartbeat, on, 0.0, 0.0) }
    }

    /// The sum of these words, in minutes and kWh: (minute, on, meter, light).
    fn sum(words: &[(i64, bool, f64, Light)], from: i64) -> (u64, u64, u64, f64) {
        let mut burning = Burning::default();
        for &(minute, on, meter, light) in words {
            burning.hear(at(minute), &lamp(on, meter), Some(light), at(from));
        }
        let all = burning.take().unwrap_or_default();
        assert_eq!(burning.take(), None, "taken once");
        (all.known_s / 60, all.burnt_s / 60, all.by_day_s / 60, (all.energy_kwh * 1000.0).round() / 1000.0)
    }

    #[test]
    fn time_and_energy_between_words_are_summed() {
        use Light::{Day, Night};
        let night = [(0, false, 10.0, Night), (15, true, 10.0, Night), (30, true, 10.4, Night)];
        assert_eq!(sum(&night, 0), (30, 15, 0, 0.4));
        let day = [(0, true, 10.0, Day), (15, true, 10.4, Day), (20, false, 10.5, Day)];
        assert_eq!(sum(&day, 0), (20, 20, 20, 0.5));
        let silent = [(0, true, 10.0, Night), (300, true, 12.0, Night)];
        assert_eq!(
            sum(&silent, 0),
            (0, 0, 0, 2.0),
            "nobody knows when it burnt, the meter knows what it drew"
        );
        let replaced = [(0, true, 900.0, Night), (15, true, 0.1, Night), (30, true, 0.3, Night)];
        assert_eq!(sum(&replaced, 0), (30, 30, 0, 0.2));
        assert_eq!(sum(&night, 15), (15, 15, 0, 0.4), "what was written down before is not counted again");
    }
}
