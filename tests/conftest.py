"""Tiny runs of all stages, trained once for all tests."""

import json
import os

import pytest
import torch

import data
import train
from gpt import run_or_explain

torch.set_num_threads(1)
TINY = ("--dataset prosqa --nodes 9 --max_steps 3 --train_size 60 --valid_size 8 --test_size 8 --no-either_root "
        "--mix 0.6 --easy 0 --epochs 5 --epochs_first 2 --epochs_per_stage 1 --n_layer 1 --n_head 2 --n_embd 16 "
        "--dropout 0.1 --batch_size 16 --device cpu").split()
# Tom - ant - cat - dog is shortest, ant - bee - cat one longer; Sam leads elsewhere.
ANTS = data.Problem("Every ant is a bee. Tom is a ant. Every bee is a cat. Every ant is a cat. Every cat is a dog. Sam is a elk. "
                    "Every dog is a hen. Tom is a fox. Is Tom a dog or elk?", [], "Tom is a dog.")


def train_tiny(out, *flags):
    train.main([*TINY, "--out", str(out), *map(str, flags)])
    return out


def open_tiny(out):
    """A run and its test problems."""
    run, _ = train.open_run(out, "cpu")
    return run, data.test_problems(run.settings, {})


def records(out):
    """The log of a run, without what a clock measured."""
    log = map(json.loads, (out / "log.jsonl").read_text().splitlines())
    return [{k: v for k, v in record.items() if k != "seconds"} for record in log]


def generated(name="prosqa", n=1, **options):
    return data.make_problems(name, {"test": n}, **options)["test"]


def same(a, b):
    """Equality of what checkpoints hold, but for what a clock measured."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a if k != "seconds")
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def assert_same_run(a, b):
    """b may have been killed and resumed: what it did twice is in its log twice, and every start is told."""
    log = [record for i, record in enumerate(records(b)) if not i or record["kind"] != "run"]
    assert records(a) == [record for i, record in enumerate(log) if record not in log[:i]]
    for name in ("best.pt", "last.pt"):
        assert same(*(torch.load(out / name, weights_only=True) for out in (a, b))), name


def one_line(main, argv, capsys):
    """The one line that a command gives to a mistake, with exit code 2."""
    with pytest.raises(SystemExit) as e:
        run_or_explain(lambda: main(argv))
    err = capsys.readouterr().err
    assert e.value.code == 2 and err.startswith("error: ") and err.count("\n") == 1 and len(err) <= 201
    return err


class Payload:
    """Code in a file, which opening it must not run."""
    def __reduce__(self):
        return os.mkdir, ("pwned",)


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """A folder with a run of each of these methods."""
    folder = tmp_path_factory.mktemp("runs")
    for method in ("coconut", "pause_as_thought", "no_thought", "cot"):
        train_tiny(folder / method, "--method", method)
    return folder


@pytest.fixture(scope="session")
def finished(runs):
    """The Coconut run."""
    return runs / "coconut"


@pytest.fixture
def opened(finished):
    """It and its test problems."""
    return open_tiny(finished)
