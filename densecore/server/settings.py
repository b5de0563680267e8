"""Settings of the server: flags of ``densecore serve`` and environment variables become one checked object."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from densecore.checks import flag, integer, number
from densecore.exceptions import InvalidConfigError

__all__ = ["ENVIRONMENT", "LOG_FORMATS", "LOG_LEVELS", "ServerSettings", "seconds", "settings_from"]

PREFIX = "DENSECORE_"
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("json", "text")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
MAX_BODY = 2**30


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """How the server is reached, and what it allows.

    Parameters
    ----------
    host, port : where it listens; port 0 takes a free one. On a loopback address foreign ``Host`` headers are refused.
    auth_enabled, api_keys : every route but probes and ``/`` asks for one of the keys.
    rate_limit_enabled, rate_limit_rps, rate_limit_burst : a token bucket for each key, or each address without keys:
        so many requests a second, and so many at once.
    cors_enabled, cors_origins : which web pages may ask; ``*`` is all.
    shutdown_timeout : seconds that requests have to end after SIGTERM.
    request_timeout : seconds until a request is given up.
    max_body_bytes : largest body of a request.
    max_header_bytes : largest head of a request.
    receive_timeout : seconds that a client has to send a request's head, and again its body.
    send_timeout : seconds that a client may leave what it gets unread; a long answer is not cut by it.
    ping_seconds : a comment is sent when a stream has had nothing to say for so long.
    max_loaded_models : beyond that the model that was not used for longest is unloaded.
    log_level, log_format : lines of JSON, or text.
    tracing_enabled : send OpenTelemetry traces, see `densecore.server.tracing`.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    auth_enabled: bool = False
    api_keys: tuple[str, ...] = ()
    rate_limit_enabled: bool = False
    rate_limit_rps: float = 10.0
    rate_limit_burst: int = 20
    cors_enabled: bool = False
    cors_origins: tuple[str, ...] = ("*",)
    shutdown_timeout: float = 30.0
    request_timeout: float = 600.0
    max_body_bytes: int = 8 * 2**20
    max_header_bytes: int = 2**16
    receive_timeout: float = 30.0
    send_timeout: float = 60.0
    ping_seconds: float = 15.0
    max_loaded_models: int = 1
    log_level: str = "info"
    log_format: str = "json"
    tracing_enabled: bool = False

    def __post_init__(self) -> None:
        integer("port", self.port, 0, 65535)
        for name in ("auth_enabled", "rate_limit_enabled", "cors_enabled", "tracing_enabled"):
            flag(name, getattr(self, name))
        number("rate_limit_rps", self.rate_limit_rps, 0, 1e6, open_below=True)
        integer("rate_limit_burst", self.rate_limit_burst, 1)
        for name in ("shutdown_timeout", "request_timeout", "receive_timeout", "send_timeout", "ping_seconds"):
            number(name, getattr(self, name), 0, 1e6, open_below=True)
        integer("max_body_bytes", self.max_body_bytes, 1024, MAX_BODY)
        integer("max_header_bytes", self.max_header_bytes, 1024, 2**20)
        integer("max_loaded_models", self.max_loaded_models, 1, 64)
        _one_of("log_level", self.log_level, LOG_LEVELS)
        _one_of("log_format", self.log_format, LOG_FORMATS)
        self._check_keys()

    def _check_keys(self) -> None:
        if self.auth_enabled and not self.api_keys:
            raise InvalidConfigError(
                "auth_enabled is on, and there is no key: set API_KEYS, or --api-key; there is no default key"
            )
        for number_, key in enumerate(self.api_keys, 1):
            if not (key.isascii() and key.isprintable() and not re.search(r"\s", key) and key):
                raise InvalidConfigError(f"API key {number_} must be printable ASCII without spaces")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return self.host in LOOPBACK


def seconds(text: str) -> float:
    """A duration such as ``30``, ``30s``, ``500ms`` or ``2m``."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h)?", text.strip())
    if not found:
        raise ValueError(f"{text!r} is not a duration such as 30s, 500ms or 2m")
    return float(found[1]) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[found[2] or "s"]


def _switch(text: str) -> bool:
    value = text.strip().lower()
    if value not in ("true", "1", "yes", "on", "false", "0", "no", "off"):
        raise ValueError(f"{text!r} is not true or false")
    return value in ("true", "1", "yes", "on")


def _list(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.split(",") if item.strip())


def _lower(text: str) -> str:
    return text.strip().lower()


# Field -> how its variable is read; the variable has the field's name in capitals.
ENVIRONMENT: dict[str, Callable[[str], Any]] = {
    "host": str.strip,
    "port": int,
    "auth_enabled": _switch,
    "api_keys": _list,
    "rate_limit_enabled": _switch,
    "rate_limit_rps": float,
    "rate_limit_burst": int,
    "cors_enabled": _switch,
    "cors_origins": _list,
    "shutdown_timeout": seconds,
    "request_timeout": seconds,
    "max_body_bytes": int,
    "max_loaded_models": int,
    "log_level": _lower,
    "log_format": _lower,
    "tracing_enabled": _switch,
    # These are arguments of the model, not fields of ServerSettings.
    "threads": int,
    "main_model_path": str,
    "draft_model_path": str,
    "max_concurrency": int,
    "kv_cache_bytes": int,
    "preallocate_kv_cache": _switch,
}


def settings_from(flags: Mapping[str, Any], environment: Mapping[str, str]) -> tuple[ServerSettings, dict[str, Any]]:
    """Flags that are not None, else variables with the prefix ``DENSECORE_``, else those without, else defaults.

    Returns the settings, and the values that are the model's: ``threads``, ``main_model_path``, ...

    Raises
    ------
    InvalidConfigError
        A value cannot be read or is out of range; a variable is named.
    """
    values: dict[str, Any] = {}
    for field_name, read in ENVIRONMENT.items():
        for name in (PREFIX + field_name.upper(), field_name.upper()):
            text = environment.get(name, "")
            if text.strip():
                values[field_name] = _read(name, text, read)
                break
    values |= {name: value for name, value in flags.items() if value is not None}
    own = {field.name for field in fields(ServerSettings)}
    settings = ServerSettings(**{name: value for name, value in values.items() if name in own})
    return settings, {name: value for name, value in values.items() if name not in own}


def _read(name: str, text: str, read: Callable[[str], Any]) -> Any:
    try:
        return read(text)
    except ValueError as error:
        reason = str(error) if "is not" in str(error) else f"{text!r} is not a number"
        raise InvalidConfigError(f"the environment variable {name}: {reason}") from None


def _one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InvalidConfigError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")
