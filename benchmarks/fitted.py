"""How good are the features that a network has, and codes that are fitted to them without labels?

Codes are fitted to the training pictures by ITQ (three seeds), the signs of principal components, and random directions; and by
ITQ to the searched pictures themselves, as `hashret index` without a model does. `hashret evaluate`'s scores, all in one run.

Run: python benchmarks/fitted.py --data cars.csv --weights FILE --backbone mobilenet_v2 --image-size 96 --out fitted.json
     python benchmarks/fitted.py --data cars.csv --model RUN --out fitted.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hashret.codes import binarize
from hashret.data.sources import open_source
from hashret.encoding import encode_table
from hashret.evaluation.compare import Representation, TwoStage, compare
from hashret.evaluation.gallery import gallery_rule
from hashret.model.hasher import Hasher, build
from hashret.training import posthoc

SEEDS = (0, 1, 2)
SIZES = (16, 32, 64, 128)


def main(arguments: list[str] | None = None) -> int:
    """Score and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", help="a run, which shows pictures to its network in its own way")
    parser.add_argument("--weights")
    parser.add_argument("--backbone")
    parser.add_argument("--mean", type=float, nargs=3)
    parser.add_argument("--std", type=float, nargs=3)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--out", type=Path, required=True)
    options, _ = parser.parse_known_args(arguments)
    if options.model:
        hasher = Hasher.from_pretrained(options.model)
    else:
        size, mean, std = options.image_size, options.mean, options.std
        hasher = build(options.backbone, 64, weights=options.weights, image_size=size, mean=mean, std=std)
    table = open_source(options.data)
    train, test = (table.where_split(split) for split in ("train", "test"))
    of_train, of_test = (encode_table(hasher, each, what=["features"]).features for each in (train, test))
    assert of_train is not None and of_test is not None
    rule = gallery_rule("self", test)
    given = [Representation(f"features, {hasher.feature_size} numbers", of_test, of_test)]
    for bits in SIZES:
        given += fitted(of_train, of_test, bits, rule.between(test, test))
    results = compare(given, test, test, rule)
    document = {
        "weights": Path(options.model or options.weights).name,
        "results": [result.as_dict() for result in results],
    }
    options.out.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    return 0


def fitted(
    of_train: NDArray[np.float32], of_test: NDArray[np.float32], bits: int, valid: Callable[[slice], NDArray[np.bool_]]
) -> list[Representation]:
    """Codes of `bits` bits, by every way of fitting them."""
    learnt, own = (posthoc.principal_components(each, bits) for each in (of_train, of_test))
    heads = {f"ITQ, {bits} bits, seed {seed}": posthoc.itq(learnt, bits, seed) for seed in SEEDS}
    heads[f"ITQ of the searched pictures, {bits} bits"] = posthoc.itq(own, bits)
    heads[f"signs of principal components, {bits} bits"] = posthoc.pca_sign(learnt, bits)
    heads[f"LSH, {bits} bits"] = posthoc.lsh(learnt, bits)
    found: list[Representation] = []
    for name, head in heads.items():
        codes = binarize((of_test - head.mean.numpy()) @ head.directions.numpy().T)
        found.append(Representation(name, codes, codes, bits))
    first = found[0]
    vectors = {"query_vectors": of_test, "gallery_vectors": of_test, "valid": valid}
    return [*found, TwoStage(f"{first.name}, two-stage 100", first.queries, first.gallery, bits, **vectors, within=100)]


if __name__ == "__main__":
    sys.exit(main())
