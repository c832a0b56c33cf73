"""Every flag counts: it is explained, it changes something that can be seen, and what is out of its bounds gets one line."""

import argparse
import json
import re

import pytest
import torch

import data
import sample
import train

TINY = ("--dataset prosqa --nodes 9 --max_steps 3 --train_size 40 --valid_size 4 --test_size 6 --epochs 4 --epochs_first 1 "
        "--epochs_per_stage 1 --grow_epochs 0 --n_layer 1 --n_head 2 --n_embd 16 --batch_size 16 --lr 0.01 --warmup 2 --max_new_tokens 20 --device cpu").split()

# flag: what to add to TINY to see a difference; or two such lines, to be compared
FLAGS = {
    "dataset": "--dataset prontoqa --no-nodes", "method": "--method no_thought", "setting": "--setting paper --init scratch", "c": "--c 2",
    "stages": "--stages 2", "epochs": "--epochs 3", "epochs_first": "--epochs_first 2", "epochs_per_stage": "--epochs_per_stage 2",
    "grow_epochs": "--grow_epochs 2",
    "mix": ("--mix 0", "--mix 1"), "detach_thoughts": "--detach_thoughts",
    "c_ramp": ("--c 2 --epochs_per_stage 2", "--c 2 --epochs_per_stage 2 --c_ramp"), "stop": "--stop classifier",
    "icot_per_epoch": ("--method icot --epochs 9", "--method icot --epochs 9 --icot_per_epoch 2"),
    "icot_all": ("--method icot", "--method icot --icot_all 10"), "train_size": "--train_size 50", "valid_size": "--valid_size 5",
    "test_size": "--test_size 7", "hops": ("--dataset prontoqa --hops 2", "--dataset prontoqa --hops 1"),
    "nodes": "--nodes 10", "min_steps": "--min_steps 1", "max_steps": "--max_steps 4", "parents": "--parents 2", "even_steps": ("--min_steps 2", "--min_steps 2 --even_steps"),
    "data_seed": "--data_seed 1", "n_layer": "--n_layer 2", "n_head": "--n_head 4", "n_embd": "--n_embd 32", "dropout": "--dropout 0.2",
    "batch_size": "--batch_size 8", "micro_batch": ("--dropout 0.3", "--dropout 0.3 --micro_batch 4"), "lr": "--lr 0.02",
    "muon_lr": "--muon_lr 0", "warmup": "--warmup 5", "decay": "--decay 0", "weight_decay": "--weight_decay 0.5",
    "reset_optimizer": "--reset_optimizer", "max_new_tokens": "--max_new_tokens 5", "seed": "--seed 1",
    "bucket": "--bucket 2"}


def actions(module, monkeypatch):
    """The flags of a program, as argparse knows them."""
    kept = []
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", lambda self, argv=None: kept.append(self) or (_ for _ in ()).throw(KeyError))
    with pytest.raises(KeyError):
        (module.parse if module is train else module.main)([])
    return {a.dest: a for a in kept[0]._actions if a.dest != "help"}, kept[0].format_help()


def test_every_flag_is_explained_with_its_default_and_is_in_this_test(monkeypatch):
    flags, text = actions(train, monkeypatch)
    assert flags.keys() == {*train.SETTINGS, "device", "out", "resume", "eval_only"} == {*FLAGS, "init", "float32", "device", "out", "resume", "eval_only"}
    for name, action in flags.items():
        assert action.help and len(action.help) > 8, name
        assert re.search(r"\(default", action.help) or isinstance(action, argparse._StoreTrueAction), f"{name}: its default is not told"
    flags, _ = actions(sample, monkeypatch)
    assert flags.keys() == {"paths", "look", "wrong", "question", "thoughts", "n", "init", "prompt", "device", "dataset", "plot", *data.PROBLEM_SETTINGS} and all(len(a.help) > 8 for a in flags.values())


def outcome(out, flags):
    argv = [*TINY, *flags.split()]
    if "prontoqa" in flags:
        for flag in ("--nodes", "--max_steps"):
            at = argv.index(flag)
            del argv[at:at + 2]
        argv = [a for a in argv if a != "--no-nodes"]
    train.main([*argv, "--out", str(out)])
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    model = torch.load(out / "last.pt", weights_only=True)["model"]
    return [{k: v for k, v in r.items() if k not in ("ms", "rate", "eta", "seconds")} for r in log], model


@pytest.mark.slow
@pytest.mark.parametrize("flag", FLAGS)
def test_every_flag_of_a_run_changes_something(tmp_path, flag, capsys):
    """--init, --float32 and what is no setting have tests of their own in test_train.py."""
    before, after = ("", FLAGS[flag]) if isinstance(FLAGS[flag], str) else FLAGS[flag]
    (log, model), (other_log, other_model) = outcome(tmp_path / "a", before), outcome(tmp_path / "b", after)
    assert log != other_log or any(not torch.equal(model[k], other_model[k]) for k in model)


def test_numbers_and_words_out_of_their_bounds_are_refused_and_those_on_them_are_not(capsys):
    for flag, (value, _, limits, _) in train.SETTINGS.items():
        if limits and not isinstance(value, str):
            low, high = limits
            for good in (low, high if high < float("inf") else 10 ** 9):
                assert train.parse([f"--{flag}={good}"])[0] == {flag: good}
            for bad in (low - 1, high + 1):
                with pytest.raises(ValueError, match=rf"argument --{flag}: "):
                    train.parse([f"--{flag}={bad}"])
    for bad in ("--method=telepathy", "--setting=quickly", "--stop=now", "--lr=fast", "--lr=inf", "--lr=nan"):
        with pytest.raises(ValueError, match=bad.split("=")[1]):
            train.parse([bad])
