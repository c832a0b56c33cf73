"""The problems: ProsQA and ProntoQA made from a seed, GSM8K downloaded; tokens, batches and grading.

Paper: "Experiments", Datasets, and its appendix on ProsQA. A problem is a question, the reasoning steps and
an answer. This file turns it into the sequence that Coconut trains on,

    question tokens  <bot>  t1 t2 ... tn  <eot>  the remaining steps  ### answer <eos>
    |---- no loss ----------------------------|  |---------- loss --------------------|

and then says where problems come from.

    python data.py prosqa --out DIR    write train.json, valid.json and test.json in the official format
    python data.py FILE.json           can these ProsQA questions be answered from their own sentences?
"""

import argparse
import functools
import inspect
import itertools
import json
import math
import random
import re
from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path

import tiktoken
import torch

from gpt import UserError, download, run_or_explain, write_file


@dataclass
class Problem:
    question: str
    steps: list             # the written chain of thought, one sentence group per step
    answer: str


# ---- From text to tokens, and from tokens to the batches that the model reads.

class Tokenizer:
    """Words to ids and back, by tiktoken: with GPT-2's vocabulary (words=None; fetched on first use), or with
    one of the 256 bytes and the words of a training set.

    tiktoken looks a whole word up before it merges any bytes, so a known word is one token. An unknown one
    becomes bytes and shorter known words ("thisx": t h is x), and every text decodes to itself. No text, not
    even "<bot>", makes a special token.
    """
    # A subject with its verb is one token, and so is a name that ends a sentence: a fact is two tokens. A
    # model that has read "Every bompus is a " looks for the same token earlier, and copies what came next.
    PATTERN = (r"(?:(?:Every|Each) )?\w+ is(?: an?| not)? |\w+es are(?: not)? |\w+\.[ \n]| (?:an?|or) |Is "
               r"|\w+|[^\w\s]+[ \n]?|\n|[^\S\n]+")
    SPECIAL = ("<|endoftext|>", "<bot>", "<eot>", "<pause>")

    def __init__(self, words=None):
        self.words = words
        if words is None:
            try:
                gpt2 = tiktoken.get_encoding("gpt2")
            except OSError as e:
                raise UserError(f"GPT-2's vocabulary could not be fetched ({type(e).__name__}): put "
                                "tiktoken's copy into a folder and set TIKTOKEN_CACHE_DIR to it") from None
            pattern, ranks = gpt2._pat_str, gpt2._mergeable_ranks
        else:
            tokens = [bytes([i]) for i in range(256)] + [word.encode() for word in words]
            pattern, ranks = self.PATTERN, {token: i for i, token in enumerate(tokens)}
        self.vocab_size = len(ranks) + len(self.SPECIAL)
        special = {name: len(ranks) + i for i, name in enumerate(self.SPECIAL)}
        self.eos, self.bot, self.eot, self.pause = special.values()
        self.encoding = tiktoken.Encoding("words" if words else "gpt2 and thoughts", pat_str=pattern,
                                          special_tokens=special, mergeable_ranks=ranks)
        self.encode, self.decode = self.encoding.encode_ordinary, self.encoding.decode

    @classmethod
    def of(cls, problems):
        """The tokenizer of a training set: every word in it that is longer than a byte."""
        texts = [text for p in problems
                 for text in (*(line + "\n" for line in (p.question, *p.steps)), f"### {p.answer}")]
        words = {word for text in texts for word in re.findall(cls.PATTERN, text)}
        return cls(sorted(word for word in words if len(word.encode()) > 1))

    def show(self, i):
        """One token for people: spaces and line ends made visible."""
        return repr(self.decode([i]))[1:-1].replace(" ", "_")

    def ids(self, problem):
        """The ids of a problem: question, [step, ...], answer. Pieces end where tokens end, so encoding each
        piece is encoding the whole text."""
        question, *steps = (self.encode(text + "\n") for text in (problem.question, *problem.steps))
        return question, steps, self.encode("### " + problem.answer) + [self.eos]


