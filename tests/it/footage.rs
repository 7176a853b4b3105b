//! Real footage through the whole line: RTSP server → box → broker → hub → search → clip, bit for bit.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use camnet::media::rtsp_server::{Repeat, RtspServer};
use camnet::model::VideoCodec;
use jiff::Timestamp;
use serde_json::Value;

use crate::world::{BOTH_CORES, HubWorld, Process, run, video, wait_for};

/// Seconds of still picture (with sensor-like noise) before and after the moving part.
const STILL_S: f64 = 12.0;
/// Seconds of movement between them.
const MOVING_S: u32 = 20;

/// The NAL units of a file as they stand in its samples (lengths of four bytes before them), without parameter sets.
fn nal_units(codec: VideoCodec, file: &Path) -> Vec<Vec<u8>> {
    let is_parameter_set = |header: u8| match codec {
        VideoCodec::H264 => matches!(header & 0x1f, 7 | 8),
        VideoCodec::H265 => matches!(header >> 1, 32..=34),
    };
    let samples = stream_bytes(file, "v");
    let (mut units, mut rest) = (Vec::new(), &samples[..]);
    while let Some((length, behind)) = rest.split_first_chunk::<4>() {
        let (mut sample, behind) = behind.split_at(u32::from_be_bytes(*length) as usize);
        // One of the files ends with a start code and an end of sequence inside its last unit. No NAL unit holds a start
        // code, nor ends with a zero (H.264, 7.4.1, and B.1.1): they are two, and go over RTP as two.
        while !sample.is_empty() {
            let end = find(sample, &[0, 0, 1]).unwrap_or(sample.len());
            let length = sample[..end].iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
            if length > 0 && !is_parameter_set(sample[0]) {
                units.push(sample[..length].to_vec());
            }
            sample = sample.get(end + 3..).unwrap_or_default();
        }
        rest = behind;
    }
    assert!(rest.is_empty(), "{}", file.display());
    units
}

/// A still span, the file's first seconds of movement, and a still span again; with noise as a sensor has it.
pub fn with_still_spans(dir: &Path, name: &str, source: &Path, moving_s: u32, encoder: &[&str]) -> PathBuf {
    let out = dir.join(name);
    let filter = format!(
        "tpad=start_duration={STILL_S}:start_mode=clone:stop_duration={STILL_S}:stop_mode=clone,noise=alls=6:allf=t,format=yuv420p"
    );
    run(Command::new("ffmpeg")
        .args(["-v", "error", "-y", "-t", &moving_s.to_string(), "-i"])
        .arg(source)
        .args(["-an", "-vf", &filter])
        .args(encoder)
        .args(["-b:v", "1500k"])
        .arg(&out));
    out
}

pub const X264: [&str; 8] = ["-c:v", "libx264", "-preset", "veryfast", "-tune", "zerolatency", "-g", "20"];

