"""What became of the paper's claims: the table of docs/experiments.md.

    python -m benchmarks.experiments --workspace DIR --dataset NAME --label 1 --out FILE

carries out the experiments at default size, or takes those that are finished, and writes what is
measured of each claim to FILE, beside what it has of other experiments (`--kinds preferences` takes
a dataset of preferences, `steering` one of questions with answers to choose from); `--show FILE`
prints the table of it, `--page` writes docs/experiments.md, whose figures are those of
experiments.json, synthesis.json and controls.json in benchmarks/ and of nothing else.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import controls
from fac.config import EXPERIMENTS, REPOSITORY, ExperimentSpec, Workspace
from fac.experiments.arms import FILLING, RANDOM, SHUFFLED
from fac.experiments.kinds import rq2, rq5
from fac.experiments.published import PUBLISHED
from fac.jobs.steps import Steps, silent
from fac.questions.comparison import clear_firing
from fac.questions.experiments import finding
from fac.store import open_stores

FIGURES = REPOSITORY / "benchmarks" / "experiments.json"
WRITTEN = REPOSITORY / "benchmarks" / "synthesis.json"
PAGE = REPOSITORY / "docs" / "experiments.md"
BEGIN, END = "<!-- figures: python -m benchmarks.experiments --page -->", "<!-- end of figures -->"
CONTROLS = REPOSITORY / "benchmarks" / "controls.json"
HELD_UP = "<!-- controls: python -m benchmarks.experiments --page -->"
HELD_DOWN = "<!-- end of controls -->"
NOTES = "## What does not fit together in the paper"

HELD, DID_NOT, CANNOT = "held", "did not", "cannot tell"
UNMEASURED = "not measured yet"
COMMAND = "`python -m fac experiment {} --dataset NAME{}`"


class Claim(NamedTuple):
    """One claim of the paper, and which effect here asks the same."""

    name: str
    question: str
    paper: str
    here: str
    kind: str = ""  # of EXPERIMENTS; "" where no experiment here asks it, and `here` says why
    varied: str = ""  # what stands behind the head in an outcome
    arm: str = ""
    against: str = ""
    sign: int = 1  # the side of 0 on which the claim is
    negligible: float = 0.0  # what lies nearer to 0 is nothing


HEAD = "heads on the frozen model, and LoRA, test rows apart, equal tokens"

CLAIMS = (
    Claim(
        "helps",
        "RQ1",
        "Filling gaps helps: toxicity AUPRC 62.60 with it, 38.97 without, 58.83 the next of eight "
        "methods (LoRA); 49.12 against 38.97 (head only)",
        f"Rows that fill gaps, beside random rows; {HEAD}",
        *("rq1", "", FILLING, RANDOM),
    ),
    Claim(
        "features",
        "RQ1",
        "It is these features that help: 62.60, with random SAE features 50.61 (Table 12)",
        "Rows that fill gaps, beside rows chosen in the same way by the features of other rows",
        *("rq1", "", FILLING, SHUFFLED),
    ),
    Claim(
        "reward",
        "RQ1",
        "It helps reward models: 76.22 against 62.90",
        "Pairs that fill gaps, beside random pairs; a Bradley-Terry head on the frozen model, "
        "pairwise accuracy on held-out pairs",
        *("preferences", "", FILLING, RANDOM),
    ),
    Claim(
        "steering",
        "RQ1",
        "It helps steering: SCR 40.67 (sycophancy) and 40.00 (survival)",
        "Vectors of questions that fill gaps, beside vectors of random questions; SCR on held-out "
        "questions in both orders of their answers, and log-odds a vector adds",
        *("steering", "", FILLING, RANDOM),
    ),
    Claim(
        "instructions",
        "RQ1",
        "It helps instruction following (21.26 % wins, 1.80 without); 2,000 samples do as well as "
        "300,000 of Magpie",
        "Rows that fill gaps, beside random rows; LoRA, share of verifiable constraints (IFEval) "
        "that greedy answers follow, where the paper has a judge's win rate",
        *("following", "", FILLING, RANDOM),
    ),
    Claim(
        "correlation",
        "RQ2",
        "FAC goes with AUPRC: Pearson .95, Spearman .90 over eight methods",
        "Spearman over many subsets of rows, from few tokens to many",
        *("rq2", "Spearman", rq2.FAC, ""),
    ),
    Claim(
        "correlation at equal tokens",
        "RQ2",
        "The same, beyond what size and labels explain, which eight points cannot tell",
        "The same subsets, tokens, rows and labels held equal",
        *("rq2", "Spearman", rq2.FAC, rq2.STRICT),
        negligible=rq2.NEGLIGIBLE,
    ),
    Claim(
        "transfer",
        "RQ3",
        "Features of one model serve another: 47.23 (Mistral) and 68.20 (Qwen2) with Llama's",
        "Nothing here trains a second model yet; two dictionaries are compared by `fac opinion`",
    ),
    Claim(
        "judges",
        "RQ4",
        "A model's relevance labels agree with people's: 84 to 86 % (the text says 100 features a "
        "task, the table 200)",
        "Asks people: `fac decide` and the page *Agreement* count it for your own reviewers",
    ),
    Claim(
        "threshold 0",
        "RQ5",
        "A threshold of 0 is best: 49.12, at 1 44.20, at 2 45.98, at 4 43.23 (Figure 6)",
        "Gaps above 0, beside gaps above clear firing",
        *("rq5", rq5.THRESHOLD, "above 0", rq5.GIVEN[rq5.THRESHOLD]),
    ),
    Claim(
        "threshold high",
        "RQ5",
        "The same: high thresholds are worse",
        "Gaps above 97 % of peaks, beside gaps above clear firing",
        *("rq5", rq5.THRESHOLD, "above 97% of peaks", rq5.GIVEN[rq5.THRESHOLD], -1),
    ),
    Claim(
        "share",
        "RQ5",
        "More of the features are better: 30 % 45.60, 60 % 46.62, 100 % 49.12 (Table 9; with as "
        "many samples 46.10, 47.0, 49.12)",
        "30 % of the gaps at random, beside all",
        *("rq5", rq5.SHARE, "30% of the gaps, at random", rq5.GIVEN[rq5.SHARE], -1),
    ),
    Claim(
        "samples",
        "RQ5",
        "More samples a feature help little: 1 gives 49.12 (DES 21.35), 5 give 49.91 (DES 16.64)",
        "5 rows per gap of five times the tokens, beside 1",
        *("rq5", rq5.SCALED, "5 rows per gap", rq5.GIVEN[rq5.SCALED]),
    ),
    Claim(
        "temperature",
        "RQ5",
        "A temperature of 0.8 is best: 0.4 46.71, 0.8 49.12, 1.2 46.40",
        "Needs texts written at each: `fac synthesize --temperature`; runs there are listed below",
    ),
    Claim(
        "dictionary",
        "RQ5",
        "Width and k matter little (59.74 to 62.89), layer 16 beats 24 by 3.46",
        "Needs SAEs trained for it: `fac train-sae`, `fac measure --sae`, then these commands with "
        "that run as `--dataset`; too large for the default size",
    ),
)


def verdict(rows: Sequence[Mapping[str, Any]], sign: int, negligible: float = 0.0) -> str:
    """Held where more than half of the intervals lie on the claim's side of 0 and none on the
    other; did not where any lies on the other and none on the claim's, or all lie within
    `negligible` of 0; else it cannot be told.

    >>> above, below, around = ({"low": a, "high": b} for a, b in ((1, 2), (-2, -1), (-1, 1)))
    >>> [verdict(each, 1) for each in ([above, above, around], [below, around], [above, below])]
    ['held', 'did not', 'cannot tell']
    >>> verdict([{"low": 0.01, "high": 0.1}], 1, 0.2), verdict([{"low": 0.1, "high": 0.3}], 1, 0.2)
    ('did not', 'held')
    """
    if all(max(-row["low"], row["high"]) < negligible for row in rows):
        return DID_NOT
    sides = [(row["low"] > 0) - (row["high"] < 0) for row in rows]
    for_it, against = sides.count(sign), sides.count(-sign)
    if for_it > len(rows) / 2 and not against:
        return HELD
    return DID_NOT if against and not for_it else CANNOT


def chosen(claim: Claim, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The effects that a claim is about."""
    names = ("outcome", "size", "difference", "low", "high", "p")
    return [
        {name: row[name] for name in names}
        for row in rows
        if (row["arm"], row["against"]) == (claim.arm, claim.against)
        and (not claim.varied or claim.varied in row["outcome"])
    ]


