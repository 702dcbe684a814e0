"""The house of DESIGN.md: each room imports only from rooms before it, and the command line starts without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import alphabar

SOURCE = Path(alphabar.__file__).parent
ROOMS = (
    "errors", "plugins", "randomness", "storage", "machine",
    "settings", "kernels", "data", "networks", "conditions", "diffusion", "samplers", "engine", "runs", "model", "generation",
    "training", "evaluation", "interop", "explain", "tasks", "cli",
)  # fmt: skip
"""From the ground up: a room imports from rooms before it, or within its own, so that rooms form no cycle."""
KNOW_NO_DIFFUSION = {"networks", "conditions", "data"}
DIFFUSION = {"diffusion", "samplers", "generation", "training", "runs"}
MATHEMATICS = {"diffusion", "samplers"}
TORCH_FREE = ("errors", "plugins", "storage", "machine", "settings")


def room_of(path: Path) -> str:
    first = path.relative_to(SOURCE).parts[0]
    return first.removesuffix(".py")


def imports(path: Path) -> set[str]:
    """The rooms that a file imports anywhere, inside functions too; not for type checking only."""
    return {name[1] for name in imported_modules(path) if len(name) > 1 and not name[1].startswith("__")}


def imported_modules(path: Path) -> set[tuple[str, ...]]:
    """The modules of the package that a file imports, as the parts of their names."""
    modules = set()
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
            modules |= {target} if node.module else {(*target, alias.name) for alias in node.names}
    return modules


FILES = sorted(p for p in SOURCE.rglob("*.py") if p.parent != SOURCE or p.name not in ("__init__.py", "__main__.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_room_imports_from_rooms_before_it(path):
    own = room_of(path)
    assert own in ROOMS, f"{own} has no place in the house: add it to ROOMS"
    for room in imports(path) - {own}:
        assert ROOMS.index(room) < ROOMS.index(own), f"{path.name} imports from {room}, which stands above {own}"
        assert not (own in KNOW_NO_DIFFUSION and room in DIFFUSION), (
            f"{own} must know no diffusion mathematics, but imports {room}"
        )
    modules = {name for name in imported_modules(path) if name[:2] == ("alphabar", "networks")}
    assert own not in MATHEMATICS or modules <= {("alphabar", "networks", "cond")}, f"{own} must know doors, no network"


def test_every_room_exists():
    rooms = {room_of(path) for path in FILES}
    assert rooms == set(ROOMS)


def test_settings_import_no_torch():
    names = [path.relative_to(SOURCE).with_suffix("") for path in FILES if room_of(path) in TORCH_FREE]
    modules = [".".join(("alphabar", *name.parts)).removesuffix(".__init__") for name in names]
    code = f"import sys; [__import__(m) for m in {modules!r}]; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_requests_of_tasks_import_no_torch():
    """What is not in the room `running` below them."""
    names = [path.stem for path in (SOURCE / "tasks").glob("*.py") if path.stem != "__init__"]
    assert len(names) > 15
    code = f"""
import sys
for name in {names!r}:
    __import__("alphabar.tasks." + name)
heavy = {{"torch", "numpy", "PIL", "matplotlib", "yaml", "rich", "typer"}} & set(sys.modules)
assert not heavy, heavy
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_the_list_of_commands_imports_no_request():
    code = """
import sys
from alphabar import cli
sys.argv = ["alphabar", "--help"]
try:
    cli.main()
except SystemExit:
    pass
assert not [name for name in sys.modules if name.startswith(("alphabar.settings", "alphabar.tasks.sample"))]
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_help_and_version_import_no_torch():
    code = """
import sys
from alphabar import cli
from alphabar.tasks import TASKS
for arguments in (["--help"], *([name, "--help"] for name in TASKS), ["--version"]):
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
