"""The curriculum, the loop's promises (same seed same run, a killed run loses nothing), and one line for every mistake."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest
import tiktoken
import torch

import coconut
import data
import sample
import train
from gpt import GPT, GPTConfig

ROOT = Path(__file__).parent.parent
TINY = ("--dataset prosqa --nodes 9 --max_steps 3 --train_size 60 --valid_size 8 --test_size 8 --grow_epochs 0 "
        "--epochs 5 --epochs_first 2 --epochs_per_stage 1 --n_layer 1 --n_head 2 --n_embd 16 "
        "--dropout 0.1 --batch_size 16 --device cpu").split()


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def run(out, *flags):
    train.main([*TINY, "--out", str(out), *map(str, flags)])
    return out


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A tiny run of all stages."""
    torch.set_num_threads(1)
    return run(tmp_path_factory.mktemp("runs") / "finished")


# ---- the curriculum

def test_schedule_of_coconut_is_the_papers_table():
    """c = 2, K = 3, a problem of 4 steps: GSM8K's stages, the last of which removes what is left. A short one gets as many thoughts."""
    assert [train.schedule(settings(c=2), s, [1, 2, 4, 8]) for s in range(5)] == [(0, 0), (1, 2), (3, 4), (7, 6), (15, 6)]
    assert [train.schedule(settings(stages=6), s, [5, 5]) for s in (3, 6)] == [(10, 3), (10, 6)]


def test_with_the_classifier_every_problem_gets_its_own_number_of_thoughts_and_at_test_time_the_most():
    args = settings(stages=6, c=2, stop="classifier")
    assert [train.schedule(args, s, [5, 5, 5]) for s in (0, 2, 6)] == [(0, 0), (10, 4), (15, 6)]
    assert [train.schedule(args, s, [0] * 6)[1] for s in (0, 2, 6)] == [0, 4, 12]                       # at test time, at most


def test_icot_removes_tokens_from_the_left_and_at_last_all(some):
    """8 more every epoch, all beyond 39 (Deng et al. 2024); in training at times one or two more."""
    problems, tokenizer = some
    args = settings(method="icot", batch_size=40)
    assert [train.schedule(args, s, [30, 30]) for s in range(7)] == [(8 * s, 0) for s in range(5)] + [(60, 0)] * 2
    assert [train.stage_at(e, args, 5) for e in range(8)] == [(min(e, 5), 0) for e in range(8)]
    whole, cut = (rows(train.batches(a_run(tokenizer, s, method="icot", icot_per_epoch=3, batch_size=40), problems)) for s in (0, 1))
    assert [w[1][3:] for w in whole] == [c[1] for c in cut] and all(n == 0 for _, _, n in cut)
    extra = [len(w[1]) - 3 - len(c[1]) for e in range(100) for w, c in
             zip(sorted(whole), sorted(rows(train.batches(a_run(tokenizer, 1, method="icot", icot_per_epoch=3, batch_size=40), problems, random.Random(e)))))]
    assert [extra.count(o) / 4000 for o in range(3)] == pytest.approx([0.982, 0.018, 0.0003], abs=0.006) and min(extra) == 0


def test_a_checkpoint_in_mid_ramp_is_asked_for_the_thoughts_that_it_had(tmp_path):
    out = run(tmp_path / "ramp", *"--c 2 --c_ramp --epochs 2 --epochs_first 1 --epochs_per_stage 2".split())
    assert (opened := train.open_run(out, "cpu")).missing == 1 and opened.fillers() == 1


def test_a_ramp_adds_the_thoughts_of_a_stage_one_by_one():
    args = settings(c=3, stages=2, c_ramp=True, epochs_first=1, epochs_per_stage=3)
    thoughts = [train.schedule(args, stage, [5, 5, 5], missing)[1] for stage, missing in
                (train.stage_at(e, args, 3) for e in range(9))]
    assert thoughts == [0, 1, 2, 3, 4, 5, 6, 6, 6]
    args.stop = "classifier"        # a problem that is through before the ramp's stage has all its thoughts
    thoughts = [train.schedule(args, stage, [5], missing)[1] for stage, missing in (train.stage_at(e, args, 3) for e in range(9))]
    assert thoughts == [0, 1, 2, 3, 3, 3, 3, 3, 3]


@pytest.mark.parametrize("method, stage0, last", [
    ("coconut", (0, 0), (3, 6)), ("cot", (0, 0), (0, 0)), ("no_cot", (3, 0), (3, 0)), ("pause", (3, 6), (3, 6)),
    ("no_curriculum", (3, 6), (3, 6)), ("no_thought", (0, 0), (3, 0)), ("pause_as_thought", (0, 0), (3, 6))])
