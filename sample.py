"""Ask a trained model, and look at what it thought.

Paper: "Understanding the Latent Reasoning in Coconut". A continuous thought is a hidden state that was never
turned into a word; but it lives where hidden states live, so the language model's head can be asked which
words it is close to. And thinking can be cut short: after fewer thoughts the model writes the steps that are
left, and the probabilities of the first word that it could write are a picture of its search.

    python sample.py RUN                    some test problems of the run, each thought in words
    python sample.py RUN --question "..."   a question of your own
    python sample.py RUN --thoughts 1       with another number of thoughts than the run was trained for
    python sample.py RUN --tree             one problem's search tree
    python sample.py RUN --sweep_thoughts   answers and written paths after 0, 1, 2, ... steps of thought
    python sample.py RUN --parallel         how many nodes a thought keeps in view, over the test set
    python sample.py RUN --corrupt          are the thoughts used? noise, another order, another problem's
    python sample.py RUN RUN2 --curve       loss and accuracy per epoch
    python sample.py RUN RUN2 --compare     answers by number of steps; is the difference chance?
    python sample.py RUNS --table           results by method, beside the paper's
    python sample.py --init gpt2 --prompt "..."     no thoughts: the official GPT-2 continues a text
"""

import argparse
import json
import math
import os
import statistics
from collections import Counter
from pathlib import Path

import torch

import coconut
import data
import train
from gpt import Mistake


def in_words(gpt, tokenizer, thoughts, top=5):
    """Each of the thoughts (N, C) as the `top` words closest to it, [(word, probability), ...]."""
    best = gpt.logits(thoughts)[:, :tokenizer.vocab_size].softmax(-1).topk(top)         # (N, top)
    return [[(tokenizer.decode([i]), p) for i, p in zip(*one)]
            for one in zip(best.indices.tolist(), best.values.tolist())]


def bar(share, width):
    """A share from 0 to 1 as a bar of so many characters."""
    eighths = round(share * 8 * width)
    return ("█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8]).strip().ljust(width)


def show(problem, text, thoughts):
    """One problem, its thoughts in words, and the answer, in 100 columns."""
    print(f"question  {data.visible(problem.question)}")
    for i, words in enumerate(thoughts, start=1):
        cells = [f"{data.visible(word).replace(' ', '_')[:9]:>9} {p:4.0%} {bar(p, 2)}"
                 for word, p in words]
        print(f"thought {i:<2}" + "".join(f"{cell:18}" for cell in cells).rstrip())
    print(f"written   {data.visible(' / '.join(text.splitlines()))}")
    right = "right" if data.grade(problem, text) else "wrong"
    print(f"truth     {problem.answer}   {right}\n" if problem.answer else "")


# ------------------------------------------------------------------------------------------------------------
# The search tree: what the model would write next, if it stopped thinking now.

def lead(problem):
    """How each written step begins, and whether it is one node ahead: after k steps' worth of thoughts, what
    is written next begins "Every <node k>" in ProsQA, and "Max is a <node k + 1>" in ProntoQA."""
    return ("Every {}", 0) if data.told_edges(problem.answer) else (path_of(problem)[0] + " is {}", 1)


@torch.no_grad()
def node_values(gpt, tokenizer, problem, run, k):
    """{node: value} after k steps' worth of thoughts: the probability that the next written step is about it.

    Paper: Interpreting the Latent Search Tree. <eot> and what all steps begin with (lead) are forced; the
    value is the product of the probabilities of the tokens that follow.
    """
    nodes = sorted({v for _, v in data.told_edges(problem.question).values()})
    begin, ahead = lead(problem)
    ids = [tokenizer.encode(begin.format(data.with_article(v) if ahead else v)) for v in nodes]
    forced, rows = len(os.path.commonprefix(ids)), len(ids)
    question, filler = tokenizer.encode(problem.question + "\n"), train.METHODS[run.method][0]
    batch = data.collate([data.encode(data.Tokens(question, [], row), tokenizer, filler, 0, k * run.c)
                          for row in ids]).to(gpt.wte.weight.device)
    if batch.question.size(1) + k * run.c + batch.language.size(1) > gpt.config.block_size:
        raise Mistake(f"{k * run.c} thoughts and the question are more than the model's positions")
    with train.autocast(gpt, run):
        thoughts, cache, mask = coconut.think(gpt, batch.question[:1], batch.length[:1], batch.n[:1])
        cache = [[(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1)) for keys, values in layer]
                 for layer in cache]                # all continue the same thoughts
        hidden, _, _ = coconut.speak(gpt, batch.language, batch.length, batch.n,
                                     thoughts.expand(rows, -1, -1), cache, mask.expand(rows, -1))
        scores = gpt.logits(hidden).float().log_softmax(-1)                                 # (nodes, Tl, V)
    right = scores.gather(2, batch.target.clamp(min=0)[:, :, None])[:, :, 0]                # (nodes, Tl)
    right = right.masked_fill(batch.target < 0, 0)[:, forced:]
    return dict(zip(nodes, right.sum(1).exp().tolist()))


