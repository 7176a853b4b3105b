//! One cause for what many devices suffer at once.
//!
//! Owns the inference: what is shared by those who fell silent, and by nobody else, is likely to be why. Pure. A cause is
//! a guess, and says so: the technician sees the devices beneath it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::limits::{FLEET_SHARED_MIN, FLEET_TOGETHER_WITHIN};
use crate::model::{AreaId, BoxId, DeviceId, DeviceKind, SiteId, Time, Trouble};

/// What is likely to be at fault.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", content = "id", rename_all = "snake_case")]
pub enum Cause {
    /// Nearly all boxes at once: the hub's own link or its broker.
    Hub,
    /// All sites of an area at once: the grid, or the operator's network.
    Area(AreaId),
    /// All boxes of a site: its power or its link.
    Site(SiteId),
    /// The box, its disk, or its link; others at its site are heard.
    Box(BoxId),
    /// All cameras of a box, which is heard: the switch between them, or its power.
    CamerasOf(BoxId),
    /// Lamps and sensors of a box that speak through a gateway, nearly all at once: the gateway, or its radio.
    GatewayOf(BoxId),
    /// All circuits of a cabinet: the cabinet, or its supply.
    Cabinet(DeviceId),
    /// The device itself.
    Device(DeviceId),
}

/// The kinds of causes, the widest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CauseKind {
    Hub,
    Area,
    Site,
    Box,
    CamerasOf,
    GatewayOf,
    Cabinet,
    Device,
}

impl CauseKind {
    pub const ALL: [Self; 8] = [
        Self::Hub,
        Self::Area,
        Self::Site,
        Self::Box,
        Self::CamerasOf,
        Self::GatewayOf,
        Self::Cabinet,
        Self::Device,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Hub => "hub",
            Self::Area => "area",
            Self::Site => "site",
            Self::Box => "box",
            Self::CamerasOf => "cameras_of",
            Self::GatewayOf => "gateway_of",
            Self::Cabinet => "cabinet",
            Self::Device => "device",
        }
    }
}

impl Cause {
    pub fn kind(&self) -> CauseKind {
        match self {
            Self::Hub => CauseKind::Hub,
            Self::Area(_) => CauseKind::Area,
            Self::Site(_) => CauseKind::Site,
            Self::Box(_) => CauseKind::Box,
            Self::CamerasOf(_) => CauseKind::CamerasOf,
            Self::GatewayOf(_) => CauseKind::GatewayOf,
            Self::Cabinet(_) => CauseKind::Cabinet,
            Self::Device(_) => CauseKind::Device,
        }
    }

    /// The id of what is at fault; the hub has none.
    pub fn id(&self) -> &str {
        match self {
            Self::Hub => "",
            Self::Area(id) => id.as_str(),
            Self::Site(id) => id.as_str(),
            Self::Box(id) | Self::CamerasOf(id) | Self::GatewayOf(id) => id.as_str(),
            Self::Cabinet(id) | Self::Device(id) => id.as_str(),
        }
    }
}

/// A device with trouble.
#[derive(Debug, Clone)]
pub struct Sufferer {
    pub device: DeviceId,
    /// The worst of its troubles.
    pub trouble: Trouble,
    pub since: Time,
}

/// Who stands where.
#[derive(Debug, Clone)]
pub struct Place {
    pub kind: DeviceKind,
    pub box_id: BoxId,
    pub site: SiteId,
    /// The innermost area first.
    pub areas: Vec<AreaId>,
}

/// One cause, and who suffers from it.
#[derive(Debug, Clone, PartialEq)]
pub struct Incident {
    pub cause: Cause,
    /// When the first of them began to suffer.
    pub since: Time,
    /// The trouble that most of them have.
    pub trouble: Trouble,
    pub devices: BTreeSet<DeviceId>,
}

