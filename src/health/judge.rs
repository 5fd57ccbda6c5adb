//! Whether an HTTP answer is the one that was asked for. Pure.

use std::collections::BTreeMap;

use serde_json::Value;

/// Checks the status against an inclusive range, then the body's fields.
///
/// An expected object must be contained in the actual one, field by field; every other value
/// must be equal. Numbers are compared by value: `1` is `1.0`.
pub(super) fn judge(
    status: u16,
    body: &[u8],
    truncated: bool,
    accepted: (u16, u16),
    fields: &BTreeMap<String, Value>,
) -> Result<(), String> {
    let (low, high) = accepted;
    if !(low..=high).contains(&status) {
        return Err(if low == high {
            format!("status {status}, expected {low}")
        } else {
            format!("status {status}, expected {low}-{high}")
        });
    }
    if fields.is_empty() {
        return Ok(());
    }
    if truncated {
        return Err(format!("body is larger than {} KiB", body.len() / 1024));
    }
    let body: Value = serde_json::from_slice(body).map_err(|_| "body is not JSON".to_owned())?;
    for (name, expected) in fields {
        compare(name, body.get(name), expected)?;
    }
    Ok(())
}

fn compare(path: &str, actual: Option<&Value>, expected: &Value) -> Result<(), String> {
    let Some(actual) = actual else {
        return Err(format!(
            "field {path} is missing, expected {}",
            shown(expected)
        ));
    };
    if let (Value::Object(fields), Value::Object(_)) = (expected, actual) {
        return fields.iter().try_for_each(|(name, value)| {
            compare(&format!("{path}.{name}"), actual.get(name), value)
        });
    }
    let equal = match (actual, expected) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        _ => actual == expected,
    };
    if equal {
        return Ok(());
    }
    let (actual, expected) = (shown(actual), shown(expected));
    Err(format!("field {path} is {actual}, expected {expected}"))
}

/// As JSON, so control characters are escaped, and short enough for one line.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= SHOWN {
        return text;
    }
    let start: String = text.chars().take(SHOWN).collect();
    format!("{start}...")
}

/// Characters of a value that are repeated in a reason.
const SHOWN: usize = 60;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reason(status: u16, body: &str, fields: Value) -> String {
        let fields = serde_json::from_value(fields).unwrap();
        match judge(status, body.as_bytes(), false, (200, 299), &fields) {
            Ok(()) => "passed".to_owned(),
            Err(reason) => reason,
        }
    }

    #[test]
    fn the_status_must_be_in_the_range() {
        assert_eq!(reason(200, "", json!({})), "passed");
        assert_eq!(reason(299, "", json!({})), "passed");
        assert_eq!(reason(503, "", json!({})), "status 503, expected 200-299");
        assert_eq!(reason(301, "", json!({})), "status 301, expected 200-299");
        let one = judge(500, b"", false, (204, 204), &BTreeMap::new());
        assert_eq!(one, Err("status 500, expected 204".to_owned()));
    }

    #[test]
    fn a_field_must_be_there_and_equal() {
        let ok = json!({"status": "ok"});
        let body = |body, expected: &Value| reason(200, body, expected.clone());
        assert_eq!(body(r#"{"status":"ok","more":1}"#, &ok), "passed");
        assert_eq!(
            body(r#"{"status":"starting"}"#, &ok),
            r#"field status is "starting", expected "ok""#
        );
        assert_eq!(body("{}", &ok), r#"field status is missing, expected "ok""#);
        assert_eq!(body("[]", &ok), r#"field status is missing, expected "ok""#);
        assert_eq!(body("<html>", &ok), "body is not JSON");
        assert_eq!(body(r#"{"n":1.0}"#, &json!({"n": 1})), "passed");
        assert_eq!(
            body(r#"{"n":"1"}"#, &json!({"n": 1})),
            r#"field n is "1", expected 1"#
        );
    }

    #[test]
    fn an_expected_object_must_be_contained() {
        let expected = json!({"checks": {"db": "up"}});
        let body = |body| reason(200, body, expected.clone());
        assert_eq!(body(r#"{"checks":{"db":"up","mq":"down"}}"#), "passed");
        assert_eq!(
            body(r#"{"checks":{"db":"down"}}"#),
            r#"field checks.db is "down", expected "up""#
        );
        assert_eq!(
            body(r#"{"checks":3}"#),
            r#"field checks is 3, expected {"db":"up"}"#
        );
    }

    #[test]
    fn what_a_body_says_can_not_break_the_line_or_flood_it() {
        let long = format!(r#"{{"status":"a\nb{}"}}"#, "x".repeat(1000));
        let reason = reason(200, &long, json!({"status": "ok"}));
        assert!(!reason.contains('\n'), "{reason}");
        assert!(reason.len() < 120, "{reason}");
    }
}
