//! How soon the fleet says what is wrong, whether it says anything else, and what it costs.
//!
//! `real` plays the scripted faults of `tests/it/faults.rs` on real edge processes, cameras, cabinets and brokers, and says
//! how long each took. `load` plays those of `camnet load fleet` for the mission's ward (11 cameras, 320 lamps) and a city
//! (10,000 cameras, 100,000 lamps) through a real Mosquitto and a real hub. `simulated` plays the same against the hub's
//! own judgement, at simulated time: what judging costs, and a link that is back after an hour. `lamps` counts what 320
//! lamps that speak for themselves have to say in a day. Without a name, all four.

#[allow(dead_code)]
#[path = "../tests/it/bad_camera.rs"]
mod bad_camera;
mod common;
#[allow(dead_code)]
#[path = "../tests/it/faults.rs"]
mod faults;
#[path = "common/mosquitto.rs"]
mod mosquitto;
#[allow(dead_code)]
#[path = "../tests/it/proxy.rs"]
mod proxy;
#[allow(dead_code)]
#[path = "../tests/it/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use camnet::edge::adapter::speaker::Speaker;
use camnet::edge::adapter::tasmota;
use camnet::hub::certificates;
use camnet::hub::fleet::cause::{Place, Places};
use camnet::hub::fleet::core::{Fleet, Told};
use camnet::hub::fleet::roster::{Member, Roster};
use camnet::load::fleet::script::{self, STEP_S, Script, Size};
use camnet::model::*;
use common::{Figures, free_port};
use serde_json::json;
use tokio_util::sync::CancellationToken;

fn main() {
    camnet::tls::install_crypto();
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let is_wanted = |what: &str| wanted.is_empty() || wanted.iter().any(|name| name == what);
    let mut out = Figures::append(Path::new(env!("CARGO_MANIFEST_DIR")));
    if is_wanted("lamps") {
        lamps(&mut out);
    }
    if is_wanted("simulated") {
        simulated(&mut out, "ward", Size::WARD);
        simulated(&mut out, "city", CITY);
    }
    if is_wanted("load") {
        load(&mut out, "ward", Size::WARD);
        load(&mut out, "city", CITY);
    }
    if is_wanted("real") {
        real(&mut out);
    }
}

fn real(out: &mut Figures) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let dir = tempfile::tempdir().expect("a folder");
    for found in runtime.block_on(faults::play(dir.path())) {
        let name = format!("fleet.detect_s.{}", found.fault);
        out.add(&name, found.seconds, "s", Some(found.promised_s), "lower", json!("what is promised"), 1);
    }
}

/// What 320 lamps say in a day: each tells its own controller every five minutes, with the unrest of a real net.
fn lamps(out: &mut Figures) {
    const LAMPS: usize = 320;
    let start = Instant::now();
    let device = |n: usize| {
        let circuit = "[[circuit]]\ncircuit = 1\nnominal_power_w = 40.0";
        toml::from_str(&format!("id = 'lamp-{n:03}'\nname = 'den-{n}'\n{circuit}")).expect("a good device")
    };
    let mut speakers: Vec<Speaker> = (0..LAMPS).map(|n| Speaker::new(device(n), start)).collect();
    let midnight: Time = "2026-11-22T17:00:00Z".parse().expect("a time");
    let (mut said, mut busiest, mut minute) = (0usize, 0usize, (0, 0usize));
    for second in (0..86_400u64).step_by(5) {
        let (time, now) = (midnight + Duration::from_secs(second), start + Duration::from_secs(second));
        let before = said;
        for (n, speaker) in speakers.iter_mut().enumerate() {
            // Switched by a clock of its own, and telling at a time of its own.
            let hour = (second + n as u64 % 60) as f64 / 3600.0;
            let on = !(5.5..17.8).contains(&hour);
            if (second + 7 * n as u64).is_multiple_of(300) {
                let unrest = f64::from((second as u32).wrapping_mul(2_654_435_761) >> 20) / 4096.0 - 0.5;
                let power_w = if on && n != 17 { 40.0 + 1.6 * unrest } else { 0.0 };
                let state = format!(
                    r#"{{"POWER":"{}","ENERGY":{{"Power":{power_w:.1}}}}}"#,
                    if on { "ON" } else { "OFF" }
                );
                said +=
                    speaker.hear(tasmota::hear("tele/den/SENSOR", state.as_bytes()), false, time, now).len();
            }
            said += speaker.tick(None, time, now).len();
        }
        minute = if minute.0 == second / 60 {
            (minute.0, minute.1 + said - before)
        } else {
            (second / 60, said - before)
        };
        busiest = busiest.max(minute.1);
    }
    let baseline = json!("as it comes, each 5 min: 1.07");
    out.add(
        "fleet.lamp_messages_per_s",
        said as f64 / 86_400.0,
        "messages/s",
        Some(1.0),
        "lower",
        baseline.clone(),
        LAMPS,
    );
    out.add("fleet.lamp_messages_busiest_minute", busiest as f64, "messages", None, "lower", baseline, LAMPS);
}

