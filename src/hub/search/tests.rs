//! Answers against a brute force, on random worlds.
//!
//! The oracle knows the registry's files by their dates and nothing of atlas, R-trees or placements; it looks at every
//! clip, walks lines in steps and counts crossings the other way round. What lies within the steps' error of a border
//! may be in the answer or not; all else must agree. The catalog is a plain list.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::answer::Certainty;
use super::atlas::Atlas;
use super::question::{Asked, Question};
use super::*;
use crate::hub::access::{Action, Actor, Gate, Look};
use crate::hub::catalog::{
    Basis, BoxRow, Buckets, CatalogError, ClipQuery, EventPage, EventQuery, Order, RefusedCount, RefusedPage,
    RefusedQuery,
};
use crate::hub::registry::{Registry, RegistryFile};
use crate::hub::truth::HubRecord;
use crate::model::{
    ClockQuality, ClockSource, CoverageSpan, Point, Sha256Hash, SyncState, Video, distance_m,
};

/// A catalog that is a list.
struct Plain(Vec<ClipRow>);

impl Catalog for Plain {
    fn applied(&self) -> u64 {
        0
    }
    fn apply(&self, _: u64, _: &[HubRecord]) -> Result<(), CatalogError> {
        Ok(())
    }
    fn clips(&self, query: &ClipQuery) -> Result<Vec<ClipRow>, CatalogError> {
        let mut rows = self.0.clone();
        rows.retain(|row| {
            let (from, to) = uncertain_span(row);
            query.devices.contains(&row.device) && query.ranges.iter().any(|w| w.overlaps(from, to))
        });
        rows.sort_by_key(ClipRow::key);
        if query.order == Order::Newest {
            rows.reverse();
        }
        let is_behind = |row: &ClipRow| match (query.after, query.order) {
            (None, _) => true,
            (Some(after), Order::Newest) => row.key() < after,
            (Some(after), Order::Oldest) => row.key() > after,
        };
        rows.retain(is_behind);
        rows.truncate(query.limit);
        Ok(rows)
    }
    fn clip(&self, clip: Uuid) -> Result<Option<ClipRow>, CatalogError> {
        Ok(self.0.iter().find(|row| row.clip == clip).cloned())
    }
    fn clip_counts(
        &self,
        devices: &[DeviceId],
        ranges: &[TimeRange],
        buckets: Buckets,
    ) -> Result<Vec<u64>, CatalogError> {
        let mut counts = vec![0; buckets.count];
        for row in self.0.iter().filter(|row| devices.contains(&row.device)) {
            let n = buckets.of(row.start.as_microsecond());
            if let Some(n) = n.filter(|_| ranges.iter().any(|r| r.overlaps(row.start, row.start))) {
                counts[n] += 1;
            }
        }
        Ok(counts)
    }
    fn coverage(&self, _: &[DeviceId], _: TimeRange) -> Result<Vec<Vec<CoverageSpan>>, CatalogError> {
        Ok(Vec::new())
    }
    fn ring_from(&self, _: &DeviceId) -> Result<Option<Time>, CatalogError> {
        Ok(None)
    }
    fn events(&self, _: &EventQuery) -> Result<EventPage, CatalogError> {
        Ok(EventPage { events: Vec::new(), next: None })
    }
    fn refused(&self, _: &RefusedQuery) -> Result<RefusedPage, CatalogError> {
        Ok(RefusedPage { rows: Vec::new(), next: None })
    }
    fn refused_counts(&self) -> Result<Vec<RefusedCount>, CatalogError> {
        Ok(Vec::new())
    }
    fn boxes(&self) -> Result<Vec<BoxRow>, CatalogError> {
        Ok(Vec::new())
    }
    fn has_upload(&self, _: Uuid, _: &Sha256Hash) -> Result<bool, CatalogError> {
        Ok(false)
    }
}

/// Numbers by seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, most: u64) -> u64 {
        self.next() % most
    }
    fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
    /// A point of a square kilometre, to a tenth of a metre.
    fn place(&mut self) -> [f64; 2] {
        let rounded = |x: f64| (x * 1e6).round() / 1e6;
        [rounded(10.74 + self.share() * 0.01), rounded(106.69 + self.share() * 0.01)]
    }
}

/// Seconds since the world began; the question's time lies within a day.
fn at(second: i64) -> Time {
    Time::from_second(1_780_000_000 + second).unwrap()
}

