"""A workspace small enough to know by heart: two measured datasets and an SAE of twelve words.

Feature i fires where WORDS[i] is said, so what "toy-seed" lacks against "toy-anchor" can be read
off the texts: everything about code and travel. No model and no download; under a second.
"""

import atexit
import hashlib
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa

from fac import schema
from fac.config import (
    ExplainSpec,
    FamiliesSpec,
    IngestSpec,
    JudgeSpec,
    MeasureSpec,
    SaeSpec,
    Workspace,
)
from fac.coverage import fac
from fac.datasets.layout import sample_id
from fac.manifest import (
    DatasetFacts,
    ExplainFacts,
    FamiliesFacts,
    MeasureFacts,
    RelevanceFacts,
    SaeFacts,
)
from fac.measure import measure
from fac.schema import Activations, Chat
from fac.store import cache as store_cache
from fac.store.runs import Runs, seal, write_table
from tests.lexicon import LexiconEncoder

WORDS = (
    *("bake", "oven", "recipe", "python", "function", "loop"),
    *("river", "mountain", "train", "please", "the", "quasar"),
)
"""Feature 10, "the", is in every sample; feature 11, "quasar", in none."""

SAE_THRESHOLD = 0.8
"""Of every feature. A word said plainly fires with 1, with n exclamation marks with 1 + n / 2."""


def _chat(user: str, assistant: str) -> Chat:
    return [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]


def _kitchen(dish: str) -> Chat:
    return _chat(
        f"How long do I bake {dish} in the oven please",
        f"Set the oven to moderate heat and bake! the {dish} until it smells done",
    )


def _notes(dish: str) -> Chat:
    return _chat(
        f"Write down the recipe for {dish} as my grandmother made it",
        f"Her recipe for the {dish} begins with warm butter and patience",
    )


def _code(task: str) -> Chat:
    manner = {"role": "system", "content": "You write python for beginners"}
    return [
        manner,
        *_chat(
            f"Show me a python function that will {task} please",
            f"The python function below uses a loop! so the code can {task}",
        ),
    ]


def _travel(town: str) -> Chat:
    return _chat(
        f"Which train goes from the city to {town}",
        f"Take the early train! along the river and leave it below the mountain at {town}",
    )


DISHES = ("bread", "apple pie", "flat cakes", "rye rolls", "a plum tart", "ginger biscuits")
TASKS = ("sort names", "count words", "read a file", "add numbers", "find a date", "draw a tree")
PLACES = ("Brig", "Chur", "Arth", "Olten", "Visp", "Linthal")

ANCHOR: tuple[Chat, ...] = (
    *map(_kitchen, DISHES),
    *map(_notes, DISHES),
    *map(_code, TASKS),
    *map(_travel, PLACES),
)
SEED: tuple[Chat, ...] = (
    *map(_kitchen, DISHES),
    *map(_notes, DISHES),
    _chat("Is trailing the dough over the bench normal", "Yes the dough settles by itself"),
    _chat("Do I knead the dough by hand", "Either way works when the dough is wet"),
    _chat("Why did the crust turn out pale", "The sugar on top was too little and the heat low"),
    _chat("Can the leftovers be frozen", "Yes wrap the slices well and thaw them slowly!"),
)

SAMPLES: Mapping[str, Sequence[Chat]] = {"toy-anchor": ANCHOR, "toy-seed": SEED}


TWICE: Mapping[str, Sequence[Chat]] = {"toy-anchor": ANCHOR * 2, "toy-seed": SEED}
"""Every chat of the anchor twice, so that each of its words is said in ten samples or more."""

TEXTS: Mapping[int, str | None] = {
    **{i: f"the word {word}" for i, word in enumerate(WORDS[:10])},
    10: None,
}
"""What token statistics say: nothing of "the", where they abstain; "quasar" is not asked about."""

MODELS_TEXTS: Mapping[int, str | None] = {
    **{i: f"People speak of a {word}." for i, word in enumerate(WORDS[:9])},
    9: None,
}
"""What the language model says; it abstains on "please" and was not asked about "the"."""

MODELS_SCORES: Mapping[int, float | None] = {
    **dict(enumerate((0.95, 0.9, 0.9, 0.8, 0.8, 0.7, 1.0))),
    7: None,
    8: 0.55,
}
"""Balanced accuracy of its detection; its answers about mountains could not be read."""

