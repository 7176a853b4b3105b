//! Journal, outbox and hub under a power cut: the child and the judge of a harness that copies the disk while the
//! child writes.
//!
//! ```text
//! powercut child WHAT DIR           writes without end, prints `ACK n` for each item that is durable
//! powercut verify WHAT DIR LAST     fails unless items 0 to LAST are there, whole, and nothing is invented
//! powercut rounds N TOOL            N power cuts on each of them with TOOL (../shared/tools/powercut.py)
//! ```
//!
//! WHAT is journal, outbox or hub. Cutting needs root and loop devices (`make powercut ROUNDS=50`), so a run without
//! arguments (as `cargo test` does it) checks only a short write, a stop without a word, and its reading. May not
//! know how the power is cut.

#[cfg(feature = "hub")]
mod hub;
mod journal;
#[cfg(feature = "edge")]
mod outbox;

use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, bail, ensure};

/// Something that says when it is durable.
struct Subject {
    name: &'static str,
    /// Writes so many items, or until its share of the disk is used; returns the last one that is durable.
    write: fn(&Path, u64, &mut dyn Write) -> anyhow::Result<i64>,
    /// Fails unless the items up to this one are there.
    verify: fn(&Path, i64) -> anyhow::Result<()>,
}

const SUBJECTS: &[Subject] = &[
    Subject { name: "journal", write: journal::write, verify: journal::verify },
    #[cfg(feature = "edge")]
    Subject { name: "outbox", write: outbox::write, verify: outbox::verify },
    #[cfg(feature = "hub")]
    Subject { name: "hub", write: hub::write, verify: hub::verify },
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args.as_slice() {
        ["child", what, dir] => child(what, Path::new(dir)),
        ["verify", what, dir, last] => verify(what, Path::new(dir), last),
        ["rounds", rounds, tool] => cut(rounds, tool),
        _ => without_a_cut(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("powercut: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn subject(name: &str) -> anyhow::Result<&'static Subject> {
    SUBJECTS.iter().find(|subject| subject.name == name).with_context(|| format!("{name} is not known"))
}

fn child(what: &str, dir: &Path) -> anyhow::Result<()> {
    (subject(what)?.write)(dir, u64::MAX, &mut std::io::stdout().lock())?;
    // Its share of the disk is used: it waits for the cut.
    std::thread::sleep(std::time::Duration::from_secs(120));
    Ok(())
}

fn verify(what: &str, dir: &Path, last: &str) -> anyhow::Result<()> {
    (subject(what)?.verify)(dir, last.parse().context("LAST")?)
}

/// Says that items up to `next` are durable, from `first` on.
fn acknowledge(out: &mut dyn Write, first: u64, next: u64) -> anyhow::Result<()> {
    (first..next).try_for_each(|n| writeln!(out, "ACK {n}"))?;
    Ok(out.flush()?)
}

/// All subjects at once: a round mostly waits.
fn cut(rounds: &str, tool: &str) -> anyhow::Result<()> {
    let me = std::env::current_exe()?;
    let me = me.to_str().context("the path of this program")?;
    let mut running = Vec::new();
    for subject in SUBJECTS {
        let child = format!("'{me}' child {} {{dir}}", subject.name);
        let verify = format!("'{me}' verify {} {{dir}} {{last}}", subject.name);
        let seed = std::process::id().to_string();
        let mut command = Command::new("python3");
        command.args([tool, "--rounds", rounds, "--seed", &seed, "--child", &child, "--verify", &verify]);
        command.stdout(std::process::Stdio::piped());
        running.push((subject.name, command.spawn().context(tool.to_owned())?));
    }
    let mut bad = Vec::new();
    for (name, process) in running {
        let output = process.wait_with_output()?;
        print!("{name}: {}", String::from_utf8_lossy(&output.stdout));
        if !output.status.success() {
            bad.push(name);
        }
    }
    ensure!(bad.is_empty(), "bad rounds: {}", bad.join(", "));
    Ok(())
}

fn without_a_cut() -> anyhow::Result<()> {
    for subject in SUBJECTS {
        let dir = tempfile::tempdir()?;
        let last = (subject.write)(dir.path(), 300, &mut std::io::sink())?;
        (subject.verify)(dir.path(), last).context(subject.name)?;
        if (subject.verify)(dir.path(), last + 1000).is_ok() {
            bail!("{}: an item that is not there was not missed", subject.name);
        }
    }
    Ok(())
}
