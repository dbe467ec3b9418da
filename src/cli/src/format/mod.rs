//! How text is laid out.
//!
//! | module | subject |
//! |---|---|
//! | `description` | names with their values, wrapped, as `kubectl describe` prints them |
//! | `table` | tables, as `kubectl get` prints them |

pub(crate) mod description;
pub(crate) mod table;
