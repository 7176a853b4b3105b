//! Tells cargo to embed the console anew when its built files change; rust-embed sees only those it knew.

use std::path::Path;

fn main() {
    let console = Path::new("src/hub/console");
    let dist = console.join("dist");
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_HUB").is_none() {
        return;
    }
    // Not built yet: watching a missing folder would rebuild every time, so watch where it will appear.
    let watched = if dist.is_dir() { &*dist } else { console };
    println!("cargo::rerun-if-changed={}", watched.display());
}
