//! How much of the time devices did what they are there for.
//!
//! Owns the sums over the states of a device. Pure. Time under maintenance and before a device was enrolled counts
//! neither for nor against it.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::model::{DeviceState, Time};

/// A device's states: from when on, and which; oldest first.
pub type States = Vec<(Time, DeviceState)>;

/// Time in each state.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Availability {
    pub in_state: BTreeMap<DeviceState, SignedDuration>,
}

impl Availability {
    /// Of a device between two moments.
    pub fn of(states: &[(Time, DeviceState)], from: Time, to: Time) -> Self {
        let mut all = Self::default();
        for (n, &(since, state)) in states.iter().enumerate() {
            let until = states.get(n + 1).map_or(to, |&(next, _)| next);
            let (since, until) = (since.max(from), until.min(to));
            if since < until {
                *all.in_state.entry(state).or_default() += until.duration_since(since);
            }
        }
        all
    }

    /// Adds another device's time.
    pub fn add(&mut self, other: &Self) {
        for (&state, &time) in &other.in_state {
            *self.in_state.entry(state).or_default() += time;
        }
    }

    /// Share of the time that counts in which it worked, and in which it at least did something; None if no time counts.
    pub fn shares(&self) -> Option<(f64, f64)> {
        let time = |state| self.in_state.get(&state).copied().unwrap_or_default().as_secs_f64();
        let (working, degraded) = (time(DeviceState::Working), time(DeviceState::Degraded));
        let counts = working + degraded + time(DeviceState::NotRecording) + time(DeviceState::Unreachable);
        (counts > 0.0).then(|| (working / counts, (working + degraded) / counts))
    }
}

/// The beginning and end of a month where people are.
pub fn month(year: i16, month: i8, zone: &TimeZone) -> Option<(Time, Time)> {
    let first = Date::new(year, month, 1).ok()?;
    let next = first.last_of_month().tomorrow().ok()?;
    let at = |date: Date| date.to_zoned(zone.clone()).ok().map(|zoned| zoned.timestamp());
    Some((at(first)?, at(next)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use DeviceState::*;

    fn at(seconds: i64) -> Time {
        Time::from_second(1_800_000_000 + seconds).unwrap()
    }

    #[test]
    fn time_is_summed_by_state_and_cut_at_the_ends() {
        let states = [(at(0), Working), (at(600), Unreachable), (at(900), Maintenance), (at(1500), Degraded)];
        let of = Availability::of(&states, at(300), at(2000));
        let seconds: Vec<_> = of.in_state.iter().map(|(&state, time)| (state, time.as_secs())).collect();
        assert_eq!(seconds, [(Working, 300), (Degraded, 500), (Unreachable, 300), (Maintenance, 600)]);
        let (working, doing) = of.shares().unwrap();
        assert!((working - 300.0 / 1100.0).abs() < 1e-9 && (doing - 800.0 / 1100.0).abs() < 1e-9);
        assert_eq!(
            Availability::of(&states, at(-500), at(0)),
            Availability::default(),
            "before it was enrolled"
        );
        assert_eq!(Availability::default().shares(), None);
        let mut both = of.clone();
        both.add(&of);
        assert_eq!(both.in_state[&Degraded].as_secs(), 1000);
        assert_eq!(both.shares(), of.shares());
    }

    #[test]
    fn a_month_begins_where_people_are() {
        let zone = TimeZone::fixed(jiff::tz::offset(7));
        let (from, to) = month(2026, 12, &zone).unwrap();
        assert_eq!(from.to_string(), "2026-11-30T17:00:00Z");
        assert_eq!(to.to_string(), "2026-12-31T17:00:00Z");
        assert_eq!(month(2026, 13, &zone), None);
    }
}
