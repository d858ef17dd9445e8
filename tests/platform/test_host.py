# SPDX-License-Identifier: Apache-2.0
import pytest

import host
from host import HostError, Need


def need(package: str, *, present: bool, required: bool = True) -> Need:
    return Need(package, package, lambda: present, "a test", required)


def test_nothing_missing_says_nothing():
    said = []
    host.ensure([need("cmake", present=True)], said.append)
    assert said == []


def test_ordinary_user_gets_the_exact_command(monkeypatch):
    monkeypatch.setattr(host.os, "geteuid", lambda: 1000)
    wanted = [need("cmake", present=False), need("g++", present=False)]
    with pytest.raises(HostError, match=r"sudo apt-get install .*cmake g\+\+"):
        host.ensure(wanted, lambda _: None)


def test_optional_things_are_named_and_never_installed(monkeypatch):
    monkeypatch.setattr(host.subprocess, "run", lambda *_, **__: pytest.fail("ran apt"))
    said = []
    host.ensure([need("libosmesa6", present=False, required=False)], said.append)
    assert len(said) == 1
    assert "optional" in said[0]
    assert "libosmesa6" in said[0]


def test_root_updates_then_installs_what_is_required(monkeypatch):
    ran = []

    def run(command, **_):
        ran.append(command)
        return host.subprocess.CompletedProcess(command, 0, "", "")

    state = iter([False, True])
    monkeypatch.setattr(host.os, "geteuid", lambda: 0)
    monkeypatch.setattr(host.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(host.subprocess, "run", run)
    host.ensure([Need("cmake", "cmake", lambda: next(state), "a test")], lambda _: None)
    assert ran[0] == ["apt-get", "update"]
    assert ran[1][-1] == "cmake"


def test_package_names_follow_the_running_python():
    packages = {need.package for need in host.needs() if need.required}
    version = f"python3.{host.sys.version_info.minor}"
    assert {f"{version}-venv", f"{version}-dev", "cmake", "make", "g++"} <= packages
