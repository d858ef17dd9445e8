# SPDX-License-Identifier: Apache-2.0
"""A folder belongs to one run."""

import json

import pytest

from rl100_learner.training.identity import alone_in, claim, fingerprint
from rl100_policy.core.errors import ConfigError


def test_a_fingerprint_is_of_content_whatever_the_order_of_keys():
    assert fingerprint({"a": 1, "b": [2.5]}, "x") == fingerprint({"b": [2.5], "a": 1}, "x")
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert fingerprint("x", "y") != fingerprint("xy")


def test_a_folder_goes_on_with_its_run_and_keeps_it_from_another(tmp_path):
    path = tmp_path / "run" / "settings.json"
    claim(path, "one", {"settings": {"seed": 3}})
    assert json.loads(path.read_text()) == {"fingerprint": "one", "settings": {"seed": 3}}
    before = path.read_bytes()
    claim(path, "one", {"settings": "told otherwise, and the same run"})
    with pytest.raises(ConfigError, match=r"holds another run.*choose another output"):
        claim(path, "two", {})
    assert path.read_bytes() == before


@pytest.mark.parametrize("other", ["run.json", "report.json"])
def test_a_folder_of_another_kind_of_run_is_not_taken(tmp_path, other):
    (tmp_path / other).write_text("{}")
    (tmp_path / "night.log").touch()
    with pytest.raises(ConfigError, match=f"holds something else: {other} and no online.json"):
        claim(tmp_path / "online.json", "one", {})
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted([other, "night.log"])


def test_two_do_not_learn_in_one_folder_at_once(tmp_path):
    with (
        alone_in(tmp_path),
        pytest.raises(ConfigError, match="another process is learning in"),
        alone_in(tmp_path),
    ):
        pass
    with alone_in(tmp_path):
        pass


def test_what_differs_is_named_the_first_of_it(tmp_path):
    path = tmp_path / "run.json"
    claim(path, "one", {"settings": {"seed": 3, "lr": 0.1, "net": {"width": 8}}, "bags": "abc"})
    with pytest.raises(ConfigError, match=r"settings\.net\.width was 8 and is 16; choose"):
        claim(
            path, "two", {"settings": {"seed": 3, "lr": 0.1, "net": {"width": 16}}, "bags": "abc"}
        )
    with pytest.raises(ConfigError, match=r"bags was abc and is not set, .* and 1 more; choose"):
        claim(path, "two", {"settings": {"seed": 4, "lr": 0.2, "net": {"width": 16, "n": 1}}})
    told = json.loads(path.read_text())
    del told["fingerprint"]
    with pytest.raises(ConfigError, match="from other episodes or another version"):
        claim(path, "two", told)


@pytest.mark.parametrize("damaged", ["", "{", "[]"])
def test_a_damaged_file_is_no_invitation(tmp_path, damaged):
    path = tmp_path / "settings.json"
    path.write_text(damaged)
    with pytest.raises(ConfigError, match="holds another run"):
        claim(path, "one", {})
    assert path.read_text() == damaged
