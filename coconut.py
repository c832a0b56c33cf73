"""Coconut: a GPT-2 that reasons in its own hidden states.

Paper: "Training Large Language Models to Reason in a Continuous Latent Space" (Hao et al. 2024, arXiv
2412.06769), Method. The model switches between two modes. In language mode the input at a position is the
embedding of the word there. In latent mode, between <bot> and <eot>, it is the last hidden state of the
position before: a continuous thought, never turned into a word.

    input      E(question)   E(<bot>)   t1    t2    ...   tn    E(<eot>)   E(step) ...   E(answer) ...
                                |      ^ |   ^ |                   |           |            |
    hidden                      h0 ----' h1 -' h2 ...              v           v            v   t1 = h0, ...
    predicts the next word                                       step       ...          ... <eos>

Each thought needs the one before, so n thoughts take n + 1 passes through the network. This file has the
multi-pass forward twice: `explicit_forward`, the definition, recomputes all in every pass; `think` with
`speak` does the same for a padded batch with a key/value cache. A test holds the second to the first.

All problems of a batch take the same number of thoughts, as the paper does it (Method, Inference Process).

Shapes: B batch, Tq question, n thoughts, Tl language, C width, V words.
"""

import os
import pickle
from dataclasses import asdict

import torch
import torch.nn.functional as F

from gpt import GPT, GPTConfig, UserError


def explicit_forward(gpt, question, n, language, detach=False):
    """The multi-pass forward of one problem, as the paper defines it: n + 1 passes, each over all before it.

    question (1, Tq) ids that end with <bot>, n thoughts, language (1, Tl) ids that begin with <eot> ->
    logits (1, Tl, V), each for the token after it.
    """
    x = gpt.embed(question)                             # (1, Tq, C)
    for _ in range(n):
        hidden, _ = gpt(x)
        thought = hidden[:, -1:]                        # (1, 1, C) the last hidden state ...
        x = torch.cat([x, thought.detach() if detach else thought], dim=1)  # ... is the next input embedding
    x = torch.cat([x, gpt.embed(language)], dim=1)      # (1, Tq + n + Tl, C)
    hidden, _ = gpt(x)
    return gpt.logits(hidden[:, -language.size(1):])


def think(gpt, question, length, n, detach=False, given=None):
    """Latent mode for a batch: read the questions, then feed all thoughts but the last back, one by one.

    question (B, Tq) ids padded on the right, length (B,) of each, n thoughts for every problem; detach stops
    gradients between thoughts; given (B, j, C) takes the place of the first j thoughts, to find out what they
    are worth (sample.py). Returns the thoughts (B, n, C), the last of them not yet read, and the cache.
    """
    def next_input(i, hidden):          # (B, 1, C) the last hidden state, unless another vector is given
        if given is not None and i < given.size(1):
            return given[:, i, None]
        return hidden.detach() if detach else hidden

    hidden, cache = gpt(gpt.embed(question), only=length - 1)           # pass 1: the question, up to <bot>
    thoughts = []
    for i in range(n):
        if i > 0:
            hidden, cache = gpt(thoughts[-1], cache, length)            # passes 2 to n: one position each
        thoughts.append(next_input(i, hidden))
    return torch.cat([hidden[:, :0], *thoughts], dim=1), cache          # hidden[:, :0]: where n is 0


def speak(gpt, language, length, thoughts, cache):
    """Back to language mode, in the pass that also reads the last thought.

    language (B, Tl) ids; length (B,) as in think; thoughts (B, n, C) and cache from think -> the last hidden
    states at the language tokens (B, Tl, C), and the cache grown.
    """
    x = torch.cat([thoughts[:, -1:], gpt.embed(language)], dim=1)   # (B, 1 + Tl, C); without the 1 if n is 0
    hidden, cache = gpt(x, cache, length)
    return hidden[:, -language.size(1):], cache


def loss(gpt, batch, detach=False):
    """Mean cross-entropy over the remaining steps and the answers, never questions or thoughts.

    Paper, Method, Training: gradients flow back through every thought into all before it (unless detach).
    """
    thoughts, cache = think(gpt, batch.question, batch.length, batch.n, detach)
    hidden, _ = speak(gpt, batch.language, batch.length, thoughts, cache)
    hidden, target = hidden.flatten(0, 1)[batch.predicted], batch.target.flatten()[batch.predicted]
    return F.cross_entropy(gpt.logits(hidden), target)              # the head sees only these: (predicted, V)


@torch.no_grad()
def generate(gpt, batch, eos, max_new_tokens, given=None):
    """Think, then write greedily until <eos>, a batch at a time.

    Of the batch it takes the questions, the number of thoughts and, to start with, the first token of the
    language (<eot>). given: as in think. Returns for each problem the new ids, with <eos> if it came, and the
    thoughts (B, n, C). A UserError where the model has no position for even one word.
    """
    size = gpt.config.block_size
    room = size - batch.length - batch.n                                # (B,) positions left for words
    if room.min() < 1:
        raise UserError(f"question and thoughts take {size - int(room.min()):,} positions, "
                        f"but the model has {size:,}")
    room = room.clamp(max=max_new_tokens)
    thoughts, cache = think(gpt, batch.question, batch.length, batch.n, given=given)
    hidden, cache = speak(gpt, batch.language[:, :1], batch.length, thoughts, cache)
    written = []
    while True:
        word = gpt.logits(hidden[:, -1]).argmax(-1, keepdim=True)       # (B, 1)
        written.append(word)
        done = (torch.cat(written, dim=1) == eos).any(dim=1) | (room <= len(written))
        if done.all():
            break
        hidden, cache = gpt(gpt.embed(word), cache, batch.length)
    rows = [row[:most] for row, most in zip(torch.cat(written, dim=1).tolist(), room.tolist())]
    return [row[:row.index(eos) + 1] if eos in row else row for row in rows], thoughts


def save(path, gpt, **extra):
    """Write weights, shape and `extra` (plain values and tensors) to one file: whole, or not at all."""
    partial = f"{path}.partial"
    try:
        with open(partial, "wb") as f:
            torch.save({"config": asdict(gpt.config), "model": gpt.state_dict(), **extra}, f)
            f.flush()
            os.fsync(f.fileno())
        os.replace(partial, path)
    except (OSError, RuntimeError) as e:            # torch may say RuntimeError where the disk is full
        raise OSError(f"{path} could not be written (is the disk full, the folder gone or read-only?): "
                      "what it held before is still there") from e


def load(path, device="cpu"):
    """The model in a file that save wrote, and all else in it. The file cannot run code (weights_only)."""
    try:
        saved = torch.load(path, map_location=device, weights_only=True)
        gpt = GPT(GPTConfig(**saved["config"])).to(device)
        gpt.load_state_dict(saved["model"])
    except (OSError, RuntimeError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as e:
        why = "no file of tensors" if isinstance(e, pickle.UnpicklingError) else str(e).split("\n")[0]
        raise UserError(f"{path} is not a whole checkpoint of this program ({why}): "
                        "train it again, or name another run") from None
    return gpt, saved
