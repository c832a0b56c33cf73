"""What sample.py shows is what the model computes: words, search tree, sweep, tampered thoughts."""

from argparse import Namespace

import pytest
import torch
import torch.nn.functional as F
from conftest import ANTS, generated, one_line, open_tiny, train_tiny

import coconut
import data
import sample
import train
from gpt import GPT, GPTConfig

PROBLEM = data.Problem(ANTS.question.replace("Every dog is a hen. ", ""), ["Tom is a ant.", "Every ant is a cat.", "Every cat is a dog."], "Tom is a dog.")


def test_a_thoughts_words_are_the_heads_best_for_the_last_hidden_state(opened):
    (run, problems), gpt, tokenizer = opened, opened[0].gpt, opened[0].tokenizer
    for problem, thoughts in zip(problems, train.ask(run, problems, 3)[2]):
        x = gpt.embed(torch.tensor([tokenizer.encode(problem.question + "\n") + [tokenizer.bot]]))
        for words in sample.in_words(run, thoughts, top=4):
            hidden = gpt(x)[0][:, -1:]
            p, i = gpt.logits(hidden)[0, 0].softmax(-1).topk(4)
            assert [w for w, _ in words] == [tokenizer.decode([j]) for j in i.tolist()]
            assert [q for _, q in words] == pytest.approx(p.tolist(), rel=1e-4)
            x = torch.cat([x, hidden], dim=1)


def test_problems_from_elsewhere_are_asked_and_shown_in_100_columns(finished, tmp_path, capsys):
    made = generated(n=3, seed=5, nodes=9, max_steps=4)
    data.write(made, tmp_path / "other.json")
    sample.main([str(finished), "--dataset", str(tmp_path / "other.json"), "--thoughts", "5"])
    printed = capsys.readouterr().out
    assert printed.count("thought 5 ") == 3 and "thought 6" not in printed
    assert all(len(line) <= 100 for line in printed.splitlines() if not line.startswith("written"))
    assert all(f"question {p.question} thought 1" in " ".join(printed.split()) for p in made)


