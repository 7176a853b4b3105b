//! Reads lighting cabinets.
