"""A new index: the flags that say what it holds, the model whose codes are fitted where none is named, and its place on disk."""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hashret.cli.options import counted, positive
from hashret.errors import ModelError, UsageError

if TYPE_CHECKING:
    from hashret.cli.fitting import Fitted
    from hashret.encoding import Encoded
    from hashret.index.store import Store
    from hashret.model.hasher import Hasher
    from hashret.model.projection import Projection

METRICS = ("hamming", "cosine", "both")
FEATURE_DTYPES = ("float32", "float16", "int8")
BACKBONE, WEIGHTS, IMAGE_SIZE = "resnet18", "imagenet", 224
"""What gives features where nothing else is asked for."""
FITTED_DTYPE = "float16"
"""How features are kept that codes were fitted to."""
NETWORK_FLAGS = ("--backbone", "--weights", "--image-size", "--mean", "--std")

OUTGROWN = 4
"""An index that holds more times as many as its codes were fitted to is worth making anew."""

_KINDS = {"hamming": "codes", "cosine": "features"}
"""What an index holds for each metric."""


@dataclasses.dataclass(frozen=True)
class Made:
    """What an index is made of: vectors, what made them, and how the codes were fitted if so."""

    encoded: Encoded
    model: Hasher | Projection
    fitted: Fitted | None

    def lines(self, args: argparse.Namespace) -> list[str]:
        """Where features come from and what was measured of codes that were fitted, for people; nothing without such."""
        if self.fitted is None:
            return []
        config = self.model.config
        source = str(args.embeddings)
        if config["preprocessing"] is not None:
            network, size = config["architecture"], config["preprocessing"]["image_size"]
            source = f"{network['backbone']}, weights {network['weights']}, pictures of {size} px"
        return [f"features: {source}", *self.fitted.lines()]

    def summary(self) -> dict[str, Any]:
        """The same for --json."""
        if self.fitted is None:
            return {}
        architecture = self.model.config["architecture"]
        return {"fitted": {"architecture": architecture, **self.fitted.protocol(), **self.fitted.scores()}}


