//! Whether a device has been silent for too long, by how often it speaks.
//!
//! Owns nothing but the times of its last words. Pure.

use std::collections::VecDeque;

use jiff::SignedDuration;

use crate::limits::SILENCE_MAX;
use crate::model::Time;

/// Pauses that are remembered.
const PAUSES_KEPT: usize = 8;
/// Silent is who was not heard for so many times its longest usual pause.
const TIMES: i32 = 3;

/// One device's, or one box's.
#[derive(Debug, Clone, Default)]
pub struct Rhythm {
    last: Option<Time>,
    pauses: VecDeque<SignedDuration>,
}

impl Rhythm {
    /// Something of it arrived.
    pub fn heard(&mut self, at: Time) {
        let Some(last) = self.last else {
            self.last = Some(at);
            return;
        };
        if at <= last {
            return;
        }
        let pause = at.duration_since(last);
        self.last = Some(at);
        // An outage is no rhythm.
        if pause <= SILENCE_MAX {
            if self.pauses.len() == PAUSES_KEPT {
                self.pauses.pop_front();
            }
            self.pauses.push_back(pause);
        }
    }

    pub fn last(&self) -> Option<Time> {
        self.last
    }

    /// How long it may be silent: a burst of words says nothing of the pause behind it, so never less than its kind's
    /// `heartbeat` asks for.
    pub fn allows(&self, heartbeat: SignedDuration) -> SignedDuration {
        let usual = self.pauses.iter().copied().max().unwrap_or(heartbeat).max(heartbeat);
        (usual * TIMES).min(SILENCE_MAX.max(heartbeat * TIMES))
    }

    /// Since when it has been silent, if that is too long by `now`; None if it was never heard. Nobody is silent while
    /// the hub does not listen: it has done so since `listening`.
    pub fn silent_since(&self, heartbeat: SignedDuration, listening: Time, now: Time) -> Option<Time> {
        let last = self.last?;
        let due = last.max(listening).checked_add(self.allows(heartbeat)).ok()?;
        (due < now).then_some(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: SignedDuration = SignedDuration::from_mins(1);

    fn at(seconds: i64) -> Time {
        Time::from_second(1_800_000_000 + seconds).unwrap()
    }

    #[test]
    fn silence_is_judged_by_ones_own_rhythm() {
        let mut often = Rhythm::default();
        (0..20).for_each(|n| often.heard(at(n * 60)));
        assert_eq!(often.silent_since(MINUTE, at(0), at(19 * 60 + 170)), None);
        assert_eq!(often.silent_since(MINUTE, at(0), at(19 * 60 + 200)), Some(at(19 * 60)));
        // The hub itself was away.
        assert_eq!(often.silent_since(MINUTE, at(9000), at(9100)), None);
        assert_eq!(often.silent_since(MINUTE, at(9000), at(9200)), Some(at(19 * 60)));
        let mut seldom = Rhythm::default();
        (0..20).for_each(|n| seldom.heard(at(n * 900)));
        assert_eq!(seldom.silent_since(MINUTE, at(0), at(19 * 900 + 2600)), None);
        assert!(seldom.silent_since(MINUTE, at(0), at(19 * 900 + 2800)).is_some());
    }

    #[test]
    fn an_outage_and_what_comes_late_or_at_once_teach_nothing() {
        let mut rhythm = Rhythm::default();
        (0..20).for_each(|n| rhythm.heard(at(n * 60)));
        let allowed = rhythm.allows(MINUTE);
        rhythm.heard(at(100_000));
        rhythm.heard(at(5));
        assert_eq!(rhythm.allows(MINUTE), allowed);
        assert_eq!(rhythm.last(), Some(at(100_000)));
        let mut burst = Rhythm::default();
        (0..50).for_each(|n| burst.heard(at(n)));
        assert_eq!(burst.allows(MINUTE), MINUTE * TIMES, "a burst is no rhythm");
        assert_eq!(Rhythm::default().silent_since(MINUTE, at(0), at(9000)), None);
    }
}
