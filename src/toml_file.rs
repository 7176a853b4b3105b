//! Configuration files: TOML in, typed, every error with the file's name.
//!
//! Owns reading and how paths in a file are meant. May not know what a program's file says: edge and hub do.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

/// What is wrong with a configuration file.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{path}: can't be read")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}: {source}")]
    Syntax { path: PathBuf, source: Box<toml::de::Error> },
    #[error("{path}: {what}")]
    Content { path: PathBuf, what: String },
}

/// A program's configuration file.
pub trait ConfigFile: DeserializeOwned {
    /// What no type can say; the text names the key and what to do.
    fn check(&self) -> Result<(), String>;

    /// The paths in it. Relative ones are relative to the file.
    fn paths_mut(&mut self) -> Vec<&mut PathBuf>;

    /// Reads the file, checks it, and makes its paths absolute or relative to here.
    fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(path, &text)
    }

    /// As [`ConfigFile::load`], from text; `path` is for errors and relative paths.
    fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let mut config: Self = toml::from_str(text)
            .map_err(|source| ConfigError::Syntax { path: path.to_owned(), source: Box::new(source) })?;
        config.check().map_err(|what| ConfigError::Content { path: path.to_owned(), what })?;
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        for file in config.paths_mut() {
            *file = folder.join(&file);
        }
        Ok(config)
    }
}
