"""Ask a trained model, and look at what it thought.

Paper: "Understanding the Latent Reasoning in Coconut". A continuous thought is a hidden state that was never
turned into a word; but it lives where hidden states live, so the language model's head can be asked which
words it is close to. And thinking can be cut short: after fewer thoughts the model writes the steps that are
left, and the probabilities of the first word that it could write are a picture of its search.

    python sample.py RUN                    some test problems of the run, each thought in words
    python sample.py RUN --question "..."   a question of your own
    python sample.py RUN --thoughts 1       with another number of thoughts than the run was trained for
    python sample.py RUN --tree             one problem's search tree, or another look of LOOKS: see --help
"""

import argparse
import itertools
import math
import os
import random
import re
import statistics
import textwrap
from collections import Counter

import torch
import torch.nn.functional as F

import coconut
import data
import train
from gpt import UserError, run_or_explain


def in_words(run, thoughts, top=3):
    """Each of the thoughts (N, C) as the `top` words closest to it, [(word, probability), ...]."""
    best = run.gpt.logits(thoughts).softmax(-1).topk(top)                                       # (N, top)
    return [[(run.tokenizer.decode([i]), p) for i, p in zip(*row)]
            for row in zip(best.indices.tolist(), best.values.tolist())]


def show_text(label, text):
    print(textwrap.fill(text, 100, initial_indent=f"{label:10}", subsequent_indent=" " * 10))


def show_answers(run, problems, n):
    """The problems, one after the other: what the model thought, in words, and what it wrote."""
    texts, _, thoughts = train.ask(run, problems, n)                                            # (P, n, C)
    for problem, text, own in zip(problems, texts, thoughts):
        show_text("question", problem.question)
        for i, words in enumerate(in_words(run, own), start=1):
            cells = [f"{repr(word)[1:-1].strip():20} {p:4.0%}" for word, p in words]
            print(f"thought {i:<2}" + "   ".join(cells))
        show_text("written", " / ".join(text.splitlines()))
        right = "right" if data.grade(problem, text) else "wrong"
        print(f"truth     {problem.answer}   {right}\n" if problem.answer else "")
    if problems[0].answer:
        print(f"{sum(map(data.grade, problems, texts))} of {len(problems)} right")


# ---- The search tree: what the model would write next, if it stopped thinking now.

@torch.no_grad()
def node_values(run, problem, k):
    """{node: value} of a ProsQA problem after k steps' worth of thoughts: the probability that the next
    written step begins "Every <node> is a".

    Paper: Interpreting the Latent Search Tree. <eot> and what all these have in common at their start are
    forced; the value is the product of the probabilities of the tokens that follow.
    """
    gpt, tokenizer, n = run.gpt, run.tokenizer, k * run.settings.c
    nodes = sorted({v for _, v in data.graph(problem).edges.values()})
    space = " " if tokenizer.words else ""                      # GPT-2's tokens begin with their spaces
    ids = [tokenizer.encode(f"Every {v} is a{space}") for v in nodes]
    forced = len(os.path.commonprefix(ids))
    question, filler = tokenizer.ids(problem)[0], train.METHODS[run.settings.method][0]
    batch = data.collate([data.sequence(question, [], row, tokenizer, filler, n) for row in ids])
    batch = batch.to(gpt.wte.weight.device)
    with run.autocast():
        hidden, _, _ = coconut.cached_forward(gpt, batch, batch.language)
        losses = F.cross_entropy(gpt.logits(hidden).mT, batch.target, reduction="none")     # (nodes, Tl)
    return dict(zip(nodes, (-losses[:, forced:].sum(1)).exp().tolist()))


