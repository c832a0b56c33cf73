"""The pictures of results/ and the table of all its runs, made from logs and models; or tables of your runs.

    python results/figures.py                       makes the pictures and logs/README.md anew
    python results/figures.py RUN RUN ...           what logs say: accuracy per epoch, means by method
    python results/figures.py --compare RUN RUN     runs on the same problems, by steps and by depth
"""

import argparse
import json
import math
import statistics
import sys
from pathlib import Path

RESULTS = Path(__file__).parent
sys.path.insert(0, str(RESULTS.parent))

import data
import sample
import train
from gpt import UserError, run_or_explain


def records(log):
    """{"run", "valid", "test": {epoch, or dataset of a test: record}, "settings": the run's}. What a log says
    twice, of a run that was stopped and resumed, counts as said last; a line that the stop broke is left
    out."""
    found, broken = {"run": {}, "valid": {}, "test": {}}, []
    for i, line in enumerate(log.read_text(errors="replace").splitlines(), start=1):
        try:
            record = json.loads(line)
            found[record["kind"]][record.get("epoch", record.get("dataset"))] = record
        except (ValueError, TypeError, KeyError):
            broken.append(i)
    if not found["run"] or not found["valid"]:
        raise UserError(f"{log} is no log with a finished epoch: name a run's folder, or its log.jsonl")
    if broken:
        print(f"note: broken lines of {log} are left out: {broken}", file=sys.stderr)
    return found | {"settings": argparse.Namespace(**next(iter(found["run"].values()))["settings"])}


def read(paths):
    """{name: its records} of runs' folders or logs; where two have the same name, that is the path."""
    logs = [path / "log.jsonl" if path.is_dir() else path for path in map(Path, paths)]
    for log in logs:
        if not log.is_file():
            raise UserError(f"there is no {log}: name a run's folder, or its log.jsonl")
    names = [log.resolve().parent.name if log.stem == "log" else log.stem for log in logs]
    return {str(log) if names.count(name) > 1 else name: records(log) for name, log in zip(names, logs)}


def unusual(settings):
    """The settings that differ from the usual, as flags: what a table of results must keep apart."""
    left_out = ("dataset", "method", "seed", "data_seed", "stages", "micro_batch")
    usually = train.usual(settings.setting, settings.dataset)
    return train.as_flags({flag: value for flag, value in vars(settings).items()
                           if flag in usually and flag not in left_out and value != usually[flag]})


def curve(runs):
    """Accuracy on the validation problems per epoch, for each run; the stages are those of the first."""
    valid = [run["valid"] for run in runs.values()]
    stages = {epoch: str(r["stage"]) for one in reversed(valid) for epoch, r in one.items()}
    shares = [{epoch: r["correct"] / r["total"] for epoch, r in one.items()} for one in valid]
    return ["epoch", "stage", *runs], [(epoch, stages[epoch], *(share.get(epoch, "") for share in shares))
                                       for epoch in sorted(stages)]


def summary(runs):
    """A row for each dataset, method and what is unusual: accuracy in %, the mean and each run's, on the
    runs' own test problems and on each other kind that some were tested on; tokens."""
    groups, kinds, rows = {}, {"": "accuracy"}, []
    for run in runs.values():
        dataset = run["settings"].dataset
        tests = {name.removeprefix(dataset): test for name, test in run["test"].items()
                 if name.split(" --")[0] == dataset}
        kinds |= {kind: kind.removeprefix(" --") for kind in tests if kind}
        if tests:
            about = Path(dataset).name, run["settings"].method, unusual(run["settings"])
            groups.setdefault(about, []).append(tests)
    for (dataset, method, flags), group in sorted(groups.items()):
        cells = []
        for kind in kinds:
            shares = [100 * tests[kind]["correct"] / tests[kind]["total"] for tests in group if kind in tests]
            each = f" ({' '.join(f'{share:.1f}' for share in shares)})" * (len(shares) > 1)
            cells.append(f"{statistics.mean(shares):.1f}{each}" if shares else "-")
        tokens = statistics.mean(next(iter(tests.values()))["tokens"] for tests in group)
        rows.append((dataset, method, *cells, f"{tokens:.1f}", flags))
    return ["dataset", "method", *kinds.values(), "tokens", "with"], rows


def easy_losses(run):
    """The loss of a training problem, in nats, at the end of each stage of the easy round, and of methods
    without these stages after as many epochs."""
    easy, stages = run["settings"].easy, run["settings"].stages
    ends = [easy * (stage + 1) for stage in range(stages + 1)] if easy else []
    return [run["valid"][epoch]["loss_per_problem"] for epoch in ends if epoch in run["valid"]]


def told(dataset, test):
    """A test in words: answers right, with the 95 % interval, and what a log says of the wrong ones."""
    correct, total = test["correct"], test["total"]
    low, high = (100 * end for end in train.wilson(correct, total))
    text = f"{dataset}: {correct}/{total} = {100 * correct / total:.1f}% ({low:.1f} to {high:.1f})"
    if "forced" in test:
        text += f", {test['other']} the other candidate, {test['forced']} by forced choice"
    return text


