"""How well a model knows what it does not know: pictures of no class, told from others by its scores and by its codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hashret.encoding import encode_table
from hashret.evaluation import strangers
from hashret.model.hasher import Hasher
from hashret.protocols.card import FLOAT
from hashret.protocols.parts import Parts

BY_CODES = ("hamming", "asymmetric", "agreement")
NEIGHBOURS = 10
"""That vote on the classes of a picture."""


def rejection(of: str, hasher: Hasher, parts: Parts, *, workplace: Path, workers: int | None) -> dict[str, Any]:
    """For every way to tell strangers (docs/strangers.md): the threshold chosen on validation, and how it does on the queries.

    Pictures of the split outside are halved with seed 0: one half is mixed into validation to choose the threshold, the other
    into the queries to judge it, and so are queries known to be of no class (-1). By class scores where the model has a
    classifier, by its codes where codes were trained.
    """
    table = parts.table
    strange = np.array([table.labels[row] == strangers.STRANGER for row in parts.queries.tolist()], dtype=bool)
    rows = {
        "validation": np.flatnonzero([split == "val" for split in table.splits]),
        "asked": parts.queries[~strange],
        "gallery": parts.gallery,
        "outside": np.concatenate([parts.outside, parts.queries[strange]]),
    }
    everything = np.unique(np.concatenate(list(rows.values())))
    encoded = encode_table(
        hasher,
        table.select(everything),
        what=("codes", "logits", *(["scores"] if hasher.classifier is not None else [])),
        workers=workers,
        resume_folder=workplace,
        precision="float32",
    )
    at = {part: np.searchsorted(everything, chosen) for part, chosen in rows.items()}
    tables = {part: table.select(chosen) for part, chosen in rows.items()}
    truths = {part: tables[part].label_lists() for part in ("validation", "asked", "gallery")}
    chosen, judging = strangers.halves([table.ids[row] for row in parts.outside.tolist()])
    judging = np.concatenate([judging, np.arange(len(parts.outside), len(rows["outside"]))])

    def judged(answers: dict[str, strangers.Answers]) -> dict[str, Any]:
        outside = answers["outside"]
        calibration = strangers.calibrate(answers["validation"], truths["validation"], outside.select(chosen))
        found = strangers.assess(calibration, answers["asked"], truths["asked"], outside.select(judging))
        return {"calibration": calibration.as_dict(), "assessment": found.as_dict()}

    parts_judged = ("validation", "asked", "outside")
    ways: dict[str, Any] = {}
    if encoded.scores is not None:
        scores = encoded.scores
        ways["scores"] = judged(
            {part: strangers.of_scores(tables[part].ids, scores[at[part]], hasher.class_names) for part in parts_judged}
        )
    if of != FLOAT:
        codes, logits = encoded.codes, encoded.logits
        assert codes is not None and logits is not None
        if hasher.thresholds is not None:
            logits = logits - hasher.thresholds
        for way in BY_CODES:
            ways[way] = judged(
                {
                    part: strangers.by_codes(
                        way, tables[part].ids, codes[at[part]], logits[at[part]], codes[at["gallery"]], truths["gallery"],
                        hasher.code_size, NEIGHBOURS,
                    )
                    for part in parts_judged
                }
            )  # fmt: skip
    return ways
