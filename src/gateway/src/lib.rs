//! Holds requests while a service has no ready replica, and forwards them when it has.
