"""The Hasher: a trained network with its preprocessing, from pictures to codes, logits and features."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

import hashret
from hashret import codes, images
from hashret.errors import ModelError, UsageError
from hashret.model import folder as model_folder
from hashret.model import weights as weight_sources
from hashret.model.backbones import SMALL_PICTURE_PX, check_image_size, has_small_stem
from hashret.model.classifier import Classifier
from hashret.model.device import pick_device
from hashret.model.heads import HashHead
from hashret.model.network import HashNet
from hashret.model.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess

_log = logging.getLogger("hashret.model")

Picture: TypeAlias = str | Path | Image.Image
Pictures: TypeAlias = Picture | Sequence[Picture] | torch.Tensor


class Outputs(NamedTuple):
    """What the network makes of a batch, float32 on its device: logits (N, K), features (N, F) of length 1, class scores.

    scores: probabilities (N, C), None of a model without a classifier.
    """

    logits_NK: torch.Tensor
    features_NF: torch.Tensor
    scores_NC: torch.Tensor | None


class Hasher:
    """Pictures to binary codes.

    What goes in: a path, a PIL image, a sequence of either, or a tensor (N, 3, H, W). A uint8 tensor holds RGB pictures and
    is preprocessed like a file; a floating-point tensor is taken as preprocessed already. Work is done in batches, in eval
    mode, without gradients; the network's mode is put back afterwards. Errors: ImageError names the picture that cannot be
    read, UsageError an input that is none of these.

    `network` (HashNet), `preprocess` and `thresholds` (float32 (code_size,), or None for 0) decide the codes; `protocol` and
    `scores` are dictionaries that travel along in config.json, `weights` says what the training started from. `classifier` is
    there where training had one that was to be kept: it gives `class_scores`, and no code depends on it.
    """

    def __init__(
        self,
        network: HashNet,
        preprocess: Preprocess,
        *,
        thresholds: npt.ArrayLike | None = None,
        protocol: Mapping[str, Any] | None = None,
        scores: Mapping[str, Any] | None = None,
        weights: str = "none",
        classifier: Classifier | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.network = network
        self.classifier = classifier
        self.preprocess = preprocess
        self.thresholds: npt.NDArray[np.float32] | None = None
        if thresholds is not None:
            self.thresholds = np.array(thresholds, dtype=np.float32)
            if self.thresholds.shape != (network.code_size,) or not np.isfinite(self.thresholds).all():
                raise UsageError(
                    f"thresholds have shape {self.thresholds.shape}; expected {network.code_size} finite numbers, one a bit"
                )
        self.protocol: dict[str, Any] = dict(protocol or {})
        self.scores: dict[str, Any] = dict(scores or {})
        self.weights = weights
        self.to(device)

    @property
    def code_size(self) -> int:
        """Bits in a code."""
        return self.network.code_size

    @property
    def feature_size(self) -> int:
        """Numbers in a feature vector."""
        return self.network.feature_size

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    @property
    def config(self) -> dict[str, Any]:
        """What config.json says: a new dictionary at every call."""
        network, head = self.network, self.network.head
        # Versions 1 and 2 know none of these, and their readers no model with any of them.
        added: dict[str, Any] = {"pooling": network.pooling} if network.pooling != "average" else {}
        added |= {"projection": network.project} if network.project else {}
        newest = added or self.classifier is not None
        version = 3 if newest else 1 if isinstance(head, HashHead) and not self.preprocess.mirror else 2
        described: dict[str, Any] = (
            {"activation": {"name": head.activation, "beta": head.beta}}
            if isinstance(head, HashHead)
            else {"head": {"kind": "projection"}}
        )
        return {
            "format": model_folder.FORMAT,
            "format_version": version,
            "hashret_version": hashret.__version__,
            "architecture": {
                "backbone": network.backbone_name,
                "stem": network.stem,
                **added,
                "feature_size": self.feature_size,
                "weights": self.weights,
            },
            "code_size": self.code_size,
            **described,
            **({} if self.classifier is None else {"classifier": self.classifier.config}),
            # float32 as the shortest decimal that reads back to the same float32.
            "thresholds": None if self.thresholds is None else [float(str(value)) for value in self.thresholds],
            "preprocessing": self.preprocess.as_dict(),
            "protocol": dict(self.protocol),
            "scores": dict(self.scores),
        }

    @property
    def class_names(self) -> list[str]:
        """The classes that `class_scores` are of. ModelError for a model that has no classifier."""
        return list(self._classifier().class_names)

    def with_network(self, network: HashNet) -> Hasher:
        """A Hasher like this one with another network of the same shape, on that network's device; without a classifier."""
        return Hasher(
            network,
            self.preprocess,
            thresholds=self.thresholds,
            protocol=self.protocol,
            scores=self.scores,
            weights=self.weights,
            device=next(network.parameters()).device,
        )

    def to(self, device: str | torch.device) -> Hasher:
        """This Hasher, with its network on `device` ("auto", "cpu", "cuda", "cuda:1", "mps")."""
        self.network.to(pick_device(device))
        if self.classifier is not None:
            self.classifier.layer.to(self.device)
        return self

    def encode(self, pictures: Pictures, batch_size: int = 32) -> npt.NDArray[np.uint8]:
        """Packed codes, uint8 (N, ceil(code_size / 8)): bit i is 1 exactly when logit i > threshold i."""
        return codes.binarize(self.embed(pictures, batch_size), self.thresholds)

    def embed(self, pictures: Pictures, batch_size: int = 32) -> npt.NDArray[np.float32]:
        """Logits, float32 (N, code_size): the head before its activation."""
        return self.run(pictures, batch_size)[0]

    def features(self, pictures: Pictures, batch_size: int = 32) -> npt.NDArray[np.float32]:
        """Features of length 1 (L2), float32 (N, feature_size); a zero vector stays zero."""
        return self.run(pictures, batch_size)[1]

    def class_scores(self, pictures: Pictures, batch_size: int = 32) -> npt.NDArray[np.float32]:
        """Probabilities, float32 (N, C), of the classes `class_names`: softmax or sigmoid, as the model was trained.

        With `preprocess.mirror`, of the mean of what the classifier gives a picture and its mirror image. ModelError for a
        model that has no classifier.
        """
        scores_NC = [np.empty((0, len(self.class_names)), np.float32)]
        for batch in self._batches(pictures, batch_size):
            found = self.outputs(batch).scores_NC
            assert found is not None
            scores_NC.append(found.cpu().numpy())
        return np.concatenate(scores_NC)

    def run(self, pictures: Pictures, batch_size: int = 32) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """What `embed` and `features` give, from running the network once."""
        logits_NK = [np.empty((0, self.code_size), np.float32)]
        features_ND = [np.empty((0, self.feature_size), np.float32)]
        for batch in self._batches(pictures, batch_size):
            logits, features = self.run_batch(batch)
            logits_NK.append(logits.cpu().numpy())
            features_ND.append(features.cpu().numpy())
        return np.concatenate(logits_NK), np.concatenate(features_ND)

    def run_batch(self, pictures_NCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and features of `outputs`."""
        logits_NK, features_ND, _ = self.outputs(pictures_NCHW)
        return logits_NK, features_ND

    def outputs(self, pictures_NCHW: torch.Tensor) -> Outputs:
        """All that the network, and the classifier where there is one, make of one batch.

        uint8 (N, 3, S, S) must have the network's picture size already (`Preprocess.pixels`) and is normalised here, on the
        device; a floating-point batch is taken as it is.
        """
        # Only those in training are switched: eval() and train() of a whole network take a millisecond for every batch.
        training = [module for module in self.network.modules() if module.training]
        for module in training:
            module.training = False
        try:
            with torch.inference_mode():
                batch = pictures_NCHW.to(self.device, non_blocking=True)
                batch = self.preprocess.normalise(batch) if batch.dtype == torch.uint8 else batch.to(torch.float32)
                logits_NK, features_ND, scores_NC = self._seen(batch)
                if self.preprocess.mirror:
                    mirrored_NK, mirrored_ND, mirrored_NC = self._seen(batch.flip(-1))
                    logits_NK, features_ND = (logits_NK + mirrored_NK) / 2, features_ND + mirrored_ND
                    features_ND = torch.nn.functional.normalize(features_ND, dim=1)
                    if scores_NC is not None and mirrored_NC is not None:
                        scores_NC = (scores_NC + mirrored_NC) / 2
                if scores_NC is not None:
                    scores_NC = self._classifier().probabilities_of(scores_NC)
                return Outputs(logits_NK, features_ND, scores_NC)
        finally:
            for module in training:
                module.training = True

    def _seen(self, batch_NCHW: torch.Tensor) -> Outputs:
        """Logits, L2-normalised features and what the classifier gives a batch as it is, before it is made probabilities."""
        logits_NK, features_ND = (output.float() for output in self.network(batch_NCHW))
        scores_NC = None
        if self.classifier is not None:
            read = features_ND if self.classifier.through == "features" else self.network.activate(logits_NK)
            with torch.autocast(self.device.type, enabled=False):
                scores_NC = self.classifier.layer(read)
        return Outputs(logits_NK, torch.nn.functional.normalize(features_ND, dim=1), scores_NC)

    def _classifier(self) -> Classifier:
        if self.classifier is None:
            raise ModelError(
                "the model has no classifier, so it gives no class scores; train one with --objective classification or "
                "multilabel"
            )
        return self.classifier

    def fingerprint(self) -> str:
        """sha256 in hex over everything that decides codes and features, and nothing else: see `folder.fingerprint`.

        An index carries it, so that another model's queries are refused.
        """
        return model_folder.fingerprint(self.config, self.network.state_dict())

    def save_pretrained(self, folder: str | Path) -> Path:
        """The folder, now holding config.json and model.safetensors; an old model there is replaced all or nothing.

        Other files in it stay. ModelError if it cannot be written.
        """
        try:
            model_folder.write_model(Path(folder), self.config, self._tensors())
        except (TypeError, ValueError) as error:
            raise ModelError(f"protocol and scores must be plain JSON values ({error})") from error
        return Path(folder)

    @classmethod
    def from_pretrained(
        cls, spec: str | Path, *, device: str | torch.device = "auto", runs: str | Path = "runs"
    ) -> Hasher:
        """The Hasher that `spec` names: a model folder, a run, or RUN@3 for its third epoch (see `resolve_model`).

        In eval mode, on `device`; torch's random state is left alone. ModelError for a missing or damaged model.
        """
        where = model_folder.resolve_model(spec, runs)
        config, tensors = model_folder.read_model(where)
        hasher = _from_config(where, config)
        wanted = hasher._tensors()
        model_folder.check_tensors(where, wanted, tensors)
        weight_sources.copy_tensors(tensors, wanted)
        hasher.network.eval()
        return hasher.to(device)

    def _tensors(self) -> dict[str, torch.Tensor]:
        """The tensors of a model's file: the network's, and the classifier's."""
        return {**self.network.state_dict(), **({} if self.classifier is None else self.classifier.tensors)}

    def _batches(self, pictures: Pictures, batch_size: int) -> Iterator[torch.Tensor]:
        if batch_size < 1:
            raise UsageError(f"batch_size is {batch_size}; it must be at least 1")
        if isinstance(pictures, torch.Tensor):
            yield from self._tensor_batches(pictures, batch_size)
            return
        several = [pictures] if isinstance(pictures, str | Path | Image.Image) else pictures
        if not isinstance(several, Sequence):
            raise UsageError(
                f"pictures are a {type(pictures).__name__}; give paths, PIL images, or a tensor (N, 3, H, W)"
            )
        for start in range(0, len(several), batch_size):
            yield torch.stack(
                [self.preprocess.pixels(_open(picture)) for picture in several[start : start + batch_size]]
            )

    def _tensor_batches(self, pictures: torch.Tensor, batch_size: int) -> Iterator[torch.Tensor]:
        batch_NCHW = pictures.unsqueeze(0) if pictures.ndim == 3 else pictures
        numeric = pictures.dtype == torch.uint8 or pictures.is_floating_point()
        if batch_NCHW.ndim != 4 or batch_NCHW.shape[1] != 3 or not numeric:
            raise UsageError(
                f"the tensor of pictures is {pictures.dtype} of shape {tuple(pictures.shape)}; expected (N, 3, H, W), uint8 "
                "for pictures or floating point for preprocessed ones"
            )
        for start in range(0, len(batch_NCHW), batch_size):
            batch = batch_NCHW[start : start + batch_size]
            if batch.dtype == torch.uint8:
                arrays = batch.permute(0, 2, 3, 1).contiguous().cpu().numpy()
                yield torch.stack([self.preprocess.pixels(Image.fromarray(array)) for array in arrays])
            else:
                yield batch


def build(
    backbone: str = "resnet18",
    code_size: int = 64,
    *,
    weights: str | Path = "none",
    image_size: int = 224,
    pooling: str = "average",
    project: int = 0,
    activation: str = "tanh",
    beta: float = 1.0,
    head: str = "hash",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    resize: str = "squash",
    interpolation: str = "bilinear",
    mirror: bool = False,
    stem: str = "auto",
    device: str | torch.device = "cpu",
    runs: str | Path = "runs",
) -> Hasher:
    """A Hasher ready to train: the named backbone, a new head, and the preprocessing that fits the weights.

    `head` "projection" is for codes that are fitted to features afterwards (hashret.training.posthoc).

    `weights` is "none" (random, from torch's generator), "imagenet" (torchvision's), a .safetensors or .pth file, or a hashret
    model (folder, run, RUN@3), whose head is kept if it has the same code size. What was loaded and what was not is logged
    (logger "hashret.model", INFO). `mean` and `std` are needed where a file does not state them, and win where it does.
    `stem` "auto" takes the small-picture stem for pictures of 64 px and under when the weights are "none"; given weights
    keep the stem they were trained with. `pooling` "gem" and `project` (numbers of a feature vector, 0 for what is pooled) start
    anew, but from a model that has the same. UsageError for options that cannot be, ModelError for weights that cannot be had.
    """
    source, start_model = str(weights), None
    if source not in ("none", "imagenet") and not _is_weights_file(source):
        where = model_folder.resolve_model(source, runs)
        start_model = (where, *model_folder.read_model(where))
    if stem == "auto":
        if start_model is not None:
            stem = _stored_stem(start_model[1])
        else:
            small = image_size <= SMALL_PICTURE_PX and source == "none" and has_small_stem(backbone)
            stem = "small" if small else "standard"
    network = HashNet(
        backbone,
        code_size,
        image_size=image_size,
        stem=stem,
        pooling=pooling,
        project=project,
        activation=activation,
        beta=beta,
        head=head,
        initialise=source == "none",
    )
    stated: weight_sources.Normalisation | None = None
    label = source
    if source == "none":
        stated = IMAGENET_MEAN, IMAGENET_STD
    elif source == "imagenet":
        tensors, stated, label = weight_sources.imagenet_tensors(backbone)
        _load(network, tensors, label)
    elif start_model is not None:
        where, config, tensors = start_model
        label = f"{source} ({config.get('hashret_version', 'unknown version')})"
        stated = _start_from_model(network, where, config, tensors)
    else:
        file = Path(source)
        label = file.name
        tensors, metadata = weight_sources.read_tensors(file)
        stated = weight_sources.normalisation_of(metadata, file)
        if (mean is None or std is None) and stated is None:
            raise UsageError(
                f"{file.name} does not say how its pictures were normalised; give --mean and --std (three numbers each for "
                "pixels in 0..1: torchvision's weights have --mean 0.485 0.456 0.406 --std 0.229 0.224 0.225, networks fed "
                "with x/127.5-1 have --mean 0.5 0.5 0.5 --std 0.5 0.5 0.5)"
            )
        _load(network, tensors, file.name)
    chosen_mean = mean if mean is not None or stated is None else stated[0]
    chosen_std = std if std is not None or stated is None else stated[1]
    if chosen_mean is None or chosen_std is None:
        raise UsageError("the weights do not say how their pictures were normalised; give --mean and --std")
    preprocess = Preprocess(image_size, resize, interpolation, tuple(chosen_mean), tuple(chosen_std), mirror)  # type: ignore[arg-type]
    check_image_size(backbone, network.backbone, network.pooled_size, image_size)
    if stem == "small":
        _log.info("%s has the stem for small pictures (%d px)", backbone, image_size)
    return Hasher(network, preprocess, weights=label, device=device)


def _is_weights_file(source: str) -> bool:
    """Whether `source` means a file of tensors, there or not, rather than a model folder or a run."""
    return Path(source).is_file() or Path(source).suffix in (".safetensors", ".pth", ".pt", ".bin")


def _load(network: HashNet, tensors: dict[str, torch.Tensor], source: str) -> None:
    weight_sources.load_backbone(
        network.backbone,
        tensors,
        name=network.backbone_name,
        classifier=network.classifier,
        source=source,
        fresh=network.fresh_in_backbone,
    )


def _start_from_model(
    network: HashNet, where: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor]
) -> weight_sources.Normalisation:
    """(mean, std) of model `where`, whose tensors are in `network` now; its projection and head too, if they are of one size."""
    stored = _from_config(where, config)
    if stored.network.backbone_name != network.backbone_name:
        raise UsageError(
            f"{where} has the backbone {stored.network.backbone_name}, not {network.backbone_name}; give --backbone "
            f"{stored.network.backbone_name}"
        )
    _load(network, _part(tensors, "backbone."), str(where))
    same_features = stored.network.project == network.project
    if network.projection is not None and same_features:
        network.projection.load_state_dict(_part(tensors, "projection."))
    elif not same_features:
        theirs, ours = (
            f"projects to {each}" if each else "does not project" for each in (stored.network.project, network.project)
        )
        _log.info("%s %s, this network %s: what comes after the backbone starts at random", where, theirs, ours)
        return stored.preprocess.mean, stored.preprocess.std
    if not isinstance(network.head, HashHead):
        return stored.preprocess.mean, stored.preprocess.std  # its codes are fitted anew
    if not isinstance(stored.network.head, HashHead):
        _log.info("the codes of %s were fitted to features; a new hash head starts at random", where)
    elif stored.code_size == network.code_size:
        network.head.load_state_dict(_part(tensors, "head."))
        _log.info("the hash head of %s was loaded, %d bits", where, network.code_size)
    else:
        _log.info(
            "the hash head of %s has %d bits; a new one of %d starts at random",
            where,
            stored.code_size,
            network.code_size,
        )
    return stored.preprocess.mean, stored.preprocess.std


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors whose names begin with the prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _stored_stem(config: dict[str, Any]) -> str:
    architecture = config.get("architecture")
    return str(architecture.get("stem", "standard")) if isinstance(architecture, dict) else "standard"


