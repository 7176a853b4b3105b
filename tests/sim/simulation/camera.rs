//! A camera of a box: the real tracker of its time, and of the ring only what the tracker takes up after a start.

use camnet::edge::coverage::{Recorded, Tracker};
use camnet::model::{Coverage, GapCause, RunCommitment, Sha256Hash, SpanState, Time};
use jiff::SignedDuration;

use super::rng::Rng;

/// What survives the process: it lies on the box's disk.
#[derive(Clone, Default)]
pub struct Ring {
    /// The last reports made, oldest first, one per span.
    reports: Vec<Coverage>,
    last_run: Option<Recorded>,
}

pub struct Camera {
    tracker: Tracker,
    pub ring: Ring,
    run: Option<Recorded>,
    hash: Sha256Hash,
}

/// As limits::COVERAGE_REPEAT_MAX.
const REPEAT: usize = camnet::limits::COVERAGE_REPEAT_MAX;

impl Camera {
    /// Starts as the box starts; returns what is to be reported.
    pub fn boot(ring: Ring, now: Time) -> (Self, Vec<Coverage>) {
        let mut camera = Self { tracker: Tracker::default(), ring, run: None, hash: Sha256Hash([7; 32]) };
        let mut out = camera.tracker.boot(&camera.ring.reports.clone(), camera.ring.last_run, now, None);
        out.extend(camera.tracker.not_yet_connected(now));
        (camera, out)
    }

    /// One second of a camera's life.
    pub fn step(&mut self, rng: &mut Rng, now: Time) -> Vec<Coverage> {
        let mut out = Vec::new();
        match &mut self.run {
            Some(run) => {
                run.end = later(run.end, 1_000);
                run.commitment.fragments += 1;
                let run = *run;
                self.ring.last_run = Some(run);
                out.extend(self.tracker.recorded(run, now));
                if rng.percent(15) {
                    out.extend(self.tracker.run_ended(Some(run)));
                    self.run = None;
                    out.extend(self.tracker.gap(GapCause::StreamBroken, None, now));
                }
            }
            None if rng.percent(40) => {
                let commitment = RunCommitment { fragments: 1, merkle_root: self.hash };
                let start = later(now, -(rng.below(500) as i64));
                self.run = Some(Recorded { run: rng.uuid(), start, end: now, commitment });
            }
            None => {}
        }
        out.extend(self.tracker.tick(now));
        out
    }

    /// The last word before the account is looked at.
    pub fn last_word(&mut self, now: Time) -> Vec<Coverage> {
        let mut out = match self.run.take() {
            Some(run) => self.tracker.run_ended(Some(run)),
            None => Vec::new(),
        };
        out.extend(self.tracker.gap(GapCause::PausedByOwner, None, now));
        out
    }

    /// Reports are in the ring's journal before they go to the outbox.
    pub fn note(&mut self, reports: &[Coverage]) {
        for report in reports {
            match self.ring.reports.iter_mut().find(|known| known.span == report.span) {
                Some(known) => *known = report.clone(),
                None => self.ring.reports.push(report.clone()),
            }
        }
        let too_many = self.ring.reports.len().saturating_sub(REPEAT);
        self.ring.reports.drain(..too_many);
    }
}

pub fn is_gap(coverage: &Coverage, cause: Option<GapCause>) -> bool {
    match coverage.state {
        SpanState::Recorded => false,
        SpanState::Gap { cause: told } => cause.is_none_or(|cause| cause == told),
    }
}

pub fn later(time: Time, ms: i64) -> Time {
    time.checked_add(SignedDuration::from_millis(ms)).expect("within the simulation's years")
}
