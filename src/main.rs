//! `camnet`: one binary for box, hub, search and demo.

use std::process::ExitCode;

use camnet::cli::{self, Cli};
use clap::Parser;

fn main() -> ExitCode {
    let cli = Cli::parse();
    cli.settle_memory();
    camnet::tls::install_crypto();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("camnet: the async runtime can't start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(cli::run(cli));
    // A blocking thread that hangs in a system call must not keep the process.
    runtime.shutdown_timeout(camnet::limits::DRAIN_MAX);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("camnet: {error:#}");
            ExitCode::FAILURE
        }
    }
}
