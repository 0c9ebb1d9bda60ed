"""What the models of a result find, picture by picture: its pictures encoded once more, for a report.

result.json keeps scores, and no codes: they would be larger than all else, and pictures and models are there to make them of.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hashret.data.table import PictureTable
from hashret.encoding import Encoded, encode_table
from hashret.errors import DataError, ModelError
from hashret.evaluation.gallery import GalleryRule, gallery_rule
from hashret.model.hasher import Hasher
from hashret.model.projection import Projection
from hashret.protocols.card import FLOAT
from hashret.protocols.cards import find_card
from hashret.protocols.parts import Rows, read_parts
from hashret.protocols.result import Result
from hashret.protocols.rows import CODES, ITQ
from hashret.protocols.run import MODELS, PICTURES
from hashret.report.analysis import Analysis, Encodings, analyse
from hashret.training import posthoc


@dataclass(frozen=True)
class Tested:
    """The pictures that ask or are searched, those that were learnt from, and rows of the former that ask and are searched."""

    pictures: PictureTable
    train: PictureTable
    query_rows_Q: Rows
    gallery_rows_N: Rows
    rule: GalleryRule


def tested_again(result: Result) -> Tested:
    """The pictures of a result. DataError where they are of several classes each, or no longer what was scored."""
    name, card_hash = result.card
    least = result.document["protocol"]["least_pictures"]
    card = dataclasses.replace(find_card(name), least_pictures=least)
    if card.hash != card_hash:
        raise DataError(
            f"the result is of the card {card_hash}, and {name} is {card.hash} by now; run the protocol again"
        )
    if card.several_labels:
        raise DataError(
            "its pictures are of several classes each, and a table of classes or of confused ones needs one each"
        )
    parts = read_parts(card, str(result.folder / PICTURES))
    if parts.hash != result.document["splits_hash"]:
        raise DataError(f"{result.folder / PICTURES} is no longer what was scored; run the protocol again")
    tested = np.union1d(parts.queries, parts.gallery)
    return Tested(
        parts.table.select(tested),
        parts.table.select(parts.train),
        np.searchsorted(tested, parts.queries),
        np.searchsorted(tested, parts.gallery),
        gallery_rule(card.rule, parts.table),
    )


def model_again(result: Result, model: Mapping[str, Any], device: str) -> Hasher:
    """A model of a result, from the result's folder or where it lay. ModelError where it is gone, or another one by now."""
    there = Path(model["folder"])
    for folder in (result.folder / MODELS / there.name, there):
        if folder.is_dir():
            hasher = Hasher.from_pretrained(folder, device=device)
            if hasher.fingerprint() == model["fingerprint"]:
                return hasher
    raise ModelError(f"{there} is no longer there, or no longer the model that was scored; run the protocol again")


def find_again(
    result: Result,
    model: Mapping[str, Any],
    tested: Tested,
    *,
    workplace: Path,
    device: str,
    workers: int | None,
    batch_size: int,
    with_map: bool,
) -> tuple[str, Analysis]:
    """The name of the row that was looked into, and the numbers of a report about it: of a model's codes beside its features.

    A float model has no codes of its own: those that ITQ fits to its features are looked into, the longest that were scored.
    workplace: keeps what is encoded. ModelError as `model_again`, ImageError for a picture that cannot be read.
    """
    hasher = model_again(result, model, device)
    wanted = ITQ if model["of"] == FLOAT else CODES
    own = [row for row in result.document["rows"] if row["model"] == model["name"] and row["kind"] == wanted]
    row = max(own, key=lambda each: each["bits"])

    def encoded(table: PictureTable, *what: str) -> Encoded:
        return encode_table(
            hasher,
            table,
            what=what,
            batch_size=batch_size,
            workers=workers,
            resume_folder=workplace,
            precision="float32",
        )

    if model["of"] == FLOAT:
        features_PD, learnt_ND = (encoded(table, "features").features for table in (tested.pictures, tested.train))
        assert features_PD is not None and learnt_ND is not None
        fitted = Projection(posthoc.itq(posthoc.principal_components(learnt_ND, row["bits"]), row["bits"]))
        encodings = Encodings(row["bits"], fitted.encode(features_PD), fitted.embed(features_PD), features_PD)
    else:
        made = encoded(tested.pictures, "codes", "logits", "features")
        assert made.codes is not None and made.logits is not None and made.features is not None
        encodings = Encodings(hasher.code_size, made.codes, made.logits, made.features, hasher.thresholds)
    found = analyse(
        tested.pictures,
        tested.query_rows_Q,
        encodings,
        tested.rule,
        gallery_rows_N=tested.gallery_rows_N,
        with_map=with_map,
    )
    return row["name"], found
