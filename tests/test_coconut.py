"""The cached, batched latent loop against its definition, and the claims of the paper's Method section one by one."""

import os
import random
import re
from collections import namedtuple
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import coconut
from coconut import explicit_forward, generate, loss, speak, stop_scores, think
from data import collate
from gpt import GPT, GPTConfig

BOT, EOT, EOS, V = 40, 41, 42, 43
Sequence = namedtuple("Sequence", "question n language")         # what data.encode makes


@pytest.fixture
def gpt():
    torch.manual_seed(0)
    gpt = GPT(GPTConfig(vocab_size=V, block_size=64, n_layer=2, n_head=2, n_embd=16, dropout=0.0)).double().eval()
    torch.nn.init.normal_(gpt.ln_f.weight)          # or an untrained model, its head tied, would repeat its input for ever
    return gpt


def ids(n):
    return torch.randint(40, (n,)).tolist()


@pytest.fixture
def ragged():
    """Questions of different lengths, different numbers of thoughts (0 included), languages of different lengths."""
    torch.manual_seed(1)
    return [Sequence(ids(q) + [BOT], n, [EOT] + ids(t) + [EOS])
            for q, n, t in [(7, 2, 3), (3, 0, 6), (9, 5, 1), (4, 1, 4), (1, 3, 3)]]


def explicit(gpt, s, detach=False):
    """Logits (Tl, V) that the definition gives to one sequence."""
    return explicit_forward(gpt, torch.tensor([s.question]), s.n, torch.tensor([s.language[:-1]]), detach)[0]


def cached(gpt, batch, detach=False):
    """Logits (B, Tl, V) of a batch by the cached path."""
    latent = think(gpt, batch.question, batch.length, batch.n, detach)
    hidden, _, _ = speak(gpt, batch.language, batch.length, batch.n, *latent)
    return gpt.logits(hidden)


def thought_inputs(gpt, run):
    """The inputs of every pass that reads a thought alone, with their gradients kept, while `run` runs."""
    seen = []

    def keep(module, args):
        if args[0].size(1) == 1:
            if args[0].requires_grad:
                args[0].retain_grad()
            seen.append(args[0])
    handle = gpt.register_forward_pre_hook(keep)
    run()
    handle.remove()
    return seen


@pytest.mark.parametrize("detach", [False, True])
def test_cached_thoughts_match_full_recompute(gpt, ragged, detach):
    batch = collate(ragged)
    logits = cached(gpt, batch, detach)
    for row, s in zip(logits, ragged):
        torch.testing.assert_close(row[:len(s.language) - 1], explicit(gpt, s, detach), rtol=1e-9, atol=1e-12)

    predicted = torch.cat([explicit(gpt, s, detach) for s in ragged])
    targets = torch.tensor([i for s in ragged for i in s.language[1:]])
    definition = F.cross_entropy(predicted, targets)
    expected = torch.autograd.grad(definition, list(gpt.parameters()))
    fast = loss(gpt, batch, detach)
    assert fast.item() == pytest.approx(definition.item(), rel=1e-9)
    for (name, p), want in zip(gpt.named_parameters(), expected):
        got, = torch.autograd.grad(fast, p, retain_graph=True)
        assert (got - want).norm() <= 1e-9 * want.norm(), name


def test_the_other_kind_of_thought_in_contributing_is_one_in_both_forwards(gpt, ragged):
    """Its two replacements, made in the source of coconut.py."""
    source, guide = (Path(coconut.__file__).with_name(name).read_text() for name in ("coconut.py", "CONTRIBUTING.md"))
    lines = re.findall(r"^    (.+)$", guide, re.M)
    for old, new in zip(lines[::2], lines[1::2]):
        assert source.count(old) == 1
        source = source.replace(old, new)
    changed = {"__name__": "changed"}
    exec(source, changed)
    plain = [explicit(gpt, s) for s in ragged]
    batch = collate(ragged)
    hidden, _, _ = changed["speak"](gpt, batch.language, batch.length, batch.n,
                                    *changed["think"](gpt, batch.question, batch.length, batch.n))
    for row, s, before in zip(gpt.logits(hidden), ragged, plain):
        row = row[:len(s.language) - 1]
        after = changed["explicit_forward"](gpt, torch.tensor([s.question]), s.n, torch.tensor([s.language[:-1]]))[0]
        torch.testing.assert_close(row, after, rtol=1e-9, atol=1e-12)
        assert torch.equal(after, before) == (s.n == 0)


