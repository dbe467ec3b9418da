//! Lease, admin server, metrics registry, shutdown, tracing.
