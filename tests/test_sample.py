"""What sample.py shows is what the model computes: words, search tree, sweep, tampered thoughts, pictures."""

import json
import sys
from argparse import Namespace

import pytest
import torch

import coconut
import data
import sample
import train
from gpt import GPT, GPTConfig

TINY = ("--dataset prosqa --nodes 9 --max_steps 3 --train_size 60 --valid_size 8 --test_size 8 --grow_epochs 0 "
        "--epochs 4 --epochs_first 1 --epochs_per_stage 1 --n_layer 1 --n_head 2 --n_embd 16 --batch_size 16 --device cpu").split()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs")
    for method in ("coconut", "pause_as_thought", "no_thought"):
        train.main([*TINY, "--method", method, "--out", str(folder / method)])
    return folder


@pytest.fixture
def opened(runs):
    """The Coconut run and its test problems."""
    run = train.open_run(runs / "coconut", "cpu")
    problems = data.problem_sets(run.settings, ("test",))["test"]
    train.prepare(run, problems, "test")
    return run, problems


def untrained(tokenizer, layers=2):
    torch.manual_seed(0)
    return GPT(GPTConfig(tokenizer.vocab_size, n_layer=layers, n_head=2, n_embd=32, dropout=0.0)).eval()


def refused(argv, capsys):
    with pytest.raises(SystemExit) as e:
        data.run_or_explain(lambda: sample.main(argv))
    err = capsys.readouterr().err
    assert e.value.code == 2 and err.startswith("error: ") and err.count("\n") == 1
    return err


# ---- asking

def test_a_thoughts_words_are_the_heads_best_for_the_last_hidden_state(opened):
    run, problems = opened
    gpt, tokenizer = run.gpt, run.tokenizer
    _, _, chain, number = train.ask(run, problems, 3)
    for problem, thoughts in zip(problems, chain):
        x = gpt.embed(torch.tensor([tokenizer.encode(problem.question + "\n") + [tokenizer.bot]]))
        for words in sample.in_words(run, thoughts, top=4):
            hidden = gpt(x)[0][:, -1:]
            p, i = gpt.logits(hidden)[0, 0].softmax(-1).topk(4)
            assert [w for w, _ in words] == [tokenizer.decode([j]) for j in i.tolist()]
            assert [q for _, q in words] == pytest.approx(p.tolist(), rel=1e-4)
            x = torch.cat([x, hidden], dim=1)
    assert number.tolist() == [3] * 8


def test_sample_prints_each_problem_its_thoughts_and_the_truth_in_100_columns(runs, capsys):
    sample.main([str(runs / "coconut"), "--n", "2", "--thoughts", "5"])
    printed = capsys.readouterr().out
    assert printed.count("question ") == 2 and printed.count("thought 5 ") == 2 and "thought 6" not in printed
    assert all(len(line) <= 100 for line in printed.splitlines() if not line.startswith("written"))


def test_sample_says_right_where_it_is_and_wrong_where_not_and_counts(runs, opened, capsys, monkeypatch):
    first, second = opened[1][:2]
    monkeypatch.setattr(train, "ask", lambda *_: ([f"### {first.answer}"] * 2, [9, 9], torch.zeros(2, 0, 16), torch.zeros(2, dtype=int)))
    for flags, shown in ([], [first, second]), (["--wrong"], [second]):
        sample.main([str(runs / "coconut"), "--n", "2", *flags])
        lines = capsys.readouterr().out.splitlines()
        assert [line for line in lines if line.startswith("truth")] == [
            f"truth     {p.answer}   {'right' if p is first else 'wrong'}" for p in shown]
        assert lines[-1] == "1 of 2 right"


def test_sample_answers_a_question_of_your_own(runs, capsys, monkeypatch):
    monkeypatch.setattr(coconut, "generate", lambda gpt, batch, *_: ([batch.question[0, 4:6].tolist()], torch.zeros(1, 0, 16), batch.n))
    sample.main([str(runs / "coconut"), "--question", "Alex is a bompus. Is Alex a bompus or a teapot?"])
    assert capsys.readouterr().out.splitlines()[1] == "written    a bompus"


