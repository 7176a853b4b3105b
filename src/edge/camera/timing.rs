//! Which moment a picture shows: from the camera's sender reports when they can be believed, else from
//! the arrival of its packets.
//!
//! Owns that choice for one connection. Pure: times come in. A choice is made once for a run and kept;
//! when it turns out wrong the run ends, and the next one chooses anew. May not rewrite a time.

use std::collections::VecDeque;

use super::session::SenderReport;
use crate::edge::fmp4::TIMESCALE;
use crate::edge::ring::after_ticks;
use crate::limits::{CAMERA_CLOCK_OFFSET_MAX, RUN_CLOCK_SHIFT_MAX};
use crate::model::{ClockQuality, ClockSource, SyncState, Time};

/// Turns the timeline of a connection into wall-clock time, for one run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mapping {
    pts: i64,
    time: Time,
    pub clock: ClockQuality,
}

impl Mapping {
    pub fn time(&self, pts: i64) -> Time {
        after_ticks(self.time, pts - self.pts)
    }
}

/// What one connection has shown of its time so far.
#[derive(Debug, Default)]
pub struct Timing {
    report: Option<SenderReport>,
    /// Arrival minus timeline, nanoseconds, of recent access units: the least of them is the least
    /// delayed. Each with the timeline's time it was seen at.
    delays: VecDeque<(i64, i128)>,
}

/// Arrivals of this many ticks count, and at most so many.
const DELAYS_TICKS: i64 = 10 * TIMESCALE as i64;
const DELAYS_MAX: usize = 1024;

impl Timing {
    pub fn unit(&mut self, pts: i64, arrived: Time) {
        self.delays.push_back((pts, arrived.as_nanosecond() - ticks_ns(pts)));
        while self.delays.len() > DELAYS_MAX || self.delays.front().is_some_and(|d| pts - d.0 > DELAYS_TICKS)
        {
            self.delays.pop_front();
        }
    }

    /// Takes a sender report, if the camera's clock can be believed.
    pub fn report(&mut self, report: SenderReport) {
        let off_ns = (report.time.as_nanosecond() - report.arrived.as_nanosecond()).unsigned_abs();
        // Twice as far once it is believed: a clock at the border must not make run after run.
        let limit = CAMERA_CLOCK_OFFSET_MAX * if self.report.is_some() { 2 } else { 1 };
        self.report = (off_ns <= limit.as_nanos()).then_some(report);
    }

    pub fn has_report(&self) -> bool {
        self.report.is_some()
    }

    /// The mapping for a run that begins now; none before the first access unit.
    pub fn choose(&self, box_clock: ClockQuality) -> Option<Mapping> {
        match self.report {
            Some(report) => Some(by_camera(report, box_clock)),
            None => self.by_arrival(box_clock),
        }
    }

    /// The mapping of a stream beside the one that has a run: by the same clock, the camera's where it tells, else by
    /// arrival and as far off as the run is. None before its first frame.
    pub fn beside(&self, run: &Mapping) -> Option<Mapping> {
        if let (ClockSource::Camera, Some(report)) = (run.clock.source, self.report) {
            return Some(by_camera(report, run.clock));
        }
        let arrived = self.by_arrival(run.clock)?;
        let offset_ms = match run.clock.source {
            ClockSource::Camera => run.clock.offset_ms.unwrap_or(0),
            ClockSource::Box => 0,
        };
        let time = arrived.time.saturating_add(jiff::SignedDuration::from_millis(offset_ms));
        Some(Mapping { time: time.unwrap_or(arrived.time), ..arrived })
    }

    /// How far the mapping of the open run has turned out to be off: end the run if that is true.
    pub fn has_shifted(&self, mapping: &Mapping) -> bool {
        let now = match (mapping.clock.source, self.report) {
            (ClockSource::Camera, Some(report)) => report.time.as_nanosecond() - ticks_ns(report.pts),
            // Its reports can't be believed any more, or there are some at last.
            (ClockSource::Camera, None) | (ClockSource::Box, Some(_)) => return true,
            (ClockSource::Box, None) => match self.delays.iter().map(|d| d.1).min() {
                Some(least) => least,
                None => return false,
            },
        };
        let then = mapping.time.as_nanosecond() - ticks_ns(mapping.pts);
        (now - then).unsigned_abs() > RUN_CLOCK_SHIFT_MAX.as_nanos()
    }

    fn by_arrival(&self, box_clock: ClockQuality) -> Option<Mapping> {
        let least = self.delays.iter().map(|d| d.1).min()?;
        let most = self.delays.iter().map(|d| d.1).max()?;
        let (pts, _) = *self.delays.back()?;
        let time = Time::from_nanosecond(least + ticks_ns(pts)).ok()?;
        // A picture arrives some time after it was taken; how long is not known, but it varies no less
        // than it was seen to vary.
        let jitter_ms = u64::try_from((most - least) / 1_000_000).unwrap_or(u64::MAX).min(10_000);
        let uncertainty_ms = box_clock.uncertainty_ms.map(|ms| ms + jitter_ms + ARRIVAL_DELAY_MS);
        Some(Mapping {
            pts,
            time,
            clock: ClockQuality { source: ClockSource::Box, uncertainty_ms, ..box_clock },
        })
    }
}