LEVELS: Mapping[int, str] = {
    **dict.fromkeys(range(3), "no"),
    **dict.fromkeys(range(3, 6), "yes"),
    6: "probably",
    7: "maybe",
    8: "no",
    9: schema.CANNOT_TELL,
    10: schema.UNREADABLE,
}
"""What the toy judge says of its task, which is about code and a little about rivers."""

RELEVANT = (3, 4, 5, 6)
"""The features on a level that counts as relevant."""

MAYBE_RELEVANT = (*RELEVANT, 7)
"""Those and what is maybe relevant."""

TASK = "instructions"


def toy_workspace(
    root: Path,
    *,
    n_features: int = 12,
    samples: Mapping[str, Sequence[Chat]] = SAMPLES,
    explained: bool = False,
) -> Workspace:
    """A workspace under `root` with a dataset run and a measure run per entry of `samples`, one
    SAE run, and the caches of all of them. Features beyond WORDS stay silent.

    `explained` adds, for the first dataset, explanations by tokens and by a language model and
    verdicts on TASK, with their caches. An empty workspace gets a copy of what this process has
    computed of the same options before.
    """
    workspace = Workspace(root)
    if workspace.runs.exists() or workspace.cache.exists():
        _compute(workspace, n_features, samples, explained)
        return workspace
    options = json.dumps([n_features, [*samples.items()], explained])
    if options not in _COMPUTED:
        place = Workspace(_computed_here() / str(len(_COMPUTED)))
        _compute(place, n_features, samples, explained)
        _COMPUTED[options] = place.root
    shutil.copytree(_COMPUTED[options], root, dirs_exist_ok=True)
    return workspace


_COMPUTED: dict[str, Path] = {}
"""Folders by the options of toy_workspace."""


