"""onnxruntime sessions: providers that were asked for or an error, memory modes, feeds cast to the graph's types."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime as ort

from qsched_runtime.devices import DEVICES
from qsched_runtime.errors import BundleError, ProviderError, QSchedError
from qsched_runtime.inspection import LARGEST_GRAPH
from qsched_runtime.unpacking import FAST_FROM, unpacked_fast

Feeds = dict[str, np.ndarray]
DTYPES = {"float": np.float32, "float16": np.float16, "int64": np.int64, "int32": np.int32}


def providers_of(device: str) -> tuple[str, ...]:
    """onnxruntime's provider of a device; ProviderError for a name that is none."""
    if device not in DEVICES:
        raise ProviderError(f"device {device!r} is unknown: use one of {', '.join(DEVICES)}")
    return (DEVICES[device],)


def check_providers(providers: Sequence[str]) -> None:
    """Raise ProviderError for a provider this onnxruntime does not have: nothing falls back in silence."""
    known = ort.get_available_providers()
    for provider in providers:
        if provider not in known:
            raise ProviderError(f"{provider} is not in this onnxruntime (it has {', '.join(known)}): install its build")


@contextmanager
def as_bundle_error(what: str) -> Iterator[None]:
    """Around what libraries do with a bundle's content: whatever they raise becomes a BundleError of one line."""
    try:
        yield
    except (QSchedError, MemoryError):
        raise
    except Exception as error:  # onnxruntime's exception classes share no public base
        raise BundleError(f"{what} ({type(error).__name__}: {error}): make the bundle again") from error


def session_options(memory: str, threads: int | None) -> ort.SessionOptions:
    """`memory` "low" keeps 4-bit convolutions packed and gives back what each operator took, "fast" unpacks at load."""
    options = ort.SessionOptions()
    options.log_severity_level = 4  # what fails is an exception; a stranger's text stays off the terminal
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the sessions take turns: waiting threads
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")  # that spin slow those at work
    options.enable_cpu_mem_arena = options.enable_mem_pattern = memory == "fast"
    if memory == "fast":
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def version_of(library: str) -> tuple[int, ...]:
    """Major and minor number of a version such as 1.31.1."""
    return tuple(int(part) for part in library.split(".")[:2])


def source_of(
    path: Path, data: bytes | None, providers: Sequence[str], memory: str, options: ort.SessionOptions
) -> Path | bytes:
    """What onnxruntime is given: the file, or its bytes with operators that are faster on the processor."""
    plain = memory == "fast" or list(providers) != ["CPUExecutionProvider"] or version_of(ort.__version__) < FAST_FROM
    if data is None and (plain or path.stat().st_size > LARGEST_GRAPH):
        return path
    given = path.read_bytes() if data is None else data
    found = given if plain else unpacked_fast(given)
    if data is None and found is given:
        return path
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    return found


class Graph:
    """One loaded ONNX graph: `graph({name: array}) -> {name: array}`.

    `data` are the graph's bytes where they have been read already; its weights are looked for beside `path`.
    """

    def __init__(
        self, path: Path, providers: Sequence[str], memory: str = "low", threads: int | None = None,
        data: bytes | None = None,
    ) -> None:  # fmt: skip
        if memory not in ("low", "fast"):
            raise ProviderError(f"memory mode {memory!r} is unknown: use 'low' or 'fast'")
        check_providers(providers)
        with as_bundle_error(f"onnxruntime cannot load {path}"):
            options = session_options(memory, threads)
            source = source_of(path, data, providers, memory, options)
            self.session = ort.InferenceSession(source, options, providers=list(providers))
        for provider in set(providers) - set(self.session.get_providers()):
            raise ProviderError(f"{provider} could not start: onnxruntime's log says which library it lacks")
        with as_bundle_error(f"{path} has an input of a type that this runtime does not feed"):
            self.inputs = {i.name: DTYPES[i.type[7:-1]] for i in self.session.get_inputs()}
        self.outputs = [o.name for o in self.session.get_outputs()]

    def __call__(self, feeds: Feeds) -> Feeds:
        cast = {name: np.ascontiguousarray(feeds[name], dtype) for name, dtype in self.inputs.items()}
        return dict(zip(self.outputs, self.session.run(self.outputs, cast), strict=True))
