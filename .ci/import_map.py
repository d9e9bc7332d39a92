#!/usr/bin/env python3
"""Fails where a Rust file imports what its place in the architecture doesn't allow: `python3 .ci/import_map.py`

What is allowed stands in ARCHITECTURE.md, and nowhere else, below the heading "Imports point down":

- The first fenced block is the order of the rooms, one rank a line, the lowest first: names separated by spaces, `#` and what
  follows is a comment. A room is a top-level module with all below it; `main` is src/main.rs; a name such as `a::b` makes a room
  of a submodule. A file imports from ranks below its own only, so rooms on one line don't import each other.
- The first table with the columns `crate` and `rooms` says where libraries may be named: crates (`*` at the end for a prefix) in
  the first column, rooms or submodules of theirs in the second, separated by commas.

    ```ranks
    clock text
    config          # imports from clock and text
    main
    ```

    | crate | rooms |
    | --- | --- |
    | tonic, tonic_* | rpc, client |

The crate in client/, whose name ends in `-client`, is a room of the same tree, `client`; each of its own modules is a room, as
`client::clock`. A module that src/lib.rs passes on under a name of its own counts as what it is.

Fails also where modules side by side (in whatever room, at whatever depth) import each other, directly or in a circle, and where
two files have the same name. Says how many modules import from a parent that imports from them, which is no failure.

Read are all `use` declarations and all paths in code, outside of tests (`#[cfg(test)]`, `#[cfg(any(test, fuzzing))]`, files named
`tests.rs`, and what is below `tests/`). src/lib.rs and client/src/lib.rs, which only declare, may name everything. Not seen:
paths that macros put together, and what any other re-export leads to. `--root DIRECTORY` names another tree.
"""

import argparse
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

HEADING = "Imports point down"
TOKEN = re.compile(
    r"""(?P<skip>\s+|//[^\n]*|b?c?r(?P<hashes>\#*)".*?"(?P=hashes)|b?c?"(?:\\.|[^"\\])*"|b?'(?:\\(?:u\{[^}]*\}|.[^']*)|[^'\\])'|'\w+)
    |(?P<comment>/\*)|(?P<token>(?:r\#)?[A-Za-z_]\w*|::|=>|->|[0-9][\w.]*|.)""",
    re.VERBOSE | re.DOTALL,
)
WORD = re.compile(r"[A-Za-z_]\w*$")
CLOSING = {"(": ")", "[": "]", "{": "}"}
# What begins an item that ends with its block, and what ends with a semicolon.
BLOCK_ITEMS = {"fn", "impl", "mod", "struct", "enum", "trait", "unsafe", "async", "extern", "union", "macro_rules"}
# Compiled for tests and for fuzzers: `#[cfg(any(test, fuzzing))]`.
FUZZED = ["cfg", "(", "any", "(", "test", ",", "fuzzing", ")", ")"]
STATEMENTS = {"use", "let", "const", "static", "type"}
# The crate beside, as a room; and what both crates' own roots are.
CLIENT = ("client",)
ROOTS = {(), CLIENT}


class Import(NamedTuple):
    """A path that a module names: a module of ours as a tuple, or the name of a crate."""

    source: tuple
    target: object
    place: str
    reexport: bool


def tokens_of(text):
    """The tokens with their lines, without comments and literals."""
    found, position, line = [], 0, 1
    while position < len(text):
        match = TOKEN.match(text, position)
        end = match.end()
        if match["comment"]:
            depth = 1
            while depth:
                mark = re.compile(r"/\*|\*/|\Z").search(text, end)
                end = mark.end()
                depth = 0 if not mark[0] else depth + (1 if mark[0] == "/*" else -1)
        elif match["token"]:
            found.append((match["token"].removeprefix("r#"), line))
        line += text.count("\n", position, end)
        position = end
    return found


def closing(tokens, index):
    """Where the bracket at `index` closes."""
    depth = 0
    for position in range(index, len(tokens)):
        word = tokens[position][0]
        depth += (word in "([{") - (word in ")]}")
        if depth == 0:
            return position
    return len(tokens) - 1


