"""Train Coconut, or a method it is compared with.

Paper: Method (Training Procedure) and Experiments (Baselines and Various Versions of Coconut). A curriculum
of stages teaches the model to think without words: at stage s the first s steps of the written chain of
thought are gone and s * c continuous thoughts stand in their place, until at stage K only thoughts remain.

    python train.py --dataset prontoqa --c 1        the main job: minutes on a laptop, from random weights
    python train.py --dataset prosqa --method cot   a baseline; --method takes any row of METHODS
"""

import argparse
import json
import random
import time
from pathlib import Path

import torch

import coconut
import data
from gpt import GPT, GPTConfig

# The methods as one grid: the filler between question and answer, and what becomes of the written chain.
METHODS = {
    #                    filler     chain
    "coconut":          ("thought", "staged"),      # the paper's method
    "cot":              (None,      "kept"),        # chain of thought, every step written
    "no_cot":           (None,      "removed"),     # the answer at once
    "pause":            ("pause",   "removed"),     # pause tokens (Goyal et al. 2023), never a written step
    "no_curriculum":    ("thought", "removed"),     # "w/o curriculum": thoughts, never a written step
    "no_thought":       (None,      "staged"),      # "w/o thought": removed steps leave nothing behind
    "pause_as_thought": ("pause",   "staged"),      # pause tokens in the thoughts' places
}


def schedule(method, stage, steps, c, K):
    """(steps removed, fillers) of a problem with so many steps; training, evaluation and sampling ask here.

    Coconut with c = 2 and K = 3, for a problem of 4 steps:

        stage   0       1       2       3       4 = K + 1: where chains can be longer than K, the rest goes
        input   s s s s tts s s tttts s tttttts tttttt          t: thought, s: written step; then the answer

    A problem with fewer steps than the stage still gets stage * c fillers, so at test time all get K * c.
    """
    filler, chain = METHODS[method]
    if chain == "kept":
        removed, n = 0, 0
    elif chain == "removed":
        removed, n = steps, K * c
    else:
        removed, n = steps if stage > K else min(stage, steps), min(stage, K) * c
    return removed, n if filler else 0


