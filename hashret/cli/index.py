"""`hashret index`: pictures through a model, or embeddings as they are, into an index on disk."""

from __future__ import annotations

import argparse
import dataclasses
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hashret.cli.options import (
    add_compute_arguments,
    add_data_arguments,
    add_json_argument,
    check_folder_can_be_made,
    counted,
    model_place,
    open_data,
    positive,
    print_json,
)
from hashret.cli.unfinished import encode, kept_until_done, unfinished_beside
from hashret.errors import DataError, ModelError, UsageError

if TYPE_CHECKING:
    from hashret.cli.fitting import Fitted
    from hashret.data.embeddings import Embeddings
    from hashret.data.table import PictureTable
    from hashret.encoding import Encoded
    from hashret.index.store import Store
    from hashret.model.hasher import Hasher
    from hashret.model.projection import Projection

EXAMPLE = """\
Example:  hashret index MYPHOTOS --out my.index
          hashret index cars/ --model runs/cars64 --out cars.index

Encodes every picture and writes a folder with its code and, beside it, its id, path, label and attributes. Without --model no
labels and no training are needed: a network that was trained on ImageNet gives features, codes are fitted to them, and a table
says how well the codes keep the neighbours of the features. With --embeddings the features come from a file instead.
Interrupted encoding goes on where it stopped when the same command is typed again. --append adds pictures to an index, by the
model that made it; a picture whose id is there already is refused, and then nothing is added."""

METRICS = ("hamming", "cosine", "both")
FEATURE_DTYPES = ("float32", "float16", "int8")
BACKBONE, WEIGHTS, IMAGE_SIZE = "resnet18", "imagenet", 224
"""What gives features where nothing else is asked for."""
FITTED_DTYPE = "float16"
"""How features are kept that codes were fitted to."""
KINDS = {"hamming": "codes", "cosine": "features"}
"""What an index holds for each metric."""
OWN_MODEL = "model"
"""Folder in the index that holds the model whose codes were fitted to it."""


@dataclasses.dataclass(frozen=True)
class _Source:
    """What is to be indexed: pictures, embeddings of pictures, or embeddings alone (then `table` may be None)."""

    name: str
    table: PictureTable | None
    embeddings: Embeddings | None


