"""The server on several machines, as an application of Ray Serve: one model, many replicas behind Ray's proxies.

    pip install 'densecore[server]' 'ray[serve]'          on every machine, with the model's file at the same path
    MAIN_MODEL_PATH=/models/model.gguf serve run ray_serve:app replicas=4 cpus=8

Settings are the environment variables of docs/SERVER.md, as the replicas see them. Who may connect is Ray's matter
(``http_options``); keys, limits and routes are the server's own.
"""

from __future__ import annotations

import os
from pathlib import Path

from fastapi import FastAPI
from ray import serve
from ray.serve import Application

from densecore.data import builtin_model_path
from densecore.llm import DenseCore
from densecore.server.app import create_app
from densecore.server.registry import ModelEntry, load_model
from densecore.server.settings import settings_from

MAX_CONCURRENCY = 16
ENGINE_NAMES = {"threads": "threads", "max_concurrency": "max_num_seqs", "kv_cache_bytes": "kv_cache_bytes"}


def build() -> FastAPI:
    """The server's application with its model, made in the replica. Ray sends requests once this has returned."""
    settings, rest = settings_from({"host": "0.0.0.0"}, os.environ)
    path = Path(rest.get("main_model_path") or builtin_model_path())
    options = {"max_num_seqs": MAX_CONCURRENCY} | {
        ENGINE_NAMES[name]: rest[name] for name in ENGINE_NAMES if name in rest
    }
    entry = ModelEntry(path.stem, path)
    loaded = [load_model(entry, options)]

    def load(entry: ModelEntry) -> DenseCore:
        return loaded.pop() if loaded else load_model(entry, options)

    return create_app(settings, [entry], load)


def app(args: dict[str, str]) -> Application:
    """`replicas` of the server, each on `cpus` CPUs of one machine (default 1 and 1)."""
    deployment = serve.deployment(
        serve.ingress(build)(),
        name="densecore",
        num_replicas=int(args.get("replicas", 1)),
        ray_actor_options={"num_cpus": int(args.get("cpus", 1))},
        max_ongoing_requests=4
        * MAX_CONCURRENCY,  # beyond that requests wait in Ray, for whichever replica is free first
        graceful_shutdown_timeout_s=60,
    )
    return deployment.bind()
