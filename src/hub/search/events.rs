//! Events by time, kind and place.
//!
//! Owns what the catalog does not do itself: it takes one kind and one device, so for several of them its pages are read
//! and filtered here, as many events as one answer may read. A page can be short and still have a next one.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::atlas::Atlas;
use super::cameras::{Stand, Which};
use super::question::{Condition, Question};
use super::{Search, SearchError};
use crate::hub::access::Pass;
use crate::hub::catalog::{EventKey, EventPage, EventQuery, EventRow};
use crate::limits::{PAGE_EVENTS_MAX, SEARCH_EVENTS_READ_MAX};
use crate::model::{BoxId, DeviceId, Time};

/// What is asked of events beside their time and place.
#[derive(Debug, Clone, PartialEq)]
pub struct EventsWanted {
    /// None: all kinds.
    pub kinds: Vec<String>,
    pub box_id: Option<BoxId>,
    pub after: Option<EventKey>,
    pub limit: usize,
}

impl Search {
    /// What the boxes said. With a place: of devices that stood in it then, and not what concerns boxes only. Blocking.
    pub fn events(
        &self,
        _pass: &Pass,
        question: &Question,
        wanted: &EventsWanted,
        atlas: &Atlas,
    ) -> Result<EventPage, SearchError> {
        let EventsWanted { kinds, box_id, after, limit } = wanted;
        let place = Placed::of(question, atlas);
        let mut query = EventQuery {
            kind: if let [one] = kinds.as_slice() { Some(one.clone()) } else { None },
            device: place.as_ref().and_then(Placed::only),
            box_id: box_id.clone(),
            range: question.range(),
            order: question.order,
            after: *after,
            limit: *limit,
        };
        let is_wanted = |row: &EventRow| {
            let time = Time::from_microsecond(row.key.time_us).unwrap_or(row.received);
            (kinds.is_empty() || kinds.contains(&row.kind))
                && question.windows.iter().any(|w| w.overlaps(time, time))
                && place.as_ref().is_none_or(|place| place.has(row.device.as_ref(), time, atlas))
        };
        let mut found = EventPage { events: Vec::new(), next: None };
        let mut left = SEARCH_EVENTS_READ_MAX;
        loop {
            let page = self.catalog.events(&query)?;
            left = left.saturating_sub(page.events.len());
            for row in page.events {
                if !is_wanted(&row) {
                    continue;
                }
                let key = row.key;
                found.events.push(row);
                if found.events.len() == *limit {
                    found.next = Some(key);
                    return Ok(found);
                }
            }
            found.next = page.next;
            if page.next.is_none() || left == 0 {
                return Ok(found);
            }
            query.after = page.next;
            // Much is read past where little fits.
            query.limit = PAGE_EVENTS_MAX;
        }
    }
}

/// The devices of the question's place.
struct Placed {
    /// None: wherever one stood.
    stands: Option<BTreeSet<*const Stand>>,
    devices: BTreeSet<DeviceId>,
}

impl Placed {
    /// None: the question names no place.
    fn of(question: &Question, atlas: &Atlas) -> Option<Self> {
        if question.place.is_empty() {
            return None;
        }
        // Who names devices and nothing else means them wherever they stood, also before they were enrolled.
        if let [Condition::Devices { devices }] = question.place.as_slice() {
            let devices = devices.iter().filter_map(|id| DeviceId::new(id.as_str()).ok()).collect();
            return Some(Self { stands: None, devices });
        }
        let cameras = atlas.cameras();
        let found =
            cameras.find(Which::All, &question.place, &question.windows, question.centre(), atlas.history());
        let devices = found.iter().map(|f| f.stand.placement.device.id.clone()).collect();
        let stands = found.iter().map(|f| Arc::as_ptr(&f.stand)).collect();
        Some(Self { stands: Some(stands), devices })
    }

    fn only(&self) -> Option<DeviceId> {
        if self.devices.len() == 1 { self.devices.first().cloned() } else { None }
    }

    fn has(&self, device: Option<&DeviceId>, time: Time, atlas: &Atlas) -> bool {
        let Some(device) = device.filter(|device| self.devices.contains(*device)) else { return false };
        self.stands.as_ref().is_none_or(|stands| {
            atlas.cameras().stand_at(device, time).is_some_and(|stand| stands.contains(&Arc::as_ptr(stand)))
        })
    }
}
