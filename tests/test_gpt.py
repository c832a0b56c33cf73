"""gpt.py against GPT-2's equations, written out once more without any batching, cache or fused kernel."""

import math
import re
import zipfile
from http.client import IncompleteRead
from pathlib import Path

import pytest
import torch

import data
from gpt import GPT, CausalSelfAttention, GPTConfig, download, from_pretrained, grow
from gpt import main as gpt_main


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


def test_where_only_one_hidden_state_is_wanted_it_and_the_cache_are_the_same(gpt):
    """What the last block then leaves out changes neither."""
    x, only = torch.randn(3, 7, 16, dtype=torch.float64), torch.tensor([6, 2, 0])
    (hidden, cache), (short, same) = gpt(x), gpt(x, only=only)
    assert short.shape == (3, 1, 16)
    torch.testing.assert_close(short[:, 0], hidden[range(3), only], rtol=1e-9, atol=1e-12)
    for one, other in zip(cache, same):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


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


# ---- the official weights

FIXTURES = Path(__file__).parent / "fixtures"      # made by make_gpt2.py there, with Hugging Face transformers


@pytest.fixture
def official():
    return torch.load(FIXTURES / "gpt2_tiny.bin", weights_only=True)


def test_weights_that_transformers_saved_give_its_logits():
    expected = torch.load(FIXTURES / "gpt2_tiny.pt", weights_only=True)
    gpt = from_pretrained(FIXTURES / "gpt2_tiny.bin", n_head=4).eval()
    assert (gpt.config.vocab_size, gpt.config.block_size, gpt.config.n_layer, gpt.config.n_embd) == (70, 32, 2, 32)
    hidden, _ = gpt(gpt.embed(expected["ids"]))
    assert (gpt.logits(hidden) - expected["logits"]).abs().max() < 1e-5 and expected["logits"].abs().max() > 1


def test_the_official_files_format_loads_too(official, tmp_path):
    """The legacy file format, names without "transformer.", no head, and the causal masks among the weights."""
    bare = {k.removeprefix("transformer."): v for k, v in official.items() if k != "lm_head.weight"}
    bare |= {f"h.{i}.attn.bias": torch.ones(1, 1, 32, 32).tril() for i in range(2)}
    torch.save(bare, tmp_path / "legacy.bin", _use_new_zipfile_serialization=False)
    assert not zipfile.is_zipfile(tmp_path / "legacy.bin")
    one, two = from_pretrained(FIXTURES / "gpt2_tiny.bin"), from_pretrained(tmp_path / "legacy.bin")
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters()))


@pytest.mark.parametrize("change, says", [
    (lambda w: w.pop("transformer.h.1.ln_2.bias"), 'Missing key(s) in state_dict: "h.1.ln_2.bias"'),
    (lambda w: w.update({"transformer.extra": torch.zeros(2)}), 'Unexpected key(s) in state_dict: "extra"'),
    (lambda w: w.update({"transformer.h.0.attn.c_attn.weight": torch.zeros(96, 32)}), "size mismatch for h.0.attn.c_attn.weight"),
    (lambda w: w.pop("transformer.wte.weight"), "wte.weight"), (lambda w: w.update({"transformer.wte.weight": 3}), "does not hold a GPT-2")])
def test_weights_that_do_not_fit_are_named_in_one_line(official, tmp_path, change, says):
    change(official)
    torch.save(official, tmp_path / "w.bin")
    with pytest.raises(ValueError, match=r"\A.*does not hold a GPT-2.*\Z") as e:
        from_pretrained(tmp_path / "w.bin")
    assert says in str(e.value)


def test_code_in_a_weight_file_never_runs(tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))
    torch.save({"wte.weight": Payload()}, tmp_path / "w.bin")
    with pytest.raises(ValueError, match=r"\A.*does not hold a GPT-2[^\n]*\Z"):
        from_pretrained(tmp_path / "w.bin")
    assert not (tmp_path / "ran").exists()


def test_new_words_begin_as_a_known_one_and_padding_is_never_chosen():
    gpt = from_pretrained(FIXTURES / "gpt2_tiny.bin", n_head=4).eval()
    old = gpt.wte.weight.clone()
    grow(gpt, like=7, new=3)
    assert gpt.config.vocab_size == 128 == len(gpt.wte.weight) and gpt.wte.weight.requires_grad
    assert torch.equal(gpt.wte.weight[:70], old) and torch.equal(gpt.wte.weight[70:73], old[[7, 7, 7]])
    hidden, _ = gpt(gpt.embed(torch.arange(30).view(1, 30)))
    scores = gpt.logits(hidden)
    assert scores.argmax(-1).max() < 73 and (scores[..., 73:].amax(-1) < scores[..., :70].amax(-1)).all()


@pytest.mark.parametrize("trouble", [RuntimeError("invalid hash value"), OSError("timed out\nat last"), IncompleteRead(b"half")])
def test_a_download_that_fails_gets_one_line_leaves_nothing_and_a_whole_one_is_kept(tmp_path, monkeypatch, trouble):
    calls = []

    def fetch(url, path, hash_prefix):
        calls.append((url, hash_prefix))
        if len(calls) == 1:
            raise trouble
        Path(path).write_text("whole")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    with pytest.raises(ValueError, match=r"\Ahttps://x/y could not be fetched \(.+\): put a copy at .*kept\Z"):
        download("https://x/y", "kept", "abc")
    assert not any(p.is_file() for p in tmp_path.rglob("*"))
    for _ in range(2):
        assert download("https://x/y", "kept", "abc").read_text() == "whole" and calls == [("https://x/y", "abc")] * 2


def test_only_https_is_ever_fetched():
    urls = [url for url, _ in data.GSM8K.values()] + re.findall(r"https?://[^\s\"]+", (Path(__file__).parent.parent / "gpt.py").read_text())
    assert len(urls) >= 4 and all(url.startswith("https://") for url in urls)


@pytest.mark.slow
def test_the_small_model_learns_its_own_file(capsys):
    gpt_main()
    printed = capsys.readouterr().out
    losses = [float(line.split()[3]) for line in printed.splitlines() if line.startswith("  step")]
    assert losses[-1] < 1.5 < 5 < losses[0] and "\n    def " in printed


def test_attention_to_the_cache_drops_out_in_training_only():
    torch.manual_seed(0)
    attention = CausalSelfAttention(GPTConfig(n_head=2, n_embd=16, dropout=0.5))
    attention.resid_dropout.p = 0.0
    x = torch.randn(1, 9, 16)
    for training in (True, False):
        _, past = attention.train(training)(x[:, :8], None, None)
        one, other = (attention(x[:, 8:], None, past)[0] for _ in range(2))
        assert torch.equal(one, other) == (not training)