def name_and_rest(word):
    """A token's name and what is around it: "Every bompus is a " has "bompus" and "Every {} is a ". (For
    begin_alike in train.py and tokens_of_names in sample.py.)"""
    match = re.fullmatch(r"(Every |Each |)(\w+?)((?:(es)?(?: (?:is|are) .*|\.\s))?)", word, re.DOTALL)
    before, name, after = match.group(1, 2, 3) if match else ("", word, "")
    return name.lower() if after.startswith("es ") else name, f"{before}{{}}{after}" if before + after else ""


def sequence(question, steps, answer, tokenizer, filler, n):
    """The ids of one training sequence: (what is read before the thoughts, how many thoughts, language). The
    written steps that are left, `steps`, follow n fillers.

    filler: "thought", "pause", or None, which does without <bot> and <eot> too. For the question "Tom is a x.
    Is Tom a y or z?", of whose steps "Every x is a y." is left, and n=1 thought:

        Tom is a x. Is Tom a y or z ?\n <bot>   t1   <eot>  Every x is a y.\n ### Tom is a y . <eos>
        |------------ question ------------| thought |----------------- language ------------------|
                                                           no loss on <eot>: it is given, not predicted

    Pauses are ordinary tokens, the same at every place, so they are read with the question, in the same pass.
    """
    language = [i for step in steps for i in step] + answer
    if filler is None:              # the question's last token takes the place of <eot>
        return question[:-1], 0, [question[-1]] + language
    pauses = [tokenizer.pause] * n if filler == "pause" else []
    return question + [tokenizer.bot] + pauses, n - len(pauses), [tokenizer.eot] + language


@dataclass
class Batch:
    question: torch.Tensor      # (B, Tq) ids, padded on the left, so that all end at the same place
    padding: torch.Tensor       # (B,) how many ids of each question are padding
    n: int                      # how many continuous thoughts every problem takes
    language: torch.Tensor      # (B, Tl) input ids, padded on the right, where causal attention never looks
    target: torch.Tensor        # (B, Tl) the id to predict at each place of `language`, -100 at padding

    def to(self, device):
        return Batch(*(v.to(device) if isinstance(v, torch.Tensor) else v for v in vars(self).values()))


def collate(sequences):
    """Sequences from `sequence`, all with the same number of thoughts, to one Batch. Padding is id 0, or
    -100 in the target, which the loss ignores."""
    questions, (n, *_), languages = zip(*sequences)
    Tq, Tl = max(map(len, questions)), max(map(len, languages)) - 1
    padding = [Tq - len(question) for question in questions]
    return Batch(torch.tensor([[0] * left + question for left, question in zip(padding, questions)]),
                 torch.tensor(padding), n,
                 torch.tensor([ids[:-1] + [0] * (Tl + 1 - len(ids)) for ids in languages]),
                 torch.tensor([ids[1:] + [-100] * (Tl + 1 - len(ids)) for ids in languages]))


def grade(problem, text):
    """Is the answer in a generated text right? It is what follows the last "#". Commas do not count, as in
    the official code."""
    given, right = (s.split("#")[-1].replace(",", "").strip() for s in (text, problem.answer))
    return given == right


def wrong(problem):
    """The same problem with the wrong one of the two answers that its question offers (ProsQA, ProntoQA), or
    None."""
    if problem.answer in ("True", "False"):
        return Problem(problem.question, problem.steps, str(problem.answer == "False"))
    g = graph(problem)
    return g and Problem(problem.question, problem.steps, f"{g.entity} is a {g.other}.")


# ---- ProsQA (the paper's own): which of two concepts can be reached from an entity, in a random graph?

