//! The devices that are in use, and where each stands: the registry made ready for the fleet.
//!
//! Owns nothing that the registry does not. Pure.

use std::collections::BTreeMap;

use super::cause::{Place, Places};
use crate::hub::registry::History;
use crate::model::{AreaId, Device, DeviceId, Point, Time};

/// Everybody of whom something is expected.
#[derive(Debug, Clone, Default)]
pub struct Roster {
    pub devices: BTreeMap<DeviceId, Member>,
    pub places: Places,
}

#[derive(Debug, Clone)]
pub struct Member {
    pub device: Device,
    pub point: Option<Point>,
    pub owner: Option<String>,
    /// Since when it is in use.
    pub from: Time,
}

impl Roster {
    /// Those of the registry at `now`.
    pub fn of(history: &History, now: Time) -> Self {
        let (mut devices, mut places) = (BTreeMap::new(), BTreeMap::new());
        for (id, versions) in history.devices() {
            let Some(version) = versions.last().filter(|version| version.until.is_none()) else { continue };
            let device = &version.value;
            let first = versions.first().map_or(version.from, |first| first.from);
            let site = history.site(&device.site);
            let place = Place {
                kind: device.kind,
                box_id: device.box_id.clone(),
                site: device.site.clone(),
                areas: site.map(|site| areas_of(history, &site.area)).unwrap_or_default(),
            };
            let member = Member {
                device: device.clone(),
                point: site.map(|site| site.point),
                owner: site.map(|site| site.owner.clone()),
                from: device.enrolled.unwrap_or(first).min(now),
            };
            devices.insert(id.clone(), member);
            places.insert(id.clone(), place);
        }
        Self { devices, places: Places::of(places) }
    }
}

/// An area and those that it lies in, the innermost first.
fn areas_of(history: &History, area: &AreaId) -> Vec<AreaId> {
    let mut areas: Vec<AreaId> = Vec::new();
    let mut next = Some(area.clone());
    // A ring of parents can't be imported, and would end here.
    while let Some(area) = next.filter(|area| !areas.contains(area)) {
        next = history.area(&area).and_then(|found| found.parent.clone());
        areas.push(area);
    }
    areas
}
