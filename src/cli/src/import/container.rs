//! The containers of a pod template that stays where it is.

use serde_json::Value;

/// The most words of a command line that are looked at.
const MAX_WORDS: usize = 2000;

/// A container as far as an import looks at it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Container {
    pub(crate) name: String,
    pub(crate) image: String,
    /// The words of its command and arguments; those of a shell's script too.
    pub(crate) words: Vec<String>,
    /// Its ports, with their names.
    pub(crate) ports: Vec<(String, u16)>,
    /// Its variables.
    pub(crate) variables: Vec<(String, Variable)>,
}

/// The value of a variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Variable {
    /// Written out.
    Value(String),
    /// A key of a Secret.
    Secret { name: String, key: String },
    /// From somewhere else.
    Elsewhere,
}

/// The containers of a pod template.
pub(crate) fn containers(template: &Value) -> Vec<Container> {
    list(&template["spec"]["containers"])
        .map(Container::new)
        .collect()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Where one command of a shell ends and the next begins.
const SEPARATORS: [char; 3] = [';', '&', '|'];

/// A word of a shell, and the separators at its ends as words of their own.
fn parts(word: &str) -> impl Iterator<Item = &str> {
    let rest = word.trim_start_matches(SEPARATORS);
    let (before, rest) = word.split_at(word.len() - rest.len());
    let (rest, after) = rest.split_at(rest.trim_end_matches(SEPARATORS).len());
    [before, rest, after]
        .into_iter()
        .filter(|part| !part.is_empty())
}

fn is_separator(word: &str) -> bool {
    !word.is_empty() && word.trim_matches(SEPARATORS).is_empty()
}

impl Container {
    fn new(container: &Value) -> Self {
        let lines = list(&container["command"]).chain(list(&container["args"]));
        let words = lines
            .filter_map(Value::as_str)
            .flat_map(str::split_whitespace)
            // the end of a line that goes on
            .filter(|word| *word != "\\")
            .flat_map(parts)
            .map(|word| word.trim_matches(['"', '\'']).to_owned());
        let port = |port: &Value| {
            let number = port["containerPort"].as_u64()?;
            Some((text(&port["name"]), u16::try_from(number).ok()?))
        };
        let variable = |variable: &Value| {
            let reference = &variable["valueFrom"]["secretKeyRef"];
            let value = match (variable["value"].as_str(), reference["name"].as_str()) {
                (Some(value), _) => Variable::Value(value.to_owned()),
                (None, Some(name)) => Variable::Secret {
                    name: name.to_owned(),
                    key: text(&reference["key"]),
                },
                (None, None) => Variable::Elsewhere,
            };
            (text(&variable["name"]), value)
        };
        Self {
            name: text(&container["name"]),
            image: text(&container["image"]),
            words: words.take(MAX_WORDS).collect(),
            ports: list(&container["ports"]).filter_map(port).collect(),
            variables: list(&container["env"]).map(variable).collect(),
        }
    }

    /// A variable of it.
    pub(crate) fn variable(&self, name: &str) -> Option<&Variable> {
        let mut variables = self.variables.iter();
        Some(&variables.find(|(own, _)| own == name)?.1)
    }

    /// The words of the command that runs a program, up to the next one of its script; all words if
    /// it shows nowhere.
    pub(crate) fn command(&self, program: &[&str]) -> &[String] {
        let Some(start) = self.position(program) else {
            return &self.words;
        };
        let command = &self.words[start..];
        let end = command.iter().position(|word| is_separator(word));
        &command[..end.unwrap_or(command.len())]
    }

    /// The value of a flag of a command, `--flag VALUE` or `--flag=VALUE`; of several, the last one,
    /// as programs read them. `None` if it is not there, or refers to something that is not written
    /// here.
    pub(crate) fn flag(&self, command: &[String], names: &[&str]) -> Option<String> {
        let words = command.iter().enumerate().rev();
        let value = |(index, word): (usize, &String)| {
            names.iter().find_map(|name| {
                let after = word.strip_prefix(name)?;
                match after.strip_prefix('=') {
                    Some(value) => Some(value.to_owned()),
                    None if after.is_empty() => command.get(index + 1).cloned(),
                    None => None,
                }
            })
        };
        self.resolve(&{ words }.find_map(value)?)
    }

    /// A word with the variables that it refers to: `$(NAME)`, `$NAME` or `${NAME}`, as a whole.
    pub(crate) fn resolve(&self, word: &str) -> Option<String> {
        let word = word.trim_matches(['"', '\'']);
        let Some(reference) = word.strip_prefix('$') else {
            return (!word.contains('$') && !word.is_empty()).then(|| word.to_owned());
        };
        let name = reference.trim_matches(['(', ')', '{', '}']);
        match self.variable(name)? {
            Variable::Value(value) if !value.contains('$') => Some(value.clone()),
            _ => None,
        }
    }

    /// Whether words follow one another in its command line.
    pub(crate) fn runs(&self, program: &[&str]) -> bool {
        self.position(program).is_some()
    }

    /// Where words follow one another in its command line.
    fn position(&self, program: &[&str]) -> Option<usize> {
        if program.is_empty() {
            return None;
        }
        self.words.windows(program.len()).position(|words| {
            let mut pairs = words.iter().zip(program);
            pairs.all(|(word, wanted)| word == wanted || word.ends_with(&format!("/{wanted}")))
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn container(value: Value) -> Container {
        Container::new(&value)
    }

    #[test]
    fn flags_are_read_in_both_forms_from_scripts_and_by_variables() {
        let found = container(json!({
            "command": ["sh", "-c", "vllm serve --model \"$MODEL\" --port=9000 --port 9001"],
            "args": ["--name", "$(NAME)", "--secret=$(KEY)", "--none", "$(NOWHERE)"],
            "env": [{"name": "MODEL", "value": "org/m"}, {"name": "NAME", "value": "m"},
                {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
        }));
        let flag = |name: &str| found.flag(&found.words, &[name]);
        assert_eq!(flag("--model").as_deref(), Some("org/m"));
        assert_eq!(flag("--port").as_deref(), Some("9001"));
        assert_eq!(flag("--name").as_deref(), Some("m"));
        assert_eq!(flag("--secret"), None);
        assert_eq!(flag("--none"), None);
        assert_eq!(flag("--absent"), None);
        assert!(found.runs(&["vllm", "serve"]) && !found.runs(&["serve", "vllm"]));
    }

    #[test]
    fn a_command_of_a_script_ends_where_the_next_begins() {
        let script =
            "sleep 1 && vllm serve \\\n  org/m \\\n  --port 9000; other --port 1 | tee log &";
        let found = container(json!({"args": [script]}));
        assert_eq!(
            found.command(&["vllm", "serve"]),
            ["vllm", "serve", "org/m", "--port", "9000"]
        );
        assert_eq!(found.command(&["absent"]).len(), found.words.len());
    }

    #[test]
    fn odd_shapes_are_read_as_nothing() {
        let odd = json!({"name": 5, "ports": [{"containerPort": 70000}, 3], "env": "x", "args": {"a": 1}, "command": [1]});
        assert_eq!(container(odd), Container::default());
        assert!(containers(&json!(null)).is_empty());
    }
}