const DAY: u64 = 86_400;

/// What the registry's file said since some time.
struct Era {
    from: Time,
    file: Value,
}

struct World {
    eras: Vec<Era>,
    clips: Vec<ClipRow>,
}

const SITES: u64 = 8;
const CAMERAS: u64 = 10;
const BLOCKS: u64 = 3;

impl World {
    fn of(dice: &mut Dice) -> Self {
        let mut file = first_file(dice);
        let mut eras = vec![Era { from: at(0), file: file.clone() }];
        let mut second = 0;
        for _ in 0..dice.below(8) {
            second += 1 + dice.below(DAY / 5) as i64;
            for _ in 0..=dice.below(4) {
                change(&mut file, dice);
            }
            eras.push(Era { from: at(second), file: file.clone() });
        }
        let clips = (0..150 + dice.below(150)).map(|n| clip(n, dice)).collect();
        Self { eras, clips }
    }

    fn atlas(&self) -> Atlas {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::open(dir.path()).unwrap();
        for era in &self.eras {
            let text =
                toml::to_string(&serde_json::from_value::<toml::Value>(era.file.clone()).unwrap()).unwrap();
            let file = RegistryFile::parse(Path::new("world.toml"), &text).unwrap();
            registry.import(&file, era.from).unwrap();
        }
        Atlas::of(registry.history())
    }

    /// From when until when each era held; what was before the first is as it was in it.
    fn held(&self, n: usize) -> (Time, Time) {
        let from = if n == 0 { Time::MIN } else { self.eras[n].from };
        (from, self.eras.get(n + 1).map_or(Time::MAX, |era| era.from))
    }
}

fn first_file(dice: &mut Dice) -> Value {
    let mut areas = vec![
        json!({ "id": "ward-0", "name": "Phường Một", "kind": "ward" }),
        json!({ "id": "ward-1", "name": "Phường Hai", "kind": "ward",
            "boundary": [[dice.place(), dice.place(), dice.place(), dice.place()]] }),
    ];
    for n in 0..BLOCKS {
        let parent = format!("ward-{}", dice.below(2));
        areas.push(json!({ "id": format!("block-{n}"), "name": format!("Khu phố {n}"), "kind": "block",
            "parent": parent }));
    }
    let site = |n, dice: &mut Dice| {
        let [lat, lon] = dice.place();
        json!({ "id": format!("site-{n}"), "name": format!("Nhà {n}"), "address": "", "owner": "ward",
            "area": format!("block-{}", dice.below(BLOCKS)), "point": { "lat": lat, "lon": lon } })
    };
    let sites: Vec<Value> = (0..SITES).map(|n| site(n, dice)).collect();
    let device = |n, dice: &mut Dice| {
        json!({ "id": format!("cam-{n}"), "name": format!("Camera {n}"), "kind": "camera", "box": "box-01",
            "site": format!("site-{}", dice.below(SITES)), "view": view(dice) })
    };
    let devices: Vec<Value> = (0..CAMERAS).map(|n| device(n, dice)).collect();
    json!({ "area": areas, "site": sites, "device": devices })
}

fn view(dice: &mut Dice) -> Value {
    match dice.below(4) {
        0 => json!({ "polygon": (0..4).map(|_| dice.place()).collect::<Vec<_>>() }),
        1 => json!({ "heading_deg": 0.0, "angle_deg": 360.0, "reach_m": 400.0 }),
        _ => {
            json!({ "heading_deg": (dice.share() * 360.0).round(), "angle_deg": 90.0 + dice.below(120) as f64,
            "reach_m": 200.0 + dice.below(400) as f64 })
        }
    }
}

/// A camera is moved or turned, a site moved or filed anew, an area renamed or put under another.
fn change(file: &mut Value, dice: &mut Dice) {
    let (site, block) = (dice.below(SITES), dice.below(BLOCKS));
    let camera = &mut file["device"][dice.below(CAMERAS) as usize];
    match dice.below(8) {
        0 => camera["site"] = json!(format!("site-{site}")),
        1 | 6 => camera["view"] = view(dice),
        2 => {
            let [lat, lon] = dice.place();
            file["site"][site as usize]["point"] = json!({ "lat": lat, "lon": lon });
        }
        7 => {
            let [lat, lon] = dice.place();
            file["site"][site as usize]["point"] = json!({ "lat": lat, "lon": lon });
            file["site"][site as usize]["area"] = json!(format!("block-{block}"));
        }
        3 => file["site"][site as usize]["area"] = json!(format!("block-{block}")),
        4 => file["area"][2 + block as usize]["parent"] = json!(format!("ward-{}", dice.below(2))),
        _ => file["area"][0]["name"] = json!(format!("Phường {}", dice.below(100))),
    }
}

