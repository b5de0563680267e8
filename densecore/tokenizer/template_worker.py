"""The process that renders chat templates: what `template_process` starts, run as a script.

Templates come with models and are not trusted. Jinja's sandbox keeps them from reaching files and Python's insides, but
not from computing for ever or filling the memory. This process may do both without harm: it holds nothing of
value, has a limit of memory from the system, and each rendering runs against a limit of processor time that ends the
process. It imports jinja2 and the standard library alone.

Protocol: one JSON value a line. The first line in is ``{"path": [...]}``, for imports, answered by ``{"ready": true}``.
Each further line is ``{"source": ..., "variables": {...}}``, answered by ``{"text": ...}`` or by
``{"problem": "syntax" | "refused" | "failed", "message": ...}``.
"""

from __future__ import annotations

import json
import sys
from typing import Any

MEMORY_LIMIT = 512 << 20  # bytes of address space
CPU_SECONDS = 1.0  # for one rendering, compilation included; typical is a thousandth
MAX_OUTPUT = 16 << 20  # characters
MAX_MESSAGE = 1000  # characters of an error that is passed on
MAX_COMPILED = 8  # templates kept, which is more than a process usually has


def make_environment() -> Any:
    """Jinja as chat templates expect it: the conventions of the transformers library."""
    from datetime import datetime

    from jinja2 import nodes
    from jinja2.exceptions import TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Refusal(TemplateError):
        """Raised by the template itself."""

    class Generation(Extension):
        """``{% generation %}`` marks the assistant's words for training; here it only scopes variables."""

        tags = {"generation"}  # noqa: RUF012  # Jinja reads it from the class

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    def raise_exception(message: object) -> None:
        raise Refusal(str(message))

    def tojson(
        value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda format: datetime.now().strftime(format)
    return environment


def answer(environment: Any, compiled: dict[str, Any], line: str) -> dict[str, str]:
    """The answer to one request. Everything that can go wrong in a template is an answer too."""
    from jinja2.exceptions import TemplateSyntaxError

    try:
        request = json.loads(line)
        template = compile_template(environment, compiled, request["source"])
        return {"text": render(template, request["variables"])}
    except TemplateSyntaxError as error:  # also for unknown filters and tests
        return {"problem": "syntax", "message": f"line {error.lineno}: {error.message}"[:MAX_MESSAGE]}
    except MemoryError:
        return {"problem": "failed", "message": "it needs too much memory"}
    except Exception as error:
        refused = type(error).__name__ == "Refusal"
        message = str(error) if refused else f"{type(error).__name__}: {error}"
        return {"problem": "refused" if refused else "failed", "message": message[:MAX_MESSAGE]}


def compile_template(environment: Any, compiled: dict[str, Any], source: str) -> Any:
    """The compiled template, from `compiled` if it is there."""
    if source not in compiled:
        template = environment.from_string(source)
        while len(compiled) >= MAX_COMPILED:
            del compiled[next(iter(compiled))]
        compiled[source] = template
    return compiled[source]


def render(template: Any, variables: dict[str, Any]) -> str:
    """The text of `template`, unless it is too long."""
    pieces, length = [], 0
    for piece in template.generate(variables):
        pieces.append(piece)
        length += len(piece)
        if length > MAX_OUTPUT:
            raise MemoryError
    return "".join(pieces)


def limit_memory() -> None:
    """Let the system refuse memory beyond the limit, and any write to a file."""
    try:
        import resource
    except ImportError:  # Windows
        return
    for kind, limit in ((resource.RLIMIT_AS, MEMORY_LIMIT), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(kind)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (limit, hard))


def limit_cpu(seconds: float) -> None:
    """Let the system end this process after `seconds` of processor time, whatever it is doing; 0 for no limit."""
    import signal

    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)  # SIGPROF is not handled, which ends the process


def send(value: dict[str, Any]) -> None:
    """One line out."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Serve until the input ends."""
    sys.path[:] = json.loads(sys.stdin.readline())["path"]
    try:
        environment = make_environment()
    except Exception as error:
        send({"problem": "failed", "message": f"{type(error).__name__}: {error}"})
        return
    limit_memory()
    send({"ready": True})
    compiled: dict[str, Any] = {}
    for line in sys.stdin:
        limit_cpu(CPU_SECONDS)
        reply = answer(environment, compiled, line)
        limit_cpu(0)
        send(reply)


if __name__ == "__main__":
    main()
