//! Keeps the map of `src/lib.rs` true: who may know whom, and who alone names a foreign library.

use std::path::{Path, PathBuf};

/// For each top-level module those it may use; a module that is not listed here fails the test.
const MAY_USE: &[(&str, &[&str])] = &[
    ("limits", &[]),
    ("model", &["limits"]),
    ("wire", &["limits", "model"]),
    ("journal", &["limits"]),
    ("tls", &["limits", "wire"]),
    ("toml_file", &[]),
    ("metrics", &[]),
    ("outage", &[]),
    ("mqtt", &["limits", "outage"]),
    ("broker", &["limits", "model", "wire", "tls", "mqtt"]),
    ("media", &["limits", "model"]),
    (
        "edge",
        &["limits", "model", "wire", "journal", "tls", "toml_file", "metrics", "outage", "mqtt", "media"],
    ),
    (
        "hub",
        &[
            "limits",
            "model",
            "wire",
            "journal",
            "tls",
            "toml_file",
            "metrics",
            "outage",
            "mqtt",
            "broker",
            "media",
        ],
    ),
    ("demo", &["limits", "model", "tls", "toml_file", "media", "edge", "hub"]),
    ("load", &["limits", "model", "wire", "tls", "toml_file", "mqtt", "edge", "hub"]),
    ("cli", &["limits", "model", "wire", "journal", "tls", "toml_file", "edge", "hub", "load", "demo"]),
];

/// A foreign library and the only files that may name it.
const NAMED_BY: &[(&str, &str)] = &[
    ("rumqttc::", "src/mqtt/"),
    ("rmqtt::", "src/broker"),
    ("gstreamer", "src/media/"),
    ("retina::", "src/edge/camera"),
    ("roxmltree::", "src/edge/camera/onvif"),
    ("sled::", "src/hub/catalog/embedded"),
    ("tokio_modbus", "src/edge/lamp/bus"),
];

/// `(file, what it may not name)`: ingest and search meet only in the catalog.
const APART: &[(&str, &str)] = &[
    ("src/hub/ingest", "search"),
    ("src/hub/ingest", "web"),
    ("src/hub/search", "ingest"),
    ("src/hub/search", "truth"),
    ("src/hub/catalog", "ingest"),
    ("src/hub/catalog", "search"),
];

fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    let mut folders = vec![root.join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && name != "node_modules" && name != "console" {
                folders.push(path);
            } else if name.ends_with(".rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                files.push((path.strip_prefix(root).unwrap().to_string_lossy().into_owned(), text));
            }
        }
    }
    assert!(files.len() > 20, "the sources were not found");
    files
}

/// Lines of code without comments, with their numbers. Unit tests, which stand last in a file, may use what they
/// test against.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or("");
    code.lines().enumerate().map(|(n, line)| (n + 1, line.split("//").next().unwrap_or("")))
}

/// Top-level modules that a line uses: every `crate::name`.
fn used(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices("crate::").map(|(at, found)| {
        let rest = &line[at + found.len()..];
        rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or("")
    })
}

#[test]
fn modules_use_only_what_stands_before_them() {
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        let module = file.trim_start_matches("src/").split(['/', '.']).next().unwrap();
        if ["main", "lib"].contains(&module) {
            continue;
        }
        let Some((_, may_use)) = MAY_USE.iter().find(|(name, _)| *name == module) else {
            wrong.push(format!("{file}: module {module} has no line in MAY_USE"));
            continue;
        };
        // Unit tests may use what they test against.
        if file.ends_with("/tests.rs") {
            continue;
        }
        for (n, line) in code(&text) {
            for name in used(line).filter(|name| *name != module && !name.is_empty()) {
                if !may_use.contains(&name) {
                    wrong.push(format!("{file}:{n}: {module} may not use {name}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_foreign_library_is_named_in_one_place() {
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        for (library, home) in NAMED_BY {
            let is_demo_world = *library == "tokio_modbus" && file.starts_with("src/demo/cabinet");
            for (n, line) in code(&text) {
                if line.contains(library) && !file.starts_with(home) && !is_demo_world {
                    wrong.push(format!("{file}:{n}: only {home} may name {library}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn ingest_and_search_meet_only_in_the_catalog() {
    let mut wrong = Vec::new();
    for (file, text) in sources().into_iter().filter(|(file, _)| !file.ends_with("/tests.rs")) {
        for (home, stranger) in APART {
            let paths = [format!("super::{stranger}"), format!("hub::{stranger}")];
            for (n, line) in code(&text) {
                if file.starts_with(home) && paths.iter().any(|path| line.contains(path)) {
                    wrong.push(format!("{file}:{n}: may not name {stranger}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_file_says_what_it_owns() {
    let silent: Vec<String> =
        sources().into_iter().filter(|(_, text)| !text.starts_with("//!")).map(|(file, _)| file).collect();
    assert!(silent.is_empty(), "no //! at the top of {silent:?}");
}
