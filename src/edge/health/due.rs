//! When a box says how it or a camera is doing: at once when that changes, and at a slow heartbeat.
//!
//! Owns the pauses. Pure: the caller passes the time in, and what counts as a change.

use std::time::{Duration, Instant};

use crate::limits::{STATUS_HEARTBEAT, STATUS_PAUSE_MIN, STATUS_SETTLES};

/// One device's. `J` is what a change is judged by.
#[derive(Debug)]
pub struct Due<J> {
    heartbeat: Duration,
    said: Option<(Instant, J)>,
    /// It has been otherwise since then.
    changed: Option<(Instant, J)>,
    settles_first: bool,
}

impl<J: PartialEq> Due<J> {
    /// `spread` is 0 to 1 and the device's own, so that a ward's boxes don't speak in step after a power cut.
    pub fn new(spread: f64) -> Self {
        let heartbeat = Duration::try_from(STATUS_HEARTBEAT).unwrap_or_default();
        Self {
            heartbeat: heartbeat.mul_f64(0.8 + 0.2 * spread.clamp(0.0, 1.0)),
            said: None,
            changed: None,
            settles_first: true,
        }
    }

    /// One that is said at the first look: there is nothing that has to settle.
    pub fn at_once(spread: f64) -> Self {
        Self { settles_first: false, ..Self::new(spread) }
    }

    /// Whether it is to be said now; then it counts as said.
    pub fn is_due(&mut self, judged: J, now: Instant) -> bool {
        let is_due = match &self.said {
            None => !self.settles_first || self.has_settled(&judged, now),
            Some((at, said)) if *said == judged => {
                self.changed = None;
                now.duration_since(*at) >= self.heartbeat
            }
            Some((at, _)) => now.duration_since(*at) >= STATUS_PAUSE_MIN && self.has_settled(&judged, now),
        };
        if is_due {
            self.said = Some((now, judged));
            self.changed = None;
        } else if self.said.as_ref().is_none_or(|(_, said)| *said != judged)
            && self.changed.as_ref().is_none_or(|(_, changed)| *changed != judged)
        {
            self.changed = Some((now, judged));
        }
        is_due
    }

    /// It was not taken: it is due again.
    pub fn not_said(&mut self) {
        self.said = None;
    }

    fn has_settled(&self, judged: &J, now: Instant) -> bool {
        let since = self.changed.as_ref().filter(|(_, changed)| changed == judged).map(|(since, _)| *since);
        since.is_some_and(|since| now.duration_since(since) >= STATUS_SETTLES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The seconds at which it is said; asked each second.
    fn said(seconds: u64, judged: impl Fn(u64) -> u8) -> Vec<u64> {
        let (mut due, start) = (Due::new(1.0), Instant::now());
        (0..seconds)
            .filter(|&second| due.is_due(judged(second), start + Duration::from_secs(second)))
            .collect()
    }

    #[test]
    fn it_is_said_when_it_settled_and_then_at_a_heartbeat() {
        let (settles, heartbeat) = (STATUS_SETTLES.as_secs(), STATUS_HEARTBEAT.as_secs() as u64);
        assert_eq!(said(1500, |_| 0), [settles, settles + heartbeat]);
        let breaks = |second: u64| u8::from(second >= 300);
        assert_eq!(said(1000, breaks), [settles, 300 + settles]);
    }

    #[test]
    fn what_flickers_is_not_said_each_time() {
        let flickers = |second: u64| (second / 3 % 2) as u8;
        assert!(said(600, flickers).len() <= 1, "{:?}", said(600, flickers));
        let comes_and_goes = |second: u64| (second / 15 % 2) as u8;
        let times = said(3600, comes_and_goes).len() as u64;
        assert!(times <= 3600 / STATUS_PAUSE_MIN.as_secs() + 1, "{times} times in an hour");
    }

    #[test]
    fn who_has_nothing_to_settle_speaks_at_once_and_then_as_others_do() {
        let (mut due, start) = (Due::at_once(1.0), Instant::now());
        assert!(due.is_due(1, start) && !due.is_due(1, start + Duration::from_secs(60)));
    }

    #[test]
    fn what_was_not_taken_is_due_again() {
        let (mut due, start) = (Due::new(0.0), Instant::now());
        let at = |second| start + Duration::from_secs(second);
        assert!(!due.is_due(1, at(0)) && due.is_due(1, at(60)) && !due.is_due(1, at(61)));
        due.not_said();
        assert!(!due.is_due(1, at(62)), "it settles again");
        assert!(due.is_due(1, at(100)));
    }
}
