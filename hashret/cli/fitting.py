"""Codes for pictures without labels: fitted to their features, measured against them, chosen, and said in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from hashret.cli.options import counted, text_table
from hashret.codes import Codes
from hashret.data.embeddings import Embeddings
from hashret.evaluation.neighbours import TOP, FloatNeighbours, float_neighbours, recall_of_codes
from hashret.model.heads import ProjectionHead
from hashret.model.projection import codes_of
from hashret.training import posthoc
from hashret.training.posthoc import Principal

SIZES = (64, 128, 256)
"""Bits that are tried and measured."""
RERANK = 100
"""Codes that two-stage search ranks by features."""
ENOUGH = 0.95
"""Share of the float top-10 that two-stage search is to find."""
FEWEST = 20
"""Of fewer pictures, ten are too many of the others for their share to say anything."""
SEED = 0
METHODS: dict[str, Callable[[Principal, int, int], ProjectionHead]] = {
    "ITQ": posthoc.itq,
    "PCA sign": posthoc.pca_sign,
    "LSH": posthoc.lsh,
}
"""The first is used, the others are what it has to beat."""


@dataclass(frozen=True)
class Measured:
    """What codes of one kind and size keep of the float top-10: by themselves, and when the nearest are ranked by features."""

    codes: str
    bits: int
    by_code: float
    two_stage: float
    signatures: tuple[str, str]


@dataclass(frozen=True)
class Fitted:
    """Codes that were chosen, the head that makes them, and what was measured (nothing where it would say nothing)."""

    head: ProjectionHead
    codes: Codes
    n: int
    noun: str
    components: int
    queries: int
    measured: tuple[Measured, ...]
    why: str

    @property
    def code_size(self) -> int:
        """Bits of the codes."""
        return len(self.head.directions)

    def lines(self) -> list[str]:
        """What was measured, as a table, and why these codes were chosen."""
        if not self.measured:
            return [self.why]
        asked = f"{self.queries:,} of {self.n:,} {self.noun}s (seed {SEED})"
        if self.queries == self.n:
            asked = f"all {self.n:,} {self.noun}s"
        rows = [[each.codes, str(each.bits), f"{each.by_code:.3f}", f"{each.two_stage:.3f}"] for each in self.measured]
        return [
            f"recall of the float top-{TOP} (the nearest others by cosine of features), mean over {asked}:",
            text_table(["codes", "bits", "by code alone", "two-stage"], rows),
            self.why,
        ]

    def protocol(self) -> dict[str, Any]:
        """How the codes came about, for config.json and --json."""
        return {
            "codes": next(iter(METHODS)),
            "fitted_on": min(self.n, posthoc.SAMPLE),
            "principal_components": self.components,
            "seed": SEED,
            "why": self.why,
        }

    def scores(self) -> dict[str, Any]:
        """What was measured, for config.json and --json."""
        rows = [
            {
                "codes": each.codes,
                "bits": each.bits,
                "by_code": each.by_code,
                "two_stage": each.two_stage,
                "signatures": {"by_code": each.signatures[0], "two_stage": each.signatures[1]},
            }
            for each in self.measured
        ]
        return {"recall_of_float_top": rows, "top": TOP, "rerank": RERANK, "queries": self.queries}


def fit_codes(vectors: Embeddings, code_size: int | None, feature_dtype: str, noun: str) -> Fitted:
    """ITQ codes of the vectors (N, D), N from 1: of `code_size` bits, or of the fewest of SIZES that keep enough.

    feature_dtype: how the index keeps the features that the float neighbours are found by. noun: what a vector is of, in
    sentences.
    """
    sizes = sorted({*SIZES, *([] if code_size is None else [code_size])})
    principal = posthoc.principal_components(vectors, max(sizes), SEED)
    reason = _unmeasurable(counted(len(vectors), noun), len(vectors), principal)
    if reason is not None:
        bits = code_size or min(SIZES)
        (head,) = _fit(principal, ["ITQ"], [bits]).values()
        (made,) = codes_of([head], vectors)
        return Fitted(
            head, made, len(vectors), noun, len(principal.components_RD), 0, (), f"ITQ codes of {bits} bits; {reason}"
        )
    heads = _fit(principal, list(METHODS), sizes)
    codes = dict(zip(heads, codes_of(list(heads.values()), vectors), strict=True))
    neighbours = float_neighbours(vectors, feature_dtype, SEED)
    measured = tuple(_measure(codes, neighbours))
    by_itq = {each.bits: each for each in measured if each.codes == "ITQ"}
    bits = code_size or _fewest_that_keep_enough(list(by_itq.values()))
    return Fitted(
        heads["ITQ", bits],
        codes["ITQ", bits],
        len(vectors),
        noun,
        len(principal.components_RD),
        len(neighbours.queries_Q),
        measured,
        _why(by_itq[bits], code_size is not None, len(vectors), counted(len(vectors), noun)),
    )


def _unmeasurable(things: str, n: int, principal: Principal) -> str | None:
    """Why nothing can be measured, None where it can."""
    if n < FEWEST:
        return (
            f"how well they keep the float neighbours cannot be measured on {things}, fewer than {FEWEST}; "
            "fit codes on more that are like those to be searched"
        )
    if not len(principal.components_RD):
        return "all features are equal, so there are no nearer and farther neighbours to keep"
    return None


def _fit(principal: Principal, methods: Sequence[str], sizes: Sequence[int]) -> dict[tuple[str, int], ProjectionHead]:
    """A head for every method and size; a bar on a terminal where it takes longer than two seconds."""
    total = len(sizes) * posthoc.ITERATIONS
    heads = {}
    with tqdm(total=total, desc="fitting codes", unit="turn", disable=None, delay=2, leave=False) as bar:
        for method in methods:
            for bits in sizes:
                if method == "ITQ":
                    heads[method, bits] = posthoc.itq(principal, bits, SEED, bar.update)
                else:
                    heads[method, bits] = METHODS[method](principal, bits, SEED)
    return heads


def _measure(codes: dict[tuple[str, int], Codes], neighbours: FloatNeighbours) -> Iterator[Measured]:
    with tqdm(codes.items(), desc="measuring codes", unit="code", disable=None, delay=2, leave=False) as bar:
        for (method, bits), codes_NB in bar:
            scores = recall_of_codes(codes_NB, bits, neighbours, (TOP, RERANK))
            by_code, two_stage = scores[f"recall@{TOP}"], scores[f"recall@{RERANK}"]
            yield Measured(method, bits, by_code.expected, two_stage.expected, (by_code.signature, two_stage.signature))


def _fewest_that_keep_enough(by_itq: Sequence[Measured]) -> int:
    """The fewest bits at which two-stage search finds enough, else the most."""
    return next((each.bits for each in by_itq if each.two_stage >= ENOUGH), by_itq[-1].bits)


def _why(chosen: Measured, given: bool, n: int, things: str) -> str:
    """Which codes were chosen, why, and what two-stage search finds with them."""
    two_stage = f"two-stage search (hashret query --rerank {RERANK}: the nearest codes, ranked by features)"
    finds = f"{two_stage} finds {chosen.two_stage:.1%} of the float top-{TOP}"
    if n - 1 <= RERANK:
        finds = f"{two_stage} ranks all {things} by features, so it finds all of the float top-{TOP}"
    if given:
        return f"ITQ codes of {chosen.bits} bits, as asked for: {finds}"
    if chosen.two_stage >= ENOUGH:
        return f"ITQ codes of {chosen.bits} bits, the fewest of {_listed(SIZES)} that reach {ENOUGH:.0%}: {finds}"
    return f"ITQ codes of {chosen.bits} bits, the most of {_listed(SIZES)}, for none reaches {ENOUGH:.0%}: {finds}"


def _listed(numbers: Sequence[int]) -> str:
    return f"{', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
