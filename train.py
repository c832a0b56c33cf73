"""Train Coconut, or a method it is compared with.

Paper: Method (Training Procedure) and Experiments (Baselines and Various Versions of Coconut). A curriculum
of stages teaches the model to think without words: at stage s the first s steps of the written chain of
thought are gone and s * c continuous thoughts stand in their place, until at stage K only thoughts remain.

    python train.py --dataset prontoqa --c 1        the main job: minutes on a laptop, from random weights
    python train.py --dataset prosqa --method cot   a baseline; --method takes any row of METHODS
    torchrun --nproc_per_node 2 train.py ...        the same on several GPUs or processes: each takes its
                                                    share of every batch
"""

import argparse
import json
import math
import os
import random
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

import coconut
import data
from gpt import GPT, GPTConfig, Mistake

# The methods as one grid: the filler between question and answer, and what becomes of the written chain.
METHODS = {
    #                    filler     written chain
    "coconut":          ("thought", "staged"),      # the paper's method
    "cot":              (None,      "kept"),        # chain of thought, every step written
    "no_cot":           (None,      "removed"),     # the answer at once
    "pause":            ("pause",   "removed"),     # pause tokens (Goyal et al. 2023), never a written step
    "no_curriculum":    ("thought", "removed"),     # "w/o curriculum": thoughts, never a written step
    "no_thought":       (None,      "staged"),      # "w/o thought": removed steps leave nothing behind
    "pause_as_thought": ("pause",   "staged"),      # pause tokens in the thoughts' places
    "icot":             (None,      "by token"),    # implicit chain of thought (Deng et al. 2024)
}


def schedule(args, stage, steps, missing=0):
    """(tokens of the written chain removed, fillers) of a problem whose steps have so many tokens each.

    Training, evaluation and sampling ask here. Coconut with c = 2 and K = 3, for a problem of 4 steps:

        stage     0      1       2        3        4 = K + 1: where chains can be longer than K, the rest goes
        input     ssss   ttsss   ttttss   tttttts  tttttt       t: thought, s: written step; then the answer

    A problem with fewer steps than the stage still gets stage * c fillers, so in the last stage, and when it
    is tested, all get K * c; with --stop classifier it gets c for each of its own steps. missing: how many of
    the stage's last c thoughts are not there yet (stage_at).
    """
    filler, written = METHODS[args.method]
    K, c, total = args.stages, args.c, sum(steps)
    if written == "kept":
        removed, n = 0, 0
    elif written == "removed":
        removed, n = total, K * c
    elif written == "by token":     # stage s is epoch s, up to the first in which the whole chain is gone
        removed, n = stage * args.icot_per_epoch, 0
        removed = total if removed > args.icot_all else removed
    else:                           # staged: the first `replaced` steps are gone, with c fillers for each
        replaced = min(stage, K)
        removed = total if stage > K else sum(steps[:replaced])
        if args.stop == "classifier":
            replaced = min(replaced, len(steps))
        n = replaced * c - (missing if replaced == stage else 0)
    return removed, n if filler else 0


def fillers_asked(args, stage, missing=0):
    """How many fillers a test problem gets: what one of K steps does. The classifier may stop earlier."""
    return schedule(args, stage, [0] * args.stages, missing)[1]


