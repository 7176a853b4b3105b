//! `camnet hub lamp`: tells a lamp circuit what to do, through a running hub.
//!
//! Owns arguments and output. The hub records who asks, and the box decides whether it does it.

use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde_json::Value;

use crate::hub::web::lamp::{LampAsked, OnOff};
use crate::limits::{COMMAND_RESULT_GRACE, LAMP_COMMAND_VALID, LAMP_COMMAND_VALID_MAX};
use crate::model::DeviceId;

#[derive(Debug, Args)]
pub struct LampArgs {
    /// The hub's address.
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    hub: String,
    /// The lamp cabinet's id.
    #[arg(long)]
    device: DeviceId,
    /// Number of the circuit.
    #[arg(long)]
    circuit: u16,
    /// The box refuses the command when it arrives later than this.
    #[arg(long, default_value_t = LAMP_COMMAND_VALID.as_secs(), value_name = "SECONDS")]
    valid: u64,
    /// Why; goes into the access log and the box's own record.
    #[arg(long, default_value = "")]
    purpose: String,
    #[command(subcommand)]
    act: Act,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum Act {
    On,
    Off,
    /// Dim to so many per cent.
    Dim {
        percent: u8,
    },
}

pub async fn run(args: LampArgs) -> anyhow::Result<()> {
    let (switch, dim_percent) = match args.act {
        Act::On => (Some(OnOff::On), None),
        Act::Off => (Some(OnOff::Off), None),
        Act::Dim { percent } => (None, Some(percent)),
    };
    let purpose = Some(args.purpose).filter(|purpose| !purpose.trim().is_empty());
    let asked = LampAsked { circuit: args.circuit, switch, dim_percent, valid_s: Some(args.valid), purpose };
    let url = format!("{}/api/v1/devices/{}/lamp", args.hub.trim_end_matches('/'), args.device);
    let within = Duration::from_secs(args.valid).min(LAMP_COMMAND_VALID_MAX) + 2 * COMMAND_RESULT_GRACE;
    let client = reqwest::Client::builder().timeout(within).build()?;
    let response = client.post(&url).json(&asked).send().await;
    let response = response.with_context(|| format!("no hub answers at {}; is it running?", args.hub))?;
    let status = response.status();
    let body: Value = response.json().await.with_context(|| format!("{url} did not answer with JSON"))?;
    if !status.is_success() {
        let text = |key: &str| body[key].as_str().unwrap_or_default();
        bail!("{}: {}", text("title"), text("detail"));
    }
    let state = if body["on"] == true { "on" } else { "off" };
    let dim =
        body["dim_percent"].as_f64().map_or(String::new(), |percent| format!(", dimmed to {percent:.0} %"));
    let correlation = body["correlation"].as_str().unwrap_or_default();
    println!("{} circuit {} is {state}{dim}; command {correlation}", args.device, args.circuit);
    Ok(())
}