PROSQA_CONCEPTS = ("bompus boompus brimpus chorpus dumpus felpus fompus gerpus gorpus grimpus "
                   "gwompus hilpus impus jelpus jompus kerpus lempus lorpus numpus quimpus "
                   "rempus rompus rorpus scrompus shumpus sterpus storpus terpus timpus "
                   "tumpus vumpus worpus wumpus yerpus yimpus yumpus zhorpus zumpus").split()
PROSQA_ENTITIES = ("Alex Bob Carol Davis Eva Fae Gabriel Jack Max "
                   "Oliver Polly Rex Sally Sam Stella Tom Wren").split()


def prosqa_graph(rng, nodes, mean_parents):
    """(parents, family, depth) of every node. Nodes come one by one and choose parents among the earlier.

    Nodes 0 and 1 are the roots. A node's family is 1 for the descendants of node 0, 2 for those of node 1, 3
    for both, 0 for neither. A new node's parents come from family 1, from family 2, or now and then from all;
    a deep node attracts more, so paths get long. depth is the distance from the family's root, 0 in families
    0 and 3. Paper: the appendix on ProsQA; where it leaves a choice, what the official files show.
    """
    parents, family, depth = [[], []], [1, 2], [0, 0]
    for v in range(2, nodes):
        chosen_family = 1 if rng.random() < 0.35 else 2 if rng.random() < 0.7 else None
        pool = [u for u in range(v) if chosen_family in (None, family[u])]
        # Each node waits for a random time, and the shortest waits win: a weighted draw without replacement.
        chosen = sorted(pool, key=lambda u: rng.expovariate(1.5 * depth[u] + 1))[:_poisson(rng, mean_parents)]
        parents.append(chosen)
        families = {family[u] for u in chosen} - {0}
        family.append(3 if len(families) > 1 else sum(families))
        depth.append(1 + min(depth[u] for u in chosen if family[u]) if family[v] in (1, 2) else 0)
    return parents, family, depth


def _poisson(rng, mean):
    """A Poisson-distributed count: the events of rate 1 in a time `mean`."""
    count, clock = 0, rng.expovariate(1)
    while clock < mean:
        count, clock = count + 1, clock + rng.expovariate(1)
    return count


def prosqa_problem(rng, nodes=28, min_steps=3, max_steps=6, parents=1.5, same_depth=False, either_root=False,
                   distractors=1.0):
    """One ProsQA problem: "Is <entity> a <target> or <neg_target>?", the target min_steps to max_steps away
    (with either_root also nearer).

    Of the leaves that only one root reaches, the deepest is the target and its root the entity asked about;
    neg_target is such a leaf of the other root. Of the paper's 28 nodes about 23 have an edge and remain.
    distractors: the probability that an edge beside the paths to the target and to neg_target is told.

    neg_target is never deeper than the target, so a model that prefers the deeper one need not know who is
    asked about (results/dispute.md). Two ways to close this short cut: same_depth has both equally deep;
    either_root asks about the other root in half of the problems, and its path may be shorter.
    """
    if min_steps > max_steps:
        raise UserError(f"--min_steps {min_steps} is more than --max_steps {max_steps}: change one of them")
    for _ in range(10_000):
        sources, family, depth = prosqa_graph(rng, nodes, parents)
        inner = {u for chosen in sources for u in chosen}
        leaves = [[v for v in range(2, nodes) if family[v] == root + 1 and v not in inner] for root in (0, 1)]
        steps = max((depth[v] for v in leaves[0] + leaves[1]), default=0)
        deepest = [[v for v in own if depth[v] == steps] for own in leaves]
        others = deepest if same_depth else leaves
        roots = [root for root in (0, 1) if deepest[root] and others[1 - root]]
        parentless = sum(not chosen for chosen in sources)
        named = parentless <= len(PROSQA_ENTITIES) and nodes - parentless <= len(PROSQA_CONCEPTS)
        if roots and min_steps <= steps <= max_steps and named:
            break
    else:
        raise UserError(f"10,000 random graphs of {nodes} nodes held no ProsQA problem "
                        f"of {min_steps} to {max_steps} steps: change nodes, steps or parents")
    root = rng.choice(roots)
    target, neg_target = rng.choice(deepest[root]), rng.choice(others[1 - root])
    path, other = (_path_to(rng, v, sources, family, depth) for v in (target, neg_target))
    needed = {*zip(path, path[1:]), *zip(other, other[1:])}
    edges = [(u, v) for v, chosen in enumerate(sources) for u in chosen
             if (u, v) in needed or rng.random() < distractors]
    if either_root and rng.random() < 0.5:
        path, other = other, path
    return _tell(rng, sources, edges, path, other[-1])


