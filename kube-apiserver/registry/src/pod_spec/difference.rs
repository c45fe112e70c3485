//! What an update tried to change, for errors about things that never change: a unified difference of the two trees as JSON.
//!
//! Upstream prints its internal Go types here (all fields, Go's names and order); this prints the fields that are set, as users write them.

use serde_json::Value;

/// Unchanged lines shown around a change. Upstream: diff.Diff
const CONTEXT: usize = 3;

/// The changed lines of two trees with their surroundings, or nothing where they print alike.
pub fn between(before: &Value, after: &Value) -> String {
    let (before, after) = (lines(before, 0), lines(after, 0));
    let head = before.iter().zip(&after).take_while(|(a, b)| a == b).count();
    let most = before.len().min(after.len()) - head;
    let tail = before.iter().rev().zip(after.iter().rev()).take(most).take_while(|(a, b)| a == b).count();
    if head == before.len() && head == after.len() {
        return String::new();
    }
    let start = head.saturating_sub(CONTEXT);
    let (old_end, new_end) = (before.len() - tail, after.len() - tail);
    let shown_tail = tail.min(CONTEXT);
    let (old_count, new_count) = (old_end + shown_tail - start, new_end + shown_tail - start);
    let mut out = format!("@@ -{},{old_count} +{},{new_count} @@\n", start + 1, start + 1);
    let mut push = |mark: char, lines: &[String]| {
        for line in lines {
            out.push(mark);
            out.push_str(line);
            out.push('\n');
        }
    };
    push(' ', &before[start..head]);
    push('-', &before[head..old_end]);
    push('+', &after[head..new_end]);
    push(' ', &before[old_end..old_end + shown_tail]);
    out
}

/// A tree as indented JSON, keys sorted, one space for each level.
fn lines(value: &Value, depth: usize) -> Vec<String> {
    let indent = " ".repeat(depth);
    let inner = " ".repeat(depth + 1);
    let (open, close, parts): (char, char, Vec<Vec<String>>) = match value {
        Value::Object(map) if !map.is_empty() => {
            let mut entries: Vec<(&String, &Value)> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            let parts = entries.into_iter().map(|(key, value)| {
                let mut body = lines(value, depth + 1);
                if let Some(first) = body.first_mut() {
                    *first = format!("{inner}{key:?}: {}", first.trim_start());
                }
                body
            });
            ('{', '}', parts.collect())
        }
        Value::Array(list) if !list.is_empty() => ('[', ']', list.iter().map(|item| lines(item, depth + 1)).collect()),
        other => return vec![format!("{indent}{other}")],
    };
    let mut out = vec![format!("{indent}{open}")];
    let last = parts.len() - 1;
    for (index, mut part) in parts.into_iter().enumerate() {
        if index < last
            && let Some(line) = part.last_mut()
        {
            line.push(',');
        }
        out.extend(part);
    }
    out.push(format!("{indent}{close}"));
    out
}

/// A template as the error about an immutable one shows it.
pub fn template(template: &Value) -> String {
    template.to_string()
}

/// A disruption budget's spec as an error shows it.
pub fn disruption_budget(spec: &Value) -> String {
    spec.to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_changed_is_shown() {
        let spec = |image: &str| json!({"a": 1, "containers": [{"image": image, "name": "c"}], "z": {"deep": [1, 2, 3]}});
        assert_eq!(
            between(&spec("x"), &spec("y")),
            "@@ -2,7 +2,7 @@\n  \"a\": 1,\n  \"containers\": [\n   {\n-   \"image\": \"x\",\n+   \"image\": \"y\",\n    \"name\": \"c\"\n   }\n  ],\n"
        );
        assert_eq!(between(&spec("x"), &spec("x")), "");
    }

    #[test]
    fn a_field_that_goes_leaves_a_hunk_of_its_own() {
        assert_eq!(
            between(&json!({"a": 1, "b": 2}), &json!({"a": 1})),
            "@@ -1,4 +1,3 @@\n {\n- \"a\": 1,\n- \"b\": 2\n+ \"a\": 1\n }\n"
        );
    }
}
