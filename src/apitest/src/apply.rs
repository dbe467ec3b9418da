//! Server-side apply, always with force: the fields that a manager sends are set, and fields that
//! it sent before and does not send any more are removed.

use serde_json::{Map, Value};

/// The object after an apply. `before` is what the same manager sent last, `others` what other
/// managers have sent.
pub(crate) fn apply(
    live: &Value,
    before: Option<&Value>,
    sent: &Value,
    others: &[&Value],
) -> Value {
    let mut object = live.clone();
    if let Some(before) = before {
        remove(&mut object, before, sent, others);
    }
    merge(&mut object, sent);
    object
}

/// Removes the fields that are in `before`, not in `sent`, and of no other manager.
fn remove(object: &mut Value, before: &Value, sent: &Value, others: &[&Value]) {
    let (Value::Object(fields), Value::Object(before)) = (object, before) else {
        return;
    };
    for (name, old) in before {
        let theirs: Vec<&Value> = others.iter().filter_map(|other| other.get(name)).collect();
        match sent.get(name) {
            None if theirs.is_empty() => match (fields.get_mut(name), old) {
                // fields that others put into the same map without applying them stay
                (Some(live @ Value::Object(_)), Value::Object(_)) => {
                    remove(live, old, &Value::Null, &[]);
                    if live.as_object().is_some_and(Map::is_empty) {
                        fields.remove(name);
                    }
                }
                _ => {
                    fields.remove(name);
                }
            },
            sent => {
                if let Some(live) = fields.get_mut(name) {
                    remove(live, old, sent.unwrap_or(&Value::Null), &theirs);
                }
            }
        }
    }
}

fn merge(object: &mut Value, sent: &Value) {
    match (object, sent) {
        (Value::Object(fields), Value::Object(sent)) => {
            for (name, value) in sent.iter().filter(|(_, value)| !value.is_null()) {
                merge(fields.entry(name).or_insert(Value::Null), value);
            }
        }
        (object, Value::Object(sent)) => {
            *object = Value::Object(Map::new());
            merge(object, &Value::Object(sent.clone()));
        }
        (object, sent) => *object = sent.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::apply;

    #[test]
    fn what_is_not_sent_any_more_goes_and_what_others_wrote_stays() {
        let live = json!({"data": {"ours": "1", "gone": "2", "theirs": "3"}, "list": [1, 2]});
        let before = json!({"data": {"ours": "1", "gone": "2"}, "list": [1, 2]});
        let sent = json!({"data": {"ours": "9"}, "list": [3]});
        assert_eq!(
            apply(&live, Some(&before), &sent, &[]),
            json!({"data": {"ours": "9", "theirs": "3"}, "list": [3]})
        );
        let other = json!({"data": {"gone": "2"}});
        assert_eq!(
            apply(&live, Some(&before), &sent, &[&other]),
            json!({"data": {"ours": "9", "gone": "2", "theirs": "3"}, "list": [3]})
        );
    }
}