/// Exposure, encoding and the way: what cameras commonly take.
const ARRIVAL_DELAY_MS: u64 = 300;

fn by_camera(report: SenderReport, box_clock: ClockQuality) -> Mapping {
    let offset_ms = report.time.as_millisecond() - report.arrived.as_millisecond();
    let agrees = offset_ms.unsigned_abs() <= RUN_CLOCK_SHIFT_MAX.as_millis() as u64;
    let sync = match box_clock.sync {
        // It agrees with a clock that is held by something better.
        SyncState::Synced if agrees => SyncState::Synced,
        _ => SyncState::Unknown,
    };
    let uncertainty_ms = box_clock.uncertainty_ms.map(|ms| ms + offset_ms.unsigned_abs());
    let clock =
        ClockQuality { source: ClockSource::Camera, sync, offset_ms: Some(offset_ms), uncertainty_ms };
    Mapping { pts: report.pts, time: report.time, clock }
}

pub fn ticks_ns(ticks: i64) -> i128 {
    i128::from(ticks) * 1_000_000_000 / i128::from(TIMESCALE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOX: ClockQuality = ClockQuality {
        source: ClockSource::Box,
        sync: SyncState::Synced,
        offset_ms: None,
        uncertainty_ms: Some(5),
    };

    fn at(ms: i64) -> Time {
        Time::from_millisecond(1_772_000_000_000 + ms).unwrap()
    }

    fn report(pts: i64, camera_ms: i64, box_ms: i64) -> SenderReport {
        SenderReport { pts, time: at(camera_ms), arrived: at(box_ms) }
    }

    #[test]
    fn the_least_delayed_arrival_gives_the_time() {
        let mut timing = Timing::default();
        assert!(timing.choose(BOX).is_none());
        // Ten pictures a second, the second of them in time, the others late.
        for (n, late_ms) in [(0, 80), (1, 0), (2, 40)] {
            timing.unit(n * 9_000, at(n * 100 + late_ms));
        }
        let mapping = timing.choose(BOX).unwrap();
        assert_eq!(mapping.time(9_000), at(100));
        assert_eq!(mapping.clock.source, ClockSource::Box);
        assert_eq!(mapping.clock.uncertainty_ms, Some(5 + 80 + ARRIVAL_DELAY_MS));
    }

    #[test]
    fn a_camera_is_believed_while_its_clock_is_near() {
        for (off_ms, source) in
            [(0, ClockSource::Camera), (4_900, ClockSource::Camera), (-5_100, ClockSource::Box)]
        {
            let mut timing = Timing::default();
            timing.unit(0, at(10));
            timing.report(report(0, off_ms, 10));
            let mapping = timing.choose(BOX).unwrap();
            assert_eq!(mapping.clock.source, source, "{off_ms}");
            let expected = if source == ClockSource::Camera { at(off_ms) } else { at(10) };
            assert_eq!(mapping.time(0), expected, "{off_ms}");
        }
    }

    #[test]
    fn a_second_stream_follows_the_clock_of_the_first() {
        let mut video = Timing::default();
        video.unit(0, at(10));
        let by_box = video.choose(BOX).unwrap();
        // The camera's clock is two seconds ahead.
        video.report(report(0, 2_000, 0));
        let by_camera = video.choose(BOX).unwrap();
        let mut audio = Timing::default();
        assert!(audio.beside(&by_box).is_none());
        audio.unit(90_000, at(500));
        assert_eq!(audio.beside(&by_box).unwrap().time(90_000), at(500));
        assert_eq!(audio.beside(&by_camera).unwrap().time(90_000), at(2_500));
        audio.report(report(90_000, 2_450, 500));
        assert_eq!(audio.beside(&by_box).unwrap().time(90_000), at(500));
        assert_eq!(audio.beside(&by_camera).unwrap().time(90_000), at(2_450));
    }

    #[test]
    fn a_run_ends_when_its_clock_shifts() {
        let mut timing = Timing::default();
        timing.unit(0, at(10));
        timing.report(report(0, 0, 10));
        let mapping = timing.choose(BOX).unwrap();
        for (camera_ms, shifted) in
            [(10_000, false), (10_400, false), (10_600, true), (9_400, true), (99_000, true)]
        {
            timing.report(report(900_000, camera_ms, 10_010));
            assert_eq!(timing.has_shifted(&mapping), shifted, "{camera_ms}");
        }
        let mut by_box = Timing::default();
        by_box.unit(0, at(0));
        let mapping = by_box.choose(BOX).unwrap();
        by_box.unit(90_000, at(1_300));
        assert!(!by_box.has_shifted(&mapping), "one late packet is no shift");
        by_box.unit(20 * 90_000, at(20_600));
        assert!(by_box.has_shifted(&mapping), "all recent ones were late");
    }
}