def test_problems_from_elsewhere_are_asked_too(runs, tmp_path, capsys):
    made = data.generate("prosqa", {"test": 3}, seed=5, nodes=9, max_steps=4)["test"]
    data.write(made, tmp_path / "other.json")
    sample.main([str(runs / "coconut"), "--dataset", str(tmp_path / "other.json")])
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.count("question") == 3 and all(f"question {p.question} thought 1" in printed for p in made)


def test_a_bar_is_as_long_as_its_share():
    assert [sample.bar(x, 4) for x in (0, 1 / 32, 0.5, 0.53125, 1)] == ["    ", "▏   ", "██  ", "██▏ ", "████"]


# ---- the search tree

def path_nodes(problem):
    return {word.strip(".") for step in problem.steps for word in step.split() if word.strip(".").endswith("us")}


@pytest.mark.parametrize("name, words", [("prosqa", True), ("prosqa", False), ("prontoqa", True)])
def test_a_nodes_value_is_the_product_of_its_tokens_probabilities(name, words, monkeypatch):
    """Against the explicit forward, node by node; without the names in the vocabulary they are many tokens."""
    problem = data.generate(name, {"test": 1}, **(dict(nodes=9, max_steps=3) if name == "prosqa" else {}))["test"][0]
    tokenizer = data.Tokenizer.of([problem]) if words else data.Tokenizer(["Every "])
    gpt = untrained(tokenizer)
    run = train.Run(gpt, tokenizer, Namespace(method="coconut", c=2, float32=False), 1, 1)
    values = sample.node_values(run, problem, 1)
    assert path_nodes(problem) <= set(values) | {problem.steps[0].split()[0]}
    question = torch.tensor([tokenizer.encode(problem.question + "\n") + [tokenizer.bot]])
    entity = problem.steps[0].split()[0]
    objects = {s.split()[-1].strip(".") for s in problem.question.split(". ") if " is a " in s or " is an " in s}
    if name == "prosqa":
        assert set(values) == objects
    said = {v: f"Every {v} is a " if name == "prosqa" else f"{entity} is {'an' if v[0] in 'aeiou' else 'a'} {v}. " for v in values}
    rows = {v: tokenizer.encode(text) for v, text in said.items()}
    forced = min(next(i for i, pair in enumerate(zip(one, other)) if len({*pair}) > 1)
                 for one in rows.values() for other in rows.values() if one != other)         # tokens that all begin with
    for node, value in values.items():
        ids = rows[node]
        logits = coconut.explicit_forward(gpt, question, 2, torch.tensor([[tokenizer.eot] + ids[:-1]]))
        p = logits[0].softmax(-1)[range(len(ids)), ids]
        assert value == pytest.approx(p[forced:].prod().item(), rel=1e-3)
    # Asked in the precision that the run answers in, and near to the other.
    monkeypatch.setattr(train.Run, "autocast", lambda _: torch.autocast("cpu", torch.bfloat16))
    rounded = sample.node_values(run, problem, 1)
    assert rounded != values and all(rounded[v] == pytest.approx(values[v], rel=0.2, abs=1e-3) for v in values)


QUESTION = ("Every ant is a bee. Tom is a ant. Every bee is a cat. Every ant is a cat. Every cat is a dog. Sam is a elk. "
            "Tom is a fox. Is Tom a dog or elk?")
PROBLEM = data.Problem(QUESTION, ["Tom is a ant.", "Every ant is a cat.", "Every cat is a dog."], "Tom is a dog.")


def test_the_tree_is_what_the_entity_reaches_with_heights_and_the_true_path(monkeypatch, capsys):
    monkeypatch.setattr(sample, "node_values", lambda run, problem, k: {v: k / 4 for v in ("ant", "bee", "cat", "dog", "elk", "fox")})
    rows = sample.tree(None, PROBLEM)
    assert rows == [(0, "Tom", None, 1, True), (1, "ant", 0.25, 2, True), (2, "bee", 0.5, 2, False), (3, "cat", None, 1, False),
                    (2, "cat", 0.5, 1, True), (3, "dog", None, 0, True), (1, "fox", 0.25, 0, False)]
    sample.show_tree(rows)
    printed = capsys.readouterr().out
    assert "    ant *           25% █████ " in printed and all(len(line) <= 100 for line in printed.splitlines())


