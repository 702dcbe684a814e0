"""The build of the kernels: once for all processes, within a time limit, and never a library that is damaged or another user's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from alphabar.kernels import build, library

C_FUNCTIONS = "".join(
    f'extern "C" {"void" if result is None else "long"} {name}() {{ {"" if result is None else "return 0;"} }}\n'
    for name, (result, _) in library.SIGNATURES.items()
)


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache, sources that compile in a moment, and a compiler that counts its runs in the file `runs`."""
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "kernels.cpp").write_text(C_FUNCTIONS)
    monkeypatch.setattr(build, "SOURCE_FOLDER", sources)
    monkeypatch.setenv("ALPHABAR_CACHE", str(tmp_path / "cache"))
    compiler = build.find_compiler()
    use_compiler(monkeypatch, tmp_path, f'echo run >> {tmp_path}/runs\nexec {shutil.which(compiler)} "$@"')
    library.load_once.cache_clear()
    yield tmp_path
    library.load_once.cache_clear()


def use_compiler(monkeypatch, tmp_path, script):
    path = tmp_path / "compiler"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("CXX", str(path))


def runs(tmp_path):
    return (tmp_path / "runs").read_text().count("run")


@pytest.mark.parametrize("compiler", ["none", "broken"])
def test_without_a_compiler_that_works_the_reason_is_given(cache, monkeypatch, compiler):
    monkeypatch.setattr(build, "COMPILERS", ())
    if compiler == "broken":
        use_compiler(monkeypatch, cache, "echo no such thing >&2; exit 1")
    else:
        monkeypatch.delenv("CXX")
    with pytest.raises(build.Unavailable, match="no C\\+\\+ compiler" if compiler == "none" else "no such thing"):
        library.library()
    assert not list((cache / "cache").rglob("*.so"))
    monkeypatch.setattr(build, "find_compiler", lambda: pytest.fail("searched again"))
    with pytest.raises(build.Unavailable):
        library.library()


def test_a_compiler_that_takes_too_long_is_stopped(cache, monkeypatch):
    use_compiler(monkeypatch, cache, "exec sleep 60")
    monkeypatch.setattr(build, "BUILD_SECONDS", 0.2)
    with pytest.raises(build.Unavailable, match=r"took more than 0 s and was stopped; .* set CXX"):
        library.library()


def test_the_second_flags_are_tried_where_the_first_fail_and_the_record_says_which(cache, monkeypatch):
    real = shutil.which("g++") or shutil.which("c++")
    refuse = 'case "$*" in *-fopenmp*) exit 1;; esac'
    use_compiler(monkeypatch, cache, f'{refuse}\nexec {real} "$@"')
    record = library.loaded().build
    assert not record.threaded
    assert "-fopenmp" not in record.flags
    assert record == build.read_build(build.built_library()[0])


def test_a_library_is_built_once_and_found_again(cache):
    path, record = build.built_library()
    assert build.built_library() == (path, record)
    assert runs(cache) == 1
    assert record.threaded
    assert path.stat().st_mode & 0o022 == 0


@pytest.mark.parametrize("damage", ["truncated", "changed", "no record", "broken record", "empty record"])
def test_a_damaged_library_is_built_again(cache, damage):
    path, record = build.built_library()
    content, beside = path.read_bytes(), build.record_path(path)
    if damage == "truncated":
        path.write_bytes(content[:1000])
    elif damage == "changed":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "no record":
        beside.unlink()
    else:
        beside.write_text("{" if damage == "broken record" else "{}")
    assert build.built_library() == (path, record)
    assert path.read_bytes() == content
    assert runs(cache) == 2
    library.library()


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="owners and modes are those of POSIX")
@pytest.mark.parametrize("what", ["library", "folder"])
def test_a_library_of_another_user_is_refused(cache, monkeypatch, what):
    path, _ = build.built_library()
    own = os.getuid()
    stat_of, foreign = type(path).stat, path if what == "library" else path.parent

    def stat(self, **how):
        values = list(stat_of(self, **how))
        values[4] = own + 1 if self == foreign else own  # st_uid
        return os.stat_result(values)

    monkeypatch.setattr(type(path), "stat", stat)
    with pytest.raises(
        build.Unavailable, match=rf"belongs to user {own + 1}, expected user {own}: .* delete it, or set ALPHABAR_CACHE"
    ):
        library.library()
    assert runs(cache) == 1


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="owners and modes are those of POSIX")
def test_a_library_that_others_may_write_is_refused(cache):
    path, _ = build.built_library()
    path.chmod(0o777)
    with pytest.raises(build.Unavailable, match=r"may be written by other users \(mode 777\).* chmod go-w"):
        library.library()


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="owners and modes are those of POSIX")
def test_the_folder_is_closed_to_others_whatever_the_umask(cache):
    before = os.umask(0)
    try:
        path, _ = build.built_library()
    finally:
        os.umask(before)
    assert path.parent.stat().st_mode & 0o022 == 0


def test_processes_that_start_together_build_once(cache):
    code = (
        f"from pathlib import Path; from alphabar.kernels import build; build.SOURCE_FOLDER = Path({str(build.SOURCE_FOLDER)!r}); "
        "print(build.built_library()[1].sha256)"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert len({out for out, _ in outputs}) == 1, outputs
    assert all(process.returncode == 0 for process in processes), outputs
    assert runs(cache) == 1


def test_a_lock_that_is_never_released_is_an_error(cache, monkeypatch):
    from filelock import FileLock

    path, record = build.built_library()
    path.unlink()
    monkeypatch.setattr(build, "BUILD_SECONDS", 0.02)
    with FileLock(path.with_suffix(".lock")), pytest.raises(build.Unavailable, match="another process holds"):
        build.built_library()
    assert record.sha256


def test_a_file_that_is_no_library_of_these_kernels_is_an_error(tmp_path):
    (tmp_path / "x.so").write_bytes(b"no library")
    with pytest.raises(build.Unavailable, match=r"x.so cannot be loaded: .*; delete the file"):
        library.open_library(tmp_path / "x.so")


def test_without_a_home_folder_the_reason_is_given(cache, monkeypatch):
    monkeypatch.setattr(build, "cache_folder", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    with pytest.raises(build.Unavailable, match="cannot be built in the cache folder: no home"):
        library.library()


def test_every_function_has_its_types(cache):
    functions = library.library()
    for name, (result, arguments) in library.SIGNATURES.items():
        function = getattr(functions, name)
        assert (function.restype, tuple(function.argtypes)) == (result, arguments)