def stage_at(epoch, args, last):
    """(stage, thoughts still missing in it) of epoch 0, 1, ...: args.epochs_first epochs of stage 0, then
    args.epochs_per_stage each, all others in `last`. With --c_ramp a stage begins with one thought more than
    the one before and gets another with every epoch, until its c are there."""
    if METHODS[args.method][1] == "by token":
        return min(epoch, last), 0
    since = epoch - args.epochs_first
    stage = 0 if since < 0 else min(1 + since // args.epochs_per_stage, last)
    if args.c_ramp and 1 <= stage <= args.stages:
        age = since - (stage - 1) * args.epochs_per_stage       # epochs of this stage before this one
        return stage, max(0, args.c - 1 - age)
    return stage, 0


def last_stage_of(args, longest):
    """The last stage, if the longest written chain has so many steps: K, or K + 1 to remove what is left
    after K; for iCoT the first without a chain; 0 for methods that never change it."""
    written = METHODS[args.method][1]
    if written == "staged":
        return args.stages + (longest > args.stages)
    return args.icot_all // args.icot_per_epoch + 1 if written == "by token" else 0


# Defaults of the flags, by --setting and --dataset. "paper" is the paper's (Experiments, Setup). "quick"
# takes minutes on two cores: how its values were found, and what each is worth, is in results/quick.md.
PAPER = dict(init="gpt2", c=1, epochs=50, epochs_first=5, epochs_per_stage=5, easy_epochs=0, mix=0.0,
             reset_optimizer=True, n_layer=12, n_head=12, n_embd=768, dropout=0.1, batch_size=128,
             micro_batch=128, lr=1e-4, muon_lr=0.0, weight_decay=0.01, warmup=0, decay=0.0,
             bucket=8, max_new_tokens=128)
QUICK = dict(init="scratch", c=1, epochs_first=4, epochs_per_stage=2, mix=0.3, reset_optimizer=False,
             n_layer=4, n_head=4, n_embd=64, dropout=0.0, batch_size=64, micro_batch=32,
             lr=1.5e-3, muon_lr=0.01, weight_decay=0.0, warmup=100, decay=0.75, bucket=1,
             max_new_tokens=128)
SETTINGS = {
    "paper": {
        "prontoqa": PAPER | dict(hops=5, train_size=9000, valid_size=200, test_size=800),
        "prosqa": PAPER | dict(nodes=28, min_steps=3, max_steps=6,
                               train_size=17886, valid_size=300, test_size=500),
        "gsm8k": PAPER | dict(c=2, stages=3, epochs_first=6, epochs_per_stage=3, max_new_tokens=64),
    },
    "quick": {
        "prontoqa": QUICK | dict(hops=2, plain=True, train_size=20000, valid_size=200, test_size=800,
                                 epochs=17, easy_epochs=11),
        "prosqa": QUICK | dict(nodes=9, names=9, min_steps=3, max_steps=3, neg_steps=2,
                               train_size=20000, valid_size=300, test_size=500,
                               epochs=19, easy_epochs=10),
    },
}

LINES_PER_EPOCH = 4
RANK, WORLD = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))      # torchrun sets them


def summed(tensor):
    """The tensor's sum over the processes, if there are several."""
    if WORLD > 1:
        dist.all_reduce(tensor)
    return tensor


def sum_gradients(parameters):
    """Every gradient becomes its sum over the processes; all travel in one tensor."""
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
    for p, grad in zip(parameters, summed(flat).split([p.numel() for p in parameters])):
        p.grad = grad.view_as(p)


def batches(tokens, tokenizer, args, stage, missing=0, rng=None, alike=False):
    """The problems as batches of one stage, each a pair (how many tokens to predict, [micro-batch, ...]).

    The micro-batches go through the model one after the other and share one optimizer step. They bound the
    memory; and as in training each takes problems of like length, there is less padding to compute.

    rng: for training. Shuffled, at times of a random stage up to this one (args.mix), and only this process's
    share.
    alike: problems of like length share whole batches too, which helps easy problems: a batch without
    distractors shows what a rule is for (results/quick.md). args.bucket does so within as many batches, which
    saves a large model the padding and still keeps company random.
    """
    filler, written = METHODS[args.method]
    order = list(range(len(tokens)))
    if rng:
        rng.shuffle(order)
    bucket = len(order) if alike else args.bucket * args.batch_size
    bucketed = rng and bucket > args.batch_size
    if bucketed:
        order = [i for start in range(0, len(order), bucket)
                 for i in sorted(order[start:start + bucket], key=lambda i: len(tokens[i].question))]
    chunks = [order[start:start + args.batch_size] for start in range(0, len(order), args.batch_size)]
    if bucketed:
        rng.shuffle(chunks)
    for chunk in chunks:
        # Mixing draws once for a batch, not for each example: its sequences stay alike in length.
        s = rng.randint(0, stage) if rng and rng.random() < args.mix else stage
        rows = []
        for t in (tokens[i] for i in chunk):
            removed, n = schedule(args, s, list(map(len, t.steps)), missing if s == stage else 0)
            if rng and written == "by token":     # iCoT smooths its steps: o tokens more, P(o) ~ exp(-4 o)
                removed += int(rng.expovariate(4))
            rows.append(data.encode(t, tokenizer, filler, removed, n))
        predicted = sum(len(row.language) - 1 for row in rows)
        if rng:
            rows = sorted(rows, key=lambda row: len(row.question))[RANK::WORLD]
        size = args.micro_batch
        yield predicted, [data.collate(rows[start:start + size]) for start in range(0, len(rows), size)]


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024): momentum, but each matrix's update is replaced by the orthogonal matrix that is
    nearest to it, so that all its directions are learned at one rate, rare ones too.

    As torch.optim.Muon, in float32 (that one multiplies in bfloat16, which some CPUs only imitate, slowly) and
    with matrices of one shape stacked.
    """
    def __init__(self, matrices, lr, weight_decay):
        super().__init__(matrices, dict(lr=lr, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for shape in dict.fromkeys(p.shape for p in group["params"]):       # (rows, columns)
                same = [p for p in group["params"] if p.shape == shape and p.grad is not None]
                for p in same:
                    momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
                    momentum.lerp_(p.grad, 0.05)
                x = torch.stack([p.grad.lerp(self.state[p]["momentum"], 0.95) for p in same])   # Nesterov's
                x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
                for _ in range(5):      # Newton-Schulz: each step brings all singular values nearer to 1
                    square = x @ x.mT if shape[0] <= shape[1] else x.mT @ x
                    change = -4.7750 * square + 2.0315 * square @ square
                    x = 3.4445 * x + (change @ x if shape[0] <= shape[1] else x @ change)
                scale = group["lr"] * math.sqrt(max(1, shape[0] / shape[1]))
                for p, update in zip(same, x):
                    p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=scale)


def make_optimizers(gpt, args):
    """AdamW for all (the paper), or, if muon_lr > 0, Muon for the blocks' matrices and AdamW for the rest."""
    matrices = [p for p in gpt.h.parameters() if p.dim() == 2] if args.muon_lr else []
    chosen = {id(p) for p in matrices}
    others = [p for p in gpt.parameters() if id(p) not in chosen]
    betas = (0.9, 0.98) if args.muon_lr else (0.9, 0.999)
    optimizers = [torch.optim.AdamW(others, lr=args.lr, betas=betas, weight_decay=args.weight_decay,
                                    fused=True)]
    if matrices:
        optimizers.append(Muon(matrices, args.muon_lr, args.weight_decay))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def lr_factor(step, total, warmup, decay):
    """Factor of the learning rate: up over `warmup` steps, 1, down to 5 % in the last `decay` of the run."""
    up = min(1.0, (step + 1) / warmup) if warmup else 1.0
    left = (total - step) / (decay * total) if decay else 1.0
    return up * max(0.05, min(1.0, left))