def path_of(problem):
    """The nodes of the problem's written path, the entity first."""
    pairs = data.told_edges(" ".join(problem.steps)).values()
    return list(dict.fromkeys(node for pair in pairs for node in pair))


def height(edges, node):
    """Fewest edges from a node to a leaf."""
    return min(d for v, d in data.distances(edges, node).items() if not any(u == v for u, _ in edges))


def tree(gpt, tokenizer, problem, run):
    """The part of the graph that the entity reaches, as rows (depth, node, value, height, on the true path).

    A node's value is the one after as many steps of thought as bring it to the beginning of the next step
    (lead); None at the target, about which no other step begins. A node that several ways lead to stands at
    the end of each.
    """
    edges, path = list(data.told_edges(problem.question).values()), path_of(problem)
    _, ahead = lead(problem)
    rows = []
    values = {k + ahead: node_values(gpt, tokenizer, problem, run, k)
              for k in range(1 - ahead, len(path) - 1)}

    def visit(way):
        depth, node = len(way) - 1, way[-1]
        value = values.get(depth, {}).get(node)
        rows.append((depth, node, value, height(edges, node), way == path[:depth + 1]))
        for child in sorted(v for u, v in edges if u == node and depth < len(path) - 1):
            visit(way + [child])
    visit(path[:1])
    return rows


def show_tree(rows):
    print(f"{'':34}{'value before the step that begins with the node':48}height")
    for depth, node, value, high, on_path in rows:
        name = "    " * depth + node + " *" * on_path
        number = "" if value is None else f"{value:4.0%} {bar(value, 20)}"
        print(f"{name:34}{number:48}{high:>6}")
    print("* the path to the answer")


def draw_tree(plt, rows):
    _, axes = plt.subplots(figsize=(7, 0.4 * len(rows) + 0.8))
    for i, (depth, node, value, high, on_path) in enumerate(rows):
        parent = max((j for j in range(i) if rows[j][0] == depth - 1), default=None)
        color = "tab:green" if on_path else "black"
        if parent is not None:
            axes.plot([depth - 1, depth - 1, depth - 0.05], [-parent - 0.3, -i, -i], color=color, lw=1)
        axes.text(depth, -i, f"{node} {'' if value is None else f'{value:.2f}'}", va="center", color=color)
    axes.set(xlim=(-0.2, max(row[0] for row in rows) + 1.2), ylim=(0.7 - len(rows), 0.7))
    axes.axis("off")


# ------------------------------------------------------------------------------------------------------------
# Over the whole test set.

