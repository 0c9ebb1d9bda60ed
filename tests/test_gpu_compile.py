"""The device code compiles for the chips that it is for, without spilling, to the instructions it is about. No GPU is needed."""

from __future__ import annotations

import importlib.util
import io
import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("cuda.core", reason="cuda-core is not installed")

from hashret.hamming.gpu import arrays, device
from hashret.hamming.gpu.search import source
from hashret.index import device_features


def kernels(n_words: int, arch: str) -> str:
    return source(n_words, device.multiplies_bits(arch))


@pytest.mark.parametrize("arch", ["sm_75", "sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize("n_words", [1, 2, 3, 4, 16])
def test_nothing_spills(arch: str, n_words: int) -> None:
    log = io.StringIO()
    assert len(device.compiled(kernels(n_words, arch), arch, log).code) > 1000
    report = log.getvalue()
    assert "warning" not in report
    names = set(re.findall(r"entry function '(\w+)'", report))
    scans = {f"scan_rows_{lot}" for lot in (1, 2, 4) if lot == 1 or lot * n_words <= 8}
    assert names - {"scan_batch"} == {
        *scans,
        "count_distances",
        "reach_of_rank",
        "count_ties",
        "select_nearest",
        "ids_of_rows",
    }
    assert ("scan_batch" in names) == (arch in ("sm_80", "sm_90"))
    spilled = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", report)
    assert len(spilled) >= len(names) and set(spilled) == {("0", "0", "0")}


@pytest.mark.parametrize("arch", ["sm_75", "sm_90"])
def test_kernels_for_arrays_compile(arch: str) -> None:
    log = io.StringIO()
    device.compiled(arrays.source(), arch, log)
    assert set(re.findall(r"entry function '(\w+)'", log.getvalue())) == {"pack_rows", "count_marked"}
    assert "warning" not in log.getvalue()
    assert set(re.findall(r"(\d+) bytes spill stores", log.getvalue())) == {"0"}


def test_compiled_kernels_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HASHRET_CACHE", str(tmp_path))
    code = device.compiled(kernels(1, "sm_90"), "sm_90").code
    (kept,) = (
        path for path in (tmp_path / "gpu-kernels").rglob("*") if path.is_file() and path.stat().st_size == len(code)
    )
    assert kept.read_bytes() == code
    with pytest.raises(Exception, match="error"):
        device.compiled("no C++", "sm_90")
    monkeypatch.setenv("HASHRET_CACHE", str(tmp_path / "file"))
    (tmp_path / "file").write_bytes(b"")
    assert device.compiled(kernels(1, "sm_90"), "sm_90").code == code


def disassembler() -> Path | None:
    """The one that Triton brings, which torch brings."""
    found = importlib.util.find_spec("triton")
    tool = Path(found.origin or "").parent / "backends/nvidia/bin/cuobjdump" if found else None
    return tool if tool and tool.exists() else None


def instructions(text: str, arch: str, kernel: str, folder: Path) -> list[str]:
    """Names of a kernel's machine instructions, in order, with what they are applied to."""
    tool = disassembler()
    if tool is None:
        pytest.skip("there is no cuobjdump")
    (folder / "kernels.cubin").write_bytes(device.compiled(text, arch).code)
    command = [tool, "--dump-sass", "--function", kernel, folder / "kernels.cubin"]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [line.strip() for line in re.findall(r"^\s+/\*[0-9a-f]{4,}\*/ ([^;]*);", listing, re.MULTILINE)]


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize(("n_words", "product"), [(1, "BMMA.168128.AND.POPC"), (2, "BMMA.168256.AND.POPC")])
def test_the_binary_product_is_one_instruction_with_two_around_it(
    arch: str, n_words: int, product: str, tmp_path: Path
) -> None:
    listing = instructions(kernels(n_words, arch), arch, "scan_batch", tmp_path)
    places = [i for i, line in enumerate(listing) if line.startswith("BMMA")]
    assert len(places) == 8 and all(listing[i].startswith(product) for i in places)
    between = Counter(line.split(".")[0].split()[0] for line in listing[places[0] : places[-1] + 1])
    # ORs of four results each; a move between two products would mean that accumulators are set anew for each.
    assert between["LOP3"] <= 16 and between["MOV"] + between["IMAD"] <= 4


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_the_row_kernel_asks_for_four_times_sixteen_bytes_before_it_counts(arch: str, tmp_path: Path) -> None:
    listing = instructions(kernels(1, arch), arch, "scan_rows_1", tmp_path)
    first = next(i for i, line in enumerate(listing) if line.startswith("POPC"))
    assert sum(line.startswith("LDG") and ".128" in line.split()[0] for line in listing[:first]) == 4


PRODUCTS = {"float32": "HMMA.1688.F32.TF32", "float16": "HMMA.16816.F32", "int8": "HMMA.16816.F32"}


@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100", "sm_120"])
@pytest.mark.parametrize("dtype", PRODUCTS)
def test_the_kernels_of_float_vectors_hold_their_sums_in_registers(arch: str, dtype: str) -> None:
    log = io.StringIO()
    device.compiled(device_features.source(dtype), arch, log)
    report = log.getvalue()
    assert "warning" not in report
    names = set(re.findall(r"entry function '(\w+)'", report))
    assert names == {"scan_few", "scan_many", "reach_of_rank", "gather_rows"}
    # 64 sums a thread and two blocks of 256 at once: but for sm_90, the compiler is up to four registers short around the loop.
    most = 0 if arch == "sm_90" else 16
    assert max(int(n) for n in re.findall(r"(\d+) bytes spill", report)) <= most


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize("dtype", PRODUCTS)
def test_float_products_are_one_instruction_with_little_around_it(arch: str, dtype: str, tmp_path: Path) -> None:
    listing = instructions(device_features.source(dtype), arch, "scan_many", tmp_path)
    places = [i for i, line in enumerate(listing) if line.startswith("HMMA")]
    # 4 x 4 tiles, two steps of a stage, loaded 16 bytes at a time.
    assert len(places) == 32 and all(listing[i].startswith(PRODUCTS[dtype]) for i in places)
    between = listing[places[0] : places[-1] + 1]
    assert not [line for line in between if line.startswith(("STL", "LDL"))]
    assert sum(line.startswith("LDS.128") for line in listing) == 12
