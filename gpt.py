"""GPT-2 in one file: the plain language model that Coconut thinks with.

The architecture is GPT-2's (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"):
learned positions, layer norm before each sublayer, tanh-GELU, and an output head that shares its matrix with
the token embedding. What is unusual is only where it is cut. Generating a word is four steps,

    x = gpt.embed(ids)              # words to vectors
    hidden, cache = gpt(x)          # vectors to the last hidden states
    logits = gpt.logits(hidden)     # hidden states to a distribution over words
    ids = logits.argmax(-1)         # pick one, and embed it again

and Coconut's latent mode leaves out all but the second: it feeds `hidden` back as the next `x`. So the steps
are methods of their own here, and coconut.py puts them together.

Shapes: B batch, T new positions, S with those before them, C = n_embd, nh heads of size hs = C / nh, V words.
"""

import argparse
import math
import os
import pickle
import socket
import sys
import zipfile
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import tiktoken
import torch
import torch.nn as nn
import torch.nn.functional as F

# On new GPUs torch prefers cuDNN's attention where there is a mask. It plans anew for every length (up to a
# second each, and every written word is a new one), and its gradients can be nan (pytorch issue 196678).
torch.backends.cuda.enable_cudnn_sdp(False)


class UserError(Exception):
    """A user's mistake: the commands print it, as any OSError, in one line. Other errors keep a traceback."""


@dataclass
class GPTConfig:
    vocab_size: int = 50257
    block_size: int = 1024      # positions: the longest sequence, thoughts included
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    dropout: float = 0.1


class CausalSelfAttention(nn.Module):
    """Multi-head attention of T new positions to themselves and, through the cache, to those before them."""

    def __init__(self, config):
        super().__init__()
        self.n_head, self.dropout = config.n_head, config.dropout
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)   # query, key and value in one product
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)
        self.resid_dropout = nn.Dropout(config.dropout)

    def forward(self, x, mask, past):
        """x (B, T, C), mask (B, 1, T, S) or (T, S), True where a position may look, past (k, v) of the S - T
        positions before, each (B, nh, S - T, hs), or None. Returns (B, T, C) and (k, v) of all S."""
        q, k, v = self.c_attn(x).chunk(3, dim=2)
        q, k, v = (y.unflatten(2, (self.n_head, -1)).transpose(1, 2) for y in (q, k, v))    # (B, nh, T, hs)
        if past is not None:            # nothing is overwritten: gradients flow on into earlier passes
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)           # (B, nh, S, hs)
        y = F.scaled_dot_product_attention(q, k, v, mask, self.dropout * self.training)     # (B, nh, T, hs)
        return self.resid_dropout(self.c_proj(y.transpose(1, 2).flatten(2))), (k, v)


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x):
        return self.dropout(self.c_proj(F.gelu(self.c_fc(x), approximate="tanh")))


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=1e-5)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=1e-5)
        self.mlp = MLP(config)

    def forward(self, x, mask, past):
        attended, present = self.attn(self.ln_1(x), mask, past)
        x = x + attended
        return x + self.mlp(self.ln_2(x)), present


