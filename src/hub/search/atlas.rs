//! The atlas: one version of the registry, made ready for questions.
//!
//! Owns its making, and the one that is kept: it is built once for each version of the history, so that a question
//! neither clones nor walks ten thousand placements.

use std::sync::{Arc, Mutex};

use super::answer::NameView;
use super::cameras::Cameras;
use super::lamps::Lamps;
use super::names::{Located, Names};
use crate::hub::registry::History;

/// A history with what is found in it by place and by name.
#[derive(Debug, Default)]
pub struct Atlas {
    history: Arc<History>,
    cameras: Cameras,
    names: Names,
    lamps: Lamps,
}

impl Atlas {
    /// Takes some tens of milliseconds for ten thousand cameras. Blocking.
    pub fn of(history: Arc<History>) -> Self {
        let (cameras, names, lamps) = (Cameras::of(&history), Names::of(&history), Lamps::of(&history));
        Self { history, cameras, names, lamps }
    }

    pub fn history(&self) -> &History {
        &self.history
    }

    pub fn cameras(&self) -> &Cameras {
        &self.cameras
    }

    pub fn lamps(&self) -> &Lamps {
        &self.lamps
    }

    pub fn names(&self) -> &Names {
        &self.names
    }

    /// The one area with this id or name, and the name that was used if it is a former one. Says what to do else.
    pub fn area(&self, text: &str) -> Result<(NameView, Option<String>), String> {
        self.names.area(text, &self.history)
    }

    /// The one point that the text names: coordinates, a map link, or a site, camera, street or address.
    pub fn locate(&self, text: &str) -> Result<Located, String> {
        self.names.locate(text)
    }
}

/// Keeps the atlas of the newest history that was asked about.
#[derive(Debug, Default)]
pub struct Atlases {
    newest: Mutex<Option<Arc<Atlas>>>,
}

impl Atlases {
    /// The atlas of `history`, made if it is not the one that is kept. Blocking; who comes meanwhile waits for it.
    pub fn of(&self, history: Arc<History>) -> Arc<Atlas> {
        let mut newest = self.newest.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(atlas) = newest.as_ref().filter(|a| Arc::ptr_eq(&a.history, &history)) {
            return atlas.clone();
        }
        let atlas = Arc::new(Atlas::of(history));
        *newest = Some(atlas.clone());
        atlas
    }
}
