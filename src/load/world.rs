//! The world of a load run: a folder with certificates, a registry and the hub's configuration, and the real hub
//! as a child process of this very binary.
//!
//! Owns the folder's files and the child. Asks the hub only what anybody may ask: its API and its metrics.

use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use super::events::Mix;
use crate::hub::certificates;
use crate::limits::{DRAIN_MAX, LOAD_HUB_READY_MAX};
use crate::model::BoxId;
use crate::tls::Identity;

/// Threads that make certificates: each waits for the disk most of the time.
const CERTIFICATE_THREADS: usize = 8;
/// Boxes that share a site.
const BOXES_PER_SITE: usize = 10;

/// A folder that is ready for a hub and its boxes.
pub struct World {
    pub dir: PathBuf,
    /// `host:port` of the broker.
    pub broker: String,
    /// The program that is started as the hub: this one, unless it is not camnet.
    pub binary: PathBuf,
    officers: u16,
    boxes: u16,
    is_external: bool,
}

impl World {
    /// Makes what is missing in `dir`. A broker elsewhere must trust the CA in `dir` (made by `camnet hub init`).
    pub fn prepare(
        dir: &Path,
        boxes: &[BoxId],
        registry_text: &str,
        external: Option<&str>,
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("folder {}", dir.display()))?;
        // The hub runs with this folder's files by name, whatever the current folder is.
        let dir = dir.canonicalize().with_context(|| format!("folder {}", dir.display()))?;
        if !dir.join("ca.key").exists() {
            ensure!(
                external.is_none(),
                "{} has no CA that the external broker could trust: make it with `camnet hub init --dir {0}`",
                dir.display()
            );
            certificates::init(&dir, &certificates::loopback_names())?;
        }
        issue_certificates(&dir, boxes)?;
        let registry = dir.join("load-ward.toml");
        std::fs::write(&registry, registry_text)
            .with_context(|| format!("registry {}", registry.display()))?;
        let embedded = format!("127.0.0.1:{}", free_port()?);
        let world = Self {
            broker: external.map_or(embedded, str::to_owned),
            binary: std::env::current_exe()?,
            officers: free_port()?,
            boxes: free_port()?,
            is_external: external.is_some(),
            dir,
        };
        let config = world.config_path();
        std::fs::write(&config, world.hub_config()).with_context(|| config.display().to_string())?;
        Ok(world)
    }

    /// The files that say who this box is.
    pub fn identity(&self, box_id: &BoxId) -> Identity {
        let file = |kind: &str| self.dir.join(format!("{box_id}.{kind}"));
        Identity { ca: self.dir.join("ca.pem"), certificate: file("pem"), key: file("key") }
    }

    /// Starts the hub and waits until it is ready.
    pub async fn start_hub(&self, shutdown: &CancellationToken) -> anyhow::Result<Hub> {
        let log = self.dir.join("load-hub.log");
        let file = std::fs::File::create(&log).with_context(|| log.display().to_string())?;
        let child = Command::new(&self.binary)
            .args(["hub", "--config"])
            .arg(self.config_path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .kill_on_drop(true)
            // Ctrl-C is for us: the hub is asked for its account first.
            .process_group(0)
            .spawn()
            .context("the hub can't start")?;
        let client = reqwest::Client::builder().timeout(Duration::from_secs(60)).build()?;
        let mut hub = Hub { child, client, base: format!("http://127.0.0.1:{}", self.officers) };
        hub.wait_ready(shutdown, &log).await?;
        Ok(hub)
    }

    fn config_path(&self) -> PathBuf {
        self.dir.join("load-hub.toml")
    }

    fn hub_config(&self) -> String {
        let Self { officers, boxes, broker, .. } = self;
        let client = "client_certificate = \"camnet-hub.pem\"\nclient_key = \"camnet-hub.key\"\n";
        let broker = if self.is_external {
            format!("[broker.external]\naddress = \"{broker}\"\nca = \"ca.pem\"\n{client}")
        } else {
            format!(
                "[broker.embedded]\nlisten = \"{broker}\"\ncertificate = \"hub.pem\"\nkey = \"hub.key\"\n\
                 ca = \"ca.pem\"\n{client}"
            )
        };
        format!(
            "data_dir = \"load-data\"\nregistry = \"load-ward.toml\"\n[officers]\nlisten = \"127.0.0.1:{officers}\"\n\
             [boxes]\nlisten = \"127.0.0.1:{boxes}\"\ncertificate = \"hub.pem\"\nkey = \"hub.key\"\nca = \"ca.pem\"\n{broker}"
        )
    }
}

