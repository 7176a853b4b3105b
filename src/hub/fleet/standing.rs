//! A device's state over time: troubles count when they last, and end when they stay away.
//!
//! Owns the hysteresis. Pure; may not find troubles.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use super::judge::Troubles;
use crate::limits::{FLEET_ENDS_AFTER, FLEET_FORGIVES, FLEET_HOLDS};
use crate::model::{DeviceState, Time, Trouble};

/// One device's.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    pub state: DeviceState,
    /// Since when it is in this state.
    pub since: Time,
    held: BTreeMap<Trouble, Held>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Held {
    /// Since when it is so, by what was said.
    since: Time,
    /// When it was first found here.
    found: Time,
    /// Not found any more, from here on.
    gone: Option<Time>,
    counts: bool,
}

/// A device's state changed, or what it comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    pub state: DeviceState,
    pub since: Time,
    /// What counts, the worst first.
    pub troubles: Vec<Trouble>,
}

/// What people decided of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decided {
    InUse,
    Maintenance,
    Retired,
}

impl Standing {
    /// One of which nothing is known yet.
    pub fn new(at: Time) -> Self {
        Self::taken_up(DeviceState::Working, &[], at)
    }

    /// One that was known before a restart.
    pub fn taken_up(state: DeviceState, troubles: &[Trouble], since: Time) -> Self {
        let held = Held { since, found: since, gone: None, counts: true };
        Self { state, since, held: troubles.iter().map(|&trouble| (trouble, held)).collect() }
    }

    /// What counts now, the worst first, and since when.
    pub fn troubles(&self) -> Vec<(Trouble, Time)> {
        let mut troubles: Vec<_> =
            self.held.iter().filter(|(_, held)| held.counts).map(|(&t, held)| (t, held.since)).collect();
        // That a box starts again and again is what comes of something else.
        troubles.sort_by_key(|&(trouble, since)| {
            (std::cmp::Reverse(trouble.state()), trouble == Trouble::Restarts, since)
        });
        troubles
    }

    /// Takes what was found at `now`; the change, if there is one. What counts ends only after the device `was_heard` by
    /// who listens now: a hub that just started finds nothing wrong.
    pub fn take(&mut self, found: &Troubles, decided: Decided, was_heard: bool, now: Time) -> Option<Change> {
        for (&trouble, &since) in found {
            let held = self.held.entry(trouble);
            let held = held.or_insert(Held { since, found: now, gone: None, counts: false });
            held.gone = None;
        }
        let mut has_changed = false;
        self.held.retain(|trouble, held| {
            if !found.contains_key(trouble) {
                if held.counts && !was_heard {
                    return true;
                }
                let gone = *held.gone.get_or_insert(now);
                let forgiven = if held.counts { FLEET_ENDS_AFTER } else { FLEET_FORGIVES };
                let stays = now.duration_since(gone) < forgiven;
                has_changed |= held.counts && !stays;
                return stays;
            }
            if !held.counts && now.duration_since(held.found) >= holds(*trouble) {
                held.counts = true;
                has_changed = true;
            }
            true
        });
        let troubles = self.troubles();
        let state = match decided {
            Decided::Retired => DeviceState::Retired,
            Decided::Maintenance => DeviceState::Maintenance,
            Decided::InUse => troubles.first().map_or(DeviceState::Working, |(worst, _)| worst.state()),
        };
        if state != self.state {
            has_changed = true;
            // What got worse began before it was sure; what got better did so now.
            let was_in_use = self.state <= DeviceState::Unreachable;
            let began = troubles
                .iter()
                .filter(|(trouble, _)| trouble.state() == state)
                .map(|&(_, since)| since)
                .min();
            self.since = match began.filter(|_| was_in_use && state > self.state && decided == Decided::InUse)
            {
                Some(began) => began.max(self.since),
                None => now,
            };
            self.state = state;
        }
        let troubles = troubles.into_iter().map(|(trouble, _)| trouble).collect();
        has_changed.then_some(Change { state: self.state, since: self.since, troubles })
    }
}