fn clip(number: u64, dice: &mut Dice) -> ClipRow {
    let start = at(dice.below(DAY) as i64);
    let end = start + SignedDuration::from_secs(5 + dice.below(120) as i64);
    // Some clocks are unsure, one by more than is believed.
    let uncertainty_ms =
        [None, Some(40), Some(600_000), Some(1_800_000), Some(90_000_000)][dice.below(5) as usize];
    let jumped = dice.below(3) == 0;
    let recorded = if jumped { start - SignedDuration::from_hours(30) } else { start };
    ClipRow {
        clip: Uuid::from_u128(u128::from(number) + 1),
        device: DeviceId::new(format!("cam-{}", dice.below(CAMERAS))).unwrap(),
        box_id: BoxId::new("box-01").unwrap(),
        received: at(2 * DAY as i64),
        start,
        end,
        motion_start: None,
        motion_end: None,
        basis: match (jumped, uncertainty_ms) {
            (true, Some(uncertainty_ms)) => Basis::Corrected { correction_ms: 108_000_000, uncertainty_ms },
            _ => Basis::Recorded,
        },
        recorded_start: recorded,
        recorded_end: recorded + end.duration_since(start),
        peak_score: 0.5,
        clock: ClockQuality {
            source: ClockSource::Box,
            sync: SyncState::Unknown,
            offset_ms: None,
            uncertainty_ms,
        },
        bytes: 1,
        sha256: Sha256Hash::of(b"x"),
        video: Video { codec: "avc1.4d401e".into(), width: 640, height: 360 },
        audio_codec: None,
        thumbnail: None,
        run: Uuid::nil(),
        first_fragment: 0,
        fragments: 1,
        stored: false,
        thumbnail_stored: false,
    }
}

/// A question of up to three conditions; some of its shapes cross themselves.
fn question(dice: &mut Dice) -> Value {
    let from = dice.below(DAY * 3 / 4) as i64;
    let length = [600, 7_200, 40_000][dice.below(3) as usize];
    let mut asked = json!({ "from": at(from), "to": at(from + length), "limit": 1 + dice.below(9),
        "order": if dice.below(2) == 0 { "newest" } else { "oldest" } });
    if dice.below(4) == 0 {
        asked["hours"] = json!(["22:00-04:00", "06:30-09:00", "00:00-12:00"][dice.below(3) as usize]);
    }
    let turned = |points: Vec<[f64; 2]>| points.iter().map(|[lat, lon]| [*lon, *lat]).collect::<Vec<_>>();
    for _ in 0..dice.below(4) {
        match dice.below(10) {
            0 => {
                let [lat, lon] = dice.place();
                asked["lat"] = json!(lat);
                asked["lon"] = json!(lon);
                asked["radius_m"] = json!(100.0 + dice.below(600) as f64);
            }
            1 => asked["polygon"] = with_hole(dice),
            2 => {
                // Any four corners: every third such ring crosses itself.
                let mut ring = turned((0..4).map(|_| dice.place()).collect());
                ring.push(ring[0]);
                asked["polygon"] = json!({ "type": "Polygon", "coordinates": [ring] });
            }
            3 => {
                // Any six corners of a line: it crosses itself more often than not.
                let line = turned((0..6).map(|_| dice.place()).collect());
                asked["route"] = json!({ "type": "LineString", "coordinates": line });
                asked["width_m"] = json!(40.0 + dice.below(300) as f64);
            }
            4 | 8 => {
                asked["area"] = json!(["ward-0", "ward-1", "block-0", "block-1"][dice.below(4) as usize])
            }
            5 => asked["site"] = json!([format!("site-{}", dice.below(SITES)), "site-0"]),
            6 => {
                asked["device"] =
                    json!((0..4).map(|_| format!("cam-{}", dice.below(CAMERAS))).collect::<Vec<_>>())
            }
            _ => {
                let [lat, lon] = dice.place();
                asked["sees"] = json!(format!("{lat:.6}, {lon:.6}"));
            }
        }
    }
    asked
}

