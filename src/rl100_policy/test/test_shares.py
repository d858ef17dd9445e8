# SPDX-License-Identifier: Apache-2.0
import pytest

from rl100_policy.core.errors import ConfigError
from rl100_policy.core.shares import resolve_uri


def test_a_missing_share_file_lists_where_it_was_searched():
    with pytest.raises(ConfigError, match="searched"):
        resolve_uri("package://no_such_share/thing.urdf")