/// How long a trouble must be found before it counts.
fn holds(trouble: Trouble) -> SignedDuration {
    match trouble {
        // The box watched it for some time before it said so.
        Trouble::PictureDark
        | Trouble::PictureCovered
        | Trouble::PictureBlurred
        | Trouble::PictureFrozen
        | Trouble::PictureMoved
        | Trouble::DiskFull
        | Trouble::DiskFailed
        | Trouble::SelfTestFailed
        | Trouble::PausedByOwner
        | Trouble::Forced
        | Trouble::Restarts
        | Trouble::UnderVoltage => SignedDuration::ZERO,
        _ => FLEET_HOLDS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Trouble::*;

    fn at(seconds: i64) -> Time {
        Time::from_second(1_800_000_000 + seconds).unwrap()
    }

    /// Every 5 s from 0 on, what is found; the changes with their second.
    fn told(found: impl Fn(i64) -> Vec<Trouble>, seconds: i64) -> Vec<(i64, DeviceState, Vec<Trouble>)> {
        let mut standing = Standing::new(at(0));
        let mut told = Vec::new();
        for second in (0..seconds).step_by(5) {
            let troubles = found(second).into_iter().map(|trouble| (trouble, at(second))).collect();
            if let Some(change) = standing.take(&troubles, Decided::InUse, true, at(second)) {
                told.push((second, change.state, change.troubles));
            }
        }
        told
    }

    #[test]
    fn what_lasts_counts_and_what_flickers_does_not() {
        let holds = FLEET_HOLDS.as_secs();
        let ends = FLEET_ENDS_AFTER.as_secs();
        let away = |second: i64| if (100..1000).contains(&second) { vec![CameraUnreachable] } else { vec![] };
        assert_eq!(
            told(away, 2000),
            [
                (100 + holds, DeviceState::Unreachable, vec![CameraUnreachable]),
                (1000 + ends, DeviceState::Working, vec![]),
            ]
        );
        let flickers = |second: i64| if second % 60 < 20 { vec![CameraUnreachable] } else { vec![] };
        assert_eq!(told(flickers, 2000), []);
        // A link that comes for moments only is away all the time.
        let comes = |second: i64| if second % 60 < 10 { vec![] } else { vec![CameraUnreachable] };
        assert_eq!(told(comes, 2000).len(), 1);
    }

    #[test]
    fn the_worst_trouble_is_the_state_and_all_are_told() {
        let two = |second: i64| match second {
            0..300 => vec![PictureBlurred],
            300..600 => vec![PictureBlurred, StreamBroken],
            _ => vec![PictureBlurred],
        };
        let told = told(two, 1200);
        let states: Vec<_> = told.iter().map(|(_, state, troubles)| (*state, troubles.clone())).collect();
        assert_eq!(
            states,
            [
                (DeviceState::Degraded, vec![PictureBlurred]),
                (DeviceState::NotRecording, vec![StreamBroken, PictureBlurred]),
                (DeviceState::Degraded, vec![PictureBlurred]),
            ]
        );
    }

    #[test]
    fn maintenance_hides_what_is_found_until_it_ends() {
        let mut standing = Standing::new(at(0));
        let found = Troubles::from([(CameraUnreachable, at(0))]);
        let change = standing.take(&found, Decided::Maintenance, true, at(10)).unwrap();
        assert_eq!((change.state, change.since), (DeviceState::Maintenance, at(10)));
        assert!(
            standing
                .take(&found, Decided::Maintenance, true, at(60))
                .is_none_or(|c| c.state == DeviceState::Maintenance)
        );
        let change = standing.take(&found, Decided::InUse, true, at(600)).unwrap();
        assert_eq!(
            (change.state, change.since),
            (DeviceState::Unreachable, at(600)),
            "maintenance stays what it was"
        );
    }

    #[test]
    fn what_was_wrong_before_a_restart_is_so_until_somebody_speaks() {
        let mut standing = Standing::taken_up(DeviceState::Unreachable, &[CameraUnreachable], at(0));
        let nothing = Troubles::new();
        for second in (1000..2000).step_by(5) {
            assert_eq!(standing.take(&nothing, Decided::InUse, false, at(second)), None);
        }
        let ended =
            (2000..2200).step_by(5).find_map(|s| standing.take(&nothing, Decided::InUse, true, at(s)));
        assert_eq!(ended.unwrap().state, DeviceState::Working);
    }

    #[test]
    fn an_outage_within_a_lasting_lesser_trouble_keeps_its_place() {
        let mut standing = Standing::new(at(0));
        let blurred = Troubles::from([(PictureBlurred, at(100))]);
        let full = Troubles::from([(PictureBlurred, at(100)), (DiskFull, at(500))]);
        let mut since = Vec::new();
        for (from, to, found) in [(100, 500, &blurred), (500, 900, &full), (900, 1300, &blurred)] {
            for second in (from..to).step_by(5) {
                since.extend(
                    standing.take(found, Decided::InUse, true, at(second)).map(|c| (c.state, c.since)),
                );
            }
        }
        let ended = 900 + FLEET_ENDS_AFTER.as_secs();
        let expected = [
            (DeviceState::Degraded, at(100)),
            (DeviceState::NotRecording, at(500)),
            (DeviceState::Degraded, at(ended)),
        ];
        assert_eq!(since, expected);
    }
}