def add_arguments(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Declare the flags; the group of those for an index without --model."""
    parser.add_argument(
        "--metric",
        choices=METRICS,
        help="hold codes (hamming), float features (cosine) or both (default: hamming, without --model both; with --append and "
        "--sync: as the index)",
    )
    parser.add_argument(
        "--feature-dtype",
        choices=FEATURE_DTYPES,
        help="how float features are kept: float16 takes half of float32, int8 a quarter; search is exact for what is kept "
        "(default: float32, without --model float16; with --append and --sync: as the index)",
    )
    fitted = parser.add_argument_group("without --model")
    fitted.add_argument(
        "--code-size",
        "--code_size",
        type=_code_size,
        metavar="BITS",
        help="auto, or 1 to 1024; auto: the fewest of 64, 128 and 256 that keep enough of the float neighbours (default: auto)",
    )
    fitted.add_argument(
        "--backbone", help=f"any torchvision classification model (default: {BACKBONE}; of --weights RUN its own)"
    )
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
    return fitted


def check(args: argparse.Namespace) -> None:
    """UsageError for flags that do not go together when an index is made."""
    if args.model is not None:
        leave_out(args, (*NETWORK_FLAGS, "--code-size"), "--model brings its own network and code size")
        if args.feature_dtype is not None and args.metric in (None, "hamming"):
            raise UsageError("--feature-dtype is for float features; add --metric cosine or both")
    elif args.metric in ("hamming", "cosine"):
        raise UsageError("an index that is made without --model holds codes and features; leave --metric out")
    if args.weights == "none":
        raise UsageError("--weights none is a network that has learnt nothing; give imagenet, a file or a run")


def typed(args: argparse.Namespace, flags: Sequence[str]) -> list[str]:
    """Those of the flags that were typed."""
    return [flag for flag in flags if _value(args, flag) is not None]


def leave_out(args: argparse.Namespace, flags: Sequence[str], why: str) -> None:
    """UsageError when any of the flags was typed, which says why it should not be."""
    found = typed(args, flags)
    if found:
        raise UsageError(f"{why}; leave out {', '.join(found)}")


def require_made_with(args: argparse.Namespace, hasher: Hasher) -> None:
    """UsageError when flags ask for another network or code size than that of the model that made an index."""
    preprocess = hasher.preprocess
    made_with: dict[str, object] = {
        "--backbone": hasher.network.backbone_name,
        "--weights": args.weights if _are_weights(args.weights, hasher.weights) else hasher.weights,
        "--image-size": preprocess.image_size,
        "--mean": list(preprocess.mean),
        "--std": list(preprocess.std),
        "--code-size": hasher.code_size,
    }
    for flag in typed(args, list(made_with)):
        if _value(args, flag) != made_with[flag]:
            asked, was = (_text(value) for value in (_value(args, flag), made_with[flag]))
            raise UsageError(
                f"{args.out} was made with {flag} {was}, not {asked}; leave {flag} out, or make a new index"
            )


def metrics(args: argparse.Namespace) -> list[str]:
    """What a new index can be searched by."""
    if args.model is None or args.metric == "both":
        return ["hamming", "cosine"]
    return [args.metric or "hamming"]


def kinds(metrics: Sequence[str]) -> list[str]:
    """What pictures are encoded to for an index of these metrics."""
    return [kind for metric, kind in _KINDS.items() if metric in metrics]


def pretrained(args: argparse.Namespace) -> Hasher:
    """A network whose codes are still to be fitted."""
    from hashret.model.hasher import build

    weights = args.weights or WEIGHTS
    network = _network_of(weights)
    for name in ("backbone", "image_size"):
        network[name] = getattr(args, name) or network[name]
    try:
        return build(
            code_size=1, weights=weights, head="projection", mean=args.mean, std=args.std, device=args.device, **network
        )
    except ModelError as error:
        if weights != "imagenet":
            raise
        # What went wrong stands before the semicolon; what to do about it differs from training.
        raise ModelError(
            f"{str(error).partition('; ')[0]}; give --weights FILE (a .safetensors or .pth file of the backbone), --embeddings "
            "NPY from any other network, or --model RUN"
        ) from error


def _network_of(weights: str) -> dict[str, Any]:
    """Backbone, and how pictures are shown to it, of a run that is given as weights; else what is taken where none asks."""
    from hashret.model.folder import read_model, resolve_model

    try:
        config = {} if weights == WEIGHTS else read_model(resolve_model(weights))[0]
        shown = {name: config["preprocessing"][name] for name in ("image_size", "resize", "interpolation")}
        mirror = config["preprocessing"].get("mirror", False)
        return {"backbone": config["architecture"]["backbone"], **shown, "mirror": mirror}
    except (ModelError, KeyError, TypeError):  # no run; building the network says what is wrong with other weights
        return {"backbone": BACKBONE, "image_size": IMAGE_SIZE}


def fit(args: argparse.Namespace, encoded: Encoded, hasher: Hasher | None, name: str, noun: str) -> Made:
    """Codes fitted to the features, and the model that makes them from now on.

    hasher: what gave the features, which takes the codes in; None where they were given. name: of what was encoded; noun: of
    one of it.
    """
    from hashret.cli.fitting import fit_codes
    from hashret.model.projection import Projection

    assert encoded.features is not None
    fitted = fit_codes(encoded.features, args.code_size, args.feature_dtype or FITTED_DTYPE, noun)
    model: Hasher | Projection
    if hasher is None:
        model = Projection(fitted.head)
    else:
        hasher.network.use_head(fitted.head)
        model = hasher
    model.protocol, model.scores = {"data": name, **fitted.protocol()}, fitted.scores()
    return Made(dataclasses.replace(encoded, codes=fitted.codes), model, fitted)


def create(folder: Path, args: argparse.Namespace, made: Made) -> Store:
    """An index without rows in a folder that is cleared for it, with the model in it if its codes were fitted."""
    from hashret.index.base import OWN_MODEL
    from hashret.index.store import Store
    from hashret.model.folder import resolve_model

    if made.fitted is None:
        described = described_model(made.model, str(args.model), str(resolve_model(args.model).absolute()))
    else:
        described = described_model(
            made.model, f"ITQ-{made.model.code_size} of {made.model.protocol['data']}", OWN_MODEL
        )
    shutil.rmtree(folder, ignore_errors=True)
    store = Store.create(
        folder,
        code_size=None if made.encoded.codes is None else made.model.code_size,
        dim=None if made.encoded.features is None else made.model.feature_size,
        feature_dtype=args.feature_dtype or ("float32" if made.fitted is None else FITTED_DTYPE),
        model=described,
    )
    if made.fitted is not None:
        made.model.save_pretrained(folder / OWN_MODEL)
    return store


def described_model(model: Hasher | Projection, name: str, path: str) -> dict[str, Any]:
    """What an index says of the model that made its vectors."""
    thresholds, preprocessing = model.config["thresholds"], model.config["preprocessing"]
    return {
        "fingerprint": model.fingerprint(),
        "name": name,
        "path": path,
        "thresholds": thresholds,
        "preprocessing": preprocessing,
    }


def moved(made: Path, out: Path) -> Store:
    """The index that was made elsewhere, now in its place."""
    from hashret.index import durable
    from hashret.index.store import Store

    durable.move_folder(made, out)
    return Store.open(out)


def say_outgrown(model: Hasher | Projection, store: Store, noun: str) -> None:
    """Say on standard error when codes were fitted to few of what the index holds by now."""
    from hashret.training.posthoc import SAMPLE

    fitted_on = model.protocol.get("fitted_on", SAMPLE)
    if fitted_on < SAMPLE and len(store) > OUTGROWN * fitted_on:
        print(
            f"codes were fitted to {counted(fitted_on, noun)}, and the index holds {len(store):,} now; a new index fits them to "
            "all",
            file=sys.stderr,
        )


def _value(args: argparse.Namespace, flag: str) -> Any:
    return getattr(args, flag.removeprefix("--").replace("-", "_"))


def _text(value: object) -> str:
    """A flag's value as it is typed."""
    return " ".join(f"{number:g}" for number in value) if isinstance(value, list) else str(value)


def _are_weights(asked: str | None, label: str) -> bool:
    """Whether a model whose weights are called `label` started from those that --weights names."""
    if asked == "imagenet":
        return label.startswith("IMAGENET")
    return asked is not None and (label == Path(asked).name or label.startswith(f"{asked} ("))


def _code_size(text: str) -> int | None:
    """A number of bits, None for auto."""
    if text == "auto":
        return None
    bits = positive(text)
    if bits > 1024:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected auto or a whole number of bits from 1 to 1024")
    return bits
