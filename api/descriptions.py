#!/usr/bin/env python3
"""Writes data/descriptions.gz: what each definition and field means, from the schemars implementations in the `k8s-openapi` crate's source.

  descriptions.py ~/.cargo/registry/src/*/k8s-openapi-0.29.0 [OUT]

Format (gzip): `=definition TAB text`, then `field TAB text` lines; texts are JSON strings.
"""
import gzip, pathlib, re, sys

TEXT = r'"((?:[^"\\]|\\.)*)"'

def main():
    crate, out = pathlib.Path(sys.argv[1]), {}
    for path in sorted((crate / "src/v1_36").rglob("*.rs")):
        text = path.read_text()
        for part in text.split("impl crate::schemars::JsonSchema for")[1:] + text.split("JsonSchema for List<T>")[1:]:
            name = re.search(r'schema_name\(\).*?\n\s*"([\w.-]+)"\.into', part)
            body = part.split("fn json_schema", 1)[1]
            if not name: continue
            lines = []
            head = body.split('"properties"', 1)
            description = re.search(r'"description": ' + TEXT, head[0])
            if description: lines.append(f"={name.group(1)}\t\"{description.group(1)}\"")
            else: lines.append(f"={name.group(1)}\t\"\"")
            if len(head) > 1:
                for field in re.split(r'\n {16}(?=")', head[1])[1:]:
                    key = re.match(TEXT, field).group(1)
                    found = re.search(r'"description": ' + TEXT, field) or re.search(r'insert\("description"\.into\(\), ' + TEXT, field)
                    if found: lines.append(f"{key}\t\"{found.group(1)}\"")
            out[name.group(1)] = "\n".join(lines).replace("\\'", "'")
    text = "\n".join(out[name] for name in sorted(out)) + "\n"
    target = sys.argv[2] if len(sys.argv) > 2 else pathlib.Path(__file__).resolve().parent / "data/descriptions.gz"
    pathlib.Path(target).write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    print(len(out), "definitions", len(text), "characters")

main()
