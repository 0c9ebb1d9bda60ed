"""The optimizer as one text: what it says, what it refuses, and the rates that it leads to."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY, make_pictures
from torch import nn

from hashret.errors import UsageError
from hashret.model.folder import read_model
from hashret.training.optimizer_spec import OPTIMIZERS, parse
from hashret.training.optimizers import build_optimizer, build_schedule
from hashret.training.options import TrainingOptions

WRITTEN = "adam_inverse_sqrt,beta1=0.9,beta2=0.98"


def test_what_a_text_says() -> None:
    spec = parse(" adam_inverse_sqrt, beta1=0.8 ,beta2=0.98,lr=5e-4")
    assert spec.name == "adam_inverse_sqrt" and spec.given == {"lr": 5e-4} and spec.warmup_updates == 4000
    assert spec.settings == {"beta1": 0.8, "beta2": 0.98, "eps": 1e-8, "warmup_updates": 4000, "warmup_init_lr": 1e-7}
    for name, settings in OPTIMIZERS.items():
        assert parse(name).settings == settings and not parse(name).given
    assert parse("adamw").warmup_updates == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--optimizer is ''; choose one of adamw, adam, sgd, adam_inverse_sqrt"),
        ("rmsprop", "--optimizer is 'rmsprop'; choose one of"),
        ("lr=1e-3", "--optimizer is 'lr=1e-3'; choose one of"),
        ("adam,", "has '' after adam, expected one of lr, weight_decay, beta1, beta2, eps"),
        ("adam,beta1", "has 'beta1' after adam"),
        ("adam,momentum=0.9", "has 'momentum=0.9' after adam"),
        ("sgd,beta1=0.9", "has 'beta1=0.9' after sgd, expected one of lr, weight_decay, momentum"),
        ("adam,warmup_updates=10", "has 'warmup_updates=10' after adam"),
        ("adam,beta1=0.9,beta1=0.8", "gives beta1 twice"),
        ("adam,beta1=", "has beta1=, expected a number: at least 0 and below 1"),
        ("adam,beta1=1", "has beta1=1, expected a number: at least 0 and below 1"),
        ("adam,beta2=nan", "has beta2=nan"),
        ("adam,lr=0", "has lr=0, expected a number: above 0"),
        ("adam,lr=inf", "has lr=inf"),
        ("adam,eps=-1e-8", "has eps=-1e-8"),
        ("adam,weight_decay=-1", "has weight_decay=-1, expected a number: at least 0"),
        ("adam_inverse_sqrt,warmup_updates=0", "expected a number: a whole number from 1"),
        ("adam_inverse_sqrt,warmup_updates=2.5", "expected a number: a whole number from 1"),
        ("adam_inverse_sqrt,warmup_updates=inf", "expected a number: a whole number from 1"),
        ("adam_inverse_sqrt,warmup_init_lr=-1", "has warmup_init_lr=-1"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        TrainingOptions(optimizer=text)
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_rate_and_decay_of_the_text_are_those_of_the_run() -> None:
    options = TrainingOptions(optimizer="sgd,lr=0.1,weight_decay=0,momentum=0")
    assert (options.lr, options.weight_decay) == (0.1, 0.0)
    assert TrainingOptions.from_dict(json.loads(json.dumps(options.as_dict()))) == options
    assert replace(options, device="cpu").lr == 0.1
    assert TrainingOptions(optimizer="adam,lr=0.1", lr=0.1).lr == 0.1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "adam,lr=1e-2", "lr": 1e-1}, "--lr is given, and --optimizer decides it: its text has lr=0.01"),
        ({"optimizer": "adam,weight_decay=0", "weight_decay": 1.0}, "--weight-decay is given"),
        (
            {"optimizer": WRITTEN, "schedule": "step"},
            "--schedule is given, and --optimizer decides it: adam_inverse_sqrt warms",
        ),
        ({"optimizer": WRITTEN, "warmup": 2.0}, "--warmup is given"),
        ({"optimizer": WRITTEN, "step_epochs": 3}, "--step-epochs is given"),
    ],
)
def test_nothing_is_said_twice(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as refused:
        TrainingOptions(**settings)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("text", "kind", "settings"),
    [
        ("adamw,beta1=0.5", torch.optim.AdamW, {"betas": (0.5, 0.999), "eps": 1e-8, "weight_decay": 1e-4}),
        ("adam,eps=1e-6,weight_decay=0.1", torch.optim.Adam, {"betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.1}),
        (WRITTEN, torch.optim.Adam, {"betas": (0.9, 0.98)}),
        ("sgd", torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        ("sgd,momentum=0", torch.optim.SGD, {"momentum": 0.0, "nesterov": False}),
    ],
)
def test_the_optimizer_that_is_built(text: str, kind: type, settings: dict[str, Any]) -> None:
    made = build_optimizer(TrainingOptions(optimizer=text), nn.Sequential(nn.Linear(2, 2)), [])
    assert type(made) is kind
    assert {name: made.param_groups[0][name] for name in settings} == settings


def test_rates_rise_linearly_and_fall_with_the_root_of_the_updates() -> None:
    options = TrainingOptions(
        optimizer="adam_inverse_sqrt,lr=0.2,warmup_updates=5,warmup_init_lr=0.1", head_lr_factor=3.0
    )
    optimizer = build_optimizer(options, nn.Sequential(nn.Linear(2, 2)), nn.Linear(2, 2).parameters())
    schedule = build_schedule(optimizer, options, steps_an_epoch=3)
    rates = []
    for _ in range(12):
        rates.append(schedule.get_last_lr())
        optimizer.step()
        schedule.step()
    expected = []
    rate, step = 0.1, (0.2 - 0.1) / 5
    for update in range(12):  # as the sources write it: one update after the other
        if update <= 5:
            expected.append(rate)
            rate += step
        else:
            expected.append(0.2 * math.sqrt(5) / math.sqrt(update))
    assert [each[0] for each in rates] == pytest.approx(expected)
    assert [each[1] for each in rates] == pytest.approx([3 * each for each in expected])


def test_the_source_tasks_command_as_it_is_spelled(hashret: Callable[..., Any], tmp_path: Path) -> None:
    pictures = make_pictures(tmp_path / "hues", classes=4)
    tiny = [word for word in TINY if word not in ("--code-size", "16", "--lr", "1e-3")]
    status, _, err = hashret(
        "train", "--exp_name", "X", "--code_size", 64, "--triplet_margin", 8, "--dataset_name", pictures, "--optimizer",
        WRITTEN, "--runs", tmp_path / "runs", *tiny,
    )  # fmt: skip
    assert status == 0, err
    run = json.loads((tmp_path / "runs" / "X" / "run.json").read_text())
    assert (run["options"]["optimizer"], run["options"]["margin"], run["options"]["code_size"]) == (WRITTEN, 8, 64)
    assert "the learning rate reaches 1.1e-06 of 0.001" in err.replace("\n", " ")


def test_a_run_goes_on_exactly(
    hashret: Callable[..., Any], ctrl_c_after: Callable[[int], None], closed_set: Path, tmp_path: Path
) -> None:
    words = [
        *("train", "--data", closed_set, *TINY, "--runs", tmp_path, "--objective", "classification", "--dropout", 0.3),
        *(
            "--optimizer",
            "adam_inverse_sqrt,lr=1e-3,beta2=0.98,warmup_updates=3,warmup_init_lr=1e-5",
            "--batch-size",
            8,
        ),
    ]
    pairs = [words.index(flag) for flag in ("--classes-per-batch", "--pictures-per-class", "--lr")]
    words = [word for i, word in enumerate(words) if not any(i in (pair, pair + 1) for pair in pairs)]
    assert hashret(*words, "--exp-name", "whole").status == 0
    ctrl_c_after(4)
    assert hashret(*words, "--exp-name", "parts").status == 130
    assert hashret("train", "--resume", tmp_path / "parts").status == 0
    (config, whole), (_, parts) = (read_model(tmp_path / name) for name in ("whole", "parts"))
    assert whole.keys() == parts.keys() and all(torch.equal(whole[name], parts[name]) for name in whole)
    assert config["classifier"]["classes"] == [f"class{c:02d}" for c in range(6)] and "classifier.weight" in whole


def test_a_schedule_that_is_typed_beside_it(hashret: Callable[..., Any], closed_set: Path, tmp_path: Path) -> None:
    words = ["train", "--data", closed_set, "--runs", tmp_path, "--optimizer", "adam_inverse_sqrt,lr=1e-3"]
    for flag, value in (("--schedule", "cosine"), ("--warmup", "1.0"), ("--lr", "1e-3")):
        status, _, err = hashret(*words, flag, value)
        assert status == 2 and f"{flag} is given, and --optimizer decides it" in err
    assert not list(tmp_path.iterdir())
