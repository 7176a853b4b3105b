//! `make bench`: measures what the issues ask for, prints each figure and writes it as one JSON line to
//! target/bench.jsonl. Figures stand beside a baseline of the same run, because the machine is noisy.
//!
//! `cargo bench --bench figures -- e2e` measures only figures whose name contains `e2e`.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

mod common;

use camnet::demo::StreetPictures;
use camnet::media::rtsp_server::RtspServer;
use common::{Figures, Running, free_port};
use serde_json::{Value, json};

fn main() {
    camnet::tls::install_crypto();
    let only: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let wanted =
        |names: &[&str]| only.is_empty() || names.iter().any(|n| only.iter().any(|o| n.contains(o.as_str())));
    let mut out = Figures::append(root());
    if wanted(&["demo.ready_s"]) {
        demo_ready(&mut out);
    }
    if wanted(&["e2e.motion_to_searchable_ms_p50", "e2e.motion_to_searchable_ms_p99"]) {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(motion_to_searchable(&mut out));
    }
    if wanted(&["build.debug_s"]) {
        build_debug(&mut out);
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The same build that `make demo` and the tests use.
fn binary() -> PathBuf {
    let status =
        Command::new("cargo").args(["build", "--locked", "-q"]).current_dir(root()).status().expect("cargo");
    assert!(status.success());
    root().join("target/debug/camnet")
}

fn demo_ready(out: &mut Figures) {
    let binary = binary();
    let mut times = Vec::new();
    for _ in 0..3 {
        let began = Instant::now();
        let mut child = Command::new(&binary)
            .args(["demo", "--minutes", "2", "--port", &free_port().to_string()])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the demo starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines().take(2).count();
        assert_eq!(lines, 2, "the demo got ready");
        times.push(began.elapsed().as_secs_f64());
        let _ = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
        let _ = child.wait();
    }
    out.add("demo.ready_s", median(&mut times), "s", Some(60.0), "lower", Value::Null, times.len());
}

/// From the moment the box made the motion event (in its UUIDv7) to the moment the hub's API shows it.
async fn motion_to_searchable(out: &mut Figures) {
    let dir = tempfile::tempdir().expect("a folder");
    let binary = binary();
    certificates(&binary, dir.path());
    let (officers, boxes, mqtt) = (free_port(), free_port(), free_port());
    let hub = format!(
        "data_dir = \"data\"\nregistry = \"ward.toml\"\n[officers]\nlisten = \"127.0.0.1:{officers}\"\n[boxes]\n\
         listen = \"127.0.0.1:{boxes}\"\ncertificate = \"hub.pem\"\nkey = \"hub.key\"\nca = \"ca.pem\"\n[broker.embedded]\n\
         listen = \"127.0.0.1:{mqtt}\"\ncertificate = \"hub.pem\"\nkey = \"hub.key\"\nca = \"ca.pem\"\n\
         client_certificate = \"camnet-hub.pem\"\nclient_key = \"camnet-hub.key\"\n"
    );
    std::fs::write(dir.path().join("hub.toml"), hub).expect("a file");
    let server = RtspServer::start(0, None).expect("an RTSP server");
    let mut edge = format!(
        "box = \"box-01\"\ndata_dir = \"box-01\"\n[hub]\nmqtt = \"localhost:{mqtt}\"\nurl = \"https://localhost:{boxes}\"\n\
         ca = \"ca.pem\"\ncertificate = \"box-01.pem\"\nkey = \"box-01.key\"\n"
    );
    server.mount_drawn("street", StreetPictures::new(10, None)).expect("a mount");
    edge += &format!("[[camera]]\nid = \"cam-01\"\nurl = \"{}\"\n", server.url("street"));
    std::fs::write(dir.path().join("edge.toml"), edge).expect("a file");
    let start = |what: &str, config: &str| {
        let child = Command::new(&binary)
            .args([what, "--config"])
            .arg(dir.path().join(config))
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        Running(child)
    };
    let _hub = start("hub", "hub.toml");
    let _edge = start("edge", "edge.toml");
    let mut latencies = watch_events(officers, Duration::from_secs(240)).await;
    let n = latencies.len();
    assert!(n >= 10, "only {n} motion events were seen");
    let mut sync = fdatasync_ms(dir.path());
    let baseline =
        json!({ "name": "one bare fdatasync of 500 bytes, p50 of the same run", "value": median(&mut sync) });
    out.add(
        "e2e.motion_to_searchable_ms_p50",
        median(&mut latencies),
        "ms",
        Some(250.0),
        "lower",
        baseline.clone(),
        n,
    );
    let p99 = percentile(&mut latencies, 0.99);
    out.add("e2e.motion_to_searchable_ms_p99", p99, "ms", Some(1000.0), "lower", baseline, n);
}

async fn watch_events(port: u16, during: Duration) -> Vec<f64> {
    let client = reqwest::Client::new();
    let url = format!("http://127.0.0.1:{port}/api/v1/events?type=camnet.motion.v1&limit=20&order=newest");
    let mut seen = std::collections::HashSet::new();
    let mut latencies = Vec::new();
    let until = Instant::now() + during;
    while Instant::now() < until {
        let answer = async { client.get(&url).send().await?.json::<Value>().await }.await;
        let now_ms = jiff::Timestamp::now().as_millisecond();
        for event in answer.ok().and_then(|a| a["events"].as_array().cloned()).unwrap_or_default() {
            let id = event["id"].as_str().unwrap_or_default().to_owned();
            let Ok(uuid) = id.parse::<uuid::Uuid>() else { continue };
            if seen.insert(id) {
                let made_ms = (uuid.as_u128() >> 80) as i64;
                latencies.push((now_ms - made_ms) as f64);
            }
        }
        // The step of the measurement: 5 ms are added to what is measured, at most.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    latencies
}

fn build_debug(out: &mut Figures) {
    let target = root().join("target/bench-build");
    let _ = std::fs::remove_dir_all(&target);
    let began = Instant::now();
    let status = Command::new("cargo")
        .args(["build", "--locked", "-q"])
        .env("CARGO_TARGET_DIR", &target)
        .current_dir(root())
        .status()
        .expect("cargo");
    assert!(status.success());
    let took = began.elapsed().as_secs_f64();
    let _ = std::fs::remove_dir_all(&target);
    out.add("build.debug_s", took, "s", Some(300.0), "lower", Value::Null, 1);
}

fn certificates(binary: &Path, dir: &Path) {
    let status = Command::new(binary)
        .args(["hub", "init", "--box", "box-01", "--dir"])
        .arg(dir)
        .stdout(Stdio::null())
        .status()
        .expect("init runs");
    assert!(status.success());
}

fn fdatasync_ms(dir: &Path) -> Vec<f64> {
    let mut file = std::fs::File::create(dir.join("sync")).expect("a file");
    (0..200)
        .map(|_| {
            let began = Instant::now();
            file.write_all(&[7; 500]).expect("a write");
            file.sync_data().expect("a sync");
            began.elapsed().as_secs_f64() * 1000.0
        })
        .collect()
}

fn median(values: &mut [f64]) -> f64 {
    percentile(values, 0.5)
}

fn percentile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() as f64 - 1.0) * share).round() as usize]
}