def test_methods_are_the_papers_grid(method, stage0, last):
    """(steps removed, fillers) of a 3-step problem, c = 2, K = 3, in the first and the last stage."""
    args = settings(method=method, c=2)
    assert (train.schedule(args, 0, [1, 1, 1]), train.schedule(args, 3, [1, 1, 1])) == (stage0, last)


def test_papers_settings_are_the_papers():
    """Paper: Experiments, Setup."""
    for dataset, c, epochs, longest in ("prontoqa", 1, (50, 5, 5), 128), ("prosqa", 1, (50, 5, 5), 128), ("gsm8k", 2, (50, 6, 3), 64):
        paper = Namespace(**data.defaults(train.SETTINGS, "paper", dataset))
        assert (paper.epochs, paper.epochs_first, paper.epochs_per_stage) == epochs and paper.c == c
        assert paper.max_new_tokens == longest and paper.init == "gpt2" and paper.stages == 3 * (dataset == "gsm8k")
        assert (paper.n_layer, paper.n_head, paper.n_embd, paper.dropout) == (12, 12, 768, 0.1)
        assert (paper.batch_size, paper.lr, paper.weight_decay, paper.muon_lr, paper.mix) == (128, 1e-4, 0.01, 0.0, 0.0)
        assert paper.reset_optimizer and not paper.grow_epochs and not paper.warmup and not paper.decay


def test_every_default_is_within_its_limits():
    for setting in ("quick", "paper"):
        for dataset in ("prontoqa", "prosqa", "gsm8k", "a folder"):
            for flag, value in data.defaults(train.SETTINGS, setting, dataset).items():
                limits = train.SETTINGS[flag][2]
                assert not limits or (value in limits if isinstance(value, str) else limits[0] <= value <= limits[1]), flag


def test_stages_follow_the_epochs():
    args = settings(epochs_first=2, epochs_per_stage=3)
    assert [train.stage_at(e, args, 2) for e in range(10)] == [(s, 0) for s in (0, 0, 1, 1, 1, 2, 2, 2, 2, 2)]
    assert train.stage_at(0, settings(epochs_first=0, epochs_per_stage=3), 2) == (1, 0)


@pytest.fixture
def some():
    problems = data.generate("prosqa", dict(train=40, valid=0, test=0), nodes=9, max_steps=3)["train"]
    tokenizer = data.Tokenizer.of(problems)
    tokenizer.read(problems)
    return problems, tokenizer


def settings(**other):
    return Namespace(**dict(method="coconut", c=1, stages=3, batch_size=7, micro_batch=3, mix=0.0, bucket=1, float32=False, stop="constant",
                            c_ramp=False, icot_per_epoch=8, icot_all=39) | other)


def a_run(tokenizer, stage, gpt=None, **other):
    return train.Run(gpt, tokenizer, settings(**other), stage, 3)


def rows(batches):
    """(question, target, thoughts) of every example in the batches, as lists without padding."""
    return [(tuple(q[:n].tolist()), tuple(i for i in t.tolist() if i >= 0), k.item())
            for _, micros in batches for micro in micros
            for q, n, t, k in zip(micro.question, micro.length, micro.target, micro.n)]


def test_stage_k_replaces_the_first_k_steps(some):
    problems, tokenizer = some
    for stage in range(4):
        made = rows(train.batches(a_run(tokenizer, stage), problems))
        assert len(made) == 40
        for (_, target, thoughts), p in zip(made, problems):
            rest = "".join(step + "\n" for step in p.steps[stage:])
            assert tokenizer.decode(target) == rest + "### " + p.answer + "<|endoftext|>"
            assert thoughts == stage


def test_mixing_trains_earlier_stages_at_the_given_rate(some):
    problems, tokenizer = some
    rng = random.Random(0)
    thoughts = [k for _ in range(200) for _, _, k in rows(train.batches(a_run(tokenizer, 3, mix=0.4), problems, rng))]
    share = [thoughts.count(n) / len(thoughts) for n in range(4)]
    assert share == pytest.approx([0.1, 0.1, 0.1, 0.7], abs=0.03)


def test_every_epoch_sees_every_problem_once_in_another_order(some):
    problems, tokenizer = some
    one, two = (rows(train.batches(a_run(tokenizer, 0), problems, random.Random(e))) for e in (1, 2))
    assert sorted(one) == sorted(two) == sorted(rows(train.batches(a_run(tokenizer, 0), problems))) and one != two


