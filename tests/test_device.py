"""What a GPU would meet, found without one: operations that mix devices, and waits for a number."""

import contextlib
import random

import pytest
import torch
from conftest import open_tiny
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

import sample
import train

aten = torch.ops.aten
MAY_MIX = aten.copy_.default, aten._to_copy.default, aten.index.Tensor        # a copy's source, an index: from anywhere


class Away(torch.Tensor):
    """A CPU tensor that says it were on another device; torch allows a class like this only to name "meta"."""
    @staticmethod
    def __new__(cls, here):
        away = torch.Tensor._make_wrapper_subclass(cls, here.shape, here.stride(), here.storage_offset(), dtype=here.dtype, device="meta")
        away.here = here
        return away

    def tolist(self):                   # torch refuses it for such classes
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return Device.run(function, args, kwargs or {})


class Device(TorchDispatchMode):
    """Runs every operation on the CPU, refuses those that mix devices, and counts the waits: a number or a copy for the CPU, and
    indexing by a mask, whose result has a shape that the CPU must know."""
    waits = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return Device.run(function, args, kwargs or {})

    @staticmethod
    def run(function, args, kwargs):
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        away, device = [x for x in tensors if isinstance(x, Away)], kwargs.get("device")
        if away and function not in MAY_MIX:
            assert all(isinstance(x, Away) or not x.dim() for x in tensors), f"{function} mixes devices"
        stays = bool(away) if device is None else torch.device(device).type == "meta"
        by_mask = function is aten.index.Tensor and any(x.dtype == torch.bool for x in away)
        asks = function in (aten._local_scalar_dense.default, aten.nonzero.default)
        Device.waits += bool(away) and (asks or by_mask or not stays)
        args, kwargs = tree_map_only(Away, lambda x: x.here, (args, kwargs if device is None else kwargs | {"device": "cpu"}))
        result = function(*args, **kwargs)
        return tree_map_only(torch.Tensor, Away, result) if stays else result


@pytest.fixture
def away(finished, monkeypatch):
    """A trained run on that device, its test problems, and a function that counts a call's waits."""
    adamw = torch.optim.AdamW           # it and autocast know their devices by name
    monkeypatch.setattr(torch.optim, "AdamW", lambda *args, **more: adamw(*args, **more | {"fused": False}))
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    run, problems = open_tiny(finished)

    def waits(call):
        Device.waits = 0
        call()
        return Device.waits
    with Device():
        run.gpt.to("meta")
        assert isinstance(run.gpt.wte.weight, Away)
        yield run, problems, waits


def test_training_waits_for_the_device_twice_an_epoch_however_many_steps(away):
    run, problems, waits = away
    ids, optimizers = list(map(run.tokenizer.ids, problems)), train.make_optimizers(run)
    run.settings.micro_batch = 3
    for size in (4, 8):
        run.settings.batch_size = size
        assert waits(lambda: train.train_epoch(run, optimizers, train.batches(run, ids, random.Random(0)), 0, 10)) == 2


def test_answers_wait_once_a_word_and_all_looks_stay_on_the_device(away, monkeypatch):
    run, problems, waits = away
    for words in (5, 3):
        monkeypatch.setattr(train, "MAX_NEW_WORDS", words)
        assert waits(lambda: train.evaluate(run, problems)) == words
    sample.show_answers(run, problems[:2], 3)
    for look in (sample.tree, *(look for look, _ in sample.LOOKS.values())):
        assert look(run, problems)[1]
