//! How devices are doing, as the API tells it.

use super::*;
use crate::hub::command::CommandError;
use crate::limits::PHOTO_BYTES_MAX;
use crate::model::{BoxHealth, DeviceKind, Lamp, LampReason, Status};
use crate::wire::{CommandResult, Topic, TopicKind};

/// A camera's word on its account, as it became durable at `at`.
fn said(device: &str, box_id: &str, state: SpanState, start: Time, at: Time) -> HubRecord {
    let box_id = BoxId::new(box_id).unwrap();
    let (span, open) = (Uuid::now_v7(), true);
    let data = EventData::Coverage(Coverage {
        span,
        state,
        start,
        upto: at,
        open,
        run: None,
        ring_from: None,
        detail: None,
    });
    let source = Source::of_device(&box_id, &DeviceId::new(device).unwrap());
    let clock = ClockQuality {
        source: ClockSource::Box,
        sync: SyncState::Synced,
        offset_ms: None,
        uncertainty_ms: None,
    };
    let event = Event { id: span, source, epoch: Epoch(7), sequence: 1, time: at, clock, data };
    HubRecord::Event(Arrived {
        box_id,
        received: at,
        conflict: false,
        event: Box::new(event),
        json: Vec::new(),
    })
}

/// All cameras of the ward, with their boxes.
fn cameras() -> Vec<(String, String)> {
    let devices = ward().devices.into_iter().filter(|device| device.kind == DeviceKind::Camera);
    devices.map(|device| (device.id.to_string(), device.box_id.to_string())).collect()
}

/// Plays so many minutes from `from`: each camera says each minute what `of` tells, and the fleet is judged.
fn play(hub: &Hub, from: Time, minutes: i64, of: impl Fn(&str) -> SpanState) {
    hub.web.status.broker_up.store(true, Ordering::Release);
    for minute in 0..minutes {
        let now = from + SignedDuration::from_mins(minute);
        let records: Vec<_> =
            cameras().iter().map(|(device, box_id)| said(device, box_id, of(device), from, now)).collect();
        hub.web.fleet.hear(&records);
        for second in [0, 20, 40] {
            hub.web.fleet.judge(now + SignedDuration::from_secs(second)).unwrap();
        }
    }
}

fn wrong(fleet: &Value) -> Vec<(&str, &str)> {
    let devices = fleet["devices"].as_array().unwrap().iter();
    devices.map(|device| (device["id"].as_str().unwrap(), device["state"].as_str().unwrap())).collect()
}

#[tokio::test]
async fn a_camera_that_is_away_is_told_with_its_cause_worked_on_and_proved() {
    let hub = Hub::start().await;
    let all = cameras();
    let (away, _) = &all[0];
    let start = Time::now() - SignedDuration::from_hours(1);
    let gap = SpanState::Gap { cause: GapCause::CameraUnreachable };
    play(&hub, start, 5, |_| SpanState::Recorded);
    let (status, fleet) = hub.get("/api/v1/fleet?kind=camera&state=wrong").await;
    assert_eq!((status, wrong(&fleet)), (200, vec![]), "{fleet}");
    assert_eq!(fleet["totals"]["camera"]["working"], json!(all.len()));

    let broke = start + SignedDuration::from_mins(5);
    play(&hub, broke, 15, |device| if device == away { gap } else { SpanState::Recorded });
    let (_, fleet) = hub.get("/api/v1/fleet?kind=camera&state=wrong").await;
    assert_eq!(wrong(&fleet), [(away.as_str(), "unreachable")], "{fleet}");
    let incident = &fleet["incidents"][0];
    assert_eq!(incident["cause"], json!({ "kind": "device", "id": away }));
    let order = incident["order"].as_str().expect("it lasted, so there is an order").to_owned();

    let act = format!("/api/v1/work-orders/{order}");
    let (status, told) = hub.post(&act, &json!({ "act": "assign", "to": "Minh" })).await;
    assert_eq!((status, &told["stage"]), (200, &json!("assigned")), "{told}");
    let (status, told) = hub.post(&act, &json!({ "act": "note", "text": "dây bị chuột cắn" })).await;
    assert_eq!((status, &told["notes"][0]["text"]), (200, &json!("dây bị chuột cắn")));
    let (status, told) = hub.post(&act, &json!({ "act": "note", "text": " " })).await;
    assert_eq!(status, 400, "{told}");
    let (_, page) = hub.get(&format!("/api/v1/devices/{away}")).await;
    assert_eq!(
        (&page["state"], &page["troubles"][0]["trouble"]),
        (&json!("unreachable"), &json!("camera_unreachable"))
    );
    assert_eq!(page["orders"][0]["assignee"], json!("Minh"));
    assert!(page["this_month"]["in_state_s"]["unreachable"].as_u64().unwrap() >= 600, "{page}");

    // Said to be mended, it closes only when the camera is heard well afterwards.
    let (_, told) = hub.post(&act, &json!({ "act": "mended" })).await;
    assert_eq!(told["stage"], json!("unproved"));
    play(&hub, Time::now() + SignedDuration::from_secs(1), 5, |_| SpanState::Recorded);
    let (_, orders) = hub.get("/api/v1/work-orders?stage=closed").await;
    assert_eq!(orders["orders"][0]["id"], json!(order), "{orders}");
    assert!(orders["orders"][0]["proved"].get(away).is_some(), "{orders}");
    let (status, told) = hub.post(&act, &json!({ "act": "mended" })).await;
    assert_eq!(status, 409, "{told}");

    let (status, report) = hub.get("/api/v1/fleet/report").await;
    assert_eq!((status, &report["orders_closed"]), (200, &json!(1)), "{report}");
    let (status, csv) = hub.get("/api/v1/fleet/report.csv").await;
    let lines = csv.as_str().unwrap().lines().count();
    assert_eq!((status, lines), (200, ward().devices.len() + 1), "{csv}");
}

