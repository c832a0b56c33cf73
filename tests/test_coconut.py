"""The cached, batched latent loop against its definition, and the claims of the paper's Method section one by one."""

import re
from collections import namedtuple
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import coconut
from coconut import cached_forward, explicit_forward, generate, loss
from data import collate
from gpt import GPT, GPTConfig, UserError

BOT, EOT, EOS, V = 40, 41, 42, 43
Sequence = namedtuple("Sequence", "question n language")         # what data.sequence makes


@pytest.fixture
def gpt():
    torch.manual_seed(2)
    gpt = GPT(GPTConfig(vocab_size=V, block_size=64, n_layer=2, n_head=2, n_embd=16, dropout=0.0)).double().eval()
    torch.nn.init.normal_(gpt.ln_f.weight)          # or an untrained model, its head tied, would repeat its input for ever
    return gpt


def ids(n):
    return torch.randint(40, (n,)).tolist()


@pytest.fixture(params=[0, 1, 4])
def ragged(request):
    """Questions and languages of different lengths, with 0, 1 or 4 thoughts."""
    torch.manual_seed(1)
    return [Sequence(ids(q) + [BOT], request.param, [EOT] + ids(t) + [EOS])
            for q, t in [(7, 3), (3, 6), (9, 1), (4, 4), (1, 3)]]


def explicit(gpt, s, detach=False, forward=explicit_forward):
    """Logits (Tl, V) that the definition gives to one sequence."""
    return forward(gpt, torch.tensor([s.question]), s.n, torch.tensor([s.language[:-1]]), *[True] * detach)[0]


def cached(gpt, batch, forward=cached_forward, given=None):
    """Logits (B, Tl, V) of a batch by the cached path."""
    return gpt.logits(forward(gpt, batch, batch.language, given=given)[0])


@pytest.mark.parametrize("detach", [False, True])
def test_cached_thoughts_match_full_recompute(gpt, ragged, detach):
    """In every logit, in the loss, each predicted token weighing the same, and in all gradients."""
    batch = collate(ragged)
    for row, s in zip(cached(gpt, batch), ragged):
        torch.testing.assert_close(row[:len(s.language) - 1], explicit(gpt, s), rtol=1e-9, atol=1e-12)
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
    """Its replacement, made in the source of coconut.py."""
    source, guide = (Path(coconut.__file__).with_name(name).read_text() for name in ("coconut.py", "CONTRIBUTING.md"))
    old, new = re.findall(r"^    (thought = .+)$", guide, re.M)
    assert source.count(old) == 2
    changed = {"__name__": "changed"}
    exec(source.replace(old, new), changed)
    for row, s in zip(cached(gpt, collate(ragged), changed["cached_forward"]), ragged):
        after = explicit(gpt, s, forward=changed["explicit_forward"])
        torch.testing.assert_close(row[:len(s.language) - 1], after, rtol=1e-9, atol=1e-12)
        assert torch.equal(after, explicit(gpt, s)) == (s.n == 0)


def test_gradient_flows_through_every_thought_unless_detached(gpt):
    """And detaching leaves the loss as it is. n thoughts take n + 1 passes."""
    batch, seen = collate([Sequence(ids(5) + [BOT], 4, [EOT] + ids(3) + [EOS])]), []
    gpt.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    flowing = loss(gpt, batch)
    assert [x.size(1) for x in seen] == [6, 1, 1, 1, 5]             # the fourth is read together with the language
    assert all(g.abs().max() > 0 for g in torch.autograd.grad(flowing, seen[1:4]))
    seen.clear()
    assert loss(gpt, batch, detach=True).item() == flowing.item() and not any(x.requires_grad for x in seen[1:4])


def test_generating_is_greedy_by_the_definition_and_the_same_in_a_batch(gpt, ragged):
    """Until the end of text, which here is a token that the model writes."""
    def by_definition(s, eos):
        language, written = [EOT], []
        while len(written) < 8 and eos not in written:
            logits = explicit_forward(gpt, torch.tensor([s.question]), s.n, torch.tensor([language]))
            written.append(logits[0, -1].argmax().item())
            language.append(written[-1])
        return written
    eos = by_definition(ragged[0], EOS)[3]
    expected = [by_definition(s, eos) for s in ragged]
    assert generate(gpt, collate(ragged), eos, 8)[0] == expected and len({tuple(row) for row in expected}) > 1
    assert expected[0][-1] == eos and max(map(len, expected)) == 8


def test_generation_ends_at_the_last_position(gpt):
    """58 tokens and 2 thoughts leave 4 of the 64 positions; <eot> takes the first, and the fourth word none."""
    question = ids(57) + [BOT]
    assert [len(generate(gpt, collate([Sequence(question, n, [EOT, EOS])]), -1, 100)[0][0]) for n in (2, 5)] == [4, 1]
    with pytest.raises(UserError, match=r"\Aa text of 65 positions is too long for a model of 64: shorten it, or take fewer thoughts\Z"):
        generate(gpt, collate([Sequence(question, 6, [EOT, EOS])]), -1, 100)


def test_given_vectors_take_the_thoughts_places(gpt):
    """Against the forward with everything recomputed: the first two thoughts given, the third the model's own."""
    batch = collate([Sequence(ids(6) + [BOT], 3, [EOT] + ids(3) + [EOS])])
    given = torch.randn(1, 2, 16, dtype=torch.float64)
    x = torch.cat([gpt.embed(batch.question), given], dim=1)
    x = torch.cat([x, gpt(x)[0][:, -1:], gpt.embed(batch.language)], dim=1)
    hidden, thoughts, _ = cached_forward(gpt, batch, batch.language, given=given)
    torch.testing.assert_close(hidden, gpt(x)[0][:, -4:], rtol=1e-9, atol=1e-12)
    assert torch.equal(thoughts[:, :2], given)
    assert torch.equal(generate(gpt, batch, EOS, 1, given=given)[1], thoughts)


def test_pauses_read_one_by_one_are_pauses_read_at_once(gpt, ragged):
    """A pause is the same vector at every place, so whoever feeds pauses in one pass after the other computes nothing else."""
    pause, batch = 39, collate([Sequence(s.question, 3, s.language) for s in ragged])
    at_once = cached(gpt, collate([Sequence(s.question + [pause] * 3, 0, s.language) for s in ragged]))
    given = gpt.embed(torch.full((len(ragged), 3), pause))
    torch.testing.assert_close(cached(gpt, batch, given=given), at_once, rtol=1e-9, atol=1e-12)
