//! Any number of seeds of the simulation: `cargo bench --bench simulation -- --seeds N [--from S]`.
//!
//! Prints seeds per second, or the first seed that fails and how to see it again.

// The mutations are the tests' own.
#[allow(dead_code)]
#[path = "../tests/sim/simulation/mod.rs"]
mod simulation;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use simulation::Shared;

const SEEDS: u64 = 2_000;

fn main() {
    let (seeds, from) = (argument("--seeds").unwrap_or(SEEDS), argument("--from").unwrap_or(1));
    let (next, events, began) = (AtomicU64::new(from), AtomicU64::new(0), Instant::now());
    let failed: Mutex<Option<(u64, String)>> = Mutex::new(None);
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let shared = Shared::new();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from + seeds || failed.lock().expect("no panic holds it").is_some() {
                        return;
                    }
                    match shared.run(seed, None, false) {
                        Ok(made) => {
                            events.fetch_add(made, Ordering::Relaxed);
                        }
                        Err(problem) => {
                            failed.lock().expect("no panic holds it").get_or_insert((seed, problem));
                        }
                    }
                }
            });
        }
    });
    if let Some((seed, problem)) = failed.into_inner().expect("no panic holds it") {
        eprintln!("seed {seed}: {problem}");
        eprintln!("again: CAMNET_SIM_SEED={seed} cargo test --test sim -- replay --nocapture");
        std::process::exit(1);
    }
    let seconds = began.elapsed().as_secs_f64();
    let rate = seeds as f64 / seconds;
    println!("{seeds} seeds from {from}: {} events, 0 lost, {rate:.0} seeds/s", events.into_inner());
}

/// The number behind `name` on the command line.
fn argument(name: &str) -> Option<u64> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name).skip(1);
    arguments.next().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} wants a number")))
}
