//! Confines a PromQL query to the series of a namespace. The label goes into the parsed query,
//! never into its text, so that no quote, comment or nesting leads around it.

use promql_parser::label::{MatchOp, Matcher};
use promql_parser::parser::{self, Expr, VectorSelector};

use super::error::{InvalidSource, quoted};

/// The parsed query is walked by recursion, on the stack of a worker thread.
const MAX_BYTES: usize = 4 << 10;
/// The parentheses, braces and operators of a query, each of which may be a level of it.
const MAX_LEVELS: usize = 512;

/// The parser compiles the regular expressions of a query, each into up to 20 MB: so few may be in one, ...
const MAX_REGEXES: usize = 4;
/// ... and so long may a query with any be.
const MAX_BYTES_WITH_REGEXES: usize = 1 << 10;

/// The query with the label `name="value"` in each selector, in place of all that it says of that
/// label itself. Without a label the query is only parsed.
///
/// # Errors
/// It is no PromQL, has too many bytes or levels, or reads series that no selector of it names.
pub(super) fn confine(query: &str, label: Option<(&str, &str)>) -> Result<String, InvalidSource> {
    check_size(query)?;
    check_regexes(query)?;
    let mut parsed = parse(query)?;
    let Some((name, value)) = label else {
        return Ok(query.to_owned());
    };
    if !is_label_name(name) {
        let why = format!(
            "`{}` is no label name; use one as in namespace",
            quoted(name)
        );
        return Err(InvalidSource::new(why));
    }
    let label = Matcher::new(MatchOp::Equal, name, value);
    confine_expression(&mut parsed, &label)?;
    let confined = parsed.to_string();
    // what is sent is text again: it must be this expression and no other
    match parser::parse(&confined) {
        Ok(again) if again == parsed => Ok(confined),
        _ => {
            let why = "the query cannot be confined to the namespace: it does not read the same \
                       once it is written anew; write it with plain names and numbers";
            Err(InvalidSource::new(why))
        }
    }
}

fn check_size(query: &str) -> Result<(), InvalidSource> {
    if query.len() > MAX_BYTES {
        let why = format!("the query has {} bytes; {MAX_BYTES} may be", query.len());
        return Err(InvalidSource::new(why));
    }
    // within strings and comments they count too: this is a bound, and no grammar
    let opens_level = |c: char| "([{+-*/%^<>=!".contains(c);
    let words = query.split(|c: char| !c.is_alphanumeric() && c != '_');
    let is_operator = |word: &&str| {
        let operators = ["and", "or", "unless", "atan2"];
        let mut operators = operators.iter();
        operators.any(|operator| word.eq_ignore_ascii_case(operator))
    };
    let levels = query.matches(opens_level).count() + words.filter(is_operator).count();
    if levels > MAX_LEVELS {
        let why = format!(
            "the query has {levels} parentheses and operators; {MAX_LEVELS} may be; use a \
             recording rule"
        );
        return Err(InvalidSource::new(why));
    }
    Ok(())
}

/// Refuses queries whose regular expressions would be large once they are compiled, before anything
/// compiles them: a repetition (`x{9}`) multiplies its size. Selectors have no digit after their brace, and
/// an escape could hide a brace.
fn check_regexes(query: &str) -> Result<(), InvalidSource> {
    let count = query.matches("=~").count() + query.matches("!~").count();
    if count == 0 {
        return Ok(());
    }
    let begins_with = |rest: &str, found: &[char]| {
        let next = rest.trim_start().chars().next();
        next.is_some_and(|next| next.is_ascii_digit() || found.contains(&next))
    };
    let repeats = query.split('{').skip(1).any(|rest| begins_with(rest, &[]));
    let escapes = query
        .split('\\')
        .skip(1)
        .any(|rest| begins_with(rest, &['x', 'u', 'U']));
    if count > MAX_REGEXES || query.len() > MAX_BYTES_WITH_REGEXES || repeats || escapes {
        let why = format!(
            "a query with regular expressions may have {MAX_REGEXES} of them and \
             {MAX_BYTES_WITH_REGEXES} bytes, no repetition as in x{{9}} and no escape by number; \
             use plain labels or a recording rule"
        );
        return Err(InvalidSource::new(why));
    }
    Ok(())
}

fn parse(query: &str) -> Result<Expr, InvalidSource> {
    parser::parse(query).map_err(|error| {
        let why = format!("`{}` is no PromQL query: {error}", quoted(query));
        InvalidSource::new(why)
    })
}

fn is_label_name(name: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    !name.is_empty() && name.chars().all(is_part) && !name.starts_with(|c: char| c.is_ascii_digit())
}

