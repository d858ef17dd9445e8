# SPDX-License-Identifier: Apache-2.0
"""The tables of the documentation are those of the reports that are kept beside them."""

import pytest
from rich.console import Console

from environment import REPOSITORY
from rl100_bringup.reproduction.claims import CLAIMS
from rl100_bringup.reproduction.jobs import Job
from rl100_bringup.reproduction.reproducing import reproduce

RESULTS = REPOSITORY / "docs" / "results"
TOLD = sorted(path.parent.name for path in RESULTS.glob("*/tables.md"))


@pytest.mark.parametrize("claim", TOLD)
def test_tables_follow_from_the_stored_reports(claim, tmp_path):
    (tmp_path / "runs").symlink_to(RESULTS / "runs")
    reproduce(claim, tmp_path, (), (), (), 1, Console(quiet=True), finished=True)
    assert (tmp_path / claim / "tables.md").read_text(encoding="utf-8") == (
        RESULTS / claim / "tables.md"
    ).read_text(encoding="utf-8")


def test_every_stored_run_is_of_a_claim_that_tells_it():
    asked = {
        Job(variant, seed, RESULTS, claim.trials).folder
        for name, claim in CLAIMS.items()
        if name in TOLD
        for variant in claim.variants
        for seed in claim.seeds
    }
    stored = {path.parent for path in (RESULTS / "runs").glob("*/*/report.json")}
    assert stored <= asked
    assert all((folder.parent / "job.json").exists() for folder in stored)