@dataclasses.dataclass(frozen=True)
class _Made:
    """What is written: vectors, what made them, where pictures left out are listed, and how the codes were fitted if so."""

    encoded: Encoded
    model: Hasher | Projection
    skipped_list: Path | None
    fitted: Fitted | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = EXAMPLE
    parser.add_argument("pictures", nargs="?", metavar="PICTURES", help="the pictures, as --data takes them")
    parser.add_argument("--model", metavar="RUN", help="a run or model folder; RUN@3 is its third epoch")
    add_data_arguments(parser, required=False)
    parser.add_argument("--out", required=True, type=Path, metavar="INDEX", help="the index folder to write")
    parser.add_argument("--append", action="store_true", help="add to an index that exists")
    parser.add_argument(
        "--metric",
        choices=METRICS,
        help="hold codes (hamming), float features (cosine) or both (default: hamming, without --model both; with --append: "
        "as the index)",
    )
    parser.add_argument(
        "--feature-dtype",
        choices=FEATURE_DTYPES,
        help="how float features are kept: float16 takes half of float32, int8 a quarter; search is exact for what is kept "
        "(default: float32, without --model float16; with --append: as the index)",
    )
    fitted = parser.add_argument_group("without --model")
    fitted.add_argument(
        "--code-size",
        "--code_size",
        type=_code_size,
        metavar="BITS",
        help="auto, or 1 to 1024; auto: the fewest of 64, 128 and 256 that keep enough of the float neighbours (default: auto)",
    )
    fitted.add_argument("--backbone", help=f"any torchvision classification model (default: {BACKBONE})")
    fitted.add_argument(
        "--weights", metavar="imagenet|FILE|RUN", help=f"where the backbone learnt to see (default: {WEIGHTS})"
    )
    fitted.add_argument(
        "--image-size", type=positive, metavar="PX", help=f"side of the network's input (default: {IMAGE_SIZE})"
    )
    fitted.add_argument(
        "--mean", type=float, nargs=3, metavar=("R", "G", "B"), help="of pixels in 0..1, where the weights do not say"
    )
    fitted.add_argument("--std", type=float, nargs=3, metavar=("R", "G", "B"), help="likewise")
    fitted.add_argument(
        "--embeddings",
        type=Path,
        metavar="NPY",
        help="float vectors of the pictures from anything, one a row, in the order of `hashret data table`; no network is run. "
        "Without pictures they are indexed by number",
    )
    fitted.add_argument("--ids", type=Path, metavar="TXT", help="names for --embeddings without pictures, one a line")
    add_compute_arguments(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Encode and write; nothing is visible in the index before all of it is."""
    _check(args)
    _check_out(args)
    out = args.out.resolve()
    source = _open_source(args)
    store = _store_to_extend(args, source) if args.append else None
    model = _model(args, source, store)
    with kept_until_done(unfinished_beside(out)) as unfinished:
        made = _make(args, source, store, model, unfinished)
        if store is None:
            store = _write_new(args, source, made, out, unfinished)
        else:
            _append(store, source, made)
    _say(args, store, made)
    return 0


def _check(args: argparse.Namespace) -> None:
    """UsageError for flags that do not go together; `args.data` then is what names the pictures, if anything."""
    if args.data is not None and args.pictures is not None:
        raise UsageError(f"the pictures are named twice, {args.pictures} and --data {args.data}; leave one out")
    args.data = args.data or args.pictures
    if args.data is None and args.embeddings is None:
        raise UsageError("no pictures are named; give a folder, a CSV or a zip of them, or --embeddings NPY")
    if args.ids is not None and (args.embeddings is None or args.data is not None):
        raise UsageError("--ids names the rows of --embeddings that come without pictures; leave it out")
    network = ["--backbone", "--weights", "--image-size", "--mean", "--std"]
    if args.embeddings is not None:
        _leave_out(args, [*network, "--model"], "--embeddings are taken as they are, and no network is run")
    if args.append:
        _leave_out(args, [*network, "--code-size"], "--append takes the model that made the index")
    elif args.model is not None:
        _leave_out(args, [*network, "--code-size"], "--model brings its own network and code size")
        if args.feature_dtype is not None and args.metric in (None, "hamming"):
            raise UsageError("--feature-dtype is for float features; add --metric cosine or both")
    elif args.metric in ("hamming", "cosine"):
        raise UsageError("an index that is made without --model holds codes and features; leave --metric out")
    if args.weights == "none":
        raise UsageError("--weights none is a network that has learnt nothing; give imagenet, a file or a run")


def _leave_out(args: argparse.Namespace, flags: list[str], why: str) -> None:
    given = [flag for flag in flags if getattr(args, flag[2:].replace("-", "_")) is not None]
    if given:
        raise UsageError(f"{why}; leave out {', '.join(given)}")


def _check_out(args: argparse.Namespace) -> None:
    """An error when --out cannot be written, before the long work."""
    if args.append:
        from hashret.index.store import Store

        Store.open(args.out)
    elif args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise UsageError(f"{args.out} exists; choose another --out, or add to it with --append")
    check_folder_can_be_made("--out", args.out)


def _metrics(args: argparse.Namespace) -> list[str]:
    """What a new index can be searched by."""
    if args.model is None or args.metric == "both":
        return ["hamming", "cosine"]
    return [args.metric or "hamming"]


def _open_source(args: argparse.Namespace) -> _Source:
    """The table of pictures, the embeddings, or both; DataError when they are not as many."""
    if args.embeddings is None:
        table = open_data(args)
        return _Source(table.name, table, None)

    from hashret.data.embeddings import open_embeddings, read_ids
    from hashret.data.table import PictureTable

    embeddings = open_embeddings(args.embeddings)
    n = len(embeddings)
    if args.data is not None:
        table = open_data(args)
        if len(table) != n:
            raise DataError(
                f"{args.embeddings} holds {counted(n, 'vector')} for {counted(len(table), 'picture')} of {table.name}; "
                "expected one for each, in the order of `hashret data table`"
            )
        return _Source(table.name, table, embeddings)
    if args.ids is None:
        return _Source(args.embeddings.name, None, embeddings)
    blank = [""] * n
    named = PictureTable(ids=read_ids(args.ids, n), paths=blank, labels=blank, splits=blank, name=args.embeddings.name)
    return _Source(named.name, named, embeddings)


def _store_to_extend(args: argparse.Namespace, source: _Source) -> Store:
    """The index to append to, checked before the long work: what it holds, the ids it has."""
    from hashret.index.store import Store

    store = Store.open(args.out)
    wanted = {"hamming", "cosine"} if args.metric == "both" else {args.metric}
    if args.metric is not None and wanted != set(store.metrics):
        raise UsageError(f"{args.out} holds {' and '.join(store.metrics)}; leave --metric out when appending")
    if args.feature_dtype not in (None, store.feature_dtype):
        holds = f"keeps features as {store.feature_dtype}" if store.feature_dtype else "holds no features"
        raise UsageError(f"{args.out} {holds}; leave --feature-dtype out when appending")
    ids = [] if source.table is None else source.table.ids
    here = [name for name, found in zip(ids, store.find(ids).tolist(), strict=True) if found >= 0]
    if here:
        raise UsageError(
            f"{counted(len(here), 'id')} of {source.name} {'is' if len(here) == 1 else 'are'} in {args.out} already, the "
            f"first is {here[0]!r}, so nothing was added; index only new pictures, or give them other ids in a table "
            "(hashret data table)"
        )
    return store


def _model(args: argparse.Namespace, source: _Source, store: Store | None) -> Hasher | Projection | None:
    """What makes codes or, where they are still to be fitted, features; None where those are given.

    With --append it is the model that made the index, or one with the same fingerprint.
    """
    from hashret.model.hasher import Hasher
    from hashret.model.projection import Projection

    if store is None and args.model is None:
        return None if source.embeddings is not None else _pretrained(args)
    where = args.model if store is None else model_place(args.out, store.model, args.model)
    model = (
        Hasher.from_pretrained(where, device=args.device)
        if source.embeddings is None
        else Projection.from_pretrained(where)
    )
    if store is not None:
        store.check_model(model.fingerprint())
    return model


def _pretrained(args: argparse.Namespace) -> Hasher:
    """A network whose codes are still to be fitted."""
    from hashret.model.hasher import build

    weights = args.weights or WEIGHTS
    try:
        return build(
            args.backbone or BACKBONE,
            1,
            weights=weights,
            image_size=args.image_size or IMAGE_SIZE,
            head="projection",
            mean=args.mean,
            std=args.std,
            device=args.device,
        )
    except ModelError as error:
        if weights != "imagenet":
            raise
        # What went wrong stands before the semicolon; what to do about it differs from training.
        raise ModelError(
            f"{str(error).partition('; ')[0]}; give --weights FILE (a .safetensors or .pth file of the backbone), --embeddings "
            "NPY from any other network, or --model RUN"
        ) from error


def _make(
    args: argparse.Namespace,
    source: _Source,
    store: Store | None,
    model: Hasher | Projection | None,
    unfinished: Path,
) -> _Made:
    """Codes and features as the index is to hold them; codes are fitted where no model brings its own."""
    from hashret.model.projection import Projection

    fits = store is None and args.model is None
    metrics = _metrics(args) if store is None else store.metrics
    what = ["features"] if fits else [kind for metric, kind in KINDS.items() if metric in metrics]
    encoded, skipped_list = _encoded(args, source, model, what, unfinished)
    fitted = None
    if fits:
        from hashret.cli.fitting import fit_codes

        assert encoded.features is not None
        fitted = fit_codes(encoded.features, args.code_size, args.feature_dtype or FITTED_DTYPE, _noun(args))
        encoded = dataclasses.replace(encoded, codes=fitted.codes)
        if model is None:
            model = Projection(fitted.head)
        else:
            assert not isinstance(model, Projection)
            model.network.use_head(fitted.head)
        model.protocol, model.scores = {"data": source.name, **fitted.protocol()}, fitted.scores()
    assert model is not None
    return _Made(encoded, model, skipped_list, fitted)


def _encoded(
    args: argparse.Namespace, source: _Source, model: Hasher | Projection | None, what: list[str], unfinished: Path
) -> tuple[Encoded, Path | None]:
    """`what` of every picture or vector, and where pictures left out are listed, None without any."""
    import numpy as np

    from hashret.encoding import Encoded
    from hashret.model.hasher import Hasher

    if isinstance(model, Hasher):
        assert source.table is not None
        out = args.out.resolve()
        listed = out.with_name(out.name + ".skipped.txt")
        return encode(args, model, source.table, what, unfinished, listed, "nothing was indexed")
    features: Any = source.embeddings
    codes = None if model is None else model.encode(features)
    return Encoded(np.arange(len(features)), codes, features, None, []), None


def _write_new(args: argparse.Namespace, source: _Source, made: _Made, out: Path, workplace: Path) -> Store:
    """A new index, made in `workplace` and moved to `out` when it is whole, with the model in it if that was fitted."""
    from hashret.index import durable
    from hashret.index.store import Store
    from hashret.model.folder import resolve_model

    if made.fitted is None:
        named = {"name": str(args.model), "path": str(resolve_model(args.model).absolute())}
    else:
        named = {"name": f"ITQ-{made.fitted.code_size} of {source.name}", "path": OWN_MODEL}
    place = workplace / "index"
    shutil.rmtree(place, ignore_errors=True)
    store = Store.create(
        place,
        code_size=None if made.encoded.codes is None else made.model.code_size,
        dim=None if made.encoded.features is None else made.model.feature_size,
        feature_dtype=args.feature_dtype or ("float32" if made.fitted is None else FITTED_DTYPE),
        model={"fingerprint": made.model.fingerprint(), **named},
    )
    _append(store, source, made)
    if made.fitted is not None:
        made.model.save_pretrained(place / OWN_MODEL)
    if out.exists():
        out.rmdir()
    place.rename(out)
    durable.flush(out.parent)
    return Store.open(out)


def _append(store: Store, source: _Source, made: _Made) -> None:
    """Commit what was made to an index."""
    encoded = made.encoded
    records = None if source.table is None else source.table.select(encoded.rows).records()
    store.append(encoded.codes, encoded.features, records=records)


def _say(args: argparse.Namespace, store: Store, made: _Made) -> None:
    """Print what was written, and what was measured of codes that were fitted."""
    added = len(made.encoded)
    if args.json:
        summary = {
            "index": args.out,
            "added": added,
            "skipped": len(made.encoded.skipped),
            "skipped_list": made.skipped_list,
            "pictures": len(store),
            "metrics": store.metrics,
            "code_size": store.code_size,
            "dim": store.dim,
        }
        if made.fitted is not None:
            architecture = made.model.config["architecture"]
            summary["fitted"] = {"architecture": architecture, **made.fitted.protocol(), **made.fitted.scores()}
        print_json(summary)
        return
    if made.fitted is not None:
        print("\n".join([_features(args, made), *made.fitted.lines()]))
    kept = "" if store.feature_dtype == "float32" else f"{store.feature_dtype} "
    holds = {"hamming": f"codes of {store.code_size} bits", "cosine": f"features of {store.dim} {kept}numbers"}
    what_it_holds = " and ".join(holds[metric] for metric in store.metrics)
    print(f"{args.out}: {counted(added, _noun(args))} added, {len(store):,} in all, {what_it_holds}")


def _features(args: argparse.Namespace, made: _Made) -> str:
    """Where features come from, in words."""
    from hashret.model.hasher import Hasher

    if not isinstance(made.model, Hasher):
        return f"features: {args.embeddings}"
    network = made.model.network
    return f"features: {network.backbone_name}, weights {made.model.weights}, pictures of {network.image_size} px"


def _noun(args: argparse.Namespace) -> str:
    return "vector" if args.data is None else "picture"


def _code_size(text: str) -> int | None:
    """A number of bits, None for auto."""
    if text == "auto":
        return None
    bits = positive(text)
    if bits > 1024:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected auto or a whole number of bits from 1 to 1024")
    return bits
