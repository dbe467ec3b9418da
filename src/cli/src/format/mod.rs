//! How text is laid out, for a terminal or for a pipe.
//!
//! | module | subject |
//! |---|---|
//! | `terminal` | how wide text may be |
//! | `description` | names with their values, wrapped, as `kubectl describe` prints them |
//! | `table` | tables, as `kubectl get` prints them |
//! | `amounts` | amounts, hours and percentages of costs |

pub(crate) mod amounts;
pub(crate) mod description;
pub(crate) mod table;
pub(crate) mod terminal;