def tree(run, problems):
    """The part of a problem's graph that its entity reaches, down to the answer's depth.

    A node at depth d has its value after d steps of thought, where the next step would begin with it; the
    deepest have none. A node that several ways lead to stands at the end of each.
    """
    problem, rows = problems[0], []
    g = data.graph(problem)
    deepest = g.distance[g.answer]
    values = {k: node_values(run, problem, k) for k in range(1, deepest)}

    def visit(node, depth):
        value, on_path = values.get(depth, {}).get(node, ""), depth + g.left.get(node, math.inf) == deepest
        rows.append((depth, "    " * depth + node, value, "█" * round(20 * (value or 0)), "*" * on_path))
        for child in sorted(v for u, v in g.edges.values() if u == node and depth < deepest):
            visit(child, depth + 1)
    visit(g.entity, 0)
    show_text("question", problem.question)
    return ["steps", "node", "next step\nis about it", "", "on a shortest path\nto the answer"], rows


# ---- Looks at many problems. A look, the tree too, returns heads and rows, which data.show_table prints.

PATH_CLASSES = ("Correct Path", "Longer Path", "Hallucination", "Wrong Target",
                "Correct Label", "Incorrect Label")


def classify_path(problem, text, partial=False):
    """Which of PATH_CLASSES the reasoning in a generated ProsQA text is. Paper: Understanding the Latent
    Reasoning in Coconut, Experimental Setup.

    A written path counts, whatever answer follows it; without one the answer does. A Correct Path is a
    shortest one from the entity to the target, a Longer Path reaches the target too, one with a Wrong Target
    ends elsewhere. A Hallucination has a step that the question does not tell, or a gap. partial: thoughts
    stand for the first steps, so the path may begin wherever the entity leads, and is judged as if a shortest
    path led to its start.
    """
    lines = [line.strip() for line in text.split("###")[0].splitlines() if line.strip()]
    if not lines:
        return "Correct Label" if data.grade(problem, text) else "Incorrect Label"
    g = data.graph(problem)
    path = [g.edges.get(line) for line in lines]
    if None in path or any(step[1] != following[0] for step, following in zip(path, path[1:])):
        return "Hallucination"
    start, end = path[0][0], path[-1][1]
    if start not in g.distance or start != g.entity and not partial:
        return "Hallucination"
    if end != g.answer:
        return "Wrong Target"
    return "Correct Path" if g.distance[start] + len(path) == g.distance[end] else "Longer Path"


def sweep(run, problems):
    """After k = 0 ... K steps of thought (0 alone, if the method has neither thoughts nor pauses): k, answers
    right, each class of path; and right by forced choice, when the answer has to come at once (train.choose),
    after the k thoughts and with other vectors in their places: zeros, the mean thought, noise like thoughts.
    """
    rows, names, rng = [], PATH_CLASSES, torch.Generator().manual_seed(0)
    wrong = list(map(data.wrong, problems))
    for k in range(run.settings.stages + 1) if train.METHODS[run.settings.method][0] else [0]:
        n = k * run.settings.c
        texts, _, own = train.ask(run, problems, n)                                             # (P, n, C)
        classes = Counter(classify_path(p, text, k > 0) for p, text in zip(problems, texts))
        places = [None]                 # what to put in them
        if own.size(1):
            noise = own.mean() + own.std() * torch.randn(own.shape, generator=rng).to(own)
            places += [torch.zeros_like(own), own.mean(0).expand_as(own), noise]
        forced = [sum(train.choose(run, problems, wrong, n, [""] * len(problems), given)) / len(problems)
                  for given in places]
        right = sum(map(data.grade, problems, texts))
        rows.append((k, right / len(problems), *(classes[name] / len(problems) for name in names), *forced,
                     *[""] * (4 - len(forced))))
    return ["steps of\nthought", "answer\nright", *(name.replace(" ", "\n") for name in names),
            "forced\nchoice", "with\nzeros", "the\nmean", "noise"], rows