def test_in_prontoqa_what_is_written_after_k_steps_is_one_node_ahead(monkeypatch):
    problem = data.generate("prontoqa", {"test": 1}, hops=3)["test"][0]
    monkeypatch.setattr(sample, "node_values", lambda run, problem, k: {v: float(k) for v in data.CONCEPTS})
    path = sample.path_of(problem)
    assert len(path) == 4 and path[0] == problem.steps[-1].split()[0]
    assert all(step.startswith(f"{path[0]} is {data.with_article(node)}. ") for step, node in zip(problem.steps, path[1:]))
    rows = sample.tree(None, problem)
    assert all(value == (depth - 1 if depth else None) for depth, _, value, _, _ in rows)
    assert [node for *_, node, _, _, on_path in rows if on_path] == path and max(row[0] for row in rows) == 3
    best, _ = sample.parallel(None, [problem])
    assert [row[:4] for row in best] == [pytest.approx((1, 1, 2, 3)), pytest.approx((2, 2, 4, 6))]


def test_parallel_counts_every_node_k_steps_away(monkeypatch):
    values = {"ant": 0.5, "bee": 0.3, "cat": 0.1, "dog": 0.05, "elk": 0.04, "fox": 0.05}
    monkeypatch.setattr(sample, "node_values", lambda *_: values)
    best, nodes = sample.parallel(None, [PROBLEM, PROBLEM])
    assert sorted(nodes) == sorted(2 * [(1, 0.5, 2, True), (1, 0.05, 0, False), (2, 0.3, 2, True), (2, 0.1, 1, True)])
    assert best == [pytest.approx((k, 0.5, 0.8, 0.9, 0.04)) for k in (1, 2)]        # Sam's elk
    assert sample.by_height(nodes + [(1, 0.1, 0, False)]) == [
        [1, "all", 0.5, 2, pytest.approx(0.2 / 3), 3], [1, 0, "-", 0, pytest.approx(0.2 / 3), 3], [1, 2, 0.5, 2, "-", 0],
        [2, "all", pytest.approx(0.2), 4, "-", 0], [2, 1, 0.1, 2, "-", 0], [2, 2, 0.3, 2, "-", 0]]


# ---- over the test set

def test_the_sweep_classifies_every_text_at_every_number_of_thoughts(opened):
    run, problems = opened
    _, rows = sample.sweep(run, problems)
    assert [k for k, *_ in rows] == [0, 1, 2, 3] and all(sum(classes) == pytest.approx(1) for _, _, *classes in rows)
    for k, right, *classes in rows:
        texts = train.ask(run, problems, k)[0]
        assert right == sum(map(data.grade, problems, texts)) / 8
        assert classes == [sum(data.classify_path(p, t, k > 0) == c for p, t in zip(problems, texts)) / 8 for c in data.PATH_CLASSES]


def test_given_vectors_take_the_thoughts_places():
    """Against the forward with everything recomputed: the first two thoughts given, the third the model's own."""
    problem = data.generate("prosqa", {"test": 1})["test"][0]
    tokenizer = data.Tokenizer.of([problem])
    gpt = untrained(tokenizer)
    tokenizer.read([problem])
    batch, given = data.collate([data.encode(problem.ids, tokenizer, "thought", 0, 3)]), torch.randn(1, 2, 32)
    with torch.no_grad():
        x = torch.cat([gpt.embed(batch.question), given], dim=1)
        x = torch.cat([x, gpt(x)[0][:, -1:], gpt.embed(batch.language)], dim=1)
        expected = gpt(x)[0][:, -batch.language.size(1):]
        chain, cache, mask = coconut.think(gpt, batch.question, batch.length, batch.n, given=given)
        hidden, _, _ = coconut.speak(gpt, batch.language, batch.length, batch.n, chain, cache, mask)
    assert torch.allclose(hidden, expected, atol=1e-5) and torch.equal(chain[:, :2], given)


