# SPDX-License-Identifier: Apache-2.0
"""`./rl100 doctor` on any machine, however broken: it looks and tells, and makes nothing.

First what the environment itself lacks, with the standard library only; then, as far as there is
an environment, the table of `rl100_bringup.doctor`, run from the sources: it needs no build.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import bootstrap
import environment
import host
from bootstrap import Checkout
from progress import StepError

_SETUP = "run ./rl100 setup"


@dataclass(frozen=True)
class Problem:
    """Something wrong, and what to do about it."""

    what: str
    advice: str
    fatal: bool = True
    """Nothing works before it is mended; otherwise the next verb mends it by itself."""

    def __str__(self) -> str:
        """One line for the terminal."""
        return f"{'fail' if self.fatal else 'warn'}: {self.what}; {self.advice}"


def problems(checkout: Checkout, variables: Mapping[str, str]) -> list[Problem]:
    """What keeps a verb from running in this checkout."""
    lacking = [
        Problem(f"no {need.what} ({need.reason})", f"apt-get install {need.package}")
        for need in host.needs()
        if need.required and not need.is_present()
    ]
    try:
        bootstrap.refuse_unusable_path(checkout.root)
        mode = bootstrap.choose_mode(checkout, variables)
    except StepError as error:
        return [*lacking, Problem("the environment cannot be entered", str(error))]
    return [*lacking, *_packages(checkout, mode), *_build(checkout, mode)]


def _packages(checkout: Checkout, mode: str) -> list[Problem]:
    if not checkout.venv.exists():
        return [Problem("there is no environment (.venv)", f"{_SETUP}, which needs the network")]
    if reason := bootstrap.why_start_over(checkout, mode):
        return [Problem(f".venv is not usable: {reason}", f"{_SETUP}, which makes it anew")]
    if not checkout.stamp("packages").is_current(bootstrap.package_inputs(checkout, mode)):
        what = "the requirements have changed since .venv was made"
        return [Problem(what, "the next verb brings it up to date", fatal=False)]
    return []


def _build(checkout: Checkout, mode: str) -> list[Problem]:
    stamp = checkout.stamp("build")
    if stamp.was_interrupted:
        return [
            Problem("the last build did not succeed", f"see {checkout.log('build')}; {_SETUP}")
        ]
    if not stamp.has_finished or not (checkout.root / "install").is_dir():
        return [Problem("the workspace is not built", _SETUP)]
    packages = bootstrap.package_inputs(checkout, mode)
    if not stamp.is_current(bootstrap.build_inputs(checkout, packages)):
        return [Problem("src has changed since the build", "the next verb builds it", fatal=False)]
    return []


def full_table(checkout: Checkout, arguments: Sequence[str]) -> int | None:
    """Run the checks that need the environment's packages; None if they cannot be run."""
    try:
        variables = environment.environment(checkout.root)
    except FileNotFoundError:
        variables = dict(os.environ)
    sources = [str(checkout.root / "src" / name) for name in ("rl100_bringup", "rl100_policy")]
    search = [*sources, variables.get("PYTHONPATH", "")]
    variables |= {"RL100_ROOT": str(checkout.root), "PYTHONPATH": os.pathsep.join(search)}
    command = [str(checkout.python), "-m", "rl100_bringup.cli"]
    try:
        trial = subprocess.run(
            [*command, "--help"], env=variables, capture_output=True, check=False
        )
    except OSError:
        return None
    if trial.returncode != 0:
        return None
    return subprocess.run([*command, "doctor", *arguments], env=variables, check=False).returncode


def main(arguments: Sequence[str]) -> int:
    """Tell everything that can be told; returns 1 if something must be mended, else 0."""
    checkout = Checkout(environment.REPOSITORY)
    found = problems(checkout, os.environ)
    for problem in found:
        print(problem, flush=True)
    status = full_table(checkout, arguments)
    if status is None:
        print("the other checks need a working environment; mend the above and ask again")
    return 1 if status != 0 or any(problem.fatal for problem in found) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
