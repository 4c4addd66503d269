"""The tree in docs/architecture.md is the tree on disk, and files stay small."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_LINES = 300
MAX_FUNCTION_LINES = 60


def documented_paths() -> set[str]:
    """Paths named in the tree block: two spaces of indent a level, names, two spaces, their meaning."""
    text = (ROOT / "docs/architecture.md").read_text()
    block = re.search(r"```tree\n(.*?)```", text, re.S)
    assert block is not None, "docs/architecture.md has no ```tree block"
    parents: list[str] = []
    found = set()
    for line in block.group(1).splitlines():
        if not line.strip():
            continue
        depth = (len(line) - len(line.lstrip())) // 2
        names = re.split(r"\s{2,}", line.strip(), maxsplit=1)[0].split()
        for name in names:
            found.add("".join(parents[:depth]) + name)
        parents[depth:] = [names[0] if names[0].endswith("/") else ""]
    return found


def tracked_files() -> list[str]:
    """Files under version control, or every source file where this is no git checkout."""
    try:
        out = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        return [line for line in out.splitlines() if (ROOT / line).exists()]
    except (OSError, subprocess.CalledProcessError):
        folders = ("src", "cpp", "tests", "benchmarks", "docs", "examples")
        return [
            str(p.relative_to(ROOT))
            for f in folders
            for p in (ROOT / f).rglob("*.*")
            if ".venv" not in str(p)
        ]


def test_every_documented_path_exists() -> None:
    missing = sorted(path for path in documented_paths() if not (ROOT / path).exists())
    assert not missing, f"docs/architecture.md names paths that do not exist: {missing}"


def test_every_package_and_source_folder_is_documented() -> None:
    documented = documented_paths()
    folders = {
        str(Path(path).parent) + "/"
        for path in tracked_files()
        if path.startswith(("src/narrows/", "cpp/")) and path.endswith((".py", ".cpp", ".h"))
    }
    undocumented = sorted(folder for folder in folders if folder not in documented)
    assert not undocumented, f"folders missing in the tree of docs/architecture.md: {undocumented}"


def test_every_module_of_the_package_is_documented() -> None:
    documented = documented_paths()
    modules = [
        path
        for path in tracked_files()
        if re.fullmatch(r"src/narrows/(\w+/)?\w+\.py", path) and not path.endswith("__init__.py")
    ]
    assert modules
    missing = sorted(path for path in modules if path not in documented)
    assert not missing, f"modules missing in the tree of docs/architecture.md: {missing}"


@pytest.mark.parametrize("suffix", [".py", ".cpp", ".h"])
def test_files_are_at_most_300_lines(suffix: str) -> None:
    code = [path for path in tracked_files() if path.endswith(suffix)]
    assert code
    lengths = {path: len((ROOT / path).read_text().splitlines()) for path in code}
    long = {path: n for path, n in lengths.items() if n > MAX_LINES}
    assert not long, f"split these by idea: {long}"


def test_python_functions_are_at_most_60_lines() -> None:
    long = []
    for path in tracked_files():
        if not path.endswith(".py"):
            continue
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
                lines = node.end_lineno - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    long.append(f"{path}:{node.lineno} {node.name} ({lines})")
    assert not long, f"functions over {MAX_FUNCTION_LINES} lines: {long}"
