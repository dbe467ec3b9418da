//! Reconciles the resources: observe, plan, build, apply, status.
