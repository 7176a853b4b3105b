//! The ring's index: a journal of what is closed, so that opening need not look into the files.
//!
//! Owns its records; behind a byte with their version and one with their kind. May not be needed to read a segment:
//! what it lacks is found in the files.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::segment::{ns_of, time_of};
use crate::limits::{CLOCK_ERA_SPANS_MAX, CLOCK_ERAS_MAX, COVERAGE_REPEAT_MAX};
use crate::model::{Coverage, Time};

const VERSION: u8 = 2;
const SEGMENT: u8 = 1;
const REPORT: u8 = 2;

/// A segment that is closed and synced.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SegmentRecord {
    pub number: u64,
    pub run: Uuid,
    pub start: Time,
    pub end: Time,
    pub bytes: u64,
    /// The clock of its times was held by something better.
    pub is_sure: bool,
}

/// What was said about the camera's time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub coverage: Coverage,
    /// The span of the box's clock in which the span opened, if that was not known to be right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub era: Option<Uuid>,
}

/// The spans of one era of the box's clock (see `edge/clock.rs`), for the correction that may still come.
#[derive(Debug, Clone, PartialEq)]
pub struct EraSpans {
    pub era: Uuid,
    /// The span before the first of them, if it was told by a sure clock.
    pub before: Option<Coverage>,
    /// When the first of them began, by the era's clock.
    pub from: Option<Time>,
    /// Oldest first.
    pub spans: VecDeque<Uuid>,
}

impl EraSpans {
    pub fn new(era: Uuid, before: Option<Coverage>) -> Self {
        Self { era, before, from: None, spans: VecDeque::new() }
    }

    /// Adds a span unless it is known.
    pub fn add(&mut self, span: Uuid) {
        if !self.spans.iter().rev().any(|&known| known == span) {
            self.spans.push_back(span);
            if self.spans.len() > CLOCK_ERA_SPANS_MAX {
                self.spans.pop_front();
            }
        }
    }
}

impl SegmentRecord {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION, SEGMENT];
        out.extend_from_slice(&self.number.to_be_bytes());
        out.extend_from_slice(self.run.as_bytes());
        out.extend_from_slice(&ns_of(self.start).to_be_bytes());
        out.extend_from_slice(&ns_of(self.end).to_be_bytes());
        out.extend_from_slice(&self.bytes.to_be_bytes());
        out.push(self.is_sure.into());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 49] = bytes.try_into().ok()?;
        let number = |at: usize| u64::from_be_bytes(*bytes[at..].first_chunk().expect("it fits"));
        Some(Self {
            number: number(0),
            run: Uuid::from_bytes(*bytes[8..].first_chunk().expect("it fits")),
            start: time_of(number(24) as i64),
            end: time_of(number(32) as i64),
            bytes: number(40),
            is_sure: bytes[48] != 0,
        })
    }
}

impl Report {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION, REPORT];
        serde_json::to_writer(&mut out, self).expect("a report has only plain fields");
        out
    }
}

/// What the journal says.
#[derive(Debug, Default)]
pub struct Index {
    /// By number, each with the number of its record in the journal.
    pub segments: BTreeMap<u64, (SegmentRecord, u64)>,
    /// The latest report of each of the last spans, oldest first.
    pub reports: VecDeque<Report>,
    pub eras: VecDeque<EraSpans>,
    pub lost: Vec<String>,
    unreadable: u64,
}

impl Index {
    pub fn take(&mut self, number: u64, payload: &[u8]) {
        match payload {
            [VERSION, SEGMENT, rest @ ..] => match SegmentRecord::decode(rest) {
                Some(record) => drop(self.segments.insert(record.number, (record, number))),
                None => self.unreadable += 1,
            },
            [VERSION, REPORT, json @ ..] => match serde_json::from_slice(json) {
                Ok(report) => self.take_report(report),
                Err(_) => self.unreadable += 1,
            },
            _ => self.unreadable += 1,
        }
    }

    /// Tells what could not be read, once for all.
    pub fn finish(&mut self) {
        if self.unreadable > 0 {
            let count = self.unreadable;
            self.lost.push(format!("{count} records of the ring's index can't be read by this version"));
        }
    }

    fn take_report(&mut self, report: Report) {
        if let Some(era) = report.era {
            if self.eras.iter().all(|known| known.era != era) {
                let before = self.reports.back().filter(|report| report.era.is_none());
                let before = before.map(|report| report.coverage.clone());
                let from = Some(report.coverage.start);
                self.eras.push_back(EraSpans { from, ..EraSpans::new(era, before) });
                if self.eras.len() > CLOCK_ERAS_MAX {
                    self.eras.pop_front();
                }
            }
            let of_era = self.eras.iter_mut().find(|known| known.era == era);
            of_era.into_iter().for_each(|of_era| of_era.add(report.coverage.span));
        }
        remember(&mut self.reports, report);
    }
}

/// Keeps the latest report of each of the last spans, in the order in which they were opened.
pub fn remember(reports: &mut VecDeque<Report>, report: Report) {
    match reports.iter_mut().find(|known| known.coverage.span == report.coverage.span) {
        Some(known) => *known = report,
        None => {
            reports.push_back(report);
            if reports.len() > COVERAGE_REPEAT_MAX {
                reports.pop_front();
            }
        }
    }
}