def page(folder):
    """The text of logs/README.md: the means, and all runs; the same of the cells of the tuning."""
    def table(heads, rows):
        return "".join(f"| {' | '.join(map(str, row))} |\n" for row in (heads, ["---"] * len(heads), *rows))
    text = [
        "# All runs\n", "`python results/figures.py` writes this page from the logs. `with`: the flags of "
        "train.py\nthat differ from the usual. In brackets: the 95 % interval. Losses: of a training problem "
        "in nats, at the\nend of each stage of the easy round; a coin flip between two answers costs 0.69.\n"]
    for title, place in ("", ""), ("## Tuning\n\n", "cells/"):
        runs, rows = read(sorted(folder.glob(f"{place}*.jsonl"))), []
        for name, run in runs.items():
            last, settings = run["valid"][max(run["valid"])], run["settings"]
            tests = [told(dataset, test) for dataset, test in run["test"].items()]
            rows.append((f"[{name}]({place}{name}.jsonl)", settings.method, unusual(settings),
                         settings.seed, last["epoch"], round(last["seconds"] / 60), "<br>".join(tests),
                         " ".join(f"{loss:.2f}" for loss in easy_losses(run))))
        text += [f"{title}Accuracy in %, the mean and each run's:\n", table(*summary(runs)), "Each run:\n",
                 table("log method with seed epochs minutes tests losses".split(), rows)]
    return "\n".join(text)


NAMES = {"coconut": "Coconut", "cot": "CoT", "pause_as_thought": "pause as\nthought", "pause": "pause\ntoken",
         "no_curriculum": "w/o\ncurriculum", "no_thought": "w/o\nthought", "no_cot": "No-CoT", "icot": "iCoT"}


def draw(path, plot, *what, width=7, panels=1):
    """A picture, `width` inches wide: plot(axes, *what), where axes are as many as `panels`."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("pictures need matplotlib: pip install matplotlib") from None
    figure = Figure((width, 3.5), layout="constrained")
    plot(figure.subplots(1, panels), *what)
    figure.savefig(path, dpi=200)
    print(f"drawn in {path}")


def plot_front(axes, runs, dataset):
    """Two panels about the usual runs on a dataset, `plot_easy` and `plot_runs`; the second has those with
    twelve layers, too."""
    shown = {flags: [run for run in runs.values() if dataset in run["test"]
                     and unusual(run["settings"]) == flags] for flags in ("", "--n_layer 12")}
    plot_easy(axes[0], shown[""])
    plot_runs(axes[1], sum(shown.values(), []), dataset)


def plot_easy(axes, runs):
    """`easy_losses`, a line for every run, but iCoT's, whose stages are tokens."""
    for run in runs:
        method = run["settings"].method
        if method == "icot":
            continue
        axes.plot(easy_losses(run), ".-", color=f"C{list(NAMES).index(method)}", linewidth=1, label=method)
    lines = dict(zip(*reversed(axes.get_legend_handles_labels())))          # {method: its last line}
    shown = [method for method in NAMES if method in lines]
    names = [NAMES[method].replace("\n", " ") for method in shown]
    axes.legend([lines[method] for method in shown], names, frameon=False, fontsize=7, ncol=4)
    axes.axhline(math.log(2), color="black", linestyle=":", linewidth=1)
    axes.text(0, math.log(2) * 0.75, "a coin flip between two answers", fontsize=7)
    axes.set(title="Four layers, easy round: without words only thoughts reach step 3",
             xlabel="stage of the easy round (CoT stays in the first;\n"
                    "No-CoT, pause token, w/o curriculum, all alike, in the last; iCoT: not shown)",
             ylabel="training loss of a problem, nats", yscale="log", ylim=(0.015, 6))
    axes.locator_params(axis="x", integer=True)


def plot_runs(axes, runs, dataset):
    """A dot for every run, by method and layers: its own test problems, and those of --same_depth."""
    def about(run):
        return run["settings"].n_layer, list(NAMES).index(run["settings"].method)
    columns = sorted(set(map(about, runs)))
    names = [list(NAMES.values())[method] + ",\n12 layers" * (layers == 12) for layers, method in columns]
    for kind, label, side, fill in (("", "problems as in training", -0.12, "C0"),
                                    (" --same_depth", "both candidates equally deep", 0.12, "none")):
        dots = [(columns.index(about(run)) + side, 100 * test["correct"] / test["total"])
                for run in runs if (test := run["test"].get(dataset + kind))]
        axes.scatter(*zip(*dots), 36, facecolor=fill, edgecolor="C0", label=label)
    axes.axhline(50, color="black", linestyle=":", linewidth=1)
    axes.text(-0.4, 50.5, "a coin flip", fontsize=7)
    axes.set(title="A dot: one run. Four layers, and twelve at the right end",
             ylabel="right of 2,000 problems, %", ylim=(40, 101))
    axes.set_xticks(range(len(names)), names, fontsize=7)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.legend(frameon=False, fontsize=7)