def sweep(gpt, tokenizer, problems, run):
    """After k = 0 ... K steps of thought (0 alone, if the method has neither thoughts nor pauses): rows
    (k, answers right, {class of path: problems})."""
    rows = []
    for k in range(run.stages + 1) if train.METHODS[run.method][0] else [0]:
        texts, *_ = train.ask(gpt, tokenizer, problems, run, k * run.c)
        classes = Counter(data.classify_path(p, text, k > 0) for p, text in zip(problems, texts))
        rows.append((k, sum(map(data.grade, problems, texts)), classes))
    return rows


def show_sweep(rows, total):
    heads = [[*name.split(), ""][:2] for name in data.PATH_CLASSES]
    for line in zip(["steps of", "thought"], ["answer", "right"], *heads):
        print(f"{line[0]:8}" + "".join(f"{word:>14}" for word in line[1:]))
    for k, right, classes in rows:
        shares = [right, *(classes[name] for name in data.PATH_CLASSES)]
        print(f"{k:8}" + "".join(f"{share / total:14.1%}" for share in shares))


def draw_sweep(plt, rows, total):
    figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
    ks, bottom = [row[0] for row in rows], [0.0] * len(rows)
    colors = "#2a7f3f", "#8fcf9f", "#c0392b", "#e8a798", "#4d7eb8", "#b5c9e2"
    for name, color in zip(data.PATH_CLASSES, colors):
        heights = [row[2][name] / total for row in rows]
        axes.bar(ks, heights, 0.7, bottom, label=name, color=color)
        bottom = [b + h for b, h in zip(bottom, heights)]
    axes.plot(ks, [row[1] / total for row in rows], "k.-", label="answer right")
    axes.set(xlabel="steps replaced by thoughts", ylabel="share of test problems", xticks=ks)
    figure.legend(loc="outside right center", frameon=False, fontsize=8)


def parallel(gpt, tokenizer, problems, run):
    """Rows (k, value, height, leads to the target) of all nodes that the step written after k = 1 or 2 steps
    of thought could begin with, and for each k the mean probability of the best 1, 2, 3 nodes, and of those
    that the entity does not reach."""
    rows, best = [], {1: [], 2: []}
    for problem in problems:
        edges, path = list(data.told_edges(problem.question).values()), path_of(problem)
        reached = data.distances(edges, path[0]).keys()
        ring = {path[0]} if not lead(problem)[1] else {v for u, v in edges if u == path[0]}
        for k in (1, 2):
            ring = {v for u, v in edges if u in ring}
            if k > len(path) - 2:
                break
            values = node_values(gpt, tokenizer, problem, run, k)
            top = sorted(values.values(), reverse=True)
            lost = sum(values[v] for v in values.keys() - reached)
            best[k].append([*(sum(top[:m]) for m in (1, 2, 3)), lost])
            rows += [(k, values[v], height(edges, v), path[-1] in data.distances(edges, v))
                     for v in sorted(ring)]
    if not best[1]:
        raise Mistake("no problem has two steps or more: nothing is written after a thought")
    return rows, {k: torch.tensor(shares).mean(0).tolist() for k, shares in best.items() if shares}


def show_parallel(rows, best):
    def mean(numbers):
        numbers = list(numbers)
        return f"{sum(numbers) / len(numbers):6.1%} of {len(numbers):<5}" if numbers else f"{'-':15}"
    print("after thought   best node   best two   best three   out of the entity's reach")
    for k, shares in best.items():
        print(f"{k:13}{shares[0]:12.1%}{shares[1]:11.1%}{shares[2]:13.1%}{shares[3]:28.1%}")
    print("\nmean value of the nodes as far from the entity as the next step, and how many they are\n"
          "after thought   height   leads to the target   leads elsewhere")
    for k in best:
        for high in ("all", *sorted({row[2] for row in rows if row[0] == k})):
            some = [row for row in rows if row[0] == k and high in ("all", row[2])]
            print(f"{k:13}{high:>9}   {mean(row[1] for row in some if row[3]):21} "
                  f"{mean(row[1] for row in some if not row[3])}")


