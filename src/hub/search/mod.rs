//! Search: a time, a place, and what the hub can say about them: clips, and gaps with their causes.
//!
//! Owns the answering and exact paging; also the reads of events and of what was refused. Reads the catalog and the
//! registry's history, never the journal. May not answer without the gate's [`Pass`]. Everything here blocks: call it
//! on a thread that may wait.

mod account;
pub mod answer;
pub mod atlas;
pub mod cameras;
pub mod coordinates;
mod coverage;
pub mod events;
pub mod follow;
pub mod geometry;
pub mod lamps;
pub mod names;
pub mod question;
pub mod timeline;
pub mod token;
pub mod when;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use jiff::SignedDuration;
use uuid::Uuid;

use super::access::Pass;
use super::catalog::{
    Catalog, CatalogError, ClipKey, ClipQuery, ClipRow, RefusedCount, RefusedPage, RefusedQuery, TimeRange,
    uncertain_us,
};
use crate::limits::SEARCH_CAMERAS_MAX;
use crate::model::{BoxId, DeviceId, Time};
use answer::{Answer, CameraCoverage, ClipView, PlaceView, Understood, WindowView, clip_view};
use atlas::Atlas;
use cameras::{Found, Stand, Which};
use question::Question;
use token::Token;

/// Why a question can't be answered; the texts are for who asked.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    #[error("{0}")]
    Question(String),
    #[error("{cameras} cameras; one search may touch {SEARCH_CAMERAS_MAX}: choose a smaller place")]
    TooManyCameras { cameras: usize },
    #[error("the page token {0}")]
    Page(&'static str),
    #[error("the index did not answer")]
    Catalog(#[from] CatalogError),
}

fn wrong(text: String) -> SearchError {
    SearchError::Question(text)
}

/// What was found, by the place where the camera stood.
type ByStand<'a> = HashMap<*const Stand, &'a Found>;

/// Whether a box is known to be offline; search need not know how anybody knows.
pub type IsOffline = Arc<dyn Fn(&BoxId) -> bool + Send + Sync>;

/// Answers questions from the index and the registry.
#[derive(Clone)]
pub struct Search {
    catalog: Arc<dyn Catalog>,
    is_offline: IsOffline,
}

impl Search {
    pub fn new(catalog: Arc<dyn Catalog>, is_offline: IsOffline) -> Self {
        Self { catalog, is_offline }
    }

    /// Clips, and the account of every camera in the place for all of the windows. Blocking.
    pub fn answer(
        &self,
        pass: &Pass,
        question: &Question,
        atlas: &Atlas,
        now: Time,
    ) -> Result<Answer, SearchError> {
        let found = cameras_of(question, atlas)?;
        let (mut clips, mut coverage) = (Vec::new(), Vec::new());
        let most = question.limit;
        let after = self.clips(pass, question, &found, atlas, Pages { most, step: most }, |clip| {
            clips.push(clip);
            true
        })?;
        self.accounts(pass, question, &found, atlas, now, |account| {
            coverage.push(account);
            true
        })?;
        let next = after.map(|after| next_page(question, after));
        Ok(Answer { understood: understood(question, &found), clips, coverage, next })
    }

    /// Gives the clips of a question in order to `take`, as long as it says true: as many as `pages` says. Returns
    /// where to go on, if there are more. Blocking.
    pub fn clips(
        &self,
        _pass: &Pass,
        question: &Question,
        found: &[Found],
        atlas: &Atlas,
        pages: Pages,
        mut take: impl FnMut(ClipView) -> bool,
    ) -> Result<Option<ClipKey>, SearchError> {
        let by_stand: ByStand = found.iter().map(|f| (Arc::as_ptr(&f.stand), f)).collect();
        let mut query = ClipQuery {
            devices: devices_of(found).into_iter().cloned().collect(),
            ranges: question.windows.clone(),
            order: question.order,
            after: question.after,
            limit: pages.step + 1,
        };
        let (mut told, mut last) = (0, None);
        loop {
            let rows = self.catalog.clips(&query)?;
            let is_last = rows.len() < query.limit;
            query.after = rows.last().map(ClipRow::key).or(query.after);
            for row in rows {
                // A camera that moved within a window counts only where it stood in the place when the clip began.
                let Some(hit) = hit(row, &question.windows, &by_stand, atlas) else { continue };
                if told == pages.most {
                    return Ok(last);
                }
                last = Some(hit.row.key());
                told += 1;
                let stand = atlas.cameras().stand_at(&hit.row.device, hit.moment);
                if !take(clip_view(hit.row, stand.map(|s| &s.placement), hit.found, hit.is_certain)) {
                    return Ok(last);
                }
            }
            if is_last {
                return Ok(None);
            }
        }
    }

    /// Gives the account of each camera to `take`, as long as it says true. Blocking.
    pub fn accounts(
        &self,
        pass: &Pass,
        question: &Question,
        found: &[Found],
        atlas: &Atlas,
        now: Time,
        mut take: impl FnMut(CameraCoverage) -> bool,
    ) -> Result<(), SearchError> {
        let windows = &question.windows;
        let beside = self.beside(found, atlas.lamps(), windows)?;
        self.each_account(pass, found, windows, now, |camera, spans| {
            take(beside.with(camera, spans, windows, now))
        })
    }

    /// One clip, as an answer shows it. Blocking.
    pub fn clip(&self, _pass: &Pass, clip: Uuid, atlas: &Atlas) -> Result<Option<ClipView>, SearchError> {
        let Some(row) = self.catalog.clip(clip)? else { return Ok(None) };
        let stand = atlas.cameras().stand_at(&row.device, row.start);
        Ok(Some(clip_view(row, stand.map(|s| &s.placement), None, true)))
    }

    /// What was set aside, newest first, and how much of it there is. Blocking.
    pub fn refused(
        &self,
        _pass: &Pass,
        query: &RefusedQuery,
    ) -> Result<(RefusedPage, Vec<RefusedCount>), SearchError> {
        let page = self.catalog.refused(query)?;
        let mut counts = self.catalog.refused_counts()?;
        counts.retain(|count| {
            query.box_id.as_ref().is_none_or(|box_id| *box_id == count.box_id)
                && query.reason.as_ref().is_none_or(|reason| *reason == count.reason)
        });
        Ok((page, counts))
    }
}

/// How many clips are told, and how many are read at once.
#[derive(Debug, Clone, Copy)]
pub struct Pages {
    pub most: usize,
    pub step: usize,
}

/// The token of the page behind a clip.
pub fn next_page(question: &Question, after: ClipKey) -> String {
    Token::new(question.digest, question.at, after).write()
}

/// A clip that the question found.
struct Hit<'a> {
    row: ClipRow,
    found: Option<&'a Found>,
    /// When it counts: its start, or the beginning of the window into which it reaches.
    moment: Time,
    /// False where only the uncertainty of its clock may put it into a window.
    is_certain: bool,
}

