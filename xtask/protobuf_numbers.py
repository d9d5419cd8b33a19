#!/usr/bin/env python3
"""Derives crates/apiserver/src/protobuf/numbers.txt from the struct tags of Kubernetes' API types.

    git clone https://github.com/kubernetes/api /tmp/api
    git clone https://github.com/kubernetes/apimachinery /tmp/apimachinery
    xtask/protobuf_numbers.py /tmp/api /tmp/apimachinery > crates/apiserver/src/protobuf/numbers.txt

Only facts are taken: names and numbers of fields, for the types of crates/api/src/schema/facts.txt. The format of the
table is documented in crates/apiserver/src/protobuf/mod.rs.
"""

import re
import subprocess
import sys

FACTS = "crates/api/src/schema/facts.txt"
STRUCT = re.compile(r"^type (\w+) struct \{$")
FIELD = re.compile(r'^\t(?:(\w+)\s+)?([\w.*\[\]]+)\s+`json:"([^"]*)"[^`]*?protobuf:"\w+,(\d+),[^"]*"')


def source(repository, path):
    return subprocess.run(["git", "-C", repository, "show", "HEAD:" + path], check=True, capture_output=True,
                          text=True).stdout


def structs(text):
    """Name → list of (field name or None, Go type, JSON tag, number)."""
    found, current = {}, None
    for line in text.splitlines():
        if head := STRUCT.match(line):
            current = found.setdefault(head[1], [])
        elif line == "}":
            current = None
        elif current is not None and (field := FIELD.match(line)):
            current.append((field[1], field[2], field[3], int(field[4])))
    return found


def rows(package, fields):
    for name, go_type, tag, number in sorted(fields, key=lambda field: field[3]):
        json, *options = tag.split(",")
        if name is None and not json:
            target = go_type.lstrip("*")
            yield "~%d %s" % (number, "%s.%s" % (package, target))
            continue
        zero_is_absent = "omitempty" in options and not go_type.startswith(("*", "[", "map"))
        yield "%s %d%s" % (json, number, " z" if zero_is_absent else "")


def main(api, machinery):
    wanted = [line[1:].split(" ")[0] for line in open(FACTS) if line.startswith("=")]
    wanted = sorted({name.strip() for name in wanted})
    packages = sorted({name.rsplit(".", 1)[0] for name in wanted})
    print("#" + subprocess.run(["git", "-C", api, "log", "-1", "--format=%cs"], check=True, capture_output=True,
                               text=True).stdout.strip())
    texts = {}
    for package in packages:
        group, version = package.split(".")
        text = (source(machinery, "pkg/apis/meta/v1/types.go") if group == "meta"
                else source(api, "%s/%s/types.go" % (group, version)))
        texts[package] = structs(text)
    waiting, done = wanted, set()
    while waiting:
        name = waiting.pop(0)
        package, kind = name.rsplit(".", 1)
        fields = texts[package].get(kind)
        if name in done or not fields:
            continue
        done.add(name)
        print("=" + name)
        for row in rows(package, fields):
            print(row)
            if row.startswith("~"):
                waiting.append(row.split(" ")[1])


if __name__ == "__main__":
    main(*sys.argv[1:])
