"""Coconut: a GPT-2 that reasons in its own hidden states.

Paper: "Training Large Language Models to Reason in a Continuous Latent Space" (Hao et al. 2024, arXiv
2412.06769), Method. The model switches between two modes. In language mode the input at a position is the
embedding E of the word there. In latent mode, between <bot> and <eot> (begin and end of thought), it is the
last hidden state of the position before: a continuous thought, never turned into a word.

    input      E(question)   E(<bot>)   t1    t2    ...   tn    E(<eot>)   E(step) ...   E(answer) ...
                                |      ^ |   ^ |                   |           |            |
    hidden                      h0 ----' h1 -' h2 ...              v           v            v   t1 = h0, ...
    predicts the next word                                       step       ...          ... <eos>

Each thought needs the one before, so n thoughts take n + 1 passes through the network. This file has the
multi-pass forward twice: `explicit_forward`, the definition, recomputes all in every pass; `cached_forward`
does the same faster, for a batch. A test checks that they agree.

All problems of a batch take the same number of thoughts, as the paper does it (Method, Inference Process).

Shapes: B batch, Tq question, n thoughts, Tl language, C width, V words.
"""

import torch
import torch.nn.functional as F


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


def cached_forward(gpt, batch, language, detach=False, given=None):
    """The same for a padded batch, with a key/value cache: read the questions, feed all thoughts but the last
    back, one by one, and read the last in one pass with the language.

    language (B, Tl) ids; detach stops gradients through thoughts; given (B, j, C) takes the place of the
    first j thoughts (sample.py uses it). Returns the last hidden states at the language tokens (B, Tl, C),
    the thoughts (B, n, C) and the cache.
    """
    hidden, cache = gpt(gpt.embed(batch.question), padding=batch.padding)   # pass 1: up to <bot>
    thoughts = hidden[:, :0].detach()                                       # (B, 0, C) none yet
    for i in range(batch.n):                                                # latent mode
        if i > 0:
            hidden, cache = gpt(thoughts[:, -1:], cache, batch.padding)     # passes 2 to n: one thought each
        thought = hidden[:, -1:]                                            # (B, 1, C) the last hidden state
        if given is not None and i < given.size(1):
            thought = given[:, i, None]
        thought = thought.detach() if detach else thought
        thoughts = torch.cat([thoughts, thought], dim=1)
    x = torch.cat([thoughts[:, -1:], gpt.embed(language)], dim=1)           # language mode: (B, 1 + Tl, C),
    hidden, cache = gpt(x, cache, batch.padding)                            # without the 1 if n is 0
    return hidden[:, -language.size(1):], thoughts, cache


def loss(gpt, batch, detach=False):
    """Mean cross-entropy over the remaining steps and the answers, never questions or thoughts.

    Paper, Method, Training: gradients flow back through every thought into all before it (unless detach).
    """
    hidden, _, _ = cached_forward(gpt, batch, batch.language, detach)
    return F.cross_entropy(gpt.logits(hidden).flatten(0, 1), batch.target.flatten())


@torch.no_grad()
def generate(gpt, batch, eos, max_new_tokens, given=None):
    """Think, then write greedily until <eos>, a batch at a time.

    Of the batch's language only the first token is read (<eot>, if there is one). given: see cached_forward.
    Returns for each problem the new ids, with <eos> if it came, and the thoughts (B, n, C).
    """
    def next_word(hidden):              # in bfloat16 GPT-2's best words often tie, so the head is in float32
        with torch.autocast(hidden.device.type, enabled=False):
            return gpt.logits(hidden).argmax(-1)                        # (B, 1)

    room = gpt.config.block_size - batch.question.size(1) - batch.n     # positions left for words
    hidden, thoughts, cache = cached_forward(gpt, batch, batch.language[:, :1], given=given)
    written = next_word(hidden)                                         # (B, 1), growing by a word each pass
    for _ in range(min(room, max_new_tokens) - 1):
        if (written == eos).any(dim=1).all():
            break
        hidden, cache = gpt(gpt.embed(written[:, -1:]), cache, batch.padding)
        written = torch.cat([written, next_word(hidden)], dim=1)
    rows = written.tolist()
    return [row[:row.index(eos) + 1] if eos in row else row for row in rows], thoughts