def rewired(problem, matters=True):
    """{depth: ProsQA problem}: the same problem, but the ends of two sentences changed places. One end is
    `depth` steps from the entity asked about, the other as many from another entity.

    matters: now the entity reaches the other candidate, and no longer the answer, so the right answer is the
    other one. Otherwise: the answer is as many steps away as before, and the other candidate out of reach.
    """
    g, found = data.graph(problem), {}
    elsewhere = [reached for root, reached in data.entities(g.edges.values()).items() if root != g.entity]
    for (one, (u, v)), (two, (x, y)) in itertools.permutations(g.edges.items(), 2):
        if u not in g.distance or y in g.distance or g.distance[v] in found:
            continue
        depth, edges = g.distance[v], {*g.edges.values()} - {(u, v), (x, y)} | {(u, y), (x, v)}
        if depth not in [reached.get(y) for reached in elsewhere] or len(edges) < len(g.edges):
            continue
        reached = data.distances(edges, g.entity)
        answer, other = reached.get(g.answer), reached.get(g.other)
        if matters:
            fits = answer is None and other is not None
        else:
            fits = answer == g.distance[g.answer] and other is None
        if fits:
            first, second = (sentence.rsplit(" ", 1)[0] for sentence in (one, two))
            question = problem.question.replace(one, "\0").replace(two, f"{second} {v}.")
            question = question.replace("\0", f"{first} {y}.")
            found[depth] = data.Problem(question, [], f"{g.entity} is a {g.other if matters else g.answer}.")
    return found


FACTS = ("as they are", "sentences in another order", "a change that does not matter",
         "a change that matters, at step {}", "the same; steps to the new answer: {}")


def rewire(run, problems):
    """Does the answer follow the facts? Each row has other problems, made of the test problems: how many can
    be, how many are answered right, and how many with the other candidate. Where a change matters (see
    `rewired`), the right answer was the wrong one before. The first three rows are controls.

    The new answer can be nearer than any in training; so the same problems also stand by its distance.
    """
    rng, asked, groups = random.Random(0), [], {}           # asked: (problem, its rows: {(of FACTS, number)})
    for p in problems:
        *told, question = re.split(r"(?<=\.) ", p.question)
        shuffled = data.Problem(" ".join([*rng.sample(told, len(told)), question]), [], p.answer)
        asked += [(p, {(0, 0)}), (shuffled, {(1, 0)})]
        if found := rewired(p, matters=False):
            asked.append((found[min(found)], {(2, 0)}))
        for depth, changed in rewired(p).items():
            g = data.graph(changed)
            asked.append((changed, {(3, depth), (4, g.distance[g.answer])}))
    texts, *_ = train.ask(run, [p for p, _ in asked], run.fillers())
    for (p, which), text in zip(asked, texts):
        for row in which:
            groups.setdefault(row, []).append([float(data.grade(q, text)) for q in (p, data.wrong(p))])
    rows = [(FACTS[kind].format(number), len(some), *map(statistics.mean, zip(*some)))
            for (kind, number), some in sorted(groups.items())]
    return ["facts", "problems", "right", "the other\ncandidate"], rows


def corrupt(run, problems):
    """Accuracy when the thoughts are tampered with: what was done, the answers right, how many name the other
    candidate, how many were given at once, without a written step before them, and how many of these are
    right.

    Whatever is put in is fed back as the input, so that thoughts after it see it. Noise has the mean and
    standard deviation of the numbers in all thoughts. Another problem has the same number of steps, if there
    is one. An answer that follows a rewired problem's thoughts (ProsQA; see `rewired`, here the least depth)
    is wrong; the last row says how many of the rewired problems are answered right.
    """
    torch.manual_seed(0)
    n, total = run.fillers(), len(problems)
    own = train.ask(run, problems, n)[2]                                                    # (P, n, C)
    noise = own.mean() + own.std() * torch.randn_like(own)
    shuffled = torch.stack([thoughts[torch.randperm(n).to(own.device)] for thoughts in own])
    steps = [len(p.steps) for p in problems]
    another = [next((j for j in (*range(i + 1, total), *range(i)) if steps[j] == steps[i]), (i + 1) % total)
               for i in range(total)]
    cases = [(f"noise for the first {j} of {n}" if j else "untouched", problems, noise[:, :j])
             for j in range(n + 1)]
    cases += [("in reverse order", problems, own.flip(1)), ("in random order", problems, shuffled),
              ("another problem's", problems, own[another])]
    if pairs := [(p, found[min(found)]) for p in problems if data.graph(p) and (found := rewired(p))]:
        originals, changed = zip(*pairs)
        thoughts = train.ask(run, changed, n)[2]
        cases += [("its rewired problem's", originals, thoughts),
                  ("rewired, with their own", changed, thoughts)]
    rows = []
    for what, asked, given in cases:
        texts, *_ = train.ask(run, asked, n, given=given)
        right = list(map(data.grade, asked, texts))
        other = [data.grade(p, text) for p, text in zip(map(data.wrong, asked), texts) if p]
        once = [r for r, text in zip(right, texts) if not text.split("###")[0].strip()]
        rows.append((what, f"{sum(right)}/{len(asked)} =", sum(right) / len(asked), sum(other), len(once),
                     sum(once)))
    return ["thoughts", "answers", "right", "the other\ncandidate", "at\nonce", "right of\nthese"], rows


