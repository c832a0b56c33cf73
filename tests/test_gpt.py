"""gpt.py against GPT-2's equations, written out once more without any batching, cache or fused kernel."""

import math

import pytest
import torch

from gpt import GPT, GPTConfig


@pytest.fixture
def gpt():
    torch.manual_seed(0)
    return GPT(GPTConfig(vocab_size=50, block_size=32, n_layer=2, n_head=4, n_embd=16, dropout=0.0)).double().eval()


def by_the_book(gpt, ids):
    """Logits of one sequence, position by position and head by head."""
    w = dict(gpt.named_parameters())

    def norm(x, name):
        x = x - x.mean(-1, keepdim=True)
        return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    x = torch.stack([w["wte.weight"][i] + w["wpe.weight"][p] for p, i in enumerate(ids)])
    T, C = x.shape
    nh, hs = gpt.config.n_head, C // gpt.config.n_head
    for layer in range(gpt.config.n_layer):
        q, k, v = linear(norm(x, f"h.{layer}.ln_1"), f"h.{layer}.attn.c_attn").split(C, dim=-1)
        y = torch.zeros_like(x)
        for head in range(nh):
            s = slice(head * hs, (head + 1) * hs)
            for t in range(T):
                weight = torch.softmax(q[t, s] @ k[:t + 1, s].T / math.sqrt(hs), dim=-1)
                y[t, s] = weight @ v[:t + 1, s]
        x = x + linear(y, f"h.{layer}.attn.c_proj")
        a = linear(norm(x, f"h.{layer}.ln_2"), f"h.{layer}.mlp.c_fc")
        gelu = 0.5 * a * (1 + torch.tanh(math.sqrt(2 / math.pi) * (a + 0.044715 * a ** 3)))
        x = x + linear(gelu, f"h.{layer}.mlp.c_proj")
    return norm(x, "ln_f") @ w["wte.weight"].T


def test_logits_are_gpt2s_equations(gpt):
    ids = torch.randint(50, (3, 9))
    logits = gpt.logits(gpt(gpt.embed(ids))[0])
    for row in range(3):
        torch.testing.assert_close(logits[row], by_the_book(gpt, ids[row].tolist()), rtol=1e-10, atol=1e-10)


def test_a_position_never_sees_a_later_one(gpt):
    x = torch.randn(1, 9, 16, dtype=torch.float64, requires_grad=True)
    hidden, _ = gpt(x)
    grad, = torch.autograd.grad((hidden[0, 4] ** 3).sum(), x)
    assert grad[0, :5].abs().sum(-1).min() > 0 and grad[0, 5:].abs().max() == 0


@pytest.mark.parametrize("cut", [[9], [4, 5], [3, 1, 5], [1] * 9])
def test_reading_in_pieces_through_the_cache_is_reading_at_once(gpt, cut):
    x = torch.randn(2, 9, 16, dtype=torch.float64)
    whole, _ = gpt(x)
    pieces, cache = [], None
    for piece in x.split(cut, dim=1):
        hidden, cache = gpt(piece, cache=cache)
        pieces.append(hidden)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=1e-10, atol=1e-10)


def test_masked_columns_might_as_well_not_be_there(gpt):
    x = torch.randn(1, 7, 16, dtype=torch.float64)
    keep = torch.tensor([[True, True, False, True, False, True, True]])
    positions = torch.tensor([[0, 1, 9, 2, 9, 3, 4]])
    with_gaps, _ = gpt(x, positions, keep)
    without, _ = gpt(x[:, keep[0]])
    torch.testing.assert_close(with_gaps[:, keep[0]], without, rtol=1e-10, atol=1e-10)


def test_full_size_has_gpt2s_number_of_parameters_and_its_head_is_the_embedding():
    with torch.device("meta"):
        gpt = GPT(GPTConfig())
    assert sum(p.numel() for p in gpt.parameters()) == 124_439_808
    assert not any("head" in name for name, _ in gpt.named_parameters())


def test_random_weights_have_the_documented_spread():
    torch.manual_seed(0)
    gpt = GPT(GPTConfig(vocab_size=500, n_layer=3, n_head=4, n_embd=64))
    assert gpt.h[1].attn.c_attn.weight.std().item() == pytest.approx(0.1, rel=0.05)
    assert gpt.h[1].mlp.c_proj.weight.std().item() == pytest.approx(0.1 / math.sqrt(6), rel=0.05)
    assert gpt.wte.weight.std().item() == pytest.approx(0.3, rel=0.05)
    near, far = gpt.wpe.weight[10] @ gpt.wpe.weight[11], gpt.wpe.weight[10] @ gpt.wpe.weight[60]
    assert near > 1.2 * far         # neighbouring positions start out related
