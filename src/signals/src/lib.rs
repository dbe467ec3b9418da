//! Measured demand: one module a source.