def end_of_item(tokens, index):
    """The last word of the item, field or statement that begins at `index`."""
    while tokens[index][0] == "pub":
        index += 1
        if tokens[index][0] == "(":
            index = closing(tokens, index) + 1
    kind = tokens[index][0]
    if kind == "const" and tokens[index + 1][0] in ("fn", "unsafe", "async"):
        kind = "fn"
    position = index
    while position < len(tokens):
        word = tokens[position][0]
        if word in CLOSING:
            position = closing(tokens, position)
            if word == "{" and kind not in STATEMENTS:
                return position
        elif word == ";" or (word == "," and kind not in STATEMENTS | BLOCK_ITEMS):
            return position
        elif word in ")]}":
            return position - 1
        position += 1
    return len(tokens) - 1


def without_tests(tokens):
    """The tokens without items that are compiled for tests only; and the modules that such items declare, by name."""
    kept, declared, position = [], set(), 0
    while position < len(tokens):
        if tokens[position][0] == "#" and position + 1 < len(tokens) and tokens[position + 1][0] in "[!":
            inner = tokens[position + 1][0] == "!"
            start = position + 1 + inner
            end = closing(tokens, start)
            words = [word for word, _ in tokens[start + 1 : end]]
            position = end + 1
            if words[:1] == ["cfg"] and {"test", "doctest"} & set(words) and (not {"not", "any"} & set(words) or words == FUZZED):
                if inner:
                    return [], declared
                while tokens[position][0] == "#":
                    position = closing(tokens, position + 1) + 1
                end = end_of_item(tokens, position)
                names = [word for word, _ in tokens[position:end]]
                if "mod" in names:
                    declared.add(names[names.index("mod") + 1])
                position = end + 1
            elif not inner:
                # Attributes name crates too.
                kept += tokens[start + 1 : end]
            continue
        kept.append(tokens[position])
        position += 1
    return kept, declared


def use_tree(tokens, index, prefix=()):
    """The paths of a `use` from `index` on, as (segments, alias, line), and where it ends."""
    found, path, line = [], list(prefix), tokens[index][1]
    while index < len(tokens):
        word, line = tokens[index]
        if word == "{":
            index += 1
            while tokens[index][0] != "}":
                nested, index = use_tree(tokens, index, tuple(path))
                found += nested
                index += tokens[index][0] == ","
            return found, index + 1
        if word == "as":
            return [(tuple(path), tokens[index + 1][0], line)], index + 2
        if word in ",;}":
            return [(tuple(path), path[-2] if path[-1] == "self" and len(path) > 1 else path[-1], line)], index
        if word != "::" or not path:
            path.append(word)
        index += 1
    return found, index