def autocast(gpt, args):
    """Within it a GPU multiplies matrices in bfloat16, unless --float32 or it would only imitate that, slowly.
    Weights stay float32, and on other devices all does, wherever the run was trained."""
    device = gpt.wte.weight.device.type
    able = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.autocast(device, torch.bfloat16, enabled=able and not args.float32)


@torch.no_grad()
def ask(gpt, tokenizer, problems, run, n, stop=False, given=None):
    """What the model writes after n fillers: texts, how many tokens each has, the thoughts (P, N, C), and how
    many of them count (P,).

    stop: the run's classifier may end the thoughts earlier. given (P, j, C): vectors in place of the first j
    thoughts; or of pauses, which one by one are the same to the model as together.
    """
    filler = "thought" if given is not None else METHODS[run.method][0]
    answers = []
    for start in range(0, len(problems), run.micro_batch):
        some = slice(start, start + run.micro_batch)
        rows = [data.encode(data.Tokens.of(p, tokenizer), tokenizer, filler, 0, n) for p in problems[some]]
        with autocast(gpt, run):
            answers.append(coconut.generate(gpt, data.collate(rows).to(gpt.wte.weight.device), tokenizer.eos,
                                            run.max_new_tokens, stop, None if given is None else given[some]))
    written, thoughts, numbers = zip(*answers)
    written = [ids for some in written for ids in some]
    texts = [tokenizer.decode([i for i in ids if i != tokenizer.eos]) for ids in written]
    return texts, [len(ids) for ids in written], torch.cat(thoughts), torch.cat(numbers)


@torch.no_grad()
def evaluate(gpt, tokenizer, problems, tokens, args, stage, missing=0):
    """Answer every problem with the stage's number of thoughts: the loss, how many are right, the mean number
    of tokens made (thoughts too, as the paper counts; pauses are given), and mistakes as (problem, text).

    With --stop classifier also the mean number of thoughts, and how often it is the problem's own."""
    gpt.eval()
    device, stop = gpt.wte.weight.device, args.stop == "classifier"
    loss, predicted = 0.0, 0
    problems, tokens = problems[RANK::WORLD], [tokens[i] for i in range(RANK, len(tokens), WORLD)]
    for _, micros in batches(tokens, tokenizer, args, stage, missing):
        for micro in micros:
            with autocast(gpt, args):
                loss += coconut.loss(gpt, micro.to(device)).item() * len(micro.predicted)
            predicted += len(micro.predicted)
    texts, lengths, taken = [], [], torch.zeros(0)
    if problems:                        # of several processes one may have none
        n = fillers_asked(args, stage, missing)
        texts, lengths, _, taken = ask(gpt, tokenizer, problems, args, n, stop)
    own = [schedule(args, stage, list(map(len, t.steps)), missing)[1] for t in tokens]
    mistakes = [(problem, text) for problem, text in zip(problems, texts) if not data.grade(problem, text)]
    thought, same = int(taken.sum()), sum(a == b for a, b in zip(own, taken.tolist()))
    counts = [loss, predicted, sum(lengths) + thought, thought, same, len(problems), len(mistakes)]
    loss, predicted, made, thought, same, total, wrong = summed(torch.tensor(counts, device=device)).tolist()
    result = dict(loss=loss / predicted, correct=int(total - wrong), total=int(total), tokens=made / total)
    return result | (dict(thoughts=thought / total, own_number=same / total) if stop else {}), mistakes