@pytest.mark.parametrize("method", ["coconut", "pause_as_thought"])
def test_untouched_thoughts_and_pauses_are_the_runs_own(runs, opened, method, monkeypatch):
    run = train.open_run(runs / method, "cpu")
    problems, asked, true_ask = opened[1], [], train.ask
    run.gpt.ln_f.bias.data += 1                  # so that thoughts have a mean to match
    run.gpt.wte.weight.data[run.tokenizer.pause] += 1

    def ask(*args, given=None):
        result = true_ask(*args, given=given)
        asked.append((result[0], given))
        return result
    monkeypatch.setattr(train, "ask", ask)
    _, rows = sample.corrupt(run, problems)
    assert [row[0] for row in rows] == ["untouched", *(f"noise for the first {j} of 3" for j in (1, 2, 3)),
                                          *["in reverse order", "in random order", "another problem's"] * (method == "coconut")]
    asked = asked[method == "coconut":]          # the first was for the thoughts themselves
    texts, _, chain, _ = true_ask(run, problems, 3)
    assert asked[0][0] == texts
    own = chain if method == "coconut" else run.gpt.wte.weight[run.tokenizer.pause].expand(8, 3, -1)
    noise = asked[3][1]
    for j in (1, 2):
        assert torch.equal(asked[j][1][:, :j], noise[:, :j])
        assert asked[j][1].size(1) == (j if method == "coconut" else 3)
    assert noise.mean().item() == pytest.approx(own.mean().item(), abs=0.2 * own.std().item()) and noise.std() == pytest.approx(own.std().item(), rel=0.2)
    if method == "pause_as_thought":
        return
    assert torch.equal(asked[4][1], own.flip(1))
    assert torch.allclose(asked[5][1].sort(1)[0], own.sort(1)[0]) and not torch.equal(asked[5][1], own)
    steps = [len(p.steps) for p in problems]
    for i in range(8):
        if steps.count(steps[i]) > 1:
            origin = [j for j in range(8) if torch.equal(asked[6][1][i], own[j])]
            assert i not in origin and steps[origin[0]] == steps[i]


# ---- the command line

