"""Plants faults in what the lowerings made, and sees whether verification catches each of them.

    python -m tests.campaigns.mutants            all of them, a line for each that is missed
    python -m tests.campaigns.mutants --list     what is planted, and where

A mutant counts as caught only if the report names the layer in which it was planted as the first
that diverges, and says rightly whether the layer or its wiring is at fault. Changes that do not
change the function, each with the proof, must pass. Exit status 1 if a fault is missed or
misplaced, or an equivalent change is called a fault.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.mutants.in_onnx import onnx_mutants
from tests.mutants.in_torch import torch_mutants
from tests.mutants.in_weights import weight_mutants
from tests.mutants.planting import Mutant, caught, run
from tests.mutants.unchanged import equivalents


def mutants() -> list[Mutant]:
    """All faults."""
    return [*torch_mutants(), *onnx_mutants(), *weight_mutants()]


def main() -> int:
    """Run the campaign that the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="only say what would be planted")
    parser.add_argument("--only", default="", metavar="TEXT", help="those whose name holds TEXT")
    arguments = parser.parse_args()
    chosen = [mutant for mutant in mutants() if arguments.only in str(mutant)]
    unchanged = [each for each in equivalents() if arguments.only in str(each.mutant)]
    if arguments.list:
        print("\n".join(map(str, chosen)))
        print("\n".join(f"{each.mutant} (none: {each.proof})" for each in unchanged))
        return 0
    started = time.perf_counter()
    found, accepted, failures = 0, 0, 0
    with tempfile.TemporaryDirectory() as name:
        for mutant in chosen:
            report = run(mutant, Path(name))
            found += not report.passed
            if not caught(mutant, report):
                failures += 1
                states = "; ".join(f"{each.backend} {each.status}" for each in report.backends)
                print(f"{mutant}: {report.first_divergence or 'passed'}; {states}")
        for equivalent in unchanged:
            report = run(equivalent.mutant, Path(name))
            accepted += report.passed
            if not report.passed:
                failures += 1
                print(f"{equivalent.mutant} is called a fault: {report.first_divergence}")
    print(
        f"{len(chosen)} mutants: {found} caught, {failures} missed or misplaced; "
        f"{accepted} of {len(unchanged)} equivalent changes accepted; "
        f"{time.perf_counter() - started:.0f} s"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