/// A square with a square hole in it.
fn with_hole(dice: &mut Dice) -> Value {
    let [lat, lon] = dice.place();
    let square = |half: f64| {
        let (w, e, s, n) = (lon - half, lon + half, lat - half, lat + half);
        json!([[w, s], [e, s], [e, n], [w, n], [w, s]])
    };
    json!({ "type": "Polygon", "coordinates": [square(0.004), square(0.002)] })
}

/// Sure, sure not, or too near to a border to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Is {
    Yes,
    No,
    Near,
}

impl Is {
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::No, _) | (_, Self::No) => Self::No,
            (Self::Yes, Self::Yes) => Self::Yes,
            _ => Self::Near,
        }
    }
    fn of(is: bool) -> Self {
        if is { Self::Yes } else { Self::No }
    }
    /// Less than `limit`, with an error of `error`.
    fn below(value: f64, limit: f64, error: f64) -> Self {
        if (value - limit).abs() <= error { Self::Near } else { Self::of(value < limit) }
    }
}

/// Where a camera stood, by the files alone.
struct Stood<'a> {
    device: &'a Value,
    site: &'a Value,
    from: Time,
    until: Time,
}

struct Oracle<'a> {
    world: &'a World,
    asked: &'a Value,
    windows: &'a [TimeRange],
}

impl<'a> Oracle<'a> {
    fn stood(&self, device: &str) -> Vec<Stood<'a>> {
        let by_id =
            |list: &'a Value, id: &str| list.as_array().unwrap().iter().find(|v| v["id"] == id).unwrap();
        let mut all: Vec<Stood<'a>> = Vec::new();
        for (n, era) in self.world.eras.iter().enumerate() {
            let device = by_id(&era.file["device"], device);
            let site = by_id(&era.file["site"], device["site"].as_str().unwrap());
            let until = self.world.held(n).1;
            match all.last_mut() {
                Some(last) if last.site == site && last.device["view"] == device["view"] => {
                    last.until = until
                }
                _ => all.push(Stood { device, site, from: era.from, until }),
            }
        }
        all
    }

    /// Whether the clip belongs to the answer, and whether only its clock's uncertainty says so.
    fn clip(&self, row: &ClipRow) -> (Is, bool) {
        let off = row.clock.uncertainty_ms.unwrap_or(0).min(3_600_000) as i64;
        let off = SignedDuration::from_millis(off);
        let touches =
            |w: &&TimeRange, off: SignedDuration| row.start - off <= w.to && row.end + off >= w.from;
        let sure = self.windows.iter().find(|w| touches(w, SignedDuration::ZERO));
        let Some(window) = sure.or_else(|| self.windows.iter().find(|w| touches(w, off))) else {
            return (Is::No, false);
        };
        let moment = row.start.max(window.from).min(window.to);
        let stood = self.stood(row.device.as_str());
        let stand = stood.iter().rfind(|s| s.from <= moment).unwrap_or(&stood[0]);
        (self.stand(stand), sure.is_none())
    }

    /// Whether the question asks for this place of a camera.
    fn stand(&self, stand: &Stood) -> Is {
        if !self.windows.iter().any(|w| stand.from <= w.to && stand.until > w.from) {
            return Is::No;
        }
        let number = |value: &Value| value.as_f64().unwrap();
        let point =
            Point { lat: number(&stand.site["point"]["lat"]), lon: number(&stand.site["point"]["lon"]) };
        let named = |key: &str, id: &Value| match &self.asked[key] {
            Value::Null => Is::Yes,
            list => Is::of(list.as_array().unwrap().contains(id)),
        };
        let mut is = named("site", &stand.site["id"]).and(named("device", &stand.device["id"]));
        if let Some(lat) = self.asked["lat"].as_f64() {
            let centre = Point { lat, lon: number(&self.asked["lon"]) };
            is = is.and(Is::below(distance_m(centre, point), number(&self.asked["radius_m"]), 0.01));
        }
        if let Some(rings) = self.asked["polygon"]["coordinates"].as_array() {
            is = is.and(Is::of(is_inside(point, rings)));
        }
        if let Some(line) = self.asked["route"]["coordinates"].as_array() {
            is = is.and(Is::below(walked(point, line), number(&self.asked["width_m"]) / 2.0, 0.6));
        }
        if let Some(area) = self.asked["area"].as_str() {
            is = is.and(Is::of(self.is_in_area(area, stand, point)));
        }
        if let Some(seen) = self.asked["sees"].as_str() {
            let (lat, lon) = seen.split_once(", ").unwrap();
            let seen = Point { lat: lat.parse().unwrap(), lon: lon.parse().unwrap() };
            is = is.and(sees(point, &stand.device["view"], seen));
        }
        is
    }

    /// Filed below the area by any file of the question's time or by the newest, without having moved since or before;
    /// or within its border.
    fn is_in_area(&self, area: &str, stand: &Stood, point: Point) -> bool {
        let range = (self.windows[0].from, self.windows[self.windows.len() - 1].to);
        let counts = |n: &usize| {
            let (from, until) = self.world.held(*n);
            (from <= range.1 && until > range.0) || *n + 1 == self.world.eras.len()
        };
        let eras: Vec<&Value> =
            (0..self.world.eras.len()).filter(counts).map(|n| &self.world.eras[n].file).collect();
        let mut below = BTreeSet::from([area.to_owned()]);
        for _ in 0..4 {
            for file in &eras {
                for a in file["area"].as_array().unwrap() {
                    if a["parent"].as_str().is_some_and(|parent| below.contains(parent)) {
                        below.insert(a["id"].as_str().unwrap().to_owned());
                    }
                }
            }
        }
        let is_filed = eras.iter().flat_map(|file| file["site"].as_array().unwrap()).any(|site| {
            site["id"] == stand.site["id"]
                && site["point"] == stand.site["point"]
                && below.contains(site["area"].as_str().unwrap())
        });
        let newest = &self.world.eras[self.world.eras.len() - 1].file;
        let known = newest["area"].as_array().unwrap().iter().find(|a| a["id"] == area).unwrap();
        let in_border = known["boundary"].as_array().is_some_and(|rings| {
            let turned: Vec<Value> = rings.iter().map(|ring| json!(closed(ring, true))).collect();
            is_inside(point, &turned)
        });
        is_filed || in_border
    }
}