def tokens_of_names(run):
    """{name: the ids of all tokens with it}."""
    tokens = {}
    for i, word in enumerate(run.tokenizer.words, start=256):
        tokens.setdefault(data.name_and_rest(word)[0], []).append(i)
    return tokens


@torch.no_grad()
def read_thoughts(run, problems):
    """What the model writes after the run's fillers: texts, and what the output head makes of each thought:
    probabilities (P, n, V). A run with pauses has no thoughts: the hidden states that would be the thoughts
    are read, at <bot> and at all pauses but the last."""
    n = run.fillers()
    texts, _, thoughts = train.ask(run, problems, n)                                        # (P, n, C)
    if not thoughts.size(1):
        rows = [data.sequence(*run.tokenizer.ids(p), run.tokenizer, "pause", n) for p in problems]
        batch = data.collate(rows).to(thoughts.device)
        thoughts = run.gpt(run.gpt.embed(batch.question), padding=batch.padding)[0][:, -1 - n:-1]
    return texts, run.gpt.logits(thoughts).softmax(-1)


KINDS = ON_PATH, AS_FAR, OTHER = "on a way to\nthe answer", "as far,\nelsewhere", "all\nothers"


def kind(g, node, steps):
    """Which of KINDS a node of a graph is; ON_PATH and AS_FAR are so many steps from the entity."""
    if g.distance.get(node) != steps:
        return OTHER
    return ON_PATH if steps + g.left.get(node, math.inf) == g.distance[g.answer] else AS_FAR


def steps_away(run, problems, near):
    """For each thought: how many steps from the entity (0: itself) are the nodes whose names together have the
    highest probability, on average over the problems whose answer is at least as far? (Where the head reads
    no names, this says nothing.) near (P, n, V): probabilities, see read_thoughts."""
    tokens, shares = tokens_of_names(run), {}
    for p, own in zip(problems, near):
        g = data.graph(p)
        for steps in range(g.distance[g.answer] + 1):
            ids = [i for v, away in g.distance.items() if away == steps for i in tokens[v]]
            shares.setdefault(steps, []).append(own[:, ids].sum(1))                             # (n,)
    return torch.stack([torch.stack(shares[steps]).mean(0) for steps in sorted(shares)]).argmax(0).tolist()


