"""The house of DESIGN.md: imports go one way, rooms keep to what they may know, the command line starts without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import alphabar

SOURCE = Path(alphabar.__file__).parent
LAYERS = [
    {"errors"},
    {"settings", "randomness", "machine"},
    {"schedule", "conditions", "data", "networks"},
    {"gaussian"},
    {"parameterization"},
    {"denoiser"},
    {"config", "loss", "guidance", "samplers", "model", "explain"},
    {"runs"},
    {"images", "speed"},
    {"output"},
    {"pipeline"},
    {"editing"},
    {"interop"},
    {"training"},
    {"evaluation"},
    {"cli"},
]  # fmt: skip
"""From the ground up: a room imports from rooms below it, or within its own."""
KNOW_NO_DIFFUSION = {"networks", "conditions", "data"}
DIFFUSION = {
    "schedule",
    "gaussian",
    "parameterization",
    "denoiser",
    "loss",
    "guidance",
    "samplers",
    "pipeline",
    "training",
    "runs",
}
MATHEMATICS = {"schedule", "gaussian", "parameterization", "denoiser", "loss", "guidance", "samplers"}
ROOM_SETTINGS = "settings"
TORCH_FREE = [
    "config.py",
    "errors.py",
    "settings.py",
    *(str(p.relative_to(SOURCE)) for p in SOURCE.glob("*/settings.py")),
]


def room_of(path: Path) -> str:
    first = path.relative_to(SOURCE).parts[0]
    return first.removesuffix(".py")


def imports(path: Path) -> set[tuple[str, bool]]:
    """(room, is a settings module) that a file imports anywhere, inside functions too; not for type checking only."""
    found = set()
    package = ("alphabar", *path.relative_to(SOURCE).parts[:-1])
    tree = ast.parse(path.read_text())
    typing_only = {
        id(n)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for n in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level and id(node) not in typing_only:
            base = package[: len(package) - node.level + 1]
            target = (*base, *(node.module.split(".") if node.module else ()))
            names = [target] if node.module else [(*target, alias.name) for alias in node.names]
            for name in names:
                if len(name) > 1 and not name[1].startswith("__"):
                    found.add((name[1], name[-1] == ROOM_SETTINGS))
    return found


FILES = sorted(p for p in SOURCE.rglob("*.py") if p.parent != SOURCE or p.name not in ("__init__.py", "__main__.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_go_one_way(path):
    height = {room: i for i, layer in enumerate(LAYERS) for room in layer}
    own = room_of(path)
    assert own in height, f"{own} has no place in the house: add it to LAYERS"
    for room, settings in imports(path):
        if room == own or settings:
            continue  # settings modules import nothing but settings, so they may be read from anywhere
        assert height[room] <= height[own], f"{path.name} imports from {room}, which stands above {own}"
        assert not (own in KNOW_NO_DIFFUSION and room in DIFFUSION), (
            f"{own} must know no diffusion mathematics, but imports {room}"
        )
        assert not (own in MATHEMATICS and room == "networks"), f"{own} must know no network"


def test_settings_and_configuration_import_no_torch():
    modules = [name.removesuffix(".py").replace("/", ".") for name in TORCH_FREE]
    code = f"import sys; [__import__('alphabar.' + m) for m in {modules!r}]; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_and_version_import_no_torch():
    code = """
import sys
from alphabar import cli
for arguments in (["--help"], ["train", "--help"], ["sample", "--help"], ["likelihood", "--help"], ["--version"]):
    sys.argv = ["alphabar", *arguments]
    try:
        cli.main()
    except SystemExit as end:
        assert end.code in (0, None), end.code
heavy = {"torch", "numpy", "PIL", "matplotlib", "yaml"} & set(sys.modules)
assert not heavy, heavy
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_importing_alphabar_imports_no_torch():
    subprocess.run([sys.executable, "-c", "import sys, alphabar; assert 'torch' not in sys.modules"], check=True)


def test_the_library_never_prints():
    for path in FILES:
        if room_of(path) != "cli":
            assert not [
                node
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
            ], path
