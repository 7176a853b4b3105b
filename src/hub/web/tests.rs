//! The listeners over real HTTP and real TLS, on port 0.

use std::sync::Mutex;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::BoxFuture;
use jiff::SignedDuration;
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};
use tempfile::TempDir;
use uuid::Uuid;

use std::sync::atomic::AtomicBool;

mod ask;
mod fleet;
mod stac;
mod stream;

use super::*;
use crate::hub::catalog::live::Live;
use crate::hub::certificates::{init, issue_box, loopback_names};
use crate::hub::clips::{Declared, StoredSink};
use crate::hub::enrol::Reach;
use crate::hub::registry::RegistryFile;
use crate::hub::truth::{Arrived, HubRecord, JournalTruth, StoredFile, Truth};
use crate::journal::Journal;
use crate::limits::COVERAGE_HEARTBEAT;
use crate::model::{
    BoxId, ClipCut, ClockQuality, ClockSource, Coverage, DeviceId, Epoch, Event, EventData, GapCause,
    Sha256Hash, Source, SpanState, Still, SyncState, Time, Video,
};
use crate::tls::Identity;

/// A truth that indexes at once.
struct Sink {
    catalog: Arc<Live>,
    fails: AtomicBool,
    truth: Mutex<JournalTruth>,
}

impl Sink {
    fn apply(&self, record: HubRecord) -> u64 {
        let mut truth = self.truth.lock().unwrap();
        let appended = truth.append(vec![record]).unwrap();
        self.catalog.apply(appended.first, &appended.written).unwrap();
        appended.first
    }
}

impl StoredSink for Sink {
    fn append_stored(
        &self,
        file: StoredFile,
    ) -> BoxFuture<'_, Result<u64, Box<dyn std::error::Error + Send + Sync>>> {
        Box::pin(async move {
            if self.fails.load(Ordering::Relaxed) {
                return Err("the disk is full".into());
            }
            Ok(self.apply(HubRecord::Stored(file)))
        })
    }
}

/// Seconds that the ring of a box holds.
const RING_S: i64 = 1900;

struct Hub {
    dir: TempDir,
    sink: Arc<Sink>,
    web: Arc<Web>,
    url: String,
    client: Client,
    shutdown: CancellationToken,
}

