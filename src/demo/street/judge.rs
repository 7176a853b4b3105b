//! How well somebody found what crossed the street.
//!
//! Owns the rule by which an event and a crossing are the same. Pure.

use super::Crossing;

/// An event is a crossing's if it begins at most so long before it or after its end, and ends at most so long after it:
/// one that goes on and on has found nothing.
const EARLY_S: f64 = 2.0;
const LATE_S: f64 = 0.5;
const LONG_S: f64 = 4.0;

/// What was found of what crossed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Verdict {
    pub crossings: usize,
    /// Crossings with an event.
    pub found: usize,
    pub events: usize,
    /// Events with a crossing.
    pub right: usize,
    /// From each found crossing's first picture to its first event, seconds; below 0: too early.
    pub start_errors_s: Vec<f64>,
    /// Those that nobody found, and events that were none, as spans in seconds.
    pub missed: Vec<(f64, f64)>,
    pub wrong: Vec<(f64, f64)>,
}

impl Verdict {
    /// Judges `events` (from, to in seconds) by all `crossings` that may be seen in the pictures.
    pub fn of(events: &[(f64, f64)], crossings: &[Crossing]) -> Self {
        let is_same = |event: &(f64, f64), crossing: &Crossing| {
            let begins = crossing.from_s - EARLY_S..=crossing.to_s + LATE_S;
            begins.contains(&event.0) && (crossing.from_s..=crossing.to_s + LONG_S).contains(&event.1)
        };
        let mut verdict = Self { crossings: crossings.len(), events: events.len(), ..Self::default() };
        for crossing in crossings {
            match events.iter().find(|event| is_same(event, crossing)) {
                Some(first) => {
                    verdict.found += 1;
                    verdict.start_errors_s.push(first.0 - crossing.from_s);
                }
                None => verdict.missed.push((crossing.from_s, crossing.to_s)),
            }
        }
        for event in events {
            match crossings.iter().any(|crossing| is_same(event, crossing)) {
                true => verdict.right += 1,
                false => verdict.wrong.push(*event),
            }
        }
        verdict
    }

    /// Adds what another stretch of pictures gave.
    pub fn add(&mut self, other: Self) {
        self.crossings += other.crossings;
        self.found += other.found;
        self.events += other.events;
        self.right += other.right;
        self.start_errors_s.extend(other.start_errors_s);
        self.missed.extend(other.missed);
        self.wrong.extend(other.wrong);
    }

    /// Share of the crossings that were found; 1 if there were none.
    pub fn recall(&self) -> f64 {
        if self.crossings == 0 { 1.0 } else { self.found as f64 / self.crossings as f64 }
    }

    /// Share of the events that were crossings; 1 if there were none.
    pub fn precision(&self) -> f64 {
        if self.events == 0 { 1.0 } else { self.right as f64 / self.events as f64 }
    }

    /// The start errors' absolute value that 95 of 100 stay below, milliseconds.
    pub fn start_error_ms(&self) -> Option<f64> {
        let mut errors: Vec<f64> = self.start_errors_s.iter().map(|error| error.abs() * 1e3).collect();
        errors.sort_by(f64::total_cmp);
        let at = (errors.len() * 95 / 100).min(errors.len().checked_sub(1)?);
        Some(errors[at])
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Direction, Kind};
    use super::*;

    #[test]
    fn events_and_crossings_are_told_apart() {
        let crossing = |from_s: f64, to_s: f64| Crossing {
            kind: Kind::Person,
            direction: Direction::ToLeft,
            height_px: 30.0,
            from_frame: 0,
            to_frame: 0,
            from_s,
            to_s,
        };
        let crossings = [crossing(10.0, 14.0), crossing(30.0, 34.0), crossing(50.0, 52.0)];
        let events = [(2.0, 53.0), (10.2, 12.0), (12.5, 14.1), (20.0, 21.0), (34.4, 36.0)];
        let verdict = Verdict::of(&events, &crossings);
        assert_eq!((verdict.recall(), verdict.precision()), (2.0 / 3.0, 0.6));
        assert_eq!(verdict.missed, [(50.0, 52.0)]);
        assert_eq!(verdict.wrong, [(2.0, 53.0), (20.0, 21.0)]);
        assert_eq!(verdict.start_error_ms().map(f64::round), Some(4400.0));
        let nothing = Verdict::of(&[], &[]);
        assert_eq!((nothing.recall(), nothing.precision(), nothing.start_error_ms()), (1.0, 1.0, None));
    }
}