#[tokio::test]
async fn maintenance_is_taken_and_wrong_questions_are_told() {
    let hub = Hub::start().await;
    let device = cameras().remove(0).0;
    let path = format!("/api/v1/devices/{device}/service");
    let (status, told) = hub.post(&path, &json!({ "service": "maintenance", "why": "thay nguồn" })).await;
    assert_eq!(status, 204, "{told}");
    hub.web.status.broker_up.store(true, Ordering::Release);
    hub.web.fleet.judge(Time::now()).unwrap();
    let (_, page) = hub.get(&format!("/api/v1/devices/{device}")).await;
    assert_eq!(page["state"], json!("maintenance"), "{page}");
    let table = [
        ("/api/v1/fleet?state=broken", 400),
        ("/api/v1/fleet?limit=0", 400),
        ("/api/v1/fleet/report?month=11-2026", 400),
        ("/api/v1/devices/no-such-camera", 404),
        ("/api/v1/work-orders?stage=lost", 400),
    ];
    for (path, expected) in table {
        let (status, told) = hub.get(path).await;
        assert_eq!(status, expected, "{path}: {told}");
    }
    let (status, told) = hub.post(&path, &json!({ "service": "retired", "why": "x" })).await;
    assert_eq!(status, 400, "{told}");
    let (status, _) = hub
        .post("/api/v1/work-orders/8f14e45f-ceea-467f-a8f2-94ff7a1c2f11", &json!({ "act": "mended" }))
        .await;
    assert_eq!(status, 404);
}

/// What a lamp's box said of circuits, as it became durable at `at`.
fn lamp_said(circuit: u16, on: bool, fault: Option<&str>, meter_kwh: f64, at: Time) -> HubRecord {
    let lamp = Lamp {
        fault: fault.map(str::to_owned),
        energy_kwh: Some(meter_kwh),
        ..Lamp::new(circuit, LampReason::Heartbeat, on, 2.0, 400.0)
    };
    let word = said("lamp-01", "box-lamp", SpanState::Recorded, at, at);
    let HubRecord::Event(arrived) = word else { panic!("an event") };
    let event = Event { data: EventData::Lamp(lamp), ..*arrived.event };
    HubRecord::Event(Arrived { event: Box::new(event), ..arrived })
}