fn time(value: &Value) -> Timestamp {
    value.as_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn real_footage_is_found_by_place_and_time_and_stored_bit_for_bit() {
    let _alone = BOTH_CORES.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let sources = [
        ("cam-01", video("car-detection.mp4")),
        ("cam-02", video("one-by-one-person-detection.mp4")),
        ("cam-03", with_still_spans(dir.path(), "still.mp4", &video("car-detection.mp4"), MOVING_S, &X264)),
    ];
    let world = HubWorld::new(dir.path(), &["box-01", "box-02"]);
    let _hub = world.start().await;
    let (began, boxes) = record(&world, &sources, &[]).await;

    let places = world.get("/api/v1/places").await;
    for (camera, file) in &sources {
        let clips = clips_near(&world, &places, camera, began).await;
        assert!(clips.len() >= 2, "{camera}: {} clips", clips.len());
        check_bits(&world, VideoCodec::H264, dir.path(), &clips, file).await;
    }
    check_still_spans(&world, &places, began).await;

    let elsewhere = world.get(&format!("/api/v1/clips?from={began}&lat=21.03&lon=105.85&radius_m=500")).await;
    assert_eq!(elsewhere["clips"].as_array().unwrap().len(), 0, "no camera stands in Hà Nội");
    let before =
        world.get("/api/v1/clips?from=2026-01-01T00:00:00Z&to=2026-01-01T01:00:00Z&device=cam-01").await;
    assert_eq!(before["clips"].as_array().unwrap().len(), 0, "nothing was recorded then");
    for process in boxes {
        process.stop();
    }
}

/// The same with H.265, where a random access point need not be an IDR picture: in open groups it is a CRA picture, and
/// a clip may begin with one.
#[tokio::test(flavor = "multi_thread")]
async fn h265_is_found_and_stored_bit_for_bit_and_a_clip_may_begin_with_a_cra_picture() {
    let _alone = BOTH_CORES.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let h265 = |name: &str, parameters: &str| {
        let parameters = format!("log-level=none:keyint=24:min-keyint=24:scenecut=0:aud=1:{parameters}");
        let encoder =
            ["-c:v", "libx265", "-preset", "ultrafast", "-tag:v", "hvc1", "-x265-params", &parameters];
        with_still_spans(dir.path(), name, &video("car-detection.mp4"), 8, &encoder)
    };
    let sources = [
        ("cam-01", h265("closed.mp4", "open-gop=0:bframes=0")),
        ("cam-02", h265("open.mp4", "open-gop=1:bframes=3:b-adapt=0:repeat-headers=1")),
    ];
    let world = HubWorld::new(dir.path(), &["box-01", "box-02"]);
    let _hub = world.start().await;
    let (began, boxes) = record(&world, &sources, &[]).await;

    let places = world.get("/api/v1/places").await;
    for (camera, file) in &sources {
        let clips = clips_near(&world, &places, camera, began).await;
        assert!(!clips.is_empty(), "{camera}");
        check_bits(&world, VideoCodec::H265, dir.path(), &clips, file).await;
        for clip in &clips {
            let codec = clip["video"]["codec"].as_str().unwrap();
            assert!(codec.starts_with("hvc1.1.6.L"), "{camera}: {codec}");
        }
        // IDR_W_RADL, IDR_N_LP and CRA (ITU-T H.265, table 7-1).
        let first = |clip: &Value| first_slice_type(dir.path(), clip["id"].as_str().unwrap());
        let begins: Vec<u8> = clips.iter().map(first).collect();
        let expected: &[u8] = if *camera == "cam-02" { &[21] } else { &[19, 20] };
        assert!(begins.iter().all(|kind| expected.contains(kind)), "{camera}: clips begin with {begins:?}");
    }
    for process in boxes {
        process.stop();
    }
}

fn first_slice_type(dir: &Path, clip: &str) -> u8 {
    let units = nal_units(VideoCodec::H265, &dir.join(format!("{clip}.mp4")));
    units.iter().map(|unit| unit[0] >> 1).find(|kind| *kind < 32).unwrap()
}

/// Audio is recorded where the configuration says so: each frame as it came, beside its picture, in the clip that the
/// hash covers.
#[tokio::test(flavor = "multi_thread")]
async fn audio_is_recorded_bit_for_bit_where_it_is_allowed_and_nowhere_else() {
    let _alone = BOTH_CORES.lock().await;
    let dir = tempfile::tempdir().unwrap();

    let source = video("car-detection.mp4");
    // Without B-frames: FFmpeg, by which this is judged, would shift such video against its audio (fmp4.rs).
    let x265 = [
        "-c:v",
        "libx265",
        "-preset",
        "ultrafast",
        "-tag:v",
        "hvc1",
        "-x265-params",
        "log-level=none:keyint=24:bframes=0",
    ];
    let h265 = with_still_spans(dir.path(), "h265.mp4", &source, 8, &x265);
    let h264 = with_still_spans(dir.path(), "h264.mp4", &source, 8, &X264);
    let aac = with_audio(&h265, "aac.mp4", &["-c:a", "aac", "-ar", "16000", "-b:a", "32k"]);
    let g711 = with_audio(&h264, "g711.mov", &["-c:a", "pcm_alaw", "-ar", "8000"]);
    let sources = [("cam-01", aac.clone()), ("cam-02", g711), ("cam-03", aac)];
    let world = HubWorld::new(dir.path(), &["box-01", "box-02"]);
    let _hub = world.start().await;
    let (began, boxes) = record(&world, &sources, &["cam-01", "cam-02"]).await;

    let places = world.get("/api/v1/places").await;
    for ((camera, file), (codec, audio)) in sources.iter().zip([
        (VideoCodec::H265, Some("mp4a.40.2")),
        (VideoCodec::H264, Some("alaw")),
        (VideoCodec::H265, None),
    ]) {
        let clips = clips_near(&world, &places, camera, began).await;
        assert!(!clips.is_empty(), "{camera}");
        check_bits(&world, codec, dir.path(), &clips, file).await;
        for clip in &clips {
            assert_eq!(clip["audio_codec"].as_str(), audio, "{camera}");
            let stored = dir.path().join(format!("{}.mp4", clip["id"].as_str().unwrap()));
            match audio {
                Some(_) => check_audio(&stored, file),
                None => assert!(packets(&stored, "a").is_empty(), "{camera}: nobody allowed its audio"),
            }
        }
    }
    for process in boxes {
        process.stop();
    }
}

/// The file's video with noise, which repeats nowhere, as its audio.
fn with_audio(file: &Path, name: &str, encoder: &[&str]) -> PathBuf {
    let out = file.with_file_name(name);
    run(Command::new("ffmpeg")
        .args(["-v", "error", "-y", "-i"])
        .arg(file)
        .args(["-f", "lavfi", "-i", "anoisesrc=color=pink:amplitude=0.3:seed=4", "-shortest"])
        .args(["-map", "0:v", "-map", "1:a", "-c:v", "copy", "-ac", "1"])
        .args(encoder)
        .arg(&out));
    out
}

/// The clip's audio stands in the source as it is, and beside the pictures beside which it stands there.
fn check_audio(clip: &Path, source: &Path) {
    let (stored, original) = (stream_bytes(clip, "a"), stream_bytes(source, "a"));
    assert!(stored.len() > 10_000, "{}: {} bytes of audio", clip.display(), stored.len());
    let at = find(&original, &stored).expect("the clip's audio stands in the source");
    let audio_s = moment_of_byte(source, "a", at);
    let first_picture = &stream_bytes(clip, "v")[..1000];
    let at = find(&stream_bytes(source, "v"), first_picture).expect("the first picture stands in the source");
    // The clip begins with what is shown first, which need not be its first packet.
    let times: Vec<f64> = packets(clip, "v").iter().map(|(_, time_s)| *time_s).collect();
    let lead_s = times[0] - times.iter().copied().fold(f64::MAX, f64::min);
    let video_s = moment_of_byte(source, "v", at) - lead_s;
    // A frame of AAC lasts 64 ms, a packet of G.711 40 ms; the clocks of the two streams are read once each.
    assert!((audio_s - video_s).abs() < 0.12, "audio of {audio_s} s with pictures of {video_s} s");
    let end_s = |stream: &str| packets(clip, stream).last().map(|(_, end_s)| *end_s).unwrap();
    assert!(
        (end_s("a") - end_s("v")).abs() < 0.2,
        "audio ends at {} s, pictures at {}",
        end_s("a"),
        end_s("v")
    );
}

/// Size and time of each packet of a stream (`a` or `v`).
fn packets(file: &Path, stream: &str) -> Vec<(usize, f64)> {
    let output = Command::new("ffprobe")
        .args([
            "-v",
            "error",
            "-select_streams",
            stream,
            "-show_entries",
            "packet=size,pts_time",
            "-of",
            "csv=p=0",
        ])
        .arg(file)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let packet = |line: &str| {
        let (time, size) = line.trim_end_matches(',').split_once(',').unwrap();
        (size.parse().unwrap(), time.parse().unwrap())
    };
    text.lines().filter(|line| !line.is_empty()).map(packet).collect()
}

/// The packets of a stream, one behind the other.
fn stream_bytes(file: &Path, stream: &str) -> Vec<u8> {
    let out = file.with_extension("stream");
    run(Command::new("ffmpeg")
        .args(["-v", "error", "-y", "-i"])
        .arg(file)
        .args(["-map", &format!("0:{stream}"), "-c", "copy", "-f", "data"])
        .arg(&out));
    std::fs::read(out).unwrap()
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}

/// When the packet is shown or heard in which a byte of a stream stands; of G.711, whose bytes are samples, the byte.
fn moment_of_byte(file: &Path, stream: &str, at: usize) -> f64 {
    let mut from = 0;
    for (size, time) in packets(file, stream) {
        if at < from + size {
            let within =
                if file.extension().is_some_and(|e| e == "mov") && stream == "a" { at - from } else { 0 };
            return time + within as f64 / 8000.0;
        }
        from += size;
    }
    panic!("{} has no byte {at}", file.display());
}

/// Serves the files once, as cameras of two boxes, until each has ended and all clips are at the hub; when it began, and
/// the boxes. `audible` are the cameras whose audio is recorded.
pub async fn record(
    world: &HubWorld,
    sources: &[(&str, PathBuf)],
    audible: &[&str],
) -> (Timestamp, [Process; 2]) {
    let server = RtspServer::start(0, None).unwrap();
    let mut cameras = Vec::new();
    for (camera, file) in sources {
        server.mount_file(camera, file, Repeat::Once).unwrap();
        let (url, audio) = (server.url(camera), audible.contains(camera));
        cameras.push(format!("[[camera]]\nid = \"{camera}\"\nurl = \"{url}\"\naudio = {audio}\n"));
    }
    world.box_config("box-01", &cameras[0]);
    world.box_config("box-02", &cameras[1..].concat());
    let began = Timestamp::now();
    let boxes = [world.start_box("box-01"), world.start_box("box-02")];

    // Each stream plays once; then the camera is gone, which the account says.
    for (camera, _) in sources {
        wait_for("the end of the stream", Duration::from_secs(240), || async {
            let coverage = coverage(world, camera, began).await;
            let recorded = coverage.iter().position(|span| span["state"] == "recorded")?;
            let is_told = |span: &Value| span["state"] == "gap" && span["cause"] != "not_yet_reported";
            coverage[recorded..].iter().any(is_told).then_some(())
        })
        .await;
    }
    wait_for("all clips at the hub", Duration::from_secs(60), || async {
        let clips = world.all(&format!("/api/v1/clips?from={began}&limit=100"), "clips").await;
        (!clips.is_empty() && clips.iter().all(|clip| clip["where"] == "hub")).then_some(())
    })
    .await;
    (began, boxes)
}

async fn coverage(world: &HubWorld, camera: &str, from: Timestamp) -> Vec<Value> {
    let answer = world.get(&format!("/api/v1/clips?from={from}&device={camera}&limit=1")).await;
    answer["coverage"][0]["spans"].as_array().unwrap().clone()
}

/// Clips of one camera, asked for by the point at which it stands.
async fn clips_near(world: &HubWorld, places: &Value, camera: &str, from: Timestamp) -> Vec<Value> {
    let of = |list: &str, id: &Value| {
        let all = places[list].as_array().unwrap();
        all.iter().find(|item| item["id"] == *id).unwrap().clone()
    };
    let device = of("devices", &Value::from(camera));
    let point = of("sites", &device["site"])["point"].clone();
    let question = format!("lat={}&lon={}&radius_m=30&from={from}&order=oldest", point["lat"], point["lon"]);
    let mut clips = world.all(&format!("/api/v1/clips?{question}"), "clips").await;
    assert!(clips.iter().all(|clip| clip["distance_m"].as_f64().unwrap() <= 30.0));
    clips.retain(|clip| clip["device"]["id"] == camera);
    clips
}

/// The clip's NAL units stand in the source, in this order and without a hole; ffprobe has nothing to say.
async fn check_bits(world: &HubWorld, codec: VideoCodec, dir: &Path, clips: &[Value], source: &Path) {
    let copy = dir.join("source.mp4");
    std::fs::copy(source, &copy).unwrap();
    let original = nal_units(codec, &copy);
    for clip in clips {
        let id = clip["id"].as_str().unwrap();
        let bytes = world.bytes(clip["links"]["video"].as_str().unwrap()).await;
        assert_eq!(camnet::model::Sha256Hash::of(&bytes).to_string(), clip["sha256"], "{id}");
        let file = dir.join(format!("{id}.mp4"));
        std::fs::write(&file, &bytes).unwrap();
        let stored = nal_units(codec, &file);
        assert!(stored.len() > 10, "{id}: {} NAL units", stored.len());
        let found = original.windows(stored.len()).any(|window| window == stored);
        assert!(
            found,
            "{id}: its {} NAL units do not stand in {} as they are",
            stored.len(),
            source.display()
        );

        let probe =
            Command::new("ffprobe").args(["-v", "warning", "-show_streams"]).arg(&file).output().unwrap();
        assert!(probe.status.success());
        assert_eq!(String::from_utf8_lossy(&probe.stderr), "", "ffprobe warns about {id}");
        let decode = Command::new("ffmpeg")
            .args(["-v", "warning", "-i"])
            .arg(&file)
            .args(["-f", "null", "-"])
            .output()
            .unwrap();
        // G.711 never says where its one channel is to be heard.
        let said = String::from_utf8_lossy(&decode.stderr);
        let said: Vec<&str> =
            said.lines().filter(|line| !line.starts_with("Guessed Channel Layout")).collect();
        assert!(said.is_empty(), "ffmpeg warns about {id}: {said:?}");

        check_thumbnail(world, clip, &file).await;
    }
}

/// The thumbnail is the picture of the moment that the box says it is.
async fn check_thumbnail(world: &HubWorld, clip: &Value, file: &Path) {
    let id = clip["id"].as_str().unwrap();
    let events = world.all("/api/v1/events?type=camnet.clip.v1&limit=100", "events").await;
    let data = events.iter().map(|event| &event["data"]).find(|data| data["clip"] == id).unwrap();
    let after_s = time(&data["thumbnail"]["time"]).duration_since(time(&data["start"])).as_secs_f64();
    let still = file.with_extension("jpg");
    let jpeg = world.bytes(clip["links"]["thumbnail"].as_str().unwrap()).await;
    assert_eq!(&jpeg[..2], [0xff, 0xd8], "the thumbnail of {id} is a JPEG");
    std::fs::write(&still, jpeg).unwrap();

    let shown = small_grey(&still, "null");
    // FFmpeg counts from somewhere before the clip's beginning where pictures are shown in another order.
    let earliest_s = packets(file, "v").iter().map(|(_, time_s)| *time_s).fold(f64::MAX, f64::min);
    // That picture (times are rounded, so from a little before it), the one before and the one behind.
    let nearest = [-0.12, -0.04, 0.04].map(|by| {
        let moment =
            small_grey(file, &format!("select=gte(t\\,{:.3})", earliest_s + (after_s + by).max(0.0)));
        let differences = shown.iter().zip(&moment).map(|(a, b)| a.abs_diff(*b));
        differences.max().unwrap()
    });
    let nearest = nearest.into_iter().min().unwrap();
    assert!(nearest < 40, "{id}: at {after_s} s something else is to be seen (difference {nearest})");
}

/// The first picture that `select` lets through, as 48 × 27 grey values: means of blocks.
fn small_grey(file: &Path, select: &str) -> Vec<u8> {
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-copyts", "-i"])
        .arg(file)
        .args([
            "-vf",
            &format!("{select},scale=48:27:flags=area,format=gray"),
            "-frames:v",
            "1",
            "-f",
            "rawvideo",
            "-",
        ])
        .output()
        .unwrap();
    assert_eq!(
        output.stdout.len(),
        48 * 27,
        "{}: {}",
        file.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

/// No event lies wholly in a span where nothing moves.
async fn check_still_spans(world: &HubWorld, places: &Value, began: Timestamp) {
    let spans = coverage(world, "cam-03", began).await;
    let recorded = spans.iter().find(|span| span["state"] == "recorded").unwrap();
    let first_picture = time(&recorded["start"]);
    let seconds = |value: &Value| time(value).duration_since(first_picture).as_secs_f64();
    let clips = clips_near(world, places, "cam-03", began).await;
    for clip in &clips {
        let (start, end) = (seconds(&clip["motion_start"]), seconds(&clip["motion_end"]));
        let is_in_still = end < STILL_S || start > STILL_S + f64::from(MOVING_S);
        assert!(!is_in_still, "an event from {start} to {end} s, where nothing moves");
    }
}