class GPT(nn.Module):
    """GPT-2. Its parts carry the names of the official weight files (wte, wpe, h.0.attn.c_attn, ...),
    which store the matrices of the blocks transposed."""

    def __init__(self, config):
        super().__init__()
        if config.n_embd % config.n_head:
            raise UserError(f"n_embd {config.n_embd} is not a multiple of n_head {config.n_head}")
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)   # words; also the output head
        self.wpe = nn.Embedding(config.block_size, config.n_embd)   # positions
        self.drop = nn.Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=1e-5)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self):
        """Draw random weights: normal, biases 0; what ends a residual branch is divided by sqrt(2 * n_layer).

        Differs from GPT-2, whose standard deviation is 0.02 at any width. That suits its 768 dimensions and
        weeks of training; narrow models hardly move from there for tens of thousands of problems. Here it
        grows as the width shrinks (0.1 at width 64), embeddings get three times that standard deviation, and
        the learned positions begin as sinusoids, so that "the word before" need not be discovered. The final
        layer norm begins small: a last hidden state is then as large as the embedding of a word at its
        position, whose place it takes as a thought.
        """
        C = self.config.n_embd
        std = 0.8 / math.sqrt(C)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=std)
            elif name.endswith("bias"):
                nn.init.zeros_(p)
            if name.endswith("c_proj.weight"):
                p /= math.sqrt(2 * self.config.n_layer)
        nn.init.normal_(self.wte.weight, std=3 * std)
        self.ln_f.weight.fill_(4 * std)
        half, position = C // 2, torch.arange(self.config.block_size)[:, None]
        angle = position * 10000 ** (-torch.arange(half) / half)    # (block_size, C/2)
        self.wpe.weight[:, :2 * half] = 3 * std * torch.cat([angle.sin(), angle.cos()], dim=1)

    def embed(self, ids):
        """Language mode's input: ids (B, T) -> (B, T, C). forward adds positions, also to thoughts."""
        return self.wte(ids)

    def forward(self, x, cache=None, padding=None):
        """Run the transformer over T new input vectors.

        x        (B, T, C)  input embeddings: of words, or continuous thoughts
        cache    for each layer the keys and values of all positions before, or None at the start
        padding  (B,)       how many positions at the left of each row are padding, the same in every pass:
                            real positions never see them, and count from 0
        Returns the last hidden states (B, T, C), after the final layer norm, and the cache, grown by T.
        Raises UserError if S, padding included, is more than the model's positions.
        """
        before = cache[0][0].size(2) if cache else 0
        S = before + x.size(1)
        if S > self.config.block_size:
            raise UserError(f"a text of {S} positions is too long for a model of {self.config.block_size}: "
                            "shorten it, or take fewer thoughts")
        place, positions = torch.arange(S, device=x.device), torch.arange(before, S, device=x.device)
        mask = place <= positions[:, None]                                  # (T, S) causal
        if padding is not None:
            real = place >= padding[:, None, None]                          # (B, 1, S)
            # Padding sees itself: a softmax over nothing would be nan. Its own positions are read by nobody.
            mask = (mask & real | (place == positions[:, None]))[:, None]   # (B, 1, T, S)
            positions = (positions - padding[:, None]).clamp(min=0)         # (B, T)
        x = self.drop(x + self.wpe(positions))
        grown = []
        for block, past in zip(self.h, cache or [None] * len(self.h)):
            x, present = block(x, mask, past)
            grown.append(present)
        return self.ln_f(x), grown

    def logits(self, hidden):
        """Hidden states (..., C) -> scores of the next word (..., V), by the token embedding (tied head)."""
        return F.linear(hidden, self.wte.weight)


# ---- the official weights

GPT2_FILE = ("https://huggingface.co/openai-community/gpt2/resolve/607a30d783dfa663caf39e06633721c8d4cfcd7e/"
             "pytorch_model.bin", "gpt2-607a30d7.bin",
             "7c5d3f4b8b76583b422fcb9189ad6c89d5d97a094541ce8932dce3ecabde1421")     # its sha256


def download(url, name, sha256):
    """The path of a file from the network, kept as `name` in torch.hub's cache folder and reused. It is moved
    there only when it is whole and its sha256 is right."""
    path = Path(torch.hub.get_dir()) / "coconut" / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        print(f"downloading {url}")
        socket.setdefaulttimeout(60)        # seconds without an answer
        try:
            torch.hub.download_url_to_file(url, str(path), hash_prefix=sha256)
        except (OSError, HTTPException, RuntimeError) as e:     # no network; cut off; another sha256
            raise UserError(f"put a copy at {path}: {url} could not be fetched ({e})") from None
    return path