/// Who stands where, in the ways in which things are shared.
#[derive(Debug, Clone, Default)]
pub struct Places {
    devices: BTreeMap<DeviceId, Place>,
    cameras_of_box: BTreeMap<BoxId, usize>,
    others_of_box: BTreeMap<BoxId, usize>,
    devices_of_box: BTreeMap<BoxId, BTreeSet<DeviceId>>,
    boxes_of_site: BTreeMap<SiteId, BTreeSet<BoxId>>,
    /// The outermost areas first.
    areas: Vec<(AreaId, OfArea)>,
}

#[derive(Debug, Clone, Default)]
struct OfArea {
    sites: BTreeSet<SiteId>,
    boxes: BTreeSet<BoxId>,
}

impl Places {
    pub fn of(devices: BTreeMap<DeviceId, Place>) -> Self {
        let mut places = Self::default();
        let mut areas: BTreeMap<&AreaId, (usize, OfArea)> = BTreeMap::new();
        for (device, place) in &devices {
            places.devices_of_box.entry(place.box_id.clone()).or_default().insert(device.clone());
            let cameras = places.cameras_of_box.entry(place.box_id.clone()).or_default();
            *cameras += usize::from(place.kind == DeviceKind::Camera);
            let others = places.others_of_box.entry(place.box_id.clone()).or_default();
            *others += usize::from(place.kind != DeviceKind::Camera);
            places.boxes_of_site.entry(place.site.clone()).or_default().insert(place.box_id.clone());
            for (depth, area) in place.areas.iter().rev().enumerate() {
                let (_, of_area) = areas.entry(area).or_insert_with(|| (depth, OfArea::default()));
                of_area.sites.insert(place.site.clone());
                of_area.boxes.insert(place.box_id.clone());
            }
        }
        let mut areas: Vec<_> = areas.into_iter().collect();
        areas.sort_by_key(|(_, (depth, _))| *depth);
        places.areas = areas.into_iter().map(|(area, (_, of_area))| (area.clone(), of_area)).collect();
        places.devices = devices;
        places
    }

    /// Whether a device stands in an area, or below it.
    pub fn is_in(&self, device: &DeviceId, area: &AreaId) -> bool {
        self.devices.get(device).is_some_and(|place| place.areas.contains(area))
    }

    /// The areas that a device stands in, the innermost first.
    pub fn areas_of(&self, device: &DeviceId) -> &[AreaId] {
        self.devices.get(device).map_or(&[], |place| &place.areas)
    }

    /// Whether a box has a camera: then it speaks more often.
    pub fn has_camera(&self, box_id: &BoxId) -> bool {
        self.cameras_of_box.get(box_id).is_some_and(|&cameras| cameras > 0)
    }

    /// Devices that a box speaks for.
    pub fn devices_of(&self, box_id: &BoxId) -> BTreeSet<DeviceId> {
        self.devices_of_box.get(box_id).cloned().unwrap_or_default()
    }

    fn boxes(&self) -> usize {
        self.cameras_of_box.len()
    }
}

/// Finds the causes among all devices in use. Each sufferer is told once, under the widest cause that fits.
pub fn incidents(places: &Places, sufferers: &[Sufferer]) -> Vec<Incident> {
    let mut left = Left::of(places, sufferers);
    let silent: BTreeSet<BoxId> = left.silent.keys().cloned().collect();
    if silent.len() >= 2 * FLEET_SHARED_MIN && silent.len() * 10 >= places.boxes() * 9 {
        left.take_boxes(Cause::Hub, &silent);
    }
    for (area, OfArea { sites, boxes }) in &places.areas {
        if sites.len() >= FLEET_SHARED_MIN && boxes.is_subset(&silent) {
            left.take_boxes(Cause::Area(area.clone()), boxes);
        }
    }
    for (site, boxes) in &places.boxes_of_site {
        // With one box nobody can tell the box from the site's power and link.
        if boxes.is_subset(&silent) {
            left.take_boxes(Cause::Site(site.clone()), boxes);
        }
    }
    for box_id in silent {
        left.take_boxes(Cause::Box(box_id.clone()), &BTreeSet::from([box_id]));
    }
    for (box_id, &cameras) in &places.cameras_of_box {
        if cameras > 1 {
            left.take_cameras(box_id, cameras);
        }
    }
    for (box_id, &others) in &places.others_of_box {
        left.take_gateway(box_id, others);
    }
    left.take_rest()
}

