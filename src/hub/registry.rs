//! The registry: areas, sites and devices, from a TOML file, as dated changes.
//!
//! Owns the acts journal's registry records. The file says what is; the journal says since when. At start
//! the file is compared with the state and each difference becomes a record that never expires, so that
//! yesterday's question meets yesterday's registry. May not rewrite a record.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};

use jiff::SignedDuration;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::catalog::TimeRange;
use crate::journal::{Item, Journal, JournalError};
use crate::limits::{
    LAMP_CIRCUITS_MAX, REGISTRY_BOUNDARY_POINTS_MAX, REGISTRY_BYTES_MAX, REGISTRY_LINE_POINTS_MAX,
    REGISTRY_REACH_M_MAX, REGISTRY_VIEW_POINTS_MAX,
};
use crate::model::{
    Area, AreaId, BoxId, Device, DeviceId, DeviceKind, LatLon, Point, Site, SiteId, Street, StreetId, Time,
    View,
};

/// What is wrong with a registry file or its journal. Each error says what to do.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("registry {path}: can't be read")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("registry {path}: {bytes} bytes, at most {REGISTRY_BYTES_MAX} are read; split the ward")]
    TooLarge { path: PathBuf, bytes: u64 },
    #[error("registry {path}: {source}")]
    Syntax { path: PathBuf, source: Box<toml::de::Error> },
    #[error("registry {path}: [[{table}]] {id}: {what}")]
    Entry { path: PathBuf, table: &'static str, id: String, what: String },
    #[error("the acts journal has failed")]
    Journal(#[from] JournalError),
    #[error(
        "record {number} of the acts journal can't be read: {why}; restore the acts folder from a backup"
    )]
    Record { number: u64, why: String },
}

/// The file as it is written.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistryFile {
    #[serde(default, rename = "area")]
    pub areas: Vec<Area>,
    #[serde(default, rename = "street")]
    pub streets: Vec<Street>,
    #[serde(default, rename = "site")]
    pub sites: Vec<Site>,
    #[serde(default, rename = "device")]
    pub devices: Vec<Device>,
}

impl RegistryFile {
    /// Reads a file and checks every reference in it.
    pub fn load(path: &Path) -> Result<Self, RegistryError> {
        let read_error = |source| RegistryError::Read { path: path.to_owned(), source };
        let bytes = std::fs::metadata(path).map_err(read_error)?.len();
        if bytes > REGISTRY_BYTES_MAX {
            return Err(RegistryError::TooLarge { path: path.to_owned(), bytes });
        }
        Self::parse(path, &std::fs::read_to_string(path).map_err(read_error)?)
    }

    /// As [`RegistryFile::load`], from text; `path` is for the errors.
    pub fn parse(path: &Path, text: &str) -> Result<Self, RegistryError> {
        let file: Self = toml::from_str(text)
            .map_err(|source| RegistryError::Syntax { path: path.to_owned(), source: Box::new(source) })?;
        file.check().map_err(|(table, id, what)| RegistryError::Entry {
            path: path.to_owned(),
            table,
            id,
            what,
        })?;
        Ok(file)
    }

    fn check(&self) -> Result<(), (&'static str, String, String)> {
        self.check_areas().map_err(|(id, what)| ("area", id, what))?;
        let areas: BTreeSet<_> = self.areas.iter().map(|a| &a.id).collect();
        self.check_streets(&areas).map_err(|(id, what)| ("street", id, what))?;
        let mut sites = BTreeSet::new();
        for site in &self.sites {
            let wrong = |what: String| Err(("site", site.id.to_string(), what));
            if !sites.insert(&site.id) {
                return wrong("stands twice; remove one, or give it another id".into());
            }
            if !areas.contains(&site.area) {
                return wrong(format!(
                    "area = {:?} is not an [[area]] of this file; add it",
                    site.area.as_str()
                ));
            }
            if !site.point.is_valid() {
                return wrong("point: lat must lie in -90..90, lon in -180..180".into());
            }
        }
        let mut devices = BTreeSet::new();
        for device in &self.devices {
            let wrong = |what: String| Err(("device", device.id.to_string(), what));
            if !devices.insert(&device.id) {
                return wrong("stands twice; remove one, or give it another id".into());
            }
            if !sites.contains(&device.site) {
                return wrong(format!(
                    "site = {:?} is not a [[site]] of this file; add it",
                    device.site.as_str()
                ));
            }
            if device.view.is_some() && device.kind != DeviceKind::Camera {
                return wrong("view: only a camera has one; remove it".into());
            }
            if device.lamps.is_some() && device.kind != DeviceKind::Lamp {
                return wrong("lamps: only a device of kind = \"lamp\" has them; remove it".into());
            }
            if !device.circuits.is_empty() && device.kind != DeviceKind::Lamp {
                return wrong("circuits: only a device of kind = \"lamp\" has them; remove them".into());
            }
            if let Err(what) = device.view.as_ref().map_or(Ok(()), check_view) {
                return wrong(what);
            }
            if let Err(what) = check_circuits(device) {
                return wrong(what);
            }
        }
        Ok(())
    }