def draw_parallel(plt, rows, best):
    _, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    for k, shares in best.items():
        left.plot([1, 2, 3], shares[:3], "o-", label=f"after thought {k}")
        some = [row for row in rows if row[0] == k]
        for leads, style in ((True, "o-"), (False, "x--")):
            heights = sorted({row[2] for row in some if row[3] == leads})
            means = [torch.tensor([row[1] for row in some if row[2:] == (h, leads)]).mean() for h in heights]
            right.plot(heights, means, style, color=f"C{k - 1}",
                       label=f"thought {k}, leads {'to the target' if leads else 'elsewhere'}")
    left.set(xlabel="best so many nodes", ylabel="probability they hold", xticks=[1, 2, 3], ylim=(0, 1))
    right.set(xlabel="height of the node", ylabel="mean value", ylim=(0, 1))
    left.legend(frameon=False, fontsize=8)
    right.legend(frameon=False, fontsize=7)


def corrupt(gpt, tokenizer, problems, run, n):
    """Accuracy when the n thoughts (or pauses) are tampered with: rows (what was done, answers right).

    Noise has the mean and spread of the numbers in all thoughts of the test set. Whatever is put in is fed
    back as the input, so that thoughts after it see it; another order and another problem's are of the run's
    own, untouched thoughts. Another problem is one with as many steps, where there is one.
    """
    torch.manual_seed(0)
    pauses = train.METHODS[run.method][0] == "pause"        # all are given: left alone, thoughts would follow
    if pauses:
        own = gpt.wte.weight[tokenizer.pause].detach().expand(len(problems), n, -1)
    else:
        own = train.ask(gpt, tokenizer, problems, run, n)[2]                            # (P, n, C)
    noise = own.mean() + own.std() * torch.randn_like(own)
    cases = [(f"noise for the first {j} of {n}" if j else "untouched",
              torch.cat([noise[:, :j], own[:, j if pauses else n:]], dim=1)) for j in range(n + 1)]
    if not pauses:                                          # which are all alike
        shuffled = torch.stack([one[torch.randperm(n).to(one.device)] for one in own])
        cases += [("in reverse order", own.flip(1)), ("in random order", shuffled)]
    if not pauses and len(problems) > 1:
        def another(i):                                     # the next one with as many steps, or the next one
            others = [*range(i + 1, len(problems)), *range(i)]
            return next((j for j in others if len(problems[j].steps) == len(problems[i].steps)), others[0])
        cases.append(("another problem's", own[[another(i) for i in range(len(problems))]]))
    rows = []
    for what, given in cases:
        texts, *_ = train.ask(gpt, tokenizer, problems, run, n, given=given)
        rows.append((what, sum(map(data.grade, problems, texts))))
    return rows


def show_corrupt(rows, total):
    print("thoughts                       answers right")
    for what, right in rows:
        print(f"{what:30} {right}/{total} = {right / total:6.1%} {bar(right / total, 30)}".rstrip())


def draw_corrupt(plt, rows, total):
    _, axes = plt.subplots(figsize=(6, 0.3 * len(rows) + 0.8), layout="constrained")
    names, rights = zip(*reversed(rows))
    axes.barh(names, [right / total for right in rights], color="#4d7eb8")
    axes.set(xlabel="answers right", xlim=(0, 1))


def compare(runs, problems):
    """Opened runs on the same problems: rows (number of steps, problems, [right in each run]), the last for
    all; and for each run after the first (only the first is right, only that run is, p), two-sided, by
    McNemar's exact test: if both were equally good, a problem that only one gets right would be either's.
    """
    right = []
    for gpt, tokenizer, run, stage, _ in runs:
        n = train.fillers_asked(run, stage)
        texts, *_ = train.ask(gpt, tokenizer, problems, run, n, run.stop == "classifier")
        right.append([data.grade(p, text) for p, text in zip(problems, texts)])
    steps = [len(p.steps) for p in problems]
    rows, tests = [], []
    for some in [*sorted(set(steps)), "all"]:
        which = [i for i, s in enumerate(steps) if some in (s, "all")]
        rows.append((some, len(which), [sum(one[i] for i in which) for one in right]))
    for other in right[1:]:
        one, two = (sum(a > b for a, b in zip(*pair)) for pair in ((right[0], other), (other, right[0])))
        tail = sum(math.comb(one + two, i) for i in range(min(one, two) + 1)) / 2 ** (one + two)
        tests.append((one, two, min(1.0, 2 * tail)))
    return rows, tests


