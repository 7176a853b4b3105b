//! Clients and validators that others wrote, against a real hub: pystac-client, stac-api-validator, schemathesis and
//! openapi-spec-validator, from the environment that `deploy/install-deps.sh test` makes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use camnet::hub::registry::{Registry, RegistryFile};
use camnet::model::*;
use camnet::wire;
use jiff::SignedDuration;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::world::{HubWorld, Process, root, run, shared, wait_for};

/// Cameras of `config/ward.toml`, with their boxes and places.
const CAMERAS: [(&str, &str, [f64; 2]); 4] = [
    ("cam-01", "box-01", [106.695_31, 10.740_48]),
    ("cam-02", "box-02", [106.696_42, 10.740_515]),
    ("cam-07", "box-05", [106.6963, 10.739_21]),
    ("cam-11", "box-07", [106.696_07, 10.736_64]),
];
const CLIPS: usize = 60;

/// A hub of the demo's ward that was told of clips, oldest first; of the last it has the footage.
struct Told {
    world: HubWorld,
    clips: Vec<Value>,
    _hub: Process,
    dir: tempfile::TempDir,
}

impl Told {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let boxes = CAMERAS.map(|(_, id, _)| id);
        let world = HubWorld::new(dir.path(), &boxes);
        std::fs::copy(root().join("config/ward.toml"), dir.path().join("ward.toml")).unwrap();
        // The cameras stood there before the hub's first start, else what they recorded before would not count.
        let (now, ward) = (Time::now(), RegistryFile::load(&dir.path().join("ward.toml")).unwrap());
        let registry = Registry::open(&dir.path().join("data/acts")).unwrap();
        registry.import(&ward, now - SignedDuration::from_hours(3)).unwrap();
        drop(registry);
        let hub = world.start().await;
        let events: Vec<Event> = (0..CLIPS).map(|n| clip_event(n, now)).collect();
        for id in boxes {
            let of_box = events.iter().filter(|event| event.source.box_id.as_str() == id);
            let encoded: Vec<Vec<u8>> = of_box.map(wire::encode).collect();
            world.publish(id, &wire::encode_batch(encoded.iter().map(Vec::as_slice)));
        }
        let clips: Vec<Value> = events.iter().map(told).collect();
        wait_for("every clip in the index", Duration::from_secs(60), || async {
            let page = world.get("/api/v1/clips?limit=500").await;
            (page["clips"].as_array().unwrap().len() == CLIPS).then_some(())
        })
        .await;
        let told = Self { world, clips, _hub: hub, dir };
        told.upload(CAMERAS[(CLIPS - 1) % CAMERAS.len()].1, told.clips[CLIPS - 1]["id"].as_str().unwrap())
            .await;
        told
    }

    /// The box uploads the footage of a clip.
    async fn upload(&self, box_id: &str, clip: &str) {
        let file = |name: &str| std::fs::read(self.dir.path().join(name)).unwrap();
        let identity = [file(&format!("{box_id}.pem")), file(&format!("{box_id}.key"))].concat();
        let client = reqwest::Client::builder()
            .tls_certs_only([reqwest::Certificate::from_pem(&file("ca.pem")).unwrap()])
            .identity(reqwest::Identity::from_pem(&identity).unwrap())
            .build()
            .unwrap();
        let url = format!("https://127.0.0.1:{}", self.world.boxes);
        let pair = |key: &str, value: String| format!("{key} {}", STANDARD.encode(value));
        let hash = Sha256Hash::of(FOOTAGE).to_string();
        let metadata = [pair("clip", clip.into()), pair("sha256", hash), pair("kind", "clip".into())];
        let create = client.post(format!("{url}/tus/v1/uploads")).header("tus-resumable", "1.0.0");
        let create =
            create.header("upload-length", FOOTAGE.len()).header("upload-metadata", metadata.join(","));
        let created = create.send().await.unwrap();
        let location = created.headers()["location"].to_str().unwrap();
        let patch = client.patch(format!("{url}{location}")).header("tus-resumable", "1.0.0");
        let patch =
            patch.header("upload-offset", 0).header("content-type", "application/offset+octet-stream");
        assert_eq!(patch.body(FOOTAGE).send().await.unwrap().status(), 204);
    }

    fn url(&self, path: &str) -> String {
        self.world.url(path)
    }
}

const FOOTAGE: &[u8] = b"as recorded";

fn clip_event(n: usize, now: Time) -> Event {
    let (camera, box_id, _) = CAMERAS[n % CAMERAS.len()];
    let start = now - SignedDuration::from_secs(7000 - 100 * n as i64);
    let end = start + SignedDuration::from_secs(10);
    let cut = ClipCut {
        clip: Uuid::now_v7(),
        motion: None,
        start,
        end,
        motion_start: Some(start),
        motion_end: Some(end),
        peak_score: 0.5,
        bytes: FOOTAGE.len() as u64,
        sha256: Sha256Hash::of(FOOTAGE),
        video: Video { codec: "avc1.4d401e".into(), width: 768, height: 432 },
        audio_codec: None,
        thumbnail: None,
        run: Uuid::now_v7(),
        first_fragment: 0,
        fragments: vec![Sha256Hash::of(FOOTAGE)],
    };
    Event {
        id: Uuid::now_v7(),
        source: Source::of_device(&BoxId::new(box_id).unwrap(), &DeviceId::new(camera).unwrap()),
        epoch: Epoch(7),
        sequence: 1 + (n / CAMERAS.len()) as u64,
        time: end,
        clock: ClockQuality {
            source: ClockSource::Box,
            sync: SyncState::Synced,
            offset_ms: None,
            uncertainty_ms: Some(40),
        },
        data: EventData::Clip(cut),
    }
}