    fn check_streets(&self, areas: &BTreeSet<&AreaId>) -> Result<(), (String, String)> {
        let mut streets = BTreeSet::new();
        for street in &self.streets {
            let wrong = |what: String| Err((street.id.to_string(), what));
            if !streets.insert(&street.id) {
                return wrong("stands twice; remove one, or give it another id".into());
            }
            if let Some(area) = street.area.as_ref().filter(|area| !areas.contains(area)) {
                return wrong(format!("area = {:?} is not an [[area]] of this file; add it", area.as_str()));
            }
            if let Err(what) = check_points("line", &street.line, 2, REGISTRY_LINE_POINTS_MAX) {
                return wrong(what);
            }
        }
        Ok(())
    }

    fn check_areas(&self) -> Result<(), (String, String)> {
        let mut parents = BTreeMap::new();
        for area in &self.areas {
            if parents.insert(&area.id, area.parent.as_ref()).is_some() {
                return Err((area.id.to_string(), "stands twice; remove one, or give it another id".into()));
            }
        }
        for area in &self.areas {
            check_boundary(area).map_err(|what| (area.id.to_string(), what))?;
            let mut up = area.parent.as_ref();
            for _ in 0..=self.areas.len() {
                let Some(id) = up else { break };
                up = match parents.get(id) {
                    Some(parent) => *parent,
                    None => {
                        let what =
                            format!("parent = {:?} is not an [[area]] of this file; add it", id.as_str());
                        return Err((area.id.to_string(), what));
                    }
                };
            }
            if up.is_some() {
                return Err((area.id.to_string(), "parent: the parents go in a circle; break it".into()));
            }
        }
        Ok(())
    }
}

/// Lines and rings are written as `[lat, lon]`; who writes them the other way round, as GeoJSON has it, is told.
fn check_points(key: &str, points: &[LatLon], least: usize, most: usize) -> Result<(), String> {
    if !(least..=most).contains(&points.len()) {
        return Err(format!("{key}: has {} points; {least} to {most} are needed", points.len()));
    }
    for &[lat, lon] in points {
        if !Point::from([lat, lon]).is_valid() {
            let hint = if Point::from([lon, lat]).is_valid() { "; swap the two numbers" } else { "" };
            return Err(format!(
                "{key}: [{lat}, {lon}]: points are [lat, lon], lat in -90..90, lon in -180..180{hint}"
            ));
        }
    }
    Ok(())
}

fn check_boundary(area: &Area) -> Result<(), String> {
    let points: usize = area.boundary.iter().map(Vec::len).sum();
    if points > REGISTRY_BOUNDARY_POINTS_MAX {
        return Err(format!(
            "boundary: has {points} points, at most {REGISTRY_BOUNDARY_POINTS_MAX}; simplify it"
        ));
    }
    for ring in &area.boundary {
        check_points("boundary", ring, 3, REGISTRY_BOUNDARY_POINTS_MAX)?;
    }
    match (area.from, area.until) {
        (Some(from), Some(until)) if from >= until => {
            Err(format!("from = {from} must lie before until = {until}"))
        }
        _ => Ok(()),
    }
}

fn check_view(view: &View) -> Result<(), String> {
    let sector = match view {
        View::Polygon(polygon) => {
            return check_points("view.polygon", polygon, 3, REGISTRY_VIEW_POINTS_MAX);
        }
        View::Sector(sector) => sector,
    };
    if !(0.0..=360.0).contains(&sector.heading_deg) {
        return Err("view.heading_deg: 0 to 360 degrees, clockwise from north".into());
    }
    if !(sector.angle_deg > 0.0 && sector.angle_deg <= 360.0) {
        return Err("view.angle_deg: more than 0, at most 360 degrees (all around)".into());
    }
    if !(sector.reach_m > 0.0 && sector.reach_m <= REGISTRY_REACH_M_MAX) {
        return Err(format!("view.reach_m: more than 0, at most {REGISTRY_REACH_M_MAX} metres"));
    }
    Ok(())
}

