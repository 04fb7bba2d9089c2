"""A workspace small enough to know by heart: two measured datasets and an SAE of twelve words.

Feature i fires where WORDS[i] is said, so what "toy-seed" lacks against "toy-anchor" can be read
off the texts: everything about code and travel. No model and no download; under a second.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from fac import schema
from fac.config import IngestSpec, MeasureSpec, SaeSpec, Workspace
from fac.measure import measure
from fac.schema import Activations, Chat
from fac.store import cache
from fac.store.runs import Runs, write_table
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


def _travel(place: str) -> Chat:
    return _chat(
        f"Which train goes from the city to {place}",
        f"Take the early train! along the river and leave it below the mountain at {place}",
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


def toy_workspace(
    root: Path, *, n_features: int = 12, samples: Mapping[str, Sequence[Chat]] = SAMPLES
) -> Workspace:
    """A workspace under `root` with a dataset run and a measure run per entry of `samples`, one
    SAE run, and the caches of all of them. Features beyond WORDS stay silent."""
    workspace = Workspace(root)
    runs = Runs(workspace)
    words = [*WORDS[:n_features], *(f"unsaid{i}" for i in range(len(WORDS), n_features))]
    encoder = LexiconEncoder(*words)
    sae_run = publish_sae(runs, encoder)
    cache.build(runs, sae_run, workspace.cache)
    for name, chats in samples.items():
        dataset = publish_dataset(runs, name, chats)
        spec = MeasureSpec(dataset=dataset, model="toy", layer=1, sae="toy")
        run = measure(spec, runs=runs, encoder=encoder, sae_run=sae_run, progress=_quiet)
        cache.build(runs, run, workspace.cache)
    return workspace


def publish_dataset(runs: Runs, name: str, chats: Sequence[Chat]) -> str:
    """A finished dataset run of these chats; its id."""
    spec = IngestSpec(name=name, source=f"{name}.jsonl")
    run_id = spec.run_id(str(chats))
    table = pa.table(
        {
            "sample_id": [f"{i:016x}" for i in range(len(chats))],
            "messages": list(chats),
            "label": ["toy"] * len(chats),
            "meta": ["{}"] * len(chats),
        },
        schema=schema.SAMPLES,
    )
    folder = runs.scratch(run_id)
    write_table(folder / "samples.parquet", table, schema.SAMPLES)
    write_table(folder / "rejected.parquet", schema.REJECTED.empty_table(), schema.REJECTED)
    facts = {
        "name": name,
        "n_samples": len(chats),
        "duplicates": 0,
        "n_rejected": 0,
        "source": spec.source,
        "labels": {"toy": len(chats)},
    }
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
    facts = {
        "name": "toy",
        "model": "toy",
        "layer": 1,
        "sae": "toy",
        "n_features": n,
        "d_model": 4,
        "identity": encoder.identity,
    }
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
    role: str = schema.EVERY_ROLE,
    floor: float = 0.0,
    tokens: int = 1000,
    spans: pa.Table | None = None,
    near: pa.Table | None = None,
) -> str:
    """A finished measure run of exactly these activations, in a dataset of empty texts; its id."""
    chat = [{"role": "user", "content": ""}]
    dataset = publish_dataset(runs, name, [chat] * n_samples)
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
    facts = {
        "name": name,
        "dataset": dataset,
        "sae_run": "sae-0",
        "encoder": encoder,
        "n_samples": n_samples,
        "n_features": n_features,
        "tokens": tokens,
        "content_tokens": tokens,
        "content_tokens_by_role": dict.fromkeys(schema.ROLES, tokens // len(schema.ROLES)),
        "role": role,
    }
    runs.publish(run_id, spec=spec, inputs=[dataset], facts=facts, seconds=0.0)
    return run_id


def _quiet(done: int, total: int, note: str = "") -> None:
    """Nobody watches."""
