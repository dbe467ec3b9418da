//! `-O`, the file that a command writes to.

use std::path::{Path, PathBuf};

use clap::Args;

/// The file that a command writes to.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct OutputFileArgs {
    /// File to write to [default: standard output].
    #[arg(short = 'O', long, value_name = "FILE")]
    output_file: Option<PathBuf>,
    /// The former name of --output-file, against kubectl, whose -f is an input file.
    #[arg(
        short = 'f',
        long = "file",
        value_name = "FILE",
        hide = true,
        conflicts_with = "output_file"
    )]
    former: Option<PathBuf>,
}

impl OutputFileArgs {
    /// The file; `None` for standard output.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.output_file.as_deref().or(self.former.as_deref())
    }

    /// A warning for whoever uses the former name.
    pub(crate) fn warning(&self) -> Option<&'static str> {
        let text = "-f and --file will be removed: write the output file as -O or --output-file";
        self.former.as_ref().map(|_| text)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct TestArgs {
        #[command(flatten)]
        output: OutputFileArgs,
    }

    #[test]
    fn the_former_flag_works_with_a_warning() {
        for (words, path, warns) in [
            ("report", None, false),
            ("report -O new", Some("new"), false),
            ("report --output-file new", Some("new"), false),
            ("report -f old", Some("old"), true),
            ("report --file old", Some("old"), true),
        ] {
            let output = TestArgs::try_parse_from(words.split(' ')).unwrap().output;
            assert_eq!(output.path(), path.map(Path::new), "{words}");
            assert_eq!(output.warning().is_some(), warns, "{words}");
        }
        assert!(TestArgs::try_parse_from(["report", "-O", "new", "-f", "old"]).is_err());
    }
}
