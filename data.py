"""The problems: ProntoQA and ProsQA made from a seed, GSM8K downloaded; files, words as tokens, and grading.

Paper: "Experiments", Datasets, and its appendix on ProsQA. A problem is a question, the reasoning steps and
an answer. The first half of this file makes and reads problems as text, the second turns them into the
sequences that Coconut trains on:

    question tokens  <bot>  t1 t2 ... tn  <eot>  the remaining steps  ### answer <eos>
    |---- no loss ----------------------------|  |---------- loss --------------------|

    python data.py prosqa              one problem worked out: text, tokens, thoughts and loss at three stages
    python data.py prosqa --out DIR    write train.json, valid.json and test.json in the official format
    python data.py FILE.json           can these ProsQA questions be answered from their own sentences?
"""

import argparse
import inspect
import itertools
import json
import math
import random
import re
from dataclasses import dataclass
from pathlib import Path

import tiktoken
import torch

from gpt import UserError, download, run_or_explain


@dataclass
class Problem:
    question: str
    steps: list             # the written chain of thought, one sentence group per step
    answer: str


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

    conclusion = f"{entity} is {'not ' * negated[target]}{adjective[target]}."
    opposite = f"{entity} is {'not ' * (not negated[target])}{adjective[target]}."
    true = rng.random() < 0.5
    steps = [f"{entity} is {with_article(x)}. {rule}" for x, rule in zip(chain, needed)] + [conclusion]
    query = f"True or false: {conclusion if true else opposite}"
    return Problem(" ".join([*rules, *facts, query]), steps, str(true))


def with_article(noun):
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _rule(rng, subject, predicate, is_concept=False):
    """"Xes are yes.", "Each x is a y." or "Every x is a y." (1/2, 1/4, 1/4)."""
    if rng.random() < 0.5:
        return f"{subject.capitalize()}es are {predicate}{'es' if is_concept else ''}."
    quantifier = rng.choice(["Each", "Every"])
    return f"{quantifier} {subject} is {with_article(predicate) if is_concept else predicate}."


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


def prosqa_problem(rng, nodes=28, min_steps=3, max_steps=6, parents=1.5, even_steps=False, same_depth=False,
                   either_root=False, distractors=1.0):
    """One ProsQA problem: "Is <entity> a <target> or <neg_target>?", the target min_steps to max_steps away.

    Of the leaves that only one root reaches, the deepest is the target and its root the entity asked about;
    neg_target is such a leaf of the other root. Of the paper's 28 nodes about 23 have an edge and remain.
    even_steps: long paths are rare among the graphs, so draw the number of steps first. distractors: the
    probability that an edge beside the paths to the target and to neg_target is told.

    neg_target is never deeper than the target, so a model that prefers the deeper one need not know who is
    asked about (results/dispute.md). Two ways to close this short cut: same_depth has both equally deep;
    either_root asks about the other root in half of the problems, and its path may be shorter.
    """
    if min_steps > max_steps:
        raise UserError(f"--min_steps {min_steps} is more than --max_steps {max_steps}: change one of them")
    wanted = range(min_steps, max_steps + 1)
    if even_steps:
        wanted = [rng.choice(wanted)]
    for _ in range(10_000):
        sources, family, depth = prosqa_graph(rng, nodes, parents)
        inner = {u for chosen in sources for u in chosen}
        leaves = [[v for v in range(2, nodes) if family[v] == root + 1 and v not in inner] for root in (0, 1)]
        steps = max((depth[v] for v in leaves[0] + leaves[1]), default=0)
        deepest = [[v for v in some if depth[v] == steps] for some in leaves]
        wrong = deepest if same_depth else leaves
        roots = [root for root in (0, 1) if deepest[root] and wrong[1 - root]]
        parentless = sum(not chosen for chosen in sources)
        named = parentless <= len(PROSQA_ENTITIES) and nodes - parentless <= len(PROSQA_CONCEPTS)
        if roots and steps in wanted and named:
            break
    else:
        raise UserError(f"10,000 random graphs of {nodes} nodes held no ProsQA problem "
                        f"of {wanted[0]} to {wanted[-1]} steps: change nodes, steps or parents")
    root = rng.choice(roots)
    target, neg_target = rng.choice(deepest[root]), rng.choice(wrong[1 - root])
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


# ---- Sets of problems: generated, or read from files.

GENERATORS = {"prontoqa": prontoqa_problem, "prosqa": prosqa_problem}
SPLITS = ("train", "valid", "test")


