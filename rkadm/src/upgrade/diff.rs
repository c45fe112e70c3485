//! Unified diffs of manifests. Pure.

/// Line operations of the shortest edit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Op {
    Keep(usize, usize),
    Remove(usize),
    Add(usize),
}

/// `diff -u`; empty when there is no difference.
pub fn unified(name: &str, old: &str, new: &str, context: usize) -> String {
    let (a, b): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let ops = edit(&a, &b);
    let changed: Vec<usize> = ops.iter().enumerate().filter(|(_, op)| !matches!(op, Op::Keep(..))).map(|(i, _)| i).collect();
    let (Some(_), Some(_)) = (changed.first(), changed.last()) else { return String::new() };
    let mut out = format!("--- {name}\n+++ {name} (new)\n");
    let mut at = 0;
    while at < changed.len() {
        let start = changed[at].saturating_sub(context);
        let mut last = changed[at];
        while at < changed.len() && changed[at] <= last + 2 * context + 1 {
            last = changed[at];
            at += 1;
        }
        let hunk = &ops[start..(last + context + 1).min(ops.len())];
        let count = |side: fn(&Op) -> bool| hunk.iter().filter(|op| side(op)).count();
        let (removed, added) = (count(|op| !matches!(op, Op::Add(_))), count(|op| !matches!(op, Op::Remove(_))));
        let first_old = ops[..start].iter().filter(|op| !matches!(op, Op::Add(_))).count() + 1;
        let first_new = ops[..start].iter().filter(|op| !matches!(op, Op::Remove(_))).count() + 1;
        out.push_str(&format!("@@ -{first_old},{removed} +{first_new},{added} @@\n"));
        for op in hunk {
            out.push_str(&match op {
                Op::Keep(i, _) => format!(" {}\n", a[*i]),
                Op::Remove(i) => format!("-{}\n", a[*i]),
                Op::Add(j) => format!("+{}\n", b[*j]),
            });
        }
    }
    out
}

/// Longest common subsequence; manifests have a hundred lines, so a table is fine.
fn edit(a: &[&str], b: &[&str]) -> Vec<Op> {
    let mut table = vec![vec![0_usize; b.len() + 1]; a.len() + 1];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            table[i][j] = if a[i] == b[j] { table[i + 1][j + 1] + 1 } else { table[i + 1][j].max(table[i][j + 1]) };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut ops = Vec::new();
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            ops.push(Op::Keep(i, j));
            (i, j) = (i + 1, j + 1);
        } else if i < a.len() && (j == b.len() || table[i + 1][j] >= table[i][j + 1]) {
            ops.push(Op::Remove(i));
            i += 1;
        } else {
            ops.push(Op::Add(j));
            j += 1;
        }
    }
    ops
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_shown_with_context() {
        let old: String = (1..=20).map(|n| format!("l{n}\n")).collect();
        let new = old.replace("l10\n", "x\n");
        assert_eq!(unified("f", &old, &new, 1), "--- f\n+++ f (new)\n@@ -9,3 +9,3 @@\n l9\n-l10\n+x\n l11\n");
        assert_eq!(unified("f", &old, &old, 3), "");
        assert!(unified("f", "", "a\n", 3).contains("+a"));
    }
}
