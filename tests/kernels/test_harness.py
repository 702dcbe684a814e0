"""The compiled kernels agree with naive loops, for several compilers, vector widths and sanitizers (the C++ sources in `harness`).

Each build compiles the kernels with its own flags and links them with the harness, which one compiler builds once for each processor
family. A build whose tools or processor are missing is skipped; with ALPHABAR_REQUIRE_HARNESS=1 missing tools are an error.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from alphabar.kernels.build import SOURCE_FOLDER as SOURCES

HARNESS = Path(__file__).parent / "harness"
STRICT = ("-std=c++17", "-Wall", "-Wextra", "-Werror")
# Without optimisation a sanitized build compiles in a third of the time, and no access is optimised away before it is checked.
SANITIZED = ("-O0", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
AVX512 = ("avx512f", "avx512bw", "avx512vl", "avx512dq")
CROSS = "aarch64-linux-gnu"
# A request beyond the address space returns null, as it does without the sanitizer; waiting threads do not spin.
ENVIRONMENT = {"ASAN_OPTIONS": "allocator_may_return_null=1", "OMP_WAIT_POLICY": "passive"}


@dataclass(frozen=True)
class Build:
    """One way to build the kernels, and what it needs."""

    compiler: str
    flags: tuple[str, ...]
    openmp: bool = True
    machine: str | None = None  # the processor family; None for any
    features: tuple[str, ...] = ()  # of the processor, as /proc/cpuinfo names them
    width: int | None = None  # of the vectors, where the flags decide it
    products: bool | None = None  # of bfloat16, where the flags decide it
    harness: str = "g++"  # the compiler of the harness
    runner: tuple[str, ...] = ()


PAIRS = ("-march=skylake-avx512", "-include", str(HARNESS / "bfloat16_products.h"))
BUILDS = {
    "native": Build("g++", ("-O3", "-march=native")),
    "sanitized": Build("g++", ("-march=native", *SANITIZED)),
    "sanitized baseline without OpenMP": Build("g++", SANITIZED, openmp=False, width=4),
    "sanitized products of bfloat16": Build(
        "g++", (*PAIRS, *SANITIZED), machine="x86_64", features=AVX512, width=16, products=True
    ),
    "haswell": Build("g++", ("-O1", "-march=haswell"), machine="x86_64", features=("avx2", "fma"), width=8),
    "clang": Build("clang++", ("-O1", "-march=native")),
    "aarch64": Build(
        f"{CROSS}-g++",
        ("-O1",),
        width=4,
        harness=f"{CROSS}-g++",
        runner=("qemu-aarch64", "-L", f"/usr/{CROSS}"),
    ),
}


def run(command: Sequence[str], environment: dict[str, str] | None = None) -> str:
    """The output of a command that must succeed."""
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **(environment or {})}
    )
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout[-6000:]}{result.stderr[-6000:]}"
    return result.stdout


def links_openmp(compiler: str) -> bool:
    """Whether the compiler comes with an OpenMP library."""
    command = [compiler, "-fopenmp", "-x", "c++", "-", "-o", os.devnull]
    return subprocess.run(command, input=b"int main() {}", capture_output=True, check=False).returncode == 0


def require_tools(build: Build) -> None:
    """Skip all builds but the native one unless ALPHABAR_REQUIRE_HARNESS is set, as they take minutes; then a missing tool is an error."""
    if build != BUILDS["native"] and not os.environ.get("ALPHABAR_REQUIRE_HARNESS"):
        pytest.skip("the sanitized, emulated and other builds run with ALPHABAR_REQUIRE_HARNESS=1, as in .ci/run")
    missing = [name for name in (build.compiler, build.harness, *build.runner[:1]) if not shutil.which(name)]
    if not missing and build.openmp and not links_openmp(build.compiler):
        missing = [f"OpenMP for {build.compiler}"]
    if not missing:
        return
    reason = f"the harness needs {', '.join(missing)}: install the packages that .ci/run names"
    if os.environ.get("ALPHABAR_REQUIRE_HARNESS"):
        pytest.fail(reason)
    pytest.skip(reason)


def require_processor(build: Build) -> None:
    """Skip a build that this processor cannot run."""
    if build.machine not in (None, platform.machine()):
        pytest.skip(f"the build is for {build.machine}, this processor is {platform.machine()}")
    flags = Path("/proc/cpuinfo").read_text().split() if build.features else []
    if missing := [name for name in build.features if name not in flags]:
        pytest.skip(f"this processor lacks {', '.join(missing)}")


@pytest.fixture(scope="module")
def harness_objects(tmp_path_factory):
    """A function from a compiler to the objects of the harness, which it compiles at the first call."""
    made: dict[str, list[str]] = {}

    def objects(compiler: str) -> list[str]:
        if compiler not in made:
            folder = tmp_path_factory.mktemp("objects")
            made[compiler] = [str(folder / f"{source.stem}.o") for source in sorted(HARNESS.glob("*.cpp"))]
            for source, target in zip(sorted(HARNESS.glob("*.cpp")), made[compiler], strict=True):
                run([compiler, *STRICT, "-O1", f"-I{SOURCES}", "-c", str(source), "-o", target])
        return made[compiler]

    return objects


def compile_kernels(build: Build, objects: list[str], program: Path) -> None:
    """Compile the kernels without a warning and link them with the harness."""
    openmp = ("-fopenmp",) if build.openmp else ("-Wno-unknown-pragmas",)
    sources = map(str, sorted(SOURCES.glob("*.cpp")))
    run([build.compiler, *STRICT, *build.flags, *openmp, f"-I{SOURCES}", *sources, *objects, "-o", str(program)])


@pytest.mark.parametrize("name", BUILDS)
def test_the_kernels_agree_with_naive_loops(name, harness_objects, tmp_path):
    """The harness exits with 0, each kernel has its line, and the build is the one that the flags ask for."""
    build = BUILDS[name]
    require_processor(build)
    require_tools(build)
    compile_kernels(build, harness_objects(build.harness), tmp_path / "harness")
    first, *lines = run([*build.runner, str(tmp_path / "harness")], ENVIRONMENT).splitlines()
    words = first.split()
    assert (int(words[1].rstrip(",")) > 0) == build.openmp
    assert build.width in (None, int(words[4]))
    assert build.products in (None, "with products" in first)
    assert {line.split()[0].rstrip(",") for line in lines} >= {
        "attention", "attention_gradients", "norm_coefficients", "norm_affine", "norm_gradients", "norm_backward", "place_sums", "scratch",
        "winograd_convolve", "winograd_kernel_gradient",
    }  # fmt: skip


def test_a_wrong_kernel_fails_the_harness(harness_objects, tmp_path):
    """A kernel with a wrong constant makes the harness exit with 1 and name the kernel."""
    build = BUILDS["native"]
    require_tools(build)
    sources = tmp_path / "sources"
    shutil.copytree(SOURCES, sources, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    text = (sources / "norm.cpp").read_text()
    (sources / "norm.cpp").write_text(text.replace("s * (1.f + z * (1.f - s))", "s * (1.f + z * (0.999f - s))"))
    assert (sources / "norm.cpp").read_text() != text
    paths = map(str, sorted(sources.glob("*.cpp")))
    run(["g++", "-std=c++17", "-O0", "-fopenmp", *paths, *harness_objects("g++"), "-o", str(tmp_path / "harness")])
    result = subprocess.run([tmp_path / "harness"], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    failed = {line.split()[0] for line in result.stdout.splitlines() if "FAILED" in line}
    assert failed == {"norm_gradients", "norm_backward"}
