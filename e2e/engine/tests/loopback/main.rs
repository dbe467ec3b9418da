//! The engine as clients, scrapers and Kubernetes see it: a process on the loopback interface.

mod clients;
mod ends;
mod support;
