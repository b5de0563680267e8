"""``densecore env``: the machine as DenseCore sees it, and where threads and memory would go."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

from densecore.cli.options import add_placement_arguments, engine_config
from densecore.cli.output import readable_size
from densecore.cli.parser import add_verb

__all__ = ["add_parser", "run"]

EXAMPLES = """\
  densecore env
  densecore env --threads 8 --pinning compact    what these settings would do
  densecore env --numa-node 1
  densecore env --json | jq .threads.workers
"""
# What a reader looks for among some hundred features.
NOTABLE = (
    "sse4.2", "avx", "avx2", "fma", "f16c", "avxvnni", "avx512f", "avx512bw", "avx512vnni", "avx512bf16", "amx-int8",
    "neon", "dotprod", "i8mm", "bf16", "sve", "sve2",
)  # fmt: skip

Lines = Iterator[tuple[str, object]]


def add_parser(verbs: Any) -> None:
    """Declare the arguments."""
    parser = add_verb(verbs, __name__, "Show the machine as DenseCore sees it, and where its threads run", EXAMPLES)
    parser.add_argument("--json", action="store_true", help="everything, for programs; sizes in bytes")
    group = parser.add_argument_group("machine")
    group.add_argument("-t", "--threads", type=int, metavar="N", help="as for run: show what this would do")
    add_placement_arguments(group)


def run(args: argparse.Namespace) -> int:
    """Print the report; the exit status."""
    config = engine_config(args)
    from densecore.cli.machine_facts import gather

    facts = gather(config)
    if args.json:
        print(json.dumps(facts, indent=2))
    else:
        print("\n".join(as_text(facts)))
    return 0


def as_text(facts: dict[str, Any]) -> Iterator[str]:
    """The lines of the report."""
    sections = {
        "cpu": _cpu(facts["cpu"]),
        "topology": _topology(facts["topology"]),
        "limits": _limits(facts["limits"]),
        "threads": _threads(facts["threads"]),
        "memory": _memory(facts["memory"], facts["threads"]),
        "compiled kernels": _compile_cache(facts["compile_cache"]),
        "versions": iter(facts["versions"].items()),
    }
    for title, lines in sections.items():
        yield title
        for name, value in lines:
            yield f"  {name:<16}  {value}"


def _cpu(cpu: dict[str, Any]) -> Lines:
    yield "name", cpu["name"]
    yield "compiled for", f"{cpu['architecture']}, {cpu['compiled_for']}"
    yield "instruction set", cpu["instruction_set"]
    yield "features", " ".join(name for name in NOTABLE if name in cpu["features"]) or "none of note"


def _topology(topology: dict[str, Any]) -> Lines:
    slow, threads = topology["efficiency_cores"], topology["cpus"]
    yield "sockets", topology["sockets"]
    yield "cores", f"{topology['cores']}{f', {slow} of them efficiency cores' if slow else ''}"
    yield "CPUs", f"{threads}{' (SMT: cores have several)' if topology['has_smt'] else ''}"
    for node in topology["nodes"]:
        memory = f", {readable_size(node['memory_bytes'])}" if node["memory_bytes"] else ""
        yield f"NUMA node {node['id']}", f"CPUs {_ranges(node['cpus'])}{memory}"
    for cache in topology["caches"]:
        kind = {"data": "d", "instruction": "i"}.get(cache["kind"], "")
        yield f"cache L{cache['level']}{kind}", f"{cache['count']} x {readable_size(cache['num_bytes'])}"


def _limits(limits: dict[str, Any]) -> Lines:
    quota = limits["cgroup_quota"]
    yield "affinity mask", f"CPUs {_ranges(limits['affinity'])}"
    yield "cgroup quota", "none" if quota is None else f"{quota:g} CPUs"


def _threads(threads: dict[str, Any]) -> Lines:
    yield "threading layer", threads["layer"]
    yield "default", threads["default"]
    yield "effective", f"{threads['effective']} (Numba's pool has {threads['pool_size']})"
    for problem in threads["problems"]:
        yield "but", problem
    yield "pinning", threads["pinning"]
    for worker in threads["workers"]:
        yield f"worker {worker['worker']}", f"CPU {worker['cpu']} (core {worker['core']}, node {worker['node']})"
    if threads["not_pinned_because"]:
        where = "any CPU" if threads["worker_cpus"] is None else f"CPUs {_ranges(threads['worker_cpus'])}"
        yield "all workers", f"{where}: {threads['not_pinned_because']}"


def _memory(memory: dict[str, Any], threads: dict[str, Any]) -> Lines:
    nodes = threads["memory_nodes"]
    yield "size", readable_size(memory["total_bytes"]) if memory["total_bytes"] else "unknown"
    where = f"in turn from NUMA nodes {_ranges(nodes)}" if len(nodes) > 1 else f"from NUMA node {_ranges(nodes)}"
    yield "placed", where if nodes else "by first touch"
    pages = memory["transparent_hugepages"]
    yield "huge pages", ", ".join(f"{name} {value}" for name, value in pages.items()) if pages else "unknown"


def _compile_cache(cache: dict[str, Any]) -> Lines:
    yield "directory", cache["directory"] or "none: nothing is kept"
    if cache["directory"]:
        yield "kernels", f"{cache['kernels']}, {readable_size(cache['bytes'])}"
        yield "all versions", readable_size(cache["bytes_of_all_versions"])


def _ranges(numbers: list[int]) -> str:
    """``0-3,8`` for ascending 0, 1, 2, 3, 8."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ",".join("-".join(map(str, part)) for part in parts)
