"""`.ci/import_map.py` on small made-up trees: each rule broken once and found, and what is no fault passed over."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / ".ci" / "import_map.py"

MAP = """# Architecture

## Imports point down

```ranks
clock text        # two rooms that know nothing of each other
config
rpc
main
```

| crate | rooms |
| --- | --- |
| tonic, tonic_* | rpc |
| hyper | rpc::wire |

## Another section
"""

CLEAN = {
    "lib.rs": "pub mod clock; pub mod text; pub mod config; pub mod rpc;",
    "main.rs": "use token_broker::rpc::Api;\nfn main() { token_broker::rpc::run(); }",
    "clock.rs": "pub struct Clock;",
    "text.rs": "pub fn trim() {}\npub fn chars() -> impl Sized + use<> {}",
    "config.rs": "mod limits;\npub use limits::MAX;\nuse crate::{clock::Clock, text};\nuse std::fs;",
    "config/limits.rs": "pub const MAX: u32 = 1;",
    "rpc.rs": "mod wire;\nuse crate::config::{self, limits::MAX as LONGEST};\nuse tonic::Status;\npub struct Api;",
    "rpc/wire.rs": "use super::Api;\nuse hyper::body::Body;",
}


@pytest.fixture
def check(tmp_path):
    """Runs the script over the clean tree with these files on top; returns exit code, faults and what else it said."""

    def run(files=None, document=MAP):
        (tmp_path / "ARCHITECTURE.md").write_text(document)
        (tmp_path / "Cargo.toml").write_text('[package]\nname = "token-broker"\n')
        for name, text in (CLEAN | (files or {})).items():
            path = tmp_path / "src" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        done = subprocess.run([sys.executable, SCRIPT, "--root", tmp_path], capture_output=True, text=True)
        return done.returncode, done.stderr.splitlines(), done.stdout

    return run


def test_a_clean_tree_passes(check):
    assert check() == (0, [], "8 files, 11 imports, 0 faults.\nModules that import from a parent that imports from them: 0\n")


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("clock.rs", "\nuse crate::config::MAX;", "src/clock.rs:2: clock imports config, which stands above it"),
        ("clock.rs", "use crate::{\n  config::{\n    limits::MAX,\n  }\n};", "src/clock.rs:3: clock imports config::limits"),
        ("clock.rs", "use super::rpc;", "src/clock.rs:1: clock imports rpc, which stands above it"),
        ("clock.rs", "fn a() -> u32 {\n    crate::config::MAX\n}", "src/clock.rs:2: clock imports config, which stands above it"),
        ("clock.rs", "mod a {\n    pub(crate) use super::super::config::MAX;\n}", "src/clock.rs:2: clock imports config, which"),
        ("clock.rs", "#[derive(crate::rpc::Api)] struct A;", "src/clock.rs:1: clock imports rpc, which stands above it"),
        ("clock.rs", "use crate::text::trim;", "src/clock.rs:1: clock imports text, which stands on the line of it"),
        ("config/limits.rs", "use crate::rpc::Api;", "src/config/limits.rs:1: config imports rpc, which stands above it"),
    ],
)
def test_an_import_from_above_is_found(check, name, text, fault):
    code, faults, _ = check({name: text})
    assert code == 1
    assert len(faults) == 1
    assert faults[0].startswith(fault)


@pytest.mark.parametrize(
    "text",
    [
        "use tonic::{Code, Status};",
        "pub use tonic_health as health;",
        "fn a() -> tonic::Status { todo!() }",
        "#[tonic::async_trait] trait A {}",
        "use ::tonic::Status;",
    ],
)
def test_a_crate_outside_its_room_is_found(check, text):
    code, faults, _ = check({"config/limits.rs": text})
    assert code == 1
    assert [fault.split(" names ")[0] for fault in faults] == ["src/config/limits.rs:1: config::limits"]


def test_a_crate_may_belong_to_a_submodule(check):
    code, faults, _ = check({"rpc.rs": "mod wire; use hyper::Body; pub struct Api;"})
    assert (code, faults) == (1, ["src/rpc.rs:1: rpc names hyper, which belongs in rpc::wire"])


def test_siblings_that_import_each_other_are_found(check):
    code, faults, _ = check({"rpc/call.rs": "use super::wire;", "rpc/wire.rs": "\nfn a() { super::call::b() }"})
    assert code == 1
    assert faults == ["src/rpc/call.rs:1: these import each other: rpc::call, rpc::wire (src/rpc/call.rs:1, src/rpc/wire.rs:2)"]


def test_a_circle_is_found_also_through_what_is_below(check):
    files = {"rpc/a.rs": "mod deep;", "rpc/a/deep.rs": "use crate::rpc::b::B;"}
    files |= {"rpc/b.rs": "use super::c::C;", "rpc/c.rs": "use super::a;"}
    code, faults, _ = check(files)
    assert code == 1
    assert len(faults) == 1
    assert "these import each other: rpc::a, rpc::b, rpc::c (" in faults[0]


def test_parent_and_child_that_import_each_other_are_counted_only(check):
    code, faults, said = check({"rpc.rs": "mod wire; use wire::Wire; pub struct Api;"})
    assert (code, faults) == (0, [])
    assert said.endswith("imports from them: 1 rpc::wire\n")


def test_files_of_one_name_are_found(check):
    code, faults, _ = check({"rpc/limits.rs": "", "rpc/tests.rs": "", "config/tests.rs": ""})
    assert code == 1
    assert faults == ["src/config/limits.rs: 2 files have this name: src/config/limits.rs, src/rpc/limits.rs"]


def test_a_room_without_a_rank_and_a_rank_without_a_room_are_found(check):
    code, faults, _ = check({"audit.rs": ""}, MAP.replace("\nrpc\n", "\nrpc metrics\n"))
    assert code == 1
    assert faults == [
        "src/audit: no line of the order names this room",
        "ARCHITECTURE.md: the order names metrics, which is no module",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "#[cfg(test)]\nmod tests { use crate::rpc::Api; fn a() { tonic::b() } }",
        "#[cfg(test)]\nuse crate::rpc::{Api, b};",
        "#[cfg(any(test, fuzzing))]\nmod fuzz { use crate::rpc::Api; }",
        "#[cfg(test)]\n#[must_use]\npub(crate) fn a<A, B>(api: crate::rpc::Api) -> u32 { 1 }",
        "struct A { #[cfg(test)] api: crate::rpc::Api, b: u32 }",
        "#[cfg(all(test, unix))] mod more;",
        "#![cfg(test)]\nuse crate::rpc::Api;",
        "// use crate::rpc::Api;\n/* use tonic::Status; /* nested */ use tonic::Code; */",
        '/// See [`crate::rpc::Api`].\nconst A: &str = "crate::rpc::Api";\nconst B: &str = r#"tonic::"Status""#;',
        "fn a<'tonic>(b: &'tonic str, c: char) -> bool { c == '\"' || c == '\\'' }",
        "mod tonic { pub struct Status; }\nuse tonic::Status;",
        "pub(in crate::clock) fn a() {}",
    ],
)
def test_tests_comments_and_literals_are_passed_over(check, text):
    files = {"clock.rs": text, "clock/more.rs": "use crate::rpc::Api;", "clock/tests/long.rs": "use crate::rpc::Api;"}
    if "mod more" not in text:
        del files["clock/more.rs"]
    code, faults, _ = check(files)
    assert (code, faults) == (0, [])


CLIENT_MAP = MAP.replace("clock text ", "client::instant\nclient::call\nclock text ").replace("| rpc |", "| rpc, client::call |")
CLIENT = {
    "lib.rs": "pub mod clock; pub mod text; pub mod config; pub mod rpc;\n"
    "pub use token_broker_client::{self as calls, instant as time};",
    "rpc.rs": "mod wire; use crate::time::Time; use token_broker_client::Call; pub struct Api;",
    "../client/src/lib.rs": "pub mod instant; mod call; pub use self::call::Call;",
    "../client/src/instant.rs": "pub struct Time;",
    "../client/src/call.rs": "use crate::instant::Time; use tonic::Status; pub struct Call;",
}


def test_the_client_crate_is_a_room_below(check):
    code, faults, _ = check(CLIENT, CLIENT_MAP)
    assert (code, faults) == (0, [])


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        (
            "../client/src/instant.rs",
            "use crate::call::Call;",
            "client/src/instant.rs:1: client::instant imports client::call, which",
        ),
        ("../client/src/instant.rs", "use crate::Call;", "client/src/instant.rs:1: client::instant imports client::call, which"),
        (
            "../client/src/instant.rs",
            "use token_broker::rpc;",
            "client/src/instant.rs:1: client::instant imports rpc, which stands above",
        ),
        (
            "../client/src/instant.rs",
            "use tonic::Code;",
            "client/src/instant.rs:1: client::instant names tonic, which belongs in rpc, ",
        ),
        ("../client/src/more.rs", "", "client/src/more: no line of the order names this room"),
        ("../client/src/rpc.rs", "", "client/src/rpc: no line of the order names this room"),
        ("../client/src/call/config.rs", "", "client/src/call/config.rs: 2 files have this name"),
    ],
)
def test_the_client_crate_keeps_to_its_place(check, name, text, fault):
    code, faults, _ = check(CLIENT | {name: text}, CLIENT_MAP)
    assert code == 1
    assert faults[0].startswith(fault)


def test_what_is_passed_on_counts_as_what_it_is(check):
    order = (
        CLIENT_MAP.replace("client::instant\n", "")
        .replace("\nrpc\n", "\nrpc\nclient::instant\n")
        .replace("client::call\n", "", 1)
    )
    code, faults, _ = check(CLIENT | {"../client/src/call.rs": ""}, order.replace("\nrpc\n", "\nclient::call\nrpc\n"))
    assert code == 1
    assert faults == ["src/rpc.rs:1: rpc imports client::instant, which stands above it"]


def test_a_document_without_the_map_is_refused(check):
    code, faults, _ = check(document="# Architecture\n")
    assert code == 1
    assert faults == ['ARCHITECTURE.md has no block of ranks, or no table of crates, below "## Imports point down"']
