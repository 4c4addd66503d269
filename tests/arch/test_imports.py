"""Who may import whom: layers look downward only, and what a user waits for loads nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "narrows"
LAYERS = (
    {"_core", "errors"},
    {"report", "recipe", "artifact"},
    {"kernels"},
    {"models", "machine"},
    {"runners"},
    {"engine", "quality"},
    {"compress", "serve", "scale", "bench"},
    {"diagnose"},
    {"cli", "pipeline"},
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
# Outside the layers: the package itself (every public name, imported late), the demo (data and its recipe).
OUTSIDE = {"", "demo", "__main__"}
CORE_USERS = {"kernels", "machine", "runners"}
# The seam a runner implements belongs to the engine, which calls it; it is plain data and a Protocol.
SEAMS = {"runners": "narrows.engine.step"}
HEAVY = {
    "torch": (
        "models/reference",
        "compress/",
        "quality/",
        "runners/cuda/",
        "scale/comm",
        "machine/gpus",
        "diagnose/eager/imports",  # where a user asked for the diagnosis of a service that torch runs
        "demo/train/",
    ),
    "transformers": ("diagnose/eager/imports",),
    "triton": ("runners/cuda/",),
    "ray": ("scale/replicas",),
    "starlette": ("serve/",),
    "fastapi": ("serve/",),
    "uvicorn": ("serve/",),
}
NUMPY_FREE = ("engine/step.py", "engine/scheduler.py", "engine/blocks.py", "__init__.py", "errors.py")
FILES = sorted(path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py"))


def imported_modules(relative: str) -> Iterator[str]:
    """Absolute names of everything the file imports, at any depth, except for type checking."""
    tree = ast.parse((SOURCE / relative).read_text())
    checking_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    package = ["narrows", *relative.split("/")[:-1]]
    for node in ast.walk(tree):
        if id(node) in checking_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def part_of(module: str) -> str | None:
    """The first name below `narrows`, or None for other packages."""
    names = module.split(".")
    if names[0] != "narrows":
        return None
    return names[1] if len(names) > 1 else ""


def own_part(relative: str) -> str:
    first = relative.split("/")[0].removesuffix(".py")
    return "" if first == "__init__" else first


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("relative", FILES)
def test_imports_point_downward(relative: str) -> None:
    own = own_part(relative)
    assert own in LEVEL or own in OUTSIDE, f"{relative} is in no layer: add it to the map"
    for module in imported_modules(relative):
        part = part_of(module)
        if part is None or part == own or own in OUTSIDE or part in OUTSIDE or part not in LEVEL:
            continue
        if own in SEAMS and module.startswith(SEAMS[own]):
            continue
        if part == "_core":
            assert own in CORE_USERS, f"{relative} imports the core directly"
        assert LEVEL[part] < LEVEL[own], f"{relative} imports {module}, which is not below it"


@pytest.mark.parametrize("relative", FILES)
def test_heavy_packages_stay_in_their_corner(relative: str) -> None:
    for module in imported_modules(relative):
        allowed = HEAVY.get(module.split(".")[0])
        if allowed is not None:
            assert relative.startswith(allowed), f"{relative} imports {module}"


@pytest.mark.parametrize("relative", NUMPY_FREE)
def test_the_scheduler_speaks_only_in_ids(relative: str) -> None:
    assert "numpy" not in {module.split(".")[0] for module in imported_modules(relative)}


def test_a_guilty_import_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "bad.py").write_text("def f():\n    from ..serve import app\n    import torch\n")
    monkeypatch.setattr(sys.modules[__name__], "SOURCE", tmp_path)
    assert {"narrows.serve", "narrows.serve.app", "torch"} == set(imported_modules("engine/bad.py"))


def test_importing_narrows_is_light() -> None:
    code = (
        "import sys, time; begin = time.perf_counter(); import narrows; took = time.perf_counter() - begin;"
        "print(took, *(name for name in ('numpy', 'narrows._core', 'asyncio') if name in sys.modules))"
    )
    runs = [run_python(code).split() for _ in range(3)]
    assert all(len(run) == 1 for run in runs), f"import narrows also loads {runs[0][1:]}"
    assert min(float(run[0]) for run in runs) < 0.05


def test_every_public_name_exists() -> None:
    run_python("import narrows\nfor name in narrows.__all__: getattr(narrows, name)")


def test_unknown_public_names_are_refused() -> None:
    run_python(
        "import narrows\ntry: narrows.nonsense\nexcept AttributeError: pass\nelse: raise SystemExit(1)"
    )


def test_serving_never_imports_torch_or_transformers() -> None:
    modules = [
        "narrows." + path.relative_to(SOURCE).with_suffix("").as_posix().replace("/", ".")
        for folder in ("serve", "engine", "runners", "machine")
        for path in sorted((SOURCE / folder).glob("*.py"))
        if path.name != "__init__.py"
    ]
    code = "import importlib, sys\n" + "".join(f"importlib.import_module({name!r})\n" for name in modules)
    loaded = run_python(code + "print(*(n for n in ('torch', 'transformers') if n in sys.modules))")
    assert loaded == ""


def test_a_diagnosis_imports_torch_only_where_it_is_asked_for() -> None:
    names = [
        "narrows." + path.relative_to(SOURCE).with_suffix("").as_posix().replace("/", ".")
        for path in sorted((SOURCE / "diagnose").rglob("*.py"))
        if path.name != "__init__.py"
    ]
    assert "narrows.diagnose.eager.imports" in names
    code = "import importlib, sys\n" + "".join(f"importlib.import_module({name!r})\n" for name in names)
    assert run_python(code + "print(*(n for n in ('torch', 'transformers') if n in sys.modules))") == ""