/// The hub's process. Killed when dropped.
pub struct Hub {
    child: Child,
    client: reqwest::Client,
    base: String,
}

/// What the hub's process used so far.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    pub cpu_s: f64,
    pub rss_mb: f64,
}

impl Hub {
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let text = self.text(path).await?;
        serde_json::from_str(&text).with_context(|| format!("the hub's answer to {path}"))
    }

    /// Observations and upper bounds of the histogram whose name ends with `name`: cumulative counts.
    pub async fn histogram(&self, name: &str) -> anyhow::Result<Vec<(f64, u64)>> {
        Ok(read_histogram(&self.text("/metrics").await?, name))
    }

    /// The figure whose name ends with `name`.
    pub async fn gauge(&self, name: &str) -> anyhow::Result<f64> {
        let text = self.text("/metrics").await?;
        let figure = text.lines().find_map(|line| {
            let (metric, value) = line.split_once(' ')?;
            metric.ends_with(name).then(|| value.parse().ok())?
        });
        figure.with_context(|| format!("the hub has no figure {name}"))
    }

    pub fn usage(&self) -> anyhow::Result<Usage> {
        let pid = self.child.id().context("the hub has ended")?;
        usage_of(pid)
    }

    /// Asks it to end and waits.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        if let Some(pid) = self.child.id() {
            // SAFETY: kill has no memory effects; the child is ours and not yet waited for, so the id is its own.
            unsafe { libc::kill(pid as libc::pid_t, libc::SIGTERM) };
        }
        match tokio::time::timeout(5 * DRAIN_MAX, self.child.wait()).await {
            Ok(status) => {
                let status = status?;
                ensure!(status.success(), "the hub ended with {status}");
                Ok(())
            }
            Err(_) => bail!("the hub did not stop in time"),
        }
    }

    async fn text(&self, path: &str) -> anyhow::Result<String> {
        let response = self.client.get(format!("{}{path}", self.base)).send().await?;
        let status = response.status();
        let text = response.text().await?;
        ensure!(status.is_success(), "the hub answers {path} with {status}: {text}");
        Ok(text)
    }

    async fn wait_ready(&mut self, shutdown: &CancellationToken, log: &Path) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + LOAD_HUB_READY_MAX;
        while self.text("/readyz").await.is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("the hub ended with {status}; see {}", log.display());
            }
            ensure!(
                tokio::time::Instant::now() < deadline,
                "the hub does not get ready; see {}",
                log.display()
            );
            tokio::select! {
                () = shutdown.cancelled() => bail!("stopped"),
                () = tokio::time::sleep(Duration::from_millis(100)) => {}
            }
        }
        Ok(())
    }
}

/// CPU time and memory of a process, from /proc.
pub fn usage_of(pid: u32) -> anyhow::Result<Usage> {
    let read = |name: &str| {
        let path = format!("/proc/{pid}/{name}");
        std::fs::read_to_string(&path).with_context(|| path.clone())
    };
    let stat = read("stat")?;
    // The second field is the program's name in brackets and may hold blanks.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    // SAFETY: sysconf only reads a constant of the system.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1) as f64;
    let status = read("status")?;
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let rss_kb: f64 = rss.and_then(|text| text.trim().split(' ').next()?.parse().ok()).unwrap_or(0.0);
    Ok(Usage { cpu_s: (ticks(11) + ticks(12)) / per_second, rss_mb: rss_kb / 1024.0 })
}

/// A percentile of what a histogram gained between two readings, milliseconds: linear within a bucket, None
/// without observations or beyond the last bound.
pub fn percentile_ms(before: &[(f64, u64)], after: &[(f64, u64)], share: f64) -> Option<f64> {
    let gained: Vec<(f64, u64)> = after
        .iter()
        .map(|&(bound, count)| {
            let earlier = before.iter().find(|(b, _)| *b == bound).map_or(0, |(_, count)| *count);
            (bound, count.saturating_sub(earlier))
        })
        .collect();
    let all = gained.last().map(|(_, count)| *count).filter(|&count| count > 0)?;
    let rank = all as f64 * share;
    let mut below = (0.0, 0);
    for (bound, count) in gained {
        if count as f64 >= rank {
            let part = (rank - below.1 as f64) / (count - below.1).max(1) as f64;
            let seconds = below.0 + (bound - below.0) * part;
            return seconds.is_finite().then_some(seconds * 1000.0);
        }
        below = (bound, count);
    }
    None
}