class Tree:
    """The modules of both crates, and what they import."""

    def __init__(self, root, package):
        self.root, self.package = root, package
        self.files, self.imports, self.names = {}, [], defaultdict(list)
        self.reexported = {}
        paths = sorted(path for crate in ("src", "client/src") for path in (root / crate).rglob("*.rs"))
        sources = {path: without_tests(tokens_of(path.read_text())) for path in paths}
        tests = {(*self.module(path), name) for path, (_, declared) in sources.items() for name in declared}
        for path, (tokens, _) in sources.items():
            module = self.module(path)
            if "tests" in module or any(module[: len(test)] == test for test in tests):
                continue
            self.files[module] = (path.relative_to(root), tokens)
            if module not in ROOTS:
                self.names[path.parent.name if path.stem == "mod" else path.stem].append(path.relative_to(root))
        self.modules = set(self.files)
        # The roots first: what they pass on is what others name.
        for module, (path, tokens) in sorted(self.files.items(), key=lambda item: item[0] not in ROOTS):
            self.read(module, path, tokens)

    def module(self, path):
        crate, *parts = path.relative_to(self.root).with_suffix("").parts
        prefix = () if crate == "src" else CLIENT
        parts = (*prefix, *parts[len(prefix) :])
        return parts[:-1] if parts[-1] in ("mod", "lib") else parts

    def read(self, module, path, tokens):
        """Notes what a file names; inline modules are modules too."""
        scopes, index, depth, reexport = [(module, 0)], 0, 0, False
        self.aliases = {}
        self.crate = CLIENT if path.parts[0] == "client" else ()
        while index < len(tokens):
            word, line = tokens[index]
            here = scopes[-1][0]
            following = tokens[index + 1][0] if index + 1 < len(tokens) else ""
            if word == "mod" and WORD.match(following):
                if tokens[index + 2][0] == "{":
                    scopes.append(((*here, following), depth))
                    self.modules.add((*here, following))
                index += 2
                continue
            if word == "pub":
                # What it is visible to is no import.
                index = closing(tokens, index + 1) + 1 if following == "(" else index + 1
                reexport = True
                continue
            # `use<…>` says what an opaque type captures.
            if word == "use" and following != "<":
                paths, index = use_tree(tokens, index + 1)
                for segments, alias, at in paths:
                    self.note(here, segments, f"{path}:{at}", reexport, alias)
            elif WORD.match(word) and following == "::" and (index == 0 or tokens[index - 1][0] not in ("::", ".")):
                segments = [word]
                while index + 2 < len(tokens) and tokens[index + 1][0] == "::" and WORD.match(tokens[index + 2][0]):
                    segments.append(tokens[index + 2][0])
                    index += 2
                self.note(here, tuple(segments), f"{path}:{line}", False)
                index += 1
            else:
                depth += (word == "{") - (word == "}")
                if word == "}" and len(scopes) > 1 and depth == scopes[-1][1]:
                    scopes.pop()
                index += 1
            reexport = False

    def note(self, here, segments, place, reexport, alias=None):
        """Keeps a path: one of our modules, resolved, or a crate's name."""
        segments = segments[1:] if segments[0] == "::" else segments
        first, path = segments[0], None
        ours = {"crate": self.crate, "self": here, "super": here, self.package: (), f"{self.package}_client": CLIENT}
        if first in ours:
            path = ours[first]
            rest = list(segments if first in ("self", "super") else segments[1:])
            while rest and rest[0] in ("self", "super"):
                path = path[:-1] if rest.pop(0) == "super" else path
            path = (*path, *rest)
        elif (here, first) in self.aliases:
            known = self.aliases[here, first]
            path = (*known, *segments[1:]) if isinstance(known, tuple) else None
        elif (*here, first) in self.modules:
            path = (*here, *segments)
        if path is None:
            # A crate's, where it is named for the first time: a name that was imported before, or a type of this file, is none.
            crate = self.aliases.get((here, first), first)
            if alias or (crate == first and first.islower()):
                self.imports.append(Import(here, crate, place, reexport))
            if alias:
                self.aliases[here, alias] = crate
            return
        whole = tuple(segment for segment in path if segment not in ("self", "*"))
        passed_on = next((end for end in (1, 2) if whole[:end] in self.reexported), None)
        if passed_on and whole[:passed_on] not in self.modules:
            whole = (*self.reexported[whole[:passed_on]], *whole[passed_on:])
        if alias:
            self.aliases[here, alias] = whole
            if here in ROOTS:
                self.reexported[*here, alias] = whole
        target = whole
        while target and target not in self.modules:
            target = target[:-1]
        if target != here:
            self.imports.append(Import(here, target, place, reexport))


def section(document):
    """The order (room → rank) and the crates' rooms (pattern → rooms), as the document declares them."""
    text = re.search(rf"^## {HEADING}\n(.*?)(?=^## |\Z)", document, re.MULTILINE | re.DOTALL)
    block = text and re.search(r"^```\w*\n(.*?)^```$", text[1], re.MULTILINE | re.DOTALL)
    table = text and re.search(r"^\| *crate *\| *rooms *\|\n\|[-| ]+\|\n((?:\|.*\|\n?)*)", text[1], re.MULTILINE)
    if not block or not table:
        sys.exit(f'ARCHITECTURE.md has no block of ranks, or no table of crates, below "## {HEADING}"')
    lines = [line.partition("#")[0].split() for line in block[1].splitlines()]
    ranks = {}
    for rank, names in enumerate(filter(None, lines)):
        for name in names:
            if name in ranks:
                sys.exit(f"ARCHITECTURE.md names the room {name} twice")
            ranks[name] = rank
    crates = {}
    for row in table[1].splitlines():
        names, rooms = ([name.strip(" `") for name in cell.split(",")] for cell in row.strip("|").split("|"))
        crates |= {name: rooms for name in names}
    return ranks, crates


def room_of(module, ranks):
    """The longest name in the order that the module is, or is below."""
    names = ["::".join(module[:length]) for length in range(len(module), 0, -1)]
    return next((name for name in names if name in ranks), None)


