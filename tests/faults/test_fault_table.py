# SPDX-License-Identifier: Apache-2.0
"""The table of faults in the documentation is that of the trials that are kept beside it."""

from faults import known, table

from environment import REPOSITORY


def test_the_table_follows_from_the_trials():
    results = list(known(REPOSITORY / "docs" / "faults").values())
    assert results
    assert table(results) in (REPOSITORY / "docs" / "faults.md").read_text(encoding="utf-8")