def tokenize(problems, tokenizer, args, block_size, split):
    """The problems in ids. Refuses one that, with all steps and fillers, has more places than the model."""
    large = args.dataset == "gsm8k" and split == "train"
    cache = Path(torch.hub.get_dir()) / "coconut/gsm8k-train.npz" if large else None
    tokens = data.TokenSet.of(problems, tokenizer, cache)
    ends = tokens.ends[tokens.first]            # of each problem, after the start of the first
    lengths = ends[1:] - ends[:-1] + 2 + args.c * args.stages
    for i in (lengths > block_size).nonzero()[0]:
        raise Mistake(f"{split} problem {i} ('{problems[i].question[:40]}...') takes {lengths[i]} "
                      f"positions, but the model has {block_size}")
    return tokens


def show(record):
    """A log record as a line to read."""
    kind, where, rest = record["kind"], "stage {stage}/{last_stage}".format(**record), ""
    if kind == "test":
        where = "test" if record["stage"] == record["last_stage"] else f"test, only {where}"
    if kind == "step":
        return where + (
            " | epoch {epoch}/{epochs} | step {step}/{steps} | loss {loss:.4f} | lr {lr:.1e} | {ms:.0f} ms"
            " | {rate:,.0f} examples/min | eta ").format(**record) + span(record["eta"])
    if kind == "valid":
        where, rest = f"{where} | val loss {record['loss']:.3f}", f" | after {span(record['seconds'])}"
    accuracy = record["correct"] / record["total"]
    if "thoughts" in record:
        rest = " | {thoughts:.1f} thoughts, as many as steps * c in {own_number:.1%}".format(**record) + rest
    return where + " | acc {correct}/{total} = {:.1%} | {tokens:.1f} tokens".format(accuracy, **record) + rest


def span(s):
    return f"{s:.0f}s" if s < 100 else f"{s / 60:.0f}m" if s < 6000 else f"{s / 3600:.1f}h"


# ------------------------------------------------------------------------------------------------------------
# The run.

NOT_OF_A_RUN = ("out", "device", "resume", "eval_only")     # may differ from one command to the next


def as_flag(flag, value):
    """A setting as it may stand on a command line."""
    return f"--{'no-' * (not value)}{flag}" if isinstance(value, bool) else f"--{flag}={value}"


def settings_of(saved, path):
    """The settings in a checkpoint, by the command line's own door: none is unknown or out of bounds."""
    try:
        given = {k: v for k, v in saved["args"].items() if k not in NOT_OF_A_RUN and v is not None}
        if not all(isinstance(v, (str, int, float)) for v in given.values()):
            raise TypeError("settings that are no text or number")
        args = parse([as_flag(flag, value) for flag, value in given.items()])
        complete(args)
        if not 0 <= saved["stage"] <= saved["last_stage"]:
            raise ValueError(f"stage {saved['stage']} of {saved['last_stage']}")
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise Mistake(f"{path} does not hold a run of this program ({e}): name another") from None
    return args


def tokenizer_of(saved, gpt, path):
    """The tokenizer in a checkpoint, if it is the model's."""
    words = saved.get("words", ())
    if words is not None and not (isinstance(words, list) and all(isinstance(word, str) for word in words)):
        raise Mistake(f"{path} holds a model, but not the words that it knows")
    tokenizer = data.Tokenizer(words)
    if tokenizer.vocab_size > gpt.config.vocab_size:
        raise Mistake(f"{path} holds more words than its model knows")
    return tokenizer


def unusual(run):
    """The settings of a run that are not its table's, in words: what a table of results must keep apart."""
    usual = parse([f"--dataset={run.dataset}", f"--method={run.method}", f"--setting={run.setting}"])
    complete(usual)
    apart = ("seed", "data_seed", "stages", "micro_batch", *NOT_OF_A_RUN)
    other = {k: v for k, v in vars(run).items() if k not in apart and v != vars(usual)[k]}
    return " ".join([f"--setting {run.setting}"] * (run.setting != "quick")
                    + [as_flag(flag, value).replace("=", " ", 1) for flag, value in other.items()])