fn check_circuits(device: &Device) -> Result<(), String> {
    if device.circuits.len() > LAMP_CIRCUITS_MAX {
        return Err(format!("circuits: at most {LAMP_CIRCUITS_MAX} of one cabinet"));
    }
    let mut numbers = BTreeSet::new();
    for circuit in &device.circuits {
        let number = circuit.circuit;
        if !numbers.insert(number) {
            return Err(format!("circuits: circuit {number} stands twice; give each its own number"));
        }
        check_points(&format!("circuit {number}: route"), &circuit.route, 1, REGISTRY_LINE_POINTS_MAX)?;
    }
    Ok(())
}

/// One record of the acts journal about the registry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Change {
    version: u32,
    act: String,
    time: Time,
    kind: Kind,
    id: String,
    before: Option<Value>,
    after: Option<Value>,
}

const CHANGE_VERSION: u32 = 1;
const CHANGE_ACT: &str = "registry";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Area,
    Street,
    Site,
    Device,
}

/// What something was from some moment until another.
#[derive(Debug, Clone, PartialEq)]
pub struct Version<T> {
    pub from: Time,
    /// None: still.
    pub until: Option<Time>,
    pub value: T,
}

impl<T> Version<T> {
    pub fn is_valid_in(&self, range: TimeRange) -> bool {
        self.from <= range.to && self.until.is_none_or(|until| until > range.from)
    }
    fn is_valid_at(&self, time: Time) -> bool {
        self.from <= time && self.until.is_none_or(|until| until > time)
    }
}

/// Everything that was ever in the registry.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct History {
    areas: BTreeMap<AreaId, Vec<Version<Area>>>,
    streets: BTreeMap<StreetId, Vec<Version<Street>>>,
    sites: BTreeMap<SiteId, Vec<Version<Site>>>,
    devices: BTreeMap<DeviceId, Vec<Version<Device>>>,
    last_change: Option<Time>,
}

/// A camera as it stood somewhere for some time.
#[derive(Debug, Clone, PartialEq)]
pub struct Placement {
    pub device: Device,
    pub site: Site,
    pub from: Time,
    pub until: Option<Time>,
}

/// The registry, open.
pub struct Registry {
    journal: Mutex<Journal>,
    history: RwLock<Arc<History>>,
}

impl Registry {
    /// Opens the acts journal in `dir` and reads the history. Blocking.
    pub fn open(dir: &Path) -> Result<Self, RegistryError> {
        let (journal, recovery) = Journal::open(dir)?;
        for damage in &recovery.damage {
            tracing::error!(%damage, "acts journal is damaged, restore it from a backup");
        }
        let mut history = History::default();
        for item in journal.read(journal.first()) {
            let Item::Record(record) = item? else { continue };
            let wrong = |why: String| RegistryError::Record { number: record.number, why };
            let value: Value = serde_json::from_slice(&record.payload).map_err(|e| wrong(e.to_string()))?;
            // Acts of other kinds share this journal.
            if value["act"] != CHANGE_ACT {
                continue;
            }
            let change: Change = serde_json::from_value(value).map_err(|e| wrong(e.to_string()))?;
            history.apply(&change).map_err(wrong)?;
        }
        Ok(Self { journal: Mutex::new(journal), history: RwLock::new(Arc::new(history)) })
    }

    /// Makes each difference between `file` and the state a durable record of time `now`. Returns how
    /// many there were; none if the file was imported before. Blocking.
    pub fn import(&self, file: &RegistryFile, now: Time) -> Result<usize, RegistryError> {
        let mut journal = self.journal.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut history = History::clone(&self.history());
        // A clock that stepped back must not put changes in the wrong order.
        let time = history.last_change.map_or(now, |last| now.max(last + SignedDuration::from_micros(1)));
        let changes = history.differences(file, time);
        for change in &changes {
            let json = serde_json::to_vec(change).expect("a change has only text keys");
            journal.append(&json)?;
        }
        journal.sync()?;
        for change in &changes {
            history.apply(change).map_err(|why| RegistryError::Record { number: journal.next(), why })?;
        }
        *self.history.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = Arc::new(history);
        Ok(changes.len())
    }

