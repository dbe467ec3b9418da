//! The demo's load generator, as a pod: it replays a recorded trace through a Service, counts the
//! outcomes of requests, and serves the counts over HTTP. It also stores the training job's
//! checkpoint, so that the demo needs no volume.
//!
//! | path | |
//! |---|---|
//! | `GET /tally` | a [`Tally`] |
//! | `GET /reachable` | whether the Service takes a connection: nodes refuse connections until kube-proxy knows it |
//! | `POST /replay?requests=N` | sends the first N requests of the trace, each at its time; 202, or 409 while one runs |
//! | `POST /ask?prompt=P&answer=A` | sends one, and answers with its [`Answer`] |
//! | `POST /refused` | sends one that should be refused, and does not count it |
//! | `GET`, `PUT /checkpoint` | the last bytes that were put; 404 before |

pub mod serve;
pub mod tally;
pub mod trace;

mod sender;

pub use sender::Sender;
pub use tally::{Answer, Tally};
