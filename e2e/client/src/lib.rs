//! The demo's clients, as a pod: it replays a real trace through a Service, counts what became of each request, and says so over
//! HTTP. It also keeps a training gang's checkpoint, so that the demo needs no volume.
//!
//! | path | |
//! |---|---|
//! | `GET /tally` | a [`Tally`] |
//! | `GET /reachable` | whether the Service takes a connection: nodes refuse them until they know of it |
//! | `POST /replay?requests=N` | sends the first N requests of the trace, each at its time; 202, or 409 while one runs |
//! | `POST /ask?prompt=P&answer=A` | sends one, and answers with its [`Answer`] |
//! | `POST /refused` | sends one that is to be refused, and counts it as neither served nor lost |
//! | `GET`, `PUT /checkpoint` | the last bytes that were put; 404 before |

pub mod serve;
pub mod tally;
pub mod trace;

mod sender;

pub use sender::Sender;
pub use tally::{Answer, Tally};