def refuse_other_run(args, saved):
    """A run goes on only with the settings that it began with. What `parse` left at None comes from it; a
    flag with a default of its own, such as --method, must be given again."""
    for flag, value in saved.items():
        given = vars(args).get(flag)
        if given is None:
            setattr(args, flag, value)
        elif flag not in NOT_OF_A_RUN and given != value:
            raise Mistake(f"{args.out} was begun with {flag} = {value}, not {given}: resume it with that")


def first_model(args, problems):
    """The model as training finds it, and its tokenizer: of random weights, GPT-2's, or another run's."""
    torch.manual_seed(args.seed)
    if args.init == "scratch":
        tokenizer = data.Tokenizer.of(problems)
        return GPT(GPTConfig(vocab_size=tokenizer.vocab_size, n_layer=args.n_layer, n_head=args.n_head,
                             n_embd=args.n_embd, dropout=args.dropout)), tokenizer
    if Path(args.init).is_dir():
        gpt, tokenizer, *_ = open_run(args.init, "cpu")
        refuse_new_words(problems, tokenizer, args.init)
    else:
        gpt, tokenizer = pretrained(args.init)
        gpt.grow(like=tokenizer.encode("<<")[0], new=3)         # <bot>, <eot>, <pause>
    model = GPT(replace(gpt.config, dropout=args.dropout))
    model.load_state_dict(gpt.state_dict())
    return model, tokenizer


def pretrained(name):
    """GPT-2 as it was published (gpt2, ..., or a file), and its tokenizer."""
    try:
        gpt, tokenizer = GPT.from_pretrained(name), data.Tokenizer()
    except ValueError as e:
        raise Mistake(f"--init {name}: {e}; or take random weights: --init scratch") from None
    if gpt.config.vocab_size != tokenizer.vocab_size - 3:
        raise Mistake(f"--init {name}: it has {gpt.config.vocab_size} words, not GPT-2's vocabulary")
    return gpt, tokenizer


