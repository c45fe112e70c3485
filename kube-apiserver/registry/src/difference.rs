//! What an update tried to change, for errors about things that never change: a unified difference of two lists of lines.
//!
//! The lines are matched as Python's difflib does, whose Go port upstream uses, so that the hunks are the same.
//!
//! Upstream: apimachinery/pkg/util/diff, github.com/pmezard/go-difflib

use std::collections::HashMap;

use serde_json::Value;

use crate::internal;

/// Unchanged lines shown around a change. Upstream: diff.Diff
const CONTEXT: usize = 3;
/// Lists from this length on have their most common lines ignored as anchors. Upstream: difflib's autojunk
const POPULAR_FROM: usize = 200;
/// Above this many lines the matching, which may be quadratic, gives way to one hunk between the common head and tail.
const MOST_LINES: usize = 20_000;

/// The difference of two values of an internal type.
pub fn between(kind: &'static str, before: &Value, after: &Value) -> String {
    let (before, after) = (internal::show(kind, before).lines(), internal::show(kind, after).lines());
    let blocks = if before.len() + after.len() > MOST_LINES { head_and_tail(&before, &after) } else { matching(&before, &after) };
    unified(&before, &after, &edits(&blocks, before.len(), after.len()))
}

/// A run of equal lines: where it starts in either list, and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Block {
    a: usize,
    b: usize,
    len: usize,
}

/// A step from one list to the other: `before[a1..a2]` becomes `after[b1..b2]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Edit {
    equal: bool,
    a1: usize,
    a2: usize,
    b1: usize,
    b2: usize,
}

fn head_and_tail(before: &[String], after: &[String]) -> Vec<Block> {
    let head = before.iter().zip(after).take_while(|(a, b)| a == b).count();
    let most = before.len().min(after.len()) - head;
    let tail = before.iter().rev().zip(after.iter().rev()).take(most).take_while(|(a, b)| a == b).count();
    vec![Block { a: 0, b: 0, len: head }, Block { a: before.len() - tail, b: after.len() - tail, len: tail }]
}

/// Equal runs in order: the longest first, then the longest on either side of it, and so on.
fn matching(before: &[String], after: &[String]) -> Vec<Block> {
    let mut places: HashMap<&str, Vec<usize>> = HashMap::new();
    for (index, line) in after.iter().enumerate() {
        places.entry(line).or_default().push(index);
    }
    if after.len() >= POPULAR_FROM {
        let most = after.len() / 100 + 1;
        places.retain(|_, indexes| indexes.len() <= most);
    }
    let mut open = vec![(0, before.len(), 0, after.len())];
    let mut found = Vec::new();
    while let Some((a1, a2, b1, b2)) = open.pop() {
        let block = longest(before, after, &places, (a1, a2, b1, b2));
        if block.len == 0 {
            continue;
        }
        found.push(block);
        if a1 < block.a && b1 < block.b {
            open.push((a1, block.a, b1, block.b));
        }
        if block.a + block.len < a2 && block.b + block.len < b2 {
            open.push((block.a + block.len, a2, block.b + block.len, b2));
        }
    }
    found.sort();
    let mut joined: Vec<Block> = Vec::new();
    for block in found {
        match joined.last_mut() {
            Some(last) if last.a + last.len == block.a && last.b + last.len == block.b => last.len += block.len,
            _ => joined.push(block),
        }
    }
    joined
}

/// The longest equal run within both ranges, the earliest of several; common lines only extend it.
fn longest(
    before: &[String],
    after: &[String],
    places: &HashMap<&str, Vec<usize>>,
    (a1, a2, b1, b2): (usize, usize, usize, usize),
) -> Block {
    let mut best = Block { a: a1, b: b1, len: 0 };
    let mut lengths: HashMap<usize, usize> = HashMap::new();
    for (a, line) in before.iter().enumerate().take(a2).skip(a1) {
        let mut next = HashMap::new();
        for &b in places.get(line.as_str()).into_iter().flatten().filter(|b| (b1..b2).contains(*b)) {
            let len = b.checked_sub(1).and_then(|b| lengths.get(&b)).copied().unwrap_or(0) + 1;
            next.insert(b, len);
            if len > best.len {
                best = Block { a: a + 1 - len, b: b + 1 - len, len };
            }
        }
        lengths = next;
    }
    while best.a > a1 && best.b > b1 && before[best.a - 1] == after[best.b - 1] {
        best = Block { a: best.a - 1, b: best.b - 1, len: best.len + 1 };
    }
    while best.a + best.len < a2 && best.b + best.len < b2 && before[best.a + best.len] == after[best.b + best.len] {
        best.len += 1;
    }
    best
}

