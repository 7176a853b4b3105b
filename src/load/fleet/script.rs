//! A fleet in which things go wrong to plan: who is in it, what each says when, and as what each fault is to be shown.
//!
//! Owns the plan. Pure: seconds are of the run, and may be simulated. What boxes notice themselves is taken as noticed
//! here; `tests/it/faults.rs` has real ones notice it.

use uuid::Uuid;

use crate::hub::fleet::cause::Cause;
use crate::hub::registry::RegistryFile;
use crate::model::*;

/// How many of what.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub sites: usize,
    pub cameras: usize,
    pub lamp_boxes: usize,
    pub lamps: usize,
}

impl Size {
    /// The mission's ward.
    pub const WARD: Self = Self { sites: 7, cameras: 11, lamp_boxes: 3, lamps: 320 };

    /// A city with `cameras`, four at a site, and `lamps`, three hundred to a controller.
    pub fn city(cameras: usize, lamps: usize) -> Self {
        Self { sites: cameras.div_ceil(4), cameras, lamp_boxes: lamps.div_ceil(300), lamps }
    }

    /// The script needs six sites with cameras and three lamp controllers.
    pub fn is_enough(&self) -> bool {
        self.sites >= 6
            && self.cameras >= self.sites
            && self.lamp_boxes >= 3
            && self.lamps >= 3 * self.lamp_boxes
    }

    pub fn devices(&self) -> usize {
        self.cameras + self.lamps
    }
}

/// Something that goes wrong, and as what it is to be shown.
#[derive(Debug, Clone)]
pub struct Scripted {
    pub name: &'static str,
    pub cause: Cause,
    pub trouble: Trouble,
}

/// One run of the plan.
#[derive(Debug, Clone, Copy)]
pub struct Script {
    /// Second 0.
    pub start: Time,
    /// When all faults happen, and when the link is back.
    pub fault_at: i64,
    pub back_at: i64,
}

/// What is said goes out at these seconds only, so that hub and bench may step from one to the next.
pub const STEP_S: i64 = 5;
/// Within this all devices have said a first word.
pub const FIRST_WORDS_S: i64 = 60;
/// As `limits::COVERAGE_HEARTBEAT` and `limits::STATUS_HEARTBEAT`.
const COVERAGE_S: i64 = 300;
const STATUS_S: i64 = 900;
/// So many times, a minute apart, the box with too little voltage starts again.
const STARTS: i64 = 5;
/// Sites to a block.
const SITES_OF_BLOCK: usize = 10;

const FAR: &str = "box-00004";
const WEAK: &str = "box-00005";
const DEAD_GATEWAY: &str = "lamps-0001";
const UNPOWERED: &str = "lamps-0002";

fn device(id: &str) -> DeviceId {
    DeviceId::new(id).expect("an id")
}

fn box_id(id: &str) -> BoxId {
    BoxId::new(id).expect("an id")
}

/// The fleet's places and devices, where it is midnight at `start`, so that lamps burn.
pub fn registry(size: &Size, start: Time) -> RegistryFile {
    let mut file = RegistryFile::default();
    let area = |id: String, kind: &str, parent: Option<&str>| Area {
        id: AreaId::new(&id).expect("an id"),
        name: id,
        kind: kind.to_owned(),
        parent: parent.map(|id| AreaId::new(id).expect("an id")),
        former_names: Vec::new(),
        boundary: Vec::new(),
        from: None,
        until: None,
    };
    file.areas.push(area("ward".to_owned(), "ward", None));
    let blocks = size.sites.max(size.lamp_boxes).div_ceil(SITES_OF_BLOCK);
    file.areas.extend((0..blocks).map(|n| area(format!("block-{n:04}"), "block", Some("ward"))));
    let lon = midnight_lon(start);
    let site = |id: String, n: usize| Site {
        id: SiteId::new(&id).expect("an id"),
        name: id.clone(),
        address: id,
        area: AreaId::new(format!("block-{:04}", n / SITES_OF_BLOCK)).expect("an id"),
        owner: "Phường".to_owned(),
        point: Point { lat: 10.70 + (n / 100) as f64 * 0.001, lon: lon + (n % 100) as f64 * 0.001 },
    };
    file.sites.extend((0..size.sites).map(|n| site(format!("site-{n:05}"), n)));
    file.sites.extend((0..size.lamp_boxes).map(|n| site(format!("poles-{n:04}"), n)));
    let of = |id: String, kind, site: String, of_box: String| Device {
        id: device(&id),
        name: id,
        kind,
        site: SiteId::new(&site).expect("an id"),
        box_id: box_id(&of_box),
        enrolled: None,
        view: None,
        lamps: None,
        circuits: Vec::new(),
    };
    file.devices.extend((0..size.cameras).map(|n| {
        let site = n % size.sites;
        of(format!("cam-{n:06}"), DeviceKind::Camera, format!("site-{site:05}"), format!("box-{site:05}"))
    }));
    file.devices.extend((0..size.lamps).map(|n| {
        let poles = n % size.lamp_boxes;
        of(format!("lamp-{n:06}"), DeviceKind::Lamp, format!("poles-{poles:04}"), format!("lamps-{poles:04}"))
    }));
    file
}

