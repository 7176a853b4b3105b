//! The index thrown away and built anew from the journal, while the hub runs or stands still.
//!
//! Owns the rebuild and what is told of it. A new index is built beside the old one and takes its place when it is
//! whole, so search goes on meanwhile and a crash changes nothing. May not touch the journal.

use std::path::{Path, PathBuf};
use std::sync::{Arc, LockResult, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::catalog::Catalog;
use super::catalog::embedded::Sizes;
use super::catalog::live::{self, Live};
use super::config::HubConfig;
use super::indexer::Indexer;
use super::truth::TruthRecords;
use crate::journal::{Journal, JournalError};
use crate::limits::{COMMIT_EVENTS_MAX, REINDEX_ROUNDS_MAX};

/// What the hub does with its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum IndexState {
    /// It follows the journal; no rebuild was asked for since the start.
    Following,
    Rebuilding,
    /// It follows the journal; the last rebuild took its place.
    Rebuilt,
    /// It follows the journal; the last rebuild failed, the old index stays in use.
    Failed,
}

/// How the index is, and how far a rebuild of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct IndexReport {
    pub state: IndexState,
    /// Records of the journal that the index in use has.
    pub applied: u64,
    /// Its bytes on disk.
    pub bytes: u64,
    /// Records that the rebuild has done, of so many.
    pub done: u64,
    pub all: u64,
    pub rate_per_s: f64,
    /// Seconds that the rebuild goes on at this rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_s: Option<f64>,
    /// Why the last rebuild failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Rebuilds the index of a running hub, one rebuild at a time.
pub struct Rebuilder {
    live: Arc<Live>,
    journal_dir: PathBuf,
    progress: Arc<Mutex<Progress>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    stop: CancellationToken,
}

#[derive(Debug, Clone)]
struct Progress {
    state: IndexState,
    done: u64,
    all: u64,
    began: Instant,
    took: Duration,
    error: Option<String>,
}

/// Why a rebuild does not begin.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    #[error("the index is being rebuilt already")]
    Running,
    #[error("the thread of the rebuild can't start")]
    Thread(#[source] std::io::Error),
}

impl Rebuilder {
    pub fn new(live: Arc<Live>, journal_dir: PathBuf) -> Self {
        let progress = Progress {
            state: IndexState::Following,
            done: 0,
            all: 0,
            began: Instant::now(),
            took: Duration::ZERO,
            error: None,
        };
        Self {
            live,
            journal_dir,
            progress: Arc::new(Mutex::new(progress)),
            thread: Mutex::default(),
            stop: CancellationToken::new(),
        }
    }

    /// Begins a rebuild and returns at once.
    pub fn start(&self) -> Result<(), RebuildError> {
        let mut thread = unlocked(self.thread.lock());
        if thread.as_ref().is_some_and(|t| !t.is_finished()) {
            return Err(RebuildError::Running);
        }
        *unlocked(self.progress.lock()) = Progress {
            state: IndexState::Rebuilding,
            done: 0,
            all: self.live.applied(),
            began: Instant::now(),
            took: Duration::ZERO,
            error: None,
        };
        let (live, journal_dir) = (self.live.clone(), self.journal_dir.clone());
        let (progress, stop) = (self.progress.clone(), self.stop.clone());
        let work = move || {
            let tell = |done: u64, all: u64| {
                anyhow::ensure!(!stop.is_cancelled(), "the hub is stopping");
                let mut progress = unlocked(progress.lock());
                (progress.done, progress.all, progress.took) = (done, all, progress.began.elapsed());
                Ok(())
            };
            let result = rebuild_live(&live, &journal_dir, tell);
            let mut progress = unlocked(progress.lock());
            progress.took = progress.began.elapsed();
            match result {
                Ok(records) => {
                    tracing::info!(records, took_ms = progress.took.as_millis() as u64, "index rebuilt");
                    (progress.state, progress.done, progress.all) = (IndexState::Rebuilt, records, records);
                }
                Err(error) => {
                    tracing::error!(error = format!("{error:#}"), "index not rebuilt; the old one stays");
                    (progress.state, progress.error) = (IndexState::Failed, Some(format!("{error:#}")));
                }
            }
        };
        let spawned = std::thread::Builder::new().name("reindex".into()).spawn(work);
        *thread = Some(spawned.map_err(RebuildError::Thread)?);
        Ok(())
    }

    pub fn report(&self) -> IndexReport {
        let Progress { state, done, all, took, error, .. } = unlocked(self.progress.lock()).clone();
        let index = self.live.index();
        let rate_per_s = if took.is_zero() { 0.0 } else { done as f64 / took.as_secs_f64() };
        let is_known = state == IndexState::Rebuilding && rate_per_s > 0.0;
        let left_s = is_known.then(|| (all.saturating_sub(done)) as f64 / rate_per_s);
        IndexReport {
            state,
            applied: index.applied(),
            bytes: index.bytes(),
            done,
            all,
            rate_per_s,
            left_s,
            error,
        }
    }

    /// Ends a rebuild that is under way; the old index stays in use. Blocking.
    pub fn stop(&self) {
        self.stop.cancel();
        if let Some(thread) = unlocked(self.thread.lock()).take()
            && thread.join().is_err()
        {
            tracing::error!("the rebuild of the index panicked");
        }
    }
}

