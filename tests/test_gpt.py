"""gpt.py against GPT-2's equations, written out once more without any batching, cache or fused kernel."""

import math
import os
import socket
import zipfile
from http.client import IncompleteRead
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import Payload

import gpt as gpt_file
from gpt import GPT, GPTConfig, UserError, download, from_pretrained


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
    """No position sees a later one: the equations leave it out."""
    for p in gpt.parameters():          # no bias and no norm as it was at the start
        p.data += 0.1 * torch.randn_like(p)
    ids = torch.randint(50, (3, 9))
    logits = gpt.logits(gpt(gpt.embed(ids))[0])
    for row in range(3):
        torch.testing.assert_close(logits[row], by_the_book(gpt, ids[row].tolist()), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("place", ["drop", "h.0.attn", "h.0.attn.resid_dropout", "h.0.mlp.dropout"])
def test_dropout_is_in_every_place_in_training_only(place):
    """Where the cache is read too."""
    torch.manual_seed(0)
    gpt, x = GPT(GPTConfig(vocab_size=50, block_size=32, n_layer=1, n_head=2, n_embd=16, dropout=0.0)), torch.randn(1, 9, 16)
    _, cache = gpt(x[:, :8])
    setattr(gpt.get_submodule(place), "dropout" if place == "h.0.attn" else "p", 0.5)
    for training in (True, False):
        gpt.train(training)
        for y, past in (x, None), (x[:, 8:], cache):
            assert torch.equal(gpt(y, cache=past)[0], gpt(y, cache=past)[0]) == (not training)


def test_there_are_as_many_parameters_as_gpt2s_and_random_ones_have_the_documented_spread():
    """The head is the embedding, and counts once."""
    with torch.device("meta"):
        assert sum(p.numel() for p in GPT(GPTConfig()).parameters()) == 124_439_808
    torch.manual_seed(0)
    gpt = GPT(GPTConfig(vocab_size=500, n_layer=3, n_head=4, n_embd=64))
    assert gpt.h[1].attn.c_attn.weight.std().item() == pytest.approx(0.1, rel=0.05)
    assert gpt.h[1].mlp.c_proj.weight.std().item() == pytest.approx(0.1 / math.sqrt(6), rel=0.05)
    assert gpt.wte.weight.std().item() == pytest.approx(0.3, rel=0.05)
    assert not any(p.any() for name, p in gpt.named_parameters() if name.endswith("bias"))
    words = gpt.embed(torch.randint(500, (2, 40)))                                          # a thought is about as large as a word
    thoughts, places = gpt.eval()(words)[0], words + gpt.wpe.weight[:40]
    assert thoughts.norm(dim=-1).mean().item() == pytest.approx(places.norm(dim=-1).mean().item(), rel=0.2)
    # Sinusoids: how near two positions are depends on their distance only, and neighbours are nearest.
    w = gpt.wpe.weight.detach()
    near, elsewhere, far = w[10] @ w[11], w[700] @ w[701], w[10] @ w[60]
    assert near > 1.2 * far and near == pytest.approx(elsewhere.item(), rel=1e-3) and w.abs().max().item() == pytest.approx(0.3)


# ---- the official weights

FIXTURES = Path(__file__).parent / "fixtures"      # made by make_gpt2.py there, with Hugging Face transformers


@pytest.fixture
def official():
    return torch.load(FIXTURES / "gpt2_tiny.bin", weights_only=True)


def test_weights_that_transformers_saved_give_its_logits_in_both_formats(official, tmp_path):
    """Also in the official file's: the legacy format, names without "transformer.", no head, and the causal masks among the weights."""
    bare = {k.removeprefix("transformer."): v for k, v in official.items() if k != "lm_head.weight"}
    bare |= {f"h.{i}.attn.bias": torch.ones(1, 1, 32, 32).tril() for i in range(2)}
    torch.save(bare, tmp_path / "legacy.bin", _use_new_zipfile_serialization=False)
    expected = torch.load(FIXTURES / "gpt2_tiny.pt", weights_only=True)
    assert not zipfile.is_zipfile(tmp_path / "legacy.bin") and expected["logits"].abs().max() > 1
    for path in (FIXTURES / "gpt2_tiny.bin", tmp_path / "legacy.bin"):
        gpt = from_pretrained(path).eval()
        for block in gpt.h:
            block.attn.n_head = 4           # narrower than the official 64
        assert (gpt.config.vocab_size, gpt.config.block_size, gpt.config.n_layer, gpt.config.n_embd) == (70, 32, 2, 32)
        hidden, _ = gpt(gpt.embed(expected["ids"]))
        assert (gpt.logits(hidden) - expected["logits"]).abs().max() < 1e-5


@pytest.mark.parametrize("change, says", [
    (lambda w: w.pop("transformer.h.1.ln_2.bias"), 'Missing key(s) in state_dict: "h.1.ln_2.bias"'),
    (lambda w: w.update({"transformer.extra": torch.zeros(2)}), 'Unexpected key(s) in state_dict: "extra"'),
    (lambda w: w.update({"transformer.h.0.attn.c_attn.weight": torch.zeros(96, 32)}), "size mismatch for h.0.attn.c_attn.weight"),
    (lambda w: w.pop("transformer.wte.weight"), "wte.weight"), (lambda w: w.update({"transformer.wte.weight": torch.zeros(9)}), "ValueError"), (lambda w: w.update(x=Payload()), "no file of tensors")])
def test_weights_that_do_not_fit_are_named_in_one_line_and_code_among_them_never_runs(official, tmp_path, monkeypatch, change, says):
    monkeypatch.chdir(tmp_path)
    change(official)
    torch.save(official, tmp_path / "w.bin")
    with pytest.raises(UserError, match="w.bin is not a whole checkpoint") as e:
        from_pretrained(tmp_path / "w.bin")
    assert says in str(e.value) and "weights_only" not in str(e.value) and os.listdir() == ["w.bin"]


@pytest.mark.parametrize("trouble", [RuntimeError("invalid hash value"), OSError("timed out"), IncompleteRead(b"half")])
def test_a_download_that_fails_gets_one_line_and_a_whole_one_is_kept(tmp_path, monkeypatch, trouble):
    calls = []

    def fetch(url, path, hash_prefix):
        assert socket.getdefaulttimeout() == 60
        calls.append((url, hash_prefix))
        if len(calls) == 1:
            raise trouble
        Path(path).write_text("whole")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    with pytest.raises(UserError, match=r"\Aput a copy at .*kept: https://x/y could not be fetched \(.+\)\Z"):
        download("https://x/y", "kept", "abc")
    for _ in range(2):
        assert download("https://x/y", "kept", "abc").read_text() == "whole" and calls == [("https://x/y", "abc")] * 2


def test_gpt2_goes_on_with_a_text_greedily(gpt, monkeypatch, capsys):
    """Against reading everything anew for every word; an id is a letter, and 49 ends a text."""
    encoding = SimpleNamespace(eot_token=49, encode_ordinary=lambda text: [ord(c) - 65 for c in text],
                               decode=lambda ids: "".join(chr(i + 65) for i in ids))
    torch.nn.init.normal_(gpt.ln_f.weight)
    torch.nn.init.normal_(gpt.wpe.weight, std=3)    # so that words differ
    gpt.drop.p = 0.5            # in training only
    monkeypatch.setattr(gpt_file, "from_pretrained", lambda name: open("nothing is loaded for --help"))
    with pytest.raises(SystemExit, match="0"):
        gpt_file.main(["--help"])
    capsys.readouterr()
    monkeypatch.setattr(gpt_file, "from_pretrained", lambda name: gpt.train())
    monkeypatch.setattr(gpt_file.tiktoken, "get_encoding", lambda name: encoding)
    gpt_file.main(["HELLO"])
    ids = [49, *encoding.encode_ordinary("HELLO")]
    for _ in range(20):
        ids.append(by_the_book(gpt, ids)[-1].argmax().item())
    assert capsys.readouterr().out == encoding.decode(ids[1:]) + "\n" and len(set(ids[6:])) > 2