@pytest.mark.parametrize("flag", ["--tree", "--sweep_thoughts", "--parallel", "--corrupt", "--curve", "--compare"])
def test_draws_a_picture_of_every_table(runs, flag, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    asked = [str(runs / "coconut"), str(runs / "no_thought")][:2 if flag == "--compare" else 1]
    sample.main([*asked, flag, "--plot", str(tmp_path / "a.png")])
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG" and 5_000 < (tmp_path / "a.png").stat().st_size < 150_000
    assert "a.abc" in refused([*asked, flag, "--plot", str(tmp_path / "a.abc")], capsys)


def test_without_matplotlib_the_table_still_comes_and_a_line_says_what_to_install(runs, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match=r"\A--plot needs matplotlib: pip install matplotlib\Z"):
        sample.main([str(runs / "coconut"), "--corrupt", "--plot", "a.png"])
    assert capsys.readouterr().out.count("noise for the first") == 3


def test_curves_are_the_logs_validation_records(runs, capsys):
    sample.main([str(runs / "coconut"), str(runs / "no_thought" / "log.jsonl"), "--curve"])
    printed = capsys.readouterr().out.splitlines()
    valid = [r for line in (runs / "coconut/log.jsonl").read_text().splitlines() if (r := json.loads(line))["kind"] == "valid"]
    assert [line.split()[:3] for line in printed[2:6]] == [[str(r["epoch"]), str(r["stage"]), f"{r['loss']:.3f}"] for r in valid]
    assert len(printed) == 12


@pytest.mark.parametrize("run, flags, says", [
    ("no_thought", "--tree", "without thoughts"), ("no_thought", "--corrupt", "without thoughts"),
    ("coconut", "--plot a.png", "--plot draws"), ("coconut", "--tree --thoughts 1", "--thoughts"), ("coconut", "--tree --corrupt", "not allowed"),
    ("coconut", "--thoughts 2000", "positions"), ("nowhere", "--curve", "no log"), ("coconut", "--dataset nowhere.json --tree", "nowhere.json"),
    ("coconut", "--dataset prontoqa", "was trained on prosqa"), ("coconut", "--dataset {sums} --tree", "have a graph"),
    ("coconut", "--tree --n 9", "there are 8"), ("coconut", "--tree --plot nowhere/a.png", "folder that exists"), ("coconut/best.pt", "--curve", "no log"),
    ("coconut", "--n 0", "--n: 0"), ("coconut", "--thoughts -1", "--thoughts: -1"), ("coconut", "--device abacus", "abacus"),
    ("coconut", "--question Who? --n 2", "leave out --n"), ("coconut", "--prompt x", "name a run"), ("", "--init gpt2", "--prompt"),
    ("", "--init scratch --prompt a", "there is no scratch"), ("", "", "name a run"), ("nowhere", "", "no run in"),
    ("coconut", "--dataset {rules} --sweep_thoughts", "only ProsQA"), ("coconut", "--dataset {other}", "problems are new to the model"),
    ("coconut", "--hops 2", "does not apply")])
def test_what_sample_cannot_look_at_is_refused_in_one_line(runs, run, flags, says, tmp_path, capsys):
    (tmp_path / "other.json").write_text(json.dumps([{"question": "One and one?", "steps": ["<<1+1=2>>"], "answer": "Two"}]))
    known = data.generate("prosqa", {"test": 2}, nodes=9, max_steps=3)["test"]
    data.write([data.Problem(p.question.split(". ")[-1], p.steps, p.answer) for p in known], tmp_path / "sums.json")
    data.write([data.Problem(p.question, p.steps, "True") for p in known], tmp_path / "rules.json")
    files = {name: tmp_path / f"{name}.json" for name in ("sums", "rules", "other")}
    assert says in refused([*[str(runs / run)][:bool(run)], *flags.format(**files).split()], capsys)


def test_a_sweep_of_a_run_without_mixing_warns(runs, tmp_path, capsys):
    train.main([*TINY, "--mix", "0", "--out", str(tmp_path / "run")])
    for run, warns in (tmp_path / "run", True), (runs / "coconut", False):
        capsys.readouterr()
        sample.main([str(run), "--sweep_thoughts", "--n", "2"])
        assert ("warning: this run was trained without --mix" in capsys.readouterr().out) == warns


def test_a_sweep_of_a_method_without_thoughts_is_of_what_it_always_writes(runs, tmp_path, capsys):
    train.main([*TINY, "--method", "cot", "--mix", "0", "--out", str(tmp_path / "cot")])
    for path in tmp_path / "cot", runs / "no_thought":
        capsys.readouterr()
        sample.main([str(path), "--sweep_thoughts"])
        printed = capsys.readouterr().out
        run = train.open_run(path, "cpu")
        problems = data.problem_sets(run.settings, ("test",))["test"]
        right = sum(map(data.grade, problems, train.ask(run, problems, 0)[0]))
        assert "warning" not in printed and [line.split()[:2] for line in printed.splitlines()[2:]] == [["0", f"{right / 8:.1%}"]]


def test_comparing_counts_who_is_right_where_and_how_likely_that_is_by_chance(monkeypatch, capsys):
    """The exact test against a sum over all 2^n outcomes."""
    problems = [data.Problem(f"{i}?", ["s"] * (1 + i % 2), str(i)) for i in range(12)]
    right = {"a": {0, 1, 2, 3, 4, 5, 6, 7, 8}, "b": {0, 1, 9}, "c": set(range(12))}
    monkeypatch.setattr(train, "ask", lambda run, ps, *_: ([f"### {p.answer if int(p.answer) in right[run.gpt] else 'x'}" for p in ps], None, None, None))
    settings = Namespace(method="no_cot", stages=1, c=1, stop="constant")
    runs = [train.Run(name, None, settings, 0, 0) for name in "abca"]
    rows, tests = sample.compare(runs, problems)
    assert rows == [(1, 6, 5/6, 1/6, 6/6, 5/6), (2, 6, 4/6, 2/6, 6/6, 4/6), ("all", 12, 9/12, 3/12, 12/12, 9/12)]
    outcomes = [bin(i).count("1") for i in range(2 ** 8)]
    assert tests == [(7, 1, sum(n <= 1 or n >= 7 for n in outcomes) / 2 ** 8), (0, 3, 2 / 2 ** 3), (0, 0, 1)]
    sample.look_at("compare", runs, "abca", problems)
    printed = capsys.readouterr().out
    assert "all 12 75.0% 25.0% 100.0% 75.0%" in " ".join(printed.split())
    assert "7 problems only run 1 gets right, 1 only run 2: McNemar's exact p = 0.07" in printed


def test_the_table_has_a_row_for_each_method_with_mean_and_spread(tmp_path, capsys):
    for name, method, correct in ("a", "coconut", 90), ("b", "coconut", 96), ("c", "cot", 50), ("d", "cot", None), ("e", "coconut", 20):
        valid = {"kind": "valid", "stage": 0, "loss": 0.5, "correct": 1, "total": 2}
        lines = [valid | {"epoch": 1, "seconds": 120}, valid | {"epoch": 2, "seconds": 240}]
        if correct:
            lines.append({"kind": "test", "dataset": "prosqa", "method": method, "correct": correct, "total": 100, "tokens": 14.0, "unusual": "--c 2" * (name == "e")})
        else:                                       # a log from when records did not say what is unusual
            lines.append({"kind": "test", "dataset": "prosqa", "method": method, "correct": 1, "total": 100, "tokens": 14.0})
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    sample.main([*(str(tmp_path / f"{name}.jsonl") for name in "abcde"), "--table"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{tmp_path / 'd.jsonl'} has no test")
    assert lines[2].split() == "prosqa cot 1 50.0 14.0 4 77.5 ± 1.9, 49.4".split()
    assert lines[3].split() == "prosqa coconut 2 93.0 ± 4.2 14.0 4 97.0 ± 0.3, 14.2".split()
    assert lines[4].split()[2:4] == ["1", "20.0"] and lines[4].endswith("  --c 2")
    assert set(sample.TABLE_1) == set(train.METHODS)


def test_a_test_record_says_what_is_unusual_about_its_run(runs):
    """Given flags, and only those; seed and machine do not count."""
    record = json.loads((runs / "coconut/log.jsonl").read_text().splitlines()[-1])
    given = {flag.split()[0]: flag.split()[1] for flag in " ".join(TINY).split(" --")[1:]}
    told = {flag.split()[0]: flag.split()[1] for flag in record["unusual"].removeprefix("--").split(" --")}
    quick = train.settings_of({})
    assert told == {k: v for k, v in given.items() if k not in ("device", "out") and v != str(vars(quick).get(k))}
    run = train.open_run(runs / "coconut", "cpu")
    run.settings.c_ramp, run.settings.lr = True, 0.5
    words = train.unusual(run.settings).split()
    assert set(words) - set(record["unusual"].split()) == {"--c_ramp", "--lr", "0.5"} and train.parse(words)[0]["c_ramp"] is True


def test_answers_come_in_order_beyond_one_batch(opened):
    """70 problems, more than go into a batch, with c = 2 and given vectors that say whose they are."""
    run, _ = opened
    problems = data.generate("prosqa", {"test": 70}, nodes=9, max_steps=3)["test"]
    given = torch.randn(70, 2, 16)
    texts, _, chain, number = train.ask(run, problems, 4, given=given)
    assert torch.equal(chain[:, :2], given) and chain.shape == (70, 4, 16) and set(number.tolist()) == {4}
    for i in (0, 63, 64, 69):
        assert train.ask(run, [problems[i]], 4, given=given[i:i + 1])[0] == [texts[i]]
    run.settings.c = 2
    _, rows = sample.sweep(run, problems)
    assert [row[1] * 70 for row in rows] == pytest.approx([sum(map(data.grade, problems, train.ask(run, problems, n)[0])) for n in (0, 2, 4, 6)])


def test_runs_are_compared_from_the_command_line_on_problems_that_both_had(runs, tmp_path, capsys):
    sample.main([str(runs / "coconut"), str(runs / "no_thought"), "--compare"])
    printed = capsys.readouterr().out.splitlines()
    assert printed[-3].split()[:2] == ["all", "8"] and "McNemar's exact p = " in printed[-1]
    train.main([*TINY, "--nodes", "10", "--out", str(tmp_path / "other")])
    assert "different problems" in refused([str(runs / "coconut"), str(tmp_path / "other"), "--compare"], capsys)
    assert "1 runs are named" in refused([str(runs / "coconut"), "--compare"], capsys)
