# SPDX-License-Identifier: Apache-2.0
"""Graphs of a machine that do not hear each other."""

import pytest
from domain_coordinator import domain_id

from rl100_policy.ros.domain import free_domain
from rl100_policy.ros.testing import isolated_ros


def test_a_free_domain_is_neither_our_own_nor_taken(monkeypatch):
    with free_domain() as first:
        monkeypatch.setenv("ROS_DOMAIN_ID", str(first + 1))
        with free_domain() as second, domain_id() as third:
            assert len({first, first + 1, second, third}) >= 3
            assert second not in (first, first + 1)
            assert third not in (first, second)


@pytest.mark.parametrize("reserved", [free_domain, isolated_ros])
def test_an_error_in_a_reserved_domain_stays_what_it_is(reserved):
    with pytest.raises(FileNotFoundError), reserved():
        raise FileNotFoundError