    /// The history as of now; does not change under the caller.
    pub fn history(&self) -> Arc<History> {
        self.history.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }
}

impl History {
    /// The registry as it is: the newest versions that were not removed.
    pub fn current(&self) -> RegistryFile {
        RegistryFile {
            areas: current(&self.areas),
            streets: current(&self.streets),
            sites: current(&self.sites),
            devices: current(&self.devices),
        }
    }

    /// The registry as it was at `time`.
    pub fn at(&self, time: Time) -> RegistryFile {
        RegistryFile {
            areas: valid_at(&self.areas, time),
            streets: valid_at(&self.streets, time),
            sites: valid_at(&self.sites, time),
            devices: valid_at(&self.devices, time),
        }
    }

    /// True if `box_id` is the one that is believed about `device` at `time`.
    pub fn speaks_for(&self, box_id: &BoxId, device: &DeviceId, time: Time) -> bool {
        let versions = self.devices.get(device).map_or(&[][..], Vec::as_slice);
        // What was recorded just before the device was enrolled belongs to its first box.
        let first = versions.first().filter(|first| time < first.from);
        let version = versions.iter().find(|v| v.is_valid_at(time)).or(first);
        version.is_some_and(|v| v.value.box_id == *box_id)
    }

    /// True if `box_id` speaks, or ever spoke, for `device`: what it sends late is still believed.
    pub fn ever_spoke_for(&self, box_id: &BoxId, device: &DeviceId) -> bool {
        self.devices.get(device).is_some_and(|versions| versions.iter().any(|v| v.value.box_id == *box_id))
    }

    /// The newest version of a device, even if it was removed.
    pub fn device(&self, device: &DeviceId) -> Option<&Device> {
        self.devices.get(device)?.last().map(|v| &v.value)
    }

    pub fn area(&self, area: &AreaId) -> Option<&Area> {
        self.areas.get(area)?.last().map(|v| &v.value)
    }

    /// The newest version of a site, even if it was removed.
    pub fn site(&self, site: &SiteId) -> Option<&Site> {
        self.sites.get(site)?.last().map(|v| &v.value)
    }

    /// Every area that ever was, with its versions, oldest first.
    pub fn areas(&self) -> impl Iterator<Item = (&AreaId, &[Version<Area>])> {
        self.areas.iter().map(|(id, versions)| (id, versions.as_slice()))
    }

    pub fn streets(&self) -> impl Iterator<Item = (&StreetId, &[Version<Street>])> {
        self.streets.iter().map(|(id, versions)| (id, versions.as_slice()))
    }

    pub fn sites(&self) -> impl Iterator<Item = (&SiteId, &[Version<Site>])> {
        self.sites.iter().map(|(id, versions)| (id, versions.as_slice()))
    }

    pub fn devices(&self) -> impl Iterator<Item = (&DeviceId, &[Version<Device>])> {
        self.devices.iter().map(|(id, versions)| (id, versions.as_slice()))
    }

    /// Boxes that speak for a device now.
    pub fn boxes(&self) -> BTreeSet<BoxId> {
        current(&self.devices).into_iter().map(|device| device.box_id).collect()
    }

    /// `area` and every area below it, by any version that is valid in `range`, or by the tree as it is now: footage
    /// from before a merger is found under the old name and the new one.
    pub fn areas_below(&self, area: &AreaId, range: TimeRange) -> BTreeSet<AreaId> {
        let mut below = BTreeSet::from([area.clone()]);
        // Depth is data: grow until nothing is added.
        loop {
            let before = below.len();
            for (id, versions) in &self.areas {
                let has = |v: &Version<Area>| v.value.parent.as_ref().is_some_and(|p| below.contains(p));
                let is_now = |v: &Version<Area>| v.until.is_none() && v.value.until.is_none();
                let counts = |v: &Version<Area>| {
                    (v.is_valid_in(range) && v.value.is_valid_in(range.from, range.to)) || is_now(v)
                };
                if versions.iter().any(|v| counts(v) && has(v)) {
                    below.insert(id.clone());
                }
            }
            if below.len() == before {
                return below;
            }
        }
    }