/// The clip, if it belongs to a window and its camera stood in the place.
fn hit<'a>(row: ClipRow, windows: &[TimeRange], by_stand: &ByStand<'a>, atlas: &Atlas) -> Option<Hit<'a>> {
    let certain = windows.iter().find(|w| w.overlaps(row.start, row.end));
    let (earliest, latest) = uncertain_span(&row);
    let window = certain.or_else(|| windows.iter().find(|w| w.overlaps(earliest, latest)))?;
    let moment = row.start.clamp(window.from, window.to);
    let stand = atlas.cameras().stand_at(&row.device, moment)?;
    let found = *by_stand.get(&Arc::as_ptr(stand))?;
    Some(Hit { row, found: Some(found), moment, is_certain: certain.is_some() })
}

/// The clip's time, widened on both sides by what its clock may be off; by an hour at most.
pub fn uncertain_span(row: &ClipRow) -> (Time, Time) {
    let off = SignedDuration::from_micros(uncertain_us(row.clock.uncertainty_ms));
    let earliest = row.start.checked_sub(off).unwrap_or(Time::MIN);
    (earliest, row.end.checked_add(off).unwrap_or(Time::MAX))
}

/// The cameras of the place, if they are not too many.
pub fn cameras_of(question: &Question, atlas: &Atlas) -> Result<Vec<Found>, SearchError> {
    let Question { place, windows, .. } = question;
    let found = atlas.cameras().find(Which::Cameras, place, windows, question.centre(), atlas.history());
    let cameras = devices_of(&found).len();
    if cameras > SEARCH_CAMERAS_MAX {
        return Err(SearchError::TooManyCameras { cameras });
    }
    Ok(found)
}

fn devices_of(found: &[Found]) -> BTreeSet<&DeviceId> {
    found.iter().map(|f| &f.stand.placement.device.id).collect()
}

/// What was understood, before anything is read of the index.
pub fn understood(question: &Question, found: &[Found]) -> Understood {
    let range = question.range();
    Understood {
        from: range.from,
        to: range.to,
        windows: question.windows.iter().map(|w| WindowView { from: w.from, to: w.to }).collect(),
        zone: when::ZONE,
        offset: when::offset_at(range.from),
        words: question.words.clone(),
        order: question.order,
        place: PlaceView { conditions: question.place.clone() },
        cameras: devices_of(found).len(),
    }
}

fn round(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests;
