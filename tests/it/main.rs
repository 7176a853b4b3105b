//! Every integration test, in one binary: real processes, a real broker, real HTTP, on loopback.

mod contracts;
mod layers;
mod world;