def table(answer: Mapping[str, Any], written: Mapping[str, Any] | None) -> str:
    """Markdown: the claims, then what was said of each experiment."""
    lines = [
        "| | the paper | here | figure, 95 % interval | | command |",
        "|---|---|---|---|---|---|",
        *(_line(claim, answer) for claim in CLAIMS),
        _steps(written),
        "",
    ]
    if answer:
        for kind, words in answer["says"].items():
            about = words["about"]
            looks = (
                f", {about['n_positive']:,} of them {about['label']!r}" if about["label"] else ""
            )
            lines += [
                f"**{kind.upper()}** on {about['dataset']}: {about['n_rows']:,} rows{looks}, "
                f"{about['n_test']:,} test; features fire above {about['threshold']:.3g}; "
                f"{about['draws']} draws. {words['conclusion']} *Controls*: {words['controls']}",
                "",
            ]
        lines += _runs(answer["synthetic"])
    return "\n".join(lines)


def _line(claim: Claim, answer: Mapping[str, Any]) -> str:
    rows = answer.get("claims", {}).get(claim.name, []) if answer else []
    figures = "; ".join(
        f"{row['outcome'].split('; ')[0]}, {row['size']}: {row['difference']:+.3f} "
        f"({row['low']:+.3f} to {row['high']:+.3f})"
        for row in rows
    )
    end = (
        verdict(rows, claim.sign, claim.negligible)
        if rows
        else UNMEASURED
        if claim.kind
        else CANNOT
    )
    command = ""
    if claim.kind:
        kind = EXPERIMENTS[claim.kind]
        options = " --label 1" if kind.label == "looked for" else ""
        options += " --prompts FILE" if "prompts" in kind.takes else ""
        command = COMMAND.format(claim.kind, options)
    cells = (claim.question, claim.paper, claim.here, figures, f"*{end}*", command)
    return f"| {' | '.join(cells)} |"