def show_compare(rows, tests, names):
    for i, name in enumerate(names, start=1):
        print(f"run {i}  {name}")
    print("\nsteps  problems" + "".join(f"{f'run {i + 1} right':>14}" for i in range(len(names))))
    for steps, total, right in rows:
        print(f"{steps!s:>5}{total:10}" + "".join(f"{count / total:14.1%}" for count in right))
    print()
    for i, (one, two, p) in enumerate(tests, start=2):
        print(f"{one} problems only run 1 gets right, {two} only run {i}: McNemar's exact p = {p:.2g}")


def draw_compare(plt, rows, tests, names):
    _, axes = plt.subplots(figsize=(5.5, 3), layout="constrained")
    for i, name in enumerate(names):
        axes.plot([row[0] for row in rows[:-1]], [row[2][i] / row[1] for row in rows[:-1]], "o-",
                  label=Path(name).name)
    axes.set(xlabel="reasoning steps of the problem", ylabel="answers right", ylim=(0, 1.02),
             xticks=[row[0] for row in rows[:-1]])
    axes.legend(frameon=False, fontsize=8)


def logs(runs):
    """{run: the records of its log}; a run is a folder, or a log itself."""
    found = {}
    for run in runs:
        path = Path(run) / "log.jsonl" if Path(run).is_dir() else Path(run)
        try:
            found[run] = [json.loads(line) for line in path.read_text().splitlines()]
            epochs = [record["correct"] / record["total"] + record["loss"] + record["seconds"]
                      for record in found[run] if record["kind"] == "valid"]
        except (OSError, ValueError, KeyError, TypeError):
            raise Mistake(f"{path} is no log of a run: name its folder, or its log.jsonl") from None
        if not epochs:
            raise Mistake(f"{path} has no whole epoch yet: wait, or name another")
    return found


# The paper's Table 1: accuracy in %, tokens generated.
TABLE_1 = {method: dict(zip(("gsm8k", "prontoqa", "prosqa"), row)) for method, row in {
    "cot": ("42.9 ± 0.2, 25.0", "98.8 ± 0.8, 92.5", "77.5 ± 1.9, 49.4"),
    "no_cot": ("16.5 ± 0.5, 2.2", "93.8 ± 0.7, 3.0", "76.7 ± 1.0, 8.2"),
    "icot": ("30.0, 2.2", "99.8 ± 0.3, 3.0", "98.2 ± 0.3, 8.2"),
    "pause": ("16.4 ± 1.8, 2.2", "77.7 ± 21.0, 3.0", "75.9 ± 0.7, 8.2"),
    "coconut": ("34.1 ± 1.5, 8.2", "99.8 ± 0.2, 9.0", "97.0 ± 0.3, 14.2"),
    "no_curriculum": ("14.4 ± 0.8, 8.2", "52.4 ± 0.4, 9.0", "76.1 ± 0.2, 14.2"),
    "no_thought": ("21.6 ± 0.5, 2.3", "99.9 ± 0.1, 3.0", "95.5 ± 1.1, 8.2"),
    "pause_as_thought": ("24.1 ± 0.7, 2.2", "100.0 ± 0.1, 3.0", "96.6 ± 0.8, 8.2")}.items()}