@pytest.mark.parametrize("stop", ["constant", "classifier"])
def test_micro_batches_give_the_gradient_of_the_whole_batch(some, stop):
    """Also where the pieces predict different numbers of tokens, as here, where every third problem has lost a step."""
    problems, _ = some
    grads, rates = [], []
    for micro_batch in (40, 7):
        run = train.begin(settings(batch_size=40, micro_batch=micro_batch, stop=stop, seed=0, n_layer=1, n_head=2, n_embd=16, dropout=0.0,
                                   detach_thoughts=False, init="scratch", lr=0.0, muon_lr=0.0, weight_decay=0.0, warmup=0, decay=0.0), problems)
        train.prepare(run, problems, "train")
        for p in problems[1::3]:
            p.ids = p.ids[0], p.ids[1][1:], p.ids[2]
        gpt, run.stage = run.gpt.double(), 2
        optimizer, = train.make_optimizers(run)
        optimizer.zero_grad = lambda: None
        train.train_epoch(run, [optimizer], train.batches(run, problems), 1, 0, 1,
                          lambda kind, **log: grads.append((log["loss"], log["norm"])) or rates.append(log["rate"] * log["ms"]))
        grads.append(torch.cat([p.grad.flatten() for p in gpt.parameters()]))
        assert grads[-2][1] > 1.1 and grads[-1].norm().item() == pytest.approx(1.0, rel=1e-5)       # clipped
    assert grads[0][1] == pytest.approx(grads[2][1], rel=1e-9) and grads[0][0] == pytest.approx(grads[2][0], rel=2e-7) and rates == pytest.approx([60_000 * 40] * 2)        # examples a minute
    assert (grads[1] - grads[3]).norm() < 1e-9 * grads[1].norm()


def test_learning_rate_warms_up_stays_and_falls():
    factor = [train.lr_factor(s, 100, 10, 0.4) for s in range(100)]
    assert factor[0] == 0.1 and factor[9:61] == [1.0] * 52 and factor[80] == pytest.approx(0.5) and factor[99] == 0.05
    assert {train.lr_factor(s, 100, 0, 0.0) for s in range(100)} == {1.0}


def test_muon_gets_the_matrices_of_the_blocks_and_adamw_the_rest():
    gpt = GPT(GPTConfig(vocab_size=50, n_layer=2, n_head=2, n_embd=16))
    adamw, muon = train.make_optimizers(a_run(None, 0, gpt, lr=1e-3, muon_lr=0.02, weight_decay=0.0))
    assert sum(len(g["params"]) for g in muon.param_groups) == 2 * 4
    assert sum(len(g["params"]) for o in (adamw, muon) for g in o.param_groups) == len(list(gpt.parameters()))
    only, = train.make_optimizers(a_run(None, 0, gpt, lr=1e-3, muon_lr=0.0, weight_decay=0.0))
    assert isinstance(only, torch.optim.AdamW)


# ---- the run

def records(out, *drop):
    """The log of a run, without what a clock measured."""
    timed = ("ms", "rate", "eta", "seconds", *drop)
    log = map(json.loads, (out / "log.jsonl").read_text().splitlines())
    return [{k: v for k, v in record.items() if k not in timed} for record in log]


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a if k not in ("seconds", "out", "resume", "log_size"))
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def assert_same_run(a, b):
    assert records(a) == records(b)
    for name in ("best.pt", "last.pt"):
        assert same(torch.load(a / name, weights_only=True), torch.load(b / name, weights_only=True)), name


def test_a_run_passes_all_stages_and_is_tested_at_the_end(finished):
    log = records(finished)
    assert [r["stage"] for r in log if r["kind"] == "valid"] == [0, 0, 1, 2, 3]
    assert log[-1]["kind"] == "test" and log[-1]["total"] == 8 and log[-1]["stage"] == 3
    assert sum(r["kind"] == "step" for r in log) >= 5 * train.LINES_PER_EPOCH


def test_best_checkpoint_is_the_best_of_the_last_stage(tmp_path, monkeypatch):
    """Epochs of stages 0 0 1 2 3 3 3 3: early stages answer better here, and of equals the later one is kept."""
    counts = iter([7, 8, 8, 7, 2, 5, 5, 1] + [0])
    monkeypatch.setattr(train, "evaluate", lambda *_: (dict(loss=1.0, correct=next(counts), total=8, tokens=9.0), []))
    out = run(tmp_path / "run", "--epochs", 8)
    assert coconut.load(out / "best.pt")[1]["epoch"] == 7 and coconut.load(out / "last.pt")[1]["best"] == 5


def test_same_seed_same_run_and_other_seed_another(finished, tmp_path):
    assert_same_run(finished, run(tmp_path / "again"))
    other = run(tmp_path / "other", "--seed", 1)
    assert not same(coconut.load(other / "best.pt")[1]["model"], coconut.load(finished / "best.pt")[1]["model"])