def test_detaching_thoughts_changes_the_gradient_but_not_the_loss(gpt, ragged):
    batch = collate(ragged)
    flowing, stopped = loss(gpt, batch), loss(gpt, batch, detach=True)
    assert flowing.item() == stopped.item()
    a, = torch.autograd.grad(flowing, gpt.h[0].mlp.c_fc.weight)
    b, = torch.autograd.grad(stopped, gpt.h[0].mlp.c_fc.weight)
    assert (a - b).norm() > 1e-3 * a.norm()


def test_gradient_flows_through_every_thought_unless_detached(gpt):
    batch = collate([Sequence(ids(5) + [BOT], 4, [EOT] + ids(3) + [EOS])])
    thoughts = thought_inputs(gpt, lambda: loss(gpt, batch).backward())
    assert len(thoughts) == 3                                   # the fourth is read together with the language
    assert all(x.grad.abs().max() > 0 for x in thoughts)
    assert not any(x.requires_grad for x in thought_inputs(gpt, lambda: loss(gpt, batch, detach=True).backward()))


def test_zero_thoughts_is_plain_gpt(gpt):
    question, language = ids(6), ids(5)
    batch = collate([Sequence(question, 0, language + [EOS])])
    plain = gpt.logits(gpt(gpt.embed(torch.tensor([question + language])))[0])[:, 6:]
    torch.testing.assert_close(cached(gpt, batch), plain, rtol=1e-9, atol=1e-12)


def test_thought_is_previous_last_hidden_state(gpt):
    question = torch.tensor([ids(6) + [BOT]])
    chain, _, _ = think(gpt, question, torch.tensor([7]), torch.tensor([3]))
    x = gpt.embed(question)
    for i in range(3):
        hidden, _ = gpt(x)
        torch.testing.assert_close(chain[:, i], hidden[:, -1], rtol=1e-9, atol=1e-12)
        x = torch.cat([x, chain[:, i:i + 1]], dim=1)


def test_n_thoughts_take_n_plus_one_passes(gpt):
    for n in range(4):
        passes = []
        handle = gpt.register_forward_hook(lambda *args: passes.append(1))
        loss(gpt, collate([Sequence(ids(5) + [BOT], n, [EOT] + ids(3) + [EOS])]))
        handle.remove()
        assert len(passes) == (n + 1 if n else 2)                 # without thoughts: question, then language


def test_a_thought_keeps_little_for_the_gradient():
    """The question's keys and values are kept once, not copied for every thought."""
    gpt = GPT(GPTConfig(vocab_size=V, block_size=320, n_layer=2, n_head=2, n_embd=16, dropout=0.0))
    question, length, language = torch.randint(40, (4, 300)), torch.full((4,), 300), torch.randint(40, (4, 3))

    def saved(n):
        kept = {}
        def keep(t):
            kept[t.untyped_storage().data_ptr()] = (t.untyped_storage().nbytes(), t)
            return t
        n = torch.full((4,), n)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            speak(gpt, language, length, n, *think(gpt, question, length, n))
        return sum(size for size, _ in kept.values())
    keys_and_values = 2 * 2 * 4 * 300 * 16 * 4          # of both layers, in bytes
    assert (saved(8) - saved(2)) / 6 < 0.5 * keys_and_values


def test_padding_does_not_change_the_loss(gpt, ragged):
    batch = collate(ragged)
    wide = collate(ragged)
    wide.question = F.pad(batch.question, (0, 4), value=7)
    wide.language, wide.target = F.pad(batch.language, (0, 3), value=9), F.pad(batch.target, (0, 3), value=-100)
    wide.predicted = torch.tensor([i for i, t in enumerate(wide.target.flatten().tolist()) if t >= 0])
    assert loss(gpt, wide).item() == pytest.approx(loss(gpt, batch).item(), rel=1e-12)


def test_loss_covers_the_language_part_and_nothing_else(gpt, ragged):
    """Each predicted token weighs the same, and only language tokens are predicted."""
    total = sum(F.cross_entropy(explicit(gpt, s), torch.tensor(s.language[1:]), reduction="sum") for s in ragged)
    assert loss(gpt, collate(ragged)).item() == pytest.approx(total.item() / sum(len(s.language) - 1 for s in ragged), rel=1e-9)


def test_generating_one_by_one_and_in_a_batch_gives_the_same_tokens(gpt, ragged):
    together, _, _ = generate(gpt, collate(ragged), EOS, 12)
    alone = [generate(gpt, collate([s]), EOS, 12)[0][0] for s in ragged]
    assert together == alone and len({tuple(row) for row in alone}) > 1


def test_generating_is_greedy_by_the_definition(gpt, ragged):
    for s in ragged:
        language, written = [EOT], []
        while len(written) < 8 and EOS not in written:
            logits = explicit_forward(gpt, torch.tensor([s.question]), s.n, torch.tensor([language]))
            written.append(logits[0, -1].argmax().item())
            language.append(written[-1])
        assert generate(gpt, collate([s]), EOS, 8)[0][0] == written


