//! One JPEG out of a clip.
