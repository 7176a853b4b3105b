//! One binary for every parser of `parsers.rs`: `CAMNET_PARSER` says which. Linking one instead of twenty keeps
//! `make fuzz` short; libFuzzer sees only the parser that runs.
#![no_main]

use std::sync::LazyLock;

#[path = "../parsers.rs"]
mod parsers;

static PARSER: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("CAMNET_PARSER").unwrap_or_default();
    match parsers::PARSERS.iter().find(|(known, _)| *known == name) {
        Some((_, parser)) => *parser,
        None => {
            let names: Vec<&str> = parsers::PARSERS.iter().map(|(name, _)| *name).collect();
            eprintln!("CAMNET_PARSER={name:?}: set it to one of {}", names.join(" "));
            std::process::exit(2);
        }
    }
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| PARSER(bytes));