#[tokio::test]
async fn dark_streets_burning_hours_and_energy_are_told() {
    let hub = Hub::start().await;
    hub.web.status.broker_up.store(true, Ordering::Release);
    let start = Time::now() - SignedDuration::from_hours(1);
    for minute in (0..60).step_by(5) {
        let now = start + SignedDuration::from_mins(minute);
        let lost = (minute >= 20).then_some("supply_loss");
        let meter = 100.0 + minute as f64 / 100.0;
        hub.web.fleet.hear(&[lamp_said(1, true, None, meter, now), lamp_said(2, true, lost, 50.0, now)]);
        for second in (0..300).step_by(20) {
            hub.web.fleet.judge(now + SignedDuration::from_secs(second)).unwrap();
        }
    }
    let (status, light) = hub.get("/api/v1/lighting").await;
    assert_eq!(status, 200, "{light}");
    let circuit = |number: u64| {
        let circuits = light["circuits"].as_array().unwrap().iter();
        circuits
            .clone()
            .find(|c| c["device"] == "lamp-01" && c["circuit"] == number)
            .expect("it is there")
            .clone()
    };
    let (good, lost) = (circuit(1), circuit(2));
    assert_eq!((&good["on"], &good["known_s"], &good["burnt_s"]), (&json!(true), &json!(3300), &json!(3300)));
    assert!((good["energy_kwh"].as_f64().unwrap() - 0.55).abs() < 1e-6, "{good}");
    assert!(lost["troubles"].as_array().unwrap().contains(&json!("supply_loss")), "{lost}");
    let dark: Vec<_> = light["stretches"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|stretch| stretch["darkness"] == "dark")
        .collect();
    assert_eq!(dark.len(), 1, "{light}");
    assert_eq!(
        (&dark[0]["lamps"][0]["device"], &dark[0]["lamps"][0]["circuit"]),
        (&json!("lamp-01"), &json!(2))
    );
    assert!(light["metres"]["dark"].as_f64().unwrap() > 10.0, "the length of its street: {light}");
    assert_eq!(hub.get("/api/v1/lighting?month=2026").await.0, 400);
}

/// A camera that is away, with the others working; its incident has no order yet.
async fn hub_with_one_away() -> (Hub, String) {
    let hub = Hub::start().await;
    let away = cameras().remove(0).0;
    let gap = SpanState::Gap { cause: GapCause::CameraUnreachable };
    let of = |device: &str| if device == away { gap } else { SpanState::Recorded };
    play(&hub, Time::now() - SignedDuration::from_mins(5), 5, of);
    (hub, away)
}