/// A ring of numbers, closed, longitude first.
fn closed(ring: &Value, is_lat_first: bool) -> Vec<[f64; 2]> {
    let number = |v: &Value, n: usize| v[n].as_f64().unwrap();
    let mut points: Vec<[f64; 2]> = Vec::new();
    for p in ring.as_array().unwrap() {
        points.push(if is_lat_first { [number(p, 1), number(p, 0)] } else { [number(p, 0), number(p, 1)] });
    }
    if points.first() != points.last() {
        points.push(points[0]);
    }
    points
}

/// Even-odd by a ray to the north, over all rings.
fn is_inside(point: Point, rings: &[Value]) -> bool {
    let mut crossings = 0;
    for ring in rings {
        for edge in closed(ring, false).windows(2) {
            let ([x1, y1], [x2, y2]) = (edge[0], edge[1]);
            if (x1 <= point.lon) != (x2 <= point.lon) {
                let y = y1 + (y2 - y1) * (point.lon - x1) / (x2 - x1);
                crossings += i32::from(y > point.lat);
            }
        }
    }
    crossings % 2 == 1
}

/// The distance to a line, walked in steps of half a metre.
fn walked(point: Point, line: &[Value]) -> f64 {
    let number = |v: &Value, n: usize| v[n].as_f64().unwrap();
    let mut nearest = f64::INFINITY;
    for segment in line.windows(2) {
        let a = Point { lat: number(&segment[0], 1), lon: number(&segment[0], 0) };
        let b = Point { lat: number(&segment[1], 1), lon: number(&segment[1], 0) };
        let steps = (distance_m(a, b) * 2.0).ceil().max(1.0);
        for step in 0..=steps as usize {
            let share = step as f64 / steps;
            let on = Point { lat: a.lat + (b.lat - a.lat) * share, lon: a.lon + (b.lon - a.lon) * share };
            nearest = nearest.min(distance_m(point, on));
        }
    }
    nearest
}

