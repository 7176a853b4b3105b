//! `camnet edge probe`, the real binary, against a camera that behaves and cameras that do not.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use crate::bad_camera::{BadCamera, Behaviour, Clip, Fault, Takes};
use crate::world::{camnet, free_port, root};

/// What the probe said, and whether it ended with success.
struct Said {
    success: bool,
    report: Value,
    errors: String,
}

impl Said {
    fn finding(&self, level: &str, words: &str) -> bool {
        let findings = self.report["findings"].as_array().unwrap();
        findings.iter().any(|f| f["level"] == level && f["text"].as_str().unwrap().contains(words))
    }
}

async fn probe(url: String, more: Vec<String>) -> Said {
    let mut command = camnet();
    command.args(["edge", "probe", &url, "--seconds", "3", "--json"]).args(more);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {:?}\n{errors}", String::from_utf8_lossy(&output.stdout)));
    Said { success: output.status.success(), report, errors }
}

async fn probe_camera(behaviour: Behaviour) -> Said {
    let camera = BadCamera::start(behaviour).await;
    probe(camera.url(), Vec::new()).await
}

fn good(clip: &Arc<Clip>) -> Behaviour {
    Behaviour { repeat: true, ..Behaviour::good(&[clip]) }
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_camera_is_measured_and_can_be_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let clip = Clip::encode(dir.path(), "320x180", 2, 0);
    let said = probe_camera(good(&clip)).await;
    let report = &said.report;
    assert!(said.success, "{report:#}\n{}", said.errors);
    assert_eq!(report["recordable"], true);
    assert_eq!(report["server"], "bad-camera/1.0");
    assert_eq!(report["authentication"], "none");
    assert_eq!(report["transport"], "tcp");
    assert_eq!(report["parameter_sets"], "both");
    let stream = &report["streams"][0];
    assert_eq!((stream["codec"].as_str(), stream["declared_fps"].as_f64()), (Some("h264"), Some(25.0)));
    let watched = &report["watched"];
    assert_eq!((watched["width"].as_u64(), watched["height"].as_u64()), (Some(320), Some(180)));
    assert!((number(&watched["fps"]) - 25.0).abs() < 3.0, "{watched}");
    assert!((number(&watched["key_frame_interval_s"]) - 1.0).abs() < 0.05, "{watched}");
    let bytes: usize = clip.nals().iter().map(|nal| nal.len() + 4).sum();
    let kbit_per_s = bytes as f64 * 8.0 / 1000.0 / 2.0;
    assert!((number(&watched["kbit_per_s"]) / kbit_per_s - 1.0).abs() < 0.3, "{kbit_per_s}: {watched}");
    assert!(number(&watched["clock_offset_ms"]).abs() < 200.0, "{watched}");
    for none in ["reordered", "lost_packets", "time_jumps"] {
        assert_eq!(watched[none], 0, "{none}");
    }
    assert!(!said.finding("wrong", "") && !said.finding("worth_knowing", ""), "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_worth_knowing_is_said_and_does_not_refuse_the_camera() {
    let dir = tempfile::tempdir().unwrap();
    let clip = Clip::encode(dir.path(), "320x180", 2, 0);
    let reordered = Clip::encode(dir.path(), "320x180", 2, 2);
    let cases = [
        (good(&reordered), "B-frames"),
        (Behaviour { drop_each: Some(20), ..good(&clip) }, "packets were lost"),
        (Behaviour { clock_off_ms: 60_000, ..good(&clip) }, "clock is off by +60"),
        (Behaviour { sender_reports: false, ..good(&clip) }, "no sender reports"),
        (Behaviour { jump: Some((25, 20 * 90_000)), ..good(&clip) }, "jumped 1 times"),
        (Behaviour { takes: Takes::Udp, ..good(&clip) }, "refuses TCP"),
        (Behaviour { sets_in_sdp: false, ..good(&clip) }, "parameter sets come with the pictures only"),
        (Behaviour { keep_alive_off: -1, timeout_s: 2, ..good(&clip) }, "answers keep-alives wrongly"),
    ];
    for (behaviour, words) in cases {
        let said = probe_camera(behaviour).await;
        assert!(said.success, "{words}: {:#}", said.report);
        assert!(said.finding("worth_knowing", words), "{words}: {:#}", said.report);
        assert!(number(&said.report["watched"]["pictures"]) > 20.0, "{words}: {:#}", said.report);
    }
    let h265 = probe_camera(good(&Clip::encode_h265(dir.path(), "320x180", 2))).await;
    assert!(h265.success, "{:#}", h265.report);
    assert_eq!(
        (h265.report["streams"][0]["codec"].as_str(), h265.report["parameter_sets"].as_str()),
        (Some("h265"), Some("both"))
    );
    let sdp_only = probe_camera(Behaviour { sets_in_band_from: None, ..good(&clip) }).await;
    assert_eq!(sdp_only.report["parameter_sets"], "sdp");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said_with_what_to_do_and_the_exit_code_is_1() {
    let dir = tempfile::tempdir().unwrap();
    let clip = Clip::encode(dir.path(), "320x180", 2, 0);
    let faulty = |fault| Behaviour { fault, ..good(&clip) };
    let without_sets = Behaviour { sets_in_sdp: false, sets_in_band_from: None, ..good(&clip) };
    let cases = [
        (faulty(Fault::CloseAtOnce), "too many viewers"),
        (faulty(Fault::NotRtsp), "does not speak RTSP (it said \"SSH-2.0-dropbear\")"),
        (faulty(Fault::Stall(10)), "fell silent after 10 pictures"),
        (faulty(Fault::Stall(0)), "no picture comes"),
        (faulty(Fault::Close(10)), "closed the stream after 10 pictures"),
        (faulty(Fault::NoiseBytes(10)), "stream can't be read"),
        (without_sets, "without parameter sets"),
        (Behaviour { login: Some("viewer:secret".into()), ..good(&clip) }, "wants user and password (Basic)"),
    ];
    for (behaviour, words) in cases {
        let said = probe_camera(behaviour).await;
        assert!(!said.success && said.report["recordable"] == false, "{words}: {:#}", said.report);
        assert!(said.finding("wrong", words), "{words}: {:#}", said.report);
    }
    let nobody = probe(format!("rtsp://127.0.0.1:{}/cam", free_port()), Vec::new()).await;
    assert!(!nobody.success && nobody.finding("wrong", "nothing listens at 127.0.0.1"));
    let camera = BadCamera::start(good(&clip)).await;
    let elsewhere = probe(camera.url().replace("/cam", "/live"), Vec::new()).await;
    assert!(!elsewhere.success && elsewhere.finding("wrong", "no stream at this path"));
    let secret = probe("rtsp://viewer:secret@127.0.0.1/cam".into(), Vec::new()).await;
    assert!(!secret.success && secret.finding("wrong", "--password-file"));
    assert!(!format!("{}{}", secret.report, secret.errors).contains("secret"), "{:#}", secret.report);
}

/// As cameras say it, from the seeds of the parser; the last with the time of now.
fn metadata_messages() -> Vec<String> {
    let seed = |name: &str| {
        let bytes = std::fs::read(root().join("tests/fuzz/corpus/onvif_metadata").join(name)).unwrap();
        String::from_utf8(bytes).unwrap()
    };
    let objects = seed("axis_objects");
    let now = jiff::Timestamp::now().to_string();
    vec![seed("dahua_alarm"), seed("axis_field"), objects.replace("2026-03-01T17:00:03.040Z", &now)]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metadata_stream_of_a_camera_is_read_beside_the_video() {
    let dir = tempfile::tempdir().unwrap();
    let clip = Clip::encode(dir.path(), "320x180", 2, 0);
    for takes in [Takes::Tcp, Takes::Udp] {
        let talks = Behaviour { metadata: metadata_messages(), takes, ..good(&clip) };
        let said = probe_camera(talks).await;
        let watched = &said.report["watched"];
        assert!(said.success, "{:#}", said.report);
        assert_eq!(watched["metadata_messages"], 3, "{watched}");
        assert_eq!((watched["motion_notices"].as_u64(), watched["objects"].as_u64()), (Some(3), Some(2)));
        let late_ms = number(&watched["metadata_late_ms"]);
        assert!((0.0..30_000.0).contains(&late_ms), "{watched}");
        // It is the video's sender reports that tell the clock.
        assert!(number(&watched["clock_offset_ms"]).abs() < 200.0, "{watched}");
        assert!(said.finding("good", "3 messages with 3 motion notices and 2 objects"), "{:#}", said.report);
    }
    let refused =
        Behaviour { metadata: vec!["<MetadataStream>".into(), metadata_messages().remove(0)], ..good(&clip) };
    let said = probe_camera(refused).await;
    assert!(said.success && said.finding("worth_knowing", "1 messages were read, 1 can't be read"));

    // What is wrong with it must not take the recording along.
    let large = format!("<MetadataStream><!--{}--></MetadataStream>", "x".repeat(5_000));
    let torn = Behaviour { metadata: vec![large], metadata_torn: true, ..good(&clip) };
    let said = probe_camera(torn).await;
    assert!(said.success, "{:#}", said.report);
    assert!(said.finding("worth_knowing", "metadata stream breaks the connection"), "{:#}", said.report);
    assert!(number(&said.report["watched"]["pictures"]) > 50.0, "{:#}", said.report);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_read_from_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let clip = Clip::encode(dir.path(), "320x180", 2, 0);
    let camera = BadCamera::start(Behaviour { login: Some("viewer:secret".into()), ..good(&clip) }).await;
    let with = |name: &str, password: &str| {
        let file = dir.path().join(name);
        std::fs::write(&file, password).unwrap();
        owner_only(&file);
        vec!["--user=viewer".into(), format!("--password-file={}", file.display())]
    };
    let right = probe(camera.url(), with("right", "secret\n")).await;
    assert!(right.success, "{:#}", right.report);
    assert_eq!(right.report["authentication"], "Basic");
    let wrong = probe(camera.url(), with("wrong", "guess\n")).await;
    assert!(!wrong.success && wrong.finding("wrong", "does not take this password"), "{:#}", wrong.report);
}

fn owner_only(file: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_smaller_picture_at_the_usual_path_is_found_and_people_get_words() {
    let dir = tempfile::tempdir().unwrap();
    let (large, small) =
        (Clip::encode(dir.path(), "640x360", 2, 0), Clip::encode(dir.path(), "320x180", 2, 0));
    let camera = BadCamera::start(Behaviour { sub_stream: Some(small), ..good(&large) }).await;
    let url = format!("{}_main", camera.url());
    let said = probe(url.clone(), Vec::new()).await;
    let smaller = &said.report["smaller"];
    assert_eq!(smaller["url"], format!("{}_sub", camera.url()), "{:#}", said.report);
    assert_eq!((smaller["width"].as_u64(), smaller["height"].as_u64()), (Some(320), Some(180)));

    let mut command = camnet();
    command.args(["edge", "probe", &url, "--seconds", "2"]);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    for words in [
        "bad-camera/1.0",
        "640x360",
        "✓ a key frame each 1.0 s",
        "! a smaller picture",
        "It can be recorded.",
    ] {
        assert!(text.contains(words), "{words:?} is not in\n{text}");
    }
}
