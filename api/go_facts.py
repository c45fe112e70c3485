#!/usr/bin/env python3
"""Extracts from the Go packages of Kubernetes 1.36 the facts that no published document holds: which fields are pointers, which are
dropped when empty (`omitempty`, `omitzero`), the Go type names that decoding errors print, and declared defaults.

  go_facts.py DIR > data/go-fields.txt

DIR holds `k8s.io/{api,apimachinery,apiextensions-apiserver}` (Debian: golang-k8s-*-dev 0.36). Only needed to move to another version;
the result is checked in. Format: `=package.Type`, then one line per JSON field: name, Go type, flags (o omitempty, z omitzero, - nothing),
default as JSON where there is one. `~package.Type underlying` names other types.
"""
import pathlib, re, sys

PACKAGES = [("api", "k8s.io.api"), ("apimachinery/pkg", "k8s.io.apimachinery.pkg"), ("apiextensions-apiserver/pkg", "k8s.io.apiextensions_apiserver.pkg")]

def structs(text):
    for match in re.finditer(r"^type (\w+) struct \{\n(.*?)^\}", text, re.M | re.S):
        yield match.group(1), match.group(2)
    for match in re.finditer(r"^type (\w+) struct ?\{\}", text, re.M):
        yield match.group(1), ""

def main():
    root = pathlib.Path(sys.argv[1]) / "k8s.io"
    out = {}
    for folder, prefix in PACKAGES:
        for path in sorted((root / folder).rglob("*.go")):
            if path.name.endswith("_test.go") or path.name.startswith(("generated.", "zz_generated")):
                continue
            relative = path.parent.relative_to(root / folder).as_posix().replace("/", ".")
            package = f"{prefix}.{relative}" if relative != "." else prefix
            text = path.read_text()
            name = re.search(r"^package (\w+)", text, re.M).group(1)
            if "json:" not in text and "intstr" not in package and "resource" not in package:
                continue
            for match in re.finditer(r"^type (\w+) = ?(v1\.\w+)$", text, re.M):
                out[f"~{package}.{match.group(1)}"] = f"~{package}.{match.group(1)} k8s.io.{package.split('.')[2]}.{package.split('.')[3]}.{match.group(2)}"
            for match in re.finditer(r"^type (\w+) (v1\.\w+|string|int\d*|bool|\[\]\w+|map\[\w+\][\w.]+|\[\]byte)\b", text, re.M):
                out[f"~{package}.{match.group(1)}"] = f"~{package}.{match.group(1)} {match.group(2)}"
            for struct, body in structs(text):
                lines, comments = [f"={package}.{struct} {name}.{struct}"], []
                for line in body.splitlines():
                    line = line.strip()
                    if line.startswith("//"):
                        comments.append(line[2:].strip())
                        continue
                    match = re.match(r"(?:(\w+)\s+)?([\w.*\[\]]+)\s+`(.*)`", line)
                    if match and 'json:"' in match.group(3):
                        tag = re.search(r'json:"([^"]*)"', match.group(3)).group(1).split(",")
                        flags = ("o" if "omitempty" in tag else "") + ("z" if "omitzero" in tag else "") or "-"
                        default = next((c[9:] for c in comments if c.startswith("+default=")), "")
                        if "inline" in tag or (not match.group(1) and not tag[0]):
                            lines.append(f"< {match.group(2)}")
                        elif tag[0] and tag[0] != "-":
                            lines.append(f"{tag[0]} {match.group(2)} {flags} {default}".rstrip())
                    comments = []
                if len(lines) > 1 or all(line.strip().startswith("//") or not line.strip() for line in body.splitlines()):
                    out[f"={package}.{struct}"] = "\n".join(lines)
    print("\n".join(out[key] for key in sorted(out)))

main()