def make_problems(name, sizes, seed=0, seen=(), each=lambda rng: {}, **options):
    """{"train": [Problem, ...], "valid": ..., "test": ...} of the given sizes. No question occurs twice, and
    none of those in `seen`. `options` go to the generator of `name`; `each` draws more of them per problem.

    Each set has its own random stream, so that another size of one leaves the others as they were.
    """
    seen, sets = set(seen), {}
    for split in sorted(sizes, key=("test", "valid", "train").index):
        rng, sets[split] = random.Random(f"{name} {split} {seed}"), []
        for _ in range(sizes[split]):
            for _ in range(10_000):
                problem = GENERATORS[name](rng, **options | each(rng))
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
    except (ValueError, TypeError, KeyError) as e:
        raise UserError(f"{path} is no list of problems with question, steps and answer: {e!r}") from None
    for i, p in enumerate(problems):
        if not isinstance(p.steps, list) or {str} != set(map(type, (p.question, *p.steps, p.answer))):
            raise UserError(f"{path}, item {i}: question and answer must be texts, steps a list of texts")
    return problems


def write(problems, path):
    """Problems to one .json file in the official format."""
    Path(path).write_text(json.dumps(list(map(vars, problems)), indent=1), encoding="utf-8")


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


# ---- From text to tokens, and from tokens to the batches that the model reads.

class Tokenizer:
    """Words to ids and back, by tiktoken: with GPT-2's vocabulary (words=None; fetched on first use), or with
    one of the 256 bytes and the words of a training set.

    tiktoken looks a whole word up before it merges any bytes, so a known word is one token, an unknown one
    falls back to bytes, and every text decodes to itself. No text, not even "<bot>", makes a special token.
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
    """A token's name and what is around it: "Every bompus is a " has "bompus" and "Every {} is a "."""
    match = re.fullmatch(r"(Every |Each |)(\w+?)((es)?( (is|are) .*|\.\s)?)", word, re.DOTALL)
    before, name, after = match.group(1, 2, 3) if match else ("", word, "")
    return name.lower() if after.startswith("es ") else name, f"{before}{{}}{after}" if before + after else ""


def encode(ids, tokenizer, filler, removed, n):
    """One training sequence from a problem's ids: (question, number of thoughts after it, language). The
    first `removed` tokens of the written chain are replaced by `n` fillers.

    filler: "thought", "pause", or None, which does without <bot> and <eot> too. For the question "Tom is a x.
    Is Tom a y or z?", the steps "Tom is a x." and "Every x is a y.", the first removed, and n=1 thought:

        Tom is a x. Is Tom a y or z ?\\n <bot>   t1   <eot>  Every x is a y.\\n ### Tom is a y . <eos>
        |------------ question ------------| thought |----------------- language ------------------|
                                                           no loss on <eot>: it is given, not predicted

    Pauses are ordinary tokens, the same at every place, so they are read with the question, in the same pass.
    """
    question, steps, answer = ids
    language = [i for step in steps for i in step][removed:] + answer
    if filler is None:
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
    """Sequences from `encode`, all with as many thoughts, to one Batch. Padding is id 0, or -100 in the
    target, which the loss ignores."""
    questions, (n, *_), languages = zip(*sequences)
    Tq, Tl = max(map(len, questions)), max(map(len, languages)) - 1
    padding = [Tq - len(question) for question in questions]
    return Batch(torch.tensor([[0] * left + question for left, question in zip(padding, questions)]),
                 torch.tensor(padding), n,
                 torch.tensor([ids[:-1] + [0] * (Tl + 1 - len(ids)) for ids in languages]),
                 torch.tensor([ids[1:] + [-100] * (Tl + 1 - len(ids)) for ids in languages]))


# ---- Grading.

def grade(problem, text):
    """Is the answer in a generated text right? It is what follows the last "#". Commas do not count, as in
    the official code."""
    given, right = (s.split("#")[-1].replace(",", "").strip() for s in (text, problem.answer))
    return given == right


def told_edges(text):
    """The graph in the sentences of a ProsQA question or chain, {sentence: (from, to)}: of "Max is a wumpus."
    and "Every wumpus is a yumpus." """
    return {found[0]: (found[1], found[2]) for found in re.finditer(r"(?:Every )?(\w+) is a (\w+)\.", text)}


def distances(edges, root):
    """{node: fewest edges from root} over all nodes that can be reached along the (from, to) pairs."""
    found, ring = {root: 0}, [root]
    while ring:
        ring = list(dict.fromkeys(v for node in ring for u, v in edges if u == node and v not in found))
        found |= {v: 1 + max(found.values()) for v in ring}
    return found


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
        return "Correct Label" if grade(problem, text) else "Incorrect Label"
    edges, (root, target, _) = told_edges(problem.question), asked(problem)
    path, distance = [edges.get(line) for line in lines], distances(edges.values(), root)
    if None in path or any(one[1] != other[0] for one, other in zip(path, path[1:])):
        return "Hallucination"
    start, end = path[0][0], path[-1][1]
    if start not in distance or start != root and not partial:
        return "Hallucination"
    if end != target:
        return "Wrong Target"
    return "Correct Path" if distance[start] + len(path) == distance[target] else "Longer Path"


