"""`helm package` and `helm lint`: the archive is whole, links included, and says what the directory says."""

import tarfile

import pytest

from rendering import CHART, NAMESPACE, ROOT, VARIANTS, helm


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    directory = tmp_path_factory.mktemp("package")
    done = helm("package", CHART, "--destination", directory)
    assert done.returncode == 0, done.stderr
    (packed,) = directory.iterdir()
    return packed


def test_the_rules_and_the_dashboard_are_files_in_it(archive):
    with tarfile.open(archive) as packed:
        for name in ("rules.yaml", "dashboard.json"):
            member = packed.getmember(f"token-broker/files/{name}")
            assert member.isreg()
            assert packed.extractfile(member).read() == (ROOT / "deploy" / "monitoring" / name).read_bytes()


def test_what_is_for_tests_is_not_in_it(archive):
    with tarfile.open(archive) as packed:
        names = {name.removeprefix("token-broker/") for name in packed.getnames()}
    assert {"Chart.yaml", "README.md", "values.yaml", "values.schema.json", "values-ha.yaml", "templates/NOTES.txt"} <= names
    assert not [name for name in names if name.startswith("ci/") or name == "values-plain.yaml"]


@pytest.mark.parametrize("variant", ["reviewed", "everything"])
def test_it_renders_the_same(archive, variant):
    rendered = [helm("template", "tb", chart, "--namespace", NAMESPACE, files=VARIANTS[variant]) for chart in (CHART, archive)]
    assert rendered[0].returncode == 0
    assert rendered[0].stdout == rendered[1].stdout


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_lint_has_nothing_to_say(variant):
    done = helm("lint", CHART, "--strict", files=VARIANTS[variant])
    assert done.returncode == 0, done.stdout + done.stderr
