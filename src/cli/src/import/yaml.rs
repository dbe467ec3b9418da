//! YAML with comments at the fields that they are about.
//!
//! Texts are quoted wherever a reader of YAML 1.1 or 1.2 could take them for something else:
//! kubectl reads 1.1.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::Value;

/// Comments, by the path of the field that they stand above.
pub(crate) type Comments = BTreeMap<String, Vec<String>>;

/// Words that YAML 1.1 or 1.2 reads as something else than a text.
const RESERVED: [&str; 10] = [
    "true", "false", "yes", "no", "on", "off", "null", "y", "n", "nan",
];

/// The columns that a comment takes before it goes on in the next line.
const COMMENT_WIDTH: usize = 110;

/// A comment as lines, each of which begins with `indent` and `#`.
pub(crate) fn comment(text: &str, indent: usize) -> String {
    let margin = format!("{}# ", " ".repeat(indent));
    // YAML 1.1 ends a line, and with it a comment, at these
    let is_break = |character: char| {
        character.is_control() || matches!(character, '\u{2028}' | '\u{2029}' | '\u{feff}')
    };
    let text = text.replace(is_break, " ");
    let options = textwrap::Options::new(COMMENT_WIDTH)
        .initial_indent(&margin)
        .subsequent_indent(&margin)
        .break_words(false);
    textwrap::fill(&text, options) + "\n"
}

/// An object as a YAML document, with these comments at its fields. It ends with a newline.
pub(crate) fn document(value: &Value, comments: &Comments) -> String {
    let mut writer = Writer {
        text: String::new(),
        comments,
    };
    writer.block("", value, 0);
    writer.text
}

struct Writer<'c> {
    text: String,
    comments: &'c Comments,
}

impl Writer<'_> {
    fn comments_at(&mut self, path: &str, indent: usize) {
        for text in self.comments.get(path).into_iter().flatten() {
            self.text += &comment(text, indent);
        }
    }

    /// The fields or items of a value, each on a line of its own.
    fn block(&mut self, path: &str, value: &Value, indent: usize) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    let path = match path {
                        "" => name.clone(),
                        _ => format!("{path}.{name}"),
                    };
                    self.comments_at(&path, indent);
                    self.text += &" ".repeat(indent);
                    self.field(&path, name, value, indent);
                }
            }
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.item(&format!("{path}[{index}]"), item, indent);
                }
            }
            other => {
                self.scalar(other, indent);
            }
        }
    }

    /// `name: value`, at the place of the cursor.
    fn field(&mut self, path: &str, name: &str, value: &Value, indent: usize) {
        self.text += &plain_or_quoted(name);
        self.text.push(':');
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                self.text.push('\n');
                self.block(path, value, indent + 2);
            }
            // as kubectl prints lists
            Value::Array(items) if !items.is_empty() => {
                self.text.push('\n');
                self.block(path, value, indent);
            }
            other => {
                self.text.push(' ');
                self.scalar(other, indent + 2);
            }
        }
    }

    fn item(&mut self, path: &str, item: &Value, indent: usize) {
        self.comments_at(path, indent);
        self.text += &" ".repeat(indent);
        match item {
            Value::Object(fields) if !fields.is_empty() => {
                for (index, (name, value)) in fields.iter().enumerate() {
                    let path = format!("{path}.{name}");
                    let dash = match index {
                        0 => "- ".to_owned(),
                        _ => {
                            self.comments_at(&path, indent + 2);
                            " ".repeat(indent + 2)
                        }
                    };
                    // a comment at the first field would come between the dash and it
                    if index == 0 {
                        let line = self.text.len() - indent;
                        self.text.truncate(line);
                        self.comments_at(&path, indent);
                        self.text += &" ".repeat(indent);
                    }
                    self.text += &dash;
                    self.field(&path, name, value, indent + 2);
                }
            }
            Value::Array(items) if !items.is_empty() => {
                self.text += "-\n";
                self.block(path, item, indent + 2);
            }
            other => {
                self.text += "- ";
                self.scalar(other, indent + 2);
            }
        }
    }

    fn scalar(&mut self, value: &Value, indent: usize) {
        match value {
            Value::String(text) if is_script(text) => self.script(text, indent),
            Value::String(text) => self.text += &(plain_or_quoted(text) + "\n"),
            Value::Object(_) => self.text += "{}\n",
            Value::Array(_) => self.text += "[]\n",
            other => {
                // a String takes all that is written to it
                let _ = writeln!(self.text, "{other}");
            }
        }
    }

    /// A text of several lines as a literal block.
    fn script(&mut self, text: &str, indent: usize) {
        let (body, chomping) = match text.strip_suffix('\n') {
            Some(body) => (body, ""),
            None => (text, "-"),
        };
        let _ = writeln!(self.text, "|{chomping}");
        for line in body.split('\n') {
            if !line.is_empty() {
                self.text += &" ".repeat(indent);
                self.text += line;
            }
            self.text.push('\n');
        }
    }
}