def wrong_ranks(tree, ranks):
    for name in sorted({"::".join(module[: 2 if module[:1] == CLIENT else 1]) for module in tree.files if module not in ROOTS}):
        if not any(room == name or room.startswith(f"{name}::") for room in ranks):
            where = f"client/src/{name.removeprefix('client::')}" if name.startswith("client::") else f"src/{name}"
            yield f"{where}: no line of the order names this room"
    for name in sorted(name for name in ranks if tuple(name.split("::")) not in tree.modules):
        yield f"ARCHITECTURE.md: the order names {name}, which is no module"
    told = set()
    for one in tree.imports:
        if not isinstance(one.target, tuple) or {one.source, one.target} & ROOTS or one[:2] in told:
            continue
        told.add(one[:2])
        source, target = room_of(one.source, ranks), room_of(one.target, ranks)
        if source and target and source != target and ranks[target] >= ranks[source]:
            where = "above" if ranks[target] > ranks[source] else "on the line of"
            yield f"{one.place}: {source} imports {'::'.join(one.target)}, which stands {where} it"


def wrong_crates(tree, crates):
    for one in tree.imports:
        if isinstance(one.target, tuple):
            continue
        for pattern, rooms in crates.items():
            if one.target == pattern or (pattern.endswith("*") and one.target.startswith(pattern[:-1])):
                paths = [tuple(room.split("::")) for room in rooms]
                if not any(one.source[: len(path)] == path for path in paths):
                    yield f"{one.place}: {'::'.join(one.source)} names {one.target}, which belongs in {', '.join(rooms)}"


def circles(edges):
    """The strongly connected components of more than one node, by Tarjan; `edges` is node → set of nodes."""
    number, low, stack, found = {}, {}, [], []

    def visit(node):
        number[node] = low[node] = len(number)
        stack.append(node)
        for other in sorted(edges.get(node, ())):
            if other not in number:
                visit(other)
            if other in stack:
                low[node] = min(low[node], low[other])
        if low[node] == number[node]:
            component = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(component) > 1:
                found.append(sorted(component))

    for node in sorted(edges):
        if node not in number:
            visit(node)
    return found


def wrong_siblings(tree):
    """Children of one module that import each other: each is taken with all that is below it."""
    edges, places = defaultdict(lambda: defaultdict(set)), {}
    for one in tree.imports:
        if not isinstance(one.target, tuple):
            continue
        common = 0
        while common < min(len(one.source), len(one.target)) and one.source[common] == one.target[common]:
            common += 1
        # A root's children are the rooms: their order is a matter of ranks.
        if one.source[:common] not in ROOTS and common < min(len(one.source), len(one.target)):
            pair = one.source[: common + 1], one.target[: common + 1]
            edges[one.source[:common]][pair[0]].add(pair[1])
            places.setdefault(pair, one.place)
    for parent in sorted(edges):
        for circle in circles(edges[parent]):
            names = ", ".join("::".join(module) for module in circle)
            inside = [place for (a, b), place in sorted(places.items()) if a in circle and b in circle]
            yield f"{inside[0]}: these import each other: {names} ({', '.join(inside)})"


def same_names(tree):
    for _, paths in sorted(tree.names.items()):
        if len(paths) > 1:
            yield f"{paths[0]}: {len(paths)} files have this name: {', '.join(map(str, paths))}"


def entangled(tree):
    """Parent and child that import from each other; what a parent only passes on doesn't count."""
    pairs = {(one.source, one.target) for one in tree.imports if isinstance(one.target, tuple) and not one.reexport}
    return sorted(child for child, parent in pairs if len(child) > 1 and parent == child[:-1] and (parent, child) in pairs)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    here = Path(__file__).resolve().parents[1]
    parser.add_argument("--root", type=Path, default=here, help="where ARCHITECTURE.md and src are")
    root = parser.parse_args().root
    ranks, crates = section((root / "ARCHITECTURE.md").read_text())
    package = re.search(r'^name = "(.+)"$', (root / "Cargo.toml").read_text(), re.MULTILINE)[1].replace("-", "_")
    tree = Tree(root, package)
    faults = [*wrong_ranks(tree, ranks), *wrong_crates(tree, crates), *wrong_siblings(tree), *same_names(tree)]
    for fault in dict.fromkeys(faults):
        print(fault, file=sys.stderr)
    both = entangled(tree)
    print(f"{len(tree.files)} files, {len(tree.imports)} imports, {len(set(faults))} faults.")
    print(f"Modules that import from a parent that imports from them: {len(both)}", *("::".join(one) for one in both))
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