def plot_tree(axes, heads, rows, title):
    """One more step to the right with every column; the area of a circle is the value of its node."""
    last = {}                                                   # {depth: the height of the last node there}
    for y, (depth, node, value, _, on_path) in enumerate(rows):
        color, last[depth] = "tab:orange" if on_path else "tab:blue", y
        if depth:
            axes.plot([depth - 1, depth], [last[depth - 1], y], color=color, linewidth=1, zorder=0)
        area = 15 + 600 * (value or 0)                          # in square points
        axes.scatter(depth, y, area, color=color)
        axes.annotate(node.strip() if value == "" else f"{node.strip()} {value:.0%}", (depth, y),
                      (3 + area ** 0.5 / 2, 3), textcoords="offset points", va="bottom", fontsize=8)
    axes.set_xlim(right=max(last) + 0.5)
    axes.invert_yaxis()
    axes.set_axis_off()
    axes.set_title(title, size=9)


def plot_bars(axes, heads, rows, title):
    """A sweep's answers by steps of thought: right at once, right after written steps, wrong."""
    steps, right = [row[0] for row in rows], [100 * row[1] for row in rows]
    at_once, bottom = [100 * row[heads.index("Correct\nLabel")] for row in rows], [0] * len(rows)
    parts = {"right, at once": at_once, "right, after written steps": [r - a for r, a in zip(right, at_once)],
             "wrong": [100 - r for r in right]}
    for (name, part), color in zip(parts.items(), ("C0", "lightblue", "0.8")):
        axes.bar(steps, part, bottom=bottom, label=name, color=color)
        bottom = [b + p for b, p in zip(bottom, part)]
    axes.set(title=title, xlabel="steps of thought", ylabel="test problems, %", ylim=(0, 100))
    axes.legend(fontsize=8, loc="lower left", framealpha=1)


def build(out):
    """logs/README.md and the pages' pictures, in the folder `out`."""
    logs = RESULTS / "logs"
    (out / "logs/README.md").write_text(page(logs))
    draw(out / "runs.png", plot_front, read(logs.glob("*.jsonl")), "prosqa", width=12, panels=2)
    mixed, _ = train.open_run(RESULTS / "model-mix", "cpu")
    problems = data.test_problems(mixed.settings, {})[:500]
    draw(out / "tree.png", plot_tree, *sample.tree(mixed, problems[5:6]),
         "After d thoughts: how likely the next step is about a node, d steps down (orange: a shortest path)")
    draw(out / "sweep.png", plot_bars, *sample.sweep(mixed, problems),
         f"Thinking or writing, right about as often ({len(problems)} problems)")


def compare(runs, problems):
    """Answers right by number of steps and, in ProsQA, by the depth of the wrong candidate, for each of the
    runs {name: run}."""
    groups = {("all", ""): range(len(problems))}
    for i, p in enumerate(problems):
        groups.setdefault(("steps", len(p.steps)), []).append(i)
        if data.graph(p):
            groups.setdefault(("wrong candidate's depth", data.depths(p)[1]), []).append(i)
    right = [list(map(data.grade, problems, train.ask(run, problems, run.fillers())[0]))
             for run in runs.values()]
    return ["by", "", "problems", *runs], [
        (*group, len(which), *(sum(one[i] for i in which) / len(which) for one in right))
        for group, which in sorted(groups.items())]


def parse(argv):
    """The command line: typed problem flags, {flag: value}, and all else."""
    parser = data.Parser(description=__doc__.split("\n\n")[0])
    parser.add_argument("paths", metavar="RUN", nargs="*", help="a folder or a log; none: make all anew")
    parser.add_argument("--compare", action="store_true",
                        help="ask all runs the problems of the first, or those of the flags below")
    parser.add_argument("--dataset", default=argparse.SUPPRESS, help="a .json file, or a folder")
    data.add_flags(parser)
    typed = vars(parser.parse_args(argv))
    args = argparse.Namespace(**{name: typed.pop(name) for name in ("paths", "compare")})
    if typed and not args.compare or args.compare and not args.paths:
        raise UserError("--compare needs a RUN, and flags of problems need --compare")
    return typed, args


def main(argv=None):
    typed, args = parse(argv)
    if args.compare:
        runs = {path: train.open_run(path, train.pick_device("auto"))[0] for path in args.paths}
        data.show_table(*compare(runs, data.test_problems(runs[args.paths[0]].settings, typed)))
    elif args.paths:
        runs = read(args.paths)
        data.show_table(*curve(runs))
        data.show_table(*summary(runs))
    else:
        build(RESULTS)


if __name__ == "__main__":
    run_or_explain(main)