def asked(problem):
    """Of a ProsQA problem: the entity asked about, the candidate that is the answer, and the other one. None
    for any other problem."""
    found = re.search(r"Is (\w+) a (\w+) or (\w+)\?", problem.question)
    if not found:
        return None
    entity, one, two = found.groups()
    return (entity, one, two) if problem.answer.strip(".").endswith(f" {one}") else (entity, two, one)


def sound(problem):
    """Can a ProsQA question be answered from its own sentences? Three times True or False: the answer can be
    reached from the entity, the other candidate cannot, and the steps are a shortest path to the answer."""
    entity, answer, other = asked(problem)
    reached = distances(told_edges(problem.question).values(), entity)
    return (answer in reached, other not in reached,
            classify_path(problem, "\n".join(problem.steps)) == "Correct Path")


def entities(problem):
    """{entity: {node: fewest steps to it}}; entities are the nodes that no sentence leads to."""
    edges = told_edges(problem.question).values()
    return {entity: distances(edges, entity) for entity in {u for u, _ in edges} - {v for _, v in edges}}


def depths(problem):
    """ProsQA's short cut: (depth of the answer, depth of the other candidate). A node's depth is the fewest
    steps to it from an entity; where several entities reach it, the largest of these numbers."""
    reached, (_, *candidates) = entities(problem).values(), asked(problem)
    return tuple(max(nodes.get(c, 0) for nodes in reached) for c in candidates)


# ---- python data.py prosqa, python data.py FILE.json

def check(problems):
    """Print how many of ProsQA's problems are sound, and how many have the short cut."""
    if not all(map(asked, problems)):
        raise UserError("this file has problems that are not ProsQA's: only those are checked")
    facts = []
    for p in problems:
        three, (answer, other) = sound(p), depths(p)
        facts.append((*three, all(three), answer > other, answer == other))
    what = ("answer in reach", "other candidate out of reach", "steps a shortest path", "all three",
            "answer deeper than the other", "equally deep")
    show_table(["", f"of {len(problems):,} problems"], list(zip(what, map(sum, zip(*facts)))))


