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

Shapes: B batch, Tq question, N most thoughts in the batch, Tl language, C width, V words.
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


def think(gpt, question, length, n, detach=False, given=None, N=None):
    """Latent mode for a batch: read the questions, then feed all thoughts but the last back, one by one.

    question (B, Tq) ids padded on the right, length (B,) of each, n (B,) how many thoughts each takes; detach
    stops gradients between thoughts; given (B, j, C) takes the place of the first j thoughts, to find out
    what they are worth (sample.py). Returns the thoughts (B, N, C), the last of which is still to be read,
    and the cache with its mask (B, Tq + N), True where a column holds a token or a thought. Counted from 0,
    thought i is column Tq + i, at position length + i.
    """
    Tq, N = question.size(1), int(n.max()) if N is None else N
    column = torch.arange(Tq + N, device=question.device)
    mask = torch.where(column < Tq, column < length[:, None], column - Tq < n[:, None])

    def next_input(i, hidden):          # (B, 1, C) the last hidden state, unless another vector is given
        if given is not None and i < given.size(1):
            return given[:, i, None]
        return hidden.detach() if detach else hidden

    hidden, cache = gpt(gpt.embed(question), only=length - 1)               # pass 1: the question, once
    thoughts = [next_input(0, hidden)]                                      # from where <bot> stands
    for i in range(1, N):                                                   # passes 2 to N: one position each
        # A problem that is done thinking computes a dummy where its <eot> will be: the mask hides it.
        position = length + torch.clamp(n, max=i - 1)
        hidden, cache = gpt(thoughts[-1], position[:, None], mask[:, :Tq + i], cache)
        thoughts.append(next_input(i, hidden))
    return torch.cat(thoughts, dim=1)[:, :N], cache, mask


def speak(gpt, language, length, n, thoughts, cache, mask):
    """Back to language mode, in the pass that also reads the last thought.

    language (B, Tl) ids; length and n (B,) as in think; thoughts (B, N, C), cache and mask from think -> the
    last hidden states at the language tokens (B, Tl, C), the cache and its mask, both grown by Tl.
    """
    N, Tl = thoughts.size(1), language.size(1)
    x = torch.cat([thoughts[:, -1:], gpt.embed(language)], dim=1)   # (B, 1 + Tl, C), without the 1 if N is 0
    position = (length + n)[:, None] + torch.arange(Tl, device=language.device)
    if N:       # the last thought is still to be read; for problems with fewer the mask hides this column
        position = torch.cat([(length + torch.clamp(n, max=N - 1))[:, None], position], dim=1)
    position = position.clamp(max=gpt.config.block_size - 1)        # of padding and finished rows only
    mask = F.pad(mask, (0, Tl), value=True)                         # padding is last: nothing real sees it
    hidden, cache = gpt(x, position, mask, cache)
    return hidden[:, -Tl:], cache, mask


def stop_scores(gpt, thoughts, eot):
    """A score for each of the thoughts (B, N, C) -> (B, N); above 0: it is the last. The paper trains a
    linear head for it. Here <eot>'s row of the output head serves: to predict <eot> means just that."""
    return thoughts @ gpt.embed(eot)       # not wte.weight[eot]: to index, a GPU would have to be waited for


def loss(gpt, batch, detach=False, stop=False):
    """Mean cross-entropy over the remaining steps and the answers, never questions or thoughts.

    Paper, Method, Training: gradients flow back through every thought into all before it (unless detach).
    stop: add the classifier's binary cross-entropy, each thought's counting as much as a predicted token's.
    "Last" is a stage's last thought, also where written steps still follow it.
    """
    thoughts, cache, mask = think(gpt, batch.question, batch.length, batch.n, detach, N=batch.N)
    hidden, _, _ = speak(gpt, batch.language, batch.length, batch.n, thoughts, cache, mask)
    hidden, target = hidden.flatten(0, 1)[batch.predicted], batch.target.flatten()[batch.predicted]
    value = F.cross_entropy(gpt.logits(hidden), target)             # the head sees only these: (predicted, V)
    if stop and thoughts.size(1):
        eot = batch.language[0, 0]      # where there are thoughts, all language begins with it
        left = batch.n[:, None] - 1 - torch.arange(thoughts.size(1), device=thoughts.device)    # (B, N)
        scores = stop_scores(gpt, thoughts, eot)
        last, real = (left == 0).to(scores.dtype), (left >= 0).to(scores.dtype)
        stop_loss = F.binary_cross_entropy_with_logits(scores, last, real, reduction="sum")
        value = value + stop_loss / len(target)
    return value


@torch.no_grad()
def generate(gpt, batch, eos, max_new_tokens, stop=False, given=None):
    """Think, then write greedily until <eos>, a batch at a time.

    Of the batch it takes the questions, the numbers of thoughts and, to start with, the first token of the
    language (<eot>). stop: a problem's thoughts end already where the classifier says so. given: as in think.
    Returns for each problem the new ids, with <eos> if it came; the thoughts (B, N, C), and how many of them
    count (B,). A UserError where the model has no position for even one word.
    """
    size, n, first = gpt.config.block_size, batch.n, batch.language[:, :1]
    room = size - batch.length - n                                          # (B,) positions left for words
    if room.min() < 1:
        raise UserError(f"question and thoughts take {size - int(room.min()):,} positions, "
                        f"but the model has {size:,}")
    room = room.clamp(max=max_new_tokens)
    thoughts, cache, mask = think(gpt, batch.question, batch.length, n, given=given)
    Tq, N = batch.question.size(1), thoughts.size(1)
    if stop and N:  # the mask hides thoughts past a problem's end, computed along with the batch
        i = torch.arange(N, device=thoughts.device)
        ends = (stop_scores(gpt, thoughts, first[0, 0]) > 0) | (i == n[:, None] - 1)                # (B, N)
        n = torch.minimum(n, 1 + ends.int().argmax(dim=1))
        mask[:, Tq:] = i < n[:, None]
    hidden, cache, mask = speak(gpt, first, batch.length, n, thoughts, cache, mask)
    written = []
    while True:
        word = gpt.logits(hidden[:, -1]).argmax(-1, keepdim=True)           # (B, 1)
        written.append(word)
        done = (torch.cat(written, dim=1) == eos).any(dim=1) | (room <= len(written))
        if done.all():
            break
        length = batch.length + len(written)                # one word more; no thought is left to be read
        hidden, cache, mask = speak(gpt, word, length, n, thoughts[:, :0], cache, mask)
    rows = [row[:most] for row, most in zip(torch.cat(written, dim=1).tolist(), room.tolist())]
    return [row[:row.index(eos) + 1] if eos in row else row for row in rows], thoughts, n


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
