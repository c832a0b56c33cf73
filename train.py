"""Train Coconut, or a method it is compared with.

Paper: Method (Training Procedure) and Experiments (Baselines and Various Versions of Coconut). A curriculum
of stages teaches the model to think without words: at stage s the first s steps of the written chain of
thought are gone and s * c continuous thoughts stand in their place, until at stage K only thoughts remain.

    python train.py --dataset prontoqa --c 1        the main job: minutes on a laptop, from random weights
    python train.py --dataset prosqa --method cot   a baseline; --method takes any row of METHODS
    python train.py --example                       no training: a problem as the model reads it
"""

import argparse
import functools
import itertools
import json
import math
import os
import platform
import random
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

import coconut
import data
from data import Tokenizer
from gpt import (GPT, GPTConfig, UserError, from_pretrained, from_weights, read_file, run_or_explain,
                 write_file)

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
ALL = 10 ** 9       # steps: more than any chain has
ICOT_ALL = 39       # iCoT removes more tokens with every epoch, and all where that is more than this many


def schedule(settings, stage):
    """(steps of the written chain removed, from its left; fillers in their place). Training and evaluation
    both use this. Coconut with c = 2 and K = 3, for a problem of 4 steps:

        stage     0      1       2        3        4 = K + 1: where chains can be longer than K, the rest goes
        input     ssss   ttsss   ttttss   tttttts  tttttt       t: thought, s: written step; then the answer

    A problem with fewer steps than the stage still gets stage * c fillers: in the last stage all get K * c.
    iCoT counts single tokens as steps, and its stage s is epoch s.
    """
    filler, chain = METHODS[settings.method]
    K, replaced = settings.stages, min(stage, settings.stages)
    if chain == "kept":             # no stages either
        removed, replaced = 0, K
    elif chain == "removed":        # no stages: the last one's fillers all along
        removed, replaced = ALL, K
    elif chain == "by token":
        removed = stage * settings.icot_per_epoch
        removed = removed if removed <= ICOT_ALL else ALL
    else:                           # staged: the first steps are gone, with c fillers for each
        removed = stage if stage <= K else ALL
    return removed, replaced * settings.c if filler else 0


