"""``densecore serve``: OpenAI's API over HTTP."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densecore.cli.failures import say
from densecore.cli.options import add_engine_arguments, add_speculation_arguments, engine_config
from densecore.cli.parser import add_verb, wrong_usage
from densecore.exceptions import InvalidConfigError, ModelLoadError, UnsupportedFeatureError

if TYPE_CHECKING:
    from densecore.llm import DenseCore
    from densecore.server.registry import ModelEntry
    from densecore.server.settings import ServerSettings

__all__ = ["add_parser", "run"]

EXAMPLES = """\
  densecore serve
  densecore serve -m model.gguf --alias qwen --port 8000
  densecore serve -m small=a.gguf -m large=b.gguf --max-loaded-models 2
  API_KEYS=sk-one,sk-two densecore serve -m model.gguf --auth --host 0.0.0.0

then, with any client of OpenAI's API:
  curl http://127.0.0.1:8080/v1/chat/completions -H 'Content-Type: application/json' \\
       -d '{"messages": [{"role": "user", "content": "Hello!"}]}'

Every flag is an environment variable, too, with and without the prefix DENSECORE_: HOST, PORT, THREADS,
MAIN_MODEL_PATH, DRAFT_MODEL_PATH, MAX_CONCURRENCY, LOG_LEVEL, LOG_FORMAT, AUTH_ENABLED, API_KEYS, RATE_LIMIT_ENABLED,
RATE_LIMIT_RPS, RATE_LIMIT_BURST, CORS_ENABLED, CORS_ORIGINS, SHUTDOWN_TIMEOUT, REQUEST_TIMEOUT, MAX_BODY_BYTES,
MAX_LOADED_MODELS, KV_CACHE_BYTES, PREALLOCATE_KV_CACHE, TRACING_ENABLED. A flag goes before DENSECORE_PORT, and that
before PORT. SIGTERM lets requests finish.
"""
NEEDED = ("fastapi", "uvicorn", "prometheus_client")
TRACING = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
MAX_CONCURRENCY, MAX_QUEUE = 16, 256


def add_parser(verbs: Any) -> None:
    """Declare the arguments."""
    parser = add_verb(verbs, __name__, "Serve models over HTTP, to clients of OpenAI's API", EXAMPLES)
    _add_model_arguments(parser)
    _add_network_arguments(parser)
    _add_limit_arguments(parser)
    group = parser.add_argument_group("log")
    group.add_argument("--log-level", metavar="LEVEL", help="debug, info, warning or error (default info)")
    group.add_argument("--log-format", metavar="FORMAT", help="json or text (default json)")
    group.add_argument(
        "--tracing",
        dest="tracing_enabled",
        action="store_true",
        default=None,
        help="send OpenTelemetry traces to OTEL_EXPORTER_OTLP_ENDPOINT (default http://localhost:4318)",
    )
    add_engine_arguments(parser)
    add_speculation_arguments(parser)


def _add_model_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("models")
    group.add_argument(
        "-m",
        "--model",
        dest="models",
        action="append",
        metavar="[NAME=]PATH",
        help="GGUF file; may be given several times, the first is loaded at once (default: the built-in model)",
    )
    group.add_argument("--alias", metavar="NAME", help="name of the first model (default: its file's)")
    group.add_argument("--models-dir", metavar="DIR", help="offer all GGUF files of a folder, loaded when asked for")
    group.add_argument(
        "--max-loaded-models", type=int, metavar="N", help="beyond that the least recently used one goes (default 1)"
    )


def _add_network_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("network")
    group.add_argument("--host", help="address to listen on (default 127.0.0.1: this machine alone; 0.0.0.0: all)")
    group.add_argument("--port", type=int, metavar="N", help="port to listen on (default 8080; 0 takes a free one)")
    group.add_argument("--auth", dest="auth_enabled", action="store_true", default=None, help="ask for an API key")
    group.add_argument(
        "--api-key",
        dest="api_keys",
        action="append",
        metavar="KEY",
        help="a key, may be given several times; others on this machine can see flags, so better set API_KEYS",
    )
    group.add_argument(
        "--cors", dest="cors_enabled", action="store_true", default=None, help="let web pages of other origins ask"
    )
    group.add_argument(
        "--cors-origin", dest="cors_origins", action="append", metavar="ORIGIN", help="which ones (default *: all)"
    )


def _add_limit_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("limits")
    group.add_argument(
        "--max-concurrency", type=int, metavar="N", help=f"requests computed at once (default {MAX_CONCURRENCY})"
    )
    group.add_argument(
        "--max-queue", type=int, metavar="N", help=f"requests that wait; more get status 429 (default {MAX_QUEUE})"
    )
    group.add_argument(
        "--rate-limit", dest="rate_limit_enabled", action="store_true", default=None, help="limit requests of a client"
    )
    group.add_argument("--rate-limit-rps", type=float, metavar="X", help="requests a second (default 10)")
    group.add_argument("--rate-limit-burst", type=int, metavar="N", help="requests at once (default 20)")
    group.add_argument("--request-timeout", type=_seconds, metavar="TIME", help="for a request (default 600s)")
    group.add_argument("--shutdown-timeout", type=_seconds, metavar="TIME", help="after SIGTERM (default 30s)")
    group.add_argument("--max-body-bytes", type=int, metavar="N", help="size of a request (default 8388608)")
    group.add_argument(
        "--kv-cache-bytes",
        type=int,
        metavar="N",
        help="memory for the KV cache of a model, at most (default: what requests need, or half of what is free)",
    )
    group.add_argument(
        "--no-preallocate",
        dest="preallocate_kv_cache",
        action="store_const",
        const=False,
        help="take that memory as it is used, not when a model is loaded",
    )


def _seconds(text: str) -> float:
    from densecore.server.settings import seconds

    try:
        return seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def run(args: argparse.Namespace) -> int:
    """Serve until a signal; the exit status."""
    missing = [name for name in NEEDED if not _is_installed(name)]
    if missing:
        raise UnsupportedFeatureError(
            f"densecore serve needs {', '.join(missing)}: pip install 'densecore[server]' brings what is missing"
        )
    settings, rest = _settings(args)
    if settings.tracing_enabled and not all(map(_is_installed, TRACING)):
        raise UnsupportedFeatureError("tracing needs OpenTelemetry: pip install 'densecore[tracing]'")
    for name in ("threads", "draft_model"):
        if getattr(args, name) is None:
            setattr(args, name, rest.get({"draft_model": "draft_model_path"}.get(name, name)))
    config = _engine_options(args, rest)
    entries = _entries(args, rest.get("main_model_path"))

    from densecore.server.app import create_app
    from densecore.server.logs import logging_to_stderr
    from densecore.server.serving import serve

    if not settings.is_loopback and not settings.auth_enabled:
        say(f"densecore: warning: anybody who reaches {settings.host} may use this server; --auth asks for a key")
    with logging_to_stderr(settings.log_level, settings.log_format):
        return serve(create_app(settings, entries, lambda entry: _load(entry, config)), settings)


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # of a package around it
        return False


def _settings(args: argparse.Namespace) -> tuple[ServerSettings, dict[str, Any]]:
    from densecore.server.settings import ENVIRONMENT, settings_from

    flags: dict[str, Any] = {name: getattr(args, name, None) for name in ENVIRONMENT}
    flags["threads"] = None
    for name in ("api_keys", "cors_origins"):
        flags[name] = None if flags[name] is None else tuple(flags[name])
    try:
        return settings_from(flags, os.environ)
    except InvalidConfigError as error:
        wrong_usage(args, str(error))


def _engine_options(args: argparse.Namespace, rest: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `DenseCore`."""
    config = engine_config(args, rest.get("max_concurrency", MAX_CONCURRENCY))
    changes = {
        "max_num_waiting": MAX_QUEUE if args.max_queue is None else args.max_queue,
        "kv_cache_bytes": rest.get("kv_cache_bytes"),
        "preallocate_kv_cache": rest.get("preallocate_kv_cache", True),
    }
    try:
        return dataclasses.asdict(dataclasses.replace(config, **changes))
    except InvalidConfigError as error:
        wrong_usage(args, str(error))