async fn opened(hub: &Hub, device: &str) -> String {
    let (status, order) = hub.post("/api/v1/work-orders", &json!({ "device": device })).await;
    assert_eq!(status, 201, "{order}");
    order["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_fleet_is_told_by_area_street_and_site() {
    let (hub, away) = hub_with_one_away().await;
    let (_, places) = hub.get("/api/v1/places").await;
    let device = places["devices"].as_array().unwrap().iter().find(|d| d["id"] == json!(away)).unwrap();
    for (by, id) in
        [("site", device["site"].as_str().unwrap()), ("street", "duong-hoa-phuong"), ("area", "tan-hung")]
    {
        let (status, told) = hub.get(&format!("/api/v1/fleet/rollup?by={by}")).await;
        let groups = told["groups"].as_array().unwrap();
        let group = groups.iter().find(|group| group["id"] == json!(id)).unwrap_or_else(|| panic!("{told}"));
        assert_eq!(status, 200, "{told}");
        assert_eq!(group["totals"]["camera"]["unreachable"], json!(1), "{by}: {group}");
        let suffers = |incident: &Value| incident["devices"] == json!([away]);
        assert!(group["incidents"].as_array().unwrap().iter().any(suffers), "{by}: {group}");
        assert!(group["name"].is_string() && group["wrong"].as_u64().unwrap() >= 1, "{by}: {group}");
    }
    // Each camera stands on one street at most, at one site, and in its areas.
    let (_, sites) = hub.get("/api/v1/fleet/rollup?by=site&area=khu-pho-2").await;
    let elsewhere = |group: &Value| !["khu-pho-2", "to-5"].contains(&group["within"].as_str().unwrap());
    assert!(!sites["groups"].as_array().unwrap().iter().any(elsewhere), "{sites}");
    let (status, _) = hub.get("/api/v1/fleet/rollup?by=owner").await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn devices_are_found_by_words_without_marks() {
    let hub = Hub::start().await;
    let found = |told: &Value| {
        let ids = told["devices"].as_array().unwrap().iter().map(|d| d["id"].as_str().unwrap().to_owned());
        ids.collect::<Vec<_>>()
    };
    for (words, expected) in [
        ("cong%20nha%2014", true),
        ("cam-01", true),
        ("14 Hoa Ph%C6%B0%E1%BB%A3ng", true),
        ("cau quay", false),
    ] {
        let (status, told) = hub.get(&format!("/api/v1/fleet?q={}", words.replace(' ', "%20"))).await;
        assert_eq!(status, 200, "{told}");
        assert_eq!(found(&told).contains(&"cam-01".to_owned()), expected, "{words}: {told}");
    }
}

#[tokio::test]
async fn an_order_is_opened_by_hand_where_something_is_wrong() {
    let (hub, away) = hub_with_one_away().await;
    let order = opened(&hub, &away).await;
    let (status, again) = hub.post("/api/v1/work-orders", &json!({ "device": away })).await;
    assert_eq!((status, &again["id"]), (200, &json!(order)), "there is one");
    let well = &cameras()[1].0;
    let (status, told) = hub.post("/api/v1/work-orders", &json!({ "device": well })).await;
    assert_eq!(status, 409, "{told}");
    let (status, _) = hub.post("/api/v1/work-orders", &json!({ "device": "no-such-camera" })).await;
    assert_eq!(status, 404);
    let (status, told) = hub.get(&format!("/api/v1/work-orders/{order}")).await;
    assert_eq!((status, &told["cameras"]), (200, &json!(1)), "{told}");
    assert!(told["uncovered_cameras"].as_u64().unwrap() <= 1, "{told}");
}

#[tokio::test]
async fn a_photo_is_kept_with_its_order_and_shown_through_the_gate_only() {
    let (hub, away) = hub_with_one_away().await;
    let order = opened(&hub, &away).await;
    let url = format!("{}/api/v1/work-orders/{order}/photos", hub.url);
    let send = |kind: &'static str, bytes: Vec<u8>| {
        let request =
            hub.client.post(format!("{url}?text=d%C3%A2y%20%C4%91%E1%BB%A9t")).header("content-type", kind);
        async move { request.body(bytes).send().await.unwrap().status().as_u16() }
    };
    let jpeg = [&[0xff, 0xd8, 0xff, 0xe0][..], &[7; 500]].concat();
    let too_large = [&jpeg[..], &vec![0; PHOTO_BYTES_MAX][..]].concat();
    for (kind, bytes, expected) in [
        ("image/jpeg", jpeg.clone(), 200),
        ("image/png", b"\x89PNG\r\n\x1a\nrest".to_vec(), 200),
        ("image/jpeg", b"<svg onload=alert(1)>".to_vec(), 415),
        ("image/svg+xml", jpeg.clone(), 415),
        ("image/jpeg", too_large, 413),
    ] {
        assert_eq!(send(kind, bytes).await, expected, "{kind}");
    }
    let sha256 = Sha256Hash::of(&jpeg).to_string();
    let (_, told) = hub.get(&format!("/api/v1/work-orders/{order}")).await;
    assert_eq!(told["notes"].as_array().unwrap().len(), 2, "what was refused left no note: {told}");
    assert_eq!((&told["notes"][0]["photo"], &told["notes"][0]["text"]), (&json!(sha256), &json!("dây đứt")));
    let kept = hub.dir.path().join("photos").join(&sha256[..2]).join(&sha256);
    assert_eq!(std::fs::read(&kept).unwrap(), jpeg);

    let shown = hub.client.get(format!("{url}/{sha256}?purpose=xem")).send().await.unwrap();
    assert_eq!(
        (shown.status().as_u16(), shown.headers()["content-type"].to_str().unwrap()),
        (200, "image/jpeg")
    );
    assert_eq!(shown.bytes().await.unwrap(), jpeg);
    let (_, log) = hub.get("/api/v1/access?limit=2").await;
    let look = &log["access"][1];
    assert_eq!((&look["action"], &look["purpose"]), (&json!("photo"), &json!("xem")), "{log}");
    // Only what the order names; and not what was changed on disk.
    let other = Sha256Hash::of(b"other").to_string();
    let gone = "8f14e45f-ceea-467f-a8f2-94ff7a1c2f11";
    for path in [
        format!("{url}/{other}"),
        format!("{url}/..%2f..%2faccess"),
        url.replace(&order, gone) + "/" + &sha256,
    ] {
        assert_eq!(hub.client.get(&path).send().await.unwrap().status(), 404, "{path}");
    }
    std::fs::write(&kept, [&jpeg[..], b"x"].concat()).unwrap();
    assert_eq!(hub.client.get(format!("{url}/{sha256}")).send().await.unwrap().status(), 500);
}

/// What the gate recorded of the still that is being asked for.
async fn correlation_of_still(hub: &Hub) -> String {
    loop {
        let (_, log) = hub.get("/api/v1/access?limit=50").await;
        let looks = log["access"].as_array().unwrap();
        if let Some(look) = looks.iter().find(|look| look["action"] == "still") {
            assert_eq!(look["purpose"], "kiểm tra");
            return look["subject"]["correlation"].as_str().unwrap().to_owned();
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_still_is_asked_of_the_box_once_and_waited_for() {
    let hub = Arc::new(Hub::start().await);
    hub.web.status.broker_up.store(true, Ordering::Release);
    let (path, asked) = ("/api/v1/devices/cam-01/still", json!({ "purpose": "kiểm tra" }));
    let first = tokio::spawn({
        let (hub, asked) = (hub.clone(), asked.clone());
        async move { hub.post(path, &asked).await }
    });
    let correlation = correlation_of_still(&hub).await;
    let (status, second) = hub.post(path, &asked).await;
    assert_eq!(status, 409, "one at a time: {second}");

    // The box answers, its event comes, then the picture.
    let clip = hub.say_clip("cam-01", "box-01", 1, 5, b"newest seconds");
    let topic = Topic::new(&BoxId::new("box-01").unwrap(), TopicKind::Result);
    hub.web.commands.take(&topic, &CommandResult::still(correlation, clip).to_json());
    hub.store(clip, b"still").await;
    let (status, still) = first.await.unwrap();
    assert_eq!((status, &still["clip"], &still["arrived"]), (200, &json!(clip), &json!(true)), "{still}");
    let link = still["links"]["thumbnail"].as_str().unwrap();
    let shown = hub.client.get(format!("{}{link}?purpose=x", hub.url)).send().await.unwrap();
    assert_eq!(shown.bytes().await.unwrap().as_ref(), b"still");
}

#[tokio::test]
async fn why_there_is_no_still_is_told() {
    let hub = Hub::start().await;
    let asked = json!({ "purpose": "kiểm tra" });
    let lamp = ward().devices.into_iter().find(|device| device.kind == DeviceKind::Lamp).unwrap().id;
    let (status, told) = hub.post(&format!("/api/v1/devices/{lamp}/still"), &asked).await;
    assert_eq!(status, 404, "{told}");
    let (status, told) = hub.post("/api/v1/devices/cam-01/still", &asked).await;
    assert_eq!(status, 503, "{told}");
    assert!(told["detail"].as_str().unwrap().contains(&CommandError::NoLink.to_string()), "{told}");
    hub.web.status.broker_up.store(true, Ordering::Release);
    hub.web.status.set_online(&BoxId::new("box-01").unwrap(), false);
    let (status, told) = hub.post("/api/v1/devices/cam-01/still", &asked).await;
    assert_eq!(status, 503, "{told}");
    assert!(told["detail"].as_str().unwrap().contains("offline"), "{told}");
    let long = json!({ "purpose": "x".repeat(crate::limits::PURPOSE_CHARS_MAX + 1) });
    let (status, told) = hub.post("/api/v1/devices/cam-01/still", &long).await;
    assert_eq!(status, 400, "{told}");
}

/// An event as it became durable at `at`.
fn arrived(device: Option<&str>, box_id: &str, data: EventData, at: Time) -> HubRecord {
    let word = said(device.unwrap_or("cam-01"), box_id, SpanState::Recorded, at, at);
    let HubRecord::Event(arrived) = word else { panic!("an event") };
    let source = match device {
        Some(_) => arrived.event.source.clone(),
        None => Source::of_box(&arrived.box_id),
    };
    let event = Event { data, source, ..*arrived.event };
    HubRecord::Event(Arrived { event: Box::new(event), ..arrived })
}

#[tokio::test]
async fn a_box_in_trouble_has_one_order_until_the_box_is_well() {
    let hub = Hub::start().await;
    let box_id = &cameras()[0].1;
    let start = Time::now() - SignedDuration::from_hours(2);
    let says = |hot: bool, minutes: std::ops::Range<i64>| {
        for minute in minutes {
            let at = start + SignedDuration::from_mins(minute);
            let health =
                BoxHealth { temperature_c: Some(if hot { 90.0 } else { 50.0 }), ..BoxHealth::default() };
            let status = Status { of_box: Some(health), ..Status::new(!hot, None) };
            hub.web.fleet.hear(&[arrived(None, box_id, EventData::Status(status), at)]);
            play(&hub, at, 1, |_| SpanState::Recorded);
        }
    };
    says(true, 0..30);
    let (_, all) = hub.get("/api/v1/work-orders?stage=all").await;
    let of_box = |all: &Value| {
        let orders = all["orders"].as_array().unwrap().iter().filter(|order| order["cause"]["kind"] == "box");
        orders.map(|order| order["stage"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(of_box(&all), ["open"], "one, and it stays: {all}");
    says(false, 30..40);
    let (_, all) = hub.get("/api/v1/work-orders?stage=all").await;
    assert_eq!(of_box(&all), ["closed"], "{all}");
}

#[tokio::test]
async fn a_lamp_that_was_mended_by_day_waits_for_the_evening_to_prove_it() {
    let hub = Hub::start().await;
    hub.web.status.broker_up.store(true, Ordering::Release);
    let start = Time::now() - SignedDuration::from_hours(3);
    let says = |from: Time, minutes: i64, on: bool, fault: Option<&str>| {
        for minute in 0..minutes {
            let at = from + SignedDuration::from_mins(minute);
            hub.web.fleet.hear(&[lamp_said(1, on, fault, 1.0, at)]);
            for second in [0, 20, 40] {
                hub.web.fleet.judge(at + SignedDuration::from_secs(second)).unwrap();
            }
        }
    };
    says(start, 20, true, Some("supply_loss"));
    let (_, orders) = hub.get("/api/v1/work-orders").await;
    let order = orders["orders"].as_array().unwrap().iter().find(|o| o["trouble"] == "supply_loss").unwrap();
    let path = format!("/api/v1/work-orders/{}", order["id"].as_str().unwrap());
    hub.post(&path, &json!({ "act": "mended" })).await;
    let mended = Time::now() + SignedDuration::from_secs(1);
    says(mended, 30, false, None);
    let (_, order) = hub.get(&path).await;
    let told = (&order["stage"], &order["disproved"]);
    assert_eq!(told, (&json!("unproved"), &json!(0)), "off says nothing: {order}");
    says(mended + SignedDuration::from_mins(30), 5, true, None);
    let (_, order) = hub.get(&path).await;
    assert_eq!((&order["stage"], &order["disproved"]), (&json!("closed"), &json!(0)), "{order}");
}

#[tokio::test]
async fn a_page_of_another_site_can_make_an_officers_browser_do_nothing() {
    let hub = Hub::start().await;
    let path = format!("{}/api/v1/devices/{}/service", hub.url, cameras()[0].0);
    let body = json!({ "service": "maintenance", "why": "x" }).to_string();
    let own = hub.url.clone();
    for (origin, expected) in
        [("https://evil.example", 403), ("null", 403), ("http://127.0.0.1:1", 403), (own.as_str(), 204)]
    {
        let request = hub.client.post(&path).header("origin", origin).header("content-type", "text/plain");
        let status = request.body(body.clone()).send().await.unwrap().status().as_u16();
        assert_eq!(status, expected, "{origin}");
    }
    let read = hub.client.get(format!("{}/api/v1/fleet", hub.url)).header("origin", "https://evil.example");
    assert_eq!(read.send().await.unwrap().status(), 200, "the browser keeps the answer from that page");
}