def test_an_answer_is_right_where_it_is_and_wrong_where_not_and_counted(finished, opened, capsys, monkeypatch):
    first, second = opened[1][:2]
    monkeypatch.setattr(train, "ask", lambda *_: ([f"### {first.answer}"] * 2, [9, 9], torch.zeros(2, 0, 16)))
    sample.main([str(finished), "--n", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("truth")] == [f"truth     {first.answer}   right", f"truth     {second.answer}   wrong"]
    assert lines[-1] == "1 of 2 right"


def test_a_question_of_your_own_is_answered(finished, capsys, monkeypatch):
    monkeypatch.setattr(coconut, "generate", lambda gpt, batch, *_: ([batch.question[0, 4:6].tolist()], torch.zeros(1, 0, 16)))
    sample.main([str(finished), "--question", "Alex is a bompus. Is Alex a bompus or a teapot?"])
    assert capsys.readouterr().out.splitlines()[1] == "written    a bompus"


# ---- the search tree

@pytest.mark.parametrize("words", [True, False])
def test_a_nodes_value_is_the_product_of_its_tokens_probabilities(words, monkeypatch):
    """Against the explicit forward, node by node; without the names in the vocabulary they are many tokens."""
    problem, = generated(nodes=9, max_steps=3)
    tokenizer = data.Tokenizer.of([problem]) if words else data.Tokenizer(["Every "])
    torch.manual_seed(0)
    gpt = GPT(GPTConfig(tokenizer.vocab_size, n_layer=2, n_head=2, n_embd=32, dropout=0.0)).eval()
    run = train.Run(gpt, tokenizer, Namespace(method="coconut", c=2, float32=False), 1, 1)
    values = sample.node_values(run, problem, 1)
    assert set(values) == {v for _, v in data.graph(problem).edges.values()}
    question = torch.tensor([tokenizer.encode(problem.question + "\n") + [tokenizer.bot]])
    rows = {v: tokenizer.encode(f"Every {v} is a ") for v in values}
    forced = min(next(i for i, pair in enumerate(zip(one, other)) if len({*pair}) > 1)
                 for one in rows.values() for other in rows.values() if one != other)         # tokens that all begin with
    for node, ids in rows.items():
        logits = coconut.explicit_forward(gpt, question, 2, torch.tensor([[tokenizer.eot] + ids[:-1]]))
        p = logits[0].softmax(-1)[range(len(ids)), ids]
        assert values[node] == pytest.approx(p[forced:].prod().item(), rel=1e-3)
    # Asked in the precision that the run answers in, and near to the other.
    monkeypatch.setattr(train.Run, "autocast", lambda _: torch.autocast("cpu", torch.bfloat16))
    rounded = sample.node_values(run, problem, 1)
    assert rounded != values and all(rounded[v] == pytest.approx(values[v], rel=0.2, abs=1e-3) for v in values)


def test_the_tree_is_what_the_entity_reaches_with_the_true_path(monkeypatch, capsys):
    monkeypatch.setattr(sample, "node_values", lambda run, problem, k: {v: k / 4 for v in ("ant", "bee", "cat", "dog", "elk", "fox")})
    _, rows = sample.tree(None, [PROBLEM])
    assert [(depth, node.strip(), value, on_path) for depth, node, value, _, on_path in rows] == [
        (0, "Tom", "", "*"), (1, "ant", 0.25, "*"), (2, "bee", 0.5, ""), (3, "cat", "", ""),
        (2, "cat", 0.5, "*"), (3, "dog", "", "*"), (1, "fox", 0.25, "")]
    assert rows[2][1] == " " * 8 + "bee" and [len(row[3]) for row in rows] == [0, 5, 10, 0, 10, 0, 5]
    assert PROBLEM.question in " ".join(capsys.readouterr().out.split())


def test_parallel_is_the_mean_probability_of_names_as_far_away_as_a_thoughts_most(monkeypatch):
    """By hand. Tom is an ant and a fox, an ant is a cat, a cat a dog; a bee is a detour, an elk out of reach."""
    tokenizer, shares = data.Tokenizer.of([PROBLEM]), torch.zeros(4, 400)
    for word, p, last in [("ant. ", 0.1, 2), ("Every ant is a ", 0.2, 2), ("bee. ", 0.05, 3), ("cat. ", 0.06, 3), ("cat.\n", 0.04, 3),
                          ("dog", 0.03, 4), ("fox. ", 0.02, 4), ("elk. ", 0.01, 4), ("Tom is a ", 0.49, 1)]:
        shares[:last, tokenizer.encode(word)] = p               # up to thought `last`: the search goes on, a step late
    shares[:, 0] = 1 - shares.sum(1)
    run = Namespace(tokenizer=tokenizer, fillers=lambda: 4, gpt=Namespace(logits=torch.log))
    monkeypatch.setattr(train, "ask", lambda run, problems, n: (["### Tom is a dog."] * 2, None, shares.expand(len(problems), n, -1)))
    one_step = data.Problem(PROBLEM.question.replace("Is Tom a dog", "Is Tom a ant"), PROBLEM.steps[:1], "Tom is a ant.")
    expected = [(1, 0, "", "", "", "", "", "", ""),
                (2, 1, 0.3, 0.02, (0.05 + 0.1 + 0.03 + 0.01) / 4, 2, 0.0, 0.0, 0.0),        # the first is right
                (3, 2, 0.1, 0.05, (0.02 + 0.03 + 0.01) / 4, 1, 0.0, 0.0, ""),
                (4, 3, 0.03, "", (0.02 + 0.01) / 5, "", "", 1.0, "")]
    for row, want in zip(sample.parallel(run, [PROBLEM, one_step])[1], expected, strict=True):
        assert [a if a == "" else pytest.approx(a) for a in row] == list(want)


def test_parallel_reads_pauses_where_a_thought_would_be(runs, monkeypatch):
    """The hidden states at <bot> and at all pauses but the last."""
    run, problems = open_tiny(runs / "pause_as_thought")
    seen, logits = [], GPT.logits
    monkeypatch.setattr(GPT, "logits", lambda gpt, hidden: seen.append(hidden) or logits(gpt, hidden))
    sample.parallel(run, problems)
    for problem, states in zip(problems, seen[-1]):
        ids = run.tokenizer.ids(problem)[0] + [run.tokenizer.bot]
        for n in range(3):
            hidden, _ = run.gpt(run.gpt.embed(torch.tensor([ids + [run.tokenizer.pause] * n])))
            assert torch.allclose(states[n], hidden[0, -1], atol=1e-5)


# ---- over the test set

@pytest.mark.parametrize("text, whole, completed", [
    ("Tom is a ant.\nEvery ant is a cat.\nEvery cat is a dog.\n### Tom is a dog.", "Correct Path", "Correct Path"),
    ("Tom is a ant.\nEvery ant is a cat.\nEvery cat is a dog.\n### Tom is a elk.", "Correct Path", "Correct Path"),
    ("Tom is a ant.\nEvery ant is a bee.\nEvery bee is a cat.\nEvery cat is a dog.\n###", "Longer Path", "Longer Path"),
    ("Every cat is a dog.\n### Tom is a dog.", "Hallucination", "Correct Path"),
    ("Every bee is a cat.\nEvery cat is a dog.\n### Tom is a dog.", "Hallucination", "Longer Path"),
    ("Tom is a ant.\nEvery cat is a dog.\n### Tom is a dog.", "Hallucination", "Hallucination"),              # a gap
    ("Tom is a ant.\nEvery ant is a dog.\n### Tom is a dog.", "Hallucination", "Hallucination"),              # an edge that is none
    ("Sam is a elk.\n### Tom is a elk.", "Hallucination", "Hallucination"),                                   # not from Tom
    ("Tom is a fox.\n### Tom is a dog.", "Wrong Target", "Wrong Target"),
    ("Tom is a ant.\nEvery ant is a cat.\n### Tom is a dog.", "Wrong Target", "Wrong Target"),               # stops early
    ("Every cat is a dog.\nEvery dog is a hen.\n### Tom is a dog.", "Hallucination", "Wrong Target"),         # goes too far
    ("### Tom is a dog.", "Correct Label", "Correct Label"), ("### Tom is a elk.", "Incorrect Label", "Incorrect Label"),
    ("", "Incorrect Label", "Incorrect Label"), ("\n\n###", "Incorrect Label", "Incorrect Label")])
def test_each_class_of_reasoning_by_hand(text, whole, completed):
    assert sample.classify_path(ANTS, text) == whole and sample.classify_path(ANTS, text, partial=True) == completed


@pytest.mark.parametrize("c", [1, 2])
def test_the_sweep_classifies_every_text_at_every_number_of_thoughts(opened, c):
    run, problems = opened
    run.settings.c = c
    _, rows = sample.sweep(run, problems)
    assert [k for k, *_ in rows] == [0, 1, 2, 3]
    assert rows[0][-3:] == ("", "", "") and len({row[-4:] for row in rows}) > 1
    for k, right, *classes, forced, zeros, mean, noise in rows:
        own, expected = train.ask(run, problems, k * c)[2], []
        for given in (None, torch.zeros_like(own), own.mean(0).expand_as(own)):
            scores = []
            for answers in ([p.answer for p in problems], [data.wrong(p).answer for p in problems]):
                rows_of = [data.Problem(p.question, [], answer) for p, answer in zip(problems, answers)]
                batch = data.collate([data.sequence(*run.tokenizer.ids(p), run.tokenizer, "thought", k * c) for p in rows_of])
                hidden, *_ = coconut.cached_forward(run.gpt, batch, batch.language, given=given)
                scores.append(F.cross_entropy(run.gpt.logits(hidden).mT, batch.target, reduction="none").sum(1))
            expected.append((scores[0] < scores[1]).float().mean().item())
        assert [forced, *([zeros, mean] if k else [])] == expected[:3 if k else 1] and (noise == "") == (k == 0)
        texts = train.ask(run, problems, k * c)[0]
        assert right == sum(map(data.grade, problems, texts)) / 8
        assert classes == [sum(sample.classify_path(p, t, k > 0) == name for p, t in zip(problems, texts)) / 8 for name in sample.PATH_CLASSES]


def test_what_is_put_in_the_thoughts_places_is_what_the_table_says(opened, monkeypatch):
    (run, problems), asked, true_ask = opened, [], train.ask
    run.gpt.ln_f.bias.data += 1                  # so that thoughts have a mean to match

    def ask(*args, given=None):
        result = true_ask(*args, given=given)
        asked.append((result[0], given))
        return result
    monkeypatch.setattr(train, "ask", ask)
    monkeypatch.setattr(sample, "rewired", lambda p: {problems.index(p): p, 9: None} if problems.index(p) in (1, 5) else {})
    _, rows = sample.corrupt(run, problems)
    assert [row[0] for row in rows] == ["untouched", *(f"noise for the first {j} of 3" for j in (1, 2, 3)), "in reverse order",
                                        "in random order", "another problem's", "its rewired problem's", "rewired, with their own"]
    asked = [one for one in asked if one[1] is not None]        # the others were for the thoughts themselves
    texts, _, own = true_ask(run, problems, 3)
    assert asked[0][0] == texts and [row[2] for row in rows[:7]] == [sum(map(data.grade, problems, texts)) / 8 for texts, _ in asked[:7]]
    noise = asked[3][1]
    assert all(torch.equal(asked[j][1], noise[:, :j]) for j in range(4))
    assert noise.mean().item() == pytest.approx(own.mean().item(), abs=0.2 * own.std().item())
    assert noise.std().item() == pytest.approx(own.std().item(), rel=0.2)
    assert torch.equal(asked[4][1], own.flip(1))
    assert torch.allclose(asked[5][1].sort(1)[0], own.sort(1)[0]) and not torch.equal(asked[5][1], own)
    lengths = [len(p.steps) for p in problems]
    donors = [next(j for j in range(8) if torch.equal(asked[6][1][i], own[j])) for i in range(8)]
    assert all(i != j and (lengths.count(lengths[i]) == 1 or lengths[j] == lengths[i]) for i, j in enumerate(donors))
    assert all(torch.allclose(given, own[[1, 5]], atol=1e-5) for _, given in asked[7:])
    assert asked[8][0] == [texts[1], texts[5]] and rows[7][1].split("/")[1] == "2 ="


def test_a_question_is_rewired_by_hand():
    """Tom - ant - bee - cat, Sam - dog - elk - fox: the ends of the first or the second steps change places, or of two side branches."""
    told = ("Tom is a ant. Every ant is a bee. Every bee is a cat. Sam is a dog. Every dog is a elk. Every elk is a fox. "
            "Tom is a gnu. Every dog is a hen. Every ant is a yak. ")
    problem = data.Problem(told + "Is Tom a cat or fox?", [], "Tom is a cat.")
    found = sample.rewired(problem)
    assert set(found) == {1, 2, 3} and {p.answer for p in found.values()} == {"Tom is a fox."}
    assert found[1].question == problem.question.replace("Tom is a ant.", "Tom is a dog.").replace("Sam is a dog.", "Sam is a ant.")
    assert found[2].question == problem.question.replace("ant is a bee", "ant is a elk").replace("dog is a elk", "dog is a bee")
    harmless = sample.rewired(problem, matters=False)
    assert harmless == {2: data.Problem(problem.question.replace("ant is a yak", "ant is a hen").replace("dog is a hen", "dog is a yak"), [], problem.answer)}
    detour = data.Problem(told + "Tom is a bee. Is Tom a cat or fox?", [], "Tom is a cat.")         # the bee has two ways, the cat is two steps away
    assert set(sample.rewired(detour)) == {2}


def test_rewired_questions_are_true_to_what_they_are_for():
    problems, made = generated(n=60, nodes=14, max_steps=5, either_root=True), 0
    for p, matters in ((p, matters) for p in problems for matters in (True, False)):
        g = data.graph(p)
        for depth, other in sample.rewired(p, matters).items():
            h = data.graph(other)
            assert h.answer == (g.other if matters else g.answer) and data.sound(other)[:2] == (True, True)
            changed = {*g.edges.values()} ^ {*h.edges.values()}
            (u, v), (x, y) = {*g.edges.values()} & changed
            assert changed == {(u, v), (x, y), (u, y), (x, v)} and depth in (g.distance.get(v), g.distance.get(y))
            assert sorted(p.question.split()) == sorted(other.question.split())
            made += 1
    assert made > 60


def test_what_follows_a_change_is_counted(opened, monkeypatch):
    """A model that always gives the old answer."""
    run, problems = opened
    asked = []
    old = {data.graph(p).entity + p.question.split("Is ")[-1]: p.answer for p in problems}

    def ask(run, some, n):
        asked.append(some)
        return [f"### {old[data.graph(p).entity + p.question.split('Is ')[-1]]}" for p in some], None, None
    monkeypatch.setattr(train, "ask", ask)
    heads, rows = sample.rewire(run, problems)
    assert len(asked) == 1 and [row[1] for row in rows[:2]] == [len(problems)] * 2 and len(rows) > 3
    assert all(row[2:] == ((0, 1) if row[0].startswith(("a change that matters, at step", "the same; steps")) else (1, 0))
               for row in rows)
    counts = [sum(row[1] for row in rows if row[0].startswith(kind)) for kind in ("a change that matters", "the same")]
    assert counts[0] == counts[1] == sum(map(len, map(sample.rewired, problems)))
    assert {f"the same; steps to the new answer: {data.graph(q).distance[data.graph(q).answer]}" for p in problems
            for q in sample.rewired(p).values()} == {row[0] for row in rows if row[0].startswith("the same")}
    for p in problems:
        q = asked[0][asked[0].index(p) + 1]
        assert q.question != p.question and sorted(q.question.split()) == sorted(p.question.split()) and q.question.split(".")[-1] == p.question.split(".")[-1]


def test_what_is_erased_is_gone_from_the_thought(opened, monkeypatch):
    """The direction of a name: the mean of its tokens' rows in the head. By hand for one problem."""
    (run, _), given_to, true_ask = opened, [], train.ask
    run.tokenizer = data.Tokenizer.of([PROBLEM])
    run.gpt = GPT(GPTConfig(vocab_size=run.tokenizer.vocab_size, n_layer=1, n_head=2, n_embd=16, dropout=0.0)).eval()

    def ask(*args, given=None):
        given_to.append(given)
        return true_ask(*args, given=given)
    monkeypatch.setattr(train, "ask", ask)
    monkeypatch.setattr(sample, "steps_away", lambda *_: [1, 2, 3])
    heads, rows = sample.erase(run, [PROBLEM])
    assert [row[:3] for row in rows] == [(1, 1, 1), (2, 2, 1)]                  # at three steps there is the dog alone
    short = data.Problem(PROBLEM.question.replace("Is Tom a dog", "Is Tom a cat"), PROBLEM.steps[:2], "Tom is a cat.")
    assert [row[:3] for row in sample.erase(run, [short])[1]] == [(1, 1, 1)]    # the cat is the answer now
    own = true_ask(run, [PROBLEM], 3)[2]
    for k, path, elsewhere in (1, "ant", "fox"), (2, "cat", "bee"):
        calls = given_to[1 + 4 * (k - 1):][:4]
        assert torch.allclose(calls[0], own[:, :k], atol=1e-6) and all(torch.allclose(call[:, :-1], own[:, :k - 1], atol=1e-6) for call in calls)
        for call, name in (calls[1], path), (calls[2], elsewhere):
            rows_of = [i for i, word in enumerate(run.tokenizer.words, start=256) if data.name_and_rest(word)[0] == name]
            mean = run.gpt.wte.weight[rows_of].mean(0)
            assert rows_of and (name == elsewhere or (call[0, -1] @ mean).item() == pytest.approx(0, abs=1e-4))
            lost = own[0, k - 1] - call[0, -1]
            assert abs(torch.cosine_similarity(lost, mean, dim=0).item()) == pytest.approx(1, abs=1e-3)
        sizes = [(call[0, -1] - own[0, k - 1]).norm().item() for call in calls]
        assert sizes[0] == 0 and sizes[1] > 0.1 and sizes[1:] == pytest.approx([sizes[1]] * 3, rel=1e-3)


# ---- the command line

@pytest.mark.parametrize("run, flags, says", [
    ("pause_as_thought", "--corrupt", "without thoughts: leave out --corrupt"), ("cot", "--tree", "leave out --tree"),
    ("cot", "--thoughts 2", "run of cot is without thoughts"), ("pause_as_thought", "--erase", "leave out --erase"),
    ("coconut", "--tree --corrupt", "not allowed"), ("coconut", "--thoughts 2000", "positions"), ("coconut", "--tree --thoughts 2", "leave it out"), ("coconut", "--tree 9", "not so many"),
    ("nowhere", "", "there is no"), ("coconut", "--dataset nowhere.json", "nowhere.json"), ("coconut", "cot", "unrecognized"),
    ("coconut", "--dataset {sums} --parallel", "only sound problems of ProsQA"),
    ("coconut", "--hops 2", "does not apply"), ("coconut", "--question Why? --nodes 9", "leave out --nodes")])
def test_what_sample_cannot_look_at_is_refused_in_one_line(runs, run, flags, says, tmp_path, capsys):
    data.write([data.Problem("Is Tom a bompus?", ["<<1+1=2>>"], "2")], tmp_path / "sums.json")
    words = f"{runs}/{run} {flags}".format(sums=tmp_path / "sums.json")
    assert says in one_line(sample.main, words.split(), capsys)


def test_a_sweep_of_a_run_that_never_wrote_less_warns(runs, tmp_path, capsys):
    """And one of a method without thoughts is of what it always writes, with nothing to warn of."""
    train_tiny(tmp_path / "run", "--mix", "0", "--epochs", 1)
    for path, warns, lines in (tmp_path / "run", True, 4), (runs / "coconut", False, 4), (runs / "cot", False, 1):
        capsys.readouterr()
        sample.main([str(path), "--sweep_thoughts", "--n", "2"])
        printed = capsys.readouterr().out
        assert ("warning: this run may not write steps after fewer thoughts" in printed) == warns
        assert [line.split()[0] for line in printed.splitlines()[-lines:]] == list("0123"[:lines])


@pytest.mark.parametrize("method, looks", [("coconut", "rewire erase corrupt parallel sweep_thoughts"), ("pause_as_thought", "rewire parallel sweep_thoughts"),
                                           ("no_thought", "rewire sweep_thoughts"), ("cot", "rewire sweep_thoughts")])
def test_every_look_that_suits_a_method_prints_its_table(runs, method, looks, capsys):
    """Of one problem too."""
    for look, n in ((look, n) for look in looks.split() for n in "81"):
        sample.main([str(runs / method), f"--{look}", "--n", n])
        head, *_, last = capsys.readouterr().out.splitlines()
        assert len(last.split()) >= 2 and "nan" not in last