/// Builds a second index while the first one goes on, until it has nearly caught up; then it takes the place.
fn rebuild_live(
    live: &Live,
    journal_dir: &Path,
    mut progress: impl FnMut(u64, u64) -> anyhow::Result<()>,
) -> anyhow::Result<u64> {
    let new = live.begin()?;
    let number = new.number;
    let mut indexer = Indexer::new(journal_dir.to_owned(), new.index.clone());
    let mut follow = || {
        for _ in 0..REINDEX_ROUNDS_MAX {
            let upto = live.applied();
            indexer.catch_up(upto, &mut progress)?;
            if live.applied() - upto <= COMMIT_EVENTS_MAX as u64 {
                break;
            }
        }
        anyhow::Ok(())
    };
    let followed = follow();
    if let Err(error) = followed {
        drop(indexer);
        live.abandon(new);
        return Err(error).with_context(|| format!("generation {number} of the index"));
    }
    live.exchange(new, move |upto| indexer.catch_up(upto, &mut progress))
}

/// Builds the index of a hub that is not running. Returns how many records went into it.
pub fn rebuild_offline(
    data_dir: &Path,
    sizes: Sizes,
    mut progress: impl FnMut(u64, u64) -> anyhow::Result<()>,
) -> Result<u64, OfflineError> {
    // Open all the while, so that no hub can start.
    let (journal, _) = Journal::open(&data_dir.join("journal"))?;
    let folder = data_dir.join("index");
    let mut build = || {
        let new = live::begin(&folder, &TruthRecords::of(&journal), sizes)?;
        let mut indexer = Indexer::new(journal.dir().to_owned(), new.index.clone());
        indexer.catch_up(journal.next(), &mut progress)?;
        drop(indexer);
        new.index.flush()?;
        live::adopt(&folder, new.number)?;
        let number = new.number;
        drop(new);
        live::tidy(&folder, number)?;
        Ok(journal.next())
    };
    build().map_err(OfflineError::Build)
}

/// Why the index of a stopped hub was not built.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    #[error("the hub's journal")]
    Journal(#[from] JournalError),
    #[error("the index can't be built")]
    Build(#[source] anyhow::Error),
}

/// `camnet hub reindex`: asks the hub to rebuild its index if it runs, else builds it here. `tell` prints.
pub async fn reindex(config: HubConfig, tell: impl Fn(String) + Send + 'static) -> anyhow::Result<()> {
    let data_dir = config.data_dir.clone();
    let (tell, began) = (Arc::new(Mutex::new(tell)), Instant::now());
    let say = {
        let tell = tell.clone();
        move |line: String| unlocked(tell.lock())(line)
    };
    let here = {
        let say = say.clone();
        let mut last = Instant::now();
        let progress = move |done: u64, all: u64| {
            if last.elapsed() >= TELL_EVERY {
                last = Instant::now();
                say(line(done, all, done as f64 / began.elapsed().as_secs_f64()));
            }
            Ok(())
        };
        tokio::task::spawn_blocking(move || rebuild_offline(&data_dir, Sizes::default(), progress)).await?
    };
    let records = match here {
        Ok(records) => records,
        Err(OfflineError::Journal(JournalError::Locked { .. })) => {
            say("the hub is running: it rebuilds its index itself".into());
            ask_running(&config, &say).await?
        }
        Err(error) => return Err(error.into()),
    };
    say(format!("index rebuilt from {records} records in {:.1} s", began.elapsed().as_secs_f64()));
    Ok(())
}

const TELL_EVERY: Duration = Duration::from_secs(1);

fn line(done: u64, all: u64, rate_per_s: f64) -> String {
    let left = if rate_per_s > 0.0 { all.saturating_sub(done) as f64 / rate_per_s } else { 0.0 };
    format!("{done} of {all} records, {rate_per_s:.0} per second, {left:.0} s left")
}

async fn ask_running(config: &HubConfig, say: &impl Fn(String)) -> anyhow::Result<u64> {
    let url = format!("http://{}/api/v1/index", config.officers.listen);
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build()?;
    let asked = client.post(format!("{url}/rebuild")).json(&serde_json::json!({})).send().await;
    let asked = asked.with_context(|| format!("no hub answers at {url}, yet its journal is in use"))?;
    let status = asked.status();
    let body: serde_json::Value = asked.json().await.with_context(|| format!("{url}: {status}"))?;
    anyhow::ensure!(status.is_success(), "{status}: {}", body["detail"].as_str().unwrap_or_default());
    loop {
        tokio::time::sleep(TELL_EVERY / 4).await;
        let report: IndexReport = client.get(&url).send().await?.error_for_status()?.json().await?;
        match report.state {
            IndexState::Rebuilding => say(line(report.done, report.all, report.rate_per_s)),
            IndexState::Rebuilt => return Ok(report.done),
            IndexState::Failed => anyhow::bail!("{}", report.error.unwrap_or_default()),
            IndexState::Following => anyhow::bail!("the hub was started anew; ask again"),
        }
    }
}

fn unlocked<T>(lock: LockResult<T>) -> T {
    lock.unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests;