    /// Where a device stood, oldest first. A change that moved nothing and turned no view does not split a placement.
    pub fn placements(&self, device: &DeviceId) -> Vec<Placement> {
        let mut placements: Vec<Placement> = Vec::new();
        for version in self.devices.get(device).map_or(&[][..], Vec::as_slice) {
            for site in self.sites.get(&version.value.site).map_or(&[][..], Vec::as_slice) {
                let from = version.from.max(site.from);
                let until = match (version.until, site.until) {
                    (Some(a), Some(b)) => Some(a.min(b)),
                    (a, b) => a.or(b),
                };
                if until.is_some_and(|until| until <= from) {
                    continue;
                }
                let (device, site) = (version.value.clone(), site.value.clone());
                placements.push(Placement { device, site, from, until });
            }
        }
        placements.sort_by_key(|p| p.from);
        placements.dedup_by(|later, earlier| {
            let same = earlier.until == Some(later.from)
                && earlier.site == later.site
                && earlier.device.view == later.device.view;
            if same {
                earlier.until = later.until;
                earlier.device = later.device.clone();
            }
            same
        });
        placements
    }

    fn differences(&self, file: &RegistryFile, time: Time) -> Vec<Change> {
        let mut changes = Vec::new();
        compare(Kind::Area, &self.areas, file.areas.iter().map(|a| (a.id.clone(), a)), time, &mut changes);
        let streets = file.streets.iter().map(|s| (s.id.clone(), s));
        compare(Kind::Street, &self.streets, streets, time, &mut changes);
        compare(Kind::Site, &self.sites, file.sites.iter().map(|s| (s.id.clone(), s)), time, &mut changes);
        let devices = file.devices.iter().map(|d| (d.id.clone(), d));
        compare(Kind::Device, &self.devices, devices, time, &mut changes);
        changes
    }

    fn apply(&mut self, change: &Change) -> Result<(), String> {
        if change.version != CHANGE_VERSION {
            return Err(format!("version {}, this is version {CHANGE_VERSION}", change.version));
        }
        self.last_change = self.last_change.max(Some(change.time));
        // What an area or site was before the first import is not known: it counts as always so.
        let ever = |_: &Value| Time::MIN;
        let enrolled = |after: &Value| {
            let enrolled: Option<Time> = serde_json::from_value(after["enrolled"].clone()).ok().flatten();
            enrolled.unwrap_or(change.time).min(change.time)
        };
        match change.kind {
            Kind::Area => put(&mut self.areas, change, ever),
            Kind::Street => put(&mut self.streets, change, ever),
            Kind::Site => put(&mut self.sites, change, ever),
            Kind::Device => put(&mut self.devices, change, enrolled),
        }
    }
}

fn current<I, T: Clone>(all: &BTreeMap<I, Vec<Version<T>>>) -> Vec<T> {
    let newest = all.values().filter_map(|versions| versions.last());
    newest.filter(|v| v.until.is_none()).map(|v| v.value.clone()).collect()
}

fn valid_at<I, T: Clone>(all: &BTreeMap<I, Vec<Version<T>>>, time: Time) -> Vec<T> {
    let valid = all.values().filter_map(|versions| versions.iter().rfind(|v| v.is_valid_at(time)));
    valid.map(|v| v.value.clone()).collect()
}

fn compare<'a, I, T>(
    kind: Kind,
    known: &BTreeMap<I, Vec<Version<T>>>,
    wanted: impl Iterator<Item = (I, &'a T)>,
    time: Time,
    changes: &mut Vec<Change>,
) where
    I: Ord + ToString,
    T: Serialize + PartialEq + 'a,
{
    let json = |value: &T| serde_json::to_value(value).expect("registry entries are plain data");
    let newest = |id: &I| known.get(id)?.last().filter(|v| v.until.is_none()).map(|v| &v.value);
    let mut add = |id: &I, before: Option<&T>, after: Option<&T>| {
        changes.push(Change {
            version: CHANGE_VERSION,
            act: CHANGE_ACT.into(),
            time,
            kind,
            id: id.to_string(),
            before: before.map(json),
            after: after.map(json),
        });
    };
    let mut seen = BTreeSet::new();
    for (id, after) in wanted {
        let before = newest(&id);
        if before != Some(after) {
            add(&id, before, Some(after));
        }
        seen.insert(id);
    }
    for id in known.keys().filter(|id| !seen.contains(id)) {
        if let Some(before) = newest(id) {
            add(id, Some(before), None);
        }
    }
}

