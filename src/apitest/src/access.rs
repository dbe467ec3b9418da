//! Reviews of tokens and of rights, which no store keeps.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

/// Who has which token, and which rights.
#[derive(Debug, Default)]
pub(crate) struct Access {
    /// Users by token.
    users: BTreeMap<String, String>,
    /// Users, each with a right such as `get /metrics` or `get pods in team`.
    rights: BTreeSet<(String, String)>,
    /// How many tokens were reviewed.
    pub(crate) token_reviews: usize,
}

impl Access {
    pub(crate) fn add_user(&mut self, user: &str, token: &str) {
        self.users.insert(token.to_owned(), user.to_owned());
    }

    pub(crate) fn grant(&mut self, user: &str, right: &str) {
        self.rights.insert((user.to_owned(), right.to_owned()));
    }

    /// The answer to a review that is posted to `path`; `None` if nothing is reviewed there.
    pub(crate) fn review(&mut self, path: &str, body: &[u8]) -> Option<Value> {
        let review = || serde_json::from_slice::<Value>(body).unwrap_or_default();
        match path {
            "/apis/authentication.k8s.io/v1/tokenreviews" => Some(self.review_token(review())),
            "/apis/authorization.k8s.io/v1/subjectaccessreviews" => {
                Some(self.review_right(review()))
            }
            _ => None,
        }
    }

    fn review_token(&mut self, mut review: Value) -> Value {
        self.token_reviews += 1;
        let token = review["spec"]["token"].as_str().unwrap_or_default();
        review["status"] = match self.users.get(token) {
            Some(user) => json!({
                "authenticated": true,
                "user": {"username": user, "groups": ["system:authenticated"]},
                "audiences": review["spec"]["audiences"],
            }),
            None => json!({"authenticated": false}),
        };
        review
    }

    fn review_right(&self, mut review: Value) -> Value {
        let spec = &review["spec"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let right = match spec.get("nonResourceAttributes") {
            Some(asked) => format!("{} {}", text(&asked["verb"]), text(&asked["path"])),
            None => {
                let asked = &spec["resourceAttributes"];
                let kind = format!("{}.{}", text(&asked["resource"]), text(&asked["group"]));
                let kind = kind.trim_end_matches('.');
                let (verb, namespace) = (text(&asked["verb"]), text(&asked["namespace"]));
                format!("{verb} {kind} in {namespace}")
            }
        };
        let allowed = self.rights.contains(&(text(&spec["user"]), right));
        review["status"] = json!({"allowed": allowed});
        review
    }
}
