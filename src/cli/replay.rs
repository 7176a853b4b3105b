//! `camnet journal replay`: offers again what a hub set aside, whether the hub runs or not.
//!
//! Owns arguments and output. If the hub runs (its journal is locked) it is asked to do it; else this does.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use jiff::Timestamp;
use serde_json::Value;

use crate::hub::config::HubConfig;
use crate::hub::replay::{Filter, Replayed};
use crate::model::{BoxId, PURPOSE_HEADER, purpose_to_header};
use crate::toml_file::ConfigFile;

#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// The hub's configuration file (TOML).
    #[arg(long)]
    config: PathBuf,
    /// Only what this box sent.
    #[arg(long = "box", value_name = "BOX")]
    box_id: Option<BoxId>,
    /// Only what was set aside for this reason, for instance not_allowed or newer_version.
    #[arg(long)]
    reason: Option<String>,
    /// Only what arrived at this time or later (RFC 3339).
    #[arg(long)]
    from: Option<Timestamp>,
    /// Only what arrived at this time or earlier (RFC 3339).
    #[arg(long)]
    to: Option<Timestamp>,
    /// Why; goes into the access log.
    #[arg(long, default_value = "")]
    purpose: String,
}

pub async fn run(args: ReplayArgs) -> anyhow::Result<()> {
    let config = HubConfig::load(&args.config)?;
    let filter = Filter { box_id: args.box_id, reason: args.reason, from: args.from, to: args.to };
    let purpose = Some(args.purpose).filter(|purpose| !purpose.trim().is_empty());
    let told = match crate::hub::replay_stopped(&config, &filter, purpose.clone()).await? {
        Some(told) => told,
        None => ask(&config, &filter, purpose).await?,
    };
    println!("{told}");
    Ok(())
}

async fn ask(config: &HubConfig, filter: &Filter, purpose: Option<String>) -> anyhow::Result<Replayed> {
    let url = format!("http://{}/api/v1/refused/replay", config.officers.listen);
    // A long journal takes its time; the hub answers when it is done.
    let client = reqwest::Client::builder().timeout(Duration::from_secs(3600)).build()?;
    let mut request = client.post(&url).json(filter);
    if let Some(purpose) = purpose {
        request = request.header(PURPOSE_HEADER, purpose_to_header(&purpose));
    }
    let response = request.send().await.with_context(|| {
        format!("the journal is in use, but no hub answers at {}", config.officers.listen)
    })?;
    let status = response.status();
    let body: Value = response.json().await.with_context(|| format!("{url} did not answer with JSON"))?;
    if !status.is_success() {
        let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
        bail!("{}: {}", text("title"), text("detail"));
    }
    Ok(serde_json::from_value(body)?)
}
