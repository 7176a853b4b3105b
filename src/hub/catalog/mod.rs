//! The catalog: the index that ingest writes and search reads.
//!
//! Owns the trait. No type of an engine or a file system may leak through it: the embedded engine is
//! `embedded` (sled), a PostgreSQL one comes later and answers the same.