def _path_to(rng, v, parents, family, depth):
    """One of the shortest paths to v from its root, drawn from its end."""
    path = [v]
    while path[0] > 1:
        w = path[0]
        before = [u for u in parents[w] if family[u] == family[v] and depth[u] == depth[w] - 1]
        path.insert(0, rng.choice(before))
    return path


def _tell(rng, parents, edges, path, neg_target):
    """The edges of a graph and the path that answers the question, in words: each edge is a sentence.

    Nodes without parents get the name of an entity, all others one of a concept, those without any edge none.
    """
    kept = sorted({v for edge in edges for v in edge})
    concepts, entities = (rng.sample(names, len(names)) for names in (PROSQA_CONCEPTS, PROSQA_ENTITIES))
    name = {v: (concepts if parents[v] else entities).pop() for v in kept}
    root, target = name[path[0]], name[path[-1]]

    def sentence(u, v):
        return f"{'Every ' if parents[u] else ''}{name[u]} is a {name[v]}."
    told = rng.sample([sentence(u, v) for u, v in edges], len(edges))
    asked = rng.sample([target, name[neg_target]], 2)
    return Problem(" ".join(told + [f"Is {root} a {asked[0]} or {asked[1]}?"]),
                   [sentence(u, v) for u, v in zip(path, path[1:])], f"{root} is a {target}.")


# ---- ProntoQA (Saparov & He 2022, arXiv 2210.01240), as its official generator makes it for Coconut:
# fictional names, random order, relevant distractors. That program draws at random and keeps one in 276. All
# that it keeps look alike, so that form is built here, with the probabilities found among the kept ones.

CONCEPTS = ("wumpus yumpus zumpus dumpus rompus numpus tumpus vumpus impus "
            "jompus gorpus shumpus lempus sterpus grimpus lorpus brimpus").split()
FAMILIES = [family.split() for family in (
    "blue red brown orange", "small large", "metallic wooden luminous liquid", "transparent opaque",
    "nervous happy feisty shy", "bright dull", "sweet sour spicy bitter", "floral fruity earthy",
    "hot cold temperate", "kind mean angry amenable aggressive", "melodic muffled discordant loud",
    "slow moderate fast", "windy sunny overcast rainy snowy")]
ENTITIES = "Fae Rex Sally Max Alex Sam Polly Stella Wren".split()
MAX_HOPS = 6    # h hops need 2h + 4 of the 17 concepts and 2h + 1 of the 13 families


