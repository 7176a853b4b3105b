//! Every integration test, in one binary: real processes, a real broker, real HTTP, on loopback.

mod alerts;
mod bad_camera;
mod bad_input;
mod chaos;
mod contracts;
mod copies;
mod dashboard;
mod delivery;
mod demo;
mod enrol;
mod faults;
mod footage;
mod gateway;
mod interop;
mod lamp;
mod lamp_command;
mod layers;
mod makes;
mod parsers;
mod probe;
mod proxy;
mod reindex;
mod search;
mod traps;
mod world;
