"""Reads what callgrind counted, and adds it up by the parts of the broker."""

import re
import subprocess

# Longest name that the table prints: generic code has names of a thousand characters.
NAME_WIDTH = 150

# The first whose pattern is in a function's name or library takes its own instructions. What the compiler merged into its caller
# counts as the caller's.
PARTS = [
    ("allocator", r"\b_?mi_|\bmalloc|\bfree$|__rust_(?:alloc|dealloc|realloc)|__rdl_|alloc::alloc|mimalloc"),
    ("copying, comparing and clearing memory", r"\bmem(?:cpy|move|set|cmp|chr)|\bbcmp|__mem\w+_(?:avx|sse|evex|unaligned)"),
    ("system calls and locks of the C library", r"libc\.so|libpthread|vdso|\bsyscall\b|ld-linux"),
    ("audit trail", r"token_broker::telemetry::(?:audit|trail|lines|output)"),
    ("metrics", r"token_broker::telemetry::metrics|prometheus_client"),
    ("the broker's call: rpc, authn, policy, broker, tokens", r"^<?&?(?:mut )?token_broker::|<impl .*token_broker::"),
    ("HTTP/2: h2 and HPACK", r"^<?&?(?:mut )?h2::"),
    ("hyper and http", r"^<?&?(?:mut )?(?:hyper|hyper_util|http|http_body|http_body_util|httparse)::"),
    ("tonic and prost", r"^<?&?(?:mut )?(?:tonic|tonic_prost|prost|prost_types|tonic_health)::"),
    ("tokio and mio", r"^<?&?(?:mut )?(?:tokio|tokio_util|mio|parking_lot)::"),
    ("bytes", r"^<?&?(?:mut )?(?:bytes)::"),
    ("hashing and caches", r"^<?&?(?:mut )?(?:moka|hashbrown|siphasher|foldhash)::|core::hash|BuildHasher"),
    ("tracing", r"^<?&?(?:mut )?tracing"),
]
REST = "standard library and the rest"

# What is called in each call or for each connection, with all that it calls: the largest of the functions that match. Connection
# and call are tasks beside each other; what follows happens within the call's. What the compiler has merged into its caller is
# left out.
ENTRIES = [
    ("a connection: reading and writing frames (hyper, h2)", r"hyper::server::conn::http2::Connection<"),
    ("a call's task: all of the answer, and its frames (hyper)", r"hyper::proto::h2::server::H2Stream<"),
    ("the broker's layers, tonic and the handler", r"rpc::services::Calls as hyper"),
    ("tonic and the handler", r"TokenBrokerServiceServer<.*> as tower_service"),
    ("the handler of GetToken", r"get_token::Call as .*get_token::\{\{closure"),
    ("encoding the answer, wherever it is asked for (tonic, prost)", r"tonic::codec::encode::EncodeBody<.*poll_frame"),
    ("making and handing over an audit line", r"telemetry::audit::line::write"),
]


class Counts:
    """A file of callgrind's: all instructions, and those of each function."""

    def __init__(self, path, by_function):
        found = re.findall(r"^(?:summary|totals): (\d+)", path.read_text(), re.MULTILINE)
        if not found:
            raise RuntimeError(f"no counts in {path}")
        self.total = int(found[-1])
        # Now, since the file is gone once its bench has ended.
        self.own = annotate(path, inclusive=False) if by_function else {}
        self.inclusive = annotate(path, inclusive=True) if by_function else {}

    def inclusive_table(self, functions):
        """The functions with the largest inclusive shares."""
        largest = sorted(self.inclusive.items(), key=lambda row: -row[1])[:functions]
        lines = [f"{count / self.total:7.2%}  {name[:NAME_WIDTH]}" for name, count in largest]
        return "\n".join(["share of all instructions, with what each function calls:", *lines, ""])


def annotate(path, inclusive):
    """Instructions by function, without the paths that callgrind puts before each name."""
    command = ["callgrind_annotate", f"--inclusive={'yes' if inclusive else 'no'}", "--threshold=100", "--tree=none", path]
    output = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    counts = {}
    # The first line of this form is the whole program.
    for count, name in re.findall(r"^ *([\d,]+) \( ?[\d.]+%\)  (?:\S*?:)?(.+)$", output, re.MULTILINE)[1:]:
        counts[name] = counts.get(name, 0) + int(count.replace(",", ""))
    return counts


def part_of(name):
    return next((part for part, pattern in PARTS if re.search(pattern, name)), REST)


def profile(less, more, calls):
    """Two Markdown tables: each part's own instructions, which add up to the call; and some entries with all they call."""
    own = {part: 0.0 for part, _ in PARTS} | {REST: 0.0}
    for name in less.own.keys() | more.own.keys():
        own[part_of(name)] += (more.own.get(name, 0) - less.own.get(name, 0)) / calls
    whole = sum(own.values())
    lines = ["| part | instructions of its own | share |", "| --- | ---: | ---: |"]
    for part, cost in sorted(own.items(), key=lambda row: -row[1]):
        lines.append(f"| {part} | {cost:,.0f} | {cost / whole:.1%} |")
    lines += [f"| a call | {whole:,.0f} | |", "", "| with all that it calls | instructions | share |", "| --- | ---: | ---: |"]
    for label, pattern in ENTRIES:
        matching = [name for name in more.inclusive if re.search(pattern, name)]
        if matching:
            most = max((more.inclusive[name] - less.inclusive.get(name, 0)) / calls for name in matching)
            lines.append(f"| {label} | {most:,.0f} | {most / whole:.1%} |")
    return "\n".join([*lines, ""])