@pytest.mark.parametrize("epoch", [1, 3, 5])
def test_a_killed_run_resumes_to_the_same_end(finished, tmp_path, epoch):
    """SIGKILL in the middle of an epoch, its first steps in the log; the same command with --resume ends bit for bit alike."""
    out = tmp_path / "run"
    code = ("import sys, time, torch, coconut, train; torch.set_num_threads(1); loss = coconut.loss\n"
            "coconut.loss = lambda *args: (time.sleep(0.05), loss(*args))[1]\n"             # slow enough to be hit
            "train.main(sys.argv[1:])")
    child = subprocess.Popen([sys.executable, "-c", code, *TINY, "--out", str(out)], cwd=ROOT, stdout=subprocess.DEVNULL)
    log, reached, deadline = out / "log.jsonl", f'"epoch": {epoch}, "epochs": 5, "step": 2', time.time() + 60
    while time.time() < deadline and not (log.exists() and reached in log.read_text()):
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert (coconut.load(out / "last.pt")[1]["epoch"] if epoch > 1 else 0) == epoch - 1
    assert_same_run(finished, run(out, "--resume"))


def test_resume_needs_no_more_than_the_folder_and_minds_a_lost_log(finished, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    (out / "log.jsonl").unlink()
    train.main(["--resume", "--stages", "0", "--out", str(out), "--device", "cpu"])
    assert records(out) == records(finished)[-1:]


def test_resume_refuses_problems_that_have_changed(tmp_path, capsys):
    make = ["prosqa", "--nodes", "9", "--max_steps", "3", "--train_size", "20", "--valid_size", "4", "--test_size", "4"]
    data.main([*make, "--out", str(tmp_path / "set")])
    command = ["--dataset", str(tmp_path / "set"), "--out", str(tmp_path / "run"), *TINY[TINY.index("--epochs"):]]
    train.main(command)
    data.main([*make, "--data_seed", "1", "--out", str(tmp_path / "set")])
    with pytest.raises(ValueError, match="not those that .* was begun with"):
        train.main([*command, "--resume"])


def test_optimizer_is_reset_at_stage_changes_only_when_asked(tmp_path):
    for flag, steps in ("--reset_optimizer", 4), ("--no-reset_optimizer", 20):
        out = run(tmp_path / flag, flag)                        # 5 epochs of 4 steps, the last stage lasting one
        state = torch.load(out / "last.pt", weights_only=True)["optimizers"][0]["state"]
        assert state[0]["step"].item() == steps


def test_evaluating_again_gives_the_same_result(finished, capsys):
    again = train.main(["--eval_only", "--out", str(finished), "--device", "cpu"])
    assert {**again, "ms": 0} == {**records(finished)[-1], "ms": 0} and again["loss"] > 0


def opened(out):
    """A run and its test problems."""
    run = train.open_run(out, "cpu")
    problems = data.problem_sets(run.settings, ("test",))["test"]
    train.prepare(run, problems, "test")
    return run, problems


def test_counting_tokens_counts_thoughts_but_not_pauses(finished, tmp_path):
    """The paper's "tokens": what the model makes. A run's thoughts are made, pause tokens are given to it."""
    pause = globals()["run"](tmp_path / "pause", "--method", "pause")
    for out, fillers in (finished, 3), (pause, 0):
        run, problems = opened(out)
        result, _ = train.evaluate(run, problems)
        rows = (data.encode(p.ids, run.tokenizer, train.METHODS[run.settings.method][0], 3, 3) for p in problems)
        made = [len(coconut.generate(run.gpt, data.collate([row]), run.tokenizer.eos, 128)[0][0]) for row in rows]
        assert result["tokens"] == fillers + sum(made) / len(made)


def test_evaluation_counts_the_problems_whose_answer_is_right(finished, monkeypatch):
    """A model that gives the right answer to every second problem, and the other candidate to the rest."""
    run, problems = opened(finished)
    texts = iter(["### " + problems[i - i % 2].answer for i in range(8)])
    monkeypatch.setattr(coconut, "generate", lambda gpt, batch, *_: (
        [run.tokenizer.encode(next(texts)) + [run.tokenizer.eos] for _ in batch.length], torch.zeros(len(batch.length), 1, 1), batch.n))
    result, mistakes = train.evaluate(run, problems)
    assert (result["correct"], result["total"]) == (4, 8)
    assert [p for p, _ in mistakes] == problems[1::2] and mistakes[0][1] == "### " + problems[0].answer


def test_a_process_without_a_problem_of_its_own_adds_nothing(finished, monkeypatch):
    """Two processes and one problem: the other's counts are loss 3.0 on 2 tokens, 5 made, no thought, 1 right of 1."""
    monkeypatch.setattr(train, "summed", lambda counts: counts + torch.tensor([3.0, 2, 5, 0, 1, 0]))
    result, mistakes = train.evaluate(opened(finished)[0], [])
    assert result == dict(loss=1.5, correct=1, total=1, tokens=5.0) and mistakes == []


def test_evaluating_on_written_problems_is_evaluating_on_generated_ones(finished, tmp_path, capsys):
    data.main(["prosqa", "--nodes", "9", "--max_steps", "3",
               "--train_size", "1", "--valid_size", "8", "--test_size", "8", "--out", str(tmp_path)])
    folder = train.main(["--eval_only", "--out", str(finished), "--dataset", str(tmp_path)])
    file = train.main(["--eval_only", "--out", str(finished), "--dataset", str(tmp_path / "test.json")])
    assert folder["loss"] == file["loss"] == records(finished)[-1]["loss"]


def test_problems_without_steps_train_from_a_folder_with_nothing_but_the_defaults(tmp_path, capsys):
    for split in data.SPLITS:
        data.write([data.Problem(f"Is it {i}?", [], "Yes") for i in range(4)], tmp_path / f"{split}.json")
    train.main(["--dataset", str(tmp_path), "--method", "no_cot", "--epochs", "1", "--n_layer", "1", "--device", "cpu", "--out", str(tmp_path / "run")])
    assert train.main(["--eval_only", "--out", str(tmp_path / "run"), "--device", "cpu"])["total"] == 4


# ---- where a run starts, GSM8K, the classifier, several processes

GSM = "Tom has {} cows and buys 2. How many are there?||<<{}+2={}>> <<{}*1=x>> #### {:,}"
GPT2_WORDS = [bytes([i]) for i in range(256)]


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """Stand-ins for what the network gives: GPT-2's vocabulary (here bytes and "<<"), its weights, GSM8K's files."""
    ranks = {token: i for i, token in enumerate([*GPT2_WORDS, b"<<"])}
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: tiktoken.Encoding(
        name, pat_str=r"<<|\n|[^\n<]+|<", mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 257}))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    cache = tmp_path / "coconut"
    cache.mkdir()
    weights = GPT(GPTConfig(vocab_size=258, block_size=400, n_layer=1, n_head=1, n_embd=16)).state_dict()
    torch.save({k: v.t().clone() if v.dim() == 2 and k.startswith("h.") else v for k, v in weights.items()}, cache / "gpt2-607a30d7.bin")
    for split, size in ("train", 24), ("valid", 6), ("test", 6):
        (cache / f"gsm8k-{split}.txt").write_text("".join(GSM.format(i, i, i + 2, i, i + 1000) + "\n" for i in range(size)))
    return cache