def stage_at(epoch, settings, last):
    """The stage of epoch 0, 1, ...: epochs_first epochs of stage 0, then epochs_per_stage of each, and all
    that are left in `last`. With --easy all this comes after a round of `easy` epochs in each stage."""
    easy = settings.easy * (settings.stages + 1)
    is_by_token = METHODS[settings.method][1] == "by token"
    if epoch < easy:
        return min(epoch if is_by_token else epoch // settings.easy, last)
    epoch -= easy
    if is_by_token:
        return min(epoch, last)
    since = epoch - settings.epochs_first
    return 0 if since < 0 else min(1 + since // settings.epochs_per_stage, last)


def last_stage_of(settings, problems, tokenizer):
    """The last stage, for the problems' longest written chain: K, or K + 1 to remove what is left after K;
    for iCoT the first without a chain; 0 for methods that never change it."""
    chain = METHODS[settings.method][1]
    if chain == "staged":
        return settings.stages + (max(len(p.steps) for p in problems) > settings.stages)
    if chain == "by token":
        tokens = max(sum(map(len, tokenizer.ids(p)[1])) for p in problems)
        return math.ceil(min(tokens, ICOT_ALL + 1) / settings.icot_per_epoch)
    return 0


# ---- Batches, evaluation, and the loop.

BUCKET = 8                  # sort this many batches' problems by length before cutting them
MAX_NEW_TOKENS = 128        # to write, at most, in evaluation
MAX_NEW_WORDS = 48          # the same where tokens are words: our chains and answers have at most 29


@dataclass
class Run:
    """What is trained, and what a checkpoint opens to."""
    gpt: GPT
    tokenizer: Tokenizer
    settings: argparse.Namespace    # a value for each setting of the command line
    stage: int
    last_stage: int

    def fillers(self):
        """How many fillers a test problem gets: at the run's stage, all the same number."""
        return schedule(self.settings, self.stage)[1]

    def autocast(self):
        """A context in which a GPU multiplies matrices in bfloat16, unless --float32 or a GPU that only
        emulates it, slowly. Weights stay float32, and other devices compute in float32."""
        device = self.gpt.wte.weight.device.type
        able = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.autocast(device, torch.bfloat16, enabled=able and not self.settings.float32)


def layout(run, ids, stage, more=0):
    """A problem's training sequence at a stage, with `more` steps removed: see data.sequence."""
    question, steps, answer = ids
    filler, chain = METHODS[run.settings.method]
    if chain == "by token":
        steps = [[i] for step in steps for i in step]
    removed, n = schedule(run.settings, stage)
    return data.sequence(question, steps[removed + more:], answer, run.tokenizer, filler, n)


def batches(run, problems, rng):
    """An epoch: problems, as ids, in random order as batches of the run's stage, or, with --mix, some of a
    random stage up to it. (Not without fillers: nothing would tell the model the stage, and the same question
    would have contradicting targets.) Each is a list of micro-batches, which go through the model one after
    the other, to bound the memory, and share one optimizer step.

    A batch has problems of like length, which saves padding: each BUCKET of random batches is sorted.
    """
    settings, order = run.settings, list(problems)
    filler, chain = METHODS[settings.method]
    size, micro, bucket = settings.batch_size, settings.micro_batch, BUCKET * settings.batch_size
    # Not stage K in K + 1: both take the same thoughts.
    stages = [s for s in range(run.stage + 1) if s == run.stage or s != settings.stages]
    rng.shuffle(order)
    order = [ids for start in range(0, len(order), bucket)
             for ids in sorted(order[start:start + bucket], key=lambda ids: len(ids[0]))]
    chunks = [order[start:start + size] for start in range(0, len(order), size)]
    rng.shuffle(chunks)
    for chunk in chunks:
        # One draw for a batch, whose problems must take the same number of thoughts.
        stage = rng.choice(stages) if filler and rng.random() < settings.mix else run.stage
        # iCoT smooths its steps: o tokens more, with a probability in proportion to exp(-4 o).
        rows = [layout(run, ids, stage, int(rng.expovariate(4)) if chain == "by token" else 0)
                for ids in chunk]
        yield [data.collate(rows[start:start + micro]) for start in range(0, len(rows), micro)]


def train_epoch(run, optimizers, shuffled, done, total):
    """One pass over shuffled batches, after `done` of the run's `total` optimizer steps. Returns what the log
    says of it: the loss, as a mean over tokens and as a sum over those of a problem (a model that knows all
    but which of two answers is right has ln 2 = 0.69 nats), and the last learning rate."""
    gpt, settings, losses, tokens = run.gpt.train(), run.settings, [], []
    device = gpt.wte.weight.device
    for update, micros in enumerate(shuffled, start=done):
        factor = lr_factor(update, total, settings.warmup, settings.decay)
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
        counts = [(micro.target >= 0).sum().item() for micro in micros]     # tokens to predict
        loss = torch.zeros((), device=device)                               # the mean over all of them
        for micro, count in zip(micros, counts):
            with run.autocast():
                part = coconut.loss(gpt, micro.to(device), settings.detach_thoughts)
            part = part * (count / sum(counts))
            part.backward()
            loss += part.detach()
        torch.nn.utils.clip_grad_norm_(gpt.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss)
        tokens.append(sum(counts) / sum(len(micro.target) for micro in micros))     # per problem
        if len(losses) % 500 == 0:          # a sign of life in a long epoch
            print(f"step {update + 1} of {total} | loss {loss.item():.4f}", flush=True)
    # Once an epoch, not every step, since it waits for the GPU: weights that are nan stay nan.
    if not torch.stack([p.isfinite().all() for p in gpt.parameters()]).all():
        raise UserError(f"weights are nan or infinite by step {done + len(losses)} of {total}: "
                        "try a lower --lr and --muon_lr")
    losses = torch.stack(losses).cpu()
    return dict(loss=losses.mean().item(), loss_per_problem=(losses * torch.tensor(tokens)).mean().item(),
                lr=settings.lr * factor)


@torch.no_grad()
def ask(run, problems, n, given=None):
    """What the model writes after n fillers: texts, the number of tokens of each, and the thoughts (P, n, C),
    or (P, 0, C) for pauses.

    given (P, j, C): vectors in place of the first j thoughts.
    """
    tokenizer, filler = run.tokenizer, METHODS[run.settings.method][0]
    most = MAX_NEW_WORDS if tokenizer.words else MAX_NEW_TOKENS
    size = 4 * run.settings.micro_batch         # without gradients more fit
    answers, thoughts = [], []
    for start in range(0, len(problems), size):
        asked = [tokenizer.ids(p) for p in problems[start:start + size]]
        batch = data.collate([data.sequence(question, [], answer, tokenizer, filler, n)
                              for question, _, answer in asked]).to(run.gpt.wte.weight.device)
        with run.autocast():
            ids, thought = coconut.generate(run.gpt, batch, tokenizer.eos, most,
                                            None if given is None else given[start:start + size])
        answers += ids
        thoughts.append(thought)
    texts = [tokenizer.decode([i for i in ids if i != tokenizer.eos]) for ids in answers]
    return texts, list(map(len, answers)), torch.cat(thoughts)


@torch.no_grad()
def choose(run, problems, wrong, n, texts, given=None):
    """Forced choice: for each problem, is the right answer likelier than that of `wrong` (the same problem
    with the wrong answer), after n fillers and the steps that the model wrote itself, in `texts`? given: see
    `ask`."""
    tokenizer, filler, size = run.tokenizer, METHODS[run.settings.method][0], run.settings.micro_batch

    def losses(start, asked):                                                   # (B,): of steps and answer
        rows = []
        for problem, text in zip(asked[start:start + size], texts[start:]):
            question, _, answer = tokenizer.ids(problem)
            steps = [tokenizer.encode(text.split("###")[0])]
            rows.append(data.sequence(question, steps, answer, tokenizer, filler, n))
        batch = data.collate(rows).to(run.gpt.wte.weight.device)
        with run.autocast():
            hidden, *_ = coconut.cached_forward(run.gpt, batch, batch.language, given=(
                None if given is None else given[start:start + size]))
        logits = run.gpt.logits(hidden).float()
        return F.cross_entropy(logits.mT, batch.target, reduction="none").sum(1)
    return [bool(likelier) for start in range(0, len(problems), size)
            for likelier in losses(start, problems) < losses(start, wrong)]


def evaluate(run, problems, fully=False):
    """Answer every problem with the stage's number of thoughts: how many are right, and the mean number of
    tokens made. Thoughts count, as in the paper; pauses do not, since the model does not make them.

    fully: where a question offers two answers, also how often the other one was given, and how many are
    right by forced choice.
    """
    run.gpt.eval()
    texts, lengths, thoughts = ask(run, problems, run.fillers())
    result = dict(correct=sum(map(data.grade, problems, texts)), total=len(problems),
                  tokens=sum(lengths) / len(problems) + thoughts.size(1))
    wrong = list(map(data.wrong, problems)) if fully else [None]
    if all(wrong):
        result |= dict(other=sum(map(data.grade, wrong, texts)),
                       forced=sum(choose(run, problems, wrong, run.fillers(), texts)))
    return result


def train(run, sets, folder, saved):
    """All stages, epoch by epoch. saved: the last.pt to go on from, or None."""
    settings, optimizers = run.settings, make_optimizers(run)
    updates = math.ceil(len(sets["train"]) / settings.batch_size)       # optimizer steps per epoch
    first, best, started = 0, -1, time.time()
    if saved:
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        first, best, started = saved["epoch"], saved["best"], started - saved["seconds"]
    tested = {p.question for split in ("valid", "test") for p in sets[split]}
    is_fresh = settings.easy and settings.dataset in data.GENERATORS       # files have no new problems
    ids = [] if is_fresh else list(map(run.tokenizer.ids, sets["train"]))
    for epoch in range(first, settings.epochs):
        before = stage_at(max(0, epoch - 1), settings, run.last_stage)
        run.stage = stage_at(epoch, settings, run.last_stage)
        if run.stage != before:
            best = -1           # best.pt is of the newest stage: earlier ones, which write, may score higher
            optimizers = make_optimizers(run) if settings.reset_optimizer else optimizers
        # Every epoch seeds its own randomness, so a resumed run goes on exactly as an undisturbed one.
        torch.manual_seed((settings.seed * 1_000_003 + epoch) % 2 ** 63)
        rng = random.Random(f"{settings.seed} {epoch}")
        if is_fresh:
            ids = list(map(run.tokenizer.ids, fresh(run, epoch, tested)))
        learned = train_epoch(run, optimizers, batches(run, ids, rng), epoch * updates,
                              settings.epochs * updates)
        result = evaluate(run, sets["valid"])
        log(folder, dict(kind="valid", stage=run.stage, last_stage=run.last_stage, epoch=epoch + 1,
                         epochs=settings.epochs, **learned, **result, seconds=time.time() - started))
        if result["correct"] >= best:
            best = result["correct"]
            save(folder / "best.pt", run, epoch + 1)
        save(folder / "last.pt", run, epoch + 1, best=best, seconds=time.time() - started,
             optimizers=[o.state_dict() for o in optimizers])


# ---- The recipe, not the paper's: what makes random weights learn in minutes.

def fresh(run, epoch, tested):
    """An epoch's own training problems (--easy), none of which is `tested`; another seed has others. The
    fixed set is not trained on then; it gives the words, the longest chain and the number of problems.

    In the first round of stages, the easy one, a question has no distractors: there the model learns to find
    and to chain facts. After it, questions are whole. All methods keep this timetable.
    """
    settings = run.settings
    easier = {"distractors": 0.0} if epoch < settings.easy * (settings.stages + 1) else {}
    return data.problem_sets(settings, ("train",), seed=f"{settings.data_seed} {settings.seed} {epoch}",
                             seen=tested, **easier)["train"]


@torch.no_grad()
def begin_alike(gpt, tokenizer):
    """Let a token's vector begin as a sum: a vector for its name, and one for the rest, if there is a rest.
    "Every bompus is a ", "bompus. " and "bompus" share the first, "Every bompus is a " and "Every gorpus is
    a " the second. <eot> and <pause> begin as <bot>."""
    spread = gpt.wte.weight.std()
    vectors = {"": torch.zeros(gpt.config.n_embd)}
    for i, word in enumerate(tokenizer.words, start=256):
        for part in (parts := data.name_and_rest(word)):
            vectors.setdefault(part, spread * torch.randn(gpt.config.n_embd))
        gpt.wte.weight[i] = sum(vectors[part] for part in parts)
    gpt.wte.weight[[tokenizer.eot, tokenizer.pause]] = gpt.wte.weight[tokenizer.bot].clone()


class Muon(torch.optim.Optimizer):
    """Momentum, but the update of a matrix is replaced by a nearly orthogonal one with the same singular
    vectors, so that all its directions are learned at one rate, rare ones too (Jordan et al. 2024).

    As torch.optim.Muon, but in float32 and for all matrices of one shape at once. That one multiplies in
    bfloat16, which takes more than half of a small model's step on processors without bfloat16.
    """
    def __init__(self, matrices, lr, weight_decay):
        shapes = {}
        for p in matrices:
            shapes.setdefault(p.shape, []).append(p)
        groups = [dict(params=same) for same in shapes.values()]
        super().__init__(groups, dict(lr=lr, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            matrices, lr = group["params"], group["lr"]
            grads = torch.stack([p.grad for p in matrices])                             # (N, rows, columns)
            momentum = self.state[matrices[0]].setdefault("momentum", torch.zeros_like(grads))
            momentum.lerp_(grads, 0.05)
            update = orthogonal(grads.lerp(momentum, 0.95)) * max(1, grads.size(1) / grads.size(2)) ** 0.5
            for p, u in zip(matrices, update):
                p.mul_(1 - lr * group["weight_decay"]).sub_(u, alpha=lr)


def orthogonal(x):
    """Matrices (N, rows, columns), with singular values brought near 1 by five Newton-Schulz steps, each
    x = a x + b (x xT) x + c (x xT)^2 x."""
    if x.size(1) > x.size(2):
        return orthogonal(x.mT).mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.mT                                                                 # (N, rows, rows)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return x


def make_optimizers(run):
    """AdamW for all (the paper), or, if muon_lr > 0, Muon for the blocks' matrices and AdamW for the rest."""
    gpt, settings = run.gpt, run.settings
    matrices = [p for p in gpt.h.parameters() if p.dim() == 2] if settings.muon_lr else []
    chosen = {id(p) for p in matrices}
    others = [p for p in gpt.parameters() if id(p) not in chosen]
    betas, decay = (0.9, 0.98) if settings.muon_lr else (0.9, 0.999), settings.weight_decay
    optimizers = [torch.optim.AdamW(others, lr=settings.lr, betas=betas, weight_decay=decay, fused=True)]
    if matrices:
        optimizers.append(Muon(matrices, lr=settings.muon_lr, weight_decay=decay))
    return optimizers


def lr_factor(update, total, warmup, decay):
    """Factor of the learning rate: up over `warmup` updates, 1, down to 5 % in the run's last `decay`."""
    up = min(1.0, (update + 1) / warmup) if warmup else 1.0
    left = (total - update) / (decay * total) if decay else 1.0
    return up * max(0.05, min(1.0, left))


# ---- Log lines, and runs in folders.

def wilson(correct, total, z=1.96):
    """The 95 % interval of a share that was measured as correct / total (Wilson 1927)."""
    share, extra = correct / total, z * z / total
    half = math.sqrt(share * (1 - share) * extra + extra * extra / 4)
    return tuple((share + extra / 2 + side) / (1 + extra) for side in (-half, half))


def origin(run, epoch):
    """The log's record of what begins here, after `epoch` epochs: the settings, and what else a number rests
    on."""
    place, device = Path(__file__).parent, run.gpt.wte.weight.device
    try:
        git = subprocess.run(["git", "-C", place, "describe", "--always", "--dirty"], capture_output=True)
        commit = git.stdout.decode().strip()
    except OSError:
        commit = ""                                             # no git here
    processor = (torch.cuda.get_device_name(device) if device.type == "cuda" else
                 f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}")
    return dict(kind="run", epoch=epoch, settings=vars(run.settings), commit=commit, torch=torch.__version__,
                processor=processor, threads=torch.get_num_threads())


def log(folder, record):
    """Add a record to the folder's log, and print it if it is of an epoch or of a test."""
    line = "stage {stage}/{last_stage} | right {correct}/{total} = {share:.1%} | {tokens:.1f} tokens"
    if record["kind"] == "valid":
        line = "epoch {epoch}/{epochs} | " + line + " | loss {loss:.4f} | after {seconds:.0f} s"
    else:
        line = "test on {dataset} | " + line + " | 95 % interval {low:.1%} to {high:.1%}"
        if "forced" in record:
            line += " | the other answer {other}, forced choice {forced}"
    if record["kind"] != "run":
        low, high = wilson(record["correct"], record["total"])
        share = record["correct"] / record["total"]
        print(line.format(share=share, low=low, high=high, **record), flush=True)
    path = Path(folder) / "log.jsonl"
    if record["kind"] != "test" or path.exists():       # a model that came without a log stays without
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def new_run(settings, problems):
    """A run before its first epoch: of random weights, GPT-2's, or another run's."""
    settings.stages = settings.stages or max(len(p.steps) for p in problems) or 1           # K
    torch.manual_seed(settings.seed % 2 ** 63)
    if settings.init == "scratch":
        tokenizer = Tokenizer.of(problems)
        gpt = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, n_layer=settings.n_layer, n_head=settings.n_head,
                            n_embd=settings.n_embd, dropout=settings.dropout))
        begin_alike(gpt, tokenizer)
    else:
        if Path(settings.init).is_dir() or settings.init.endswith(".pt"):
            run, _ = open_run(settings.init, "cpu")
            old, tokenizer, weights = run.gpt, run.tokenizer, run.gpt.state_dict()
        else:
            old, tokenizer = from_pretrained(settings.init), Tokenizer()
            if old.config.vocab_size + 3 != tokenizer.vocab_size:
                raise UserError(f"{settings.init} knows {old.config.vocab_size} words, and not GPT-2's 50257")
            weights = old.state_dict()
            like = weights["wte.weight"][tokenizer.encode("<<")[:1]]    # (1, C): <bot>, <eot> and <pause>
            weights["wte.weight"] = torch.cat([weights["wte.weight"], like.expand(3, -1)])  # begin as "<<"
        gpt = from_weights(weights, old.config.n_head, settings.dropout)
    return Run(gpt, tokenizer, settings, 0, last_stage_of(settings, problems, tokenizer))


def save(path, run, epoch, **more):
    """Write a run and `more` (plain values and tensors) to one file: whole, or not at all."""
    values = dict(config=asdict(run.gpt.config), model=run.gpt.state_dict(), args=vars(run.settings),
                  words=run.tokenizer.words, stage=run.stage, last_stage=run.last_stage, epoch=epoch, **more)
    write_file(path, lambda beside: torch.save(values, beside))


def open_run(path, device):
    """A run, ready to answer, and all that `save` wrote: the best checkpoint of a run's folder, or the one at
    a path."""
    path = Path(path) / "best.pt" if Path(path).is_dir() else Path(path)
    if not path.is_file():
        raise UserError(f"there is no {path}: name a run's folder (best.pt is there after an epoch)")

    def build(saved):
        args = saved["args"]            # an older version may lack a setting: then it is the usual one
        settings = argparse.Namespace(**usual(args["setting"], args["dataset"]) | args)
        gpt = from_weights(saved["model"], saved["config"]["n_head"], saved["config"]["dropout"])
        return Run(to_device(gpt, device).eval(), Tokenizer(saved["words"]), settings, saved["stage"],
                   saved["last_stage"]), saved
    return read_file(path, build)


def pick_device(name):
    """The device that --device names; `auto` is a CUDA GPU, if there is one, or else the CPU."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError):
        raise UserError(f"--device {name} is not available here: try auto or cpu") from None
    if name.startswith("mps"):          # pytorch issues 184180 (masks) and 195163 (large matrices)
        raise UserError("--device mps: torch computes wrong attention or gradients on some Macs: use cpu")
    return name


def to_device(gpt, device):
    """Move a model to a device. On a CPU one narrower than GPT-2 takes one thread, unless OMP_NUM_THREADS is
    set: two are a little faster alone, but much slower beside other programs (results/differences.md). The
    tiniest numbers become 0: a trained model has many, and processors are slow with them."""
    torch.set_flush_denormal(True)
    if device == "cpu" and gpt.config.n_embd < 768 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    return gpt.to(device)


# ---- The command line.

# The defaults of --setting quick, a run of minutes from random weights (results/README.md says why), and of
# --setting paper (Experiments, Setup). The paper's problems are data.py's defaults.
QUICK = dict(
    dataset="prosqa", method="coconut", setting="quick", seed=0, train_size=7000, valid_size=1000,
    test_size=2000, c=1, stages=0, epochs=32, epochs_first=3, epochs_per_stage=2, easy=3, mix=0.0,
    icot_per_epoch=1, detach_thoughts=False, init="scratch", n_layer=4, n_head=3, n_embd=96, dropout=0.0,
    batch_size=16, micro_batch=32, lr=5e-4, muon_lr=0.0025, warmup=100, decay=0.9, weight_decay=0.0,
    reset_optimizer=False, float32=False)
QUICK_BY_DATASET = {        # graphs for a run of 20 minutes; ProntoQA: a smaller model, mixed stages
    "prosqa": dict(nodes=12, max_steps=4, either_root=True),
    "prontoqa": dict(epochs_first=1, epochs_per_stage=1, easy=2, mix=0.6, icot_per_epoch=4,
                     n_head=2, n_embd=64)}
FULL = dict(                # of --setting full: graphs as large as the paper's, an hour
    nodes=28, max_steps=6, either_root=True, epochs=96, epochs_first=2, epochs_per_stage=1, mix=1.0,
    n_head=2, batch_size=32, lr=7e-4, muon_lr=0.0035)
PAPER = QUICK | dict(
    epochs=50, epochs_first=5, epochs_per_stage=5, easy=0, icot_per_epoch=8, init="gpt2", n_layer=12,
    n_head=12, n_embd=768, dropout=0.1, batch_size=128, lr=1e-4, muon_lr=0.0, warmup=0, decay=0.0,
    weight_decay=0.01, reset_optimizer=True)
PAPER_GSM8K = dict(c=2, stages=3, epochs_first=6, epochs_per_stage=3)


def usual(setting, dataset):
    """{flag: value} of all settings of a run for which only these two are typed."""
    problems = data.problem_defaults(dataset)
    if setting == "paper":
        return PAPER | problems | (PAPER_GSM8K if dataset == "gsm8k" else {}) | {"dataset": dataset}
    size = FULL if setting == "full" else QUICK_BY_DATASET.get(dataset, {})
    return problems | QUICK | size | {"dataset": dataset}


def as_flags(settings):
    """Settings, {flag: value}, as they are typed."""
    return " ".join(f"--{'no-' * (not v)}{k}" if isinstance(v, bool) else f"--{k} {v}"
                    for k, v in settings.items())


def add_settings(add):
    """The flags of how a run learns; `add` is a parser's add_argument."""
    number, switch = data.number, argparse.BooleanOptionalAction
    count, natural, rate, share = number(int, 1), number(int, 0), number(float, 0), number(float, 0, 1)
    add("--dataset", help="prontoqa, prosqa, gsm8k, or a folder in official format")
    add("--method", choices=METHODS, help="a row of the table METHODS")
    add("--setting", choices=("quick", "full", "paper"),
        help="defaults of a run of minutes; of an hour, on prosqa with the paper's graphs; or the paper's")
    add("--seed", type=natural, help="seed of weights and order")
    # the curriculum
    add("--c", type=count, help="continuous thoughts per reasoning step")
    add("--stages", type=natural, help="K, the last stage with new thoughts; 0: the longest chain's steps")
    add("--epochs", type=count, help="epochs in all, over all stages")
    add("--epochs_first", type=natural, help="epochs in stage 0")
    add("--epochs_per_stage", type=count, help="epochs in each later stage")
    add("--easy", type=natural, help="before all these, so many epochs of each stage without distractors; "
        "new problems every epoch (0: always the same; a folder's problems stay as they are)")
    add("--mix", type=share, help="share of batches of a random stage up to the current one, where fillers "
        "tell the model which")
    add("--icot_per_epoch", type=count, help="iCoT: tokens of the chain removed with every epoch")
    add("--detach_thoughts", action=switch, help="stop gradients between thoughts")
    # the model
    add("--init", help="scratch, gpt2, a copy of its file (.bin), or a run's folder or .pt")
    add("--n_layer", type=count, help="transformer blocks")
    add("--n_head", type=count, help="attention heads")
    add("--n_embd", type=count, help="width of the hidden states")
    add("--dropout", type=number(float, 0, 0.99), help="share of activations dropped in training")
    # the optimization
    add("--batch_size", type=count, help="problems per optimizer step")
    add("--micro_batch", type=count, help="of these so many go through the model at once: fewer save memory")
    add("--lr", type=rate, help="AdamW's learning rate")
    add("--muon_lr", type=rate, help="Muon's, for the blocks' matrices; 0: AdamW for all")
    add("--warmup", type=natural, help="optimizer steps until the full learning rate")
    add("--decay", type=share, help="share of the run, at its end, in which the learning rate falls")
    add("--weight_decay", type=rate, help="weight decay of both optimizers")
    add("--reset_optimizer", action=switch, help="a new optimizer at every stage")
    add("--float32", action=switch, help="no bfloat16 in a GPU's matrix products")


def parse(argv=None):
    """The settings that are typed, {flag: value}, and the flags that are no settings of a run."""
    quick = usual("quick", "prosqa")
    paper = {flag: value for flag, value in usual("paper", "prosqa").items() if value != quick[flag]}
    parser = data.Parser(description=__doc__.split("\n\n")[0], epilog=(
        f"defaults: {as_flags(quick)} (on prontoqa: {as_flags(QUICK_BY_DATASET['prontoqa'])}); "
        f"with --setting full: {as_flags(FULL)}; "
        f"with --setting paper: {as_flags(paper)} (on gsm8k: {as_flags(PAPER_GSM8K)})"))
    add = parser.add_argument
    add("--device", default="auto", help="cpu, cuda, or auto: cuda, if there is one")
    add("--out", help="the run's folder (runs/DATASET-METHOD-seedSEED)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--resume", action="store_true",
                      help="go on with a run that was stopped: the same command plus this")
    what.add_argument("--eval_only", action="store_true", help="no training: test the run in --out, on its "
                      "own problems or --dataset (a .json file will do)")
    what.add_argument("--example", action="store_true",
                      help="no training: print a problem as the model reads it, by stage")
    command = [*vars(parser.parse_args([]))]        # all flags so far; those that follow are settings
    add_settings(functools.partial(add, default=argparse.SUPPRESS))
    data.add_flags(parser)
    typed = vars(parser.parse_args(argv))
    return typed, argparse.Namespace(**{flag: typed.pop(flag) for flag in command})


def settings_of(typed):
    """All settings of a new run. Refuses those that do not go together."""
    setting, dataset = (typed.get(flag, QUICK[flag]) for flag in ("setting", "dataset"))
    settings = argparse.Namespace(**usual(setting, dataset) | typed)
    data.refuse_idle(typed, settings.dataset)
    if settings.dataset == "gsm8k" and settings.setting != "paper":
        raise UserError("gsm8k is for a model that knows words: take --setting paper")
    if settings.dataset != "prosqa" and settings.setting == "full":
        raise UserError("--setting full is for prosqa: leave it out")
    if settings.init != "scratch" and (shape := typed.keys() & {"n_layer", "n_head", "n_embd"}):
        raise UserError(f"--init {settings.init} has its own shape: leave out --{', --'.join(sorted(shape))}")
    return settings


def fit(typed, folder, device, resume):
    """Begin a run in a folder, or go on with the one there, and train it to its end."""
    best, last, saved = folder / "best.pt", folder / "last.pt", None
    # A run that was killed between the two saves of its first epoch has a best.pt alone.
    if best.exists() and not (resume and (last.exists() or open_run(best, "cpu")[1]["epoch"] == 1)):
        raise UserError(f"{folder} holds a model: choose another --out, or go on with a run by --resume")
    if last.exists():
        run, saved = open_run(last, device)
        settings = run.settings
        settings.micro_batch = typed.get("micro_batch", settings.micro_batch)       # how much fits now
        data.refuse_idle(typed, settings.dataset)
        for flag, value in typed.items():
            if value != vars(settings)[flag] and (flag, value) != ("stages", 0):
                raise UserError(f"{folder} was begun with {flag} = {vars(settings)[flag]}, not {value}: "
                                f"leave out --{flag}, or name another --out")
    else:
        settings = settings_of(typed)
        if resume:
            print(f"no checkpoint in {folder} yet: starting anew")
    sets = data.problem_sets(settings)
    if not saved:
        run = new_run(settings, sets["train"])
        to_device(run.gpt, device)
    size, done = sum(p.numel() for p in run.gpt.parameters()), saved["epoch"] if saved else 0
    print(f"{settings.method} on {settings.dataset}: {len(sets['train']):,} problems, {size:,} parameters, "
          f"stages 0 to {run.last_stage}, {done} of {settings.epochs} epochs done, {device}"
          f"{f' ({torch.get_num_threads()} threads)' * (device == 'cpu')}, into {folder}", flush=True)
    needed = next(epochs for epochs in itertools.count(settings.epochs)
                  if stage_at(epochs - 1, settings, run.last_stage) == run.last_stage)
    if needed > settings.epochs:
        print(f"note: stage {run.last_stage}, the last, begins in epoch {needed}: raise --epochs")
    folder.mkdir(parents=True, exist_ok=True)
    log(folder, origin(run, done))
    train(run, sets, folder, saved)


def test(folder, device, typed):
    """Test the best checkpoint of a run, on its own test problems or on others. Its log, if any, tells."""
    if not folder:
        raise UserError("--eval_only needs --out, the folder of the run to test")
    run, _ = open_run(folder, device)
    if wrong := typed.keys() - data.PROBLEM_FLAGS - {"dataset", "micro_batch"}:
        raise UserError("--eval_only tests a run as it was trained: leave out "
                        f"--{', --'.join(sorted(wrong))}")
    settings = run.settings
    settings.micro_batch = typed.pop("micro_batch", settings.micro_batch)
    result = evaluate(run, data.test_problems(settings, typed), fully=True)
    dataset = typed.pop("dataset", settings.dataset)
    log(folder, dict(kind="test", dataset=f"{dataset} {as_flags(typed)}".strip(), stage=run.stage,
                     last_stage=run.last_stage, **result))


def example(settings):
    """Print a training problem as the model reads it, at the first, a middle and the last stage."""
    settings.train_size = min(settings.train_size, 500)         # enough for every word to occur
    problems = data.problem_sets(settings, ("train",))["train"]
    problem, settings.stages = problems[0], settings.stages or max(len(p.steps) for p in problems)
    tokenizer = Tokenizer.of(problems) if settings.init == "scratch" else Tokenizer()
    last, show = last_stage_of(settings, problems, tokenizer), tokenizer.show
    run = Run(None, tokenizer, settings, 0, last)
    print("\n".join([problem.question, *problem.steps, f"### {problem.answer}"]))
    for stage in sorted({0, last // 2, last}):
        question, n, language = layout(run, tokenizer.ids(problem), stage)
        print(f"\nstage {stage} of {last}: {n} thoughts, loss on {len(language) - 1} tokens")
        tail = min(6, len(question))                            # the question is long; its end will do
        read = [f"{len(question) - tail} tokens", *map(show, question[-tail:]),
                *(f"t{i + 1}" for i in range(n)), *map(show, language[:-1])]
        predicted = [""] * (1 + tail + n) + list(map(show, language[1:]))
        data.show_table(["input", "predicts"], list(zip(read, predicted)))


def main(argv=None):
    typed, command = parse(argv)
    if command.example:
        return example(settings_of(typed))
    device = pick_device(command.device)
    if command.eval_only:
        return test(command.out, device, typed)
    dataset, method, seed = (typed.get(flag, QUICK[flag]) for flag in ("dataset", "method", "seed"))
    folder = Path(command.out or f"runs/{Path(dataset).name}-{method}-seed{seed}")
    fit(typed, folder, device, command.resume)
    test(folder, device, {})


if __name__ == "__main__":
    run_or_explain(main)
