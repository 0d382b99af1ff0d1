"""Writes a benchmark's table with where it came from."""

import pathlib
import platform
import subprocess
from importlib import metadata

import pandas as pd

RESULTS = pathlib.Path(__file__).parent / "results"


def write(name, table, commits=()):
    """Prints a table and writes it as Markdown, with machine, versions and commit.

    Args:
        name: File name without its ending.
        table: A pandas DataFrame.
        commits: Those that its figures were measured at, if not at this one.
    """
    text = f"{markdown(table)}\n\n{origin(commits)}\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text)
    print(text)


def measured(path):
    """The rows of a file of results, dicts; none where there is no file."""
    if not path.exists():
        return []
    # As text: a hash such as 2264e08 would be read as a number.
    return pd.read_csv(path, dtype={"commit": str}).to_dict("records")


def markdown(table):
    """A DataFrame as a Markdown table."""
    rows = [list(table.columns), ["---"] * len(table.columns), *table.values.tolist()]
    return "\n".join(
        "| " + " | ".join(str(cell) for cell in row) + " |" for row in rows
    )


def origin(commits=()):
    """One line: processor, versions, commit or commits."""
    with open("/proc/cpuinfo") as file:
        lines = [line for line in file if line.startswith("model name")]
    processor = lines[0].split(":")[1].strip() if lines else platform.machine()
    versions = [f"{p} {metadata.version(p)}" for p in ("tensorflow", "keras", "numpy")]
    return (
        f"{len(lines)} × {processor}, Python {platform.python_version()}, "
        f"{', '.join(versions)}, commit {', '.join(commits) or commit()}"
    )


def commit():
    """The commit of this code, or "unknown"."""
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        cwd=pathlib.Path(__file__).parent,
    )
    return found.stdout.strip() or "unknown"
