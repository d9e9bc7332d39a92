#!/usr/bin/env python3
"""Everything that docs/performance.md tells of the broker's speed and size, measured beside a default tonic server (the echo).

    python3 benches/performance.py [SECTION…] [--json FILE] [--svg FILE] [--page FILE] [--rounds N] …

Sections: cpu, cores, latency, misses, memory, start, instructions, soak; all but soak, unless some are named. Prints Markdown.
Nothing else should run on the machine. Needs Debian's nghttp2-client (h2load) and openssl, for `instructions` valgrind. --from
measures nothing: it prints and draws what an earlier --json wrote; of several, the later file's sections replace the earlier's.
"""

import argparse
import os
import pathlib
import sys

import cores
import cpu
import instructions
import latency
import memory
import misses
import soak
from figures import as_json, from_json, table
from harness import build_all, need
from svg import draw

BEGIN, END = "<!-- figures: benches/performance.py --page -->", "<!-- end of figures -->"
SECTIONS = {
    "cpu": cpu.measure,
    "cores": cores.measure,
    "latency": latency.measure,
    "misses": misses.measure,
    "memory": memory.measure,
    "start": misses.measure_start,
    "instructions": instructions.measure_all,
    "soak": soak.measure,
}


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; default: all but soak")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side (default 5)")
    parser.add_argument("--calls", type=int, default=100_000, help="calls in a turn of `cpu` (default 100,000)")
    parser.add_argument("--users", type=int, default=100_000, help="users at random in `cpu` (default 100,000)")
    parser.add_argument("--seed", type=int, default=1, help="of the users at random (default 1)")
    parser.add_argument("--seconds", type=int, default=10, help="of a turn of `cores` and `latency` (default 10)")
    parser.add_argument("--rate", type=int, help="calls a second in `latency` (default: a third of the smaller capacity)")
    parser.add_argument("--renewals", type=int, default=100_000, help="renewals in `memory` (default 100,000)")
    parser.add_argument("--minutes", type=float, default=10, help="of `soak` (default 10)")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the results there")
    parser.add_argument("--svg", type=pathlib.Path, metavar="FILE", help="draw the ratios there")
    parser.add_argument("--page", type=pathlib.Path, metavar="FILE", help="put the tables there, between its marks")
    parser.add_argument("--from", dest="earlier", type=pathlib.Path, nargs="+", help="measure nothing, read these")
    options = parser.parse_args()
    unknown = set(options.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"no such section: {', '.join(sorted(unknown))}")
    options.sections = options.sections or [section for section in SECTIONS if section != "soak"]
    return options


def measure(options):
    if "instructions" in options.sections:
        need("valgrind", "valgrind")
        # Names are left in for callgrind; the code is the one that is shipped.
        os.environ["CARGO_PROFILE_RELEASE_STRIP"] = "none"
    need("h2load", "nghttp2-client")
    need("openssl", "openssl")
    programs = build_all(with_broker=True)
    found = {}
    # In the order of the table, whatever the order of the names.
    for section, run in SECTIONS.items():
        if section in options.sections:
            found[section] = run(programs, options)
            print_section(section, found[section])
            # What took long is not lost if a later section fails.
            if options.json:
                options.json.write_text(as_json(found))
    return found


def print_section(name, figures):
    print(f"\n## {name}\n\n{table(figures)}\n", flush=True)


def write_page(page, found, marks=(BEGIN, END)):
    """Replaces what stands between the two marks of a page of Markdown."""
    begin, end = marks
    before, rest = page.read_text().split(begin, 1)
    after = rest.split(end, 1)[1]
    tables = "\n".join(f"### {section}\n\n{table(figures)}\n" for section, figures in found.items())
    page.write_text(f"{before}{begin}\n\n{tables}\n{end}{after}")


def main():
    options = parse()
    if options.earlier:
        found = {}
        for file in options.earlier:
            found |= from_json(file.read_text())
        # In the order of the table, whatever the order of the files.
        found = {section: found[section] for section in SECTIONS if section in found}
        for section, figures in found.items():
            print(f"## {section}\n\n{table(figures)}\n")
    else:
        found = measure(options)
    if options.page:
        write_page(options.page, found)
    if options.svg:
        options.svg.write_text(draw(found))
    missed = [figure.name for figures in found.values() for figure in figures if figure.verdict == "missed"]
    print(f"limits missed: {len(missed)}", *missed, sep="\n- ")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
