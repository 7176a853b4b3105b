//! `camnet edge probe`: what a camera can do, in plain words.
//!
//! Owns the arguments and the words around the figures; [`crate::edge::camera::probe`] asks the camera.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;

use crate::edge::camera::probe::{Level, ParameterSets, Report, StreamSeen, Watched, probe};
use crate::edge::config::{CameraConfig, Transport};
use crate::limits::PROBE_SECONDS_MAX;
use crate::model::DeviceId;

#[derive(Debug, Args)]
pub struct ProbeArgs {
    /// The camera's address, rtsp://host:port/path, without user and password.
    url: String,
    /// User name, where the camera wants one.
    #[arg(long, requires = "password_file")]
    user: Option<String>,
    /// File with the password; only the owner may read it.
    #[arg(long, requires = "user")]
    password_file: Option<PathBuf>,
    /// How the packets travel; auto takes TCP, and UDP where the camera refuses TCP.
    #[arg(long, value_enum, default_value_t)]
    transport: Transport,
    /// How long to watch.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(2..=PROBE_SECONDS_MAX))]
    seconds: u64,
    /// Print what was found as JSON.
    #[arg(long)]
    json: bool,
}

/// Probes and prints; an error, and so exit code 1, where the camera can't be recorded.
pub async fn run(args: ProbeArgs) -> anyhow::Result<()> {
    let id = DeviceId::new("probe").context("its own id")?;
    let camera = CameraConfig {
        user: args.user,
        password_file: args.password_file,
        transport: args.transport,
        ..CameraConfig::new(id, args.url)
    };
    if !args.json {
        eprintln!("looking at the camera, some {} s …", args.seconds);
    }
    let report = probe(&camera, Duration::from_secs(args.seconds)).await;
    match args.json {
        true => println!("{}", serde_json::to_string(&report)?),
        false => print!("{}", text(&report)),
    }
    if !report.recordable {
        bail!("this camera can't be recorded as it is");
    }
    Ok(())
}

fn text(report: &Report) -> String {
    let mut out = String::new();
    let mut row = |name: &str, value: String| {
        let _ = writeln!(out, "  {name:<16}{value}");
    };
    row("server", report.server.clone().unwrap_or_else(|| "does not say".into()));
    row("authentication", report.authentication.clone().unwrap_or_else(|| "unknown".into()));
    for stream in &report.streams {
        row(&stream.media, describe(stream));
    }
    if let Some(transport) = report.transport {
        row("transport", transport.to_uppercase());
    }
    if let Some(sets) = report.parameter_sets {
        let sets = match sets {
            ParameterSets::Sdp => "in the SDP",
            ParameterSets::InBand => "in-band",
            ParameterSets::Both => "in the SDP and in-band",
        };
        row("parameter sets", sets.into());
    }
    if let Some(watched) = &report.watched {
        for (name, value) in figures(watched) {
            row(name, value);
        }
    }
    out.push('\n');
    for finding in &report.findings {
        let sign = match finding.level {
            Level::Good => '✓',
            Level::WorthKnowing => '!',
            Level::Wrong => '✗',
        };
        let _ = writeln!(out, "{sign} {}", finding.text);
    }
    if report.recordable {
        out.push_str("\nIt can be recorded.\n");
    }
    out
}

fn describe(stream: &StreamSeen) -> String {
    let mut text = stream.codec.to_uppercase();
    if let Some(profile) = &stream.profile {
        let _ = write!(text, " ({})", profile_name(profile).unwrap_or_else(|| profile.clone()));
    }
    if let (Some(width), Some(height)) = (stream.width, stream.height) {
        let _ = write!(text, ", {width}x{height}");
    }
    if let Some(fps) = stream.declared_fps {
        let _ = write!(text, ", declares {fps:.1} pictures per second");
    }
    text
}

/// `avc1.64001f` is profile 100 (High), level 31 (ITU-T H.264, A.2 and A.3).
fn profile_name(codec: &str) -> Option<String> {
    let digits = codec.strip_prefix("avc1.")?;
    let byte = |at: usize| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
    let (profile, constraints, level) = (byte(0)?, byte(2)?, byte(4)?);
    let name = match profile {
        66 if constraints & 0x40 != 0 => "Constrained Baseline",
        66 => "Baseline",
        77 => "Main",
        88 => "Extended",
        100 => "High",
        110 => "High 10",
        122 => "High 4:2:2",
        244 => "High 4:4:4",
        _ => return None,
    };
    Some(format!("{name}, level {}.{}", level / 10, level % 10))
}

fn figures(seen: &Watched) -> Vec<(&'static str, String)> {
    let mut rows = vec![
        ("watched", format!("{:.1} s", seen.seconds)),
        ("pictures", format!("{}, {:.1} per second, {:.0} kbit/s", seen.pictures, seen.fps, seen.kbit_per_s)),
    ];
    let interval = seen.key_frame_interval_s.map(|s| format!(", each {s:.1} s")).unwrap_or_default();
    rows.push(("key frames", format!("{}{interval}", seen.key_frames)));
    rows.push(("B-frames", if seen.reordered > 0 { "yes" } else { "no" }.into()));
    rows.push(("lost packets", seen.lost_packets.to_string()));
    let clock = seen.clock_offset_ms.map(|ms| format!(", clock {ms:+} ms against this machine"));
    rows.push(("sender reports", format!("{}{}", seen.sender_reports, clock.unwrap_or_default())));
    rows.push(("time jumps", seen.time_jumps.to_string()));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_have_names() {
        for (codec, name) in [
            ("avc1.64001f", Some("High, level 3.1")),
            ("avc1.4D0028", Some("Main, level 4.0")),
            ("avc1.42401E", Some("Constrained Baseline, level 3.0")),
            ("avc1.ff0000", None),
            ("avc1.64", None),
            ("hvc1.1.6.L93", None),
        ] {
            assert_eq!(profile_name(codec).as_deref(), name, "{codec}");
        }
    }
}