def parallel(run, problems):
    """Which nodes of the graph the thoughts hold. Row k: how many steps away they are (see `steps_away`), and
    the mean probability that the output head, at thought k, gives to the name of a node, for each of KINDS.
    All tokens with the name count, and all problems of at least so many steps. In a breadth-first search
    thought k holds the first two kinds, k steps away (or k - 1, if it runs late). A thought that holds the
    entity itself has an empty row.

    Then, of the problems with several nodes as far, in how many does a second one have over 10 %? And, of
    the right and of the wrong answers, in how many is the path lost: no node of it that far has over 5 %?

    Paper: Understanding the Latent Reasoning in Coconut.
    """
    tokens, seen = tokens_of_names(run), {}                     # {(k, head of a column): numbers}
    several, second = "several\nas far in", "a second\nover 10%"
    lost = {True: "path lost,\nof right", False: "of wrong\nanswers"}
    texts, near = read_thoughts(run, problems)                                              # (P, n, V)
    away = dict(enumerate(steps_away(run, problems, near), start=1))
    for problem, text, own in zip(problems, texts, near):
        g = data.graph(problem)
        named = {v: own[:, tokens[v]].sum(1).tolist() for v in {v for _, v in g.edges.values()}}
        for k, steps in away.items():
            if not 0 < steps <= g.distance[g.answer]:
                continue
            found = {}
            for node, shares in named.items():
                found.setdefault(kind(g, node, steps), []).append(shares[k - 1])
            frontier = sorted(found[ON_PATH] + found.get(AS_FAR, []), reverse=True)
            found[lost[data.grade(problem, text)]] = [float(max(found[ON_PATH]) <= 0.05)]
            if len(frontier) > 1:
                found |= {several: [1], second: [float(frontier[1] > 0.1)]}
            for head, numbers in found.items():
                seen.setdefault((k, head), []).extend(numbers)

    def cell(k, head):
        numbers = seen.get((k, head))
        return "" if not numbers else sum(numbers) if head == several else statistics.mean(numbers)
    heads = [*KINDS, several, second, *lost.values()]
    rows = [(k, steps, *(cell(k, head) for head in heads)) for k, steps in away.items()]
    return ["thought", "steps\naway", *heads], rows


@torch.no_grad()
def erase(run, problems):
    """Does the answer need what a thought seems to hold? A node's direction is the mean of the rows that the
    tokens with its name have in the output head. Row k: from thought k the part along one direction is taken
    out, that of the path's only node as far away as those it holds (see `steps_away`), if it is not the
    answer, and thinking goes on from there. The controls take as much out along another node as far, and
    along a random direction. How many are right then, of all problems that have the two nodes?"""
    n, tokens, weights = run.fillers(), tokens_of_names(run), run.gpt.wte.weight
    own, rng, rows = train.ask(run, problems, n)[2], torch.Generator().manual_seed(0), []      # (P, n, C)
    for k, steps in enumerate(steps_away(run, problems, run.gpt.logits(own).softmax(-1)), start=1):
        which, names = [], []
        for i, p in enumerate(problems):
            g = data.graph(p)
            as_far = sorted(v for v, d in g.distance.items() if d == steps)
            path = [v for v in as_far if kind(g, v, steps) == ON_PATH]
            if len(path) == 1 and len(as_far) > 1 and path != [g.answer]:
                which.append(i)
                names.append((path[0], next(v for v in as_far if v not in path)))
        if not which:
            continue
        asked, cells = [problems[i] for i in which], []
        path, other = (torch.stack([weights[tokens[name]].mean(0) for name in some]) for some in zip(*names))
        path, other, noise = (F.normalize(direction, dim=-1) for direction in (
            path, other, torch.randn(path.shape, generator=rng).to(own)))                   # (asked, C)
        amount = (own[which, k - 1] * path).sum(-1, keepdim=True)
        for direction in (torch.zeros_like(path), path, other, noise):
            given = own[which, :k]
            given[:, -1] -= amount * direction
            texts, *_ = train.ask(run, asked, n, given=given)
            cells.append(sum(map(data.grade, asked, texts)) / len(asked))
        rows.append((k, steps, len(asked), *cells))
    return ["thought", "steps\naway", "problems", "as it is", "without\nthe path's", "another\nas far",
            "a random\ndirection"], rows


# ---- The command line.

LOOKS = {"sweep_thoughts": (sweep, "ProsQA: answers and written paths after 0, 1, ... steps of thought"),
         "parallel": (parallel, "ProsQA: which nodes of the graph the thoughts hold"),
         "erase": (erase, "ProsQA: is the answer right without a node's name in a thought?"),
         "rewire": (rewire, "ProsQA: does the answer follow when the facts change?"),
         "corrupt": (corrupt, "accuracy with noise or other thoughts put in")}