const CITY: Size = Size { sites: 2500, cameras: 10_000, lamp_boxes: 334, lamps: 100_000 };

fn load(out: &mut Figures, name: &str, size: Size) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // Beside the checkout: /tmp may be memory.
    let dir = tempfile::tempdir_in(root.join("target")).expect("a folder");
    certificates::init(dir.path(), &certificates::loopback_names()).expect("certificates");
    let port = free_port();
    let _mosquitto = mosquitto::start(root, dir.path(), port);
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_camnet"));
    let stop = CancellationToken::new();
    let broker = format!("127.0.0.1:{port}");
    let played = camnet::load::fleet::play(size, dir.path(), Some(&broker), Some(binary), None, &stop);
    let account = runtime.block_on(played).expect("the fleet plays");
    println!("{account}");
    let (devices, shown_by) = (size.devices(), json!("what is promised"));
    for shown in &account.shown {
        let figure = format!("fleet.{name}.detect_s.{}", shown.fault.name);
        let seconds = shown.seconds.unwrap_or(f64::INFINITY);
        out.add(&figure, seconds, "s", Some(shown.promised_s()), "lower", shown_by.clone(), devices);
    }
    let mut add = |what: &str, value: f64, unit: &str, aim: Option<f64>, baseline: &str| {
        out.add(&format!("fleet.{name}.{what}"), value, unit, aim, "lower", json!(baseline), devices);
    };
    add("not_scripted", account.others.len() as f64, "incidents", Some(0.0), "none happened");
    add(
        "events_without_receipt",
        (account.accepted - account.receipted) as f64,
        "events",
        Some(0.0),
        "none may be lost",
    );
    add("hub_cpu_share", account.hub_cpu_share, "of a core", None, "2 cores");
    if name == "city" {
        let (bytes, baseline) =
            (account.hub_bytes_per_device(), json!("the whole hub, registry and index and all"));
        out.add("fleet.hub_bytes_per_device", bytes, "bytes", None, "lower", baseline, devices);
    }
}

/// The registry as the hub's own modules see it.
fn roster(size: &Size, start: Time) -> Roster {
    let registry = script::registry(size, start);
    let ward = AreaId::new("ward").expect("an id");
    let sites: BTreeMap<_, _> = registry.sites.iter().map(|site| (&site.id, site)).collect();
    let (mut devices, mut places) = (BTreeMap::new(), BTreeMap::new());
    for device in registry.devices {
        let site = sites[&device.site];
        let areas = [site.area.clone(), ward.clone()].into_iter().collect();
        let place = Place { kind: device.kind, box_id: device.box_id.clone(), site: site.id.clone(), areas };
        places.insert(device.id.clone(), place);
        let member = Member { point: Some(site.point), owner: None, from: start, device };
        devices.insert(member.device.id.clone(), member);
    }
    Roster { devices, places: Places::of(places) }
}

/// The link is back after an hour; only the ward waits for it.
const FAULT_AT: i64 = 1200;
const BACK_AT: i64 = FAULT_AT + 3600;

