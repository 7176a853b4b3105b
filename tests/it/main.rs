//! Every integration test, in one binary: real processes, a real broker, real HTTP, on loopback.

mod bad_input;
mod contracts;
mod delivery;
mod demo;
mod footage;
mod layers;
mod parsers;
mod reindex;
mod world;