/// What the clients must find of it.
fn told(event: &Event) -> Value {
    let EventData::Clip(cut) = &event.data else { panic!("not a clip") };
    let device = event.source.device.as_ref().unwrap().as_str();
    let (_, _, [lon, lat]) = CAMERAS.into_iter().find(|(id, ..)| *id == device).unwrap();
    json!({ "id": cut.clip, "device": device, "start": cut.start, "end": cut.end, "lon": lon, "lat": lat })
}

/// A program of the tests' Python environment.
fn python(name: &str) -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"))).unwrap();
    let environment = cache.join("camnet/interop");
    let same = |path: &Path| std::fs::read(path).unwrap_or_default();
    let wanted = root().join("tests/interop/requirements.txt");
    assert!(
        same(&wanted) == same(&environment.join("requirements.txt")),
        "{} is missing or old; deploy/install-deps.sh test makes it",
        environment.display()
    );
    environment.join("bin").join(name)
}

/// So that nothing hangs: the slowest takes a minute on two busy cores.
const SECONDS_MAX: &str = "600";

/// Runs it to its end; says what it said.
fn said(program: &Path, args: &[&str], dir: &Path) -> String {
    let mut command = Command::new("timeout");
    command.arg(SECONDS_MAX).arg(program).args(args).current_dir(dir);
    let text = run(&mut command);
    println!("{text}");
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stac_client_finds_every_clip_and_a_validator_no_fault() {
    let told = Told::start().await;
    let (dir, stac) = (told.dir.path(), told.url("/stac"));
    let clips = dir.join("clips.json");
    std::fs::write(&clips, serde_json::to_vec(&told.clips).unwrap()).unwrap();
    let script = root().join("tests/interop/stac_client.py");
    let arguments = [script.to_str().unwrap(), &stac, clips.to_str().unwrap()];
    let text = said(&python("python"), &arguments, dir);
    assert!(text.contains(&format!("GET, seven at a time: {CLIPS} items")), "{text}");

    let offline = shared("tools/stac_offline.py");
    let geometry = r#"{"type":"Polygon","coordinates":[[[106,10],[107,10],[107,11],[106,11],[106,10]]]}"#;
    let mut arguments = vec![offline.to_str().unwrap(), "stac-api-validator", "--root-url", &stac];
    for class in ["core", "collections", "features", "item-search", "item-search#sort", "item-search#fields"]
    {
        arguments.extend(["--conformance", class]);
    }
    arguments.extend(["--collection", "clips", "--geometry", geometry, "--fields-nested-property"]);
    arguments.push("properties.camnet:device");
    let text = said(&python("python"), &arguments, dir);
    assert!(text.contains("Errors: none"), "{text}");
}

/// What changes the hub is left out: it would be worn down, not tested.
const CHANGES: [&str; 5] = [
    "/api/v1/index/rebuild",
    "/api/v1/refused/replay",
    "/api/v1/devices/{id}/lamp",
    // Wait for a box, and here is none.
    "/api/v1/devices/{id}/still",
    "/api/v1/devices/{id}/view",
];
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
    response_headers_conformance,response_schema_conformance";

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_is_valid_and_the_hub_keeps_it_whatever_is_asked() {
    let contract = root().join("config/openapi.json");
    said(&python("openapi-spec-validator"), &[contract.to_str().unwrap()], root());
    let told = Told::start().await;
    let dir = told.dir.path();
    let clip = told.clips[CLIPS - 1]["id"].as_str().unwrap();
    std::fs::write(dir.join("schemathesis.toml"), real_ids(clip)).unwrap();
    let openapi = told.url("/openapi.json");
    let mut arguments = vec!["run", &openapi, "--no-color", "--checks", CHECKS];
    arguments.extend(["--generation-deterministic", "--max-examples", "8"]);
    arguments.extend(["--phases", "examples,coverage,fuzzing", "--request-timeout", "20"]);
    arguments.extend(["--suppress-health-check", "all"]);
    for path in CHANGES {
        arguments.extend(["--exclude-path", path]);
    }
    let text = said(&python("schemathesis"), &arguments, dir);
    assert!(text.contains("Tested: 50"), "an operation was left out, or is new: count it here:\n{text}");
}

/// Ids for paths, else every answer there is that there is no such thing.
fn real_ids(clip: &str) -> String {
    let of_clip = format!("id = \"{clip}\"");
    let of_item = format!("id = \"clips\", item = \"{clip}\"");
    let table = [
        ("/api/v1/clips/{id}", of_clip.as_str()),
        ("/api/v1/clips/{id}/video.mp4", &of_clip),
        ("/api/v1/clips/{id}/thumbnail.jpg", &of_clip),
        ("/stac/collections/{id}", "id = \"clips\""),
        ("/stac/collections/{id}/items", "id = \"clips\""),
        ("/stac/collections/{id}/items/{item}", &of_item),
    ];
    let operation =
        |(path, ids)| format!("[[operations]]\ninclude-path = \"{path}\"\nparameters = {{ {ids} }}\n");
    // Its 501 is documented: the hub can't ask a box for footage yet.
    let not_yet = "[[operations]]\ninclude-path = \"/api/v1/footage-requests\"\n\
        checks = { not_a_server_error = { enabled = false } }\n";
    table.into_iter().map(operation).chain([not_yet.to_owned()]).collect()
}