fn edits(blocks: &[Block], before: usize, after: usize) -> Vec<Edit> {
    let mut out = Vec::new();
    let (mut a, mut b) = (0, 0);
    for block in blocks.iter().copied().chain([Block { a: before, b: after, len: 0 }]) {
        if a < block.a || b < block.b {
            out.push(Edit { equal: false, a1: a, a2: block.a, b1: b, b2: block.b });
        }
        (a, b) = (block.a + block.len, block.b + block.len);
        if block.len > 0 {
            out.push(Edit { equal: true, a1: block.a, a2: a, b1: block.b, b2: b });
        }
    }
    out
}

/// Changes with their surroundings, those that are near each other together.
fn hunks(edits: &[Edit]) -> Vec<Vec<Edit>> {
    let mut edits = edits.to_vec();
    if let Some(first) = edits.first_mut().filter(|edit| edit.equal) {
        first.a1 = first.a1.max(first.a2.saturating_sub(CONTEXT));
        first.b1 = first.b1.max(first.b2.saturating_sub(CONTEXT));
    }
    if let Some(last) = edits.last_mut().filter(|edit| edit.equal) {
        last.a2 = last.a2.min(last.a1 + CONTEXT);
        last.b2 = last.b2.min(last.b1 + CONTEXT);
    }
    let mut out = Vec::new();
    let mut hunk = Vec::new();
    for mut edit in edits {
        if edit.equal && edit.a2 - edit.a1 > 2 * CONTEXT {
            hunk.push(Edit { a2: edit.a1 + CONTEXT, b2: edit.b1 + CONTEXT, ..edit });
            out.push(std::mem::take(&mut hunk));
            edit.a1 = edit.a2 - CONTEXT;
            edit.b1 = edit.b2 - CONTEXT;
        }
        hunk.push(edit);
    }
    out.push(hunk);
    out.retain(|hunk| hunk.iter().any(|edit| !edit.equal));
    out
}

fn unified(before: &[String], after: &[String], edits: &[Edit]) -> String {
    let mut out = String::new();
    for hunk in hunks(edits) {
        let (Some(first), Some(last)) = (hunk.first(), hunk.last()) else { continue };
        out.push_str(&format!("@@ -{} +{} @@\n", range(first.a1, last.a2), range(first.b1, last.b2)));
        let mut push = |mark: char, lines: &[String]| {
            for line in lines {
                out.push(mark);
                out.push_str(line);
                out.push('\n');
            }
        };
        for edit in &hunk {
            if edit.equal {
                push(' ', &before[edit.a1..edit.a2]);
            } else {
                push('-', &before[edit.a1..edit.a2]);
                push('+', &after[edit.b1..edit.b2]);
            }
        }
    }
    out
}

fn range(start: usize, stop: usize) -> String {
    match stop - start {
        0 => format!("{start},0"),
        1 => format!("{}", start + 1),
        length => format!("{},{length}", start + 1),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_changed_is_shown() {
        let source = |server: &str| json!({"nfs": {"server": server, "path": "/exports"}});
        assert_eq!(
            between("PersistentVolumeSource", &source("a"), &source("b")),
            "@@ -4,7 +4,7 @@\n  \"HostPath\": null,\n  \"Glusterfs\": null,\n  \"NFS\": {\n-  \"Server\": \"a\",\n+  \"Server\": \"b\",\n   \"Path\": \"/exports\",\n   \"ReadOnly\": false\n  },\n"
        );
        assert_eq!(between("PersistentVolumeSource", &source("a"), &source("a")), "");
    }

    #[test]
    fn distant_changes_have_hunks_of_their_own() {
        let list = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let (before, after) = (list("a b c d e f g h i j k l"), list("a B c d e f g h i j k l m"));
        let edits = edits(&matching(&before, &after), before.len(), after.len());
        assert_eq!(
            unified(&before, &after, &edits),
            "@@ -1,5 +1,5 @@\n a\n-b\n+B\n c\n d\n e\n@@ -10,3 +10,4 @@\n j\n k\n l\n+m\n"
        );
    }

    #[test]
    fn huge_lists_are_not_matched_line_by_line() {
        let volumes = |salt: usize| -> Value {
            (0..1_000).map(|index| json!({"name": format!("v{}", index * 7919 % (30_011 + salt))})).collect::<Vec<_>>().into()
        };
        let text = between("PodSpec", &json!({"volumes": volumes(0)}), &json!({"volumes": volumes(2)}));
        assert!(text.starts_with("@@ -"));
    }
}
