//! Counts per bucket of time: where in a window something moved, and what was recorded.
//!
//! Owns how a window is cut into buckets. May not read clips one by one where the index can count them.

use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;

use super::answer::{NameView, SpanView};
use super::atlas::Atlas;
use super::cameras::Found;
use super::question::Question;
use super::{Search, SearchError, cameras_of, round, wrong};
use crate::hub::access::Pass;
use crate::hub::catalog::{Buckets, TimeRange};
use crate::limits::{COVERAGE_CELLS_MAX, TIMELINE_BUCKETS, TIMELINE_BUCKETS_MAX};
use crate::model::{DeviceId, Time};

/// How many clips begin when.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Timeline {
    #[schema(value_type = String, format = DateTime)]
    pub from: Time,
    #[schema(value_type = String, format = DateTime)]
    pub to: Time,
    pub bucket_s: u32,
    pub cameras: usize,
    /// Sum over the buckets.
    pub clips: u64,
    pub buckets: Vec<ClipBucket>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct ClipBucket {
    #[schema(value_type = String, format = DateTime)]
    pub start: Time,
    /// Clips that begin in it.
    pub clips: u64,
}

/// How much was recorded when.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct CoverageTimeline {
    #[schema(value_type = String, format = DateTime)]
    pub from: Time,
    #[schema(value_type = String, format = DateTime)]
    pub to: Time,
    pub bucket_s: u32,
    /// Over all cameras: seconds of cameras.
    pub buckets: Vec<CoverageBucket>,
    pub cameras: Vec<CameraBuckets>,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct CameraBuckets {
    pub device: NameView,
    pub buckets: Vec<CoverageBucket>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct CoverageBucket {
    #[schema(value_type = String, format = DateTime)]
    pub start: Time,
    pub recorded_s: f64,
    pub gap_s: f64,
    pub unconfirmed_s: f64,
}

/// Lengths that people read well, seconds.
const NICE_S: [u32; 17] =
    [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 43_200, 86_400];

/// The buckets of a range: of the length asked for, else of one that makes some [`TIMELINE_BUCKETS`].
pub fn buckets(range: TimeRange, bucket_s: Option<u32>) -> Result<(u32, Buckets), SearchError> {
    let length_us = range.to.as_microsecond().saturating_sub(range.from.as_microsecond()).max(1);
    let count = |seconds: u32| (length_us as u64).div_ceil(u64::from(seconds) * 1_000_000) as usize;
    let nice = || NICE_S.into_iter().find(|&s| count(s) <= TIMELINE_BUCKETS);
    let bucket_s = bucket_s.or_else(nice).unwrap_or(NICE_S[NICE_S.len() - 1]);
    if bucket_s == 0 || count(bucket_s) > TIMELINE_BUCKETS_MAX {
        let least = (length_us as u64).div_ceil(TIMELINE_BUCKETS_MAX as u64 * 1_000_000);
        return Err(wrong(format!(
            "bucket_s = {bucket_s}: at most {TIMELINE_BUCKETS_MAX} buckets, so at least {least} s here"
        )));
    }
    let bucket_us = i64::from(bucket_s) * 1_000_000;
    Ok((bucket_s, Buckets { from: range.from, bucket_us, count: count(bucket_s) }))
}

impl Search {
    /// How many clips begin in each bucket of a question's time. Blocking.
    pub fn timeline(
        &self,
        _pass: &Pass,
        question: &Question,
        atlas: &Atlas,
        bucket_s: Option<u32>,
    ) -> Result<Timeline, SearchError> {
        let found = cameras_of(question, atlas)?;
        let range = question.range();
        let (bucket_s, buckets) = buckets(range, bucket_s)?;
        let mut counts = vec![0; buckets.count];
        // Most cameras stood in one place all the time; who moved is counted while it stood here.
        let mut settled: Vec<DeviceId> = Vec::new();
        for camera in &found {
            let device = &camera.stand.placement.device.id;
            let there = windows_of(camera, &question.windows, atlas);
            if there == question.windows {
                settled.push(device.clone());
            } else {
                let moved = std::slice::from_ref(device);
                add(&mut counts, self.catalog.clip_counts(moved, &there, buckets)?);
            }
        }
        add(&mut counts, self.catalog.clip_counts(&settled, &question.windows, buckets)?);
        let starts = starts(buckets);
        Ok(Timeline {
            from: range.from,
            to: range.to,
            bucket_s,
            cameras: super::devices_of(&found).len(),
            clips: counts.iter().sum(),
            buckets: starts.zip(counts).map(|(start, clips)| ClipBucket { start, clips }).collect(),
        })
    }

    /// How much each camera recorded in each bucket of a question's time. Blocking.
    pub fn coverage_timeline(
        &self,
        pass: &Pass,
        question: &Question,
        atlas: &Atlas,
        bucket_s: Option<u32>,
        now: Time,
    ) -> Result<CoverageTimeline, SearchError> {
        let found = cameras_of(question, atlas)?;
        let range = question.range();
        let (bucket_s, buckets) = buckets(range, bucket_s)?;
        let cells = found.len() * buckets.count;
        if cells > COVERAGE_CELLS_MAX {
            return Err(wrong(format!(
                "{} cameras in {} buckets: at most {COVERAGE_CELLS_MAX} of both; ask for a larger bucket_s or fewer \
                 cameras",
                found.len(),
                buckets.count
            )));
        }
        let mut cameras: Vec<CameraBuckets> = Vec::with_capacity(found.len());
        self.each_account(pass, &found, &question.windows, now, |camera, spans| {
            let device = &camera.stand.placement.device;
            let device = NameView { id: device.id.to_string(), name: device.name.clone() };
            cameras.push(CameraBuckets { device, buckets: of_spans(&spans, buckets) });
            true
        })?;
        let mut total = of_spans(&[], buckets);
        for bucket in cameras.iter().flat_map(|camera| camera.buckets.iter().enumerate()) {
            let (n, bucket) = bucket;
            total[n].recorded_s = round(total[n].recorded_s + bucket.recorded_s, 3);
            total[n].gap_s = round(total[n].gap_s + bucket.gap_s, 3);
            total[n].unconfirmed_s = round(total[n].unconfirmed_s + bucket.unconfirmed_s, 3);
        }
        Ok(CoverageTimeline { from: range.from, to: range.to, bucket_s, buckets: total, cameras })
    }
}

fn add(counts: &mut [u64], more: Vec<u64>) {
    for (count, more) in counts.iter_mut().zip(more) {
        *count += more;
    }
}

fn starts(buckets: Buckets) -> impl Iterator<Item = Time> {
    let from_us = buckets.from.as_microsecond();
    let at = move |n: usize| Time::from_microsecond(from_us.saturating_add(buckets.bucket_us * n as i64));
    (0..buckets.count).map(move |n| at(n).unwrap_or(Time::MAX))
}

/// The windows as far as the camera stood where it was found; what came before its first place counts there.
fn windows_of(camera: &Found, windows: &[TimeRange], atlas: &Atlas) -> Vec<TimeRange> {
    let placement = &camera.stand.placement;
    let is_first = atlas.cameras().stands_of(&placement.device.id).first();
    let is_first = is_first.is_some_and(|first| Arc::ptr_eq(first, &camera.stand));
    let since = if is_first { Time::MIN } else { placement.from };
    let tick = jiff::SignedDuration::from_micros(1);
    let until = placement.until.map_or(Time::MAX, |until| until.checked_sub(tick).unwrap_or(until));
    let cut = |window: &TimeRange| TimeRange { from: window.from.max(since), to: window.to.min(until) };
    windows.iter().map(cut).filter(|window| window.from <= window.to).collect()
}

/// The seconds of each state in each bucket.
fn of_spans(spans: &[SpanView], buckets: Buckets) -> Vec<CoverageBucket> {
    let empty = |start| CoverageBucket { start, recorded_s: 0.0, gap_s: 0.0, unconfirmed_s: 0.0 };
    let mut all: Vec<CoverageBucket> = starts(buckets).map(empty).collect();
    let (from_us, bucket_us) = (buckets.from.as_microsecond(), buckets.bucket_us);
    for span in spans {
        let (start, end) = (span.start.as_microsecond().max(from_us), span.end.as_microsecond());
        let Some(first) = buckets.of(start) else { continue };
        for (n, bucket) in all.iter_mut().enumerate().skip(first) {
            let begin = from_us + n as i64 * bucket_us;
            if begin >= end {
                break;
            }
            let seconds = (end.min(begin + bucket_us) - start.max(begin)) as f64 / 1e6;
            let sum = match (span.confirmed, span.cause.is_some()) {
                (false, _) => &mut bucket.unconfirmed_s,
                (true, true) => &mut bucket.gap_s,
                (true, false) => &mut bucket.recorded_s,
            };
            *sum = round(*sum + seconds, 3);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::GapCause;

    fn at(second: i64) -> Time {
        Time::from_second(1_800_000_000 + second).unwrap()
    }

    #[test]
    fn a_window_is_cut_into_buckets_that_people_read_well() {
        let table = [(100, None, Ok((1, 100))), (3600, None, Ok((30, 120))), (86_400, None, Ok((600, 144)))];
        let told = [(3600, Some(600), Ok((600, 6))), (3601, Some(600), Ok((600, 7))), (60, Some(0), Err(()))];
        let many = [(92 * 86_400, None, Ok((43_200, 184))), (86_400, Some(1), Err(()))];
        for (seconds, asked, expected) in table.into_iter().chain(told).chain(many) {
            let cut = buckets(TimeRange { from: at(0), to: at(seconds) }, asked);
            let cut = cut.map(|(bucket_s, buckets)| (bucket_s, buckets.count)).map_err(|_| ());
            assert_eq!(cut, expected, "{seconds} {asked:?}");
        }
    }

    #[test]
    fn the_seconds_of_all_buckets_are_those_of_the_spans() {
        let span = |start: i64, end: i64, cause: Option<GapCause>, confirmed: bool| SpanView {
            state: if cause.is_some() { "gap" } else { "recorded" },
            cause,
            start: at(start),
            end: at(end),
            open: false,
            confirmed,
        };
        let gap = Some(GapCause::BoxOff);
        let spans = [span(0, 25, None, true), span(25, 41, gap, true), span(41, 50, None, false)];
        let all = of_spans(&spans, Buckets { from: at(0), bucket_us: 20_000_000, count: 3 });
        let told: Vec<_> = all.iter().map(|b| (b.recorded_s, b.gap_s, b.unconfirmed_s)).collect();
        assert_eq!(told, [(20.0, 0.0, 0.0), (5.0, 15.0, 0.0), (0.0, 1.0, 9.0)]);
        assert_eq!(all[1].start, at(20));
    }
}
