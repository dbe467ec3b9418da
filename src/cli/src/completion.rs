//! `kubectl bursar completion`: scripts that complete commands and flags in a shell.

use std::io::Write;

use clap::{Args, Command, CommandFactory, ValueEnum};
use clap_complete::Shell;

/// How the scripts are installed.
pub(crate) const HELP: &str = "\
Example: source <(kubectl-bursar completion bash)

The script completes the command kubectl-bursar. kubectl completes `kubectl bursar` itself, by asking an executable
kubectl_complete-bursar in the PATH. To install one:
  printf '#!/bin/sh\\nexec kubectl-bursar __complete \"$@\"\\n' > ~/.local/bin/kubectl_complete-bursar
  chmod +x ~/.local/bin/kubectl_complete-bursar";

/// Arguments of `completion`.
#[derive(Debug, Args)]
pub(crate) struct CompletionArgs {
    /// The shell.
    #[arg(value_enum)]
    shell: CompletionShell,
}

/// A shell that has completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CompletionShell {
    Bash,
    Zsh,
    Fish,
}

/// Arguments of `__complete`, by which kubectl asks a plugin's completion.
#[derive(Debug, Args)]
pub(crate) struct CandidatesArgs {
    /// The words after `kubectl bursar`; the last is the one to complete.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

/// The program that a shell completes; kubectl calls the plugin by this name.
const PROGRAM: &str = "kubectl-bursar";
/// Cobra's directive to complete nothing else than the candidates: ShellCompDirectiveNoFileComp.
const NO_FILES: &str = ":4";
/// Cobra's directive to complete files where there is no candidate: ShellCompDirectiveDefault.
const FILES: &str = ":0";

/// Writes the script of a shell.
pub(crate) fn script<A: CommandFactory>(args: &CompletionArgs, out: &mut dyn Write) {
    let shell = match args.shell {
        CompletionShell::Bash => Shell::Bash,
        CompletionShell::Zsh => Shell::Zsh,
        CompletionShell::Fish => Shell::Fish,
    };
    let mut command = A::command().name(PROGRAM).bin_name(PROGRAM);
    clap_complete::generate(shell, &mut command, PROGRAM, out);
}

/// Candidates for the last of these words, a line each with its help, as kubectl reads it.
pub(crate) fn candidates<A: CommandFactory>(args: &CandidatesArgs) -> String {
    let (last, earlier) = match args.words.split_last() {
        Some((last, earlier)) => (last.as_str(), earlier),
        None => ("", [].as_slice()),
    };
    let root = A::command();
    let mut command = &root;
    for word in earlier {
        command = command.find_subcommand(word).unwrap_or(command);
    }
    let mut found: Vec<(String, String)> = Vec::new();
    if last.starts_with('-') {
        found.extend(flags(command));
        if !std::ptr::eq(command, &root) {
            found.extend(flags(&root));
        }
    } else {
        found.extend(values(command, earlier.last()));
        if found.is_empty() {
            found.extend(subcommands(command));
        }
    }
    found.retain(|(name, _)| name.starts_with(last));
    let directive = if found.is_empty() { FILES } else { NO_FILES };
    let lines = found.iter().map(|(name, help)| format!("{name}\t{help}\n"));
    lines.collect::<String>() + directive + "\n"
}

fn subcommands(command: &Command) -> impl Iterator<Item = (String, String)> {
    let shown = command.get_subcommands().filter(|each| !each.is_hide_set());
    shown.map(|each| (each.get_name().to_owned(), help(each.get_about())))
}

fn flags(command: &Command) -> impl Iterator<Item = (String, String)> {
    let shown = command.get_arguments().filter(|each| !each.is_hide_set());
    shown.filter_map(|each| Some((format!("--{}", each.get_long()?), help(each.get_help()))))
}

/// The values that the flag before the word, or else the command's argument, may have.
fn values(command: &Command, before: Option<&String>) -> Vec<(String, String)> {
    let flag = before.and_then(|word| {
        let is_meant = |each: &&clap::Arg| {
            let long = each.get_long().map(|long| format!("--{long}"));
            let short = each.get_short().map(|short| format!("-{short}"));
            long.as_ref() == Some(word) || short.as_ref() == Some(word)
        };
        command.get_arguments().find(is_meant)
    });
    let Some(argument) = flag.or_else(|| command.get_positionals().next()) else {
        return Vec::new();
    };
    let values = argument.get_possible_values();
    let shown = values.iter().filter(|each| !each.is_hide_set());
    shown
        .map(|each| (each.get_name().to_owned(), help(each.get_help())))
        .collect()
}

fn help(text: Option<&clap::builder::StyledStr>) -> String {
    let text = text.map(ToString::to_string).unwrap_or_default();
    text.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Arguments;

    fn completed(words: &str) -> Vec<String> {
        let args = CandidatesArgs {
            words: words.split(' ').map(str::to_owned).collect(),
        };
        let text = candidates::<Arguments>(&args);
        let names = text
            .lines()
            .map(|line| line.split('\t').next().unwrap_or(line));
        names.map(str::to_owned).collect()
    }

    #[test]
    fn commands_flags_and_values_are_completed_as_kubectl_asks() {
        assert_eq!(completed("rep"), ["report", ":4"]);
        assert_eq!(completed("pau"), ["pause", ":4"]);
        assert_eq!(completed("resume --a"), ["--all", ":4"]);
        assert_eq!(completed("ledger "), ["backup", "verify", "restore", ":4"]);
        assert_eq!(
            completed("report --o"),
            ["--output", "--output-file", "--overheads", ":4"]
        );
        assert_eq!(completed("report -o focus-c"), ["focus-csv", ":4"]);
        assert_eq!(completed("completion "), ["bash", "zsh", "fish", ":4"]);
        assert_eq!(completed("prices import con"), [":0"], "a file");
        assert!(!completed("").contains(&"__complete".to_owned()));
    }

    #[test]
    fn each_shell_has_a_script_for_the_plugin() {
        for shell in [
            CompletionShell::Bash,
            CompletionShell::Zsh,
            CompletionShell::Fish,
        ] {
            let mut bytes = Vec::new();
            script::<Arguments>(&CompletionArgs { shell }, &mut bytes);
            let text = String::from_utf8(bytes).unwrap();
            assert!(text.contains("kubectl-bursar") && text.contains("ledger"));
        }
    }
}