def worked_example(problem, tokenizer):
    """Print the problem as Coconut sees it (c = 1) at the first, a middle and the last stage."""
    K, show, ids = len(problem.steps), tokenizer.show, tokenizer.ids(problem)
    print(problem.question)
    for i, step in enumerate(problem.steps, start=1):
        print(f"  step {i}  {step}")
    print(f"  answer  {problem.answer}")
    for stage in sorted({0, K // 2, K}):
        question, n, language = encode(ids, tokenizer, "thought", sum(map(len, ids[1][:stage])), stage)
        print(f"\nstage {stage}: {stage} of {K} steps replaced, {n} thoughts, "
              f"loss on {len(language) - 1} tokens")
        tail = min(6, len(question))                        # the question is long; its end will do
        read = [f"{len(question) - tail} tokens", *map(show, question[-tail:]),
                *(f"t{i + 1}" for i in range(n)), *map(show, language[:-1])]
        predicted = [""] * (1 + tail + n) + list(map(show, language[1:]))
        show_table(["input", "predicts"], list(zip(read, predicted)))


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


# ---- What the command lines of data.py, train.py and sample.py share.

COUNT, ANY, SHARE = (1, math.inf), (0, math.inf), (0, 1)        # limits of numbers in a table of settings

# Each row: default with --setting quick, default with --setting paper, limits or choices, help.
PROBLEM_SETTINGS = {
    "train_size": (7000, 17886, COUNT, "training problems; the paper's ProntoQA has 9000"),
    "valid_size": (300, 300, COUNT, "validation problems; ProntoQA: 200"),
    "test_size":  (500, 500, COUNT, "test problems; ProntoQA: 800"),
    "hops":       (5, 5, (1, MAX_HOPS), "ProntoQA: deduction hops of a problem"),
    "nodes":      (14, 28, (1, 55), "ProsQA: nodes of a graph, before those without any edge are dropped"),
    "min_steps":  (3, 3, COUNT, "ProsQA: fewest reasoning steps of a problem"),
    "max_steps":  (5, 6, COUNT, "ProsQA: most reasoning steps of a problem"),
    "parents":    (1.5, 1.5, (0, 20), "ProsQA: parents of a node, on average"),
    "even_steps": (False, False, None, "ProsQA: as many problems of each number of steps"),
    "same_depth": (False, False, None, "ProsQA: both candidates equally deep, which closes a short cut"),
    "either_root": (False, False, None, "ProsQA: ask about either root, which closes it too"),
    "data_seed":  (0, 0, ANY, "seed of the generated problems")}
# Defaults that differ from these, by setting and dataset.
OTHERWISE = {("quick", "prontoqa"): dict(valid_size=200, test_size=800),
             ("paper", "prontoqa"): dict(train_size=9000, valid_size=200, test_size=800),
             ("paper", "gsm8k"): dict(c=2, stages=3, epochs_first=6, epochs_per_stage=3)}


def defaults(table, setting, dataset):
    """{flag: value} of a table's column."""
    column = {flag: row[("quick", "paper").index(setting)] for flag, row in table.items()}
    return column | {flag: v for flag, v in OTHERWISE.get((setting, dataset), {}).items() if flag in table}


def add_flags(parser, table, usual="default: {quick}; paper: {paper}"):
    """A flag for each row of a table of settings; `usual` says what holds for one that is not typed. Such a
    flag is absent from what parse_args returns."""
    for flag, (quick, paper, limits, about) in table.items():
        if isinstance(quick, bool):
            kind = dict(action=argparse.BooleanOptionalAction)
        else:
            kind = dict(choices=limits) if isinstance(quick, str) else dict(type=number(type(quick), *limits))
        parser.add_argument(f"--{flag}", default=argparse.SUPPRESS, **kind,
                            help=f"{about} ({usual.format(quick=quick, paper=paper)})")


def number(kind, low, high=math.inf):
    """An argparse type: an int or float between low and high."""
    def convert(text):
        value = kind(text)
        if not low <= value <= high or math.isinf(value):
            raise argparse.ArgumentTypeError(f"{text} is not between {low} and {high}")
        return value
    convert.__name__ = kind.__name__        # argparse names it when the text is no number at all
    return convert


def problem_flags(dataset):
    """The flags of PROBLEM_SETTINGS that a dataset takes: the parameters of its generator and four more, or
    none, if its problems are not generated."""
    takes = inspect.signature(GENERATORS[dataset]).parameters if dataset in GENERATORS else ()
    always = ("train_size", "valid_size", "test_size", "data_seed")
    return [flag for flag in PROBLEM_SETTINGS if flag in takes or takes and flag in always]


def merged(base, typed):
    """Settings, {flag: value}, overridden by typed flags. One that the dataset does not take is refused."""
    settings = argparse.Namespace(**base | typed)
    for flag in typed:
        if flag in PROBLEM_SETTINGS and flag not in problem_flags(settings.dataset):
            raise UserError(f"--{flag} does not apply to {settings.dataset}: leave it out")
    return settings


def problem_sets(settings, splits=SPLITS, **more):
    """{"train": [Problem, ...], "valid": ...}. settings.dataset names a generated dataset (`more` goes to
    `make_problems`), gsm8k, a folder, or, for test problems alone, a file."""
    dataset = settings.dataset
    if dataset in GENERATORS:
        options = {flag: getattr(settings, flag) for flag in problem_flags(dataset)}
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


class Parser(argparse.ArgumentParser):
    """A wrong flag gets one line, like every user error, and not the usage as well."""
    def error(self, message):
        raise UserError(message)


def main(argv=None):
    parser = Parser(description="Make problems, by default the paper's. Without --out, show one worked out.")
    parser.add_argument("dataset", nargs="?", default="prosqa",
                        help="prosqa or prontoqa; or a file of ProsQA problems: is each of them sound?")
    parser.add_argument("--out", help="folder to write train.json, valid.json and test.json to")
    add_flags(parser, PROBLEM_SETTINGS, "default: {paper}")
    args = parser.parse_args(argv)
    if Path(args.dataset).is_file():
        return check(read(args.dataset))
    if args.dataset not in GENERATORS:
        raise UserError(f"there is no {args.dataset}: say prosqa or prontoqa, or name a file")
    settings = merged(defaults(PROBLEM_SETTINGS, "paper", args.dataset), vars(args))
    if args.out:
        Path(args.out).mkdir(parents=True, exist_ok=True)
        for split, problems in problem_sets(settings).items():
            write(problems, Path(args.out) / f"{split}.json")
            print(f"{len(problems):,} problems in {Path(args.out) / split}.json")
    else:
        settings.train_size = min(500, settings.train_size)         # enough for every word to occur
        problems = problem_sets(settings, ("train",))["train"]
        worked_example(problems[0], Tokenizer.of(problems))


if __name__ == "__main__":
    run_or_explain(main)