GSM_RUN = ("--dataset gsm8k --setting paper --batch_size 8 --epochs 3 --epochs_first 1 --epochs_per_stage 1 --stages 1 "
           "--max_new_tokens 9 --device cpu --out").split()


def test_gsm8k_trains_from_gpt2_and_another_run_from_that(offline, tmp_path, capsys):
    train.main([*GSM_RUN, str(tmp_path / "one"), "--lr", "0"])
    run, start = train.open_run(tmp_path / "one", "cpu"), train.pretrained("gpt2")[0]
    gpt, tokenizer = run.gpt, run.tokenizer
    assert (run.stage, run.last_stage, run.settings.c, tokenizer.words) == (2, 2, 2, None)      # stage K + 1, for chains of more than K steps
    assert torch.equal(gpt.wte.weight[:258], start.wte.weight) and gpt.config.vocab_size == 320
    assert torch.equal(gpt.wte.weight[258:261], start.wte.weight[[256] * 3]) and tokenizer.pause == 260         # like "<<"
    assert [r["total"] for r in records(tmp_path / "one") if r["kind"] == "test"] == [6]

    train.main([*GSM_RUN, str(tmp_path / "two"), "--lr", "0", "--init", str(tmp_path / "one")])
    two, _ = coconut.load(tmp_path / "two/last.pt")
    assert all(torch.equal(a, b) for a, b in zip(gpt.parameters(), two.parameters()))
    capsys.readouterr()
    sample.main(["--init", "gpt2", "--prompt", "Two cows"])
    assert capsys.readouterr().out.startswith("Two cows")


def test_the_shape_of_given_weights_is_theirs(offline, tmp_path, capsys):
    with pytest.raises(ValueError, match="--init gpt2 has its own shape: leave out --n_layer"):
        train.main([*GSM_RUN, str(tmp_path / "run"), "--n_layer", "2"])