def _entries(args: argparse.Namespace, main_path: str | None) -> list[ModelEntry]:
    """The models to offer; ModelLoadError if a file is not there, as that is better told at once."""
    from densecore.data import builtin_model_path
    from densecore.server.registry import ModelEntry

    given = args.models or ([main_path] if main_path else [])
    found = dict(_named(text) for text in given)
    if args.models_dir is not None:
        folder = Path(args.models_dir).expanduser()
        if not folder.is_dir():
            raise ModelLoadError(f"{folder}: there is no such folder")
        found = {path.stem: path for path in sorted(folder.glob("*.gguf"))} | found
        found = {name: found[name] for name in [*dict(_named(text) for text in given), *found]}
    if not found:
        path = builtin_model_path()
        found = {path.stem: path}
    for path in found.values():
        if not path.is_file():
            raise ModelLoadError(f"{path}: there is no such file")
    names = list(found)
    draft = None if args.draft_model is None else Path(args.draft_model).expanduser()
    entries = [ModelEntry(name, path) for name, path in found.items()]
    entries[0] = ModelEntry(args.alias or names[0], found[names[0]], draft)
    return entries


def _named(text: str) -> tuple[str, Path]:
    """``NAME=PATH``, or ``PATH`` whose name is the file's."""
    name, equals, path = text.partition("=")
    if not equals or "/" in name:
        name, path = "", text
    found = Path(path).expanduser()
    return name or found.stem, found


def _load(entry: ModelEntry, options: dict[str, Any]) -> DenseCore:
    """Load a model; what is being compiled is told as progress."""
    from densecore.kernels.cache import compile_progress
    from densecore.server.registry import load_model

    def tell(name: str, count: int) -> None:
        entry.progress = f"compiling kernels: {count} so far"

    with compile_progress(tell):
        return load_model(entry, options)
