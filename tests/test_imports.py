"""The import arrows of the design, asserted on the source and in subprocesses where torch cannot be imported."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "hashret"

# part -> the parts it may import directly; what those may import, it may too.
ARROWS = {
    "errors": set(),
    "images": {"errors"},
    "codes": {"errors"},
    "hamming": {"codes"},
    "metrics": {"hamming"},
    "index": {"hamming"},
    "data": {"images", "hamming"},
    "model": {"images", "codes"},
    "sheets": {"images"},
    "training": {"data", "model", "metrics"},
    "encoding": {"data", "model"},
    "following": {"data", "index", "encoding"},
    "showing": {"index", "sheets", "encoding"},
    "evaluation": {"metrics", "index", "encoding"},
    "report": {"evaluation", "sheets"},
    "protocols": {"training", "evaluation", "sheets", "report"},
    "cli": {"training", "evaluation", "following", "showing", "sheets", "report", "protocols"},
}
WITHOUT_TORCH = ("errors", "images", "codes", "hamming", "metrics", "index", "sheets")


def allowed(part: str) -> set[str]:
    """Everything upstream of a part."""
    above = set(ARROWS[part])
    for direct in ARROWS[part]:
        above |= allowed(direct)
    return above


def part_of(module: str) -> str | None:
    pieces = module.split(".")
    if pieces[0] != "hashret":
        return None
    return pieces[1] if len(pieces) > 1 else "hashret"


def imported(path: Path) -> set[str]:
    """Names of the modules that a file imports, at its top or in a function."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
            if node.module == "hashret":
                names |= {f"hashret.{alias.name}" for alias in node.names if alias.name != "__version__"}
    return names


SOURCES = sorted(
    path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] not in ("__init__.py", "__main__.py")
)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert part in ARROWS, f"{part} has no place in the design's arrows"
    inside = {p for p in map(part_of, imported(path)) if p not in (None, "hashret", part)}
    assert inside <= allowed(part), f"{part} may not import {sorted(inside - allowed(part))}"


@pytest.mark.parametrize("part", WITHOUT_TORCH)
def test_no_torch_in_the_source(part: str) -> None:
    files = [PACKAGE / f"{part}.py"] if (PACKAGE / f"{part}.py").exists() else sorted((PACKAGE / part).rglob("*.py"))
    assert files
    for path in files:
        assert not {name for name in imported(path) if name.split(".")[0] in ("torch", "torchvision")}, path


BLOCK = "import sys\nfor name in {names!r}: sys.modules[name] = None\n"


def run_blocked(code: str, names: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BLOCK.format(names=names) + code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_package_loads_neither_torch_nor_numba() -> None:
    run_blocked("import hashret; dir(hashret); hashret.HashretError", ("torch", "torchvision", "numba", "numpy"))


def test_search_and_scores_work_where_torch_is_blocked() -> None:
    code = """
import tempfile, numpy as np
import hashret, hashret.metrics, hashret.images, hashret.sheets, hashret.data.table
codes = np.random.default_rng(0).integers(0, 256, (300, 8), dtype=np.uint8)
index = hashret.HammingIndex(64)
index.add(codes)
folder = tempfile.mkdtemp() + "/i"
index.save(folder)
distances, ids = hashret.HammingIndex.load(folder).search(codes[:3], 2)
assert ids[:, 0].tolist() == [0, 1, 2] and distances[:, 0].tolist() == [0, 0, 0]
features = hashret.CosineIndex(4); features.add(np.eye(4, dtype=np.float32)); features.search(np.eye(4, dtype=np.float32), 1)
"""
    run_blocked(code, ("torch", "torchvision"))


def test_public_names() -> None:
    import hashret

    assert set(hashret.__all__) == {
        "CosineIndex",
        "HammingIndex",
        "Hasher",
        "HashretError",
        "InnerProductIndex",
        "PictureTable",
        "__version__",
        "show",
    }
    for name in hashret.__all__:
        assert getattr(hashret, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = hashret.nothing