/// Whether a text is best read, and safely written, as a literal block.
fn is_script(text: &str) -> bool {
    let body = text.strip_suffix('\n').unwrap_or(text);
    let is_odd = |character: char| {
        (character.is_control() && !matches!(character, '\n' | '\t'))
            || matches!(character, '\u{2028}' | '\u{2029}' | '\u{feff}')
    };
    body.contains('\n')
        && !body.starts_with([' ', '\n', '\t'])
        && !body.ends_with('\n')
        && !text.contains(is_odd)
        // a line of blanks alone is read differently by different readers
        && body.split('\n').all(|line| line.is_empty() || !line.trim().is_empty())
}

/// A text as it is, or in double quotes.
fn plain_or_quoted(text: &str) -> String {
    if is_plain(text) {
        return text.to_owned();
    }
    let mut quoted = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\n' => quoted += "\\n",
            '\t' => quoted += "\\t",
            '\r' => quoted += "\\r",
            _ if character.is_control()
                || matches!(character, '\u{2028}' | '\u{2029}' | '\u{feff}') =>
            {
                let _ = write!(quoted, "\\u{:04x}", u32::from(character));
            }
            _ => quoted.push(character),
        }
    }
    quoted + "\""
}

/// Whether every reader takes a text without quotes for this text. Beyond words and paths, they
/// have quotes.
fn is_plain(text: &str) -> bool {
    let is_word = |character: char| {
        character.is_ascii_alphanumeric()
            || matches!(
                character,
                '_' | '.' | '/' | '-' | '@' | '+' | '=' | ',' | '$' | '(' | ')' | ';' | ' ' | ':'
            )
    };
    let begins_well = {
        let mut characters = text.trim_start_matches("--").chars();
        let first = characters.next();
        first.is_some_and(|first| first.is_ascii_alphabetic() || matches!(first, '/' | '_'))
    };
    begins_well
        && text.chars().all(is_word)
        && !text.contains(": ")
        && !text.ends_with([':', ' '])
        && !RESERVED.contains(&text.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> Value {
        serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    #[test]
    fn comments_stand_above_the_fields_that_they_are_about() {
        let value = json!({"spec": {"engine": "vLLM", "signals": [{"name": "a", "target": 5}, {"name": "b"}]}});
        let comments = [
            ("spec.engine", "guessed"),
            ("spec.signals[0].name", "first"),
            ("spec.signals[0].target", "five"),
            ("spec.signals[1]", "second"),
        ];
        let comments = comments
            .map(|(path, text)| (path.to_owned(), vec![text.to_owned()]))
            .into();
        let expected = "spec:\n  # guessed\n  engine: vLLM\n  signals:\n  # first\n  - name: a\n    # five\n    target: 5\n  # second\n  - name: b\n";
        let text = document(&value, &comments);
        assert_eq!(text, expected);
        assert_eq!(read(&text), value);
    }

    #[test]
    fn texts_that_yaml_would_read_otherwise_are_quoted() {
        for text in [
            "yes",
            "No",
            "1",
            "1.5",
            "0x1",
            "1e3",
            "null",
            "~",
            "",
            " a",
            "a ",
            "a: b",
            "a #b",
            "- a",
            "-1",
            ".inf",
            "2026-11-28",
            "*",
            "&a",
            "!x",
            "{}",
            "[]",
            "12:30:00",
            "a:",
            "a\u{2028}b",
            "a\u{85}b",
            "\u{feff}a",
            "=",
            "<<",
            "|",
            "--",
            "---",
        ] {
            let line = document(&json!({"a": text}), &Comments::new());
            assert!(line.starts_with("a: \""), "{line}");
            assert!(
                !line.contains(['\u{2028}', '\u{85}', '\u{feff}']),
                "{line:?}"
            );
            assert_eq!(read(&line), json!({"a": text}));
        }
        for text in [
            "vllm/vllm-openai:v0.11.0",
            "--model",
            "/bin/sh",
            "python train.py",
        ] {
            let line = document(&json!({"a": text}), &Comments::new());
            assert_eq!(line, format!("a: {text}\n"));
        }
    }

    #[test]
    fn scripts_are_literal_blocks() {
        let value = json!({"args": ["set -e\n\n  indented\nend\n", "a\nb"]});
        let text = document(&value, &Comments::new());
        assert_eq!(
            text,
            "args:\n- |\n  set -e\n\n    indented\n  end\n- |-\n  a\n  b\n"
        );
        assert_eq!(read(&text), value);
    }

    #[test]
    fn no_text_breaks_out_of_a_comment() {
        for odd in [
            "a\nspec: {}",
            "a\u{2028}spec: {}",
            "a\u{85}spec: {}",
            "a\r\nb",
        ] {
            let lines = comment(odd, 2);
            let is_comment = |line: &str| line.starts_with("  # ");
            let breaks = ['\n', '\r', '\u{2028}', '\u{85}'];
            assert!(
                lines.trim_end_matches('\n').split(breaks).all(is_comment),
                "{lines:?}"
            );
        }
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let text = prop_oneof!["\\PC{0,12}", "[ \\n\\t:#'\"a-c-]{0,12}", any::<String>()];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            text.prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map("\\PC{1,8}", inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_as_it_was(value in any_value()) {
            let value = json!({ "spec": value });
            let text = document(&value, &Comments::new());
            prop_assert_eq!(read(&text), value, "{}", text);
        }
    }
}
