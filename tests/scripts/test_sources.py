"""What `.ci/image.sh` makes of Ubuntu's package sources, so that arm64 is looked for where it is; Debian's are left alone."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# As a runner of GitHub's has it.
UBUNTU = """Types: deb
URIs: mirror+file:/etc/apt/apt-mirrors.txt
Suites: noble noble-updates noble-backports
Components: main universe restricted multiverse

Types: deb
URIs: http://security.ubuntu.com/ubuntu/
Suites: noble-security
Components: main universe restricted multiverse
"""


def split(directory):
    # The machine's own architecture is given: `dpkg` isn't asked.
    script = 'as_root() { "$@"; }; dpkg() { echo amd64; }; source .ci/image.sh; sources_for_arm64 "$1"'
    subprocess.run(["bash", "-euc", script, "bash", directory], cwd=ROOT, check=True)
    return {path.name: path.read_text() for path in directory.iterdir()}


def test_each_source_of_ubuntu_is_of_one_architecture(tmp_path):
    (tmp_path / "ubuntu.sources").write_text(UBUNTU)
    found = split(tmp_path)
    assert re.findall(r"^Types: deb\nArchitectures: (.*)$", found["ubuntu.sources"], re.MULTILINE) == ["amd64", "amd64"]
    assert found["ubuntu.sources"].replace("Architectures: amd64\n", "") == UBUNTU
    ports = found["ubuntu-arm64.sources"]
    assert "\nURIs: http://ports.ubuntu.com/ubuntu-ports\nSuites: noble noble-updates noble-security\n" in ports
    assert "\nArchitectures: arm64\n" in ports
    assert split(tmp_path) == found


def test_the_sources_of_debian_are_left_alone(tmp_path):
    (tmp_path / "debian.sources").write_text(UBUNTU)
    assert split(tmp_path) == {"debian.sources": UBUNTU}
