//! Commands and their output.
//!
//! Owns arguments, logging set-up and signals. Holds no logic: each command calls the part that does the work.

#[cfg(feature = "hub")]
mod boxes;
#[cfg(feature = "hub")]
mod device;
#[cfg(feature = "edge")]
mod enrol;
mod journal;
#[cfg(feature = "hub")]
mod lamp;
#[cfg(feature = "edge")]
mod probe;
#[cfg(feature = "hub")]
mod replay;
mod search;

use std::path::PathBuf;

#[cfg(any(feature = "edge", feature = "hub"))]
use crate::toml_file::ConfigFile;
use clap::{Args, Parser, Subcommand};
#[cfg(any(feature = "edge", feature = "hub"))]
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Event ingestion for community camera networks.
#[derive(Debug, Parser)]
#[command(name = "camnet", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The agent on a box: cameras and lamp cabinets in, events and clips out.
    #[cfg(feature = "edge")]
    Edge(EdgeArgs),
    /// The ingest daemon: takes what the boxes hand over, and answers those who may ask.
    #[cfg(feature = "hub")]
    Hub(HubArgs),
    /// Look after a journal: of a hub, an outbox or a ring.
    Journal(journal::JournalArgs),
    /// How devices are doing, and why.
    #[cfg(feature = "hub")]
    Device(device::DeviceArgs),
    /// Find footage by time and place.
    Search(Box<search::SearchArgs>),
    /// Many boxes at once against a real hub on this machine: rates, latencies, losses.
    #[cfg(all(feature = "edge", feature = "hub"))]
    Load(crate::load::LoadArgs),
    /// A small ward on this machine: broker, hub, camera boxes and a lamp box, on real RTSP and Modbus servers.
    #[cfg(feature = "demo")]
    Demo(crate::demo::DemoArgs),
}

impl Cli {
    /// What must be said to the C library before the first thread starts.
    pub fn settle_memory(&self) {
        #[cfg(feature = "edge")]
        if let Command::Edge(_) = self.command {
            crate::edge::memory::settle();
        }
    }
}

/// Which configuration file, and whether only to check it.
#[derive(Debug, Args)]
struct ConfigArgs {
    /// The configuration file (TOML).
    #[arg(long)]
    config: PathBuf,
    /// Only read and check the file, then exit.
    #[arg(long)]
    check: bool,
}

#[cfg(feature = "edge")]
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct EdgeArgs {
    #[command(subcommand)]
    command: Option<EdgeCommand>,
    #[command(flatten)]
    config: Option<ConfigArgs>,
}

#[cfg(feature = "edge")]
#[derive(Debug, Subcommand)]
enum EdgeCommand {
    /// Say what a camera can do and what is wrong with it; exit code 1 where it can't be recorded.
    Probe(probe::ProbeArgs),
    /// Make this machine a box: unpack the file that `camnet device enroll` made, or come with its invitation.
    Enroll(enrol::EdgeEnrolArgs),
}

#[cfg(feature = "hub")]
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct HubArgs {
    #[command(subcommand)]
    command: Option<HubCommand>,
    #[command(flatten)]
    config: Option<ConfigArgs>,
}

#[cfg(feature = "hub")]
#[derive(Debug, Subcommand)]
enum HubCommand {
    /// Make the CA, the hub's certificates, an example configuration and registry in a new folder.
    Init {
        #[arg(long)]
        dir: PathBuf,
        /// Host names and addresses under which boxes reach the hub; loopback is always among them.
        #[arg(long = "name")]
        names: Vec<String>,
        /// Also make a client certificate for this box; may be given several times.
        #[arg(long = "box")]
        boxes: Vec<crate::model::BoxId>,
    },
    /// Rebuild the index from the journal, while the hub runs or not.
    Reindex {
        #[arg(long)]
        config: PathBuf,
    },
    /// Switch or dim a lamp circuit through a running hub, if its box allows it.
    Lamp(lamp::LampArgs),
}