def read_file(path, build):
    """build(what torch.save wrote to the file at `path`), on the CPU. It cannot run code (weights_only).
    Whatever is wrong with it, down to a changed byte, is a UserError of one line."""
    try:
        if zipfile.is_zipfile(path) and (part := zipfile.ZipFile(path).testzip()):
            raise ValueError(f"{part} is damaged")      # torch does not look at the checksums
        return build(torch.load(path, map_location="cpu", weights_only=True))
    except (UserError, torch.OutOfMemoryError):
        raise
    except Exception as e:
        why = "no file of tensors" if isinstance(e, pickle.UnpicklingError) else f"{type(e).__name__}: {e}"
        raise UserError(f"{path} is not a whole checkpoint ({why})") from None


def write_file(path, write):
    """write(PATH) to a path beside `path`, then move it: the file is written whole, or not at all."""
    try:
        write(f"{path}.partial")
        os.replace(f"{path}.partial", path)
    except (OSError, RuntimeError) as e:            # torch may say RuntimeError where the disk is full
        Path(f"{path}.partial").unlink(missing_ok=True)
        raise OSError(f"{path} could not be written (is the disk full?), and is as it was before: {e}") from e


def from_weights(weights, n_head=None, dropout=0.1):
    """A GPT of the sizes of its weights, {name: tensor}. Heads are 64 wide, as in all official sizes, unless
    their number is given."""
    (words, width), (places, _) = weights["wte.weight"].shape, weights["wpe.weight"].shape
    layers = sum(key.endswith(".ln_1.weight") for key in weights)
    gpt = GPT(GPTConfig(words, places, layers, n_head or max(1, width // 64), width, dropout))
    gpt.load_state_dict(weights)
    return gpt


def from_pretrained(name):
    """GPT-2 with trained weights: "gpt2" downloads the official file (124M parameters), all else is the path
    of a pytorch_model.bin, of any size."""
    path = download(*GPT2_FILE) if name == "gpt2" else Path(name)
    if not path.is_file():
        raise UserError(f"there is no {path}: name gpt2, or a copy of a pytorch_model.bin")

    def build(saved):
        left_out = ".attn.bias", ".attn.masked_bias", "lm_head.weight"      # the mask; the head, which is wte
        transposed = "c_attn.weight", "c_proj.weight", "c_fc.weight"
        return from_weights({key.removeprefix("transformer."): w.t() if key.endswith(transposed) else w
                             for key, w in saved.items() if not key.endswith(left_out)})
    return read_file(path, build)


def run_or_explain(main):
    """Run a command. A user's mistake is printed in one line, without a traceback, and the exit code is 2."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")        # a terminal that lacks a sign gets a "?"
    try:
        return main()
    except BrokenPipeError:                 # what reads our output, such as head, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    except (UserError, OSError) as e:
        line, code = "error: " + " ".join(str(e).split()), 2
    except torch.OutOfMemoryError:
        line, code = "error: the GPU's memory is full: take a smaller --micro_batch (with --resume)", 2
    except KeyboardInterrupt:
        line, code = "interrupted; a training continues after its last whole epoch with --resume", 130
    print(line if len(line) <= 200 else f"{line[:197]}...", file=sys.stderr)
    sys.exit(code)


def main(argv=None):
    """GPT-2 goes on with a text: the quickest check that its weights are right."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("text", nargs="?", default="The capital of France is")
    text = parser.parse_args(argv).text
    gpt, encoding, cache = from_pretrained("gpt2").eval(), tiktoken.get_encoding("gpt2"), None
    ids = encoding.encode_ordinary(text)
    new = torch.tensor([[encoding.eot_token, *ids]])                        # texts follow this token
    with torch.no_grad():
        for _ in range(20):
            hidden, cache = gpt(gpt.embed(new), cache)
            new = gpt.logits(hidden[:, -1:]).argmax(-1)                     # (1, 1)
            ids.append(new.item())
    print(encoding.decode(ids))


if __name__ == "__main__":
    run_or_explain(main)