def prontoqa_problem(rng, hops=5, distractors=1.0):
    """One ProntoQA problem: does entity E have the property asked for?

    E is an A_h, and A_h -> ... -> A_1 -> A_0 is a chain of is-a rules, each A_i with a dead-end second parent
    D_i. The query is about A_1's property: hops - 1 steps up the chain, one that finds the property's rule,
    and the conclusion. The distractors: E is also a C (with a parent R, going nowhere), and S, which nothing
    is, has A_1's adjective with the opposite polarity.

    distractors: the probability that a rule which the proof does not need is told. S's rule always is:
    without it, the one rule about the adjective would give the answer away.
    """
    names = rng.sample(CONCEPTS, 2 * hops + 4)
    chain, sides, (c, r, s) = names[:hops + 1], names[hops + 1:-3], names[-3:]   # A_h ... A_0; D_h ... D_1
    target, entity = chain[-2], rng.choice(ENTITIES)        # the target is A_1

    # Every concept but A_0, R and S has one property, each of another family. P(negated): 1/3 a priori; for
    # the concepts of the chain, what the official program's random proof walk leaves of it.
    owners = chain[:-1] + sides + [c]
    adjective = dict(zip(owners, map(rng.choice, rng.sample(FAMILIES, len(owners)))))
    odds = {name: 13 / 47 for name in chain} | {target: 91 / 193}
    negated = {name: rng.random() < odds.get(name, 1 / 3) for name in owners}
    adjective[s], negated[s] = adjective[target], not negated[target]

    is_a = {x: _rule(rng, x, y, True) for x, y in zip(chain, chain[1:])}             # A_i -> A_(i-1)
    has = {x: _rule(rng, x, "not " * negated[x] + adjective[x]) for x in adjective}
    needed = [is_a[x] for x in chain[:-2]] + [has[target]]
    others = [is_a[target], _rule(rng, c, r, True),
              *(_rule(rng, x, d, True) for x, d in zip(chain, sides)),
              *(has[x] for x in adjective if x not in (target, s))]
    rules = needed + [has[s]] + [rule for rule in others if rng.random() < distractors]
    rng.shuffle(rules)
    facts = [f"{entity} is {with_article(x)}." for x in (chain[0], c)]
    rng.shuffle(facts)

    conclusion, opposite = (f"{entity} is {'not ' * negated[x]}{adjective[x]}." for x in (target, s))
    true = rng.random() < 0.5
    steps = [f"{entity} is {with_article(x)}. {rule}" for x, rule in zip(chain, needed)] + [conclusion]
    query = f"True or false: {conclusion if true else opposite}"
    return Problem(" ".join([*rules, *facts, query]), steps, str(true))


def with_article(noun):
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"        # ProsQA, as in its files, always has "a"


def _rule(rng, subject, predicate, is_concept=False):
    """"Xes are yes.", "Each x is a y." or "Every x is a y." (1/2, 1/4, 1/4)."""
    if rng.random() < 0.5:
        return f"{subject.capitalize()}es are {predicate}{'es' if is_concept else ''}."
    quantifier = rng.choice(["Each", "Every"])
    return f"{quantifier} {subject} is {with_article(predicate) if is_concept else predicate}."


# ---- Sets of problems: generated, or read from files.

GENERATORS = {"prontoqa": prontoqa_problem, "prosqa": prosqa_problem}
SPLITS = ("train", "valid", "test")


def make_problems(name, sizes, seed=0, seen=(), **options):
    """{"train": [Problem, ...], "valid": ..., "test": ...} of the given sizes. No question occurs twice, and
    none of those in `seen`. `options` go to the generator of `name`.

    Each set has its own random stream, and the test set comes first: another size of one set changes a later
    one only where a question would occur twice.
    """
    seen, sets = set(seen), {}
    for split in sorted(sizes, key=("test", "valid", "train").index):
        rng, sets[split] = random.Random(f"{name} {split} {seed}"), []
        for _ in range(sizes[split]):
            for _ in range(10_000):
                problem = GENERATORS[name](rng, **options)
                if problem.question not in seen:
                    break
            else:
                raise UserError(f"there are no {sizes[split]:,} different {name} problems of this kind: "
                                "ask for fewer, or for larger ones")
            seen.add(problem.question)
            sets[split].append(problem)
    return sets


