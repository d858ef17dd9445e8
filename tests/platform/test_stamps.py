# SPDX-License-Identifier: Apache-2.0
import pytest

from stamps import Stamp, fingerprint


def test_finished_step_is_current_for_the_same_inputs_only(tmp_path):
    stamp = Stamp(tmp_path / "stamps", "build")
    assert not stamp.is_current("a")
    with stamp.running("a"):
        assert not stamp.is_current("a")
    assert stamp.is_current("a")
    assert not stamp.is_current("b")


def test_interrupted_step_is_noticed_even_after_an_earlier_success(tmp_path):
    stamp = Stamp(tmp_path, "packages")
    with stamp.running("a"):
        pass
    with pytest.raises(KeyboardInterrupt), stamp.running("a"):
        raise KeyboardInterrupt
    assert stamp.was_interrupted
    assert not stamp.has_finished
    assert not stamp.is_current("a")


def test_fingerprint_sees_content_order_and_boundaries(tmp_path):
    file = tmp_path / "lock.txt"
    file.write_text("one")
    before = fingerprint([file])
    file.write_text("two")
    assert fingerprint([file]) != before
    assert fingerprint(["ab", "c"]) != fingerprint(["a", "bc"])
    assert fingerprint(["a", "b"]) != fingerprint(["b", "a"])
    file.unlink()
    assert fingerprint([file]) not in {before, fingerprint([])}