/// Sufferers of whom no cause is known yet.
struct Left<'a> {
    places: &'a Places,
    /// Whose box is not heard, by box.
    silent: BTreeMap<BoxId, Vec<&'a Sufferer>>,
    /// Cameras that their box does not reach, by box.
    away: BTreeMap<BoxId, Vec<&'a Sufferer>>,
    /// Lamps and sensors that their box does not hear, by box.
    mute: BTreeMap<BoxId, Vec<&'a Sufferer>>,
    /// Those whose box has trouble with its disk, by box.
    disks: BTreeMap<BoxId, Vec<&'a Sufferer>>,
    others: Vec<&'a Sufferer>,
    found: Vec<Incident>,
}

impl<'a> Left<'a> {
    fn of(places: &'a Places, sufferers: &'a [Sufferer]) -> Self {
        let (silent, away, mute) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let (disks, others, found) = (BTreeMap::new(), Vec::new(), Vec::new());
        let mut left = Self { places, silent, away, mute, disks, others, found };
        for sufferer in sufferers {
            let Some(place) = places.devices.get(&sufferer.device) else {
                left.others.push(sufferer);
                continue;
            };
            let of_box = match (sufferer.trouble, place.kind) {
                (Trouble::BoxSilent, _) => &mut left.silent,
                (Trouble::CameraUnreachable, _) => &mut left.away,
                (Trouble::DiskFull | Trouble::DiskFailed, _) => &mut left.disks,
                (Trouble::Silent, DeviceKind::Lamp | DeviceKind::Gate) => &mut left.mute,
                _ => {
                    left.others.push(sufferer);
                    continue;
                }
            };
            of_box.entry(place.box_id.clone()).or_default().push(sufferer);
        }
        left
    }

    /// Most of these boxes suffer from one cause, if they began together. One that was silent before has a cause of its
    /// own.
    fn take_boxes(&mut self, cause: Cause, boxes: &BTreeSet<BoxId>) {
        let began = |of: &Vec<&Sufferer>| of.iter().map(|sufferer| sufferer.since).max();
        let Some(last) = boxes.iter().filter_map(|box_id| began(self.silent.get(box_id)?)).max() else {
            return;
        };
        let is_member = |box_id: &&BoxId| {
            let since = self.silent.get(*box_id).and_then(began);
            since.is_some_and(|since| last.duration_since(since) <= FLEET_TOGETHER_WITHIN)
        };
        let together: Vec<&BoxId> = boxes.iter().filter(is_member).collect();
        if together.len() * 5 >= boxes.len() * 4 {
            let members: Vec<&Sufferer> =
                together.into_iter().filter_map(|box_id| self.silent.remove(box_id)).flatten().collect();
            self.found.extend(Incident::of(cause, &members));
        }
    }

    /// All cameras of a box that is heard itself.
    fn take_cameras(&mut self, box_id: &BoxId, cameras: usize) {
        let is_all = self.away.get(box_id).is_some_and(|of| of.len() == cameras && are_together(of));
        if is_all && let Some(members) = self.away.remove(box_id) {
            self.found.extend(Incident::of(Cause::CamerasOf(box_id.clone()), &members));
        }
    }

    /// Most lamps and sensors of a box that is heard itself.
    fn take_gateway(&mut self, box_id: &BoxId, others: usize) {
        let is_most = |of: &Vec<&Sufferer>| of.len() >= FLEET_SHARED_MIN && of.len() * 5 >= others * 4;
        let together = self.mute.get(box_id).is_some_and(|of| is_most(of) && are_together(of));
        if together && let Some(members) = self.mute.remove(box_id) {
            self.found.extend(Incident::of(Cause::GatewayOf(box_id.clone()), &members));
        }
    }

