"""What was measured, as rows of Markdown tables and as JSON."""

import dataclasses
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess

# Figures in this unit are drawn.
RATIO = "ratio"


@dataclasses.dataclass
class Figure:
    """One row: a value of each round, in a unit, with what it is held to."""

    name: str
    values: list
    unit: str = RATIO
    limit: float | None = None
    aim: float | None = None
    # The limit is the least that it may be, rather than the most.
    at_least: bool = False
    # What else is worth knowing, by its name.
    beside: dict = dataclasses.field(default_factory=dict)

    @property
    def value(self):
        return statistics.median(self.values)

    @property
    def verdict(self):
        if self.limit is None:
            return ""
        if self.at_least:
            return "missed" if self.value < self.limit else "met" if self.aim is None or self.value < self.aim else "aim met"
        return "missed" if self.value > self.limit else "met" if self.aim is None or self.value > self.aim else "aim met"


def show(value, unit=""):
    if value is None:
        return ""
    if unit == RATIO:
        return f"{value:.2f}"
    shown = f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:,.1f}" if abs(value) >= 20 else f"{value:.3g}"
    return f"{shown} {unit}".strip()


def bound(figure, value):
    return "" if value is None else f"{'≥' if figure.at_least else '≤'} {show(value, figure.unit)}"


def table(figures):
    lines = ["| what | median | lowest to highest | limit | aim | | beside |", "| --- | ---: | --- | --- | --- | --- | --- |"]
    for figure in figures:
        ends = [show(end, figure.unit) for end in (min(figure.values), max(figure.values))]
        spread = " to ".join(ends) if len(figure.values) > 1 else ""
        beside = ", ".join(f"{name} {text}" for name, text in figure.beside.items())
        cells = [figure.name, show(figure.value, figure.unit), spread, bound(figure, figure.limit), bound(figure, figure.aim)]
        lines.append(f"| {' | '.join([*cells, figure.verdict, beside])} |")
    return "\n".join(lines)


def machine():
    """Where this was measured."""
    model = re.search(r"^model name\s*: (.+)$", pathlib.Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False).stdout.strip()
    return {"processor": model and model[1], "cores": os.cpu_count(), "kernel": platform.release(), "commit": commit}


def as_json(sections):
    content = {"machine": machine(), "sections": {}}
    for section, figures in sections.items():
        content["sections"][section] = [
            dataclasses.asdict(figure) | {"value": figure.value, "verdict": figure.verdict} for figure in figures
        ]
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def from_json(text):
    """The same figures again, to be printed or drawn anew."""
    names = {field.name for field in dataclasses.fields(Figure)}
    return {
        section: [Figure(**{key: value for key, value in row.items() if key in names}) for row in rows]
        for section, rows in json.loads(text)["sections"].items()
    }
