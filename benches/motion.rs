//! What the motion detector finds of what crosses the drawn street: each setting of `demo::street::SETTINGS`, with
//! seeds of its own, on the pictures as the decoder makes them small, before any codec.
//!
//! `CAMNET_BENCH_SECONDS` (default 240) of each seed; `-- rain far` looks at these settings only.

// It starts no processes.
#[allow(dead_code)]
mod common;

use std::time::Instant;

use camnet::demo::street::{SETTINGS, Setting, Street, Verdict};
use camnet::edge::config::MotionConfig;
use camnet::edge::motion::{MotionChange, MotionDetector};
use common::Figures;
use serde_json::json;

const SIZE: (usize, usize) = (640, 360);
const SMALL: (usize, usize) = (160, 90);
const SEEDS: [u64; 4] = [1, 2, 3, 4];

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let seconds = std::env::var("CAMNET_BENCH_SECONDS").ok().and_then(|n| n.parse().ok()).unwrap_or(240);
    let mut out = Figures::append(std::path::Path::new(env!("CARGO_MANIFEST_DIR")));
    for setting in SETTINGS.iter().filter(|of| wanted.is_empty() || wanted.iter().any(|name| name == of.name))
    {
        let mut all = Verdict::default();
        let (mut looking_s, mut pictures) = (0.0, 0);
        for (seed, fps) in SEEDS.into_iter().zip([10, 10, 25, 25]) {
            let (verdict, took_s, count) = look(setting, seed, fps, seconds);
            println!(
                "{:<11} seed {seed} at {fps:>2}/s: {:>3} of {:>3} found, {:>3} of {:>3} right; missed {:.1?}, wrong {:.1?}",
                setting.name,
                verdict.found,
                verdict.crossings,
                verdict.right,
                verdict.events,
                verdict.missed,
                verdict.wrong
            );
            all.add(verdict);
            (looking_s, pictures) = (looking_s + took_s, pictures + count);
        }
        let n = all.crossings.max(all.events);
        let baseline = json!({ "name": "the drawn street's own plan", "value": 1.0,
            "us_per_picture": looking_s * 1e6 / pictures as f64 });
        let name = setting.name;
        let mut figure = |what: &str, value: f64, unit: &str, aim: f64, better: &str| {
            out.add(
                &format!("edge.motion.{what}.{name}"),
                value,
                unit,
                Some(aim),
                better,
                baseline.clone(),
                n,
            );
        };
        figure("recall", all.recall(), "ratio", 0.98, "higher");
        figure("precision", all.precision(), "ratio", 0.95, "higher");
        if let Some(error_ms) = all.start_error_ms() {
            figure("start_error_ms", error_ms, "ms", 500.0, "lower");
        }
    }
}

/// The verdict, the detector's seconds, and the pictures looked at.
fn look(setting: &Setting, seed: u64, fps: u32, seconds: u64) -> (Verdict, f64, u64) {
    let street = Street::of_setting(setting, seed, SIZE.0, SIZE.1, fps);
    let mut detector = MotionDetector::new(SMALL.0, SMALL.1, &MotionConfig::default());
    let (mut events, mut began, mut looking_s) = (Vec::new(), None, 0.0);
    let mut note = |change: Option<MotionChange>| match change {
        Some(MotionChange::Start { at_ns, .. }) => began = Some(at_ns),
        Some(MotionChange::End { at_ns, .. }) => {
            let from = began.take().expect("an end follows a start");
            events.push((from as f64 / 1e9, at_ns as f64 / 1e9));
        }
        None => {}
    };
    let (mut picture, count) = (vec![0; street.frame_bytes()], seconds * u64::from(fps));
    for n in 0..count {
        street.frame_into(n, &mut picture);
        let small = shrink(&picture);
        let looked = Instant::now();
        let change = detector.observe(n * 1_000_000_000 / u64::from(fps), &small);
        looking_s += looked.elapsed().as_secs_f64();
        note(change);
    }
    note(detector.finish());
    let seen = street.crossings(0.0, seconds as f64);
    (Verdict::of(&events, &seen), looking_s, count)
}

/// The luma of an I420 picture as the decoder's small one: means of blocks.
fn shrink(i420: &[u8]) -> Vec<u8> {
    let (step_x, step_y) = (SIZE.0 / SMALL.0, SIZE.1 / SMALL.1);
    let block = |i: usize| {
        let (x, y) = (i % SMALL.0 * step_x, i / SMALL.0 * step_y);
        let rows = (y..y + step_y).map(|row| &i420[row * SIZE.0 + x..][..step_x]);
        let sum: u32 = rows.flatten().map(|&p| u32::from(p)).sum();
        (sum / (step_x * step_y) as u32) as u8
    };
    (0..SMALL.0 * SMALL.1).map(block).collect()
}