fn confine_expression(expression: &mut Expr, label: &Matcher) -> Result<(), InvalidSource> {
    match expression {
        Expr::VectorSelector(selector) => confine_selector(selector, label),
        Expr::MatrixSelector(range) => confine_selector(&mut range.vs, label),
        Expr::Aggregate(aggregate) => {
            if let Some(parameter) = &mut aggregate.param {
                confine_expression(parameter, label)?;
            }
            confine_expression(&mut aggregate.expr, label)
        }
        Expr::Binary(binary) => {
            confine_expression(&mut binary.lhs, label)?;
            confine_expression(&mut binary.rhs, label)
        }
        Expr::Call(call) if call.func.name == "info" => {
            let why = "the query uses info(), which reads series that no selector names; join \
                       with `* on (...) group_left (...)` instead";
            Err(InvalidSource::new(why))
        }
        Expr::Call(call) => {
            let mut arguments = call.args.args.iter_mut();
            arguments.try_for_each(|argument| confine_expression(argument, label))
        }
        Expr::Unary(unary) => confine_expression(&mut unary.expr, label),
        Expr::Paren(parenthesized) => confine_expression(&mut parenthesized.expr, label),
        Expr::Subquery(subquery) => confine_expression(&mut subquery.expr, label),
        Expr::NumberLiteral(_) | Expr::StringLiteral(_) => Ok(()),
        Expr::Extension(_) => Err(InvalidSource::new("the query has an unknown expression")),
    }
}

