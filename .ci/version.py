#!/usr/bin/env python3
"""One version, that of Cargo.toml: wherever else it stands, and in CHANGELOG.md.

version.py                  fails where a file names another, or where CHANGELOG.md's sections are not in the order of time
version.py 0.2.0            sets it everywhere; the rest of CONTRIBUTING.md's "Releasing" is by hand
version.py --tag v0.2.0     besides, that this is what the tag releases: the version, and its section of CHANGELOG.md with a date;
                            and that what is shipped names the project's own address, not a placeholder
"""

import re
import sys
from pathlib import Path

VERSION = r"(\d+\.\d+\.\d+(?:-[0-9A-Za-z.-]+)?)"
# By file: where it stands, and how often at least. The lock files have it once for each of our packages that they know.
PLACES = {
    "Cargo.toml": (rf'^version = "{VERSION}"$', 1),
    "README.md": (rf"(?:ghcr\.io/OWNER/(?:charts/)?token-broker:|refs/tags/v){VERSION}", 7),
    "docs/operations.md": (rf"registry\.example\.org/token-broker:{VERSION}", 1),
    "deploy/Dockerfile": (rf"^ARG VERSION={VERSION}$", 1),
    "sandbox/Dockerfile": (rf"^ARG VERSION={VERSION}$", 1),
    "deploy/charts/token-broker/Chart.yaml": (rf'^(?:version: |appVersion: "| +image: token-broker:){VERSION}"?$', 3),
    "deploy/kubernetes/token-broker.yaml": (rf'(?:app\.kubernetes\.io/version: |image: "token-broker:){VERSION}"?$', 2),
    "deploy/kubernetes/sandbox.yaml": (rf"image: token-broker-sandbox:{VERSION}$", 1),
    "deploy/kubernetes/trial-caller.yaml": (rf"image: token-broker:{VERSION}$", 1),
    "Cargo.lock": (rf'^name = "token-broker(?:-client|-sandbox)?"\nversion = "{VERSION}"$', 3),
    "fuzz/Cargo.lock": (rf'^name = "token-broker(?:-client)?"\nversion = "{VERSION}"$', 2),
}
# What is released and says where the project lives; and what stands there until somebody has a place for it.
SHIPPED = (
    "deploy/charts/token-broker/Chart.yaml",
    "deploy/charts/token-broker/templates/_names.tpl",
    "deploy/monitoring/rules.yaml",
)
PLACEHOLDER = "https://example.org/"
SECTION = re.compile(rf"^## \[(?:{VERSION}|Unreleased)\](?: - (\d{{4}}-\d{{2}}-\d{{2}}))?$", re.MULTILINE)


def wrong_places(root, version):
    """What names another version, or none."""
    for name, (pattern, least) in PLACES.items():
        found = re.findall(pattern, (root / name).read_text(), re.MULTILINE)
        if len(found) < least:
            yield f"{name}: the version stands there {len(found)} times, not {least}"
        for other in sorted(set(found) - {version}):
            yield f"{name} has {other}, Cargo.toml {version}: set it by .ci/version.py {version}"


def wrong_changelog(text, version, tag):
    """What is wrong with the sections of CHANGELOG.md."""
    sections = [(match[1], match[2]) for match in SECTION.finditer(text)]
    headings = re.findall(r"^## .*$", text, re.MULTILINE)
    if len(headings) != len(sections):
        yield "CHANGELOG.md: a heading is neither `## [Unreleased]` nor `## [X.Y.Z] - YYYY-MM-DD`"
    if [release for release, _ in sections].count(None) != 1 or sections[0] != (None, None):
        yield "CHANGELOG.md: `## [Unreleased]` comes first, once, and has no date"
    dates = [date for release, date in sections if release]
    if None in dates:
        yield "CHANGELOG.md: each version has the date of its release"
    elif dates != sorted(dates, reverse=True):
        yield "CHANGELOG.md: the newest version comes first"
    if tag is not None:
        if tag != f"v{version}":
            yield f"the tag {tag} is not v{version}, which Cargo.toml has"
        if version not in dict(sections):
            yield f"CHANGELOG.md has no section of {version}: give what is under Unreleased its version and its date"


def placeholders(root):
    """What would be released with an address that is nobody's."""
    for name in SHIPPED:
        if PLACEHOLDER in (root / name).read_text():
            yield f"{name} has {PLACEHOLDER}, a placeholder: put the project's own address there"


def replace(root, version):
    """Sets the version in each place."""
    for name, (pattern, _) in PLACES.items():
        path = root / name
        text = path.read_text()
        path.write_text(re.sub(pattern, lambda match: match[0].replace(match[1], version), text, flags=re.MULTILINE))


def main():
    root = Path.cwd()
    tag = None
    match sys.argv[1:]:
        case []:
            pass
        case ["--tag", tag]:
            pass
        case [version] if re.fullmatch(VERSION, version):
            replace(root, version)
        case _:
            sys.exit(__doc__)
    version = re.search(PLACES["Cargo.toml"][0], (root / "Cargo.toml").read_text(), re.MULTILINE)[1]
    wrong = [*wrong_places(root, version), *wrong_changelog((root / "CHANGELOG.md").read_text(), version, tag)]
    if tag is not None:
        wrong += placeholders(root)
    if wrong:
        sys.exit("\n".join(wrong))
    print(f"{version} everywhere.")


if __name__ == "__main__":
    main()
