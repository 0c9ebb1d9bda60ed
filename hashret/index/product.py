"""Locally optimised product quantisation: a vector in about 32 bytes, searched by its code. Approximate, and says so.

Vectors are put into a few cells by k-means. What is left of a vector when its cell's centre is taken away is turned by a rotation
of the cell's own (OPQ), cut into parts, and of each part the number of the nearest of 256 centroids is kept.

Sources: Kalantidis and Avrithis, "Locally Optimized Product Quantization for Approximate Nearest Neighbor Search", 2014; Ge, He,
Ke and Sun, "Optimized Product Quantization", 2013; Jégou, Douze and Schmid, "Product Quantization for Nearest Neighbor Search",
2011.

FAISS trains (k-means, OPQ, PQ; the extra `pq`); adding and searching need numpy and numba only.

Shape suffixes: N vectors, Q queries, K neighbours, D dimensions, C cells, M parts, S numbers of a part (D / M), V centroids.
"""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hashret.errors import IndexFormatError, IndexVersionError, SearchError, damaged
from hashret.hamming import threads as pool
from hashret.hamming.arguments import checked_k, checked_threads
from hashret.index import features
from hashret.index.durable import make_parents, replace_file
from hashret.index.features import Similarities

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int32]

FILE = "product.safetensors"
FORMAT, FORMAT_VERSION = "hashret-product", 1
MOST_CELLS = 1 << 12
MOST_ROWS = 1 << 31
SAMPLE_PER_CELL = 1 << 16
"""Vectors that training looks at: this times the number of cells. FAISS looks at no more of one cell than that, either."""
_BLOCK_ROWS = 1 << 13
"""Vectors that are given codes at a time."""
_PART_ROWS = 1 << 14
"""Codes worth handing to a thread."""


class BytesPerPicture(NamedTuple):
    """What one vector takes in memory, in bytes: its code, its row number, and its share of centres, rotations and centroids."""

    code: float
    row: float
    tables: float

    @property
    def total(self) -> float:
        """All of it."""
        return sum(self)