def _steps(written: Mapping[str, Any] | None) -> str:
    """One step against two, which is of what is written."""
    paper = (
        "Two steps beat one: hit rate 81.8 against 69.6 at threshold 0 (toxicity; at 1, 45.8 "
        "against 41.1, which the text gives as 40.8)"
    )
    here = "Hit rate of two steps above one at equal tokens, 60 gaps of the demo"
    command = "`python -m benchmarks.synthesis --workspace DIR --out FILE`"
    figures, end = "", UNMEASURED
    for row in written["methods"] if written else []:
        if row["method"] == "one-step":
            low, high = row["two_step_ahead_interval"]
            figures = f"{row['two_step_ahead']:+.3f} ({low:+.3f} to {high:+.3f})"
            end = verdict([{"low": low, "high": high}], 1)
    return f"| RQ5 | {paper} | {here} | {figures} | *{end}* | {command} |"


def _runs(synthetic: Sequence[Mapping[str, Any]]) -> list[str]:
    """Syntheses that are there, by their settings."""
    if not synthetic:
        return ["There are no synthesis runs in the workspace to compare temperatures by."]
    lines = ["| method | temperature | threshold | gaps | hit rate |", "|---|---|---|---|---|"]
    for row in synthetic:
        lines.append(
            f"| {row['method']} | {row['temperature']:g} | {row['threshold']:g} | {row['gaps']:,} "
            f"| {row['hit_rate']:.3f} ({row['low']:.3f} to {row['high']:.3f}) |"
        )
    return lines


def inconsistencies() -> str:
    """What in the paper contradicts itself, its site or its code: a line a note."""
    notes = dict.fromkeys((note, each.source) for each in PUBLISHED for note in each.notes)
    by_note: dict[str, list[str]] = {}
    for note, source in notes:
        by_note.setdefault(note, []).append(source)
    return "\n".join(f"- {', '.join(sources)}: {note}" for note, sources in by_note.items())


