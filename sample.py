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
import re
import statistics
import textwrap
from collections import Counter
from pathlib import Path

import torch

import coconut
import data
import train
from gpt import UserError


def in_words(run, thoughts, top=5):
    """Each of the thoughts (N, C) as the `top` words closest to it, [(word, probability), ...]."""
    best = run.gpt.logits(thoughts)[:, :run.tokenizer.vocab_size].softmax(-1).topk(top)         # (N, top)
    return [[(run.tokenizer.decode([i]), p) for i, p in zip(*one)]
            for one in zip(best.indices.tolist(), best.values.tolist())]


def bar(share, width):
    """A share from 0 to 1 as a bar of so many characters."""
    eighths = round(share * 8 * width)
    return ("█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8]).strip().ljust(width)


def show_answer(problem, text, thoughts):
    """One problem, its thoughts in words, and the answer, in 100 columns."""
    print(textwrap.fill(data.visible(problem.question), 100, initial_indent="question  ",
                        subsequent_indent=" " * 10))
    for i, words in enumerate(thoughts, start=1):
        shown = [data.visible(re.sub("^(Every|Each) ", "", word).strip() or word) for word, _ in words]
        cells = [f"{word[:9]:>9} {p:4.0%} {bar(p, 2)}" for word, (_, p) in zip(shown, words)]
        print(f"thought {i:<2}" + "".join(f"{cell:18}" for cell in cells).rstrip())
    print(f"written   {data.visible(' / '.join(text.splitlines()))}")
    right = "right" if data.grade(problem, text) else "wrong"
    print(f"truth     {problem.answer}   {right}\n" if problem.answer else "")


def show_answers(run, problems, n, stop, only_mistakes):
    """The problems, one after the other: what the model thought, in words, and what it wrote."""
    texts, _, thoughts, numbers = train.ask(run, problems, n, stop)
    right = list(map(data.grade, problems, texts))
    for i, problem in enumerate(problems):
        if not (only_mistakes and right[i]):
            show_answer(problem, texts[i], in_words(run, thoughts[i, :numbers[i]]))
    if problems[0].answer:
        print(f"{sum(right)} of {len(problems)} right")


# ------------------------------------------------------------------------------------------------------------
# The search tree: what the model would write next, if it stopped thinking now.

def lead(problem):
    """How each written step begins, and whether it is one node ahead: after k steps' worth of thoughts, what
    is written next begins "Every <node k> is a" in ProsQA, "Max is a <node k + 1>" in ProntoQA."""
    return ("Every {} is a ", 0) if data.told_edges(problem.answer) else (path_of(problem)[0] + " is {}. ", 1)


@torch.no_grad()
def node_values(run, problem, k):
    """{node: value} after k steps' worth of thoughts: the probability that the next written step is about it.

    Paper: Interpreting the Latent Search Tree. <eot> and what all steps begin with (lead) are forced; the
    value is the product of the probabilities of the tokens that follow.
    """
    gpt, tokenizer, n = run.gpt, run.tokenizer, k * run.settings.c
    nodes = sorted({v for _, v in data.told_edges(problem.question).values()})
    begin, ahead = lead(problem)
    begin = begin if tokenizer.words else begin.rstrip()        # GPT-2's tokens begin with their spaces
    ids = [tokenizer.encode(begin.format(data.with_article(v) if ahead else v)) for v in nodes]
    forced, rows = len(os.path.commonprefix(ids)), len(ids)
    question, filler = tokenizer.encode(problem.question + "\n"), train.METHODS[run.settings.method][0]
    batch = data.collate([data.encode((question, [], row), tokenizer, filler, 0, n) for row in ids])
    batch = batch.to(gpt.wte.weight.device)
    if batch.question.size(1) + n + batch.language.size(1) > gpt.config.block_size:
        raise UserError(f"{n} thoughts and the question are more than the model's positions")
    with run.autocast():
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


def tree(run, problem):
    """The part of the graph that the entity reaches, as rows (depth, node, value, height, on the true path).

    A node's value is the one after as many steps of thought as bring it to the beginning of the next step
    (lead); None at the target, about which no other step begins. A node that several ways lead to stands at
    the end of each.
    """
    edges, path, ahead = list(data.told_edges(problem.question).values()), path_of(problem), lead(problem)[1]
    values = {k + ahead: node_values(run, problem, k) for k in range(1 - ahead, len(path) - 1)}
    rows = []

    def visit(way):
        depth, node = len(way) - 1, way[-1]
        value = values.get(depth, {}).get(node)
        rows.append((depth, node, value, height(edges, node), way == path[:depth + 1]))
        for child in sorted(v for u, v in edges if u == node and depth < len(path) - 1):
            visit(way + [child])
    visit(path[:1])
    return rows


def show_tree(rows):
    values = ["" if value is None else f"{value:4.0%} {bar(value, 20)}" for _, _, value, _, _ in rows]
    data.show_table(["node", "value before the step\nthat begins with it", "height"], [
        ("    " * depth + node + " *" * on_path, value, high)
        for (depth, node, _, high, on_path), value in zip(rows, values)])
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
# The other looks are tables (data.show_table prints any of them), drawn as lines or as bars.

def draw_lines(plt, panels):
    """Panels side by side, each ({name of a line: (xs, ys)}, settings of its axes, of which `marks` are
    vertical lines, {x: text})."""
    _, axes = plt.subplots(1, len(panels), figsize=(1 + 4.5 * len(panels), 3), layout="constrained",
                           squeeze=False)
    for axis, (lines, about) in zip(axes[0], panels):
        for name, (xs, ys) in lines.items():
            axis.plot(xs, ys, ".-", label=name)
        for x, mark in about.pop("marks", {}).items():
            axis.axvline(x, color="0.85", zorder=0)
            axis.text(x, 1.01, mark, fontsize=7, color="0.4", transform=axis.get_xaxis_transform())
        axis.set(**about)
        axis.legend(frameon=False, fontsize=7)


def draw_bars(plt, names, parts, right=None):
    """A bar for each name, of parts {what: shares} one after the other; dots at the shares that are right."""
    figure, axes = plt.subplots(figsize=(7, 0.3 * len(names) + 1.2), layout="constrained")
    left, colors = [0.0] * len(names), ("#2a7f3f", "#8fcf9f", "#c0392b", "#e8a798", "#4d7eb8", "#b5c9e2")
    for (what, shares), color in zip(parts.items(), colors):
        axes.barh(names, shares, left=left, label=what, color=color)
        left = [a + b for a, b in zip(left, shares)]
    if right:
        axes.plot(right, names, "k.-", label="answer right")
        figure.legend(loc="outside right center", frameon=False, fontsize=8)
    axes.set(xlabel="share of test problems", xlim=(0, 1))
    axes.invert_yaxis()


def share(problems, texts):
    """The share of the answers that are right."""
    return sum(map(data.grade, problems, texts)) / len(problems)


def sweep(run, problems):
    """After k = 0 ... K steps of thought (0 alone, if the method has neither thoughts nor pauses): k, answers
    right, and each class of path."""
    rows, names = [], data.PATH_CLASSES
    for k in range(run.settings.stages + 1) if train.METHODS[run.settings.method][0] else [0]:
        texts, *_ = train.ask(run, problems, k * run.settings.c)
        classes = Counter(data.classify_path(p, text, k > 0) for p, text in zip(problems, texts))
        rows.append((k, share(problems, texts), *(classes[name] / len(problems) for name in names)))
    return ["steps of\nthought", "answer\nright", *(name.replace(" ", "\n") for name in names)], rows


def corrupt(run, problems):
    """Accuracy when the thoughts (or pauses) are tampered with: what was done, and the answers right.

    Noise has the mean and standard deviation of the numbers in all thoughts of the test set. Whatever is put
    in is fed back as the input, so that thoughts after it see it; another order and another problem's are of
    the run's own, untouched thoughts. Another problem is one with as many steps, where there is one.
    """
    torch.manual_seed(0)
    n, pauses = run.fillers(), train.METHODS[run.settings.method][0] == "pause"
    if pauses:
        own = run.gpt.wte.weight[run.tokenizer.pause].detach().expand(len(problems), n, -1)
    else:
        own = train.ask(run, problems, n)[2]                                            # (P, n, C)
    noise = own.mean() + own.std() * torch.randn_like(own)
    # All pauses are given, since thoughts would follow those that are not.
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
        texts, *_ = train.ask(run, problems, n, given=given)
        right = share(problems, texts)
        rows.append((what, f"{round(right * len(problems))}/{len(problems)} =", right, bar(right, 30)))
    return ["thoughts", "answers", "right", ""], rows


def parallel(run, problems):
    """What the step written after k = 1 or 2 steps of thought could begin with. For each k the mean
    probability of the best 1, 2, 3 nodes, and of those that the entity does not reach; and the nodes as far
    from the entity as that step, as rows (k, value, height, leads to the target)."""
    nodes, best = [], {1: [], 2: []}
    for problem in problems:
        edges, path = list(data.told_edges(problem.question).values()), path_of(problem)
        reached = data.distances(edges, path[0]).keys()
        ring = {path[0]} if not lead(problem)[1] else {v for u, v in edges if u == path[0]}
        for k in (1, 2):
            ring = {v for u, v in edges if u in ring}
            if k > len(path) - 2:
                break
            values = node_values(run, problem, k)
            top = sorted(values.values(), reverse=True)
            lost = sum(values[v] for v in values.keys() - reached)
            best[k].append([*(sum(top[:m]) for m in (1, 2, 3)), lost])
            nodes += [(k, values[v], height(edges, v), path[-1] in data.distances(edges, v))
                      for v in sorted(ring)]
    if not best[1]:
        raise UserError("no problem has two steps or more: nothing is written after a thought")
    return [(k, *torch.tensor(shares).mean(0).tolist()) for k, shares in best.items() if shares], nodes


def by_height(nodes):
    """The nodes of `parallel` by height: k, height, mean value and number of the nodes that lead to the
    target, and of those that lead elsewhere."""
    rows = []
    for k in sorted({node[0] for node in nodes}):
        some = [node for node in nodes if node[0] == k]
        for high in ("all", *sorted({node[2] for node in some})):
            row = [k, high]
            for leads in (True, False):
                values = [node[1] for node in some if high in ("all", node[2]) and node[3] == leads]
                row += [statistics.mean(values) if values else "-", len(values)]
            rows.append(row)
    return rows


def compare(runs, problems):
    """Runs on the same problems: rows (number of steps, problems, share right in each run), the last for all;
    and for each run after the first (only the first is right, only that run is, p), two-sided, by McNemar's
    exact test: if both were equally good, a problem that only one gets right would be either's.
    """
    right = []
    for run in runs:
        texts, *_ = train.ask(run, problems, run.fillers(), run.settings.stop == "classifier")
        right.append([data.grade(p, text) for p, text in zip(problems, texts)])
    steps, rows, tests = [len(p.steps) for p in problems], [], []
    for some in [*sorted(set(steps)), "all"]:
        which = [i for i, s in enumerate(steps) if some in (s, "all")]
        rows.append((some, len(which), *(sum(one[i] for i in which) / len(which) for one in right)))
    for other in right[1:]:
        one, two = (sum(a > b for a, b in zip(*pair)) for pair in ((right[0], other), (other, right[0])))
        tail = sum(math.comb(one + two, i) for i in range(min(one, two) + 1)) / 2 ** (one + two)
        tests.append((one, two, min(1.0, 2 * tail)))
    return rows, tests


# ------------------------------------------------------------------------------------------------------------
# What the logs of runs say.

def logs(paths):
    """{path: the records of its log}; a path is a run's folder, or a log itself."""
    found = {}
    for name in paths:
        path = Path(name) / "log.jsonl" if Path(name).is_dir() else Path(name)
        try:
            found[name] = [json.loads(line) for line in path.read_text().splitlines()]
        except (OSError, ValueError):
            raise UserError(f"{path} is no log of a run: name its folder, or its log.jsonl") from None
        if not any(record["kind"] == "valid" for record in found[name]):
            raise UserError(f"{path} has no whole epoch yet: wait, or name another")
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


def results(found):
    """A row for each dataset, method and what is unusual: accuracy with its standard deviation over the runs,
    tokens, minutes a run, the paper's."""
    groups = {}
    for path, records in found.items():
        test = [record for record in records if record["kind"] == "test" and "unusual" in record]
        if test:
            seconds = [record["seconds"] for record in records if record["kind"] == "valid"][-1]
            key = test[-1]["dataset"], list(TABLE_1).index(test[-1]["method"]), test[-1]["unusual"]
            accuracy = 100 * test[-1]["correct"] / test[-1]["total"]
            groups.setdefault(key, []).append((accuracy, test[-1]["tokens"], seconds / 60))
        else:
            print(f"{path} has no test, or an old one that does not say of what: --resume tests it")
    rows = []
    for (dataset, method, unusual), group in sorted(groups.items()):
        accuracy, tokens, minutes = zip(*group)
        spread = f" ± {statistics.stdev(accuracy):4.1f}" if len(group) > 1 else ""
        method = list(TABLE_1)[method]
        rows.append((Path(dataset).name, method, len(group), f"{statistics.mean(accuracy):5.1f}{spread}",
                     f"{statistics.mean(tokens):6.1f}", round(statistics.mean(minutes)),
                     TABLE_1[method].get(dataset, "-"), unusual))
    heads = "dataset method runs accuracy tokens minutes".split()
    return heads + ["the paper's accuracy, tokens", "with"], rows


def show_curves(found):
    """Loss and accuracy per epoch, printed; returns the panel of the accuracy's picture, in which the stages
    of the first run are marked."""
    right, begins = {}, {}
    for path, records in found.items():
        valid = [record for record in records if record["kind"] == "valid"]
        shares, epochs = [r["correct"] / r["total"] for r in valid], [r["epoch"] for r in valid]
        print(path)
        data.show_table(["epoch", "stage", " loss", "right", ""], [
            (r["epoch"], r["stage"], f"{r['loss']:.3f}", s, bar(s, 30)) for r, s in zip(valid, shares)])
        name = Path(path).stem if Path(path).is_file() else Path(path).name
        right[name] = epochs, shares
        begins = begins or {r["stage"]: r["epoch"] - 0.5 for r in reversed(valid)}
    marks = {x: str(stage) for stage, x in begins.items()}
    return [(right, dict(xlabel="epoch (above: stage)", ylabel="answers right", ylim=(0, 1), marks=marks))]


# ------------------------------------------------------------------------------------------------------------
# The command line.

LOOKS = {"tree": "the search tree of a test problem (--n 2: of the second)",
         "sweep_thoughts": "ProsQA: answers and written paths after 0, 1, ... steps of thought",
         "parallel": "how many nodes a thought keeps in view",
         "corrupt": "accuracy with noise or other thoughts put in",
         "curve": "loss and accuracy per epoch",
         "compare": "two runs or more on the same problems, by number of steps",
         "table": "results by method, beside the paper's"}
SEARCHES = ("tree", "sweep_thoughts", "parallel")       # what would be written after fewer thoughts
THINKING = ("tree", "parallel", "corrupt")              # for runs with thoughts, or pauses in their places


def look_at(look, runs, names, problems):
    """Print what a look shows of the problems. Returns how to draw it: a function and its arguments."""
    run = runs[0]
    if look == "tree":
        print(f"question  {problems[-1].question}\nanswer    {problems[-1].answer}\n")
        rows = tree(run, problems[-1])
        show_tree(rows)
        return draw_tree, rows
    if look == "sweep_thoughts":
        heads, rows = sweep(run, problems)
        data.show_table(heads, rows)
        steps, right, *classes = zip(*rows)
        parts = dict(zip(data.PATH_CLASSES, classes))
        return draw_bars, [f"{k} steps of thought" for k in steps], parts, right
    if look == "corrupt":
        heads, rows = corrupt(run, problems)
        data.show_table(heads, rows)
        return draw_bars, [row[0] for row in rows], {"right": [row[2] for row in rows]}
    if look == "parallel":
        best, nodes = parallel(run, problems)
        rows = by_height(nodes)
        data.show_table(["after thought", "best node", "best two", "best three", "out of reach"], best)
        print("\nmean value of the nodes as far from the entity as the next step, and how many they are")
        heads = ["after thought", "height", "lead to the target", "nodes", "lead elsewhere", "nodes"]
        data.show_table(heads, rows)
        lines, heights = {f"after thought {k}": ([1, 2, 3], shares[:3]) for k, *shares in best}, {}
        for k, *_ in best:
            for where, i in (("to the target", 2), ("elsewhere", 4)):
                some = [row for row in rows if row[0] == k and row[1] != "all" and row[i] != "-"]
                heights[f"thought {k}, leads {where}"] = [row[1] for row in some], [row[i] for row in some]
        return draw_lines, [
            (lines, dict(xlabel="best so many nodes", ylabel="probability they hold", ylim=(0, 1))),
            (heights, dict(xlabel="height of the node", ylabel="mean value", ylim=(0, 1)))]
    rows, tests = compare(runs, problems)
    for i, name in enumerate(names, start=1):
        print(f"run {i}  {name}")
    print()
    data.show_table(["steps", "problems", *(f"run {i} right" for i in range(1, 1 + len(runs)))], rows)
    print()
    for i, (one, two, p) in enumerate(tests, start=2):
        print(f"{one} problems only run 1 gets right, {two} only run {i}: McNemar's exact p = {p:.2g}")
    steps, _, *rights = zip(*rows[:-1])
    lines = {Path(name).name: (steps, right) for name, right in zip(names, rights)}
    return draw_lines, [(lines, dict(xlabel="reasoning steps of the problem", ylabel="answers right",
                                     ylim=(0, 1.02), xticks=steps))]


def refuse_look(look, run, problems):
    """A user error where a look does not suit the problems; a warning where it says little about the run."""
    if look in SEARCHES and not all(data.told_edges(p.question) and data.told_edges(" ".join(p.steps))
                                    for p in problems):
        raise UserError("only ProsQA's and ProntoQA's problems have a graph to look at")
    if look == "sweep_thoughts" and not all(data.told_edges(p.answer) for p in problems):
        raise UserError("--sweep_thoughts classifies paths to a target, which only ProsQA has")
    filler, written = train.METHODS[run.settings.method]
    if filler and look in SEARCHES and (written == "removed" or not run.settings.mix):
        why = ("never wrote steps" if written == "removed" else
               "was trained without --mix, and forgot how to write steps")
        print(f"warning: this run {why}: what it does after fewer thoughts says little about "
              "what it has thought by then")


def continue_text(gpt, tokenizer, prompt, length):
    """What follows a text, at most `length` tokens, the most probable each time: the quickest check that the
    weights are right."""
    ids = [tokenizer.eos] + tokenizer.encode(prompt)            # GPT-2 learned that a text follows <eos>
    batch = data.collate([(ids[:-1], 0, ids[-1:] + [tokenizer.eos])])
    written, _, _ = coconut.generate(gpt.eval(), batch.to(gpt.wte.weight.device), tokenizer.eos, length)
    return tokenizer.decode(written[0])


def save_plot(path, draw, *what):
    try:
        import matplotlib
    except ImportError:
        raise UserError("--plot needs matplotlib: pip install matplotlib") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    draw(plt, *what)
    plt.savefig(path, dpi=200, bbox_inches="tight")
    print(f"drawn in {path}")


def parse(argv):
    """The command line: typed problem flags, {flag: value}, and all else; .look is the look it asks for."""
    parser = data.Parser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("paths", metavar="RUN", nargs="*", help="a run's folder (its best.pt is asked), or a checkpoint")
    looks = parser.add_mutually_exclusive_group()
    looks.add_argument("--question", help="ask this instead of test problems")
    looks.add_argument("--wrong", action="store_true", help="of the test problems, only the mistakes")
    for look, what in LOOKS.items():
        looks.add_argument(f"--{look}", action="store_const", dest="look", const=look, help=what)
    add("--plot", metavar="FILE.png", help="draw a look (all but --table)")
    add("--thoughts", type=data.number(int, 0), help="thoughts to take (default: the run's)")
    add("--n", type=data.number(int, 1), help="test problems to ask (default: 3; all for the tables)")
    add("--dataset", default=argparse.SUPPRESS,
        help="other test problems: a .json file, a folder, or by the flags below")
    data.add_flags(parser, data.PROBLEM_SETTINGS)
    add("--init", help="in place of a run: gpt2 (-medium, -large, -xl), or a copy of it")
    add("--prompt", help="with --init: the text to continue, by 50 tokens")
    add("--device", default="cpu", help="cpu, cuda, mps or auto (default: cpu)")
    args = parser.parse_args(argv)
    typed = {flag: vars(args)[flag] for flag in ("dataset", *data.PROBLEM_SETTINGS) if flag in args}
    refuse(args, typed)
    return typed, args


def refuse(args, typed):
    """A user error where flags do not go together or lack another, before any run is opened."""
    plot, several = Path(args.plot or "none.png"), args.look in ("curve", "table", "compare")
    data.refuse(
        (bool(args.paths) == bool(args.init) or bool(args.init) != bool(args.prompt),
         "name a run to ask, or --init gpt2 with a --prompt to continue"),
        (args.init and (args.look or args.wrong or args.question),
         "--init continues a --prompt: leave out what asks a run"),
        (args.plot and args.look in (None, "table"),
         f"--plot draws --{', --'.join(look for look in LOOKS if look != 'table')}: add one"),
        (plot.suffix not in (".png", ".pdf", ".svg") or not plot.parent.is_dir(),
         f"--plot {plot}: name a .png, .pdf or .svg file in a folder that exists"),
        (args.thoughts is not None and args.look, "--thoughts is for asking problems: leave it out here"),
        (args.question and (args.n or typed),
         "--question is one question: leave out --n and what asks for test problems"),
        (len(args.paths) > 1 and not several or len(args.paths) < 2 and args.look == "compare",
         f"{len(args.paths)} runs are named: --compare takes two or more, --curve and --table any number, "
         "all else one"))


def open_runs(args, typed, device):
    """The runs that are named, and the problems to ask them."""
    runs = [train.open_run(path, device) for path in args.paths]
    for path, run in zip(args.paths, runs):
        if (args.thoughts or args.look in THINKING) and train.METHODS[run.settings.method][0] is None:
            raise UserError(f"{path} was trained by {run.settings.method}, without thoughts: "
                            "leave that flag out")
        if run.stage < run.last_stage:
            print(f"note: {path} has come to stage {run.stage} of {run.last_stage} only")
    if args.question:
        return runs, [data.Problem(args.question, [], "")]
    flags = [flag for flag in ("dataset", *data.PROBLEM_SETTINGS) if not flag.endswith("_size")]
    kinds = {str([getattr(run.settings, flag) for flag in flags]) for run in runs}
    if len(kinds) > 1 and "dataset" not in typed:
        raise UserError("these runs had different problems: say by --dataset on which to compare them")
    problems = train.test_problems(runs[0], typed, args.paths[0])
    for run in runs:
        train.prepare(run, problems, "test")
    return runs, problems


def main(argv=None):
    typed, args = parse(argv)
    device, drawing = train.pick_device(args.device), None
    if args.init:
        gpt, tokenizer = train.pretrained(args.init)
        print(args.prompt + continue_text(gpt.to(device), tokenizer, args.prompt, 50))
    elif args.look == "table":
        data.show_table(*results(logs(args.paths)))
    elif args.look == "curve":
        drawing = draw_lines, show_curves(logs(args.paths))
    else:
        runs, problems = open_runs(args, typed, device)
        if args.look == "tree" and (args.n or 1) > len(problems):
            raise UserError(f"--n {args.n}: there are {len(problems)} problems")
        if args.look:
            refuse_look(args.look, runs[0], problems)
            some = problems[:args.n or (1 if args.look == "tree" else None)]
            drawing = look_at(args.look, runs, args.paths, some)
        else:
            run, n = runs[0], runs[0].fillers() if args.thoughts is None else args.thoughts
            stop = run.settings.stop == "classifier" and args.thoughts is None
            show_answers(run, problems[:args.n or (None if args.wrong else 3)], n, stop, args.wrong)
    if args.plot:
        save_plot(args.plot, *drawing)


if __name__ == "__main__":
    data.run_or_explain(main)