fn simulated(out: &mut Figures, size_name: &str, size: Size) {
    let start: Time = "2026-11-22T13:00:00Z".parse().expect("a time");
    let script = Script { start, fault_at: FAULT_AT, back_at: BACK_AT };
    let roster = roster(&size, start);
    let mut devices_of: BTreeMap<BoxId, Vec<(usize, Device)>> = BTreeMap::new();
    for (n, member) in roster.devices.values().enumerate() {
        devices_of.entry(member.device.box_id.clone()).or_default().push((n, member.device.clone()));
    }
    // What the registry has of them is not the fleet's.
    let before = rss_bytes();
    let mut fleet = Fleet::default();
    fleet.facts.listening = start;
    devices_of.keys().for_each(|box_id| fleet.facts.online(box_id, true, start));
    let mut shown: BTreeMap<&'static str, i64> = BTreeMap::new();
    let (mut others, mut slowest, mut spent, mut judged) = (0u64, Duration::ZERO, Duration::ZERO, 0usize);
    let scripts = script::faults();
    let is_ward = size_name == "ward";
    let mut ended: Option<i64> = None;
    let ends_at = if is_ward { BACK_AT + 900 } else { FAULT_AT + 1500 };
    for second in (0..ends_at).step_by(STEP_S as usize) {
        let now = script.at(second);
        for (box_id, devices) in &devices_of {
            // The broker notices after one and a half keep-alives.
            if script.is_cut(box_id, second) && second == FAULT_AT + 30 {
                fleet.facts.online(box_id, false, now);
            } else if !script.is_cut(box_id, second) && second == BACK_AT {
                fleet.facts.online(box_id, true, now);
            }
            let from = match script.is_cut(box_id, second) {
                true => continue,
                // The box delivers what it owes.
                false if second == BACK_AT && script.is_cut(box_id, second - STEP_S) => FAULT_AT,
                false => second,
            };
            for said_at in (from..=second).step_by(STEP_S as usize) {
                let time = script.at(said_at);
                for data in script.of_box(box_id, said_at) {
                    fleet.hear(&event(box_id, None, time, data), now, &roster);
                }
                for (n, device) in devices {
                    for data in script.of_device(device, *n, said_at) {
                        fleet.hear(&event(box_id, Some(device.id.clone()), time, data), now, &roster);
                    }
                }
            }
        }
        let began = Instant::now();
        let told = fleet.judge(&roster, now);
        let took = began.elapsed();
        (slowest, spent, judged) = (slowest.max(took), spent + took, judged + 1);
        for told in told {
            if let Told::Ended { incident, .. } = &told
                && incident.trouble == Trouble::BoxSilent
                && second >= BACK_AT
            {
                ended = Some(second - BACK_AT);
            }
            let Told::Began(incident) = told else { continue };
            let script = scripts.iter().find(|s| s.cause == incident.cause && s.trouble == incident.trouble);
            match script.filter(|_| second >= FAULT_AT) {
                Some(script) => drop(shown.entry(script.name).or_insert(second - FAULT_AT)),
                None => {
                    eprintln!("{size_name}: not scripted: {incident:?} at {second} s");
                    others += 1;
                }
            }
        }
    }
    let devices = roster.devices.len();
    let name = |what: &str| format!("fleet.simulated.{size_name}.{what}");
    let late = scripts.iter().filter(|script| {
        let promised = script.trouble.shown_within().as_secs();
        shown.get(script.name).is_none_or(|&seconds| seconds > promised)
    });
    out.add(
        &name("late"),
        late.count() as f64,
        "faults",
        Some(0.0),
        "lower",
        json!("what is promised"),
        scripts.len(),
    );
    if is_ward {
        let seconds = ended.map_or(f64::INFINITY, |seconds| seconds as f64);
        let aim = Some(Trouble::BoxSilent.shown_within().as_secs_f64());
        let figure = name("well_again_s.link_down_for_an_hour");
        out.add(&figure, seconds, "s", aim, "lower", json!("as it is shown"), devices);
    }
    let nothing = json!("none happened");
    out.add(&name("not_scripted"), others as f64, "incidents", Some(0.0), "lower", nothing, devices);
    let mean_ms = spent.as_secs_f64() * 1000.0 / judged as f64;
    out.add(&name("judge_ms"), mean_ms, "ms of 5,000", None, "lower", json!("every 5 s"), judged);
    let slowest_ms = slowest.as_secs_f64() * 1000.0;
    out.add(&name("judge_ms_max"), slowest_ms, "ms", None, "lower", json!("every 5 s"), judged);
    let bytes = rss_bytes().saturating_sub(before) as f64 / devices as f64;
    let baseline = json!("resident, without the registry's rows");
    out.add(&name("judgement_bytes_per_device"), bytes, "bytes", None, "lower", baseline, devices);
}

fn event(box_id: &BoxId, device: Option<DeviceId>, time: Time, data: EventData) -> Event {
    camnet::load::events::event(box_id, device, (Epoch(1), 1), (uuid::Uuid::nil(), time), data)
}

/// What this process has in memory.
fn rss_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("proc(5)");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("proc(5)");
    line.trim().trim_end_matches("kB").trim().parse::<u64>().expect("kilobytes") * 1024
}