def _from_config(where: Path, config: dict[str, Any]) -> Hasher:
    """A Hasher of the shape that `config` describes, its tensors still random; ModelError for a config that is wrong."""
    file = where / model_folder.CONFIG_NAME
    version = model_folder.check_format(where, config)
    try:
        architecture = config["architecture"]
        if version > 1 and architecture["backbone"] is None:
            raise ModelError(
                f"{where} makes codes of embeddings and has no network that takes pictures; give it embeddings (--embedding, "
                "--embeddings)"
            )
        head = config.get("head", {"kind": "hash"})["kind"] if version > 1 else "hash"
        activation: dict[str, Any] = config["activation"] if head == "hash" else {"name": "tanh", "beta": 1.0}
        preprocess = Preprocess.from_dict(config["preprocessing"])
        # Starting values are overwritten: torch's random state must not move for them.
        with torch.random.fork_rng(devices=[]):
            network = HashNet(
                architecture["backbone"],
                config["code_size"],
                image_size=preprocess.image_size,
                stem=architecture["stem"],
                pooling=architecture.get("pooling", "average") if version > 2 else "average",
                project=architecture.get("projection", 0) if version > 2 else 0,
                activation=activation["name"],
                beta=float(activation["beta"]),
                head=head,
                initialise=False,
            )
            classifier = None
            if version > 2 and "classifier" in config:
                through = config["classifier"]["through"]
                width = network.feature_size if through == "features" else network.code_size
                classifier = Classifier.from_config(config["classifier"], width)
        return Hasher(
            network,
            preprocess,
            thresholds=config["thresholds"],
            protocol=config["protocol"],
            scores=config["scores"],
            weights=str(architecture["weights"]),
            classifier=classifier,
        )
    except KeyError as error:
        raise ModelError(f"{file} has no key {error.args[0]!r}; copy the model again") from error
    except (UsageError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"{file} cannot be used ({str(error).rstrip('.')}); copy the model again") from error


def _open(picture: object) -> Image.Image:
    if isinstance(picture, str | Path):
        return images.read_picture(picture)
    if isinstance(picture, Image.Image):
        return images.to_rgb(picture)
    raise UsageError(f"a picture is a {type(picture).__name__}; give paths, PIL images, or a tensor (N, 3, H, W)")