/// Runs the command until it is done or a signal ends it.
pub async fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        #[cfg(feature = "edge")]
        Command::Edge(EdgeArgs { command: Some(EdgeCommand::Probe(args)), .. }) => probe::run(args).await,
        #[cfg(feature = "edge")]
        Command::Edge(EdgeArgs { command: Some(EdgeCommand::Enroll(args)), .. }) => {
            enrol::enrol_edge(args).await
        }
        #[cfg(feature = "edge")]
        Command::Edge(EdgeArgs { command: None, config }) => {
            start_logging();
            let args = config.expect("clap asks for it where there is no subcommand");
            let config = crate::edge::config::EdgeConfig::load(&args.config)?;
            if args.check {
                crate::edge::lamp_plans(&config)?;
                println!("{}: good; box {}", args.config.display(), config.box_id);
                return Ok(());
            }
            crate::edge::run_from_file(&args.config, until_signal()).await
        }
        #[cfg(feature = "hub")]
        Command::Hub(HubArgs { command: None, config }) => {
            start_logging();
            let args = config.expect("clap asks for it where there is no subcommand");
            let config = crate::hub::config::HubConfig::load(&args.config)?;
            if args.check {
                crate::hub::registry::RegistryFile::load(&config.registry)?;
                for file in config.secret_files() {
                    crate::tls::check_secret_file(file)?;
                }
                println!("{}: good; registry {}", args.config.display(), config.registry.display());
                return Ok(());
            }
            let shutdown = until_signal();
            let hub = crate::hub::Hub::build(config).await?;
            hub.run(shutdown).await
        }
        #[cfg(feature = "hub")]
        Command::Hub(HubArgs { command: Some(HubCommand::Init { dir, names, boxes }), .. }) => {
            crate::hub::init(&dir, &names, &boxes)
        }
        #[cfg(feature = "hub")]
        Command::Hub(HubArgs { command: Some(HubCommand::Reindex { config }), .. }) => {
            start_logging();
            let config = crate::hub::config::HubConfig::load(&config)?;
            crate::hub::reindex::reindex(config, |line| println!("{line}")).await
        }
        #[cfg(feature = "hub")]
        Command::Hub(HubArgs { command: Some(HubCommand::Lamp(args)), .. }) => lamp::run(args).await,
        Command::Journal(args) => journal::run(args).await,
        #[cfg(feature = "hub")]
        Command::Device(args) => device::run(args).await,
        Command::Search(args) => search::run(*args).await,
        #[cfg(all(feature = "edge", feature = "hub"))]
        Command::Load(args) => {
            start_logging();
            crate::load::run(args, until_signal()).await
        }
        #[cfg(feature = "demo")]
        Command::Demo(args) => crate::demo::run(args, until_signal()).await,
    }
}

/// Logs go to standard error: text on a terminal, JSON otherwise. `CAMNET_LOG` sets the level, for instance
/// `debug` or `camnet::edge=debug,info`.
#[cfg(any(feature = "edge", feature = "hub"))]
fn start_logging() {
    use std::io::IsTerminal;
    let is_terminal = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(log_filter()).with_writer(std::io::stderr);
    // It fails only where logging was set up before.
    let _ = if is_terminal { builder.try_init() } else { builder.json().try_init() };
}

/// What is logged: `CAMNET_LOG`, or our own at info and the libraries' at warn.
pub fn log_filter() -> EnvFilter {
    EnvFilter::try_from_env("CAMNET_LOG").unwrap_or_else(|_| EnvFilter::new("warn,camnet=info"))
}

/// A token that the first SIGINT or SIGTERM cancels; the second one ends the process at once.
#[cfg(any(feature = "edge", feature = "hub"))]
fn until_signal() -> CancellationToken {
    use tokio::signal::unix::{SignalKind, signal};
    let shutdown = CancellationToken::new();
    let token = shutdown.clone();
    // Caught from here on, not only when the task below first runs.
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        tracing::error!("signals can't be caught; only SIGKILL stops this process");
        return shutdown;
    };
    tokio::spawn(async move {
        for is_first in [true, false] {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if is_first {
                tracing::info!("stopping; another signal stops at once");
                token.cancel();
            }
        }
        std::process::exit(130);
    });
    shutdown
}
