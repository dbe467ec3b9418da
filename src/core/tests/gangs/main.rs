//! Gangs on a small cluster whose controllers do what they are told: which of them start, and when.

#![allow(clippy::unwrap_used, clippy::panic)] // a test fails by ending

mod cluster;
mod cluster_queue;
mod node_autoscaling;
#[path = "../common/pods.rs"]
mod pods;
mod room_by_priority;
#[path = "../common/services.rs"]
mod services;
