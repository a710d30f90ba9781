"""RESULTS.md: every script owns the lines between its own two markers and leaves the rest alone."""

import os
import platform
import re
from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")


def machine():
    """The processor and how many of its cores this process may use."""
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} cores"


def add_machine_option(parser):
    parser.add_argument("--machine", metavar="NAME", help="keep the tables beside those of other machines, under this name")


def write_section(name, text, path=RESULTS, place=None):
    """Replaces the section `name`, or adds it: at the end, or for a `place`, a machine that has its own, behind the
    section of that name. The first line of the text is its title, to which the place is added."""
    behind = f"<!-- end {name} -->\n"
    name = f"{name}, {place}" if place else name
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    title, line, rest = text.strip().partition("\n")
    title = f"{title}, {place}" if place else title
    section = f"{begin}\n{title}{line}{rest}\n{end}\n"
    old = path.read_text(encoding="utf-8") if path.exists() else "# Results\n\nWritten by the scripts in this folder.\n"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end) + "\n?", re.DOTALL)
    if pattern.search(old):
        new = pattern.sub(lambda _: section, old)
    elif place and behind in old:
        new = old.replace(behind, f"{behind}\n{section}")
    else:
        new = f"{old.rstrip()}\n\n{section}"
    path.write_text(new, encoding="utf-8")