fn put<I, T>(
    all: &mut BTreeMap<I, Vec<Version<T>>>,
    change: &Change,
    first_from: impl Fn(&Value) -> Time,
) -> Result<(), String>
where
    I: Ord + TryFrom<String, Error: ToString>,
    T: DeserializeOwned,
{
    let id = I::try_from(change.id.clone()).map_err(|e| e.to_string())?;
    let versions = all.entry(id).or_default();
    if let Some(last) = versions.last_mut()
        && last.until.is_none()
    {
        last.until = Some(change.time);
    }
    if let Some(after) = &change.after {
        let from = if versions.is_empty() { first_from(after) } else { change.time };
        let value = serde_json::from_value(after.clone()).map_err(|e| e.to_string())?;
        versions.push(Version { from, until: None, value });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const WARD: &str = r#"
        [[area]]
        id = "ward"
        name = "Phường"
        kind = "ward"
        [[area]]
        id = "block-1"
        name = "Khu phố 1"
        kind = "block"
        parent = "ward"
        [[site]]
        id = "gate"
        name = "Cổng"
        address = "1 Đường A"
        area = "block-1"
        owner = "ward"
        point = { lat = 10.74, lon = 106.69 }
        [[site]]
        id = "market"
        name = "Chợ"
        address = "9 Đường B"
        area = "ward"
        owner = "ward"
        point = { lat = 10.75, lon = 106.70 }
        [[device]]
        id = "cam-01"
        name = "Camera 1"
        kind = "camera"
        site = "gate"
        box = "box-01"
        enrolled = "2026-01-01T00:00:00Z"
    "#;

    fn parse(text: &str) -> Result<RegistryFile, RegistryError> {
        RegistryFile::parse(Path::new("ward.toml"), text)
    }
    fn time(text: &str) -> Time {
        text.parse().unwrap()
    }
    fn cam() -> DeviceId {
        DeviceId::new("cam-01").unwrap()
    }

    #[test]
    fn the_example_ward_is_valid() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/ward.toml");
        let ward = RegistryFile::load(&path).unwrap();
        assert_eq!(ward.sites.len(), 7);
        assert_eq!(ward.devices.iter().filter(|d| d.kind == DeviceKind::Camera).count(), 11);
        assert!(ward.areas.iter().any(|a| !a.former_names.is_empty()));
    }

    #[test]
    fn errors_name_file_key_and_what_to_do() {
        let table = [
            (WARD.replace("owner", "ovner"), "ovner"),
            (WARD.replace("area = \"block-1\"", "area = \"block-9\""), "[[site]] gate: area = \"block-9\""),
            (WARD.replace("parent = \"ward\"", "parent = \"block-1\""), "[[area]] block-1: parent"),
            (WARD.replace("site = \"gate\"", "site = \"moon\""), "[[device]] cam-01: site = \"moon\""),
            (WARD.replace("id = \"market\"", "id = \"gate\""), "[[site]] gate: stands twice"),
            (WARD.replace("lat = 10.75", "lat = 100.0"), "[[site]] market: point"),
            (format!("{WARD}lamps = 3"), "[[device]] cam-01: lamps"),
            (
                format!("{WARD}view = {{ heading_deg = 5.0 }}"),
                "heading_deg, angle_deg and reach_m, or polygon",
            ),
            (
                format!("{WARD}view = {{ heading_deg = 5.0, angle_deg = 400.0, reach_m = 9.0 }}"),
                "[[device]] cam-01: view.angle_deg: more than 0, at most 360",
            ),
            (
                format!("{WARD}view = {{ polygon = [[106.69, 10.74], [106.7, 10.74], [106.7, 10.75]] }}"),
                "[[device]] cam-01: view.polygon: [106.69, 10.74]: points are [lat, lon], lat in -90..90, lon in \
                 -180..180; swap the two numbers",
            ),
            (
                format!("{WARD}circuits = [{{ circuit = 1, name = \"A\", route = [[10.74, 106.69]] }}]"),
                "[[device]] cam-01: circuits: only a device of kind",
            ),
            (
                WARD.replace(
                    "kind = \"ward\"",
                    "kind = \"ward\"\nboundary = [[[10.7, 106.6], [10.8, 106.6]]]",
                ),
                "[[area]] ward: boundary: has 2 points; 3 to",
            ),
            (
                WARD.replace(
                    "kind = \"ward\"",
                    "kind = \"ward\"\nfrom = \"2026-01-01T00:00:00Z\"\nuntil = \"2025-01-01T00:00:00Z\"",
                ),
                "[[area]] ward: from = 2026-01-01T00:00:00Z must lie before until",
            ),
            (
                format!("{WARD}[[street]]\nid = \"ngo\"\nname = \"Ngõ\"\nline = [[10.7, 106.6]]"),
                "[[street]] ngo: line: has 1 points; 2 to",
            ),
            (
                format!(
                    "{WARD}[[street]]\nid = \"ngo\"\nname = \"Ngõ\"\narea = \"moon\"\n\
                     line = [[10.7, 106.6], [10.8, 106.6]]"
                ),
                "[[street]] ngo: area = \"moon\" is not an [[area]]",
            ),
        ];
        for (text, expected) in table {
            let error = parse(&text).unwrap_err().to_string();
            assert!(error.contains("ward.toml") && error.contains(expected), "{error}");
        }
    }

    #[test]
    fn yesterdays_question_meets_yesterdays_registry() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::open(dir.path()).unwrap();
        let first = parse(WARD).unwrap();
        assert_eq!(registry.import(&first, time("2026-02-01T00:00:00Z")).unwrap(), 5);
        assert_eq!(registry.import(&first, time("2026-02-02T00:00:00Z")).unwrap(), 0);
        let moved = WARD.replace("site = \"gate\"", "site = \"market\"").replace("box-01", "box-02");
        let moved = parse(&moved).unwrap();
        assert_eq!(registry.import(&moved, time("2026-03-01T12:00:00Z")).unwrap(), 1);
        let history = registry.history();
        let sites = |from: &str, to: &str| -> Vec<String> {
            let mut places = history.placements(&cam());
            places.retain(|p| p.from <= time(to) && p.until.is_none_or(|until| until > time(from)));
            places.iter().map(|p| p.site.id.to_string()).collect()
        };
        assert_eq!(sites("2026-01-05T00:00:00Z", "2026-01-06T00:00:00Z"), ["gate"]);
        assert_eq!(sites("2026-03-01T00:00:00Z", "2026-03-02T00:00:00Z"), ["gate", "market"]);
        assert_eq!(sites("2026-03-02T00:00:00Z", "2026-03-03T00:00:00Z"), ["market"]);
        assert!(sites("2025-03-02T00:00:00Z", "2025-03-03T00:00:00Z").is_empty());
        let (old, new) = (BoxId::new("box-01").unwrap(), BoxId::new("box-02").unwrap());
        let (before, after) = (time("2026-02-05T00:00:00Z"), time("2026-03-05T00:00:00Z"));
        assert!(history.speaks_for(&old, &cam(), before) && !history.speaks_for(&new, &cam(), before));
        assert!(history.speaks_for(&new, &cam(), after) && !history.speaks_for(&old, &cam(), after));
        assert!(history.ever_spoke_for(&old, &cam()));
        assert_eq!(history.at(before).devices[0].box_id, old);

        // Opened again, the history is the same; a removed camera is still found where it was.
        drop(registry);
        let registry = Registry::open(dir.path()).unwrap();
        assert_eq!(registry.history(), history);
        let mut gone = moved.clone();
        gone.devices.clear();
        // The clock stepped back: the order of changes stays.
        assert_eq!(registry.import(&gone, time("2026-01-01T00:00:00Z")).unwrap(), 1);
        let history = registry.history();
        assert!(history.current().devices.is_empty());
        assert_eq!(history.placements(&cam()).len(), 2);
    }

    #[test]
    fn an_area_includes_the_areas_below_it() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::open(dir.path()).unwrap();
        registry.import(&parse(WARD).unwrap(), time("2026-02-01T00:00:00Z")).unwrap();
        let range = TimeRange { from: time("2026-02-01T00:00:00Z"), to: time("2026-02-02T00:00:00Z") };
        let below = |id: &str| registry.history().areas_below(&AreaId::new(id).unwrap(), range).len();
        assert_eq!((below("ward"), below("block-1")), (2, 1));
        // A block that is said to have ended before the question's time.
        let ended = "parent = \"ward\"\n        until = \"2026-01-01T00:00:00Z\"";
        registry.import(&parse(&WARD.replace("parent = \"ward\"", ended)).unwrap(), range.from).unwrap();
        assert_eq!(below("ward"), 2, "as it stood in the registry until now");
        let later = TimeRange { from: time("2026-02-03T00:00:00Z"), to: time("2026-02-04T00:00:00Z") };
        assert_eq!(registry.history().areas_below(&AreaId::new("ward").unwrap(), later).len(), 1);
    }
}