/// Degrees; the sun is on the other side.
fn midnight_lon(at: Time) -> f64 {
    let hours = at.as_second().rem_euclid(86_400) as f64 / 3600.0;
    let lon = -15.0 * hours;
    if lon < -179.0 { lon + 360.0 } else { lon }
}

/// The fault that ends by itself.
pub fn link_down() -> Scripted {
    of_site("link_down", "site-00004")
}

fn of_site(name: &'static str, id: &str) -> Scripted {
    Scripted { name, cause: Cause::Site(SiteId::new(id).expect("an id")), trouble: Trouble::BoxSilent }
}

/// All that happens.
pub fn faults() -> Vec<Scripted> {
    let of = |name, cause, trouble| Scripted { name, cause, trouble };
    let of_device = |name, id: &str, trouble| of(name, Cause::Device(device(id)), trouble);
    vec![
        of_device("camera_unplugged", "cam-000000", Trouble::CameraUnreachable),
        of_device("lens_covered", "cam-000001", Trouble::PictureCovered),
        of_device("camera_turned", "cam-000002", Trouble::PictureMoved),
        of_device("clock_off_5_min", "cam-000003", Trouble::ClockOff),
        link_down(),
        of("under_voltage_reboots", Cause::Box(box_id(WEAK)), Trouble::UnderVoltage),
        of_device("lamp_dead", "lamp-000000", Trouble::SupplyLoss),
        of_device("lamp_off_by_night", "lamp-000003", Trouble::OffByNight),
        of_device("lamp_silent", "lamp-000006", Trouble::Silent),
        of("gateway_dead", Cause::GatewayOf(box_id(DEAD_GATEWAY)), Trouble::Silent),
        of_site("power_of_lamps_cut", "poles-0002"),
    ]
}

impl Script {
    pub fn at(&self, second: i64) -> Time {
        self.start + jiff::SignedDuration::from_secs(second)
    }

    /// Whether the box has no connection at this second; without power it says nothing either.
    pub fn is_cut(&self, of: &BoxId, second: i64) -> bool {
        match of.as_str() {
            FAR => (self.fault_at..self.back_at).contains(&second),
            UNPOWERED => second >= self.fault_at,
            _ => false,
        }
    }

    /// What the box says of itself at a second: a slow heartbeat, whatever its devices do.
    pub fn of_box(&self, of: &BoxId, second: i64) -> Vec<EventData> {
        if of.as_str() == UNPOWERED && self.is_cut(of, second) {
            return Vec::new();
        }
        let status = |health| EventData::Status(Status { of_box: Some(health), ..Status::new(true, None) });
        let since = second - self.fault_at;
        let is_weak = of.as_str() == WEAK && since >= 0;
        let health = BoxHealth { under_voltage: Some(is_weak), ..BoxHealth::default() };
        if is_weak && since < 60 * STARTS && since % 60 == 0 {
            let boot = EventData::Boot(Boot { previous: None, software: "camnet".into() });
            return vec![boot, status(health)];
        }
        // By its name, so that boxes do not speak in step.
        let spread = STEP_S * of.as_str().bytes().map(i64::from).sum::<i64>();
        let is_time = (second + spread) % STATUS_S == 0;
        is_time.then(|| status(health)).into_iter().collect()
    }

    /// What a device says at a second, if it says anything then; `n`, its number among all, spreads them over time.
    pub fn of_device(&self, of: &Device, n: usize, second: i64) -> Vec<EventData> {
        if of.box_id.as_str() == UNPOWERED && self.is_cut(&of.box_id, second) {
            return Vec::new();
        }
        let n = n as i64;
        let is_first = second == STEP_S * (n % (FIRST_WORDS_S / STEP_S));
        match of.kind {
            DeviceKind::Camera => self.camera(of.id.as_str(), n, second, is_first),
            _ => self.lamp(of, n, second, is_first).into_iter().collect(),
        }
    }

