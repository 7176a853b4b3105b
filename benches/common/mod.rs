//! What every bench needs: where its figures go, and processes that end with it.

#![allow(dead_code, reason = "not every bench needs all of it")]

use std::io::Write;
use std::path::Path;
use std::process::Child;

use serde_json::{Value, json};

/// Appends figures to target/bench.jsonl, one JSON line each, and prints them.
pub struct Figures {
    file: std::fs::File,
}

impl Figures {
    pub fn append(root: &Path) -> Self {
        let path = root.join("target/bench.jsonl");
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        Self { file: file.expect("target/ exists") }
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of one line")]
    pub fn add(
        &mut self,
        name: &str,
        value: f64,
        unit: &str,
        aim: Option<f64>,
        better: &str,
        baseline: Value,
        n: usize,
    ) {
        let value = (value * 1000.0).round() / 1000.0;
        println!(
            "{name:<36} {value:>12} {unit:<9} aim {aim:?} ({better} is better)  n {n}  baseline {baseline}"
        );
        let line = json!({
            "name": name, "value": value, "unit": unit, "aim": aim, "better": better, "baseline": baseline, "n": n,
        });
        writeln!(self.file, "{line}").expect("the disk takes a line");
    }
}

/// A child that is killed when dropped.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// User and system time of a process (its id, or `self`) so far, seconds (proc(5), fields 14 and 15).
pub fn cpu_s(process: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("the process runs");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("a name").split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime");
    ticks as f64 / 100.0
}

/// `CAMNET_BENCH_SECONDS`, if it is set.
pub fn seconds_or(usual: u64) -> u64 {
    std::env::var("CAMNET_BENCH_SECONDS").ok().and_then(|n| n.parse().ok()).unwrap_or(usual)
}

/// A port of 127.0.0.1 that nobody uses at the moment.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port()
}