fn use_ring() {
    // A second test finds it installed.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A link that never comes up: what is sent gets nowhere.
fn no_broker(shutdown: &CancellationToken) -> crate::mqtt::LinkSender {
    let config = crate::mqtt::LinkConfig {
        address: "127.0.0.1:1".into(),
        client_id: "test".into(),
        tls: None,
        subscriptions: Vec::new(),
        will: None,
        inflight_max: 10,
        session_keep: None,
        login: None,
    };
    let (link, mut events, _) = crate::mqtt::start(config, shutdown.clone());
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    link
}

fn ward() -> RegistryFile {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("config/ward.toml");
    RegistryFile::load(&path).unwrap()
}

fn hour_ago() -> Time {
    Time::now() - SignedDuration::from_hours(1)
}

/// A book without a CA's key: nothing is signed.
fn enrol_in(data: &std::path::Path) -> Enrol {
    let reach = Reach { name: None, broker: None, mqtt_port: 8883, boxes_port: 8443, enrol_port: None };
    Enrol::open_with(data, None, reach, Duration::from_secs(3600)).unwrap()
}

/// A file that begins as a base map does.
fn base_map(dir: &std::path::Path) -> console::BaseMap {
    let path = dir.join("ward.pmtiles");
    std::fs::write(&path, b"PMTiles\x03 and tiles").unwrap();
    console::BaseMap::open(&path).unwrap()
}

impl Hub {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let gate = Gate::open(&dir.path().join("access"), &["demo"]).unwrap();
        Self::start_with(dir, gate).await
    }

    async fn start_with(dir: TempDir, gate: Gate) -> Self {
        Self::start_on(dir, gate, |index| index).await
    }

    /// A hub that reads what `catalog` makes of the index.
    async fn start_on(dir: TempDir, gate: Gate, catalog: impl FnOnce(Arc<Live>) -> Arc<dyn Catalog>) -> Self {
        use_ring();
        let data = dir.path();
        let (truth, _) = JournalTruth::open(&data.join("journal")).unwrap();
        let (index, _) = Live::open(&data.join("index"), &truth.records(), truth.next()).unwrap();
        let index = Arc::new(index);
        let sink = Arc::new(Sink {
            catalog: index.clone(),
            fails: AtomicBool::new(false),
            truth: Mutex::new(truth),
        });
        let registry = Registry::open(&data.join("acts")).unwrap();
        registry.import(&ward(), hour_ago()).unwrap();
        let metrics = HubMetrics::new();
        let clips = Arc::new(ClipStore::open(data, sink.clone(), metrics.clone()).unwrap());
        let copies = Copies::open(data, clips.clone(), metrics.registry()).unwrap();
        let shutdown = CancellationToken::new();
        let commands = Commands::new(no_broker(&shutdown), metrics.registry()).unwrap();
        let (registry, status) = (Arc::new(registry), Arc::<HubStatus>::default());
        let fleet =
            Keeper::open(&data.join("fleet"), registry.clone(), status.clone(), metrics.registry()).unwrap();
        let web = Arc::new(Web {
            fleet,
            photos: Arc::new(Photos::open(data).unwrap()),
            taking: Taking::default(),
            rebuilder: Arc::new(Rebuilder::new(index.clone(), data.join("journal"))),
            catalog: catalog(index),
            registry,
            gate: Arc::new(gate),
            clips,
            copies: Arc::new(copies),
            metrics,
            device_series: Default::default(),
            status,
            atlases: Arc::default(),
            replay: Arc::new(|_| Ok(Default::default())),
            commands,
            enrol: enrol_in(data),
            actor: "demo".into(),
            demo: true,
            base_map: Some(base_map(data)),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(serve_officers(listener, web.clone(), shutdown.clone()));
        Self { dir, sink, web, url, client: Client::builder().no_proxy().build().unwrap(), shutdown }
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let response = self.client.get(format!("{}{path}", self.url)).send().await.unwrap();
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let response = self.client.post(format!("{}{path}", self.url)).json(body).send().await.unwrap();
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    fn say(&self, device: &str, box_id: &str, sequence: u64, data: EventData) {
        let event = Event {
            id: Uuid::now_v7(),
            source: Source::of_device(&BoxId::new(box_id).unwrap(), &DeviceId::new(device).unwrap()),
            epoch: Epoch(7),
            sequence,
            time: Time::now(),
            clock: ClockQuality {
                source: ClockSource::Box,
                sync: SyncState::Synced,
                offset_ms: None,
                uncertainty_ms: Some(40),
            },
            data,
        };
        self.sink.apply(HubRecord::Event(Arrived::of(event, Time::now())));
    }

    /// What box-01, whose ring holds [`RING_S`], says about a span of its camera that began and was last heard of so
    /// many seconds ago.
    fn say_coverage(&self, device: &str, sequence: u64, state: SpanState, start: i64, upto: i64, open: bool) {
        let ago = |seconds: i64| Time::now() - SignedDuration::from_secs(seconds);
        let (span, run, detail) = (Uuid::now_v7(), None, None);
        let (start, upto) = (ago(start), ago(upto));
        let ring_from = Some(ago(RING_S));
        let coverage = Coverage { span, state, start, upto, open, run, ring_from, detail };
        self.say(device, "box-01", sequence, EventData::Coverage(coverage));
    }

    /// A clip that began `seconds_ago` and lasts ten seconds.
    fn say_clip(&self, device: &str, box_id: &str, sequence: u64, seconds_ago: i64, content: &[u8]) -> Uuid {
        let start = Time::now() - SignedDuration::from_secs(seconds_ago);
        let end = start + SignedDuration::from_secs(10);
        let clip = Uuid::now_v7();
        let cut = ClipCut {
            clip,
            motion: None,
            start,
            end,
            motion_start: Some(start),
            motion_end: Some(end),
            peak_score: 0.4,
            bytes: content.len() as u64,
            sha256: Sha256Hash::of(content),
            video: Video { codec: "avc1.4d401e".into(), width: 640, height: 360 },
            audio_codec: Some("mp4a.40.2".into()),
            thumbnail: Some(Still { sha256: Sha256Hash::of(b"still"), bytes: 5, time: start }),
            run: Uuid::now_v7(),
            first_fragment: 3,
            fragments: vec![Sha256Hash::of(b"one"), Sha256Hash::of(b"two")],
        };
        self.say(device, box_id, sequence, EventData::Clip(cut));
        clip
    }

    async fn store(&self, clip: Uuid, content: &[u8]) {
        let (box_id, clips) = (BoxId::new("box-01").unwrap(), &self.web.clips);
        let sha256 = Sha256Hash::of(content);
        let declared = Declared { clip, sha256, kind: "clip".into(), bytes: content.len() as u64 };
        let (id, _) = clips.create(&box_id, declared).await.unwrap();
        let body = futures_util::stream::iter([Ok::<_, io::Error>(bytes::Bytes::copy_from_slice(content))]);
        clips.append(&box_id, id, 0, body).await.unwrap();
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn ids(answer: &Value) -> Vec<String> {
    answer["clips"].as_array().unwrap().iter().map(|c| c["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_finds_clips_by_place_and_tells_every_gap() {
    let hub = Hub::start().await;
    let near = hub.say_clip("cam-01", "box-01", 1, 600, b"near");
    let far = hub.say_clip("cam-11", "box-07", 1, 300, b"far");
    hub.store(near, b"near").await;
    hub.say_coverage("cam-01", 2, SpanState::Recorded, 1800, 60, true);
    let (status, all) = hub.get("/api/v1/clips").await;
    assert_eq!((status, ids(&all)), (200, vec![far.to_string(), near.to_string()]), "{all}");
    assert_eq!(all["understood"]["cameras"], 11);
    assert_eq!(all["understood"]["place"], json!({ "conditions": [] }));
    assert_eq!((&all["clips"][0]["where"], &all["clips"][1]["where"]), (&json!("box"), &json!("hub")));
    assert_eq!(all["clips"][0]["links"]["video"], Value::Null);
    assert_eq!(all["clips"][1]["links"]["video"], format!("/api/v1/clips/{near}/video.mp4"));
    assert_eq!(all["clips"][1]["fragments"], 2);
    for camera in all["coverage"].as_array().unwrap() {
        let spans = camera["spans"].as_array().unwrap();
        for pair in spans.windows(2) {
            assert_eq!(pair[0]["end"], pair[1]["start"], "{camera}");
        }
        let seconds = |name: &str| camera[name].as_f64().unwrap();
        let told = seconds("recorded_s") + seconds("gap_s") + seconds("unconfirmed_s");
        assert!((3600.0..3660.0).contains(&told), "an hour since enrolment: {told}");
        if camera["device"]["id"] == "cam-01" {
            assert!((seconds("recorded_s") - 1740.0).abs() < 1.0, "{camera}");
            assert!((seconds("unconfirmed_s") - 60.0).abs() < 2.0, "{camera}");
        } else {
            assert_eq!(spans.last().unwrap()["cause"], "not_yet_reported");
        }
    }
    let (_, circle) = hub.get("/api/v1/clips?lat=10.74048&lon=106.69531&radius_m=150").await;
    assert_eq!(ids(&circle), [near.to_string()]);
    assert_eq!(circle["clips"][0]["distance_m"], 0.0);
    assert_eq!(circle["understood"]["place"]["conditions"][0]["kind"], "circle");
    assert_eq!(circle["coverage"][1]["site"]["id"], "hoa-phuong-52");
    assert!((circle["coverage"][1]["bearing_deg"].as_f64().unwrap() - 88.0).abs() < 2.0, "{circle}");
    let (_, area) = hub.get("/api/v1/clips?area=khu-pho-2").await;
    assert_eq!((ids(&area), &area["understood"]["cameras"]), (vec![far.to_string()], &json!(5)));
    let (_, device) = hub.get("/api/v1/clips?device=cam-01,cam-02&order=oldest").await;
    assert_eq!((ids(&device), &device["understood"]["cameras"]), (vec![near.to_string()], &json!(2)));
    let body = json!({ "device": ["cam-01", "cam-02"], "order": "oldest" });
    let posted = hub.client.post(format!("{}/api/v1/clips", hub.url)).json(&body).send().await.unwrap();
    let posted: Value = posted.json().await.unwrap();
    assert_eq!(posted["clips"], device["clips"]);
    let (status, one) = hub.get(&format!("/api/v1/clips/{near}")).await;
    assert_eq!((status, &one["device"]["name"]), (200, &json!("Cổng nhà 14 Hoa Phượng")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_boxs_last_word_holds_unconfirmed_until_it_is_old_or_the_box_is_gone() {
    const DEAD: SpanState = SpanState::Gap { cause: GapCause::CameraUnreachable };
    let beat = COVERAGE_HEARTBEAT.as_secs() as i64;
    let recorded = || json!(["recorded", null, null]);
    let recorded_tail = || json!(["recorded", null, false]);
    let silent = || json!(["gap", "not_yet_reported", null]);
    // Last word, its age, still open, what is known of the box; then the spans of the last twenty minutes.
    let table = [
        (SpanState::Recorded, beat, true, None, vec![recorded(), recorded_tail()]),
        (SpanState::Recorded, beat, true, Some(true), vec![recorded(), recorded_tail()]),
        (SpanState::Recorded, beat, true, Some(false), vec![recorded(), silent()]),
        (SpanState::Recorded, 2 * beat + 1, true, Some(true), vec![recorded(), silent()]),
        (SpanState::Recorded, beat, false, Some(true), vec![recorded(), silent()]),
        (
            DEAD,
            beat,
            true,
            Some(true),
            vec![json!(["gap", "camera_unreachable", null]), json!(["gap", "camera_unreachable", false])],
        ),
    ];
    let told = |camera: &Value| -> Vec<Value> {
        let spans = camera["spans"].as_array().unwrap();
        spans.iter().map(|s| json!([s["state"], s["cause"], s["confirmed"]])).collect()
    };
    let ago = |seconds: i64| Time::now() - SignedDuration::from_secs(seconds);
    for (state, age, open, online, expected) in table {
        let hub = Hub::start().await;
        hub.say_coverage("cam-01", 1, state, 1500, age, open);
        if let Some(online) = online {
            hub.web.status.set_online(&BoxId::new("box-01").unwrap(), online);
        }
        let (_, answer) = hub.get(&format!("/api/v1/clips?device=cam-01&from={}", ago(1200))).await;
        let camera = &answer["coverage"][0];
        assert_eq!(told(camera), expected, "{state:?} {age} {open} {online:?}");
        let unconfirmed = if expected[1][2] == false { age as f64 } else { 0.0 };
        assert!((camera["unconfirmed_s"].as_f64().unwrap() - unconfirmed).abs() < 2.0, "{camera}");
        // A window that lies wholly behind the last word says the same.
        let (from, to) = (ago(beat / 2), ago(beat / 4));
        let (_, answer) = hub.get(&format!("/api/v1/clips?device=cam-01&from={from}&to={to}")).await;
        assert_eq!(told(&answer["coverage"][0]), expected[1..], "{state:?} {age} {open} {online:?}");
    }
    // What the box said later stands, though it lies behind the window.
    let hub = Hub::start().await;
    hub.say_coverage("cam-01", 1, SpanState::Recorded, 1500, 200, true);
    hub.say_coverage("cam-01", 2, DEAD, 100, 0, true);
    let (_, answer) =
        hub.get(&format!("/api/v1/clips?device=cam-01&from={}&to={}", ago(300), ago(150))).await;
    assert_eq!(told(&answer["coverage"][0]), [recorded(), silent()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purpose_in_vietnamese_is_logged_as_it_was_meant() {
    let hub = Hub::start().await;
    let url = format!("{}/api/v1/clips?limit=1", hub.url);
    let table = [
        ("tin%20b%C3%A1o m%E1%BA%A5t xe 100%25", "tin báo mất xe 100%"),
        ("tin báo mất xe", "tin báo mất xe"),
        ("100% sure", "100% sure"),
        ("%E1%BA", "%E1%BA"),
    ];
    for (header, logged) in table {
        let asked = hub.client.get(&url).header("camnet-purpose", header).send().await.unwrap();
        assert_eq!(asked.status(), 200);
        let (_, log) = hub.get("/api/v1/access?limit=2").await;
        assert_eq!(log["access"][1]["purpose"], logged, "{header}");
    }
    let long = "%E1%BA%A5".repeat(crate::limits::PURPOSE_CHARS_MAX);
    assert_eq!(hub.client.get(&url).header("camnet-purpose", &long).send().await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_exact_while_clips_arrive() {
    let hub = Hub::start().await;
    let mut expected: Vec<String> = Vec::new();
    for n in 0..60 {
        let camera = ["cam-01", "cam-02", "cam-03"][n % 3];
        expected
            .push(hub.say_clip(camera, "box-02", 1 + n as u64, 2000 - 20 * n as i64, &[n as u8]).to_string());
    }
    expected.reverse();
    let mut got = Vec::new();
    let mut page = String::new();
    for round in 0..20 {
        let (status, answer) = hub.get(&format!("/api/v1/clips?limit=7{page}")).await;
        assert_eq!(status, 200, "{answer}");
        got.extend(ids(&answer));
        // Newer than the page's key: must not appear, nor push others about.
        hub.say_clip("cam-01", "box-01", 100 + round, 1, &[200, round as u8]);
        match answer["next"].as_str() {
            Some(next) => page = format!("&page={next}"),
            None => break,
        }
    }
    assert_eq!(got, expected);
    let (status, problem) = hub.get(&format!("/api/v1/clips?order=oldest{page}")).await;
    assert_eq!(status, 400);
    assert!(problem["detail"].as_str().unwrap().contains("another question"), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_camera_is_found_where_it_stood() {
    let hub = Hub::start().await;
    let before = hub.say_clip("cam-01", "box-01", 1, 1200, b"before");
    let mut moved = ward();
    let camera = moved.devices.iter_mut().find(|d| d.id.as_str() == "cam-01").unwrap();
    camera.site = "bo-kenh-60".parse().unwrap();
    hub.web.registry.import(&moved, Time::now() - SignedDuration::from_secs(600)).unwrap();
    let after = hub.say_clip("cam-01", "box-01", 2, 300, b"after");
    let (_, old_place) = hub.get("/api/v1/clips?lat=10.74048&lon=106.69531&radius_m=50").await;
    assert_eq!(ids(&old_place), [before.to_string()]);
    assert_eq!(old_place["clips"][0]["site"]["id"], "hoa-phuong-14");
    let (_, new_place) = hub.get("/api/v1/clips?lat=10.73664&lon=106.69607&radius_m=50").await;
    assert_eq!(ids(&new_place), [after.to_string()]);
    let (_, all) = hub.get("/api/v1/clips").await;
    assert_eq!(ids(&all), [after.to_string(), before.to_string()]);
    assert_eq!((&all["understood"]["cameras"], all["coverage"].as_array().unwrap().len()), (&json!(11), 12));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_questions_are_told_what_is_wrong() {
    let hub = Hub::start().await;
    let table = [
        ("/api/v1/clips?foo=1", 400, "foo"),
        ("/api/v1/clips?from=yesterday", 400, "from"),
        ("/api/v1/clips?from=2026-01-01T00:00:00Z&to=2026-12-01T00:00:00Z", 400, "92 days"),
        ("/api/v1/clips?from=2026-02-01T00:00:00Z&to=2026-01-01T00:00:00Z", 400, "before"),
        ("/api/v1/clips?lat=10", 400, "radius_m"),
        ("/api/v1/clips?lat=10&lon=106&radius_m=99999999", 400, "50000"),
        ("/api/v1/clips?lat=10&lon=106&radius_m=NaN", 400, "radius_m"),
        ("/api/v1/clips?area=nowhere", 400, "nowhere"),
        ("/api/v1/clips?device=cam-99", 400, "cam-99"),
        ("/api/v1/clips?device=cam-01&lat=10&lon=106", 400, "radius_m"),
        ("/api/v1/clips?limit=many", 400, "limit"),
        ("/api/v1/clips?polygon={", 400, "polygon"),
        ("/api/v1/clips?polygon=%7B%22type%22:%22Point%22%7D", 400, "MultiPolygon"),
        ("/api/v1/clips?route=%7B%22type%22:%22Point%22%7D", 400, "LineString"),
        ("/api/v1/clips?width_m=20", 400, "send route too"),
        ("/api/v1/clips?near=nowhere%20at%20all", 400, "no place has this name"),
        ("/api/v1/clips?sees=https://maps.app.goo.gl/x", 400, "paste the long address"),
        ("/api/v1/clips?site=moon", 400, "there is no such site"),
        ("/api/v1/clips?when=sometime", 400, "not understood as a time"),
        ("/api/v1/clips?hours=22-04", 400, "22:00-04:00"),
        ("/api/v1/clips?weekdays=someday", 400, "mon, tue"),
        ("/api/v1/clips?when=h%C3%B4m+qua&from=2027-01-01T00:00:00Z", 400, "no moment in common"),
        ("/api/v1/suggest?q=a&limit=51", 400, "limit"),
        ("/api/v1/suggest", 400, "q"),
        ("/api/v1/understand?when=sometime", 400, "not understood as a time"),
        ("/api/v1/cameras?sees=xyz", 400, "no place has this name"),
        ("/api/v1/clips?limit=501", 400, "500"),
        ("/api/v1/clips?page=xyz", 400, "page token"),
        ("/api/v1/clips?order=sideways", 400, "sideways"),
        ("/api/v1/clips/not-a-uuid", 404, "UUID"),
        ("/api/v1/clips/01890000-0000-7000-8000-000000000000", 404, "no such clip"),
        ("/api/v1/clips/01890000-0000-7000-8000-000000000000/video.mp4", 404, "no such clip"),
        ("/api/v1/nothing", 404, "no such resource"),
        ("/api/v1/events?limit=0", 400, "limit"),
        ("/missing.js", 404, "no such file"),
    ];
    for (path, status, text) in table {
        let (got, problem) = hub.get(path).await;
        assert_eq!(got, status, "{path}: {problem}");
        assert_eq!(problem["status"], status, "{path}: {problem}");
        assert!(problem["detail"].as_str().is_some_and(|d| d.contains(text)), "{path}: {problem}");
    }
    let clips = format!("{}/api/v1/clips", hub.url);
    let sent = |request: RequestBuilder| async move { request.send().await.unwrap() };
    let response = sent(hub.client.delete(&clips)).await;
    assert_eq!(response.status(), 405);
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    assert_eq!(sent(hub.client.post(&clips).body(" ".repeat(100_000))).await.status(), 413);
    assert_eq!(sent(hub.client.post(&clips).body(r#"{"device":["cam-01"],"x":1}"#)).await.status(), 400);
    assert_eq!(sent(hub.client.get(&clips).header("host", "evil.example")).await.status(), 421);
    assert_eq!(sent(hub.client.get(&clips).header("host", "localhost:9")).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn footage_is_served_by_range_and_every_look_is_logged() {
    let hub = Hub::start().await;
    let clip = hub.say_clip("cam-01", "box-01", 1, 60, b"0123456789");
    let url = format!("{}/api/v1/clips/{clip}/video.mp4", hub.url);
    let get = |range: Option<&'static str>, method: Method| {
        let request = hub.client.request(method, &url).header("camnet-purpose", "vụ trộm xe");
        let request = match range {
            Some(range) => request.header("range", range),
            None => request,
        };
        async move { request.send().await.unwrap() }
    };
    assert_eq!(get(None, Method::GET).await.status(), 404);
    hub.store(clip, b"0123456789").await;
    let whole = get(None, Method::GET).await;
    assert_eq!(
        (whole.status().as_u16(), whole.headers()["content-type"].to_str().unwrap()),
        (200, "video/mp4")
    );
    assert_eq!(whole.headers()["etag"], format!("\"{}\"", Sha256Hash::of(b"0123456789")));
    assert_eq!(whole.headers()["x-content-type-options"], "nosniff");
    assert_eq!(whole.bytes().await.unwrap(), "0123456789");
    let part = get(Some("bytes=2-4"), Method::GET).await;
    assert_eq!(
        (part.status().as_u16(), part.headers()["content-range"].to_str().unwrap()),
        (206, "bytes 2-4/10")
    );
    assert_eq!(part.bytes().await.unwrap(), "234");
    let head = get(None, Method::HEAD).await;
    assert_eq!((head.status().as_u16(), head.headers()["content-length"].to_str().unwrap()), (200, "10"));
    let beyond = get(Some("bytes=10-"), Method::GET).await;
    assert_eq!(
        (beyond.status().as_u16(), beyond.headers()["content-range"].to_str().unwrap()),
        (416, "bytes */10")
    );
    let (status, thumbnail) = hub.get(&format!("/api/v1/clips/{clip}/thumbnail.jpg")).await;
    assert_eq!(status, 404, "{thumbnail}");
    hub.store(clip, b"still").await;
    assert_eq!(
        hub.get(&format!("/api/v1/clips/{clip}/thumbnail.jpg?purpose=x")).await,
        (200, json!("still"))
    );

    let (_, log) = hub.get("/api/v1/access?limit=6").await;
    let log = log["access"].as_array().unwrap();
    let told: Vec<_> =
        log.iter().map(|r| (r["action"].as_str().unwrap(), r["subject"]["range"].clone())).collect();
    assert_eq!(told[1], ("thumbnail", Value::Null));
    assert_eq!(told[5], ("view", json!([2, 4])), "{log:?}");
    assert_eq!((&log[5]["purpose"], &log[5]["actor"]), (&json!("vụ trộm xe"), &json!("demo")));
    assert!(log[5]["remote"].as_str().unwrap().starts_with("127.0.0.1:"));

    // A file that shrank is not shown.
    let path = hub.web.clips.path_of(&Sha256Hash::of(b"0123456789"));
    std::fs::write(path, b"01234").unwrap();
    assert_eq!(get(None, Method::GET).await.status(), 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_leaves_when_the_look_cannot_be_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("access");
    let (journal, _) = Journal::open_with(&folder, 1).unwrap();
    let hub = Hub::start_with(dir, Gate::with_journal(journal, &["demo"]).unwrap()).await;
    let clip = hub.say_clip("cam-01", "box-01", 1, 60, b"0123456789");
    hub.store(clip, b"0123456789").await;
    assert_eq!(hub.get("/api/v1/clips").await.0, 200);
    std::fs::remove_dir_all(&folder).unwrap();
    let video = format!("/api/v1/clips/{clip}/video.mp4");
    for path in ["/api/v1/clips", "/api/v1/events", "/api/v1/access", "/api/v1/refused", &video] {
        let (status, body) = hub.get(path).await;
        assert_eq!((status, &body["status"]), (503, &json!(503)), "{path}: {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_technician_sees_boxes_events_and_the_hubs_state() {
    let hub = Hub::start().await;
    let clip = hub.say_clip("cam-01", "box-01", 3, 60, b"x");
    hub.web.status.set_online(&BoxId::new("box-01").unwrap(), true);
    let (_, boxes) = hub.get("/api/v1/boxes").await;
    let boxes = boxes["boxes"].as_array().unwrap();
    assert_eq!(boxes.len(), 8, "{boxes:?}");
    assert_eq!((&boxes[0]["id"], &boxes[0]["online"]), (&json!("box-01"), &json!(true)));
    assert_eq!((&boxes[0]["epochs"][0]["upto"], &boxes[0]["epochs"][0]["missing"]), (&json!(3), &json!(2)));
    assert_eq!(boxes[1]["last_seen"], Value::Null);
    let (_, events) = hub.get("/api/v1/events?type=camnet.clip.v1&device=cam-01&box=box-01").await;
    assert_eq!(events["events"][0]["data"]["clip"], clip.to_string());
    assert_eq!(
        (&events["events"][0]["sequence"], &events["events"][0]["source"]),
        (&json!(3), &json!("/box-01/cam-01"))
    );
    assert_eq!(events["next"], Value::Null);
    assert_eq!(hub.get("/api/v1/refused").await, (200, json!({ "refused": [], "counts": [], "next": null })));
    let (_, places) = hub.get("/api/v1/places").await;
    assert_eq!(
        (places["sites"].as_array().unwrap().len(), places["devices"].as_array().unwrap().len()),
        (7, 12)
    );
    assert_eq!(hub.get("/api/v1/session").await.1["actor"], "demo");
    assert_eq!(hub.get("/healthz").await, (200, json!("ok\n")));
    assert_eq!(hub.get("/readyz").await.0, 503);
    hub.web.status.broker_up.store(true, Ordering::Relaxed);
    assert_eq!(hub.get("/readyz").await.0, 200);
    hub.web.status.journal_next.store(1_000_000, Ordering::Relaxed);
    assert_eq!(hub.get("/readyz").await.0, 503);
    let (_, metrics) = hub.get("/metrics").await;
    let metrics = metrics.as_str().unwrap().to_owned();
    for name in ["camnet_hub_http_requests_total", "camnet_hub_looks_total", "camnet_hub_broker_up 1"] {
        assert!(metrics.contains(name), "{metrics}");
    }
    assert_eq!(hub.get("/openapi.json").await.1["openapi"], "3.1.0");
    let page = hub.client.get(format!("{}/some/page", hub.url)).send().await.unwrap();
    assert_eq!(page.status(), 200);
    assert!(page.headers()["content-security-policy"].to_str().unwrap().contains("default-src 'self'"));
    assert!(page.headers()["content-type"].to_str().unwrap().starts_with("text/html"));
}

#[tokio::test]
async fn officers_are_served_on_loopback_only() {
    let hub = Hub::start().await;
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let error = serve_officers(listener, hub.web.clone(), CancellationToken::new()).await.unwrap_err();
    assert!(error.to_string().contains("until login exists"), "{error}");
}

// --- uploads over TLS ---

struct Uploads {
    hub: Hub,
    url: String,
    certificates: std::path::PathBuf,
    shutdown: CancellationToken,
}

impl Drop for Uploads {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Uploads {
    async fn start() -> Self {
        let hub = Hub::start().await;
        let certificates = hub.dir.path().join("certificates");
        init(&certificates, &loopback_names()).unwrap();
        for id in ["box-01", "box-02"] {
            issue_box(&certificates, &BoxId::new(id).unwrap()).unwrap();
        }
        let mut uploads = Self { hub, url: String::new(), certificates, shutdown: CancellationToken::new() };
        uploads.serve(uploads.hub.web.clips.clone()).await;
        uploads
    }

    async fn serve(&mut self, clips: Arc<ClipStore>) {
        self.shutdown.cancel();
        self.shutdown = CancellationToken::new();
        let file = |name: &str| self.certificates.join(name);
        let identity = Identity { ca: file("ca.pem"), certificate: file("hub.pem"), key: file("hub.key") };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.url = format!("https://{}", listener.local_addr().unwrap());
        let enrol = self.hub.web.enrol.clone();
        let tls = boxes::boxes_tls(&identity, enrol.clone()).unwrap();
        let web = boxes::BoxesWeb { clips, enrol, metrics: self.hub.web.metrics.clone() };
        tokio::spawn(boxes::serve_boxes(listener, tls, web, self.shutdown.clone()));
    }

    fn client(&self, identity: Option<(&std::path::Path, &str)>) -> Client {
        let ca = std::fs::read(self.certificates.join("ca.pem")).unwrap();
        let ca = reqwest::Certificate::from_pem(&ca).unwrap();
        let mut builder = Client::builder().no_proxy().tls_certs_only([ca]);
        if let Some((folder, name)) = identity {
            let mut pem = std::fs::read(folder.join(format!("{name}.pem"))).unwrap();
            pem.extend(std::fs::read(folder.join(format!("{name}.key"))).unwrap());
            builder = builder.identity(reqwest::Identity::from_pem(&pem).unwrap());
        }
        builder.build().unwrap()
    }

    fn of_box(&self, name: &str) -> Client {
        self.client(Some((&self.certificates, name)))
    }

    async fn create(&self, client: &Client, content: &[u8], sha256: Sha256Hash) -> reqwest::Response {
        let value = |text: String| STANDARD.encode(text);
        let metadata = format!(
            "clip {},sha256 {},kind {}",
            value(Uuid::nil().to_string()),
            value(sha256.to_string()),
            value("clip".into())
        );
        let request = client.post(format!("{}/tus/v1/uploads", self.url)).header("tus-resumable", "1.0.0");
        let request = request.header("upload-length", content.len()).header("upload-metadata", metadata);
        request.send().await.unwrap()
    }

    fn at(&self, client: &Client, method: Method, location: &str) -> RequestBuilder {
        client.request(method, format!("{}{location}", self.url)).header("tus-resumable", "1.0.0")
    }

    async fn patch(
        &self,
        client: &Client,
        location: &str,
        offset: usize,
        body: impl Into<reqwest::Body>,
    ) -> u16 {
        let request = self.at(client, Method::PATCH, location).header("upload-offset", offset);
        let request = request.header("content-type", "application/offset+octet-stream").body(body);
        request.send().await.map_or(0, |r| r.status().as_u16())
    }

    async fn offset(&self, client: &Client, location: &str) -> (u16, Option<u64>) {
        let response = self.at(client, Method::HEAD, location).send().await.unwrap();
        (response.status().as_u16(), header_number(&response, "upload-offset"))
    }
}

fn header_number(response: &reqwest::Response, name: &str) -> Option<u64> {
    response.headers().get(name).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok())
}

fn location(response: &reqwest::Response) -> String {
    assert_eq!(response.status(), 201);
    response.headers()["location"].to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_box_with_our_certificate_gets_a_word() {
    let uploads = Uploads::start().await;
    let elsewhere = uploads.hub.dir.path().join("elsewhere");
    init(&elsewhere, &loopback_names()).unwrap();
    issue_box(&elsewhere, &BoxId::new("box-01").unwrap()).unwrap();
    let strangers = [
        ("no certificate", uploads.client(None)),
        ("another CA", uploads.client(Some((&elsewhere, "box-01")))),
        ("the hub's own", uploads.of_box("camnet-hub")),
        ("a server's", uploads.of_box("hub")),
    ];
    for (name, client) in strangers {
        let answer = uploads.at(&client, Method::OPTIONS, "/tus/v1/uploads").send().await;
        assert!(answer.is_err(), "{name}: {answer:?}");
    }
    let client = uploads.of_box("box-01");
    let options = uploads.at(&client, Method::OPTIONS, "/tus/v1/uploads").send().await.unwrap();
    assert_eq!(
        (options.status().as_u16(), options.headers()["tus-version"].to_str().unwrap()),
        (204, "1.0.0")
    );
    // Somebody who connects and says nothing keeps nobody waiting.
    let _silent = tokio::net::TcpStream::connect(uploads.url.trim_start_matches("https://")).await.unwrap();
    let fresh = uploads.of_box("box-02");
    let answer = uploads.at(&fresh, Method::OPTIONS, "/tus/v1/uploads").send();
    assert!(tokio::time::timeout(Duration::from_secs(5), answer).await.unwrap().is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_checked_stored_and_known() {
    let uploads = Uploads::start().await;
    let client = uploads.of_box("box-01");
    let content = vec![7u8; 300_000];
    let sha256 = Sha256Hash::of(&content);
    let upload = location(&uploads.create(&client, &content, sha256).await);
    assert_eq!(location(&uploads.create(&client, &content, sha256).await), upload, "the same upload goes on");
    let other = uploads.of_box("box-02");
    assert_eq!(uploads.offset(&other, &upload).await.0, 404);
    assert_eq!(uploads.patch(&other, &upload, 0, content.clone()).await, 404);
    assert_eq!(uploads.patch(&client, &upload, 5, content.clone()).await, 409);
    assert_eq!(uploads.patch(&client, &upload, 0, content[..100_000].to_vec()).await, 204);
    assert_eq!(uploads.offset(&client, &upload).await, (200, Some(100_000)));
    assert_eq!(uploads.patch(&client, &upload, 100_000, content.clone()).await, 413);
    let (_, at) = uploads.offset(&client, &upload).await;
    let at = at.unwrap() as usize;
    assert_eq!(uploads.patch(&client, &upload, at, content[at..].to_vec()).await, 204);
    assert!(uploads.hub.web.catalog.has_upload(Uuid::nil(), &sha256).unwrap());
    assert_eq!(std::fs::read(uploads.hub.web.clips.path_of(&sha256)).unwrap(), content);
    assert_eq!(std::fs::read_dir(uploads.hub.dir.path().join("uploads")).unwrap().count(), 0);
    let known = uploads.create(&other, &content, sha256).await;
    assert_eq!((known.status().as_u16(), header_number(&known, "upload-offset")), (201, Some(300_000)));

    let wrong = location(&uploads.create(&client, b"right", Sha256Hash::of(b"right")).await);
    assert_eq!(uploads.patch(&client, &wrong, 0, "wrong").await, 460);
    assert_eq!(uploads.offset(&client, &wrong).await.0, 404);
    let gone = location(&uploads.create(&client, b"gone", Sha256Hash::of(b"gone")).await);
    assert_eq!(uploads.at(&client, Method::DELETE, &gone).send().await.unwrap().status(), 204);
    assert_eq!(uploads.offset(&client, &gone).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_of_boxes_are_refused() {
    let uploads = Uploads::start().await;
    let client = uploads.of_box("box-01");
    let url = format!("{}/tus/v1/uploads", uploads.url);
    let old = client.post(&url).header("tus-resumable", "0.2.0").send().await.unwrap();
    assert_eq!((old.status().as_u16(), old.headers()["tus-version"].to_str().unwrap()), (412, "1.0.0"));
    let post = |length: &'static str, metadata: &'static str| {
        let request = uploads.at(&client, Method::POST, "/tus/v1/uploads").header("upload-length", length);
        async move { request.header("upload-metadata", metadata).send().await.unwrap().status().as_u16() }
    };
    let good = "clip MDAwMDAwMDAtMDAwMC0wMDAwLTAwMDAtMDAwMDAwMDAwMDAw,kind Y2xpcA==,sha256 \
        MDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMA==";
    let table = [
        ("5", "", 400),
        ("x", good, 400),
        ("5", "clip eA==", 400),
        ("1073741825", good, 413),
        ("5", good, 201),
    ];
    for (length, metadata, status) in table {
        assert_eq!(post(length, metadata).await, status, "{length} {metadata}");
    }
    assert_eq!(uploads.at(&client, Method::GET, "/tus/v1/uploads").send().await.unwrap().status(), 405);
    assert_eq!(uploads.at(&client, Method::GET, "/api/v1/clips").send().await.unwrap().status(), 404);
    for n in 0..crate::limits::UPLOADS_PER_BOX_MAX as u64 {
        let made = uploads.create(&client, b"many", Sha256Hash::of(&n.to_be_bytes())).await;
        let expected = if n + 1 < crate::limits::UPLOADS_PER_BOX_MAX as u64 { 201 } else { 429 };
        assert_eq!(made.status(), expected, "{n}");
    }
    assert_eq!(uploads.hub.web.clips.clean(Duration::from_secs(3600)).await, 0);
    assert_eq!(uploads.hub.web.clips.clean(Duration::ZERO).await, crate::limits::UPLOADS_PER_BOX_MAX);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lamp_command_is_understood_or_refused_before_anything_is_sent() {
    let hub = Hub::start().await;
    let json = Some("application/json");
    let on = r#"{"circuit":1,"switch":"on"}"#;
    type Row<'a> = (&'a str, Option<&'a str>, &'a str, u16, &'a str);
    let table: [Row; 13] = [
        ("lamp-01", None, on, 415, "application/json"),
        ("lamp-01", Some("text/plain"), on, 415, "application/json"),
        ("lamp-01", json, "{", 400, "body"),
        ("lamp-01", json, r#"{"switch":"on"}"#, 400, "circuit"),
        ("lamp-01", json, r#"{"circuit":1}"#, 400, "either"),
        ("lamp-01", json, r#"{"circuit":1,"switch":"on","dim_percent":4}"#, 400, "either"),
        ("lamp-01", json, r#"{"circuit":1,"dim_percent":101}"#, 400, "0 to 100"),
        ("lamp-01", json, r#"{"circuit":1,"switch":"on","valid_s":0}"#, 400, "1 to 300"),
        ("lamp-01", json, r#"{"circuit":1,"switch":"on","valid_s":301}"#, 400, "1 to 300"),
        ("lamp-01", json, r#"{"circuit":1,"switch":"on","force":true}"#, 400, "force"),
        ("lamp-99", json, on, 404, "no device lamp-99"),
        ("cam-01", json, on, 404, "no lamp cabinet"),
        ("LAMP", json, on, 404, "no such device"),
    ];
    let post = async |device: &str, kind: Option<&str>, body: String| {
        let request = hub.client.post(format!("{}/api/v1/devices/{device}/lamp", hub.url)).body(body);
        let request = match kind {
            Some(kind) => request.header(header::CONTENT_TYPE, kind),
            None => request,
        };
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.json::<Value>().await.unwrap())
    };
    for (device, kind, body, status, detail) in table {
        let (found, problem) = post(device, kind, body.to_owned()).await;
        assert_eq!(found, status, "{device} {body}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(detail), "{device} {body}: {problem}");
    }
    let long = format!(r#"{{"circuit":1,"switch":"on","purpose":"{}"}}"#, "x".repeat(70_000));
    assert_eq!(post("lamp-01", json, long).await.0, 413);
    let (_, log) = hub.get("/api/v1/access").await;
    assert_eq!(
        log["access"].as_array().unwrap().len(),
        1,
        "nothing was asked of the gate but this look: {log}"
    );

    // Its box is offline, or says nothing: recorded, with the purpose, and answered.
    let body = r#"{"circuit":1,"dim_percent":40,"valid_s":1,"purpose":"thử đèn"}"#;
    hub.web.status.set_online(&"box-lamp".parse().unwrap(), false);
    let (status, problem) = post("lamp-01", json, body.to_owned()).await;
    assert_eq!(
        (status, problem["detail"].as_str().unwrap()),
        (503, "box box-lamp is offline; nothing was sent")
    );
    hub.web.status.set_online(&"box-lamp".parse().unwrap(), true);
    let (status, problem) = post("lamp-01", json, body.to_owned()).await;
    assert_eq!((status, problem["detail"].as_str().unwrap().contains("no link")), (503, true), "{problem}");
    hub.web.status.broker_up.store(true, Ordering::Release);
    let (status, problem) = post("lamp-01", json, body.to_owned()).await;
    assert_eq!(status, 504, "{problem}");
    let (_, log) = hub.get("/api/v1/access").await;
    for record in &log["access"].as_array().unwrap()[1..=3] {
        let told = (&record["action"], &record["purpose"], &record["decision"], &record["actor"]);
        assert_eq!(told, (&json!("lamp"), &json!("thử đèn"), &json!("allowed"), &json!("demo")));
        let subject = &record["subject"];
        assert_eq!(subject["act"], json!({ "act": "dim", "percent": 40 }));
        assert_eq!((&subject["device"], &subject["circuit"]), (&json!("lamp-01"), &json!(1)));
    }
}

/// A body that breaks off after `content`.
fn torn(content: &[u8]) -> reqwest::Body {
    let good = Ok(bytes::Bytes::copy_from_slice(content));
    // The error must not overtake the bytes before it.
    let bad = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        Err(io::Error::other("the link broke"))
    };
    let parts: [BoxFuture<'static, io::Result<bytes::Bytes>>; 2] = [Box::pin(async { good }), Box::pin(bad)];
    use futures_util::StreamExt;
    reqwest::Body::wrap_stream(futures_util::stream::iter(parts).then(|part| part))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_after_a_cut_a_restart_and_a_full_journal() {
    let mut uploads = Uploads::start().await;
    let client = uploads.of_box("box-01");
    let content: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
    let sha256 = Sha256Hash::of(&content);
    let upload = location(&uploads.create(&client, &content, sha256).await);
    assert_eq!(uploads.patch(&client, &upload, 0, torn(&content[..70_000])).await, 0);
    let mut at = 0;
    for _ in 0..100 {
        at = uploads.offset(&client, &upload).await.1.unwrap();
        if at == 70_000 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(at, 70_000, "what came before the cut is kept");

    // The hub starts anew on the same folder.
    let (data, sink) = (uploads.hub.dir.path().to_owned(), uploads.hub.sink.clone());
    let clips = Arc::new(ClipStore::open(&data, sink.clone(), HubMetrics::new()).unwrap());
    uploads.serve(clips.clone()).await;
    assert_eq!(uploads.offset(&client, &upload).await, (200, Some(70_000)));

    // The journal takes nothing: the box must not hear that its clip is safe.
    sink.fails.store(true, Ordering::Relaxed);
    assert_eq!(uploads.patch(&client, &upload, 70_000, content[70_000..].to_vec()).await, 503);
    assert_eq!(uploads.offset(&client, &upload).await.0, 503);
    sink.fails.store(false, Ordering::Relaxed);
    assert_eq!(uploads.offset(&client, &upload).await, (200, Some(200_000)));
    assert!(uploads.hub.web.catalog.has_upload(Uuid::nil(), &sha256).unwrap());
    assert_eq!(std::fs::read(clips.path_of(&sha256)).unwrap(), content);
}

#[tokio::test]
async fn the_base_map_is_served_in_pieces() {
    let hub = Hub::start().await;
    assert_eq!(hub.get("/basemap.json").await, (200, json!({ "pmtiles": "/basemap.pmtiles" })));
    let table = [
        (None, 200, "PMTiles\x03 and tiles", None),
        (Some("bytes=0-6"), 206, "PMTiles", Some("bytes 0-6/18")),
        (Some("bytes=13-"), 206, "tiles", Some("bytes 13-17/18")),
        (Some("bytes=99-"), 416, "", Some("bytes */18")),
    ];
    for (range, status, body, place) in table {
        let mut asked = hub.client.get(format!("{}/basemap.pmtiles", hub.url));
        if let Some(range) = range {
            asked = asked.header("range", range);
        }
        let answer = asked.send().await.unwrap();
        assert_eq!(answer.status(), status, "{range:?}");
        let header = |name: &str| answer.headers().get(name).map(|v| v.to_str().unwrap().to_owned());
        assert_eq!(header("content-range").as_deref(), place, "{range:?}");
        assert!(header("etag").is_some());
        assert_eq!(answer.text().await.unwrap(), body, "{range:?}");
    }
    let refused = console::BaseMap::open(&std::env::current_exe().unwrap()).unwrap_err().to_string();
    assert!(refused.contains("no PMTiles file"), "{refused}");
}