def test_generation_stops_at_end_of_text(gpt, ragged):
    likely = generate(gpt, collate(ragged), EOS, 12)[0][0]
    stop = likely[3]                                            # let a token that the model writes be the end of text
    rows, _, _ = generate(gpt, collate(ragged), stop, 12)
    assert rows[0] == likely[:likely.index(stop) + 1]
    assert all(stop not in row[:-1] for row in rows)


def test_generation_ends_at_the_last_position(gpt):
    """58 tokens and 2 thoughts leave 4 of the 64 positions; <eot> takes the first, and the fourth word none."""
    s = Sequence(ids(57) + [BOT], 2, [EOT, EOS])
    rows, _, _ = generate(gpt, collate([s]), -1, 100)
    assert len(rows[0]) == 4
    with pytest.raises(ValueError, match=r"\Aquestion and thoughts take 64 positions, but the model has 64\Z"):
        generate(gpt, collate([Sequence(s.question, 6, [EOT, EOS])]), -1, 100)


def test_a_problem_that_fits_is_the_same_beside_any_other_that_does(gpt):
    """Of 64 positions one question takes 58, the other's language 30: padding would end beyond the last position."""
    long, wordy = Sequence(ids(57) + [BOT], 2, [EOT] + ids(2) + [EOS]), Sequence(ids(3) + [BOT], 1, [EOT] + ids(29) + [EOS])
    total = sum(loss(gpt, collate([s])).item() * (len(s.language) - 1) for s in (long, wordy))
    assert loss(gpt, collate([long, wordy])).item() == pytest.approx(total / 33, rel=1e-9)
    rows, _, _ = generate(gpt, collate([long, wordy]), -1, 20)
    assert rows == [generate(gpt, collate([s]), -1, 20)[0][0] for s in (long, wordy)]
    assert [len(row) for row in rows] == [4, 20]


def test_a_thought_may_wait_at_the_last_position(gpt):
    """A batch whose longest sequence ends exactly at the model's last position, beside one that thinks longer."""
    full = Sequence(ids(55) + [BOT], 0, [EOT] + ids(7) + [EOS])  # 56 + 8 = 64 positions
    batch = collate([full, Sequence([BOT], 20, [EOT, EOS])])
    torch.testing.assert_close(cached(gpt, batch)[0], explicit(gpt, full), rtol=1e-9, atol=1e-12)


def test_overfits_one_batch_through_its_thoughts():
    """Eight random questions with random one-word answers: the loop can be trained by gradient descent."""
    torch.manual_seed(0)
    gpt = GPT(GPTConfig(vocab_size=V, block_size=32, n_layer=2, n_head=2, n_embd=32, dropout=0.0))
    batch = collate([Sequence(ids(6) + [BOT], 2, [EOT] + ids(1) + [EOS]) for _ in range(8)])
    optimizer = torch.optim.AdamW(gpt.parameters(), lr=3e-3)
    for _ in range(120):
        value = loss(gpt, batch)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert value.item() < 0.05
    assert generate(gpt, batch, EOS, 4)[0] == [row[:2].tolist() for row in batch.target]


@pytest.fixture
def small(gpt):
    return gpt.float()


def test_saved_model_loads_as_it_was_and_learns_on(small, tmp_path):
    coconut.save(tmp_path / "m.pt", small, words=["a"], epoch=3)
    again, saved = coconut.load(tmp_path / "m.pt")
    assert saved["words"] == ["a"] and saved["epoch"] == 3 and again.config == small.config
    x = torch.tensor([ids(6)])
    assert torch.equal(again(again.embed(x))[0], small(small.embed(x))[0])
    assert all(p.requires_grad for p in again.parameters()) and os.listdir(tmp_path) == ["m.pt"]


def test_a_write_that_fails_leaves_the_old_checkpoint(small, tmp_path, monkeypatch):
    gpt = small
    coconut.save(tmp_path / "m.pt", gpt, epoch=1)

    def fail(obj, f):
        f.write(b"half of it")
        raise OSError("No space left on device")
    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError):
        coconut.save(tmp_path / "m.pt", gpt, epoch=2)
    monkeypatch.undo()
    assert coconut.load(tmp_path / "m.pt")[1]["epoch"] == 1


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", random.Random(0).randbytes(5000), b"PK\x05\x06" + bytes(18)])
def test_something_else_than_a_checkpoint_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "m.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"\A.*m.pt is not a whole checkpoint.*\Z"):                # "." is no line end
        coconut.load(tmp_path / "m.pt")