fn confine_selector(selector: &mut VectorSelector, label: &Matcher) -> Result<(), InvalidSource> {
    if !selector.matchers.or_matchers.is_empty() {
        let why = "the query has `or` between the labels of a selector, which Prometheus does not \
                   know; put `or` between two selectors, or use =~\"a|b\"";
        return Err(InvalidSource::new(why));
    }
    let matchers = &mut selector.matchers.matchers;
    matchers.retain(|matcher| matcher.name != label.name);
    matchers.push(label.clone());
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LABEL: Option<(&str, &str)> = Some(("namespace", "team"));

    fn confined(query: &str) -> String {
        confine(query, LABEL).unwrap_or_else(|error| panic!("{query}: {error}"))
    }

    /// All selectors of a query.
    fn selectors<'a>(expression: &'a Expr, found: &mut Vec<&'a VectorSelector>) {
        let children: Vec<&Expr> = match expression {
            Expr::VectorSelector(selector) => {
                found.push(selector);
                vec![]
            }
            Expr::MatrixSelector(range) => {
                found.push(&range.vs);
                vec![]
            }
            Expr::Aggregate(aggregate) => {
                let parameter = aggregate.param.iter();
                parameter
                    .chain([&aggregate.expr])
                    .map(AsRef::as_ref)
                    .collect()
            }
            Expr::Binary(binary) => vec![&binary.lhs, &binary.rhs],
            Expr::Call(call) => call.args.args.iter().map(AsRef::as_ref).collect(),
            Expr::Unary(unary) => vec![&unary.expr],
            Expr::Paren(parenthesized) => vec![&parenthesized.expr],
            Expr::Subquery(subquery) => vec![&subquery.expr],
            Expr::NumberLiteral(_) | Expr::StringLiteral(_) => vec![],
            Expr::Extension(_) => panic!("an extension"),
        };
        for child in children {
            selectors(child, found);
        }
    }

    /// Asserts that each selector has the label once, with this value, and returns their number.
    fn assert_confined(query: &str, value: &str) -> usize {
        let parsed = parser::parse(query).unwrap();
        let mut found = Vec::new();
        selectors(&parsed, &mut found);
        for selector in &found {
            assert!(selector.matchers.or_matchers.is_empty(), "{query}");
            let labels = selector.matchers.find_matchers("namespace");
            assert_eq!(labels.len(), 1, "{query}");
            assert_eq!(
                labels[0],
                Matcher::new(MatchOp::Equal, "namespace", value),
                "{query}"
            );
        }
        found.len()
    }

    #[test]
    fn each_selector_gets_the_label() {
        for (query, expected) in [
            ("up", r#"up{namespace="team"}"#),
            ("up{}", r#"up{namespace="team"}"#),
            (r#"up{job="a"}"#, r#"up{job="a",namespace="team"}"#),
            (
                r#"{__name__=~"up|down"}"#,
                r#"{__name__=~"up|down",namespace="team"}"#,
            ),
            ("sum(up)", r#"sum(up{namespace="team"})"#),
            (
                "sum by (pod) (up)",
                r#"sum by (pod) (up{namespace="team"})"#,
            ),
            ("rate(x[5m])", r#"rate(x{namespace="team"}[5m])"#),
            ("x offset 5m", r#"x{namespace="team"} offset 5m"#),
            ("x offset -5m", r#"x{namespace="team"} offset -5m"#),
            ("x @ 1609746000", r#"x{namespace="team"} @ 1609746000.000"#),
            (
                "x[5m] @ end() offset 1h",
                r#"x{namespace="team"}[5m] @ end() offset 1h"#,
            ),
            (
                "max_over_time(rate(x[1m])[5m:30s])",
                r#"max_over_time(rate(x{namespace="team"}[1m])[5m:30s])"#,
            ),
            (
                "a / on (pod) group_left b",
                r#"a{namespace="team"} / on (pod) group_left () b{namespace="team"}"#,
            ),
            (
                "a or b unless c",
                r#"a{namespace="team"} or b{namespace="team"} unless c{namespace="team"}"#,
            ),
            ("-(a) > bool 2", r#"-(a{namespace="team"}) > bool 2"#),
            // the parameter of an aggregation is a query too
            (
                "topk(scalar(a), b)",
                r#"topk(scalar(a{namespace="team"}), b{namespace="team"})"#,
            ),
            ("quantile(0.9, a)", r#"quantile(0.9, a{namespace="team"})"#),
            (
                r#"histogram_quantile(0.9, sum by (le) (rate(x_bucket[5m])))"#,
                r#"histogram_quantile(0.9, sum by (le) (rate(x_bucket{namespace="team"}[5m])))"#,
            ),
            ("absent(up)", r#"absent(up{namespace="team"})"#),
            ("vector(1) + time()", "vector(1) + time()"),
            ("42", "42"),
        ] {
            assert_eq!(confined(query), expected, "{query}");
        }
    }

    #[test]
    fn what_a_query_says_of_the_label_itself_does_not_count() {
        for query in [
            r#"up{namespace="other"}"#,
            r#"up{namespace=~".*"}"#,
            r#"up{namespace!="team"}"#,
            r#"up{namespace!~"team"}"#,
            r#"up{namespace="team",namespace="other"}"#,
            r#"up{"namespace"="other"}"#,
            "up{namespace='other'}",
            "up{namespace=`other`}",
            "up{namespace=\"other\"} # namespace=\"team\"",
            "up{# }\nnamespace=\"other\"}",
        ] {
            assert_eq!(confined(query), r#"up{namespace="team"}"#, "{query}");
        }
    }

    #[test]
    fn no_text_of_a_query_ends_its_selector_early() {
        for query in [
            r#"up{job="\"} or secret{a=\""}"#,
            r#"up{job='"} or secret{a="'}"#,
            "up{job=`\"} or secret{a=\"`}",
            r#"up{job="\\"}"#,
            "up{job=\"a\\nb\"}",
            r#"label_replace(up, "a", "\"} or secret #", "b", "c")"#,
        ] {
            assert_eq!(assert_confined(&confined(query), "team"), 1, "{query}");
        }
        // nor does the value of the label
        let value = r#"team"} or secret{a="\"#;
        let query = confine("up", Some(("namespace", value))).unwrap();
        assert_eq!(assert_confined(&query, value), 1, "{query}");
    }

    #[test]
    fn what_cannot_be_confined_is_refused_with_what_would_be_right() {
        for (query, why) in [
            (
                r#"up{job="a" or namespace="other"}"#,
                "between two selectors",
            ),
            ("info(up)", "group_left"),
            (r#"info(up, {namespace="other"})"#, "group_left"),
            ("up{", "no PromQL"),
            ("", "no PromQL"),
            ("up}", "no PromQL"),
            ("select 1", "no PromQL"),
            (r#"a{x=~"\w{150}"}"#, "no repetition"),
            (r#"a{x=~"\w\x7b150}"}"#, "no repetition"),
            (r#"a{x=~"(?x)\w{ 150}"}"#, "no repetition"),
            (
                r#"a{a=~"b",b=~"b",c!~"b",d=~"b",e=~"b"}"#,
                "may have 4 of them",
            ),
        ] {
            let error = confine(query, LABEL).unwrap_err().to_string();
            assert!(error.contains(why), "{query}: {error}");
        }
        let error = confine("up", Some(("name space", "team"))).unwrap_err();
        assert!(error.to_string().contains("no label name"), "{error}");
    }

    #[test]
    fn the_longest_and_deepest_queries_end_on_the_stack_of_a_worker() {
        let nested = |open: &str, close: &str, levels: usize| {
            format!("{}a{}", open.repeat(levels), close.repeat(levels))
        };
        let too_long = "x".repeat(MAX_BYTES + 1);
        for (open, close) in [
            ("(", ")"),
            ("sum(", ")"),
            ("-", ""),
            ("a+", ""),
            ("a or ", ""),
            ("2^", ""),
            // a comment closes nothing
            ("(#)\n", ")"),
        ] {
            let allowed = nested(open, close, MAX_LEVELS);
            let too_deep = nested(open, close, MAX_LEVELS + 1);
            let refused = [too_deep, too_long.clone()];
            let worker = std::thread::Builder::new().stack_size(1 << 20);
            let confines = worker.spawn(move || {
                let is_refused = |query: &String| confine(query, LABEL).is_err();
                confine(&allowed, LABEL).is_ok() && refused.iter().all(is_refused)
            });
            assert!(confines.unwrap().join().unwrap(), "{open}");
        }
    }

    /// A query of the grammar, as text.
    fn query() -> impl Strategy<Value = String> {
        let selector = prop_oneof![
            Just("up".to_owned()),
            Just("up{}".to_owned()),
            Just(r#"{__name__="a:b"}"#.to_owned()),
            ("[a-z]{1,3}", "[ -~]{0,6}").prop_map(|(label, value)| {
                let value = value.replace('\\', "\\\\").replace('"', "\\\"");
                format!("x{{{label}=\"{value}\"}}")
            }),
            "[ -~&&[^`]]{0,6}".prop_map(|value| format!("x{{namespace!=`{value}`,a=\"b\"}}")),
            Just(r#"y{namespace=~".+"} offset 5m"#.to_owned()),
            Just("z @ start()".to_owned()),
        ];
        let leaf = prop_oneof![
            4 => selector,
            1 => "[0-9]{1,3}".prop_map(|number| number),
        ];
        leaf.prop_recursive(5, 24, 2, |inner| {
            let operator = prop::sample::select(vec![
                "+",
                "-",
                "*",
                "/",
                "%",
                "^",
                "and",
                "or",
                "unless",
                "> bool",
                "== bool",
                "* on (a) group_left (b)",
                "and ignoring (a)",
            ]);
            let function = prop::sample::select(vec![
                "sum",
                "max by (a) ",
                "count without (a, b) ",
                "abs",
                "-",
                "",
                "absent",
                "scalar",
                "sort_desc",
            ]);
            prop_oneof![
                (inner.clone(), operator, inner.clone())
                    .prop_map(|(left, operator, right)| format!("({left}) {operator} ({right})")),
                (function, inner.clone()).prop_map(|(name, inner)| format!("{name}({inner})")),
                (inner.clone(), inner.clone())
                    .prop_map(|(first, second)| format!("topk(scalar({first}), {second})")),
                inner
                    .clone()
                    .prop_map(|inner| format!("max_over_time(({inner})[5m:1m])")),
                inner.prop_map(|inner| {
                    format!("label_replace({inner}, \"a\", \"$1\", \"b\", \"(.*)\")")
                }),
            ]
        })
    }

    /// Pieces that end or begin something.
    fn fragment() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec![
            "\"",
            "'",
            "`",
            "\\",
            "{",
            "}",
            "(",
            ")",
            "[5m]",
            "[5m:]",
            ",",
            " or ",
            "#",
            "\n",
            "namespace",
            "=\"other\"",
            "=~",
            "!=",
            "@",
            " offset 1m",
            "secret",
            "__name__",
            " by ",
            "info(",
            "\u{0}",
            "é",
            "-",
            "1e3",
            "Inf",
            ":",
        ])
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        #[test]
        fn every_selector_of_any_query_has_exactly_the_label(query in query()) {
            if let Ok(confined) = confine(&query, LABEL) {
                let parsed = parser::parse(&query).unwrap();
                let mut before = Vec::new();
                selectors(&parsed, &mut before);
                prop_assert_eq!(assert_confined(&confined, "team"), before.len());
                // and once more changes nothing
                prop_assert_eq!(confine(&confined, LABEL).unwrap(), confined);
            }
        }

        #[test]
        fn every_selector_of_a_broken_query_has_the_label_or_it_is_refused(
            query in query(),
            cuts in prop::collection::vec((any::<prop::sample::Index>(), fragment()), 1..5),
        ) {
            let mut query = query;
            for (place, fragment) in cuts {
                let mut at = place.index(query.len() + 1);
                while !query.is_char_boundary(at) {
                    at -= 1;
                }
                query.insert_str(at, fragment);
            }
            if let Ok(confined) = confine(&query, LABEL) {
                assert_confined(&confined, "team");
            }
        }
    }
}