def show_table(found):
    """A row for each dataset and method: accuracy with its spread over the runs, tokens, minutes a run."""
    groups = {}
    for run, records in found.items():
        test = [record for record in records if record["kind"] == "test" and "unusual" in record]
        if test:
            seconds = [record["seconds"] for record in records if record["kind"] == "valid"][-1]
            key = test[-1]["dataset"], list(TABLE_1).index(test[-1]["method"]), test[-1]["unusual"]
            share = test[-1]["correct"] / test[-1]["total"]
            groups.setdefault(key, []).append((share, test[-1]["tokens"], seconds))
        else:
            print(f"{run} has no test, or an old one that does not say of what: --resume tests it")
    print("dataset   method            runs       accuracy   tokens   minutes   the paper's accuracy, tokens")
    for (dataset, method, unusual), runs in sorted(groups.items()):
        accuracy, tokens, seconds = zip(*runs)
        spread = f" ± {100 * statistics.stdev(accuracy):4.1f}" if len(runs) > 1 else " " * 7
        method = list(TABLE_1)[method]
        print(f"{Path(dataset).name:10}{method:18}{len(runs):4}{100 * statistics.mean(accuracy):8.1f}{spread}"
              f"{statistics.mean(tokens):9.1f}{statistics.mean(seconds) / 60:10.0f}   "
              f"{TABLE_1[method].get(dataset, '-')}")
        if unusual:
            print(f"    with {unusual}")


def show_curves(found):
    for run, records in found.items():
        print(f"{run}\nepoch  stage    loss   right")
        for r in records:
            share = r["correct"] / r["total"]
            print(f"{r['epoch']:5}{r['stage']:7}{r['loss']:8.3f}  {share:6.1%} {bar(share, 30)}".rstrip())


def draw_curves(plt, found):
    _, (top, bottom) = plt.subplots(2, 1, figsize=(7, 4.5), sharex=True, layout="constrained")
    for i, (run, records) in enumerate(found.items()):
        epochs = [r["epoch"] for r in records]
        name = Path(run).stem if Path(run).is_file() else Path(run).name
        top.plot(epochs, [r["correct"] / r["total"] for r in records], ".-", label=name)
        bottom.plot(epochs, [r["loss"] for r in records], ".-")
        for one, other in zip(records, records[1:]):
            if one["stage"] != other["stage"]:
                for axes in (top, bottom):
                    axes.axvline(one["epoch"] + 0.5, color=f"C{i}", lw=0.5, ls=":")
    top.set(ylabel="answers right", ylim=(0, 1))
    bottom.set(xlabel="epoch (dotted: a new stage)", ylabel="validation loss", yscale="log")
    top.legend(frameon=False, fontsize=8)


# ------------------------------------------------------------------------------------------------------------

def continue_text(gpt, tokenizer, prompt, length):
    """What follows a text, at most `length` tokens, the most probable each time: the quickest check that the
    weights are right."""
    ids = [tokenizer.eos] + tokenizer.encode(prompt)            # GPT-2 learned that a text follows <eos>
    batch = data.collate([data.Sequence(ids[:-1], 0, ids[-1:] + [tokenizer.eos])])
    written, _, _ = coconut.generate(gpt.eval(), batch.to(gpt.wte.weight.device), tokenizer.eos, length)
    return tokenizer.decode(written[0])


def save_plot(path, draw, *what):
    try:
        import matplotlib
    except ImportError:
        raise Mistake("--plot needs matplotlib: pip install matplotlib") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    draw(plt, *what)
    plt.savefig(path, dpi=120, bbox_inches="tight")
    print(f"drawn in {path}")


SEARCHES = ("tree", "sweep_thoughts", "parallel")       # what would be written after fewer thoughts
THINKING = ("tree", "parallel", "corrupt")              # for runs with thoughts, or pauses in their places
DRAWN = (*SEARCHES, "corrupt", "curve", "compare")
DRAWN_FLAGS = f"--{', --'.join(DRAWN[:-1])} or --{DRAWN[-1]}"


