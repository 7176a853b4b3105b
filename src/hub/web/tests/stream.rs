//! Answers that are told as they come, downloads, and counts per bucket, over real HTTP.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;

use futures_util::StreamExt;
use tokio::sync::mpsc;

use super::*;
use crate::hub::catalog::{
    BoxRow, Buckets, CatalogError, ClipQuery, ClipRow, EventPage, EventQuery, RefusedCount, RefusedPage,
    RefusedQuery, TimeRange,
};
use crate::limits::EXPORT_CLIPS_MAX;
use crate::model::CoverageSpan;

fn ago(seconds: i64) -> Time {
    Time::now() - SignedDuration::from_secs(seconds)
}

impl Hub {
    /// The lines of an answer, and its type.
    async fn lines(&self, request: RequestBuilder) -> (String, Vec<Value>) {
        let response = request.header("accept", "application/x-ndjson").send().await.unwrap();
        let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
        let text = response.text().await.unwrap();
        (kind, text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
    }

    async fn text(&self, path: &str) -> (reqwest::header::HeaderMap, String) {
        let response = self.client.get(format!("{}{path}", self.url)).send().await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        (response.headers().clone(), String::from_utf8(response.bytes().await.unwrap().to_vec()).unwrap())
    }
}

/// The only key of a line.
fn kind(line: &Value) -> &str {
    let object = line.as_object().unwrap();
    assert_eq!(object.len(), 1, "{line}");
    object.keys().next().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_tell_the_same_as_the_answer_in_one_piece() {
    let hub = Hub::start().await;
    for n in 0..40u64 {
        let camera = ["cam-02", "cam-03"][n as usize % 2];
        hub.say_clip(camera, "box-02", 1 + n, 1500 - 20 * n as i64, &[n as u8]);
    }
    hub.say_coverage("cam-01", 1, SpanState::Recorded, 1800, 60, false);
    let (from, to) = (ago(3000), ago(120));
    let query = format!("from={from}&to={to}&near=hoa-phuong-52&radius_m=300&limit=30");
    let body = json!({ "from": from, "to": to, "near": "hoa-phuong-52", "radius_m": 300.0, "limit": 30 });
    let url = format!("{}/api/v1/clips", hub.url);
    let (_, answer) = hub.get(&format!("/api/v1/clips?{query}")).await;
    let by_query = hub.client.get(format!("{url}?{query}"));
    for request in [by_query, hub.client.post(&url).json(&body)] {
        let (told_as, lines) = hub.lines(request).await;
        assert_eq!(told_as, "application/x-ndjson");
        let mut kinds: Vec<&str> = lines.iter().map(kind).collect();
        assert_eq!(
            (kinds.iter().filter(|k| **k == "clip").count(), kinds.len() - 32 > 1),
            (30, true),
            "{kinds:?}"
        );
        kinds.dedup();
        assert_eq!(kinds, ["understood", "clip", "coverage", "end"]);
        let all = |key: &str| lines.iter().filter_map(|line| line.get(key).cloned()).collect::<Vec<_>>();
        assert_eq!(all("understood"), [answer["understood"].clone()]);
        assert_eq!(json!(all("clip")), answer["clips"]);
        assert_eq!(json!(all("coverage")), answer["coverage"]);
        let next = all("end")[0]["next"].as_str().unwrap().to_owned();
        let (_, rest) = hub.get(&format!("/api/v1/clips?{query}&page={next}")).await;
        assert_eq!((ids(&rest).len(), &rest["next"]), (10, &Value::Null), "{rest}");
        let (_, rest_in_lines) = hub.lines(hub.client.get(format!("{url}?{query}&page={next}"))).await;
        assert_eq!(rest_in_lines.last(), Some(&json!({ "end": { "next": null } })));
    }
    // What is wrong is told before the first line.
    let wrong = hub.client.get(format!("{url}?area=nowhere")).header("accept", "application/x-ndjson");
    let wrong = wrong.send().await.unwrap();
    assert_eq!(
        (wrong.status().as_u16(), wrong.headers()["content-type"].to_str().unwrap()),
        (400, "application/problem+json")
    );
}

/// An index whose clips never end. It is dropped when nobody reads it any more.
struct Endless {
    index: Arc<Live>,
    rows: Arc<AtomicUsize>,
    _nobody_reads: mpsc::Sender<()>,
}

impl Catalog for Endless {
    fn clips(&self, query: &ClipQuery) -> Result<Vec<ClipRow>, CatalogError> {
        let one = self.index.clips(&ClipQuery { after: None, limit: 1, ..query.clone() })?;
        let mut row = one.into_iter().next().expect("the test told of a clip");
        let mut rows = Vec::new();
        for _ in 0..query.limit {
            row.clip = Uuid::now_v7();
            rows.push(row.clone());
        }
        self.rows.fetch_add(rows.len(), Ordering::Relaxed);
        Ok(rows)
    }
    fn applied(&self) -> u64 {
        self.index.applied()
    }
    fn apply(&self, from: u64, records: &[HubRecord]) -> Result<(), CatalogError> {
        self.index.apply(from, records)
    }
    fn clip_counts(&self, d: &[DeviceId], r: &[TimeRange], b: Buckets) -> Result<Vec<u64>, CatalogError> {
        self.index.clip_counts(d, r, b)
    }
    fn clip(&self, clip: Uuid) -> Result<Option<ClipRow>, CatalogError> {
        self.index.clip(clip)
    }
    fn coverage(&self, d: &[DeviceId], r: TimeRange) -> Result<Vec<Vec<CoverageSpan>>, CatalogError> {
        self.index.coverage(d, r)
    }
    fn ring_from(&self, device: &DeviceId) -> Result<Option<Time>, CatalogError> {
        self.index.ring_from(device)
    }
    fn events(&self, query: &EventQuery) -> Result<EventPage, CatalogError> {
        self.index.events(query)
    }
    fn refused(&self, query: &RefusedQuery) -> Result<RefusedPage, CatalogError> {
        self.index.refused(query)
    }
    fn refused_counts(&self) -> Result<Vec<RefusedCount>, CatalogError> {
        self.index.refused_counts()
    }
    fn boxes(&self) -> Result<Vec<BoxRow>, CatalogError> {
        self.index.boxes()
    }
    fn has_upload(&self, clip: Uuid, sha256: &Sha256Hash) -> Result<bool, CatalogError> {
        self.index.has_upload(clip, sha256)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_hangs_up_ends_the_work() {
    for path in ["clips.csv", "clips.geojson"] {
        let dir = tempfile::tempdir().unwrap();
        let gate = Gate::open(&dir.path().join("access"), &["demo"]).unwrap();
        let (nobody_reads, mut dropped) = mpsc::channel(1);
        let rows = Arc::new(AtomicUsize::new(0));
        let read = rows.clone();
        let endless =
            |index| Arc::new(Endless { index, rows, _nobody_reads: nobody_reads }) as Arc<dyn Catalog>;
        let hub = Hub::start_on(dir, gate, endless).await;
        hub.say_clip("cam-01", "box-01", 1, 600, b"one");
        let response = hub.client.get(format!("{}/api/v1/{path}", hub.url)).send().await.unwrap();
        let mut body = response.bytes_stream();
        assert!(!body.next().await.unwrap().unwrap().is_empty());
        // The rest is many megabytes: the writer waits for its reader. Only hanging up ends it before the hub's patience
        // at its own end is over.
        drop(body);
        drop(hub);
        let ended = tokio::time::timeout(DRAIN_MAX / 2, dropped.recv()).await;
        assert_eq!(ended, Ok(None), "{path}: somebody still writes");
        let read = read.load(Ordering::Relaxed);
        assert!(read < EXPORT_CLIPS_MAX, "{path}: {read} clips were read for nobody");
    }
}

/// Records of a CSV file (RFC 4180).
fn records(text: &str) -> Vec<Vec<String>> {
    let (mut records, mut record, mut field) = (Vec::new(), Vec::new(), String::new());
    let mut is_quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if is_quoted && chars.peek() == Some(&'"') => field.extend(chars.next()),
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => record.push(std::mem::take(&mut field)),
            '\r' if !is_quoted => {
                assert_eq!(chars.next(), Some('\n'), "a record ends with CRLF");
                record.push(std::mem::take(&mut field));
                records.push(std::mem::take(&mut record));
            }
            other => field.push(other),
        }
    }
    assert!(field.is_empty() && record.is_empty(), "the last record ends too");
    records
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_for_spreadsheets_keeps_what_was_written() {
    let hub = Hub::start().await;
    let mut renamed = ward();
    renamed.devices.iter_mut().find(|d| d.id.as_str() == "cam-01").unwrap().name =
        "Cổng \"lớn\", số 14".into();
    renamed.devices.iter_mut().find(|d| d.id.as_str() == "cam-02").unwrap().name = "=HYPERLINK(1)".into();
    hub.web.registry.import(&renamed, ago(1800)).unwrap();
    let gate = hub.say_clip("cam-01", "box-01", 1, 600, b"gate");
    let fork = hub.say_clip("cam-02", "box-02", 1, 500, b"fork");
    let (headers, text) = hub.text("/api/v1/clips.csv?order=oldest").await;
    assert!(headers["content-type"].to_str().unwrap().starts_with("text/csv"), "{headers:?}");
    assert_eq!(headers["content-disposition"], "attachment; filename=\"clips.csv\"");
    let text = text.strip_prefix('\u{feff}').expect("a byte order mark");
    let table = records(text);
    let row = |n: usize| -> BTreeMap<&str, &str> {
        assert_eq!(table[n].len(), table[0].len(), "{:?}", table[n]);
        table[0].iter().map(String::as_str).zip(table[n].iter().map(String::as_str)).collect()
    };
    assert_eq!(table.len(), 3, "{text}");
    let (first, second) = (row(1), row(2));
    assert_eq!((first["clip"], second["clip"]), (gate.to_string().as_str(), fork.to_string().as_str()));
    assert_eq!((first["device_name"], second["device_name"]), ("Cổng \"lớn\", số 14", "'=HYPERLINK(1)"));
    assert_eq!((first["lat"], first["lon"], first["where"]), ("10.74048", "106.69531", "box"));
    assert_eq!(
        (first["clock_sync"], first["clock_uncertainty_ms"], first["certainty"]),
        ("synced", "40", "")
    );
    assert!(first["start_utc"].parse::<Time>().unwrap() < first["end_utc"].parse().unwrap());
    // A limit is told at the end.
    let (_, text) = hub.text("/api/v1/clips.csv?limit=1").await;
    let table = records(text.trim_start_matches('\u{feff}'));
    assert_eq!((table.len(), table[1][0].as_str()), (3, fork.to_string().as_str()));
    assert!(table[2][0].starts_with("# 1 clip") && table[2][0].contains("more"), "{table:?}");
    let (status, problem) = hub.get("/api/v1/clips.csv?limit=501").await;
    assert_eq!((status, problem["detail"].as_str().unwrap().contains("500")), (400, true), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feature_collection_holds_each_clip_and_says_whether_it_is_all() {
    let hub = Hub::start().await;
    assert_eq!(
        hub.get("/api/v1/clips.geojson").await.1,
        json!({ "type": "FeatureCollection", "features": [],
            "camnet:end": { "clips": 0, "complete": true, "next": null } })
    );
    let clips: Vec<Uuid> =
        (0..5).map(|n| hub.say_clip("cam-01", "box-01", 1 + n, 900 - 10 * n as i64, &[n as u8])).collect();
    let (headers, text) = hub.text("/api/v1/clips.geojson?order=oldest").await;
    assert_eq!(headers["content-type"], "application/geo+json");
    let all: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(all["camnet:end"], json!({ "clips": 5, "complete": true, "next": null }));
    let feature = &all["features"][0];
    assert_eq!(feature["geometry"], json!({ "type": "Point", "coordinates": [106.69531, 10.74048] }));
    assert_eq!((&feature["type"], &feature["id"]), (&json!("Feature"), &json!(clips[0])));
    assert_eq!(feature["properties"]["device"]["id"], "cam-01");
    let mut got = Vec::new();
    let mut page = String::new();
    loop {
        let (_, part) = hub.get(&format!("/api/v1/clips.geojson?order=oldest&limit=2{page}")).await;
        got.extend(part["features"].as_array().unwrap().iter().map(|f| f["id"].clone()));
        let end = &part["camnet:end"];
        assert_eq!(end["complete"], end["next"].is_null());
        let Some(next) = end["next"].as_str() else { break };
        page = format!("&page={next}");
    }
    assert_eq!(json!(got), json!(clips));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_buckets_sum_to_the_clips_and_count_a_moved_camera_where_it_stood() {
    let hub = Hub::start().await;
    for n in 0..30u64 {
        hub.say_clip("cam-01", "box-01", 1 + n, 3000 - 100 * n as i64, &[n as u8]);
        hub.say_clip("cam-02", "box-02", 1 + n, 3000 - 90 * n as i64, &[n as u8, 2]);
    }
    let mut moved = ward();
    moved.devices.iter_mut().find(|d| d.id.as_str() == "cam-01").unwrap().site =
        "bo-kenh-60".parse().unwrap();
    hub.web.registry.import(&moved, ago(1550)).unwrap();
    let all = format!("from={}&to={}", ago(3300), ago(0));
    let table = [
        (all.clone(), 60),
        (format!("{all}&bucket_s=600"), 60),
        (format!("{all}&device=cam-01"), 30),
        (format!("{all}&near=hoa-phuong-14&radius_m=30"), 15),
        (format!("{all}&near=bo-kenh-60&radius_m=30"), 15),
        (format!("{all}&near=tru-so&radius_m=30"), 0),
        (format!("{all}&area=kp1"), 45),
        (format!("from={}&to={}&bucket_s=7", ago(2505), ago(2250)), 6),
    ];
    for (query, expected) in table {
        let (status, timeline) = hub.get(&format!("/api/v1/timeline?{query}")).await;
        assert_eq!(status, 200, "{timeline}");
        let buckets = timeline["buckets"].as_array().unwrap();
        let sum: u64 = buckets.iter().map(|b| b["clips"].as_u64().unwrap()).sum();
        let (_, found) =
            hub.get(&format!("/api/v1/clips?limit=500&{}", query.split("&bucket_s").next().unwrap())).await;
        assert_eq!(
            (sum, ids(&found).len(), &timeline["clips"]),
            (expected, expected as usize, &json!(expected)),
            "{query}"
        );
        let start = |n: usize| buckets[n]["start"].as_str().unwrap().parse::<Time>().unwrap();
        let bucket_s = timeline["bucket_s"].as_i64().unwrap();
        assert_eq!(start(1).duration_since(start(0)), SignedDuration::from_secs(bucket_s));
        assert!(buckets.len() <= 200 || query.contains("bucket_s"), "{query}: {}", buckets.len());
        // Each bucket has the clips that begin in it.
        let began = |clip: &Value| clip["start"].as_str().unwrap().parse::<Time>().unwrap();
        for (n, bucket) in buckets.iter().enumerate() {
            let end = start(n) + SignedDuration::from_secs(bucket_s);
            let here =
                found["clips"].as_array().unwrap().iter().map(began).filter(|t| (start(n)..end).contains(t));
            assert_eq!(bucket["clips"], here.count(), "{query}: bucket {n}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_buckets_of_coverage_sum_to_the_account() {
    const DEAD: SpanState = SpanState::Gap { cause: GapCause::CameraUnreachable };
    let hub = Hub::start().await;
    hub.say_coverage("cam-01", 1, SpanState::Recorded, 3000, 1200, false);
    hub.say_coverage("cam-01", 2, DEAD, 1200, 900, false);
    hub.say_coverage("cam-01", 3, SpanState::Recorded, 900, 100, true);
    let question = format!("from={}&to={}&device=cam-01,cam-02", ago(3300), ago(10));
    let (_, answer) = hub.get(&format!("/api/v1/clips?{question}")).await;
    for bucket in ["", "&bucket_s=7", "&bucket_s=3600"] {
        let (status, told) = hub.get(&format!("/api/v1/coverage?{question}{bucket}")).await;
        assert_eq!(status, 200, "{told}");
        let sum = |buckets: &Value, key: &str| -> f64 {
            buckets.as_array().unwrap().iter().map(|b| b[key].as_f64().unwrap()).sum()
        };
        let mut cameras = [0.0; 3];
        for account in answer["coverage"].as_array().unwrap() {
            let all = told["cameras"].as_array().unwrap();
            let camera = all.iter().find(|c| c["device"] == account["device"]).unwrap();
            for (n, key) in ["recorded_s", "gap_s", "unconfirmed_s"].into_iter().enumerate() {
                let (here, there) = (sum(&camera["buckets"], key), account[key].as_f64().unwrap());
                assert!((here - there).abs() < 0.5, "{bucket} {}: {key} {here} {there}", account["device"]);
                cameras[n] += here;
            }
        }
        for (n, key) in ["recorded_s", "gap_s", "unconfirmed_s"].into_iter().enumerate() {
            assert!((sum(&told["buckets"], key) - cameras[n]).abs() < 0.5, "{bucket}: {key}");
        }
        assert!(
            (cameras.iter().sum::<f64>() - 2.0 * 3290.0).abs() < 1.0,
            "every second of both: {cameras:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_told() {
    let hub = Hub::start().await;
    let mut many = ward();
    let camera = many.devices.iter().find(|d| d.id.as_str() == "cam-01").unwrap().clone();
    for n in 0..50 {
        many.devices
            .push(crate::model::Device { id: format!("cam-9{n:02}").parse().unwrap(), ..camera.clone() });
    }
    hub.web.registry.import(&many, hour_ago()).unwrap();
    let table = [
        ("timeline?when=3%20ng%C3%A0y%20qua&bucket_s=1", "bucket_s = 1: at most 2000 buckets"),
        ("timeline?bucket_s=0", "bucket_s = 0"),
        ("timeline?bucket_s=-1", "bucket_s"),
        ("timeline?bucket_s=x", "bucket_s"),
        ("timeline?bucket_s=60&bucket_s=60", "bucket_s"),
        ("timeline?bucket=60", "bucket"),
        ("timeline?area=nowhere", "nowhere"),
        ("coverage?bucket_s=44", "at most 100000"),
        ("coverage?bucket_s=1", "at least 44 s"),
        ("clips.csv?limit=0", "limit"),
        ("clips.geojson?polygon=%7B", "polygon"),
        ("clips.geojson?bucket_s=60", "bucket_s"),
    ];
    for (path, text) in table {
        let (status, problem) = hub.get(&format!("/api/v1/{path}")).await;
        assert_eq!(status, 400, "{path}: {problem}");
        assert!(problem["detail"].as_str().is_some_and(|d| d.contains(text)), "{path}: {problem}");
    }
}
