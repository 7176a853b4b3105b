//! How the box and its cameras are doing.
//!
//! Owns what is measured and tried to find out, and when it is said: by exception, and at a slow heartbeat. May not
//! infer why: several boxes know more together than one (the hub's fleet).

pub mod camera;
pub mod due;
pub mod eye;
pub mod machine;
pub mod picture;
pub mod self_test;
pub mod this_box;
