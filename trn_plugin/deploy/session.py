"""Open an exported file with onnxruntime."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnxruntime

from trn_plugin.errors import CheckpointError, ConfigError, first_line, printable

__all__ = ["open_session", "providers_of"]

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
WARNINGS, SILENT = 2, 4
"""onnxruntime's log severities: the default, and fatal errors only."""


def providers_of(name: str | None) -> list[str] | None:
    """onnxruntime's providers for 'cpu' or 'cuda' (with CPU fallback per operator); None for None.

    Raises:
        ConfigError: another name.
    """
    known = {None: None, "cpu": [CPU], "cuda": [CUDA, CPU]}
    if name not in known:
        raise ConfigError(f"provider: expected cpu or cuda, found {name!r}")
    return known[name]


def open_session(
    path: str,
    providers: Sequence[str] | None = None,
    threads: int | None = None,
    spinning: bool = True,
) -> onnxruntime.InferenceSession:
    """Load an ONNX file that holds all its weights.

    Args:
        path: the file.
        providers: execution providers; default CUDA if it can be started, then the CPU.
        threads: CPU threads; default onnxruntime's choice, one per core.
        spinning: see :class:`trn_plugin.deploy.TaskPredictor`.

    Raises:
        CheckpointError: the file is missing, onnxruntime cannot run it, or it takes weights from
            another file.
        ConfigError: a provider is not available or cannot be started.
    """
    available = onnxruntime.get_available_providers()
    wanted = providers or [name for name in (CUDA, CPU) if name in available]
    unknown = [name for name in wanted if name not in available]
    if unknown:
        raise ConfigError(
            f"onnxruntime has no provider {unknown[0]!r} here; it has {', '.join(available)}"
        )
    hint = ""
    if str(path).endswith((".pth", ".pt")):
        hint = "; a checkpoint runs by TaskPredictor(CONFIG, checkpoint=FILE)"
    expected = f"expected a file written by trn-plugin export{hint}"
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: no such file; {expected}")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    failures = []
    for chosen in dict.fromkeys((tuple(wanted), (CPU,))):
        try:
            session = _create_session(path, options, chosen)
            break
        except Exception as error:  # onnxruntime's errors share no base class
            failures.append(first_line(error))
    else:
        raise CheckpointError(f"{path}: {_problem(failures[-1])}; {expected}")
    missing = [name for name in providers or () if name not in session.get_providers()]
    if missing:
        reason = printable(failures[0]) if failures else "it would fall back to the CPU"
        raise ConfigError(f"onnxruntime cannot start the provider {missing[0]!r} here: {reason}")
    return session


def _create_session(
    path: str, options: onnxruntime.SessionOptions, providers: Sequence[str]
) -> onnxruntime.InferenceSession:
    """Create a session; failures only raise, without log lines (also of CUDA) or retries."""
    onnxruntime.set_default_logger_severity(SILENT)
    try:
        # the model is passed as bytes; external weights are searched in this empty folder
        with tempfile.TemporaryDirectory() as empty:
            key = "session.model_external_initializers_file_folder_path"
            options.add_session_config_entry(key, empty)
            content = Path(path).read_bytes()
            return onnxruntime.InferenceSession(
                content, options, providers=list(providers), enable_fallback=0
            )
    finally:
        onnxruntime.set_default_logger_severity(WARNINGS)


def _problem(failure: str) -> str:
    if "External data" in failure or "filesystem error" in failure:  # the latter in 1.24
        return "refused, it takes weights from another file"
    if "protobuf" in failure:
        return "not an ONNX file, or a damaged one"
    return f"onnxruntime cannot load it: {printable(failure)}"
