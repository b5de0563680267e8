"""What lies in docs/deploy: every metric exists, and every setting, path, port and name fits to the others."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from densecore.cli.parser import build_parser
from densecore.server.probes import OPEN_PATHS
from densecore.server.settings import ENVIRONMENT, ServerSettings, settings_from

from .conftest import Running

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "docs" / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
MIB = 2**20
PROCESS_BYTES = 400 * MIB  # beside the model's file and the KV cache

PROMQL_WORDS = {"by", "without", "and", "or", "unless", "on", "ignoring", "offset", "bool"}
OF_PROMETHEUS = {"up"}  # which it adds itself


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def metrics_in(expression: str) -> set[str]:
    """Names of metrics in PromQL: what is no function, label, duration, number or word of the language."""
    text = re.sub(r'"[^"]*"|\'[^\']*\'', "", expression)
    text = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", text)
    text = re.sub(r"\b(by|without|on|ignoring)\s*\([^)]*\)", "", text)
    names = re.findall(r"(?<![\w.$])([a-zA-Z_:][\w:]*)\b(?!\s*\()", text)
    return set(names) - PROMQL_WORDS


def dashboard_expressions() -> Iterator[str]:
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            name, _label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["definition"]).groups()
            yield name


def rules() -> list[dict[str, Any]]:
    return [rule for group in load(DEPLOY / "alerts.yaml")["groups"] for rule in group["rules"]]


@pytest.fixture(scope="module")
def exported(builtin: Running) -> set[str]:
    """Names of all samples of a server that has answered."""
    body = {"messages": [{"role": "user", "content": "import"}], "max_tokens": 4, "ignore_eos": True}
    assert builtin.post("/v1/chat/completions", **body).status_code == 200
    families = text_string_to_metric_families(builtin.http.get("/metrics").text)
    return {sample.name for family in families for sample in family.samples}


class TestMetrics:
    def test_names_are_found_in_promql(self) -> None:
        expression = (
            'sum by (le, x) (rate(a_bucket{job=~"b"}[5m])) / c > 0.05 * histogram_quantile(0.9, d) and up == 1e3'
        )
        assert metrics_in(expression) == {"a_bucket", "c", "d", "up"}

    def test_the_dashboard_shows_what_there_is(self, exported: set[str]) -> None:
        expressions = list(dashboard_expressions())
        assert len(expressions) > 30
        used = set().union(*map(metrics_in, expressions))
        assert used - exported == set()

    def test_the_dashboard_shows_all_there_is(self, exported: set[str]) -> None:
        used = set().union(*map(metrics_in, dashboard_expressions()))
        others = ("_created", "_count", "_sum")  # of histograms, and when counters began
        assert {name for name in exported if not name.endswith(others)} == {
            name for name in used if not name.endswith(others)
        }

    def test_alerts_watch_what_there_is(self, exported: set[str]) -> None:
        names = [rule["alert"] for rule in rules()]
        assert len(names) == len(set(names)) >= 8
        for rule in rules():
            used = metrics_in(rule["expr"])
            assert used
            assert used - exported - OF_PROMETHEUS == set(), rule["alert"]
            assert set(rule["annotations"]) == {"summary", "description"}
            assert rule["labels"]["severity"] in ("warning", "critical")

    def test_every_file_names_metrics_that_there_are(self, exported: set[str]) -> None:
        """Also the autoscaler, the adapter, and what documents say about them."""
        for path in [*DEPLOY.rglob("*.*"), ROOT / "docs" / "DEPLOYMENT.md"]:
            for name in re.findall(r"\bdensecore_[a-z_]+\b", path.read_text()):
                families = {re.sub(r"_(bucket|count|sum)$", "", each) for each in exported}
                assert name in exported | families, f"{path.name}: {name}"

    def test_every_alert_is_explained(self) -> None:
        text = (ROOT / "docs" / "DEPLOYMENT.md").read_text()
        assert set(re.findall(r"`(DenseCore[A-Z]\w+)`", text)) == {rule["alert"] for rule in rules()}

    def test_panels_have_places_of_their_own(self) -> None:
        taken: set[tuple[int, int]] = set()
        panels = json.loads((DEPLOY / "grafana-dashboard.json").read_text())["panels"]
        for panel in panels:
            at = panel["gridPos"]
            cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
            assert max(x for x, _ in cells) < 24
            assert not cells & taken, panel["title"]
            taken |= cells
        assert len({panel["id"] for panel in panels}) == len(panels)


def settings_of(environment: dict[str, str]) -> tuple[ServerSettings, dict[str, Any]]:
    """What the server makes of variables; each must be known to it."""
    own = {name: value for name, value in environment.items() if name != "DENSECORE_CACHE_DIR"}
    assert {name.removeprefix("DENSECORE_").lower() for name in own} <= set(ENVIRONMENT)
    assert all(name.startswith("DENSECORE_") for name in own)
    return settings_from({}, own)


def bytes_of(quantity: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(Ki|Mi|Gi)", quantity).groups()
    return int(number) * 1024 ** (("Ki", "Mi", "Gi").index(unit) + 1)


@pytest.fixture(scope="module")
def deployment() -> dict[str, Any]:
    return load(KUBERNETES / "deployment.yaml")


@pytest.fixture(scope="module")
def pod(deployment: dict[str, Any]) -> dict[str, Any]:
    return deployment["spec"]["template"]["spec"]


@pytest.fixture(scope="module")
def container(pod: dict[str, Any]) -> dict[str, Any]:
    (found,) = pod["containers"]
    return found


@pytest.fixture(scope="module")
def environment(container: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each.get("value", "from-a-secret") for each in container["env"]}


class TestKubernetes:
    def test_the_server_takes_its_settings(self, container, environment) -> None:
        settings, rest = settings_of(environment)
        assert build_parser().parse_args(container["args"]).verb == "serve"
        assert settings.port == container["ports"][0]["containerPort"]
        assert settings.auth_enabled
        assert not settings.is_loopback
        assert rest["main_model_path"].startswith("/models/")

    def test_a_service_of_this_name_sets_no_port(self, pod) -> None:
        """Kubernetes' variables of services would be taken for settings."""
        assert load(KUBERNETES / "service.yaml")["metadata"]["name"] == "densecore"
        assert pod["enableServiceLinks"] is False

    @pytest.mark.parametrize("kind", ["startup", "readiness", "liveness"])
    def test_probes_ask_routes_that_there_are(self, builtin, container, kind) -> None:
        probe = container[f"{kind}Probe"]
        path = probe["httpGet"]["path"]
        assert path in OPEN_PATHS  # as probes have no key
        assert builtin.http.get(path).status_code == 200
        assert probe["httpGet"]["port"] == container["ports"][0]["name"]

    def test_there_is_time_to_drain(self, pod, container, environment) -> None:
        pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
        assert pod["terminationGracePeriodSeconds"] > pause + settings_of(environment)[0].shutdown_timeout

    def test_memory_is_enough_for_cache_process_and_a_file(self, container, environment) -> None:
        limit = bytes_of(container["resources"]["limits"]["memory"])
        assert limit - settings_of(environment)[1]["kv_cache_bytes"] - PROCESS_BYTES > 2**30
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert container["resources"]["limits"]["cpu"].isdigit()

    def test_nothing_runs_as_root(self, pod) -> None:
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] == 10001
        for each in [*pod["containers"], *pod["initContainers"]]:
            assert each["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert not each["securityContext"]["allowPrivilegeEscalation"]
            writable = {mount["mountPath"] for mount in each["volumeMounts"] if not mount.get("readOnly")}
            assert writable == {"/cache", "/tmp"}

    def test_warmup_compiles_for_the_server(self, pod, environment) -> None:
        (warmup,) = pod["initContainers"]
        variables = {each["name"]: each["value"] for each in warmup["env"]}
        assert variables.items() <= environment.items()
        (line,) = [line for line in warmup["args"][0].splitlines() if "densecore warmup" in line]
        arguments = line.removeprefix("exec densecore ").replace('"', "").split()
        assert build_parser().parse_args(arguments).verb == "warmup"

    def test_all_mean_the_same_pods(self, deployment) -> None:
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert deployment["spec"]["selector"]["matchLabels"] == labels
        assert load(KUBERNETES / "service.yaml")["spec"]["selector"] == labels
        assert load(KUBERNETES / "pdb.yaml")["spec"]["selector"]["matchLabels"] == labels
        target = load(KUBERNETES / "hpa.yaml")["spec"]["scaleTargetRef"]
        assert (target["kind"], target["name"]) == (deployment["kind"], deployment["metadata"]["name"])

    def test_the_autoscaler_follows_the_queue(self) -> None:
        (metric,) = load(KUBERNETES / "hpa.yaml")["spec"]["metrics"]
        (rule,) = load(KUBERNETES / "prometheus-adapter.yaml")["rules"]["custom"]
        assert metric["pods"]["metric"]["name"] == rule["name"]["as"] == "densecore_requests_pending"

    def test_kustomization_lists_all(self) -> None:
        listed = load(KUBERNETES / "kustomization.yaml")["resources"]
        there = {path.name for path in KUBERNETES.glob("*.yaml")}
        assert set(listed) == there - {"kustomization.yaml", "prometheus-adapter.yaml"}
        assert all({"apiVersion", "kind", "metadata", "spec"} <= load(KUBERNETES / name).keys() for name in listed)


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """With the values that are given where nothing is set."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (DEPLOY / "compose.yaml").read_text())
    return yaml.safe_load(re.sub(r"\$\{(\w+)(:\?[^}]*)?\}", r"\1", text))["services"]


class TestCompose:
    def test_the_server_takes_its_settings(self, services) -> None:
        server = services["densecore"]
        environment = {name: str(value) for name, value in server["environment"].items()}
        settings, rest = settings_of(environment)
        assert rest["kv_cache_bytes"] == 2 * 2**30
        assert float(server["stop_grace_period"].removesuffix("s")) > settings.shutdown_timeout

    def test_only_this_machine_reaches_it(self, services) -> None:
        ports = [port for service in services.values() for port in service["ports"]]
        assert ports == ["127.0.0.1:8080:8080", "127.0.0.1:9090:9090", "127.0.0.1:3000:3000"]

    def test_files_that_are_mounted_are_there(self, services) -> None:
        for name in ("prometheus", "grafana"):
            for volume in services[name]["volumes"]:
                source = volume.split(":")[0]
                assert source == "/dev/null" or (DEPLOY / source).is_file()

    def test_prometheus_asks_the_server(self, services) -> None:
        prometheus = load(DEPLOY / "prometheus.yml")
        (job,) = prometheus["scrape_configs"]
        assert job["job_name"] == "densecore"  # which alerts name
        assert job["static_configs"] == [{"targets": ["densecore:8080"]}]
        mounted = {volume.split(":")[1] for volume in services["prometheus"]["volumes"]}
        assert job["authorization"]["credentials_file"] in mounted
        assert {f"/etc/prometheus/{name}" for name in prometheus["rule_files"]} <= mounted


@pytest.fixture(scope="module")
def lines() -> list[str]:
    text = re.sub(r"\\\n\s*", " ", (DEPLOY / "Dockerfile").read_text())
    return [line for line in text.splitlines() if line and not line.startswith("#")]


class TestDockerfile:
    def test_what_is_copied_is_there_and_let_through(self, lines) -> None:
        copied = [line.split()[1:-1] for line in lines if line.startswith("COPY") and "--from" not in line]
        ignore = (DEPLOY / "Dockerfile.dockerignore").read_text().split()
        for source in {source for sources in copied for source in sources}:
            assert (ROOT / source).exists()
            assert f"!{source}" in ignore

    def test_all_that_the_package_needs_is_copied(self, lines) -> None:
        import tomllib

        project = tomllib.loads((ROOT / "pyproject.toml").read_text())
        copied = " ".join(line for line in lines if line.startswith("COPY")).split()
        needed = {project["project"]["readme"], *project["project"]["license-files"], "pyproject.toml"}
        needed |= {"densecore", *project["tool"]["setuptools"]["package-dir"].values()}
        assert needed <= set(copied)

    def test_the_server_is_not_root_and_takes_its_settings(self, lines) -> None:
        user = next(i for i, line in enumerate(lines) if line.startswith("USER"))
        warmup = next(i for i, line in enumerate(lines) if "densecore warmup" in line)
        assert lines[user] == "USER 10001:10001"
        assert warmup > user  # so that what it compiles belongs to the user that serves
        (line,) = [line for line in lines if line.startswith("ENV")]
        variables = dict(word.split("=", 1) for word in line.split()[1:])
        settings, _ = settings_of({k: v for k, v in variables.items() if k.startswith("DENSECORE_")})
        assert f"EXPOSE {settings.port}" in lines
        assert build_parser().parse_args(json.loads(lines[-1].removeprefix("CMD "))).verb == "serve"