    fn camera(&self, id: &str, n: i64, second: i64, is_first: bool) -> Vec<EventData> {
        // What the box needs to notice it, and to be sure.
        let since = second - self.fault_at;
        let is_gone = id == "cam-000000" && since >= 10;
        let mut said = Vec::new();
        if is_first || (second + n * STEP_S) % COVERAGE_S == 0 || is_gone && since == 10 {
            let gap = SpanState::Gap { cause: GapCause::CameraUnreachable };
            let (state, start) =
                if is_gone { (gap, self.at(self.fault_at)) } else { (SpanState::Recorded, self.at(0)) };
            let id = Uuid::from_u64_pair(n as u64, u64::from(is_gone));
            said.push(span(id, state, start, self.at(second)));
        }
        let faults: &[PictureFault] = match id {
            "cam-000001" if since >= 40 => &[PictureFault::Covered],
            "cam-000002" if since >= 40 => &[PictureFault::Moved],
            _ => &[],
        };
        let clock_ms = if id == "cam-000003" && since >= 20 { 300_000 } else { 3 };
        let is_news = match id {
            "cam-000001" | "cam-000002" => since == 40,
            "cam-000003" => since == 20,
            _ => false,
        };
        if !is_gone && (is_first || is_news || (second + n * STEP_S) % STATUS_S == 0) {
            said.push(health(faults, clock_ms));
        }
        said
    }

    fn lamp(&self, of: &Device, n: i64, second: i64, is_first: bool) -> Option<EventData> {
        let (id, since) = (of.id.as_str(), second - self.fault_at);
        if since >= 0 && (id == "lamp-000006" || of.box_id.as_str() == DEAD_GATEWAY) {
            let (fault, detail) = ("device_unreachable".to_owned(), "offline".to_owned());
            return (since == 60).then_some(EventData::Fault(Fault {
                fault,
                phase: FaultPhase::Raised,
                detail,
            }));
        }
        let is_news = matches!(id, "lamp-000000" | "lamp-000003") && since == 5;
        if !is_first && !is_news && (second + n * STEP_S) % STATUS_S != 0 {
            return None;
        }
        let on = !(id == "lamp-000003" && since >= 0);
        let is_dead = id == "lamp-000000" && since >= 0;
        let power_w = if on && !is_dead { 40.0 } else { 0.0 };
        let fault = is_dead.then(|| "supply_loss".to_owned());
        Some(EventData::Lamp(Lamp { fault, ..Lamp::new(1, LampReason::Heartbeat, on, 0.2, power_w) }))
    }
}

fn span(span: Uuid, state: SpanState, start: Time, upto: Time) -> EventData {
    let (run, ring_from, detail) = (None, None, None);
    EventData::Coverage(Coverage { span, state, start, upto, open: true, run, ring_from, detail })
}

fn health(faults: &[PictureFault], clock_ms: i64) -> EventData {
    let clock = ClockQuality {
        source: ClockSource::Camera,
        sync: SyncState::Synced,
        offset_ms: Some(0),
        uncertainty_ms: Some(20),
    };
    let camera = CameraHealth {
        reachable: true,
        recording: true,
        fps: 25.0,
        fps_expected: Some(25.0),
        kbit_per_s: 2000.0,
        lost_ppm: 0,
        key_interval_s: Some(2.0),
        clock,
        camera_clock_ms: Some(clock_ms),
        ring_days: Some(7.0),
        ring_days_due: Some(7.0),
        picture: Some(faults.to_vec()),
        self_test: None,
    };
    EventData::Status(Status { camera: Some(camera), ..Status::new(faults.is_empty(), None) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ward_has_all_that_something_happens_to() {
        assert!(Size::WARD.is_enough());
        let file = registry(&Size::WARD, "2026-11-22T13:00:00Z".parse().unwrap());
        assert_eq!(file.devices.len(), Size::WARD.devices());
        for fault in faults() {
            let is_there = match &fault.cause {
                Cause::Device(id) => file.devices.iter().any(|device| device.id == *id),
                Cause::Site(id) => file.sites.iter().any(|site| site.id == *id),
                Cause::Box(id) | Cause::GatewayOf(id) => {
                    file.devices.iter().any(|device| device.box_id == *id)
                }
                _ => false,
            };
            assert!(is_there, "{fault:?}");
        }
        assert!(!Size { lamps: 6, ..Size::WARD }.is_enough());
    }

    #[test]
    fn midnight_is_where_the_sun_is_not() {
        let lon = |text: &str| midnight_lon(text.parse().unwrap());
        assert_eq!(lon("2026-11-22T00:00:00Z"), 0.0);
        assert_eq!(lon("2026-11-22T17:00:00Z"), 105.0);
        assert_eq!(lon("2026-11-22T06:00:00Z"), -90.0);
    }
}