class ProductIndex:
    """Vectors as codes of product quantisers, one for each cell; made by `fit` or `load`, searched approximately.

    A similarity is that of a query, as it is, and of the vector that a code stands for: with metric "cosine" 1 less half of their
    squared distance, of vectors and queries that were scaled to length 1 (there the cosine, and the same order as the
    distance); with "inner_product" their inner product. All codes of all cells are looked at, unless a search asks for less.

    A cell with no more training vectors than `centroids` is not turned, and each of its parts has these vectors themselves as
    centroids: their codes lose nothing, later vectors' more.
    """

    def __init__(
        self, metric: str, coarse_CD: Floats, rotations_CDD: Floats, centroids_CMSV: Floats, used_C: Numbers
    ) -> None:
        """An index without vectors. rotations: x @ rotation is x turned. used: how many of the V centroids a cell has."""
        squares = np.square(centroids_CMSV).sum(axis=2, dtype=np.float32) / np.float32(2)
        self.metric, self.used_C = metric, used_C
        self.coarse_CD, self.rotations_CDD = _fixed(coarse_CD), _fixed(rotations_CDD)
        self.centroids_CMSV, self._squares_CMV = _fixed(centroids_CMSV), _fixed(squares)
        cells, parts = centroids_CMSV.shape[:2]
        self._codes: list[Codes] = [np.empty((0, parts), np.uint8)] * cells
        self._rows: list[Numbers] = [np.empty(0, np.int32)] * cells

    @classmethod
    def fit(
        cls,
        vectors_ND: npt.ArrayLike,
        coarse: int = 8,
        parts: int = 32,
        centroids: int = 256,
        seed: int = 0,
        *,
        metric: str = "cosine",
        iterations: int = 20,
        threads: int = 1,
    ) -> ProductIndex:
        """An index of these vectors, whose quantisers were trained on them (on a sample of more than 65,536 a cell).

        vectors_ND: floats, D a multiple of `parts`. coarse: cells. centroids: of each part, a power of two up to 256; a code
        has `parts` bytes whatever it is. iterations: of OPQ in each cell, each with four of k-means; more take longer and
        quantise a little better. threads: what FAISS may take. It brings an OpenMP runtime of its own, which slows down
        where torch's runs too, and its sums may depend on their number; with 1 the same seed gives the same index. SearchError
        without FAISS, and for what does not fit.
        """
        vectors = _vectors(vectors_ND)
        n, dim = vectors.shape
        if metric not in features.METRICS:
            raise SearchError(f"metric is {metric!r}, expected {' or '.join(features.METRICS)}")
        for name, value, least, most in (
            ("coarse", coarse, 1, MOST_CELLS),
            ("parts", parts, 1, features.check_dim(dim)),
            ("centroids", centroids, 2, 256),
            ("iterations", iterations, 1, 1 << 20),
            ("seed", seed, 0, (1 << 31) - 1),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise SearchError(f"{name} is {value!r}, expected a whole number from {least} to {most}")
        if centroids & (centroids - 1):
            raise SearchError(f"centroids is {centroids}, expected a power of two from 2 to 256")
        if dim % parts:
            raise SearchError(
                f"vectors of {dim} numbers cannot be cut into {parts} equal parts; choose a number of parts that divides {dim}"
            )
        if n < coarse:
            raise SearchError(f"there are {n} vectors for {coarse} cells; give more vectors, or choose fewer cells")
        faiss = _faiss()
        before = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(checked_threads(threads))
        try:
            index = cls(
                metric,
                *_trained(faiss, _sample(vectors, coarse, seed, metric), coarse, parts, centroids, seed, iterations),
            )
        finally:
            faiss.omp_set_num_threads(before)
        index.add(vectors)
        return index

    @classmethod
    def load(cls, folder: str | Path) -> ProductIndex:
        """The index that `save` put into a folder; IndexFormatError for a damaged or foreign file."""
        return _loaded(cls, Path(folder) / FILE)

    @property
    def dim(self) -> int:
        """Numbers in a vector."""
        return int(self.coarse_CD.shape[1])

    @property
    def bytes_per_picture(self) -> BytesPerPicture:
        """What one vector takes in memory, tables shared by all counted apart; SearchError for an empty index."""
        if not len(self):
            raise SearchError("the index holds no vectors, so none has a share of its tables; add some")
        tables = (self.coarse_CD, self.rotations_CDD, self.centroids_CMSV, self._squares_CMV)
        shared = sum(array.nbytes for array in tables)
        codes, rows = (sum(array.nbytes for array in arrays) for arrays in (self._codes, self._rows))
        return BytesPerPicture(codes / len(self), rows / len(self), shared / len(self))

    def __len__(self) -> int:
        return sum(map(len, self._rows))

    def add(self, vectors_ND: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Row numbers (N,) int64 of the vectors, which are given codes by the quantisers as they are.

        SearchError, and nothing added, for another dimension, NaN, infinity and, with cosine, a vector of zeros.
        """
        vectors = _vectors(vectors_ND, self.dim)
        first = len(self)
        if first + len(vectors) >= MOST_ROWS:
            raise SearchError(f"the index would hold {first + len(vectors):,} vectors, expected fewer than 2**31")
        codes = np.empty((len(vectors), self.centroids_CMSV.shape[1]), np.uint8)
        cells = np.empty(len(vectors), np.int64)
        for start, some in _blocks(vectors, self.metric):
            here = slice(start, start + len(some))
            cells[here] = _nearest(some, self.coarse_CD)
            codes[here] = self._encoded(some, cells[here])
        self._take(codes, cells, first)
        return np.arange(first, first + len(vectors))

    def search(
        self, queries_QD: npt.ArrayLike, k: int, threads: int | None = None, *, cells: int | None = None
    ) -> tuple[Similarities, npt.NDArray[np.int64]]:
        """Similarities (Q, k) float32, descending, and rows (Q, k) int64 of the codes that are most similar; padded with NaN, -1.

        Exact for what the codes stand for, which is not quite what was added. Equal similarities give the earlier row; nothing
        depends on `threads` (None: all cores) or on the other queries. cells: look only into so many cells, those whose centres
        are nearest to the query (with inner_product: have the largest inner product), and so miss what lies in others.
        """
        k, n_threads = checked_k(k), checked_threads(threads)
        visited = len(self.coarse_CD) if cells is None else cells
        if isinstance(visited, bool) or not isinstance(visited, int) or not 1 <= visited <= len(self.coarse_CD):
            raise SearchError(
                f"cells is {cells!r}, expected a whole number from 1 to {len(self.coarse_CD)}, or None for all"
            )
        queries = features.queries_of(_vectors(queries_QD), self.dim, self.metric)
        within = min(k, len(self))
        found = np.full((len(queries), k), np.nan, np.float32), np.full((len(queries), k), -1, np.int64)
        if not within or not len(queries):
            return found
        order = self._cells_by_nearness(queries)[:, :visited]
        shares = min(n_threads, max(1, len(self) // _PART_ROWS)) if len(queries) < n_threads else 1
        step = -(-len(queries) // n_threads)
        groups = [slice(start, start + step) for start in range(0, len(queries), step)]
        tasks = [
            functools.partial(self._search_part, queries[group], order[group], within, share, shares)
            for group in groups
            for share in range(shares)
        ]
        done = pool.run(tasks, n_threads)
        for number, group in enumerate(groups):
            answers = done[number * shares : (number + 1) * shares]
            values, rows = (np.concatenate([answer[i] for answer in answers], axis=1) for i in range(2))
            # NaN, where a share of the codes was fewer than k, comes last.
            best = np.lexsort((rows, -values), axis=1)[:, :within]
            found[0][group, :within] = np.take_along_axis(values, best, axis=1)
            found[1][group, :within] = np.take_along_axis(rows, best, axis=1)
        return found

    def codes(self) -> tuple[Codes, npt.NDArray[np.int64]]:
        """The codes (N, M) uint8 and the cells (N,) int64 of all vectors, by row."""
        codes = np.empty((len(self), self.centroids_CMSV.shape[1]), np.uint8)
        cells = np.empty(len(self), np.int64)
        for cell, (some, rows) in enumerate(zip(self._codes, self._rows, strict=True)):
            codes[rows], cells[rows] = some, cell
        return codes, cells

    def save(self, folder: str | Path) -> None:
        """Write the index into a folder, which is made if need be; a file that is there is replaced whole."""
        from safetensors.numpy import save

        codes, cells = self.codes()
        tensors: dict[str, npt.NDArray[Any]] = {
            "coarse": self.coarse_CD,
            "rotations": self.rotations_CDD,
            "centroids": self.centroids_CMSV,
            "used": self.used_C,
            "codes": codes,
            "cells": cells.astype(np.uint16),
        }
        described = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "metric": self.metric,
            "digest": _digest(tensors),
        }
        # One key, for safetensors writes several in random order, and the same index should be the same bytes.
        content = save(tensors, {"hashret": json.dumps(described, sort_keys=True)})
        try:
            make_parents(Path(folder) / FILE)
            replace_file(Path(folder) / FILE, content)
        except OSError as error:
            raise SearchError(
                f"{folder} cannot be written ({error.strerror or error}); choose another place"
            ) from error

    def _encoded(self, vectors_ND: Floats, cells_N: npt.NDArray[np.int64]) -> Codes:
        """Codes (N, M) of vectors in these cells: of each part the nearest centroid, the first of equally near ones."""
        parts, width, _ = self.centroids_CMSV.shape[1:]
        codes = np.empty((len(vectors_ND), parts), np.uint8)
        for cell in np.unique(cells_N):
            here = np.flatnonzero(cells_N == cell)
            turned = (vectors_ND[here] - self.coarse_CD[cell]) @ self.rotations_CDD[cell]
            used = self.used_C[cell]
            for part in range(parts):
                numbers = self.centroids_CMSV[cell, part, :, :used]
                nearness = turned[:, part * width : (part + 1) * width] @ numbers - self._squares_CMV[cell, part, :used]
                codes[here, part] = nearness.argmax(axis=1)
        return codes

    def _take(self, codes_NM: Codes, cells_N: npt.NDArray[np.int64], first: int) -> None:
        """Put codes to those of their cells; the first of them is row `first`."""
        for cell in np.unique(cells_N):
            here = np.flatnonzero(cells_N == cell)
            self._codes[cell] = np.concatenate([self._codes[cell], codes_NM[here]])
            self._rows[cell] = np.concatenate([self._rows[cell], (first + here).astype(np.int32)])

    def _cells_by_nearness(self, queries_QD: Floats) -> npt.NDArray[np.int64]:
        """The cells (Q, C) of each query, nearest first, equally near ones by number; summed in one order, without BLAS."""
        near = np.empty((len(queries_QD), len(self.coarse_CD)))
        centres = self.coarse_CD.astype(np.float64)
        for query, row in zip(queries_QD.astype(np.float64), near, strict=True):
            row[:] = (
                (centres * query).sum(axis=1)
                if self.metric == "inner_product"
                else -np.square(centres - query).sum(axis=1)
            )
        return np.argsort(-near, axis=1, kind="stable")

    def _search_part(
        self, queries_QD: Floats, order_QC: npt.NDArray[np.int64], k: int, share: int, shares: int
    ) -> tuple[Similarities, npt.NDArray[np.int64]]:
        """The k most similar codes of one of `shares` equal parts of every cell, in any order, padded."""
        from hashret.hamming.table_sums import fill_tables, scan  # starts numba

        similarities = np.full((len(queries_QD), k), np.nan, np.float32)
        rows = np.full((len(queries_QD), k), -1, np.int64)
        held = np.zeros(len(queries_QD), np.int64)
        turned = np.empty(self.dim, np.float32)
        parts, _, centroids = self.centroids_CMSV.shape[1:]
        tables = np.empty((parts, centroids), np.float32)
        by_distance = self.metric == "cosine"
        for j, query in enumerate(queries_QD):
            for cell in order_QC[j].tolist():
                n = len(self._rows[cell])
                here = slice(n * share // shares, n * (share + 1) // shares)
                if here.start == here.stop:
                    continue
                first = fill_tables(
                    query,
                    self.coarse_CD[cell],
                    self.rotations_CDD[cell],
                    self.centroids_CMSV[cell],
                    self._squares_CMV[cell],
                    by_distance,
                    turned,
                    tables,
                )
                scan(self._codes[cell][here], self._rows[cell][here], first, tables, j, k, similarities, rows, held)
        return similarities, rows


def _vectors(vectors_ND: npt.ArrayLike, dim: int | None = None) -> npt.NDArray[Any]:
    """The vectors as an array of two dimensions, not copied; SearchError for anything else."""
    vectors: npt.NDArray[Any] = np.asarray(vectors_ND)
    fits = vectors.ndim == 2 and np.issubdtype(vectors.dtype, np.floating)
    if not fits or (dim is not None and vectors.shape[1] != dim):
        wanted = "D" if dim is None else dim
        raise SearchError(
            f"vectors have shape {vectors.shape} and dtype {vectors.dtype}, expected floats (N, {wanted})"
        )
    return vectors


def _fixed(numbers: Floats) -> Floats:
    """The numbers as kernels take them: contiguous and read-only, they are compiled for one type."""
    seen = np.ascontiguousarray(numbers, np.float32).view()
    seen.flags.writeable = False
    return seen


def _blocks(vectors_ND: npt.NDArray[Any], metric: str) -> Iterator[tuple[int, Floats]]:
    """The vectors some at a time, as the metric has them, with the number of the first."""
    dim = vectors_ND.shape[1]
    for start in range(0, len(vectors_ND), _BLOCK_ROWS):
        rows = features.rows_of(vectors_ND[start : start + _BLOCK_ROWS], dim, "float32", metric, start)
        yield start, np.ascontiguousarray(rows, np.float32)


def _sample(vectors_ND: npt.NDArray[Any], coarse: int, seed: int, metric: str) -> Floats:
    """The vectors that training looks at: all, or so many drawn with the seed, in their order."""
    most = coarse * SAMPLE_PER_CELL
    if len(vectors_ND) > most:
        vectors_ND = vectors_ND[np.sort(np.random.default_rng(seed).choice(len(vectors_ND), most, replace=False))]
    return np.concatenate([some for _, some in _blocks(vectors_ND, metric)])


def _nearest(vectors_ND: Floats, centres_CD: Floats) -> npt.NDArray[np.int64]:
    """The number (N,) of the nearest centre of each vector, the first of equally near ones."""
    squares = np.square(centres_CD).sum(axis=1)
    nearest: npt.NDArray[np.int64] = (vectors_ND @ centres_CD.T - squares / 2).argmax(axis=1)
    return nearest


def _faiss() -> Any:
    try:
        return importlib.import_module("faiss")
    except ImportError as error:
        raise SearchError(
            f"product quantisers are trained by FAISS, which cannot be loaded ({error}); pip install 'hashret[pq]'"
        ) from error


def _trained(
    faiss: Any, vectors_ND: Floats, coarse: int, parts: int, centroids: int, seed: int, iterations: int
) -> tuple[Floats, Floats, Floats, Numbers]:
    """Centres (C, D), rotations (C, D, D), centroids (C, M, S, V) and how many of them each cell uses (C,)."""
    dim = vectors_ND.shape[1]
    # FAISS warns below 39 vectors a centroid; a cell that has fewer than it would like is no reason to print.
    kmeans = faiss.Kmeans(dim, coarse, seed=seed, min_points_per_centroid=1, max_points_per_centroid=SAMPLE_PER_CELL)
    kmeans.train(vectors_ND)
    centres = np.ascontiguousarray(kmeans.centroids, np.float32)
    cells = _nearest(vectors_ND, centres)
    rotations = np.tile(np.eye(dim, dtype=np.float32), (coarse, 1, 1))
    found = np.zeros((coarse, parts, dim // parts, centroids), np.float32)
    used = np.ones(coarse, np.int32)
    for cell in range(coarse):
        left = vectors_ND[cells == cell] - centres[cell]
        if len(left) > centroids:
            rotations[cell], found[cell] = _optimised(faiss, left, parts, centroids, seed, iterations)
            used[cell] = centroids
        elif len(left):
            found[cell, :, :, : len(left)] = left.reshape(len(left), parts, -1).transpose(1, 2, 0)
            used[cell] = len(left)
    return centres, rotations, found, used


def _optimised(
    faiss: Any, left_ND: Floats, parts: int, centroids: int, seed: int, iterations: int
) -> tuple[Floats, Floats]:
    """The rotation (D, D) and the centroids (M, S, V) of what is left in one cell, of more vectors than centroids."""
    dim = left_ND.shape[1]

    def quantiser() -> Any:
        made = faiss.ProductQuantizer(dim, parts, centroids.bit_length() - 1)
        made.cp.seed = seed
        made.cp.min_points_per_centroid = 1
        return made

    turning, for_turning = faiss.OPQMatrix(dim, parts), quantiser()
    turning.niter, turning.pq = iterations, for_turning
    turning.train(left_ND)
    rotation = faiss.vector_to_array(turning.A).reshape(dim, dim).T.copy()
    trained = quantiser()
    trained.train(np.ascontiguousarray(left_ND @ rotation))
    numbers = faiss.vector_to_array(trained.centroids).reshape(parts, centroids, dim // parts)
    return rotation, numbers.transpose(0, 2, 1)


def _digest(tensors: dict[str, npt.NDArray[Any]]) -> str:
    """XXH3 in hex over the names and bytes of the arrays, by name."""
    import xxhash

    digest = xxhash.xxh3_64()
    for name, array in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _loaded(kind: type[ProductIndex], file: Path) -> ProductIndex:
    """The index in a file, every part of which is checked."""
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        raise IndexFormatError(f"there is no {file}; name a folder that ProductIndex.save wrote")
    try:
        with safe_open(file, framework="np") as opened:
            described = json.loads((opened.metadata() or {}).get("hashret", "{}"))
            if not isinstance(described, dict) or described.get("format") != FORMAT:
                raise damaged(file, "it is no index of product quantisation")
            version = described.get("format_version")
            if not isinstance(version, int) or isinstance(version, bool) or version < 1:
                raise damaged(file, f"its format version is {version!r}")
            if version > FORMAT_VERSION:
                raise IndexVersionError(
                    f"{file} has format version {version}, but this hashret reads up to {FORMAT_VERSION}; install a newer one"
                )
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise damaged(file, str(error)) from error
    why = _wrong(described, tensors)
    if why:
        raise damaged(file, why)
    index = kind(described["metric"], *(tensors[name] for name in ("coarse", "rotations", "centroids", "used")))
    index._take(tensors["codes"], tensors["cells"].astype(np.int64), 0)
    return index


_TYPES = {
    "coarse": (np.float32, 2),
    "rotations": (np.float32, 3),
    "centroids": (np.float32, 4),
    "used": (np.int32, 1),
    "codes": (np.uint8, 2),
    "cells": (np.uint16, 1),
}


def _wrong(described: dict[str, Any], tensors: dict[str, npt.NDArray[Any]]) -> str:
    """What is wrong with a stored index, "" for nothing."""
    if described.get("metric") not in features.METRICS:
        return f"its metric is {described.get('metric')!r}"
    if set(tensors) != set(_TYPES):
        return f"it holds {', '.join(sorted(tensors)) or 'nothing'}, expected {', '.join(sorted(_TYPES))}"
    for name, (dtype, n_dims) in _TYPES.items():
        if tensors[name].dtype != dtype or tensors[name].ndim != n_dims:
            return f"{name} is {tensors[name].dtype} of shape {tensors[name].shape}"
    (cells, dim), (n, parts), (_, _, width, centroids) = (
        tensors[name].shape for name in ("coarse", "codes", "centroids")
    )
    expected = {
        "rotations": (cells, dim, dim),
        "centroids": (cells, parts, width, centroids),
        "used": (cells,),
        "cells": (n,),
    }
    for name, shape in expected.items():
        if tensors[name].shape != shape:
            return f"{name} has shape {tensors[name].shape}, expected {shape}"
    if not 1 <= cells <= MOST_CELLS or not 1 <= centroids <= 256 or dim < 1 or parts * width != dim or n >= MOST_ROWS:
        return f"{cells} cells, {parts} parts of {width} numbers and {centroids} centroids are no quantisers of {dim} numbers"
    if described.get("digest") != _digest(tensors):
        return "its numbers are not those that were written"
    if not all(np.isfinite(tensors[name]).all() for name in ("coarse", "rotations", "centroids")):
        return "it holds NaN or infinity"
    used = tensors["used"]
    if not ((used >= 1) & (used <= centroids)).all():
        return f"a cell uses none or more than {centroids} centroids"
    if (tensors["cells"] >= cells).any():
        return f"a code is in a cell beyond the {cells} there are"
    if (tensors["codes"].max(axis=1, initial=0) >= used[tensors["cells"]]).any():
        return "a code names a centroid that its cell has not"
    return ""