    fn take_rest(self) -> Vec<Incident> {
        let Self { places, silent, away, mute, disks, others, mut found } = self;
        for (box_id, of_box) in disks {
            found.extend(Incident::of(Cause::Box(box_id), &of_box));
        }
        let alone = silent.into_values().chain(away.into_values()).chain(mute.into_values()).flatten();
        for sufferer in alone.chain(others) {
            let is_lamp = places.devices.get(&sufferer.device).is_some_and(|p| p.kind == DeviceKind::Lamp);
            let device = sufferer.device.clone();
            let cause = match sufferer.trouble {
                Trouble::CabinetUnreachable | Trouble::CabinetFault if is_lamp => Cause::Cabinet(device),
                _ => Cause::Device(device),
            };
            found.extend(Incident::of(cause, &[sufferer]));
        }
        found.sort_by(|a, b| a.cause.cmp(&b.cause));
        found
    }
}

/// They began within a few minutes of each other.
fn are_together(sufferers: &[&Sufferer]) -> bool {
    let (first, last) = (sufferers.iter().map(|s| s.since).min(), sufferers.iter().map(|s| s.since).max());
    first.zip(last).is_some_and(|(first, last)| last.duration_since(first) <= FLEET_TOGETHER_WITHIN)
}

impl Incident {
    fn of(cause: Cause, members: &[&Sufferer]) -> Option<Self> {
        let mut counts: BTreeMap<Trouble, usize> = BTreeMap::new();
        members.iter().for_each(|member| *counts.entry(member.trouble).or_default() += 1);
        let (trouble, _) = counts.into_iter().max_by_key(|&(_, count)| count)?;
        let since = members.iter().map(|member| member.since).min()?;
        Some(Self { cause, since, trouble, devices: members.iter().map(|m| m.device.clone()).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Time {
        Time::from_second(1_800_000_000 + seconds).unwrap()
    }

    /// Two blocks of a ward; block `a` has three sites of two boxes with two cameras each and a cabinet, block `b` the
    /// same.
    fn ward() -> BTreeMap<DeviceId, Place> {
        let mut places = BTreeMap::new();
        for (block, site) in ["a", "b"].into_iter().flat_map(|block| (1..=3).map(move |site| (block, site))) {
            for n in 1..=2 {
                let mut add = |what: &str, kind| {
                    let place = Place {
                        kind,
                        box_id: BoxId::new(format!("box-{block}{site}{n}")).unwrap(),
                        site: SiteId::new(format!("site-{block}{site}")).unwrap(),
                        areas: vec![
                            AreaId::new(format!("block-{block}")).unwrap(),
                            AreaId::new("ward").unwrap(),
                        ],
                    };
                    places.insert(DeviceId::new(format!("{what}-{block}{site}{n}")).unwrap(), place);
                };
                add("cam-x", DeviceKind::Camera);
                add("cam-y", DeviceKind::Camera);
                if n == 1 {
                    add("lamp", DeviceKind::Lamp);
                }
            }
        }
        places
    }

    /// All whose id contains one of these parts suffer so, from about the same time; the causes.
    fn causes(table: &[(&str, Trouble, i64)]) -> Vec<(String, usize)> {
        let devices = ward();
        let places = Places::of(devices.clone());
        let mut sufferers: BTreeMap<DeviceId, Sufferer> = BTreeMap::new();
        for (part, trouble, seconds) in table {
            for (n, device) in devices.keys().filter(|d| d.as_str().contains(part)).enumerate() {
                let since = at(seconds + n as i64);
                sufferers
                    .insert(device.clone(), Sufferer { device: device.clone(), trouble: *trouble, since });
            }
        }
        let sufferers: Vec<_> = sufferers.into_values().collect();
        let found = incidents(&places, &sufferers);
        let told: usize = found.iter().map(|incident| incident.devices.len()).sum();
        assert_eq!(told, sufferers.len(), "each is told once");
        let name = |cause: &Cause| serde_json::to_value(cause).unwrap();
        let text = |cause: &Cause| {
            let value = name(cause);
            format!("{} {}", value["kind"].as_str().unwrap(), value["id"].as_str().unwrap_or("-"))
        };
        found.iter().map(|incident| (text(&incident.cause), incident.devices.len())).collect()
    }

    #[test]
    fn what_is_shared_is_the_cause() {
        use Trouble::*;
        let check = |table: &[(&str, Trouble, i64)], expected: &[(&str, usize)]| {
            let expected: Vec<_> = expected.iter().map(|&(name, n)| (name.to_owned(), n)).collect();
            assert_eq!(causes(table), expected, "{table:?}");
        };
        check(&[("-", BoxSilent, 0)], &[("hub -", 30)]);
        check(&[("-a", BoxSilent, 0)], &[("area block-a", 15)]);
        check(&[("-a1", BoxSilent, 0)], &[("site site-a1", 5)]);
        check(&[("-a11", BoxSilent, 0)], &[("box box-a11", 3)]);
        check(
            &[("cam-x-a11", CameraUnreachable, 0), ("cam-y-a11", CameraUnreachable, 0)],
            &[("cameras_of box-a11", 2)],
        );
        check(&[("cam-x-a11", CameraUnreachable, 0)], &[("device cam-x-a11", 1)]);
        check(&[("lamp-a11", CabinetUnreachable, 0)], &[("cabinet lamp-a11", 1)]);
        check(&[("lamp-a11", LampFailure, 0)], &[("device lamp-a11", 1)]);
        check(
            &[("cam-x-a11", PictureCovered, 0), ("cam-y-a11", PictureCovered, 0)],
            &[("device cam-x-a11", 1), ("device cam-y-a11", 1)],
        );
    }

    #[test]
    fn many_lamps_that_fall_silent_at_a_box_that_is_heard_have_their_gateway_in_common() {
        let box_id = BoxId::new("box-01").unwrap();
        let of = |n: usize| {
            let kind = DeviceKind::Lamp;
            let (site, areas) = (SiteId::new(format!("pole-{n}")).unwrap(), Vec::new());
            (
                DeviceId::new(format!("lamp-{n:02}")).unwrap(),
                Place { kind, box_id: box_id.clone(), site, areas },
            )
        };
        let places = Places::of((0..10).map(of).collect());
        let causes = |silent: usize| {
            let sufferer = |n| Sufferer { device: of(n).0, trouble: Trouble::Silent, since: at(n as i64) };
            let sufferers: Vec<_> = (0..silent).map(sufferer).collect();
            incidents(&places, &sufferers).into_iter().map(|i| (i.cause, i.devices.len())).collect::<Vec<_>>()
        };
        assert_eq!(causes(1), [(Cause::Device(of(0).0), 1)]);
        assert_eq!(causes(7).len(), 7);
        assert_eq!(causes(9), [(Cause::GatewayOf(box_id.clone()), 9)]);
    }

    #[test]
    fn what_did_not_begin_together_has_no_cause_in_common() {
        use Trouble::*;
        // A box that is dead for long does not hide what the others share.
        let table = [("-", BoxSilent, 50_000), ("-a11", BoxSilent, 0)];
        assert_eq!(causes(&table)[0], ("hub -".to_owned(), 27));
        let told = causes(&[("-a11", BoxSilent, 0), ("-a12", BoxSilent, 50_000)]);
        assert_eq!(told, [("box box-a11".to_owned(), 3), ("box box-a12".to_owned(), 2)]);
        let told = causes(&[("cam-x-a11", CameraUnreachable, 0), ("cam-y-a11", CameraUnreachable, 50_000)]);
        assert_eq!(told.len(), 2);
    }

    #[test]
    fn several_causes_stand_beside_each_other() {
        use Trouble::*;
        let table = [("-a", BoxSilent, 0), ("cam-x-b11", PictureFrozen, 100), ("-b2", BoxSilent, 9000)];
        let names: Vec<_> = causes(&table).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["area block-a", "site site-b2", "device cam-x-b11"]);
    }
}