def read(path):
    """The problems in a file: .json in the official format, a list of {"question", "steps", "answer"}, or
    .txt in GSM8K-Aug's, a line each: "question||step step #### answer"."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        if Path(path).suffix == ".txt":
            form = r"\s*(\S.*?)\|\|(.*)####\s*(\S.*)"
            lines = [re.fullmatch(form, line) for line in text.rstrip().split("\n")]
            return [Problem(line[1].strip(), line[2].split(), line[3].strip()) for line in lines]
        problems = [Problem(p["question"], p["steps"], p["answer"]) for p in json.loads(text)]
        if not problems:
            raise ValueError("it is empty")
    except (ValueError, TypeError, KeyError, RecursionError) as e:
        raise UserError(f"{path} is no list of problems with question, steps and answer "
                        f"({type(e).__name__}: {str(e)[:80]})") from None
    for i, p in enumerate(problems):
        if not isinstance(p.steps, list) or {str} != set(map(type, (p.question, *p.steps, p.answer))):
            raise UserError(f"{path}, item {i}: question and answer must be texts, steps a list of texts")
    return problems


def write(problems, path):
    """Problems to one new .json file in the official format."""
    text = json.dumps(list(map(vars, problems)), indent=1)
    write_file(path, lambda beside: Path(beside).write_text(text, encoding="utf-8"))


def load(folder, splits=SPLITS):
    """The named splits of a folder: train.json (or NAME_train.json), valid.json, test.json."""
    sets = {}
    for split in splits:
        files = [*Path(folder).glob(f"{split}.json"), *Path(folder).glob(f"*_{split}.json")]
        if len(files) != 1:
            raise UserError(f"{folder} must hold one {split}.json or NAME_{split}.json, but has {len(files)}")
        sets[split] = read(files[0])
    return sets


# GSM8K-Aug (Deng et al. 2023, arXiv 2311.01460): url and sha256 of each file.
_PLACE = "da03/Internalize_CoT_Step_by_Step/e06a32ee5e4cd117171daeb4755d2a97ece62761/data/gsm8k"
GSM8K = {
    "train": (f"https://media.githubusercontent.com/media/{_PLACE}/train.txt",
              "0a3909a9e7d8d2f7ad6b8c7b5608aa744988d835f9bf874d4cf06ca77df6bf8c"),
    "valid": (f"https://raw.githubusercontent.com/{_PLACE}/valid.txt",
              "04f9bddfe8ac4846571b1e2b612b289c95770b5012fdb34cc36a597b041afb87"),
    "test": (f"https://raw.githubusercontent.com/{_PLACE}/test.txt",
             "e464efa2713fbcf423bdbfb482c543a6a086188c3d97c294b1d19a70c2a515e8")}


def problem_sets(settings, splits=SPLITS, **more):
    """{"train": [Problem, ...], "valid": ...}. settings.dataset names a generated dataset (`more` goes to
    `make_problems`), gsm8k, a folder, or, for test problems alone, a file."""
    dataset = settings.dataset
    if dataset in GENERATORS:
        options = {flag: getattr(settings, flag) for flag in problem_defaults(dataset)}
        sizes = {split: options.pop(f"{split}_size") for split in SPLITS}
        options = dict(seed=options.pop("data_seed")) | options | more
        return make_problems(dataset, {split: sizes[split] for split in splits}, **options)
    if dataset == "gsm8k":
        return {split: read(download(url, f"gsm8k-{split}.txt", sha256))
                for split, (url, sha256) in GSM8K.items() if split in splits}
    if Path(dataset).is_file() and splits == ("test",):
        return {"test": read(dataset)}
    if not Path(dataset).is_dir():
        raise UserError(f"no dataset {dataset}: say prontoqa, prosqa or gsm8k, or name a folder with "
                        "train.json, valid.json and test.json")
    return load(dataset, splits)


# ---- The flags that say which problems: the same for data.py, train.py and sample.py.

class Parser(argparse.ArgumentParser):
    """A wrong flag gets one line, like every user error, and not the usage as well."""
    def error(self, message):
        raise UserError(message)


def number(kind, low, high=math.inf):
    """An argparse type: an int or float between low and high."""
    def convert(text):
        value = kind(text)
        if not low <= value <= high or math.isinf(value):
            raise argparse.ArgumentTypeError(f"{text} is not between {low} and {high}")
        return value
    convert.__name__ = kind.__name__        # argparse names it when the text is no number at all
    return convert


def add_flags(parser):
    """The flags of problems that are made. What parse_args returns lacks those that are not typed."""
    count, switch = number(int, 1), argparse.BooleanOptionalAction
    add = functools.partial(parser.add_argument, default=argparse.SUPPRESS)
    add("--train_size", type=count, help="training problems")
    add("--valid_size", type=count, help="validation problems")
    add("--test_size", type=count, help="test problems")
    add("--distractors", type=number(float, 0, 1), help="share of the sentences that are told although the "
        "answer does not need them")
    add("--hops", type=number(int, 1, MAX_HOPS), help="ProntoQA: deduction hops of a problem")
    add("--nodes", type=number(int, 1, 55), help="ProsQA: nodes of a graph, before those without any edge go")
    add("--min_steps", type=count, help="ProsQA: fewest reasoning steps of a problem")
    add("--max_steps", type=count, help="ProsQA: most reasoning steps of a problem")
    add("--parents", type=number(float, 0, 20), help="ProsQA: parents of a node, on average")
    add("--same_depth", action=switch, help="ProsQA: both candidates equally deep, which closes a short cut")
    add("--either_root", action=switch, help="ProsQA: ask about either root, which closes it too")
    add("--data_seed", type=number(int, 0), help="seed of the problems")


def problem_defaults(dataset):
    """{flag: the paper's value} of the flags that a dataset takes: sizes, a seed, and the parameters of its
    generator; none, if its problems are not generated."""
    if dataset not in GENERATORS:
        return {}
    sizes = {"prontoqa": (9000, 200, 800)}.get(dataset, (17886, 300, 500))
    options = {name: p.default for name, p in inspect.signature(GENERATORS[dataset]).parameters.items()
               if name != "rng"}
    return {f"{split}_size": size for split, size in zip(SPLITS, sizes)} | options | {"data_seed": 0}


PROBLEM_FLAGS = {flag for dataset in GENERATORS for flag in problem_defaults(dataset)}


def refuse_idle(typed, dataset):
    """Refuse a typed flag of problems, {flag: value}, that the dataset does not take."""
    for flag in typed:
        if flag in PROBLEM_FLAGS and flag not in problem_defaults(dataset):
            raise UserError(f"--{flag} does not apply to {dataset}: leave it out")


def test_problems(settings, typed):
    """The test problems of a run's settings, but for what is typed, {flag: value}."""
    dataset = typed.get("dataset", settings.dataset)
    refuse_idle(typed, dataset)
    others = argparse.Namespace(**problem_defaults(dataset) | vars(settings) | typed)
    return problem_sets(others, ("test",))["test"]


# ---- What a ProsQA question says, read from its text.

Graph = namedtuple("Graph", "edges entity answer other distance left")


def graph(problem):
    """The graph of a ProsQA question, or None for any other problem.

    edges     {sentence: (from, to)}, of "Max is a wumpus." and "Every wumpus is a yumpus."
    entity    the one asked about; answer, other: the candidate that is the answer, and the other one
    distance  {node: fewest steps from the entity}; left: {node: fewest steps to the answer}
    """
    asked = re.search(r"\bIs (\w+) a (\w+) or (\w+)\?", problem.question)
    if not asked:
        return None
    edges = {told[0]: (told[1], told[2])
             for told in re.finditer(r"\b(?:Every )?(\w+) is a (\w+)\.", problem.question)}
    entity, answer, other = asked.groups()
    if not problem.answer.strip(".").endswith(f" {answer}"):
        answer, other = other, answer
    return Graph(edges, entity, answer, other, distances(edges.values(), entity),
                 distances([(v, u) for u, v in edges.values()], answer))


def distances(edges, root):
    """{node: fewest edges from root} over all nodes that can be reached along the (from, to) pairs."""
    found, ring = {root: 0}, [root]
    while ring:
        ring = list(dict.fromkeys(v for node in ring for u, v in edges if u == node and v not in found))
        found |= {v: 1 + max(found.values()) for v in ring}
    return found


def entities(edges):
    """{entity: {node: fewest steps to it}}; entities are the nodes that no edge leads to."""
    return {entity: distances(edges, entity) for entity in {u for u, _ in edges} - {v for _, v in edges}}


def sound(problem):
    """Can a ProsQA question be answered from its own sentences? Three times True or False: the answer can be
    reached from the entity, the other candidate cannot, and the steps are a shortest path to the answer."""
    g = graph(problem)
    path = [g.edges.get(step, (None, None)) for step in problem.steps]
    linked = [g.entity, *(v for _, v in path)] == [*(u for u, _ in path), g.answer]
    return g.answer in g.distance, g.other not in g.distance, linked and len(path) == g.distance.get(g.answer)


def depths(problem):
    """ProsQA's short cut: (depth of the answer, depth of the other candidate). A node's depth is the fewest
    steps to it from an entity; where several entities reach it, the largest of these numbers."""
    g = graph(problem)
    reached = entities(g.edges.values()).values()
    return tuple(max((nodes.get(c, 0) for nodes in reached), default=0) for c in (g.answer, g.other))


# ---- python data.py prosqa, python data.py FILE.json

def check(problems):
    """Print how many of ProsQA's problems are sound, and how many have a short cut (results/dispute.md)."""
    if not all(map(graph, problems)):
        raise UserError("this file has problems that are not ProsQA's: only those are checked")
    facts = [(*three, all(three), answer > other, answer == other, 1 in (answer, other))
             for three, (answer, other) in zip(map(sound, problems), map(depths, problems))]
    what = ("answer in reach", "other candidate out of reach", "steps a shortest path", "all three",
            "answer deeper than the other", "equally deep", "one of them one step from an entity")
    show_table(["", f"of {len(problems):,} problems"], list(zip(what, map(sum, zip(*facts)))))


def show_table(heads, rows):
    """A table, each column as wide as its widest cell: text to the left, numbers to the right, floats as
    shares. A head may have several lines."""
    cells = [[f"{cell:.1%}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    lines = [*itertools.zip_longest(*(head.split("\n") for head in heads), fillvalue=""), *cells]
    columns = []
    for i, column in enumerate(zip(*lines)):
        width, text = max(map(len, column)), all(isinstance(row[i], str) for row in rows)
        columns.append([cell.ljust(width) if text else cell.rjust(width) for cell in column])
    for line in zip(*columns):
        print("  ".join(line).rstrip())


def main(argv=None):
    parser = Parser(description="Make problems, by default the paper's. Without --out, print one.")
    parser.add_argument("dataset", nargs="?", default="prosqa",
                        help="prosqa or prontoqa; or a file of ProsQA problems to check")
    parser.add_argument("--out", help="folder to write train.json, valid.json and test.json to")
    add_flags(parser)
    typed = vars(parser.parse_args(argv))
    dataset, out = typed["dataset"], typed.pop("out")
    refuse_idle(typed, dataset)
    if Path(dataset).is_file() and not out:
        return check(read(dataset))
    if dataset not in GENERATORS:
        raise UserError(f"there is no {dataset}: say prosqa or prontoqa, or name a file")
    settings = argparse.Namespace(**problem_defaults(dataset) | typed)
    if not out:
        settings.train_size = 1
        problem, = problem_sets(settings, ("train",))["train"]
        return print("\n".join([problem.question, *problem.steps, f"### {problem.answer}"]))
    files = {split: Path(out) / f"{split}.json" for split in SPLITS}
    if there := [str(path) for path in files.values() if path.exists()]:
        raise UserError(f"there already: {', '.join(there)}: name another --out")
    Path(out).mkdir(parents=True, exist_ok=True)
    for split, problems in problem_sets(settings).items():
        write(problems, files[split])
        print(f"{len(problems):,} problems in {files[split]}")


if __name__ == "__main__":
    run_or_explain(main)
