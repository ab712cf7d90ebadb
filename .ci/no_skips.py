"""Fails when a pytest run skipped a test for a reason that was not allowed beforehand.

Usage: ``python .ci/no_skips.py RESULTS.xml [--allow START_OF_REASON]...`` with the file that pytest's
``--junitxml`` writes. Allowed skips are printed, so that nobody takes them for passed tests.
"""

from __future__ import annotations

import argparse
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path


def skips(results: Path) -> list[tuple[str, str]]:
    """Name and reason of every skipped test; expected failures (xfail) are no skips."""
    found = []
    for case in ElementTree.parse(results).getroot().iter("testcase"):
        for skipped in case.findall("skipped"):
            if skipped.get("type") == "pytest.xfail":
                continue
            # A module skipped while it was collected has its reason in the text, not in the message.
            reason = f"{skipped.get('message', '')} {skipped.text or ''}".strip()
            found.append((f"{case.get('classname')}::{case.get('name')}", reason))
    return found


def main(arguments: list[str] | None = None) -> int:
    """Print every skip; return 1 if one was not allowed or if no test ran at all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="what pytest --junitxml wrote")
    parser.add_argument("--allow", action="append", default=[], help="how an allowed reason starts")
    options = parser.parse_args(arguments)
    if next(ElementTree.parse(options.results).getroot().iter("testcase"), None) is None:
        print(f"error: no test ran according to {options.results}", file=sys.stderr)
        return 1
    refused = 0
    for name, reason in skips(options.results):
        allowed = any(reason.startswith(start) for start in options.allow)
        refused += not allowed
        print(f"{'skipped (allowed)' if allowed else 'SKIPPED'}: {name}: {reason}")
    if refused:
        print(f"error: {refused} skipped; make what they need available on this machine", file=sys.stderr)
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