@cache
def _computed_here() -> Path:
    """A folder that ends with this process."""
    folder = Path(tempfile.mkdtemp(prefix="fac-toy-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _compute(
    workspace: Workspace, n_features: int, samples: Mapping[str, Sequence[Chat]], explained: bool
) -> None:
    runs = Runs(workspace)
    words = [*WORDS[:n_features], *(f"unsaid{i}" for i in range(len(WORDS), n_features))]
    encoder = LexiconEncoder(*words)
    sae_run = publish_sae(runs, encoder)
    store_cache.build(runs, sae_run, workspace.cache)
    for name, chats in samples.items():
        dataset = publish_dataset(runs, name, chats)
        spec = MeasureSpec(dataset=dataset, model="toy", layer=1, sae="toy")
        run = measure(spec, runs=runs, encoder=encoder, sae_run=sae_run, progress=_quiet)
        store_cache.build(runs, run, workspace.cache)
    if explained:
        anchor = runs.resolve("measure", next(iter(samples)))
        for run_id in (
            publish_explanations(runs, anchor),
            publish_explanations(runs, anchor, MODELS_TEXTS, explainer="llm", values=MODELS_SCORES),
            publish_relevance(runs, anchor),
        ):
            store_cache.build(runs, run_id, workspace.cache)


def fac_of(covered: int, anchor: int) -> float:
    """FAC by the formula there is, where so many of an anchor's features are covered.

    For features counted by hand: only fac/coverage.py says what number follows from the counts.
    """
    whole = np.ones(anchor, bool)
    return fac(whole, np.arange(anchor) < covered, whole).fac


def publish_dataset(runs: Runs, name: str, chats: Sequence[Chat]) -> str:
    """A finished dataset run of these chats; its id."""
    spec = IngestSpec(name=name, source=f"{name}.jsonl")
    run_id = spec.run_id(str(chats))
    table = pa.table(
        {
            "sample_id": [sample_id(chat) for chat in chats],
            "messages": list(chats),
            "label": ["toy"] * len(chats),
            "meta": ["{}"] * len(chats),
        },
        schema=schema.SAMPLES,
    )
    folder = runs.scratch(run_id)
    write_table(folder / "samples.parquet", table, schema.SAMPLES)
    write_table(folder / "rejected.parquet", schema.REJECTED.empty_table(), schema.REJECTED)
    facts = DatasetFacts(
        name=name,
        n_samples=len(chats),
        duplicates=0,
        n_rejected=0,
        source=spec.source,
        labels={"toy": len(chats)},
    )
    runs.publish(run_id, spec=spec, inputs=[], facts=facts, seconds=0.0)
    return run_id


def publish_sae(runs: Runs, encoder: LexiconEncoder) -> str:
    """A finished SAE run whose features lie on a circle; its id."""
    n = encoder.n_features
    spec = SaeSpec(model="toy", layer=1, sae="toy")
    run_id = spec.run_id(encoder.identity)
    angle = 2 * np.pi * np.arange(n) / n
    table = pa.table(
        {
            "feature": np.arange(n),
            "threshold": np.full(n, SAE_THRESHOLD, np.float32),
            "x": np.cos(angle),
            "y": np.sin(angle),
            "promotes": [[f"{word}s", word.title()] for word in encoder.words],
            "suppresses": [["never", "none"]] * n,
            "neighbours": [[(i + 1) % n, (i - 1) % n] for i in range(n)],
            "cosines": [[0.5, 0.5]] * n,
        }
    )
    write_table(runs.scratch(run_id) / "features.parquet", table, schema.SAE_FEATURES)
    facts = SaeFacts(
        name="toy",
        model="toy",
        layer=1,
        sae="toy",
        n_features=n,
        d_model=4,
        identity=encoder.identity,
    )
    runs.publish(run_id, spec=spec, inputs=[], facts=facts, seconds=0.0)
    return run_id


def publish_activations(
    runs: Runs,
    name: str,
    activations: Activations,
    *,
    n_features: int,
    n_samples: int,
    encoder: str = "toy",
    sae_run: str = "sae-0",
    role: str = schema.EVERY_ROLE,
    floor: float = 0.0,
    tokens: int = 1000,
    spans: pa.Table | None = None,
    near: pa.Table | None = None,
) -> str:
    """A finished measure run of exactly these activations, in a dataset of short texts; its id."""
    chats = [[{"role": "user", "content": f"{name} {i}"}] for i in range(n_samples)]
    dataset = publish_dataset(runs, name, chats)
    spec = MeasureSpec(dataset=dataset, role=role, floor=floor)
    run_id = spec.run_id(dataset, encoder)
    folder = runs.scratch(run_id)
    order = np.lexsort(
        (activations.role, activations.sample, -activations.peak, activations.feature)
    )
    columns = {key: array[order] for key, array in activations._asdict().items()}
    columns["role"] = pa.array(schema.ROLES).take(pa.array(columns["role"]))
    write_table(folder / "activations.parquet", pa.table(columns), schema.ACTIVATIONS)
    for table, wanted, key in ((spans, schema.SPANS, "spans"), (near, schema.NEAR, "near")):
        write_table(folder / f"{key}.parquet", table or wanted.empty_table(), wanted)
    counts = pa.table(
        {
            "sample": np.arange(n_samples),
            "n_tokens": np.full(n_samples, 9),
            "n_content": np.full(n_samples, 7),
            "n_cut": np.zeros(n_samples, int),
        }
    )
    write_table(folder / "sample_tokens.parquet", counts, schema.SAMPLE_TOKENS)
    facts = MeasureFacts(
        name=name,
        dataset=dataset,
        sae_run=sae_run,
        encoder=encoder,
        n_samples=n_samples,
        n_features=n_features,
        features_fired=len(np.unique(activations.feature)),
        tokens=tokens,
        content_tokens=tokens,
        content_tokens_by_role=dict.fromkeys(schema.ROLES, tokens // len(schema.ROLES)),
        role=role,
    )
    runs.publish(run_id, spec=spec, inputs=[dataset], facts=facts, seconds=0.0)
    return run_id


def publish_explanations(
    runs: Runs,
    measure_run: str,
    texts: Mapping[int, str | None] = TEXTS,
    *,
    explainer: str = "tokens",
    values: Mapping[int, float | None] | None = None,
    attempt: int = 0,
    n_positive: int = 6,
) -> str:
    """A finished explain run with these texts, None where the explainer abstains; its id.

    Every explained feature is scored, by AUROC if by token statistics, else by detection and, a
    tenth lower, fuzzing, with the number in `values` or else 0.95 less a hundredth of the feature,
    on `n_positive` firing samples and as many silent ones.
    Its test is up to three of its weakest "top" spans and as many of its neighbours' in which it
    is silent; a language model has answered every second one right. Another `attempt` is another
    run.
    """
    by_model = explainer == "llm"
    names = ("auroc",) if explainer == "tokens" else ("detection", "fuzzing")
    spec = ExplainSpec(
        measure=measure_run,
        explainer=explainer,
        model="toy-llm" if by_model else "",
        scores=names if by_model else (),
        source="names.jsonl" if explainer == "external" else "",
        attempt=attempt,
    )
    run_id = spec.run_id(measure_run)
    features = sorted(texts)
    explained = [i for i in features if texts[i] is not None]
    statuses = ["cannot_tell" if texts[i] is None else "explained" for i in features]
    explanations = pa.table(
        {
            "feature": features,
            "explainer": [explainer] * len(features),
            "text": [texts[i] for i in features],
            "status": statuses,
            "reason": ["it fires everywhere" if texts[i] is None else "" for i in features],
            "source": [spec.model or spec.source or "token statistics"] * len(features),
            "prompt_hash": [f"{i:012x}" if by_model else "" for i in features],
            "inputs": [json.dumps({"spans": [["top", 0]], "promotes": []})] * len(features),
        },
        schema=schema.EXPLANATIONS,
    )
    scores_of = {i: 0.95 - i / 100 for i in explained} if values is None else values
    scores = [
        {
            "feature": i,
            "score": name,
            "value": None if value is None else value - 0.1 * (name == "fuzzing"),
            "low": None if value is None else value - 0.15,
            "high": None if value is None else min(1.0, value + 0.05),
            "n": 0 if value is None else 2 * n_positive,
            "n_positive": 0 if value is None else n_positive,
            "n_unreadable": 2 * n_positive if value is None else 0,
        }
        for i, value in sorted(scores_of.items())
        for name in names
    ]
    folder = runs.scratch(run_id)
    write_table(folder / "explanations.parquet", explanations, schema.EXPLANATIONS)
    for rows, wanted, name in (
        (scores, schema.SCORES, "scores"),
        (_held_out(runs, measure_run, explained, by_model), schema.EXAMPLES, "examples"),
        ([], schema.REPLIES, "replies"),
    ):
        table = pa.Table.from_pylist(rows, schema=wanted)
        write_table(folder / f"{name}.parquet", table, wanted)
    defined = [value for value in scores_of.values() if value is not None and value == value]
    facts = ExplainFacts(
        name=runs.manifest(measure_run).facts.name,
        measure=measure_run,
        explainer=explainer,
        source=spec.model or spec.source or "token statistics",
        counts=dict(Counter(statuses)),
        scores={names[0]: {"n": len(defined), "median": median(defined)}} if defined else {},
        tokens=0,
        cost=0.0,
        replies={},
    )
    runs.publish(run_id, spec=spec, inputs=[measure_run], facts=facts, seconds=0.0)
    return run_id


def label_samples(runs: Runs, name: str, labels: Sequence[str | None]) -> None:
    """Gives the samples of a measured dataset other labels, in its run on disk."""
    dataset = runs.manifest(runs.resolve("measure", name)).facts.dataset
    table = runs.table(dataset, "samples")
    column = table.schema.get_field_index("label")
    table = table.set_column(column, "label", pa.array(labels, pa.string()))
    counts = dict(Counter(filter(None, labels)).most_common())
    revise(runs, dataset, lambda content: content["facts"].update(labels=counts), samples=table)


def revise(
    runs: Runs,
    run: str,
    change: Callable[[dict[str, Any]], object] = lambda content: None,
    **tables: pa.Table,
) -> None:
    """Gives a finished run other tables, or changes its manifest, as if it had been written so."""
    path = runs.path(run) / "manifest.json"
    content = json.loads(path.read_text("utf-8"))
    change(content)
    for name, table in tables.items():
        file = path.with_name(f"{name}.parquet")
        write_table(file, table, table.schema)
        about = {"sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        content["files"][file.name] |= about | {"bytes": file.stat().st_size}
    path.write_text(json.dumps({**content, "seal": seal(content)}), "utf-8")


def publish_map(runs: Runs, measure_run: str, threshold: float) -> str:
    """A finished families run without families, whose map has all features on a circle; its id."""
    spec = FamiliesSpec(measure=measure_run, threshold=threshold)
    run_id = spec.run_id(measure_run)
    n = runs.manifest(measure_run).facts.n_features
    angle = 2 * np.pi * np.arange(n) / n
    places = pa.table(
        {
            "feature": np.arange(n),
            "x": np.cos(angle),
            "y": np.sin(angle),
            "neighbours": [[(i + 1) % n] for i in range(n)],
            "likeness": [[0.5]] * n,
        }
    )
    folder = runs.scratch(run_id)
    write_table(folder / "map.parquet", places, schema.FEATURE_MAP)
    write_table(folder / "families.parquet", schema.FAMILIES.empty_table(), schema.FAMILIES)
    write_table(folder / "names.parquet", schema.FAMILY_NAMES.empty_table(), schema.FAMILY_NAMES)
    facts = FamiliesFacts(name="toy", measure=measure_run, n_firing=n, n_on_map=n)
    runs.publish(run_id, spec=spec, inputs=[measure_run], facts=facts, seconds=0.0)
    return run_id


def publish_relevance(
    runs: Runs,
    measure_run: str,
    levels: Mapping[int, str] = LEVELS,
    *,
    task: str = TASK,
    attempt: int = 0,
) -> str:
    """A finished relevance run of a language model with these verdicts; its id."""
    spec = JudgeSpec(
        measure=measure_run,
        task=task,
        rubric=("It is about code.",),
        model="toy-judge",
        attempt=attempt,
    )
    run_id = spec.run_id(measure_run)
    n, features = len(levels), sorted(levels)
    table = pa.table(
        {
            "feature": features,
            "level": [levels[i] for i in features],
            "rationale": [f"I say {levels[i]}." for i in features],
            **{name: pa.nulls(n) for name in ("effect", "p", "q", "n_with", "n_without")},
            "prompt_hash": [f"{i:012x}" for i in features],
        }
    )
    folder = runs.scratch(run_id)
    write_table(folder / "relevance.parquet", table, schema.RELEVANCE)
    write_table(folder / "replies.parquet", schema.REPLIES.empty_table(), schema.REPLIES)
    facts = RelevanceFacts(
        name=runs.manifest(measure_run).facts.name,
        measure=measure_run,
        task=task,
        judge="llm",
        counts=dict(Counter(levels.values())),
    )
    runs.publish(run_id, spec=spec, inputs=[measure_run], facts=facts, seconds=0.0)
    return run_id


def _held_out(
    runs: Runs, measure_run: str, features: Sequence[int], by_model: bool
) -> list[dict[str, Any]]:
    """Rows of schema.EXAMPLES for these features."""
    fires = runs.table(measure_run, "activations", ["feature", "sample"]).to_pylist()
    active = {(row["feature"], row["sample"]) for row in fires}
    columns = ["feature", "kind", "rank", "sample"]
    spans = [s for s in runs.table(measure_run, "spans", columns).to_pylist() if s["kind"] == "top"]
    rows = []
    for feature in features:
        positive = [s for s in spans if s["feature"] == feature][-3:]
        silent = [s for s in spans if (feature, s["sample"]) not in active]
        silent.sort(key=lambda s: (abs(s["feature"] - feature), s["feature"], s["rank"]))
        test = [*positive, *silent[: len(positive)]]
        order = np.random.default_rng(feature).permutation(len(test)).tolist()
        for number, span in enumerate(test[i] for i in order):
            fits, right = span["feature"] == feature, number % 2 == 0
            rows.append(
                {
                    "feature": feature,
                    "number": number,
                    "source_feature": span["feature"],
                    "source_kind": "top",
                    "source_rank": span["rank"],
                    "positive": fits,
                    "hard": not fits and abs(span["feature"] - feature) == 1,
                    "detected": fits == right if by_model else None,
                    "fuzzed": right if by_model and fits else None,
                    "fuzz_right": number % 4 == 0 if by_model and fits else None,
                }
            )
    return rows


def _quiet(done: int, total: int, note: str = "") -> None:
    """Nobody watches."""