def measured(workspace: Path, dataset: str, label: str, kinds: Sequence[str], **how: Any) -> Any:
    """Experiments at default size, finished or carried out now, and what they say of each claim."""
    place = Workspace(workspace.resolve())
    steps, stores = Steps(place), open_stores(place, remember=False)
    measure = stores.runs.resolve("measure", dataset)
    prompts = how.pop("prompts", "")
    answer: dict[str, Any] = {"claims": {}, "says": {}, "synthetic": []}
    for kind in kinds:
        threshold = clear_firing(stores, measure)
        how["label"] = label if EXPERIMENTS[kind].label == "looked for" else ""
        sizes = EXPERIMENTS[kind].defaults | how
        if "prompts" in EXPERIMENTS[kind].takes and prompts:
            sizes["prompts"] = stores.runs.resolve("dataset", prompts)
        spec = ExperimentSpec(name=kind, measure=measure, threshold=threshold, **sizes)
        run = steps.perform(spec, silent)
        facts, result = stores.runs.manifest(run).facts, finding(stores, run)
        names = ("n_rows", "n_positive", "n_test")
        about = {
            "dataset": facts.name,
            "label": spec.label,
            "threshold": threshold,
            "draws": spec.draws,
            **{name: asdict(facts)[name] for name in names},
        }
        words = {"conclusion": result.conclusion, "controls": result.controls}
        answer["says"][kind] = {"about": about, **words}
        answer["claims"] |= {
            claim.name: chosen(claim, result.rows) for claim in CLAIMS if claim.kind == kind
        }
    for manifest in stores.runs.list("synthetic"):
        facts, spec = manifest.facts, manifest.spec
        answer["synthetic"].append(
            {
                **{name: getattr(spec, name) for name in ("method", "temperature", "threshold")},
                "gaps": facts.gaps,
                "hit_rate": facts.hit_rate,
                "low": facts.hit_rate_low,
                "high": facts.hit_rate_high,
            }
        )
    return answer


def read(path: Path) -> Any:
    """What was measured; empty where nothing was."""
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def page(text: str) -> str:
    """The page with its figures as they are now."""
    head, rest = text.split(BEGIN)
    before, after = rest.split(END)[1].split(NOTES)[0].split(HELD_UP)
    seen = "\n".join(controls.shown(controls.read(CONTROLS))).strip() or "*Not measured yet.*"
    middle = f"{before}{HELD_UP}\n\n{seen}\n\n{HELD_DOWN}{after.split(HELD_DOWN)[1]}"
    figures = table(read(FIGURES), read(WRITTEN))
    return f"{head}{BEGIN}\n\n{figures}\n\n{END}{middle}{NOTES}\n\n{inconsistencies()}\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", type=Path)
    parser.add_argument("--dataset", help="Measured, with labels")
    parser.add_argument("--label", default="1")
    of_labels = [name for name in EXPERIMENTS if EXPERIMENTS[name].label == "looked for"]
    parser.add_argument("--kinds", nargs="+", default=of_labels, choices=EXPERIMENTS.names)
    parser.add_argument("--prompts", help="Dataset of prompts that following is judged by")
    parser.add_argument("--draws", type=int)
    parser.add_argument("--labels", type=int, nargs="+")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--show", type=Path, help="What an earlier --out wrote")
    parser.add_argument("--page", action="store_true", help="Write docs/experiments.md")
    options = parser.parse_args(arguments)
    if options.page:
        PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")
        return
    if options.show:
        answer = read(options.show)
    elif options.workspace and options.dataset:
        how = {
            "draws": options.draws,
            "prompts": options.prompts,
            "labels": options.labels and tuple(options.labels),
        }
        how = {name: value for name, value in how.items() if value is not None}
        answer = measured(options.workspace, options.dataset, options.label, options.kinds, **how)
        if options.out:
            earlier = read(options.out) or {"claims": {}, "says": {}}
            for part in ("claims", "says"):
                answer[part] = earlier[part] | answer[part]
            options.out.write_text(json.dumps(answer, indent=1) + "\n", "utf-8")
    else:
        parser.error("name --workspace and --dataset, or --show FILE, or --page")
    print(table(answer, read(WRITTEN)))


if __name__ == "__main__":
    main()