def test_without_network_one_line_says_what_is_missing_and_what_to_do(offline, tmp_path, monkeypatch):
    def no_network(*_, **__):
        raise OSError("no route")
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    (offline / "gpt2-607a30d7.bin").unlink()
    with pytest.raises(ValueError, match=r"\A--init gpt2: https://hug.*bin could not be fetched \(no route\): put a copy at .*gpt2-607a30d7.bin; or .*--init scratch\Z"):
        train.main([*GSM_RUN, str(tmp_path / "run")])
    monkeypatch.setattr(tiktoken, "get_encoding", no_network)
    with pytest.raises(ValueError, match=r"\AGPT-2's vocabulary could not be fetched \(OSError\).*TIKTOKEN_CACHE_DIR[^\n]*\Z"):
        data.Tokenizer()


def test_a_run_with_the_classifier_reports_how_many_thoughts_it_took(tmp_path, capsys):
    out = run(tmp_path / "stop", "--stop", "classifier", "--min_steps", "1", "--lr", "0.01")
    result = records(out)[-1]
    assert 1 <= result["thoughts"] <= 3 and f" | {result['thoughts']:.1f} thoughts" in capsys.readouterr().out
    taken = train.ask(*opened(out), 3, stop=True)[3].tolist()
    assert sum(taken) / len(taken) == pytest.approx(result["thoughts"])


def test_a_user_error_loses_its_traceback_and_a_bug_keeps_it(capsys):
    with pytest.raises(SystemExit, match="2"):
        data.run_or_explain(lambda: train.parse(["--c", "0"]))
    assert capsys.readouterr().err == "error: argument --c: 0 is not at least 1\n"
    with pytest.raises(ValueError, match="length 3"):
        data.run_or_explain(lambda: dict([(1, 2, 3)]))


def test_two_processes_are_one_with_the_same_batch(tmp_path):
    """Losses to float32 rounding over the first 20 steps, and the same answers; 61 problems, so one share is shorter."""
    command = [*TINY, "--dropout", "0", "--muon_lr", "0", "--train_size", "61", "--test_size", "9", "--n_layer", "2"]
    one = run(tmp_path / "one", *command[len(TINY):])
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "train.py",
                           *command, "--out", str(tmp_path / "two")], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    pairs = list(zip(records(one), records(tmp_path / "two"), strict=True))
    assert len(pairs) == 5 * 5 + 1
    for a, b in pairs:
        assert a["loss"] == pytest.approx(b["loss"], rel=2e-6) and a.get("correct") == b.get("correct") and a.get("tokens") == b.get("tokens")
    assert pairs[-1][0]["total"] == 9


# ---- trust

def test_a_checkpoint_that_is_no_run_is_refused_in_one_line(finished, tmp_path):
    for field in ("args", "words", "stage"):
        saved = torch.load(finished / "best.pt", weights_only=True)
        del saved[field]
        torch.save(saved, tmp_path / "best.pt")
        with pytest.raises(ValueError, match=rf"\A.*best.pt does not hold a run.*{field}.*\Z"):
            train.open_run(tmp_path, "cpu")


def test_a_loss_that_is_no_number_stops_the_run_before_a_checkpoint(tmp_path, monkeypatch):
    loss, calls = coconut.loss, []

    def breaks(gpt, *args):
        calls.append(1)
        return loss(gpt, *args) * (float("nan") if gpt.training and len(calls) > 7 else 1.0)
    monkeypatch.setattr(coconut, "loss", breaks)
    with pytest.raises(ValueError, match=r"\Astage 0, epoch 2: loss nan, gradient norm nan at step \d of 4, learning rate \d.\de-..: try a lower --lr\Z"):
        run(tmp_path / "run")
    saved = coconut.load(tmp_path / "run/last.pt")[1]
    assert saved["epoch"] == 1 and all(w.isfinite().all() for w in saved["model"].values())


def test_test_problems_among_the_training_problems_are_counted(tmp_path, capsys):
    sets = data.generate("prosqa", dict(train=16, valid=4, test=5), nodes=9, max_steps=3)
    sets["test"][1:3] = sets["train"][4:6]
    for split, problems in sets.items():
        data.write(problems, tmp_path / f"{split}.json")
    train.main(["--dataset", str(tmp_path), "--out", str(tmp_path / "run"), *TINY[TINY.index("--epochs"):]])
    out = capsys.readouterr().out
    assert "warning: 2 of 5 test questions are training questions too" in out and "valid questions" not in out


# ---- mistakes