class Payload:
    def __reduce__(self):
        return os.mkdir, ("pwned",)


@pytest.mark.parametrize("change", [
    lambda saved: saved.update(more=Payload()), lambda saved: saved.pop("model"), lambda saved: saved["model"].pop("ln_f.bias"),
    lambda saved: saved["model"].update({"wte.weight": torch.zeros(V, 15)}), lambda saved: saved["config"].update(n_experts=8)])
def test_code_in_a_checkpoint_never_runs_and_weights_of_another_shape_are_refused_in_one_line(small, tmp_path, monkeypatch, change):
    monkeypatch.chdir(tmp_path)
    coconut.save("m.pt", small)
    saved = torch.load("m.pt", weights_only=True)
    change(saved)
    torch.save(saved, "m.pt")
    with pytest.raises(ValueError, match=r"\A.*m.pt is not a whole checkpoint.*\Z"):
        coconut.load("m.pt")
    assert os.listdir(tmp_path) == ["m.pt"]


def test_a_checkpoint_cut_off_anywhere_is_refused_in_one_line(small, tmp_path):
    coconut.save(tmp_path / "whole.pt", small)
    whole, rng = (tmp_path / "whole.pt").read_bytes(), random.Random(0)
    for _ in range(50):
        (tmp_path / "m.pt").write_bytes(whole[:rng.randrange(len(whole))])
        with pytest.raises(ValueError, match=r"\A.*m.pt is not a whole checkpoint.*\Z"):
            coconut.load(tmp_path / "m.pt")


# ---- when to stop thinking

def test_the_classifier_is_a_linear_head_and_its_loss_the_binary_cross_entropy_of_being_last(gpt, ragged):
    batch = collate(ragged)
    chain, _, _ = think(gpt, batch.question, batch.length, batch.n)
    assert torch.allclose(stop_scores(gpt, chain, torch.tensor(EOT)), gpt.logits(chain)[..., EOT])
    said = [(p.log() if i == s.n - 1 else (1 - p).log()) for s, row in zip(ragged, torch.sigmoid(stop_scores(gpt, chain, torch.tensor(EOT))))
            for i, p in enumerate(row[:s.n])]
    added = loss(gpt, collate(ragged), stop=True) - loss(gpt, collate(ragged))
    words = int((batch.target >= 0).sum())          # a thought counts as much as a word
    assert len(said) == 11 and added.item() == pytest.approx(-sum(said).item() / words, rel=1e-9)
    none = collate([s for s in ragged if s.n == 0])
    assert loss(gpt, none, stop=True) == loss(gpt, none)


def test_every_problem_of_a_batch_stops_where_its_own_classifier_says_or_at_the_cap(gpt, ragged):
    """The same ids, problem by problem, as with so many thoughts from the start."""
    batch, seen = collate([Sequence(s.question, 5, s.language) for s in ragged]), set()
    for seed in (10, 12, 28):
        torch.manual_seed(seed)
        gpt.wte.weight.data[EOT] = torch.randn(16)
        written, chain, taken = generate(gpt, batch, EOS, 12, stop=True)
        for i, s in enumerate(ragged):
            over = (stop_scores(gpt, chain[i], torch.tensor(EOT)) > 0).tolist()
            own = over.index(True) + 1 if True in over else 5
            alone = collate([Sequence(s.question, own, s.language)])
            assert taken[i] == own and written[i] == generate(gpt, alone, EOS, 12)[0][0]
            seen.add(own)
    assert seen == {1, 2, 3, 4, 5}


def test_the_toy_shows_both_forwards_pass_by_pass(capsys):
    coconut.main()
    lines = capsys.readouterr().out.splitlines()
    passes = [line.split("  ")[2:] for line in lines if line.startswith("  pass")]
    assert [p[-1].strip() for p in passes[4:]] == ["q1 q2 q3 q4 <bot>", "t1", "t2", "t3 <eot> l1 l2"]
    assert [len(p[-1].split()) for p in passes[:4]] == [5, 6, 7, 11] and float(lines[-1].split()[-1]) < 1e-4


@pytest.mark.parametrize("stop", [False, True])
def test_a_training_step_never_asks_the_device_for_a_number(gpt, ragged, stop):
    """On a GPU that would be a wait. An .item(), a look at a condition or an index by a tensor of no dimension shows here."""
    asked = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            asked.append(function)
            return function(*args, **(kwargs or {}))
    batch = collate(ragged)
    with Watch():
        loss(gpt, batch, stop=stop).backward()
    waits = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default}
    assert len(asked) > 100 and not waits & set(asked)
