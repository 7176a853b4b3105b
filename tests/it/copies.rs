//! Working copies of clips that real boxes recorded: made once, small, as long as the original, marked.

use std::path::Path;
use std::process::Command;

use camnet::model::Sha256Hash;
use serde_json::Value;

use crate::footage::{X264, record, with_still_spans};
use crate::world::{BOTH_CORES, HubWorld, camnet, run, video};

#[tokio::test(flavor = "multi_thread")]
async fn a_clip_of_either_codec_has_a_working_copy_that_is_made_once() {
    let _alone = BOTH_CORES.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let source = video("car-detection.mp4");
    let h264 = with_still_spans(dir.path(), "h264.mp4", &source, 8, &X264);
    // Open groups: a clip may begin with pictures that can't be shown.
    let parameters =
        "log-level=none:keyint=24:min-keyint=24:scenecut=0:open-gop=1:bframes=3:b-adapt=0:repeat-headers=1";
    let x265 = ["-c:v", "libx265", "-preset", "ultrafast", "-tag:v", "hvc1", "-x265-params", parameters];
    let open = with_still_spans(dir.path(), "open.mp4", &source, 8, &x265);
    let aac = dir.path().join("aac.mp4");
    run(Command::new("ffmpeg")
        .args(["-v", "error", "-y", "-i"])
        .arg(&h264)
        .args(["-f", "lavfi", "-i", "anoisesrc=color=pink:amplitude=0.3:seed=4", "-shortest", "-map", "0:v"])
        .args(["-map", "1:a", "-c:v", "copy", "-ac", "1", "-c:a", "aac", "-ar", "16000"])
        .arg(&aac));
    let sources = [("cam-01", h264), ("cam-02", open), ("cam-03", aac)];
    let world = HubWorld::new(dir.path(), &["box-01", "box-02"]);
    let hub = world.start().await;
    let (began, boxes) = record(&world, &sources, &["cam-03"]).await;

    let mut clips = Vec::new();
    for (camera, codec) in [("cam-01", "avc1"), ("cam-02", "hvc1"), ("cam-03", "avc1")] {
        let found =
            world.all(&format!("/api/v1/clips?from={began}&device={camera}&limit=100"), "clips").await;
        let clip = found.into_iter().next().unwrap_or_else(|| panic!("{camera} has no clip"));
        assert!(clip["video"]["codec"].as_str().unwrap().starts_with(codec), "{clip}");
        check_copy(&world, dir.path(), &clip).await;
        clips.push(clip);
    }
    assert_eq!(made(&world, "made").await, 3, "each is made once");

    // All who ask at once wait for the same one.
    let removed = files(dir.path());
    removed.iter().for_each(|file| std::fs::remove_file(dir.path().join("data/copies").join(file)).unwrap());
    let path = clips[0]["links"]["copy"].as_str().unwrap();
    let copies = futures_util::future::join_all((0..6).map(|_| world.bytes(path))).await;
    assert!(copies.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!((made(&world, "made").await, files(dir.path()).len()), (4, 1));

    check_terminal(&world, &clips[0]);
    check_broken(&world, dir.path(), &clips[1]).await;
    for process in boxes {
        process.stop();
    }
    hub.stop();
}

/// What `copy.mp4` is: H.264, small, as long as the original, with its pictures at their times, and marked.
async fn check_copy(world: &HubWorld, dir: &Path, clip: &Value) {
    let id = clip["id"].as_str().unwrap();
    let path = clip["links"]["copy"].as_str().unwrap();
    let client = reqwest::Client::new();
    let response = client.get(world.url(path)).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("camnet-copy"), format!("working-copy; of={}", clip["sha256"].as_str().unwrap()));
    assert!(
        header("content-disposition").ends_with("-ban-lam-viec.mp4\""),
        "{}",
        header("content-disposition")
    );
    let tag = header("etag");
    let copy = response.bytes().await.unwrap();
    assert_eq!(tag, format!("\"{}\"", Sha256Hash::of(&copy)));

    let part = client.get(world.url(path)).header("Range", "bytes=4-7").send().await.unwrap();
    assert_eq!((part.status().as_u16(), part.headers()["etag"].to_str().unwrap()), (206, tag.as_str()));
    assert_eq!(part.bytes().await.unwrap(), &copy[4..8]);

    let original = world.bytes(clip["links"]["video"].as_str().unwrap()).await;
    assert_eq!(Sha256Hash::of(&original).to_string(), clip["sha256"], "the original stays as it is");
    let [copy_file, original_file] = ["copy", "original"].map(|name| dir.join(format!("{id}.{name}.mp4")));
    std::fs::write(&copy_file, &copy).unwrap();
    std::fs::write(&original_file, &original).unwrap();
    let moov = copy.windows(4).position(|w| w == b"moov");
    assert!(moov < copy.windows(4).position(|w| w == b"mdat"), "it plays while it comes");

    let (shown, recorded) = (probe(&copy_file), probe(&original_file));
    let video = |probe: &Value, key: &str| probe["streams"][0][key].clone();
    assert_eq!((video(&shown, "codec_name"), video(&shown, "pix_fmt")), ("h264".into(), "yuv420p".into()));
    assert!(video(&shown, "width").as_u64().unwrap() <= 640, "{shown}");
    let seconds = |probe: &Value| probe["format"]["duration"].as_str().unwrap().parse::<f64>().unwrap();
    let long = clip["end"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let long = long.duration_since(clip["start"].as_str().unwrap().parse().unwrap()).as_secs_f64();
    assert!((seconds(&shown) - long).abs() < 0.1, "{id}: {} s of {long} s", seconds(&shown));
    assert!(
        (seconds(&shown) - seconds(&recorded)).abs() < 0.1,
        "{id}: {} and {} s",
        seconds(&shown),
        seconds(&recorded)
    );
    let has_audio =
        |probe: &Value| probe["streams"].as_array().unwrap().iter().any(|s| s["codec_name"] == "aac");
    assert_eq!(has_audio(&shown), has_audio(&recorded), "{id}");
    let bits = copy.len() as f64 * 8.0 / seconds(&shown);
    assert!(bits < 500_000.0, "{id}: {bits} bits a second");

    // The same moment shows the same picture, from the beginning to the end.
    for part in [0.1, 0.4, 0.7, 0.95] {
        let at = part * seconds(&shown);
        let [a, b] = [&copy_file, &original_file].map(|file| grey_at(file, at));
        let mean = a.iter().zip(&b).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>() / a.len() as f64;
        assert!(
            mean < 4.0,
            "{id} of {}: at {at} s the copy shows something else (difference {mean})",
            clip["device"]["id"]
        );
    }
    let decoded = Command::new("ffmpeg")
        .args(["-v", "warning", "-i"])
        .arg(&copy_file)
        .args(["-f", "null", "-"])
        .output();
    assert_eq!(String::from_utf8_lossy(&decoded.unwrap().stderr), "", "ffmpeg warns about the copy of {id}");
}

/// An original that was damaged on the hub's disk: an error that says what to do, and no file.
async fn check_broken(world: &HubWorld, dir: &Path, clip: &Value) {
    let sha256 = clip["sha256"].as_str().unwrap();
    let stored = dir.join("data/clips").join(&sha256[..2]).join(sha256);
    let length = std::fs::metadata(&stored).unwrap().len();
    std::fs::write(&stored, vec![7u8; length as usize]).unwrap();
    let before = files(dir);
    let response = reqwest::get(world.url(clip["links"]["copy"].as_str().unwrap())).await.unwrap();
    let (status, problem) = (response.status().as_u16(), response.json::<Value>().await.unwrap());
    assert_eq!(status, 422, "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("video.mp4"), "{problem}");
    assert_eq!(files(dir), before, "nothing of it is left");
    assert_eq!(made(world, "not_made").await, 1);
}

/// `camnet search` shows the clip's camera, and hands its clips out as files.
fn check_terminal(world: &HubWorld, clip: &Value) {
    let device = clip["device"]["id"].as_str().unwrap();
    let search = |more: &[&str]| {
        let mut command = camnet();
        command.args(["search", "--hub", &world.url(""), "--device", device, "--from", "1h"]).args(more);
        run(&mut command)
    };
    let id = clip["id"].as_str().unwrap();
    for more in [&["--lang", "en"][..], &["--json"], &["--csv", "-"], &["--geojson", "-"]] {
        assert!(search(more).contains(id), "{more:?}: {}", search(more));
    }
    assert!(search(&["--timeline", "--lang", "en"]).contains("clips from 1 cameras"));
    assert!(search(&["--coverage", "--lang", "vi"]).contains('█'));
    assert!(search(&["--follow", id, "--speed", "10-40"]).contains("10.0–40.0 km/h"));
}

fn files(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir.join("data/copies")).unwrap();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// How many copies ended so, by the hub's own figures.
async fn made(world: &HubWorld, result: &str) -> u64 {
    let text = String::from_utf8(world.bytes("/metrics").await).unwrap();
    let name = format!("camnet_hub_copies_total{{result=\"{result}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&name)).map_or(0, |count| count.parse().unwrap())
}

fn probe(file: &Path) -> Value {
    let shown = run(Command::new("ffprobe")
        .args(["-v", "error", "-show_streams", "-show_format", "-of", "json"])
        .arg(file));
    serde_json::from_str(&shown).unwrap()
}

/// The picture of a moment, counted from the beginning, as 48 × 27 grey values. In an open group pictures come first that
/// nobody can show; they count.
fn grey_at(file: &Path, at_s: f64) -> Vec<u8> {
    let times = run(Command::new("ffprobe")
        .args(["-v", "error", "-select_streams", "v", "-show_entries", "packet=pts_time", "-of", "csv=p=0"])
        .arg(file));
    let times = times.lines().filter_map(|line| line.trim_end_matches(',').parse::<f64>().ok());
    let begins_s = times.fold(f64::MAX, f64::min);
    let filter = format!("select=gte(t\\,{:.3}),scale=48:27:flags=area,format=gray", begins_s + at_s - 0.02);
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-copyts", "-i"])
        .arg(file)
        .args(["-vf", &filter, "-frames:v", "1", "-f", "rawvideo", "-"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.stdout.len(), 48 * 27, "{}: {said}", file.display());
    output.stdout
}
