"""`.ci/version.py` on a copy of what it looks at: each place broken once and found, and set again by it, none left out."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / ".ci" / "version.py"
PLACES = re.findall(r'^    "(.*?)": \(r', SCRIPT.read_text(), re.MULTILINE)
# What is shipped with the project's address in it.
SHIPPED = re.findall(r'"(.*?)"', re.search(r"^SHIPPED = \((.*?)\)$", SCRIPT.read_text(), re.MULTILINE | re.DOTALL)[1])
OTHER = "9.8.7"


@pytest.fixture
def tree(tmp_path):
    for name in {*PLACES, *SHIPPED, "CHANGELOG.md"}:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def run(tree, *arguments):
    return subprocess.run([sys.executable, SCRIPT, *arguments], cwd=tree, capture_output=True, text=True, check=False)


def version(tree):
    return re.search(r'^version = "(.*)"$', (tree / "Cargo.toml").read_text(), re.MULTILINE)[1]


def test_as_it_is_it_is_in_order(tree):
    assert run(tree).returncode == 0
    assert len(PLACES) > 5


@pytest.mark.parametrize("place", PLACES[1:])
def test_another_version_anywhere_is_found_and_set(tree, place):
    # Everywhere, and then back but there.
    run(tree, OTHER)
    for other in PLACES:
        if other != place:
            shutil.copy(ROOT / other, tree / other)
    path = tree / place
    done = run(tree)
    assert done.returncode == 1
    assert f"{place} has {OTHER}" in done.stderr
    assert run(tree, version(tree)).returncode == 0
    assert path.read_text() == (ROOT / place).read_text()


def test_a_new_version_is_set_everywhere_and_nothing_else_is(tree):
    before = version(tree)
    assert run(tree, OTHER).returncode == 0
    for place in PLACES:
        assert (tree / place).read_text().count(OTHER) >= 1
    assert run(tree, before).returncode == 0
    assert all((tree / place).read_text() == (ROOT / place).read_text() for place in PLACES)


def test_nothing_else_names_a_release(tree):
    # Set everywhere that the script knows, the former version stands nowhere else in what people read, copy or apply.
    before = version(tree)
    assert run(tree, OTHER).returncode == 0
    names_it = re.compile(rf"(?:token-broker(?:-sandbox)?:|refs/tags/v|\bv){re.escape(before)}(?![0-9.])")
    read = [
        path.relative_to(ROOT)
        for pattern in ("*.md", "docs/**/*.md", "sandbox/**/*", "deploy/**/*", "examples/**/*", ".github/**/*")
        for path in ROOT.glob(pattern)
        if path.is_file() and path.name != "CHANGELOG.md"
    ]
    assert Path("docs/operations.md") in read
    for name in read:
        path = tree / name if (tree / name).exists() else ROOT / name
        assert not names_it.search(path.read_text(errors="replace")), f"{name} names a release, and .ci/version.py doesn't set it"


CHANGELOG = "# Changelog\n\n## [Unreleased]\n\n## [0.2.0] - 2026-11-27\n\n### Added\n\n## [0.1.0] - 2026-10-01\n"
WRONG = {
    "nothing unreleased": (CHANGELOG.replace("## [Unreleased]\n\n", ""), "comes first"),
    "no date": (CHANGELOG.replace(" - 2026-11-27", ""), "has the date of its release"),
    "no such date": (CHANGELOG.replace("2026-11-27", "27 November"), "a heading is neither"),
    "an older one first": (CHANGELOG.replace("2026-11-27", "2026-09-01"), "the newest version comes first"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_sections_of_the_changelog_out_of_order_are_found(tree, wrong):
    text, why = WRONG[wrong]
    (tree / "CHANGELOG.md").write_text(text)
    done = run(tree)
    assert done.returncode == 1
    assert why in done.stderr


def put_the_address(tree):
    for name in SHIPPED:
        path = tree / name
        path.write_text(path.read_text().replace("https://example.org/", "https://code.example.com/"))


def test_a_tag_is_the_version_and_has_its_section(tree):
    run(tree, "0.2.0")
    put_the_address(tree)
    (tree / "CHANGELOG.md").write_text(CHANGELOG)
    assert run(tree, "--tag", "v0.2.0").returncode == 0
    assert "is not v0.2.0" in run(tree, "--tag", "v0.3.0").stderr
    (tree / "CHANGELOG.md").write_text(CHANGELOG.replace("0.2.0", "0.1.9"))
    assert "no section of 0.2.0" in run(tree, "--tag", "v0.2.0").stderr


@pytest.mark.parametrize("shipped", SHIPPED)
def test_a_placeholder_is_not_released(tree, shipped):
    run(tree, "0.2.0")
    (tree / "CHANGELOG.md").write_text(CHANGELOG)
    before = (tree / shipped).read_text()
    put_the_address(tree)
    # As it will be, once somebody has put the address into the repository.
    (tree / shipped).write_text(before + "# https://example.org/token-broker\n")
    done = run(tree, "--tag", "v0.2.0")
    assert done.returncode == 1
    assert done.stderr.startswith(f"{shipped} has https://example.org/")
    assert run(tree).returncode == 0


def test_wrong_usage_is_explained(tree):
    done = run(tree, "next")
    assert done.returncode == 1
    assert "version.py --tag" in done.stderr
