//! Strategies for arbitrary answers of an issuer.

use proptest::prelude::*;
use serde_json::Value;

/// Any JSON, which often uses the names that sources read.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "[ -~]{1,20}".prop_map(Value::from),
        prop_oneof![Just("ok"), Just("Bearer"), Just("invalid_grant"), Just("failed"), Just("locked")]
            .prop_map(Value::from),
    ];
    let names = "access_token|refresh_token|id_token|expires_in|token_type|scope|error|error_description\
                 |message|status|content|errorHash|errorType|displayMessage|[a-z]{1,3}";
    leaf.prop_recursive(3, 24, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(names, inner, 0..8)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Any bytes. Half of them are JSON, whole or truncated.
pub(crate) fn any_body() -> impl Strategy<Value = Vec<u8>> {
    let json = any_json().prop_map(|value| value.to_string().into_bytes());
    let cut = (json, any::<prop::sample::Index>()).prop_map(|(mut json, end)| {
        // Half of the texts stay whole.
        let end = end.index(json.len() * 2 + 1);
        json.truncate(end);
        json
    });
    prop_oneof![prop::collection::vec(any::<u8>(), 0..200), cut]
}

pub(crate) fn any_retry_after() -> impl Strategy<Value = Option<String>> {
    prop::option::of(prop_oneof!["[0-9]{0,25}", "[ -~]{0,40}", Just("Sun, 06 Nov 1994 08:49:37 GMT".to_owned())])
}