def refuse(look, thoughts, run, problems):
    """A user error where a look does not suit the run or its problems; a warning where it says little."""
    method, (filler, chain) = run.settings.method, train.METHODS[run.settings.method]
    if look not in (None, "corrupt") and not all(data.graph(p) and all(data.sound(p)[:2]) for p in problems):
        raise UserError(f"--{look} follows paths to an answer, which only sound problems of ProsQA have")
    needs = {"tree": filler, "parallel": run.fillers(), "corrupt": filler == "thought" and run.fillers(),
             "erase": filler == "thought" and run.fillers()}
    if not needs.get(look, True) or thoughts and filler is None:
        raise UserError(f"this run of {method} is without thoughts: leave out --{look or 'thoughts'}")
    if look in ("parallel", "erase"):
        named = {v for p in problems for edge in data.graph(p).edges.values() for v in edge}
        if not run.tokenizer.words or not named <= {*tokens_of_names(run)}:
            raise UserError(f"--{look} needs names of nodes that are one token each")
    if filler and look in ("tree", "sweep_thoughts") and (chain == "removed" or not run.settings.mix):
        print("warning: this run may not write steps after fewer thoughts (no curriculum, or no --mix): "
              "written paths and trees say little (the forced choice needs neither)")


def parse(argv):
    """The command line: typed problem flags, {flag: value}, and all else; .look is the look it asks for."""
    parser = data.Parser(description=__doc__.split("\n\n")[0])
    add, count = parser.add_argument, data.number(int, 1)
    add("path", metavar="RUN", help="a run's folder (its best.pt is asked), or a checkpoint")
    looks = parser.add_mutually_exclusive_group()
    looks.add_argument("--question", help="ask this instead of test problems")
    looks.add_argument("--tree", nargs="?", metavar="I", type=count, const=1,
                       help="ProsQA: the search tree of test problem I (1)")
    for look, (_, what) in LOOKS.items():
        looks.add_argument(f"--{look}", action="store_const", dest="look", const=look, help=what)
    add("--thoughts", type=data.number(int, 0), help="thoughts to take (the run's)")
    add("--n", type=count, help="test problems to ask (3; all for the tables)")
    add("--device", default="cpu", help="cpu, cuda or auto (cpu)")
    add("--dataset", default=argparse.SUPPRESS, help="other test problems: a .json file or a folder")
    data.add_flags(parser)
    typed = vars(parser.parse_args(argv))
    names = ("path", "question", "tree", "look", "thoughts", "n", "device")
    args = argparse.Namespace(**{name: typed.pop(name) for name in names})
    args.look = "tree" if args.tree else args.look
    if args.thoughts is not None and args.look:
        raise UserError(f"--thoughts is for asking problems: leave it out with --{args.look}")
    if args.n and (args.question is not None or args.tree):
        raise UserError("one problem is asked here: leave out --n")
    if args.question is not None and typed:
        raise UserError(f"no test problems are asked here: leave out --{', --'.join(typed)}")
    return typed, args


def main(argv=None):
    typed, args = parse(argv)
    run, _ = train.open_run(args.path, train.pick_device(args.device))
    if args.question is not None:
        problems = [data.Problem(args.question, [], "")]
    else:
        problems = data.test_problems(run.settings, typed)
        first, last = (args.tree - 1, args.tree) if args.tree else (0, args.n or (None if args.look else 3))
        problems = problems[first:last]
        if not problems:
            raise UserError(f"--tree {args.tree}: there are not so many test problems")
    refuse(args.look, args.thoughts, run, problems)
    if not args.look:
        return show_answers(run, problems, run.fillers() if args.thoughts is None else args.thoughts)
    look = tree if args.tree else LOOKS[args.look][0]
    data.show_table(*look(run, problems))


if __name__ == "__main__":
    run_or_explain(main)