/// Whether a view takes in a point, in the plane around the camera.
fn sees(at: Point, view: &Value, seen: Point) -> Is {
    if let Some(polygon) = view["polygon"].as_array() {
        return Is::of(is_inside(seen, &[json!(closed(&json!(polygon), true))]));
    }
    let number = |key: &str| view[key].as_f64().unwrap();
    let east = (seen.lon - at.lon) * at.lat.to_radians().cos();
    let north = seen.lat - at.lat;
    let near = Is::below(distance_m(at, seen), number("reach_m"), 0.01);
    if number("angle_deg") >= 360.0 {
        return near;
    }
    let turn = (east.atan2(north).to_degrees() - number("heading_deg")).rem_euclid(360.0);
    near.and(Is::below(turn.min(360.0 - turn), number("angle_deg") / 2.0, 0.1))
}

fn a_pass() -> Pass {
    let dir = tempfile::tempdir().unwrap();
    let look = Look {
        actor: Actor("demo".into()),
        action: Action::Search,
        purpose: None,
        subject: Value::Null,
        remote: None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { Gate::open(dir.path(), &["demo"]).unwrap().pass(look).await.unwrap() })
}

/// All pages of the answer: the clips in order, and the cameras of the account.
fn answered(search: &Search, asked: &Value, atlas: &Atlas) -> (Vec<answer::ClipView>, BTreeSet<String>) {
    let (pass, now) = (a_pass(), at(3 * DAY as i64));
    let (mut asked, mut clips, mut cameras) = (asked.clone(), Vec::new(), BTreeSet::new());
    loop {
        let question: Asked = serde_json::from_value(asked.clone()).unwrap();
        let limit = question.limit.unwrap();
        let question = Question::understand(&question, atlas, now).unwrap();
        let page = search.answer(&pass, &question, atlas, now).unwrap();
        assert!(page.clips.len() <= limit && (page.next.is_none() || page.clips.len() == limit));
        clips.extend(page.clips);
        cameras.extend(page.coverage.into_iter().map(|c| c.device.id));
        let Some(next) = page.next else { return (clips, cameras) };
        asked["page"] = json!(next);
    }
}

fn check(seed: u64) {
    let mut dice = Dice(seed);
    let world = World::of(&mut dice);
    let atlas = world.atlas();
    let search = Search::new(Arc::new(Plain(world.clips.clone())), Arc::new(|_| false));
    for _ in 0..6 {
        let asked = question(&mut dice);
        let plain: Asked = serde_json::from_value(asked.clone()).unwrap();
        let windows = match question::windows(&plain, at(3 * DAY as i64)) {
            Ok(windows) => windows,
            Err(_) => continue,
        };
        let oracle = Oracle { world: &world, asked: &asked, windows: &windows };
        let (clips, cameras) = answered(&search, &asked, &atlas);
        let told: BTreeMap<Uuid, bool> =
            clips.iter().map(|c| (c.id, c.certainty == Some(Certainty::Maybe))).collect();
        assert_eq!(told.len(), clips.len(), "seed {seed}: a clip stands twice: {asked}");
        let keys: Vec<_> = clips.iter().map(|c| (c.start, c.id)).collect();
        let in_order = |pair: &[(Time, Uuid)]| (pair[0] < pair[1]) == (asked["order"] == "oldest");
        assert!(keys.windows(2).all(in_order), "seed {seed}: out of order: {asked}");
        for row in &world.clips {
            let (is, maybe) = oracle.clip(row);
            match (is, told.get(&row.clip)) {
                (Is::Yes, Some(told)) => assert_eq!(*told, maybe, "seed {seed}: {asked}\n{row:?}"),
                (Is::Near, _) | (Is::No, None) => {}
                (is, told) => panic!("seed {seed}: {is:?}, told {told:?}: {asked}\n{row:?}"),
            }
        }
        for n in 0..CAMERAS {
            let id = format!("cam-{n}");
            let stood: Vec<Is> = oracle.stood(&id).iter().map(|s| oracle.stand(s)).collect();
            let (must, may) = (stood.contains(&Is::Yes), stood.iter().any(|is| *is != Is::No));
            assert!(cameras.contains(&id) || !must, "seed {seed}: {id} is missing: {asked}");
            assert!(!cameras.contains(&id) || may, "seed {seed}: {id} does not belong: {asked}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn answers_agree_with_a_brute_force(seed in any::<u64>()) {
        check(seed);
    }
}