@pytest.mark.parametrize("command, says", [
    ("--dataset nothere", "unknown dataset nothere"), 
    ("--dataset {tmp} --data_seed 1", "--data_seed does not apply"), ("--dataset {tmp} --grow_epochs 1", "--grow_epochs does not apply"), ("--dataset prontoqa --nodes 9", "--nodes does not apply to prontoqa"),
    ("--n_head 5", "no multiple of --n_head 5"), 
    ("--device abacus", "--device abacus"), ("--dataset {tmp}", "must hold exactly one of train.json"),
    ("--out {run}", "--resume"), ("{tiny} --out {run} --resume --lr 1", "begun with lr"),
    ("--method cot --stop classifier", "are for --method coconut, not cot"), ("--method cot --c_ramp", "are for --method coconut, not cot"),
    ("--c 3 --c_ramp --epochs_per_stage 2", "--c 3 needs --epochs_per_stage 3"), ("--dataset gsm8k", "gsm8k is for a model that knows words: add --setting paper"),
    ("--eval_only", "--out"), ("--eval_only --out {run} --c 2", "leave out --c"), ("--eval_only --out {tmp}", "no run in"), ("--min_steps 7", "more than --max_steps 4"), ("--dataset {run}/log.jsonl", "only for --eval_only"),
    ("--eval_only --out {run} --dataset prontoqa", "trained on prosqa"),
    ("--nodes 5 --train_size 1", "10,000 random graphs of 5 nodes"), ("--init {run} --dataset prontoqa --train_size 20", "problems are new to the model"),
    ("--init nothere --train_size 20", "there is no nothere")])
def test_a_mistake_gets_one_line_and_exit_code_2(finished, tmp_path, monkeypatch, capsys, command, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as e:
        data.run_or_explain(lambda: train.main(command.format(tmp=tmp_path, run=finished, tiny=' '.join(TINY)).split()))
    err = capsys.readouterr().err
    assert e.value.code == 2 and says in err and err.startswith("error: ") and err.count("\n") == 1


def test_a_question_longer_than_the_model_is_refused(tmp_path, monkeypatch, capsys):
    problems = data.generate("prosqa", dict(train=60, valid=2, test=2), nodes=9, max_steps=3)
    problems["test"][1].question = "Is " * 1100 + problems["test"][1].question
    for split in data.SPLITS:
        data.write(problems[split], tmp_path / f"{split}.json")
    with pytest.raises(ValueError, match="test problem 1 .* positions, but the model has 1024"):
        train.main(["--dataset", str(tmp_path), "--out", str(tmp_path / "run"), "--n_embd", "16"])
    assert not (tmp_path / "run").exists()


# ---- speed

def test_buckets_hold_every_problem_once_and_batches_of_like_length():
    rng = random.Random(0)
    problems = [data.Problem("", [], "", ids=([9] * rng.randint(5, 60), [[1, 2]], [3, 4])) for _ in range(130)]
    tokenizer = Namespace(bot=11, eot=12, pause=13)

    def lengths(**flags):
        run = a_run(tokenizer, 2, batch_size=8, micro_batch=8, **flags)
        return [micros[0].length.tolist() for _, micros in train.batches(run, problems, random.Random(1))]
    plain, bucketed = lengths(bucket=1), lengths(bucket=4)
    assert sorted(sum(plain, [])) == sorted(sum(bucketed, [])) == sorted(len(p.ids[0]) + 1 for p in problems)

    def padding(batches):
        return sum(max(batch) * len(batch) - sum(batch) for batch in batches)
    assert padding(bucketed) < 0.5 * padding(plain)
    assert padding(lengths(bucket=100)) < padding(bucketed)
    whole = [max(batch) for batch in lengths(bucket=100)]
    assert whole != sorted(whole) and len(whole) == len(bucketed) == len(plain) == 17


def test_bf16_is_the_same_model_in_fewer_digits(finished, monkeypatch):
    """Weights, gradients and thoughts stay float32; the loss moves in the third digit."""
    (run, problems), result = opened(finished), {}
    for bf16 in (False, True):
        monkeypatch.setattr(train.Run, "autocast", lambda _: torch.autocast("cpu", torch.bfloat16, enabled=bf16))
        result[bf16], _ = train.evaluate(run, problems)
        used = []
        with monkeypatch.context() as m:
            m.setattr(coconut, "generate", lambda gpt, batch, *_: used.append(torch.is_autocast_enabled("cpu")) or (
                [[0]] * len(batch.length), torch.zeros(len(batch.length), 3, 1), batch.n))
            train.ask(run, problems, 3)
        assert used == [bf16]                       # answers are given in the run's own precision, for sample.py too
    assert result[True]["loss"] != result[False]["loss"] == pytest.approx(result[True]["loss"], rel=0.02)
    with run.autocast():
        gpt, batch = run.gpt, data.collate([data.encode(problems[0].ids, run.tokenizer, "thought", 15, 3)])
        chain, *_ = coconut.think(gpt, batch.question, batch.length, batch.n)
        coconut.loss(gpt, batch).backward()
    assert chain.dtype == torch.float32 and all(p.grad.dtype == torch.float32 for p in gpt.parameters() if p.grad is not None)


def test_training_itself_is_under_autocast(tmp_path, monkeypatch):
    plain = torch.load(run(tmp_path / "a", "--epochs", 1) / "last.pt", weights_only=True)["model"]
    monkeypatch.setattr(train.Run, "autocast", lambda _: torch.autocast("cpu", torch.bfloat16))
    rounded = torch.load(run(tmp_path / "b", "--epochs", 1) / "last.pt", weights_only=True)["model"]
    assert any(not torch.equal(plain[name], rounded[name]) for name in plain)


@pytest.mark.parametrize("device, able, float32, bf16", [
    ("cuda", True, False, True), ("cuda", False, False, False), ("cuda", True, True, False), ("cpu", True, False, False), ("mps", True, False, False)])
def test_bf16_is_a_gpus_wherever_the_run_was_trained(device, able, float32, bf16, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: able and not including_emulation)
    monkeypatch.setattr(torch, "autocast", lambda *args, enabled: (*args, enabled))
    gpt = Namespace(wte=Namespace(weight=Namespace(device=torch.device(device))))
    assert a_run(None, 0, gpt, float32=float32).autocast() == (device, torch.bfloat16, bf16)


def test_muon_is_torchs_in_more_digits():
    """Three steps on matrices of two shapes: every update within bfloat16's accuracy of torch.optim.Muon's."""
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in ((24, 8), (8, 8), (24, 8), (8, 32))]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    optimizers = [train.Muon(ours, lr=0.1, weight_decay=0.1), torch.optim.Muon(theirs, lr=0.1, weight_decay=0.1)]
    for _ in range(3):
        for p, q in zip(ours, theirs):
            p.grad = torch.randn(p.shape)
            q.grad = p.grad.clone()
        before = [p.detach().clone() for p in ours]
        for optimizer in optimizers:
            optimizer.step()
        for p, q, old in zip(ours, theirs, before):
            assert (p - q).norm() < 0.02 * (p - old).norm()
            q.data.copy_(p.data)