fn read_histogram(metrics: &str, name: &str) -> Vec<(f64, u64)> {
    let mut buckets = Vec::new();
    for line in metrics.lines() {
        let Some((head, count)) = line.rsplit_once(' ') else { continue };
        let Some((metric, bound)) = head.split_once("_bucket{le=\"") else { continue };
        if !metric.ends_with(name) {
            continue;
        }
        let bound = bound.trim_end_matches("\"}");
        let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().unwrap_or(f64::NAN) };
        buckets.push((bound, count.parse().unwrap_or(0)));
    }
    buckets
}

fn issue_certificates(dir: &Path, boxes: &[BoxId]) -> anyhow::Result<()> {
    let share = boxes.len().div_ceil(CERTIFICATE_THREADS).max(1);
    std::thread::scope(|scope| {
        let issue = |part: &[BoxId]| -> anyhow::Result<()> {
            for box_id in part {
                if !dir.join(format!("{box_id}.pem")).exists() {
                    certificates::issue_box(dir, box_id)?;
                }
            }
            Ok(())
        };
        let threads: Vec<_> = boxes.chunks(share).map(|part| scope.spawn(move || issue(part))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no certificate panics"))
    })
}

/// Areas, sites and devices of a run of the usual mix, with sites along a grid of streets.
pub fn registry_text(boxes: &[Mix]) -> String {
    let mut text = String::from("[[area]]\nid = \"load\"\nname = \"Phường Tải\"\nkind = \"ward\"\n");
    for site in 0..boxes.len().div_ceil(BOXES_PER_SITE) {
        let (lat, lon) = (10.70 + (site / 100) as f64 * 0.001, 106.60 + (site % 100) as f64 * 0.001);
        let _ = write!(
            text,
            "[[site]]\nid = \"site-{site:05}\"\nname = \"Điểm {site}\"\naddress = \"{site} đường Tải\"\narea = \"load\"\n\
             owner = \"Phường Tải\"\npoint = {{ lat = {lat:.6}, lon = {lon:.6} }}\n"
        );
    }
    for (n, mix) in boxes.iter().enumerate() {
        let place = format!("site = \"site-{:05}\"\nbox = \"{}\"\n", n / BOXES_PER_SITE, mix.box_id);
        let _ = write!(
            text,
            "[[device]]\nid = \"{0}\"\nname = \"{0}\"\nkind = \"camera\"\n{place}\
             view = {{ heading_deg = 90.0, angle_deg = 80.0, reach_m = 35.0 }}\n",
            mix.camera
        );
        if let Some(cabinet) = &mix.cabinet {
            let _ = write!(
                text,
                "[[device]]\nid = \"{cabinet}\"\nname = \"{cabinet}\"\nkind = \"lamp\"\n{place}lamps = 320\n"
            );
        }
    }
    text
}

fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::config::HubConfig;
    use crate::hub::registry::RegistryFile;
    use crate::toml_file::ConfigFile;

    #[test]
    fn the_hub_takes_the_files() {
        crate::tls::install_crypto();
        let dir = tempfile::tempdir().unwrap();
        let mixes: Vec<Mix> = (0..25).map(|n| Mix::of_box(n, 1)).collect();
        let boxes: Vec<BoxId> = mixes.iter().map(|mix| mix.box_id.clone()).collect();
        let text = registry_text(&mixes);
        let world = World::prepare(dir.path(), &boxes, &text, None).unwrap();
        HubConfig::load(&world.config_path()).unwrap();
        RegistryFile::load(&world.dir.join("load-ward.toml")).unwrap();
        for box_id in &boxes {
            crate::tls::client_config(&world.identity(box_id)).unwrap();
        }
        let again = World::prepare(dir.path(), &boxes, &text, Some("127.0.0.1:1")).unwrap();
        HubConfig::load(&again.config_path()).unwrap();
        let strange = tempfile::tempdir().unwrap();
        let error = World::prepare(strange.path(), &boxes, &text, Some("127.0.0.1:1")).err().unwrap();
        assert!(error.to_string().contains("camnet hub init"), "{error}");
    }

    #[test]
    fn percentiles_come_from_what_was_added() {
        let text = "a_seconds_bucket{le=\"0.1\"} 10\na_seconds_bucket{le=\"0.2\"} 20\na_seconds_bucket{le=\"+Inf\"} 20\n\
                    b_seconds_bucket{le=\"0.1\"} 9\n";
        let after = read_histogram(text, "a_seconds");
        assert_eq!(after.len(), 3);
        assert_eq!(percentile_ms(&[], &after, 0.5), Some(100.0));
        let before = [(0.1, 10), (0.2, 10), (f64::INFINITY, 10)];
        assert_eq!(percentile_ms(&before, &after, 0.5), Some(150.00000000000003));
        assert_eq!(percentile_ms(&after, &after, 0.5), None, "nothing was added");
    }
}