def parse(argv):
    """The command line, and as args.look which of the looks it asks for."""
    parser = data.Parser(description=__doc__.split("\n\n")[0])
    add, count = parser.add_argument, data.number(int, 1)
    add("run", nargs="*", help="the run's folder (its best.pt is asked), or a checkpoint; or several")
    looks = parser.add_mutually_exclusive_group()
    looks.add_argument("--question", help="ask this instead of test problems")
    for flag, what in (("tree", "the search tree of a test problem (--n 2: of the second)"),
                       ("sweep_thoughts", "ProsQA: answers and written paths after 0, 1, ... thoughts"),
                       ("parallel", "how many nodes a thought keeps in view"),
                       ("corrupt", "accuracy with noise or other thoughts put in"),
                       ("curve", "loss and accuracy per epoch"),
                       ("compare", "two runs or more on the same problems, by number of steps"),
                       ("table", "results by method, beside the paper's"),
                       ("wrong", "of the test problems, only the mistakes")):
        looks.add_argument(f"--{flag}", action="store_true", help=what)
    add("--plot", metavar="FILE.png", help=f"draw {DRAWN_FLAGS}")
    add("--thoughts", type=data.number(int, 0), help="thoughts to take (default: the run's)")
    add("--n", type=count, help="test problems to ask (default: 3; all for the tables)")
    add("--dataset", help="other test problems: a .json file, a folder, or by the flags below")
    data.add_problem_flags(parser)
    add("--init", help="in place of a run: gpt2 (-medium, -large, -xl), or a copy of it")
    add("--prompt", help="with --init: the text to continue, by 50 tokens")
    add("--device", default="cpu", help="cpu, cuda, mps or auto (default: cpu)")
    args = parser.parse_args(argv)
    args.look = next((flag for flag in (*DRAWN, "table") if vars(args)[flag]), None)
    refuse(args)
    return args


def refuse(args):
    """A Mistake where flags do not go together or lack another, before any run is opened."""
    if bool(args.run) == bool(args.init) or bool(args.init) != bool(args.prompt):
        raise Mistake("name a run to ask, or --init gpt2 with a --prompt to continue")
    if args.plot and args.look not in DRAWN:
        raise Mistake(f"--plot draws {DRAWN_FLAGS}: add one")
    if args.plot and (Path(args.plot).suffix not in (".png", ".pdf", ".svg")
                      or not Path(args.plot).parent.is_dir()):
        raise Mistake(f"--plot {args.plot}: name a .png, .pdf or .svg file in a folder that exists")
    if args.thoughts is not None and args.look:
        raise Mistake("--thoughts is for asking problems: leave it out here")
    if args.question is not None and not args.question.strip():
        raise Mistake("--question is empty: ask something")
    if args.question and (args.n or args.dataset):
        raise Mistake("--question is one question: leave out --n and --dataset")
    if args.init and (args.look or args.wrong or args.question):
        raise Mistake("--init continues a --prompt: leave out what asks a run")
    if args.init == "scratch":
        raise Mistake("--init scratch has learned nothing: name gpt2, or a copy of it")
    several = args.look in ("curve", "table", "compare")
    if len(args.run) > 1 and not several or len(args.run) < 2 and args.compare:
        raise Mistake(f"{len(args.run)} runs are named: --compare takes two or more, --curve and --table "
                      "any number, all else one")


