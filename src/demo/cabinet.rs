//! A lighting cabinet.
