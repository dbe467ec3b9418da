use std::fmt;

/// What the estimate for a pod that has no node yet is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum EstimateBasis {
    /// The dearest node that takes it.
    #[default]
    Node,
    /// The dearest node that would take it if it were ready and not cordoned: none takes it now.
    ClosedNode,
    /// The highest listed price of its GPUs: no node would take it.
    Listed,
}

impl fmt::Display for EstimateBasis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Node => "on the dearest node that takes it",
            Self::ClosedNode => {
                "on the dearest node that would take it, none of which is ready and not cordoned"
            }
            Self::Listed => "by the highest listed price, since no node takes it",
        })
    }
}