def look_at(args, gpt, tokenizer, run, stage, problems):
    """Search tree, sweep, nodes in view or tampered thoughts: computed, told and, if asked for, drawn."""
    if args.look in SEARCHES and not all(data.told_edges(p.question) and data.told_edges(" ".join(p.steps))
                                         for p in problems):
        raise Mistake("only ProsQA's and ProntoQA's problems have a graph to look at")
    if args.sweep_thoughts and not all(data.told_edges(p.answer) for p in problems):
        raise Mistake("--sweep_thoughts classifies paths to a target, which only ProsQA has")
    if args.tree and (args.n or 1) > len(problems):
        raise Mistake(f"--n {args.n}: there are {len(problems)} problems")
    filler, written = train.METHODS[run.method]
    if filler and args.look in SEARCHES and (written == "removed" or not run.mix):
        why = ("never wrote steps" if written == "removed" else
               "was trained without --mix, and forgot how to write steps")
        print(f"warning: this run {why}: what it does after fewer thoughts says little about "
              "what it has thought by then")

    some = problems[:args.n]
    if args.tree:
        problem = problems[(args.n or 1) - 1]
        found, tell, draw = [tree(gpt, tokenizer, problem, run)], show_tree, draw_tree
        print(f"question  {problem.question}\nanswer    {problem.answer}\n")
    elif args.sweep_thoughts:
        found, tell, draw = [sweep(gpt, tokenizer, some, run), len(some)], show_sweep, draw_sweep
    elif args.parallel:
        found, tell, draw = parallel(gpt, tokenizer, some, run), show_parallel, draw_parallel
    else:
        n = train.fillers_asked(run, stage)
        found, tell, draw = [corrupt(gpt, tokenizer, some, run, n), len(some)], show_corrupt, draw_corrupt
    tell(*found)
    if args.plot:
        save_plot(args.plot, draw, *found)


def show_answers(args, gpt, tokenizer, run, stage, problems):
    """The problems, one after the other: what the model thought, in words, and what it wrote."""
    n = train.fillers_asked(run, stage) if args.thoughts is None else args.thoughts
    stop = run.stop == "classifier" and args.thoughts is None
    texts, _, thoughts, number = train.ask(gpt, tokenizer, problems, run, n, stop)
    right = list(map(data.grade, problems, texts))
    for i, problem in enumerate(problems):
        if not (args.wrong and right[i]):
            show(problem, texts[i], in_words(gpt, tokenizer, thoughts[i, :number[i]]))
    if problems[0].answer:
        print(f"{sum(right)} of {len(problems)} right")


def main(argv=None):
    args = parse(argv)
    device = train.pick_device(args.device)
    if args.init:
        gpt, tokenizer = train.pretrained(args.init)
        return print(args.prompt + continue_text(gpt.to(device), tokenizer, args.prompt, 50))
    if args.table:
        return show_table(logs(args.run))
    if args.curve:
        found = {run: [r for r in records if r["kind"] == "valid"] for run, records in logs(args.run).items()}
        show_curves(found)
        return save_plot(args.plot, draw_curves, found) if args.plot else None

    runs = [train.open_run(path, device) for path in args.run]
    for path, (_, _, run, stage, last_stage) in zip(args.run, runs):
        if (args.thoughts or args.look in THINKING) and train.METHODS[run.method][0] is None:
            raise Mistake(f"{path} was trained by {run.method}, without thoughts: leave that flag out")
        if stage < last_stage:
            print(f"note: {path} has come to stage {stage} of {last_stage} only")
    gpt, tokenizer, run, stage, _ = runs[0]
    if args.question:
        problems = [data.Problem(args.question, [], "")]
    else:
        problems = train.test_problems(args, run, args.run[0])
        for path, (_, tokenizer_there, *_) in zip(args.run, runs):
            train.refuse_new_words(problems, tokenizer_there, path)
    if args.compare:
        flags = ("dataset", *list(data.PROBLEM_FLAGS)[3:])      # all but the sizes of the sets
        kinds = {str([vars(run).get(flag) for flag in flags]) for _, _, run, *_ in runs}
        if len(kinds) > 1 and not args.dataset:
            raise Mistake("these runs had different problems: say by --dataset on which to compare them")
        found = [*compare(runs, problems[:args.n]), args.run]
        show_compare(*found)
        return save_plot(args.plot, draw_compare, *found) if args.plot else None
    if args.look:
        return look_at(args, gpt, tokenizer, run, stage, problems)
    show_answers(args, gpt, tokenizer, run, stage, problems[:args.n or (None if args.wrong else 3)])


if __name__ == "__main__":
    data.run_or_explain(main)