def train_epoch(gpt, optimizers, shuffled, steps, done, total, args, report):
    """One pass over the training problems: `steps` shuffled batches, after `done` of the run's `total`."""
    gpt.train()
    every, clock, device = max(1, steps // LINES_PER_EPOCH), time.time(), gpt.wte.weight.device
    classifier, upcoming = args.stop == "classifier", next(shuffled)
    for step in range(1, steps + 1):
        predicted, micros = upcoming
        factor = lr_factor(done, total, args.warmup, args.decay)
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = group["peak_lr"] * factor
        loss = torch.zeros((), device=device)       # the mean over the predicted tokens of the whole batch
        for micro in micros:
            with autocast(gpt, args):
                part = coconut.loss(gpt, micro.to(device), args.detach_thoughts, classifier)
            part = part * (len(micro.predicted) / predicted)
            part.backward()
            loss += part.detach()
        if WORLD > 1:
            sum_gradients(list(gpt.parameters()))
        norm = torch.nn.utils.clip_grad_norm_(gpt.parameters(), 1.0)
        upcoming = next(shuffled, None)             # made while a GPU still works on this step ...
        if not norm.isfinite():     # ... which is waited for here, before a bad step gets into the weights
            raise FloatingPointError(f"loss {summed(loss).item()}, gradient norm {norm.item()} "
                                     f"at step {step} of {steps}, learning rate {args.lr * factor:.1e}")
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        done += 1
        if step % every == 0:
            ms = 1000 * (time.time() - clock) / every
            report("step", step=step, steps=steps, loss=summed(loss).item(), norm=norm.item(), ms=ms,
                   lr=args.lr * factor, rate=60_000 * args.batch_size / ms, eta=(total - done) * ms / 1000)
            clock = time.time()


def restore(saved, optimizers, out):
    """Where a last.pt stood: (epochs done, best count, bytes of log, seconds); optimizers are restored."""
    try:
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        epoch, best, log_size = (max(0, int(saved[k])) for k in ("epoch", "best", "log_size"))
        return epoch, best, log_size, float(saved["seconds"])
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise Mistake(f"{out}/last.pt is no state to go on from ({type(e).__name__}): "
                      "begin another run") from None


def train(args, out, device, gpt=None, saved=None):
    """All stages, epoch by epoch (paper: Method, Training Procedure). gpt, saved: a last.pt to go on from."""
    sets = data.problem_sets(args)
    longest, seen = max(len(p.steps) for p in sets["train"]), {p.question for p in sets["train"]}
    for split in ("valid", "test"):
        if known := sum(p.question in seen for p in sets[split]):
            print(f"warning: {known} of {len(sets[split]):,} {split} questions are training questions too")
    args.stages = args.stages or longest or 1           # K
    last_stage = last_stage_of(args, longest)
    if saved:
        tokenizer = tokenizer_of(saved, gpt, out / "last.pt")
        if args.init == "scratch" and saved["words"] != data.Tokenizer.of(sets["train"]).words:
            raise Mistake(f"the problems of {args.dataset} are not those that {out} was begun with")
    else:
        gpt, tokenizer = first_model(args, sets["train"])
    gpt = gpt.to(device)
    tokens = {split: tokenize(problems, tokenizer, args, gpt.config.block_size, split)
              for split, problems in sets.items()}
    steps = -(-len(tokens["train"]) // args.batch_size)     # per epoch

    optimizers = make_optimizers(gpt, args)
    begin, best, log_size, seconds = restore(saved, optimizers, out) if saved else (0, -1, 0, 0.0)
    out.mkdir(parents=True, exist_ok=True)
    log = open(os.devnull if RANK else out / "log.jsonl", "a")          # only the first process writes
    if not RANK:
        log.truncate(min(log.tell(), log_size))                         # the lines of an epoch cut off
    size = sum(p.numel() for p in gpt.parameters())
    print(f"{args.method} on {args.dataset}: {len(tokens['train']):,} problems, {size:,} parameters, "
          f"stages 0 to {last_stage}, {begin} of {args.epochs} epochs done, {device}, into {out}", flush=True)
    if stage_at(args.epochs - 1, args, last_stage) != (last_stage, 0):
        print(f"note: {args.epochs} epochs end before the last stage: see --epochs and --epochs_per_stage")

    def report(kind, **values):
        record = dict(kind=kind, stage=stage, last_stage=last_stage,
                      epoch=epoch + 1, epochs=args.epochs, **values)
        print(show(record), flush=True)
        print(json.dumps(record), file=log, flush=True)

    started = time.time() - seconds
    for epoch in range(begin, args.epochs):
        stage, missing = stage_at(epoch, args, last_stage)
        previous = stage_at(max(0, epoch - 1), args, last_stage)
        if (stage, missing) != previous:
            best = -1           # best.pt is of the newest stage: earlier ones, which write, may score higher
        if stage != previous[0] and args.reset_optimizer:
            optimizers = make_optimizers(gpt, args)
        # Every epoch seeds its own randomness, so a resumed run goes on exactly as an undisturbed one.
        torch.manual_seed((args.seed * 1_000_003 + epoch) * WORLD + RANK)
        rng, easy = random.Random(f"{args.seed} {epoch}"), epoch < args.easy_epochs
        chosen = tokens["easy" if easy else "train"]
        shuffled = batches(chosen, tokenizer, args, stage, missing, rng, alike=easy)
        try:
            train_epoch(gpt, optimizers, shuffled, steps, epoch * steps, args.epochs * steps, args, report)
        except FloatingPointError as e:
            raise Mistake(f"stage {stage}, epoch {epoch + 1}: {e}: try a lower --lr") from None

        result, _ = evaluate(gpt, tokenizer, sets["valid"], tokens["valid"], args, stage, missing)
        report("valid", **result, seconds=time.time() - started)
        if RANK:
            continue
        about = dict(args=vars(args), words=tokenizer.words, stage=stage, last_stage=last_stage,
                     epoch=epoch + 1)
        if result["correct"] >= best:
            best = result["correct"]
            coconut.save(out / "best.pt", gpt, **about)
        coconut.save(out / "last.pt", gpt, **about, best=best, log_size=log.tell(),
                     seconds=time.time() - started, optimizers=[o.state_dict() for o in optimizers])


def open_run(out, device):
    """The best checkpoint of a run, ready to answer: (model, tokenizer, settings, stage, last stage)."""
    path = Path(out) / "best.pt" if Path(out).is_dir() else Path(out)
    if not path.is_file():
        raise Mistake(f"no run in {out}: best.pt is there after the first epoch")
    gpt, saved = coconut.load(path, device)
    run, tokenizer = settings_of(saved, path), tokenizer_of(saved, gpt, path)
    return gpt.eval(), tokenizer, run, saved["stage"], saved["last_stage"]


def test_problems(args, run, out):
    """The run's own test problems, or those that --dataset and the problem flags ask for."""
    if args.dataset in data.GENERATORS and args.dataset != run.dataset:
        raise Mistake(f"{out} was trained on {run.dataset}, not {args.dataset}: name another run")
    if args.dataset in (None, run.dataset):
        given = {flag: vars(args)[flag] for flag in data.PROBLEM_FLAGS if vars(args)[flag] is not None}
        args = argparse.Namespace(**vars(run) | given)
    return data.problem_sets(args, ("test",))["test"]


def refuse_new_words(problems, tokenizer, run):
    """A vocabulary of words spells out new ones in bytes, but its model knows nothing of them."""
    if tokenizer.words:                         # GPT-2's vocabulary has None
        words = set(data.Tokenizer.of(problems).words)
        if len(words - set(tokenizer.words)) > len(words) / 2:
            raise Mistake(f"most words of these problems are new to {run}: it was trained on others")


def test(args, out, device):
    """The best checkpoint of the run in `out` on its own test problems, or on those of another --dataset."""
    gpt, tokenizer, run, stage, last_stage = open_run(out, device)
    problems = test_problems(args, run, out)
    refuse_new_words(problems, tokenizer, out)
    tokens = tokenize(problems, tokenizer, run, gpt.config.block_size, "test")
    result, mistakes = evaluate(gpt, tokenizer, problems, tokens, run, stage)
    for problem, text in mistakes[:5]:
        said = data.visible(" / ".join(text.splitlines())[:100])
        print(f"  wrong: ...{problem.question[-60:]} -> {said}, not {problem.answer}")
    record = dict(kind="test", dataset=args.dataset or run.dataset, method=run.method, seed=run.seed,
                  unusual=unusual(run), stage=stage, last_stage=last_stage, **result)
    print(show(record), flush=True)
    return record


# ------------------------------------------------------------------------------------------------------------
# The command line.

def parse(argv=None):
    """What the command line says of a run. Most of what it leaves open is None, for `complete` to fill."""
    number = data.number
    count, share, rate = number(int, 1), number(float, 0, 1), number(float, 0)
    rows = [f"  {setting} {dataset}: " + " ".join(f"{k}={v}" for k, v in row.items())
            for setting, table in SETTINGS.items() for dataset, row in table.items()]
    parser = data.Parser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(["Defaults that depend on --setting and --dataset:", *rows]))
    add = parser.add_argument
    add("--dataset", help="prontoqa, prosqa, gsm8k, or a folder in official format (default: prosqa)")
    add("--method", choices=METHODS, default="coconut", help="a row of the table METHODS (default: coconut)")
    add("--setting", choices=SETTINGS, default="quick", help="which table of defaults (default: quick)")
    # the curriculum
    add("--c", type=count, help="continuous thoughts per reasoning step")
    add("--stages", type=count, help="K: stages with ever more thoughts (default: the longest chain's steps)")
    add("--epochs", type=count, help="epochs in all; those left over train the last stage")
    add("--epochs_first", type=number(int, 0), help="epochs in stage 0, where a method has stages")
    add("--epochs_per_stage", type=count, help="epochs in each later stage")
    add("--easy_epochs", type=number(int, 0), help="epochs of easier problems first (results/quick.md)")
    add("--mix", type=share, help="share of batches of a random stage up to the current one")
    switch = argparse.BooleanOptionalAction
    add("--detach_thoughts", action=switch, default=False, help="stop gradients between thoughts")
    add("--c_ramp", action=switch, default=False, help="a stage's c thoughts come one by one, an epoch each")
    add("--stop", choices=("constant", "classifier"), default="constant",
        help="when a problem stops thinking: after K * c thoughts (default), or when a classifier says so")
    add("--icot_per_epoch", type=count, default=8, help="iCoT: tokens removed with every epoch (default: 8)")
    add("--icot_all", type=count, default=39, help="iCoT: beyond so many all are removed (default: 39)")
    data.add_problem_flags(parser)
    # the model
    add("--init", help="scratch, gpt2 (-medium, -large, -xl), its pytorch_model.bin, or the folder of a run")
    add("--n_layer", type=count, help="transformer blocks")
    add("--n_head", type=count, help="attention heads")
    add("--n_embd", type=count, help="width of the hidden states")
    add("--dropout", type=number(float, 0, 0.99), help="share of activations dropped in training")
    # the optimization
    add("--batch_size", type=count, help="problems per step")
    add("--micro_batch", type=count, help="problems that go through the model at once, to save memory")
    add("--lr", type=rate, help="AdamW's learning rate")
    add("--muon_lr", type=rate, help="Muon's learning rate for the matrices in the blocks; 0: AdamW for all")
    add("--warmup", type=number(int, 0), help="steps until the full learning rate")
    add("--decay", type=share, help="share of the run, at its end, in which the learning rate falls to 5 %%")
    add("--weight_decay", type=rate, help="weight decay of both optimizers")
    add("--reset_optimizer", action=switch, help="a new optimizer at every stage")
    # speed
    add("--bucket", type=count, help="batches of problems of like length are cut from so many random ones")
    add("--float32", action=switch, default=False, help="no bfloat16 in a GPU's matrix products")
    # the run
    add("--max_new_tokens", type=count, help="tokens to write, at most, in evaluation")
    add("--seed", type=number(int, 0, 2 ** 31), default=0, help="seed of weights and order (default: 0)")
    add("--device", default="auto", help="cpu, cuda, mps, or auto, the best there is (default: auto)")
    add("--out", help="the run's folder (default: runs/DATASET-METHOD-seedSEED)")
    add("--resume", action="store_true", help="go on with a run that was stopped: the same command plus this")
    add("--eval_only", action="store_true",
        help="no training: test the run in --out, on its own problems or --dataset (a .json file will do)")
    return parser.parse_args(argv)


def complete(args):
    """Fill what is still open from the setting's table. A folder takes ProsQA's, and has its own problems."""
    generated, table = args.dataset in data.GENERATORS, SETTINGS[args.setting]
    if args.dataset == "gsm8k" and "gsm8k" not in table:
        raise Mistake("gsm8k is for a model that knows words: add --setting paper")
    row = table[args.dataset if args.dataset in table else "prosqa"]
    args.init = args.init or row["init"]
    for flag, value in row.items():
        if flag in ("n_layer", "n_head", "n_embd") and args.init != "scratch":
            if vars(args)[flag] is not None:
                raise Mistake(f"--init {args.init} has its own shape: leave out --{flag}")
        elif vars(args)[flag] is None and (generated or flag not in data.PROBLEM_FLAGS):
            setattr(args, flag, value if generated or flag != "easy_epochs" else 0)
    if args.init == "scratch" and args.n_embd % args.n_head:
        raise Mistake(f"--n_embd {args.n_embd} is no multiple of --n_head {args.n_head}")
    if args.c_ramp and args.epochs_per_stage < args.c:
        raise Mistake(f"--c_ramp adds a thought an epoch: --c {args.c} needs --epochs_per_stage {args.c}")
    if METHODS[args.method] != ("thought", "staged") and (args.stop == "classifier" or args.c_ramp):
        raise Mistake(f"--stop and --c_ramp are for --method coconut, not {args.method}: leave them out")


def pick_device(name):
    """The device that --device names; `auto` is the best there is. Of several processes each gets a GPU of its
    own, or all compute on the CPU: gloo, which sums for them there, does not know mps."""
    gpus = torch.cuda.device_count()
    if WORLD > 1:
        name = ("cuda" if gpus else "cpu") if name == "auto" else name
        if name not in ("cpu", "cuda"):
            raise Mistake(f"--device {name} is one device, but there are {WORLD} processes: say cpu or cuda")
        if name == "cuda" and int(os.environ["LOCAL_WORLD_SIZE"]) > gpus:
            raise Mistake(f"{os.environ['LOCAL_WORLD_SIZE']} processes need as many GPUs, but there are {gpus}: "
                          "ask torchrun for fewer, or say --device cpu")
    elif name == "auto":
        name = "cuda" if gpus else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        if name.split(":")[0] in ("cpu", "cuda", "mps"):
            torch.empty(0, device=name)
            return name
    except (RuntimeError, AssertionError):
        pass
    raise Mistake(f"--device {name} is not to be had here: try auto or cpu")


def main(argv=None):
    args = parse(argv)
    device = pick_device(args.device)
    if WORLD > 1:                               # several processes: all compute, the first one speaks
        if device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if device == "cuda" else "gloo")
        sys.stdout = open(os.devnull, "w") if RANK else sys.stdout
    if args.eval_only:
        if not args.out:
            raise Mistake("--eval_only needs --out, the folder of the run to test")
        for flag, value in vars(parse([])).items():
            if vars(args)[flag] != value and flag not in ("dataset", *NOT_OF_A_RUN, *data.PROBLEM_FLAGS):
                raise Mistake(f"--eval_only tests a run as it was trained: leave out --{flag}")
        return test(args, Path(args.out), device)
    out = Path(args.out or f"runs/{Path(args.dataset or 'prosqa').name}-{args.method}-seed{args.seed}")
    args.out, gpt, saved = str(out), None, None
    if (out / "last.pt").exists():
        if not args.resume:
            raise Mistake(f"{out} holds a run already: add --resume to go on, or choose another --out")
        gpt, saved = coconut.load(out / "last.pt", device)
        refuse_other_run(args, vars(settings_of(saved, out / "last.pt")))
    elif args.resume:
        print(f"no checkpoint in {out} yet: starting anew")
    args.dataset = args.dataset or "prosqa"
    complete(args)
    try:
        train(args, out, device, gpt, saved)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command with --resume goes on after the last whole epoch") from None
    if WORLD > 1:
        dist.barrier()                          # until best.pt is written
    record = test(args, out, device)
    with open(os.devnull if RANK else out / "log.jsonl", "a") as log:
        print(json.dumps(record), file=log)


if __name__ == "__main__":
    data.run_or_explain(main)
    if WORLD > 1:
        dist.barrier()                          # none leaves while another still talks to it
        dist.destroy_process_group()