def stage_at(epoch, first, per_stage, last):
    """The stage of epoch 0, 1, ...: `first` epochs of stage 0, then per_stage each, all others in `last`."""
    return 0 if epoch < first else min(1 + (epoch - first) // per_stage, last)


# Defaults of the flags, by --setting and --dataset. "paper" is the paper's (Experiments, Setup). "quick"
# takes minutes on two cores: how its values were found, and what each is worth, is in results/quick.md.
PAPER = dict(c=1, epochs=50, epochs_first=5, epochs_per_stage=5, easy_epochs=0, mix=0.0, reset_optimizer=True,
             n_layer=12, n_head=12, n_embd=768, dropout=0.1, batch_size=128, micro_batch=128,
             lr=1e-4, muon_lr=0.0, weight_decay=0.01, warmup=0, decay=0.0)
QUICK = dict(c=1, easy_epochs=0, mix=0.3, reset_optimizer=False,
             n_layer=4, n_head=4, n_embd=64, dropout=0.0, batch_size=64, micro_batch=32,
             weight_decay=0.0, warmup=100)
SETTINGS = {
    "paper": {
        "prontoqa": PAPER | dict(hops=5, train_size=9000, valid_size=200, test_size=800),
        "prosqa": PAPER | dict(nodes=28, min_steps=3, max_steps=6,
                               train_size=17886, valid_size=300, test_size=500),
    },
    "quick": {
        "prontoqa": QUICK | dict(hops=2, plain=True, train_size=20000, valid_size=200, test_size=800,
                                 epochs=14, epochs_first=4, epochs_per_stage=2, easy_epochs=9,
                                 lr=1.5e-3, muon_lr=0.01, decay=0.4),
        "prosqa": QUICK | dict(nodes=8, names=8, min_steps=3, max_steps=3,
                               train_size=20000, valid_size=300, test_size=500,
                               epochs=17, epochs_first=4, epochs_per_stage=3,
                               lr=3e-3, muon_lr=0.02, decay=0.5),
    },
}

MAX_NEW_TOKENS = 128    # the paper's; a written ProntoQA chain is at most 108 GPT-2 tokens
LINES_PER_EPOCH = 4


def batches(tokens, tokenizer, args, stage, rng=None, alike=False):
    """The problems as batches of one stage; with rng shuffled, and at times of an earlier stage (args.mix).

    A batch is a list of micro-batches, which go through the model one after the other and share one optimizer
    step. They bound the memory; and as each takes problems of like length, there is less padding to compute.
    alike: problems of like length share whole batches too, which helps easy problems (a batch without
    distractors shows what a rule is for) and hurts others (results/quick.md).
    """
    filler, _ = METHODS[args.method]
    order = list(range(len(tokens)))
    if rng:
        rng.shuffle(order)
    if alike:
        order.sort(key=lambda i: len(tokens[i].question))
    chunks = [order[start:start + args.batch_size] for start in range(0, len(order), args.batch_size)]
    if alike:
        rng.shuffle(chunks)
    for chunk in chunks:
        if rng:
            chunk.sort(key=lambda i: len(tokens[i].question))
        # Mixing draws once for a batch, not for each example: its sequences stay alike in length.
        s = rng.randint(0, stage) if rng and rng.random() < args.mix else stage
        plans = [schedule(args.method, s, len(tokens[i].steps), args.c, args.stages) for i in chunk]
        rows = [data.encode(tokens[i], tokenizer, filler, *plan) for i, plan in zip(chunk, plans)]
        yield [data.collate(rows[i:i + args.micro_batch]) for i in range(0, len(rows), args.micro_batch)]


def make_optimizers(gpt, args):
    """AdamW for all (the paper), or, if muon_lr > 0, Muon for the blocks' matrices and AdamW for the rest."""
    matrices = [p for p in gpt.h.parameters() if p.dim() == 2] if args.muon_lr else []
    chosen = {id(p) for p in matrices}
    others = [p for p in gpt.parameters() if id(p) not in chosen]
    betas = (0.9, 0.98) if args.muon_lr else (0.9, 0.999)
    optimizers = [torch.optim.AdamW(others, lr=args.lr, betas=betas, weight_decay=args.weight_decay)]
    if matrices:
        optimizers.append(torch.optim.Muon(matrices, lr=args.muon_lr, weight_decay=args.weight_decay))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def lr_factor(step, total, warmup, decay):
    """Factor of the learning rate: up over `warmup` steps, 1, down to 5 % in the last `decay` of the run."""
    up = min(1.0, (step + 1) / warmup) if warmup else 1.0
    left = (total - step) / (decay * total) if decay else 1.0
    return up * max(0.05, min(1.0, left))


@torch.no_grad()
def evaluate(gpt, tokenizer, problems, tokens, args, stage):
    """Answer every problem with the stage's number of thoughts: the loss, how many are right, the mean number
    of tokens made (thoughts too, as the paper counts; pauses are given), and mistakes as (problem, text)."""
    gpt.eval()
    device, limit = gpt.wte.weight.device, gpt.config.block_size
    loss, predicted, made, texts = 0.0, 0, 0, []
    for batch in (micro.to(device) for batch in batches(tokens, tokenizer, args, stage) for micro in batch):
        words = int((batch.target >= 0).sum())
        loss, predicted = loss + coconut.loss(gpt, batch).item() * words, predicted + words
        room = limit - int((batch.length + batch.thoughts).max())
        written, _ = coconut.generate(gpt, batch, tokenizer.eos, min(MAX_NEW_TOKENS, room))
        made += sum(map(len, written)) + int(batch.thoughts.sum())
        texts += [tokenizer.decode([i for i in ids if i != tokenizer.eos]) for ids in written]
    mistakes = [(problem, text) for problem, text in zip(problems, texts) if not data.grade(problem, text)]
    total = len(problems)
    right = total - len(mistakes)
    return dict(loss=loss / predicted, correct=right, total=total, tokens=made / total), mistakes


def tokenize(problems, tokenizer, block_size, fillers, split):
    """The problems in ids. Refuses one that, with all steps and fillers, has more places than the model."""
    tokens = [data.Tokens.of(p, tokenizer) for p in problems]
    for i, t in enumerate(tokens):
        length = len(t.question) + 2 + fillers + sum(map(len, t.steps)) + len(t.answer)
        if length > block_size:
            raise ValueError(f"{split} problem {i} ('{problems[i].question[:40]}...') takes {length} "
                             f"positions, but the model has {block_size}")
    return tokens


def show(record):
    """A log record as a line to read."""
    kind, rest, where = record["kind"], "", "stage {stage}/{last_stage}".format(**record)
    if kind == "test":
        where = "test" if record["stage"] == record["last_stage"] else f"test, only {where}"
    if kind == "step":
        return where + (
            " | epoch {epoch}/{epochs} | step {step}/{steps} | loss {loss:.4f} | lr {lr:.1e} | {ms:.0f} ms"
            " | {rate:,.0f} examples/min | eta ").format(**record) + span(record["eta"])
    if kind == "valid":
        where, rest = f"{where} | val loss {record['loss']:.3f}", f" | after {span(record['seconds'])}"
    accuracy = record["correct"] / record["total"]
    return where + " | acc {correct}/{total} = {:.1%} | {tokens:.1f} tokens".format(accuracy, **record) + rest


def span(s):
    return f"{s:.0f}s" if s < 100 else f"{s / 60:.0f}m" if s < 6000 else f"{s / 3600:.1f}h"


# ------------------------------------------------------------------------------------------------------------
# The run.

def refuse_other_run(args, saved):
    """A run goes on only with the settings that it began with; what the command leaves open comes from it."""
    for flag, value in saved.items():
        given = vars(args).get(flag)
        if given is None:
            setattr(args, flag, value)
        elif flag not in ("out", "device", "resume") and given != value:
            raise ValueError(f"{args.out} was begun with {flag} = {value}, not {given}: resume it with that")


def new_model(args, vocab_size):
    torch.manual_seed(args.seed)
    return GPT(GPTConfig(vocab_size=vocab_size, n_layer=args.n_layer, n_head=args.n_head,
                         n_embd=args.n_embd, dropout=args.dropout))


def train_epoch(gpt, optimizers, batches, steps, done, total, args, report):
    """One pass over the training problems: `steps` batches, after `done` of the run's `total` steps."""
    gpt.train()
    every, clock, device = max(1, steps // LINES_PER_EPOCH), time.time(), gpt.wte.weight.device
    for step, batch in enumerate(batches, start=1):
        factor = lr_factor(done, total, args.warmup, args.decay)
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = group["peak_lr"] * factor
        predicted = [int((micro.target >= 0).sum()) for micro in batch]
        loss = 0.0                                  # the mean over the predicted tokens of the whole batch
        for micro, n in zip(batch, predicted):
            part = coconut.loss(gpt, micro.to(device), args.detach_thoughts) * (n / sum(predicted))
            part.backward()
            loss += part.detach()
        norm = torch.nn.utils.clip_grad_norm_(gpt.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        done += 1
        if step % every == 0:
            ms = 1000 * (time.time() - clock) / every
            report("step", step=step, steps=steps, loss=loss.item(), norm=norm.item(), lr=args.lr * factor,
                   ms=ms, rate=60_000 * args.batch_size / ms, eta=(total - done) * ms / 1000)
            clock = time.time()


def train(args, out, device, saved=None):
    """All stages, epoch by epoch (paper: Method, Training Procedure). saved: the last.pt to go on from."""
    sets = data.problem_sets(args)
    tokenizer = data.Tokenizer.of(sets["train"])
    longest = max(len(p.steps) for p in sets["train"])
    args.stages = args.stages or longest                # K
    last_stage = (args.stages + (longest > args.stages)) if METHODS[args.method][1] == "staged" else 0
    gpt = new_model(args, tokenizer.vocab_size).to(device)
    tokens = {split: tokenize(problems, tokenizer, gpt.config.block_size, args.c * args.stages, split)
              for split, problems in sets.items()}
    steps = -(-len(tokens["train"]) // args.batch_size)     # per epoch

    optimizers = make_optimizers(gpt, args)
    begin, stage, best = 0, 0, -1
    if saved:
        if saved["words"] != tokenizer.words:
            raise ValueError(f"the problems of {args.dataset} are not those that {out} was begun with")
        gpt.load_state_dict(saved["model"])
        for optimizer, state in zip(optimizers, saved["optimizers"]):
            optimizer.load_state_dict(state)
        begin, stage, best = saved["epoch"], saved["stage"], saved["best"]
    out.mkdir(parents=True, exist_ok=True)
    log = open(out / "log.jsonl", "a")
    log.truncate(min(log.tell(), saved["log_size"] if saved else 0))    # drop the lines of an epoch cut off
    size = sum(p.numel() for p in gpt.parameters())
    print(f"{args.method} on {args.dataset}: {len(tokens['train']):,} problems, {size:,} parameters, "
          f"stages 0 to {last_stage}, epochs {begin + 1} to {args.epochs}, {device}, into {out}", flush=True)

    if stage_at(args.epochs - 1, args.epochs_first, args.epochs_per_stage, last_stage) < last_stage:
        print(f"note: {args.epochs} epochs end before the last stage: see --epochs and --epochs_per_stage")

    def report(kind, **values):
        record = dict(kind=kind, stage=stage, last_stage=last_stage,
                      epoch=epoch + 1, epochs=args.epochs, **values)
        print(show(record), flush=True)
        print(json.dumps(record), file=log, flush=True)

    started = time.time() - (saved["seconds"] if saved else 0.0)
    for epoch in range(begin, args.epochs):
        previous, stage = stage, stage_at(epoch, args.epochs_first, args.epochs_per_stage, last_stage)
        if stage != previous:
            best = -1           # best.pt is of the newest stage: earlier ones, which write, may score higher
            if args.reset_optimizer:
                optimizers = make_optimizers(gpt, args)
        # Every epoch seeds its own randomness, so a resumed run goes on exactly as an undisturbed one.
        torch.manual_seed(args.seed * 1_000_003 + epoch)
        rng, easy = random.Random(f"{args.seed} {epoch}"), epoch < args.easy_epochs
        shuffled = batches(tokens["easy" if easy else "train"], tokenizer, args, stage, rng, alike=easy)
        train_epoch(gpt, optimizers, shuffled, steps, epoch * steps, args.epochs * steps, args, report)

        result, _ = evaluate(gpt, tokenizer, sets["valid"], tokens["valid"], args, stage)
        report("valid", **result, seconds=time.time() - started)
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
        raise ValueError(f"no run in {out}: best.pt is there after the first epoch")
    gpt, saved = coconut.load(path, device)
    if not saved.keys() >= {"words", "args", "stage", "last_stage"}:
        raise ValueError(f"{path} holds a model, but not the run that it comes from")
    tokenizer, run = data.Tokenizer(saved["words"]), argparse.Namespace(**saved["args"])
    return gpt.eval(), tokenizer, run, saved["stage"], saved["last_stage"]


def test(args, out, device):
    """The best checkpoint of the run in `out` on its own test problems, or on those of another --dataset."""
    gpt, tokenizer, run, stage, last_stage = open_run(out, device)
    if args.dataset in data.GENERATORS and args.dataset != run.dataset:
        raise ValueError(f"{out} was trained on {run.dataset}, not {args.dataset}: name another run")
    if args.dataset in (None, run.dataset):     # problem flags that are given now win over those of the run
        given = {flag: vars(args)[flag] for flag in data.PROBLEM_FLAGS if vars(args)[flag] is not None}
        args = argparse.Namespace(**vars(run) | given)
    problems = data.problem_sets(args, ("test",))["test"]
    words = set(data.Tokenizer.of(problems).words)
    if len(words - set(tokenizer.words)) > len(words) / 2:
        raise ValueError(f"most words of {args.dataset} are new to {out}: it was trained on other problems")
    tokens = tokenize(problems, tokenizer, gpt.config.block_size, run.c * run.stages, "test")
    result, mistakes = evaluate(gpt, tokenizer, problems, tokens, run, stage)
    for problem, text in mistakes[:5]:
        said = data.visible(" / ".join(text.splitlines())[:100])
        print(f"  wrong: ...{problem.question[-60:]} -> {said}, not {problem.answer}")
    record = dict(kind="test", dataset=args.dataset, stage=stage, last_stage=last_stage, **result)
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
    add("--dataset", help="prontoqa, prosqa, or a folder of problems in official format (default: prosqa)")
    add("--method", choices=METHODS, default="coconut", help="a row of the table METHODS (default: coconut)")
    add("--setting", choices=SETTINGS, default="quick", help="which table of defaults (default: quick)")
    # the curriculum
    add("--c", type=count, help="continuous thoughts per reasoning step")
    add("--stages", type=count, help="K: stages with ever more thoughts (default: the longest chain's steps)")
    add("--epochs", type=count, help="epochs in all; those left over train the last stage")
    add("--epochs_first", type=number(int, 0), help="epochs in stage 0")
    add("--epochs_per_stage", type=count, help="epochs in each later stage")
    add("--easy_epochs", type=number(int, 0), help="ProntoQA: epochs of easier problems (results/quick.md)")
    add("--mix", type=share, help="share of batches of a random stage up to the current one")
    add("--detach_thoughts", action="store_true", help="stop gradients between thoughts, for comparison")
    data.add_problem_flags(parser)
    # the model
    add("--n_layer", type=count, help="transformer blocks")
    add("--n_head", type=count, help="attention heads")
    add("--n_embd", type=count, help="width")
    add("--dropout", type=number(float, 0, 0.99), help="share of activations dropped in training")
    # the optimization
    add("--batch_size", type=count, help="problems per step")
    add("--micro_batch", type=count, help="problems that go through the model at once, to save memory")
    add("--lr", type=rate, help="AdamW's learning rate")
    add("--muon_lr", type=rate, help="Muon's learning rate for the matrices in the blocks; 0: AdamW for all")
    add("--warmup", type=number(int, 0), help="steps until the full learning rate")
    add("--decay", type=share, help="share of the run, at its end, in which the learning rate falls to 5 %%")
    add("--weight_decay", type=rate, help="weight decay of both optimizers")
    add("--reset_optimizer", action=argparse.BooleanOptionalAction, help="a new optimizer at every stage")
    # the run
    add("--seed", type=number(int, 0), default=0, help="seed of weights and order (default: 0)")
    add("--device", default="auto", help="cpu, cuda, mps, or auto, the best there is (default: auto)")
    add("--out", help="the run's folder (default: runs/DATASET-METHOD-seedSEED)")
    add("--resume", action="store_true", help="go on with a run that was stopped: the same command plus this")
    add("--eval_only", action="store_true",
        help="no training: test the run in --out, on its own problems or --dataset (a .json file will do)")
    return parser.parse_args(argv)


def complete(args):
    """Fill what is still open from the setting's table. A folder takes ProsQA's, and has its own problems."""
    generated = args.dataset in data.GENERATORS
    for flag, value in SETTINGS[args.setting][args.dataset if generated else "prosqa"].items():
        if vars(args)[flag] is None and (generated or flag not in data.PROBLEM_FLAGS):
            setattr(args, flag, value)
    if args.n_embd % args.n_head:
        raise ValueError(f"--n_embd {args.n_embd} is no multiple of --n_head {args.n_head}")


def pick_device(name):
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        if name.split(":")[0] in ("cpu", "cuda", "mps"):
            return str(torch.empty(0, device=name).device)
    except (RuntimeError, AssertionError):
        pass
    raise ValueError(f"--device {name} is not to be had here: try auto or cpu")


def main(argv=None):
    args = parse(argv)
    device = pick_device(args.device)
    if args.eval_only:
        if not args.out:
            raise ValueError("--eval_only needs --out, the folder of the run to test")
        return test(args, Path(args.out), device)
    out = Path(args.out or f"runs/{Path(args.dataset or 'prosqa').name}-{args.method}-seed{args.seed}")
    args.out, saved = str(out), None
    if (out / "last.pt").exists():
        if not args.resume:
            raise ValueError(f"{out} holds a run already: add --resume to go on, or choose another --out")
        _, saved = coconut.load(out / "last.pt", device)
        refuse_other_run(args, saved["args"])
    elif args.resume:
        print(f"no checkpoint in {out} yet: starting anew")
    if args.dataset is None:
        args.dataset = "prosqa"
    complete(args)
    train(args, out, device, saved)
    record = test(args, out, device)
    with open(out / "log.jsonl", "a") as log:
        print(json.dumps(record), file=log)


if __name__ == "__main__":
    data.run_or_explain(main)
