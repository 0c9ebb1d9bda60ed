"""A damaged index: what is damaged is found to the block, what is whole is kept, and what is lost is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from hashret.errors import IndexFormatError, IndexVersionError
from hashret.index import CosineIndex, HammingIndex, Store, damage, manifest, storage
from hashret.index.checksums import BLOCK, digest_of, parts_of
from hashret.index.manifest import SEGMENTS

N, MORE = 20_000, 100
"""Rows of the large segment, whose files have several blocks, and of a small one after it."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, np.ndarray]:
    """An index with codes of 128 bits, features and records; rows 5 and 19,999 are deleted."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("whole") / "index"
    codes = rng.integers(0, 256, (N + MORE, 16), dtype=np.uint8)
    features = rng.standard_normal((N + MORE, 4)).astype(np.float32)
    store = Store.create(folder, code_size=128, dim=4)
    records = [{"id": f"p{i}", "path": f"p{i}.jpg"} for i in range(N + MORE)]
    store.append(codes[:N], features[:N], records=records[:N])
    store.append(codes[N:], features[N:], records=records[N:])
    store.remove([5, N - 1])
    assert [entry.rows for entry in manifest.read(folder).segments] == [N, MORE]
    return folder, codes, features


@pytest.fixture
def index(whole: tuple[Path, np.ndarray, np.ndarray], tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole[0], tmp_path / "index"))


def file_of(index: Path, name: str, segment: int = 0) -> Path:
    entry = manifest.read(index).segments[segment]
    return index / SEGMENTS / entry.name / (str(entry.deleted) if name == "deleted" else name)


def flip(path: Path, *places: int) -> None:
    content = bytearray(path.read_bytes())
    for at in places:
        content[at] ^= 1
    path.write_bytes(content)


def left(index: Path) -> list[int]:
    return HammingIndex.load(index).ids.tolist()


GOLDEN = Path(__file__).parent / "golden" / "index-v3"


def golden_codes() -> np.ndarray:
    """8,300 codes of 8 bits: their ids are more than one block."""
    return (np.arange(8300) * 37 % 251).astype(np.uint8)[:, None]


def write_golden(folder: Path) -> None:
    """How tests/golden/index-v3 was made; never run again for that version, whose bytes stay as they are."""
    store = Store.create(folder, code_size=8)
    store.append(golden_codes())
    store.remove([7, 8299])


@pytest.mark.parametrize("kind", ["golden", "fresh"])
def test_the_golden_folder_of_version_3_is_read(tmp_path: Path, kind: str) -> None:
    folder = GOLDEN
    if kind == "fresh":
        write_golden(folder := tmp_path / "i")
    assert manifest.read(folder).format_version == 3
    ids = [row for row in range(8300) if row not in (7, 8299)]
    index = HammingIndex.load(folder)
    assert index.verify() > 0 and index.ids.tolist() == ids
    query = golden_codes()[[5000]]
    assert index.search(query, 3)[1].tolist() == [[row for row in ids if row % 251 == 5000 % 251][:3]]


def test_blocks_are_what_the_page_says(index: Path) -> None:
    """Recomputed from docs/format.md alone."""
    import xxhash

    folder = file_of(index, "codes.npy").parent
    expected = [
        xxhash.xxh3_64_intdigest(content[start : start + 65536])
        for name in ("codes.npy", "features.npy", "ids.npy", "metadata.sqlite")
        for content in [(folder / name).read_bytes()]
        for start in range(0, len(content), 65536)
    ]
    assert np.load(folder / "blocks.npy").tolist() == expected
    assert manifest.read(index).format_version == 3
    assert not file_of(index, "blocks.npy", 1).exists(), "where no file has two blocks there are no checksums of blocks"


@pytest.mark.parametrize("n", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 17])
def test_a_digest_is_the_same_however_the_bytes_come(n: int, tmp_path: Path) -> None:
    content = np.random.default_rng(n).bytes(n)
    (tmp_path / "file").write_bytes(content)
    cuts = [0, n // 3, n // 3, n // 2, n]
    in_parts = digest_of(memoryview(content)[a:b] for a, b in pairwise(cuts))
    assert in_parts == digest_of([content]) == digest_of(parts_of(tmp_path / "file"))
    assert in_parts.n_bytes == n and len(in_parts.blocks) == -(-n // BLOCK)


def test_a_whole_index_is_left_alone(index: Path) -> None:
    before = manifest.read(index)
    assert list(damage.find(index, before)) == []
    done = damage.repair(index)
    assert (done.damages, done.lost, done.manifest_from) == ([], [], None)
    assert manifest.read(index) == before and not (index / damage.SET_ASIDE).exists()


@pytest.mark.parametrize(
    ("name", "at", "first", "last"),
    [
        ("codes.npy", 0, 0, 4087),  # the header of 128 bytes and 4,088 codes are the first block
        ("codes.npy", 65536 + 128, 4088, 8183),
        ("codes.npy", 128 + 16 * 12345, 8184 + 4096, 8184 + 2 * 4096 - 1),
        ("ids.npy", 128, 0, 8175),
        ("features.npy", -1, 16376, N - 1),
    ],
)
def test_a_damaged_block_costs_its_rows(
    index: Path, whole: tuple[Path, np.ndarray, np.ndarray], name: str, at: int, first: int, last: int
) -> None:
    flip(file_of(index, name), at)
    (found,) = damage.find(index, manifest.read(index))
    assert found.file == name and "checksum is wrong" in found.why
    assert found.rows == (range(first, last + 1),) and found.n_rows == last + 1 - first
    damaged_segment = found.segment
    done = damage.repair(index)
    lost = [row for row in range(first, last + 1) if row not in (5, N - 1)]
    assert done.lost == [f"p{row}" for row in lost] and not done.records_lost and not done.deletes_lost
    assert (index / damage.SET_ASIDE / damaged_segment / name).exists()
    assert damage.verify(index) > 0
    ids = [row for row in range(N + MORE) if row not in (5, N - 1) and not first <= row <= last]
    assert left(index) == ids
    _, codes, features = whole
    loaded = HammingIndex.load(index)
    assert loaded.search(codes[ids[::500]], 1)[1][:, 0].tolist() == ids[::500]
    assert CosineIndex.load(index).search(features[ids[::500]], 1)[1][:, 0].tolist() == ids[::500]
    assert loaded.find(["p5", f"p{first}", f"p{ids[0]}"]).tolist() == [-1, -1 if first not in ids else first, ids[0]]
    assert Store.open(index).append(codes[:1], features[:1]).tolist() == [N + MORE]


def test_two_blocks_in_two_files(index: Path) -> None:
    flip(file_of(index, "codes.npy"), 200)
    flip(file_of(index, "ids.npy"), 128 + 8 * 15000)
    assert len(damage.repair(index).lost) == 4088 - 1 + 8192


@pytest.mark.parametrize("ruin", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-1])])
def test_a_segment_without_codes_is_lost_whole(index: Path, ruin: Callable[[Path], object]) -> None:
    ruin(file_of(index, "codes.npy", 1))
    with pytest.raises(IndexFormatError, match=r"codes\.npy"):
        HammingIndex.load(index)
    done = damage.repair(index)
    assert (index / damage.SET_ASIDE / done.damages[0].segment / "ids.npy").exists()
    assert done.rows_lost == MORE and done.lost == [f"all {MORE} rows of {done.damages[0].segment}"]
    assert left(index) == [row for row in range(N) if row not in (5, N - 1)]


def test_damaged_records_cost_no_codes(index: Path) -> None:
    flip(file_of(index, "metadata.sqlite"), 70_000)
    done = damage.repair(index)
    assert (done.lost, done.records_lost, done.deletes_lost) == ([], N - 2, 0)
    loaded = HammingIndex.load(index)
    assert len(loaded) == N + MORE - 2
    assert loaded.records([0, N])[0] is None and loaded.records([0, N])[1]["id"] == f"p{N}"


def test_damaged_codes_and_records(index: Path) -> None:
    flip(file_of(index, "metadata.sqlite"), 70_000)
    flip(file_of(index, "codes.npy"), 200)
    done = damage.repair(index)
    assert done.lost[:2] == [f"row 0 of {done.damages[0].segment}", f"row 1 of {done.damages[0].segment}"]
    assert len(done.lost) == 4087 and done.records_lost == N - 2 - 4087


def test_deleted_rows_are_back_where_they_are_not_known(
    index: Path, whole: tuple[Path, np.ndarray, np.ndarray]
) -> None:
    """But of two rows with one id the later stays: an upsert is not undone."""
    _, codes, features = whole
    Store.open(index).append(codes[:1], features[:1], records=[{"id": "p7", "path": "new"}], upsert=True)
    flip(file_of(index, "deleted"), -1)
    with pytest.raises(IndexFormatError, match="deleted"):
        damage.verify(index)
    done = damage.repair(index)
    assert (done.lost, done.deletes_lost) == ([], 3)
    loaded = HammingIndex.load(index)
    assert sorted(loaded.ids.tolist()) == list(range(N + MORE)) and loaded.records([7])[0]["path"] == "new"


def test_a_damaged_list_of_blocks_costs_nothing(index: Path) -> None:
    flip(file_of(index, "blocks.npy"), -1)
    done = damage.repair(index)
    assert len(done.damages) == 1 and done.lost == []
    flip(file_of(index, "blocks.npy"), -1)
    flip(file_of(index, "codes.npy"), 200)
    assert len(damage.repair(index).lost) == N - 2, "then only the whole file's checksum says what is damaged"


def test_a_damaged_manifest_is_taken_from_its_copy(index: Path) -> None:
    generation = manifest.read(index).generation
    flip(index / manifest.NAME, 300)
    with pytest.raises(IndexFormatError):
        HammingIndex.load(index)
    done = damage.repair(index)
    assert done.manifest_from == manifest.copy_of(index, generation) and not done.lost
    assert manifest.read(index).generation == generation + 1 and len(left(index)) == N + MORE - 2
    for copy in (index / manifest.COPIES).iterdir():
        flip(copy, 300)
    flip(index / manifest.NAME, 300)
    with pytest.raises(IndexFormatError, match=r"manifest\.json"):
        damage.repair(index)


def test_everything_damaged_leaves_an_empty_index(index: Path) -> None:
    for segment in (0, 1):
        file_of(index, "ids.npy", segment).unlink()
    done = damage.repair(index)
    assert done.rows_lost == N + MORE - 2 and left(index) == []
    assert json.loads((index / manifest.NAME).read_text())["next_id"] == N + MORE, "ids are not given again"
    assert storage.load(index)[0].code_size == 128


def test_a_newer_index_is_not_brought_back_to_an_older_copy(index: Path) -> None:
    content = json.loads((index / manifest.NAME).read_text())
    content["format_version"] = 99
    (index / manifest.NAME).write_text(json.dumps(content))
    with pytest.raises(IndexVersionError, match="upgrade"):
        damage.repair(index)


def test_nothing_is_written_to_what_is_no_index(tmp_path: Path) -> None:
    with pytest.raises(IndexFormatError, match="is no hashret index"):
        damage.repair(tmp_path)
    assert list(tmp_path.iterdir()) == []