def test_several_processes_take_a_gpu_each_or_the_cpu(monkeypatch):
    monkeypatch.setattr(train, "WORLD", 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch, "empty", lambda *_, device: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert train.pick_device("auto") == "cpu"           # not mps, which gloo cannot sum on
    with pytest.raises(ValueError, match=r"\A2 processes need as many GPUs, but there are 0: [^\n]*--device cpu\Z"):
        train.pick_device("cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert train.pick_device("auto") == "cuda" and train.pick_device("cpu") == "cpu"
    for name in ("cuda:0", "mps"):
        with pytest.raises(ValueError, match=rf"\A--device {name} is one device, but there are 2 processes: [^\n]*\Z"):
            train.pick_device(name)


def test_fresh_problems_gain_distractors_after_the_curriculum_each_its_own_share_and_are_never_tested_ones():
    args = train.settings_of(dict(train_size=100, epochs_first=1, epochs_per_stage=1, grow_epochs=4))
    sets = data.problem_sets(args, ("train", "test"))
    run = train.begin(args, sets["train"])
    assert args.stages == 4
    epochs = [train.fresh(run, epoch, ()) for epoch in range(10)]
    facts = [sum(p.question.count(".") for p in problems) / 100 for problems in epochs]
    assert max(facts[:5]) < 5 < facts[5] < facts[6] < facts[7] and min(facts[8:]) > 7
    assert len({p.question for problems in epochs for p in problems}) == 1000
    tested = {p.question for p in epochs[9][:50]}
    assert not tested & {p.question for p in train.fresh(run, 9, tested)}


def test_tokens_of_one_name_begin_alike():
    problems = data.generate("prosqa", {"train": 100}, nodes=9, max_steps=3)["train"]
    tokenizer = data.Tokenizer.of(problems)
    gpt = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, block_size=8, n_layer=1, n_head=1, n_embd=512))
    train.begin_alike(gpt, tokenizer)

    def likeness(a, b):
        return torch.cosine_similarity(*(gpt.wte.weight[i] for i in tokenizer.encode(a + b)), dim=0).item()
    assert likeness("Every bompus is a ", "bompus. ") > 0.35 and likeness("bompus. ", "bompus") > 0.6 and likeness("Tom is a ", "Tom") > 0.6
    assert likeness("Every bompus is a ", "Every gorpus is a ") > 0.35 and abs(likeness("Every bompus is a ", "gorpus. ")) < 0.2
    assert torch.equal(gpt.wte.weight[tokenizer.eot], gpt.wte.weight[tokenizer.bot])
