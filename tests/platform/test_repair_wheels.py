# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

import repair_wheels

INCLUDES = (
    "set_target_properties(x PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "
    '"${{_IMPORT_PREFIX}}/include;'
    "/opt/python/{tag}/lib/python{version}/site-packages/numpy/_core/include;"
    '/opt/python/{tag}/include/python{version}")\n'
)


@pytest.fixture(params=[("cp311-cp311", "3.11"), ("cp312-cp312", "3.12")], ids=lambda p: p[1])
def wheels(request, tmp_path) -> tuple[Path, Path, Path]:
    """A prefix with one stale and one clean CMake file, and the headers that should be named."""
    tag, version = request.param
    prefix, python_include = tmp_path / "venv", tmp_path / "include" / f"python{version}"
    site_packages = prefix / "lib" / f"python{version}" / "site-packages"
    cmake = prefix / "share" / "std_msgs" / "cmake"
    for folder in (cmake, python_include, site_packages / "numpy/_core/include/numpy"):
        folder.mkdir(parents=True)
    (python_include / "Python.h").touch()
    (site_packages / "numpy/_core/include/numpy/arrayobject.h").touch()
    (cmake / "staleExport.cmake").write_text(INCLUDES.format(tag=tag, version=version))
    (cmake / "clean.cmake").write_text("# nothing of the build machine\n")
    return prefix, python_include, site_packages


def test_both_directories_point_to_this_machine(wheels):
    prefix, python_include, site_packages = wheels
    (changed,) = repair_wheels.repair(prefix, python_include, site_packages)
    assert changed.name == "staleExport.cmake"
    text = changed.read_text()
    assert f";{site_packages}/numpy/_core/include;" in text
    assert f';{python_include}")' in text
    assert "${_IMPORT_PREFIX}/include" in text
    assert repair_wheels.stale_files(prefix) == []


def test_second_run_changes_nothing(wheels):
    repair_wheels.repair(*wheels)
    before = {path: path.read_bytes() for path in wheels[0].rglob("*.cmake")}
    assert repair_wheels.repair(*wheels) == []
    assert before == {path: path.read_bytes() for path in wheels[0].rglob("*.cmake")}


def test_unknown_build_machine_path_is_an_error(wheels):
    prefix = wheels[0]
    (prefix / "share/std_msgs/cmake/new.cmake").write_text("/opt/python/cp312-cp312/lib/libnew.so")
    with pytest.raises(repair_wheels.RepairError, match=r"new\.cmake"):
        repair_wheels.repair(*wheels)


def test_missing_python_header_is_named_before_anything_changes(wheels):
    prefix, python_include, _ = wheels
    (python_include / "Python.h").unlink()
    with pytest.raises(repair_wheels.RepairError, match=r"Python\.h"):
        repair_wheels.repair(*wheels)
    assert len(repair_wheels.stale_files(prefix)) == 1
