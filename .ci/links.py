#!/usr/bin/env python3
"""Fails where a relative link of a Markdown file leads to no file, or to no heading: `python3 .ci/links.py`"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def anchors(page):
    """The anchors of a page's headings, as forges make them: words in small letters, joined by hyphens."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


def faults(page):
    # Examples in code hold no links; their lines stay, for the numbers.
    text = re.sub(r"^```.*?^```$", lambda code: "\n" * code[0].count("\n"), page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for number, line in enumerate(text.splitlines(), 1):
        for target, anchor in re.findall(r"\]\((?![a-z]+:)([^)#\s]*)#?([^)\s]*)\)", line):
            path = page.parent / target if target else page
            if not path.exists():
                yield f"{page.relative_to(ROOT)}:{number}: {target} is not there"
            elif anchor and path.suffix == ".md" and anchor not in anchors(path):
                yield f"{page.relative_to(ROOT)}:{number}: {target} has no heading #{anchor}"


command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
names = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True).stdout.splitlines()
found = [fault for name in names if (ROOT / name).exists() for fault in faults(ROOT / name)]
print(*found, sep="\n", end="\n" if found else "")
sys.exit(1 if found else 0)
