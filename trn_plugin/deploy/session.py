"""Open an exported file with onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnxruntime

from trn_plugin.deploy._onnx_wire import has_external_data
from trn_plugin.errors import CheckpointError, ConfigError, first_line, printable

__all__ = ["open_session", "providers_of"]

WARNINGS, SILENT = 2, 4
"""onnxruntime's log severities: the default, and fatal errors only."""
NO_ONNX = "is no ONNX file, or a damaged one"


def providers_of(name: str | None) -> list[str] | None:
    """onnxruntime's providers for 'cpu' or 'cuda' (with CPU fallback per operator); None for None.

    Raises:
        ConfigError: another name.
    """
    cpu = "CPUExecutionProvider"
    known = {None: None, "cpu": [cpu], "cuda": ["CUDAExecutionProvider", cpu]}
    if name not in known:
        raise ConfigError(f"provider: expected cpu or cuda, found {name!r}")
    return known[name]


def _expected(path: str) -> str:
    checkpoint = str(path).endswith((".pth", ".pt"))
    hint = "; a checkpoint runs by TaskPredictor(CONFIG, checkpoint=FILE)" if checkpoint else ""
    return f"a file written by trn-plugin export{hint}"


def open_session(
    path: str, providers: Sequence[str] | None = None, threads: int | None = None
) -> onnxruntime.InferenceSession:
    """Load an ONNX file.

    Args:
        path: the file.
        providers: execution providers; default CUDA if available, then the CPU.
        threads: CPU threads; default onnxruntime's choice, one per core.

    Raises:
        CheckpointError: the file is missing, onnxruntime cannot run it, or it takes weights from
            another file.
        ConfigError: a provider is not available or cannot be started.
    """
    available = onnxruntime.get_available_providers()
    asked = providers or ()
    if providers is None:
        wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
        providers = [name for name in wanted if name in available]
    unknown = [name for name in providers if name not in available]
    if unknown:
        raise ConfigError(
            f"onnxruntime has no provider {unknown[0]!r} here; it has {', '.join(available)}"
        )
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: no such file; expected {_expected(path)}")
    _refuse_external_data(path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0
    cpu, failure = ["CPUExecutionProvider"], ""
    try:
        session = _create_session(path, options, providers)
    except Exception as error:  # onnxruntime's errors share no base class
        failure = first_line(error)
        try:
            if list(providers) == cpu:
                raise
            session = _create_session(path, options, cpu)
        except Exception as error:
            reason = str(error).split(f"{path} failed:")[-1].split("\n")[0].strip()
            problem = f"onnxruntime cannot load it: {reason}"
            if "Protobuf parsing failed" in reason:
                problem = NO_ONNX
            raise CheckpointError(f"{path}: {problem}; expected {_expected(path)}") from error
    missing = [name for name in asked if name not in session.get_providers()]
    if missing:
        raise ConfigError(
            f"onnxruntime cannot start the provider {missing[0]!r} here"
            + (f": {printable(failure)}" if failure else "; it would fall back to the CPU")
        )
    return session


def _create_session(
    path: str, options: onnxruntime.SessionOptions, providers: Sequence[str]
) -> onnxruntime.InferenceSession:
    """Create a session; failures only raise, without log lines (also of CUDA) or retries."""
    onnxruntime.set_default_logger_severity(SILENT)
    try:
        return onnxruntime.InferenceSession(
            str(path), options, providers=list(providers), enable_fallback=0
        )
    finally:
        onnxruntime.set_default_logger_severity(WARNINGS)


def _refuse_external_data(path: str) -> None:
    """Refuse external data, for which old versions of onnxruntime read any file."""
    try:
        external = has_external_data(path)
    except ValueError as error:
        raise CheckpointError(f"{path}: {NO_ONNX} ({error}); expected {_expected(path)}") from None
    if external:
        raise CheckpointError(f"{path}: refused, it takes weights from another file")
