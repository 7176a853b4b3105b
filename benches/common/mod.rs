//! What every bench needs: where its figures go, and processes that end with it.

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
