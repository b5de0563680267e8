"""Keys, rates, origins, hosts, ids, and the queue."""

from __future__ import annotations

import threading

import httpx
import openai
import pytest
from starlette.routing import Route

from densecore.exceptions import InvalidConfigError
from densecore.server.probes import OPEN_PATHS
from densecore.server.rate_limit import RateLimiter
from densecore.server.settings import ServerSettings, seconds, settings_from

from .conftest import Running, running

LONG = {"messages": [{"role": "user", "content": "ab"}], "max_tokens": 200, "logit_bias": {"2": -100}}


@pytest.fixture(scope="module")
def guarded(tiny_path):
    """A server that asks for a key."""
    with running({"tiny": tiny_path}, auth_enabled=True, api_keys=("sk-one", "sk-two")) as server:
        yield server


def routes(server: Running) -> list[tuple[str, str]]:
    app = server.server.config.app
    found = [(method, route.path) for route in all_routes(app.routes) for method in sorted(route.methods)]
    paths = {path for _, path in found}
    documented = set(app.openapi()["paths"])
    assert {path.replace("{name:path}", "{name}") for path in paths} == documented | {"/docs", "/openapi.json"}
    found += [("GET", "/nowhere"), ("POST", "/v1/nowhere"), ("GET", "/health/"), ("GET", "/health/x")]
    return [(method, path.replace("{name:path}", "tiny")) for method, path in found]


def all_routes(routes) -> list[Route]:
    """Every route of an application, those of the routers that it includes, too."""
    found = []
    for route in routes:
        inner = getattr(getattr(route, "original_router", None), "routes", None)
        found += [route] if inner is None else all_routes(inner)
    return found


class TestKeys:
    @pytest.mark.parametrize("key", [None, "sk-wrong", "sk-öne", "sk-one\xff"], ids=["none", "wrong", "ö", "byte"])
    def test_every_route_but_probes_asks(self, guarded, key):
        assert OPEN_PATHS == ("/", "/health", "/health/live", "/health/ready", "/health/startup")
        assert len(routes(guarded)) > 20
        headers = [] if key is None else [(b"authorization", b"Bearer " + key.encode("latin-1"))]
        for method, path in routes(guarded):
            status = guarded.http.request(method, path, headers=headers).status_code
            assert (status == 401) == (path not in OPEN_PATHS), (method, path, status)

    @pytest.mark.parametrize(
        "header",
        ["", "Bearer", "Bearer sk-wrong", "Basic sk-one", "sk-one", "Bearer sk-on", "Bearer sk-öne"],
    )
    def test_wrong_keys(self, guarded, header):
        answer = guarded.http.get("/v1/models", headers=[(b"authorization", header.encode("latin-1"))])
        assert answer.status_code == 401
        assert answer.json()["error"]["type"] == "authentication_error"

    def test_right_keys(self, guarded):
        for key in ("sk-one", "sk-two"):
            assert guarded.openai(api_key=key).models.list().data[0].id == "tiny"
        with pytest.raises(openai.AuthenticationError):
            guarded.openai(api_key="sk-three").models.list()

    def test_no_key_no_start(self):
        with pytest.raises(InvalidConfigError, match="there is no key"):
            ServerSettings(auth_enabled=True)
        with pytest.raises(InvalidConfigError, match="printable ASCII"):
            ServerSettings(auth_enabled=True, api_keys=("sk-ö",))


class TestRate:
    def test_bucket(self):
        now = [0.0]
        limiter = RateLimiter(2.0, 3, lambda: now[0])
        assert [limiter.take("a") for _ in range(4)] == [0, 0, 0, 0.5]
        assert limiter.take("b") == 0
        now[0] = 0.5
        assert [limiter.take("a"), limiter.take("a")] == [0, 0.5]
        now[0] = 100.0
        assert [limiter.take("a") for _ in range(4)] == [0, 0, 0, 0.5]

    def test_429_with_retry_after_and_clients_that_try_again(self, tiny_path):
        limits = {"rate_limit_enabled": True, "rate_limit_rps": 0.4, "rate_limit_burst": 2}
        with running({"tiny": tiny_path}, **limits) as server:
            impatient, patient = server.openai().models, server.openai(max_retries=2).models
            statuses = [server.http.get("/v1/models") for _ in range(3)]
            assert [answer.status_code for answer in statuses] == [200, 200, 429]
            assert int(statuses[-1].headers["retry-after"]) >= 1
            assert statuses[-1].json()["error"]["type"] == "rate_limit_error"
            assert all(server.http.get("/health/live").status_code == 200 for _ in range(10))
            with pytest.raises(openai.RateLimitError):
                impatient.list()
            assert patient.list().data

    def test_keys_have_buckets_of_their_own(self, tiny_path):
        limits = {"rate_limit_enabled": True, "rate_limit_rps": 0.01, "rate_limit_burst": 1}
        with running({"tiny": tiny_path}, auth_enabled=True, api_keys=("sk-one", "sk-two"), **limits) as server:
            for key in ("sk-one", "sk-two"):
                headers = {"Authorization": f"Bearer {key}"}
                found = [server.http.get("/v1/models", headers=headers).status_code for _ in range(2)]
                assert found == [200, 429]


class TestOrigins:
    def test_off_by_default(self, guarded):
        assert (
            "access-control-allow-origin" not in guarded.http.get("/health", headers={"Origin": "http://a.b"}).headers
        )

    def test_preflight_and_answer(self, tiny_path):
        allowed = "https://page.example"
        with running(
            {"tiny": tiny_path}, cors_enabled=True, cors_origins=(allowed,), auth_enabled=True, api_keys=("sk-one",)
        ) as server:
            asks = {"Origin": allowed, "Access-Control-Request-Method": "POST"}
            asks |= {"Access-Control-Request-Headers": "authorization"}
            preflight = server.http.options("/v1/chat/completions", headers=asks)
            assert preflight.status_code == 200
            assert preflight.headers["access-control-allow-origin"] == allowed
            other = server.http.options("/v1/chat/completions", headers=asks | {"Origin": "https://evil.example"})
            assert "access-control-allow-origin" not in other.headers
            headers = {"Origin": allowed, "Authorization": "Bearer sk-one"}
            for given, status in ((headers, 200), ({"Origin": allowed}, 401)):  # pages can read errors, too
                answer = server.http.get("/v1/models", headers=given)
                assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, allowed)

    def test_other_pages_cannot_keep_it_busy(self, tiny_path):
        with running({"tiny": tiny_path}) as server:

            def status(origin: str) -> int:
                headers = {"Origin": origin, "Content-Type": "text/plain"}
                return server.http.post("/tokenize", content=b'{"prompt": "ab"}', headers=headers).status_code

            assert [status("https://evil.example"), status("null"), status("http://127.0.0.1:1")] == [403] * 3
            assert status(server.url) == 200


class TestHosts:
    @pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "", "[::2]:80"])
    def test_foreign_names_are_refused(self, guarded, host):
        answer = guarded.http.get("/health", headers={"Host": host})
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "foreign_host"

    @pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1234", "127.0.0.1", "[::1]:8080"])
    def test_own_names(self, guarded, host):
        assert guarded.http.get("/health", headers={"Host": host}).status_code == 200


class TestIds:
    def test_given_and_made(self, guarded):
        assert guarded.http.get("/health", headers={"X-Request-ID": "mine-1"}).headers["x-request-id"] == "mine-1"
        made = guarded.http.get("/health").headers["x-request-id"]
        assert len(made) == 32
        assert guarded.http.get("/health", headers={"X-Request-ID": "x" * 500}).headers["x-request-id"] != "x" * 500
        assert guarded.http.get("/v1/models").headers["x-request-id"]  # errors have one, too


class TestQueue:
    def test_beyond_it_429(self, tiny_path):
        options = {"max_num_seqs": 1, "max_num_waiting": 1}
        with running({"tiny": tiny_path}, options=options) as server:
            statuses: list[httpx.Response] = []

            def ask() -> None:
                statuses.append(httpx.post(f"{server.url}/v1/chat/completions", json=LONG, timeout=60))

            threads = [threading.Thread(target=ask) for _ in range(12)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            refused = [answer for answer in statuses if answer.status_code == 429]
            assert {answer.status_code for answer in statuses} == {200, 429}
            assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
            assert refused[0].json()["error"]["code"] == "queue_full"
            server.wait_until_idle()

    def test_deadline(self, tiny_path):
        with running({"tiny": tiny_path}, request_timeout=0.001) as server:
            answer = server.post("/v1/chat/completions", **LONG)
            assert answer.status_code == 408
            assert answer.json()["error"]["code"] == "timeout"
            text = server.post("/v1/chat/completions", stream=True, **LONG).text
            assert '"code":"timeout"' in text
            assert "[DONE]" not in text
            with pytest.raises(openai.APIError, match="no end after"):
                list(server.openai().chat.completions.create(model="tiny", stream=True, **LONG))
            server.wait_until_idle()


class TestSettings:
    def test_prefix_wins_and_flags_win_over_both(self):
        environment = {"PORT": "1", "DENSECORE_PORT": "2", "HOST": "a", "API_KEYS": "k1, k2", "AUTH_ENABLED": "TRUE"}
        environment |= {"MAIN_MODEL_PATH": "m.gguf", "SHUTDOWN_TIMEOUT": "1m", "THREADS": "3", "LOG_LEVEL": "WARNING"}
        settings, rest = settings_from({"host": "b", "cors_enabled": None}, environment)
        assert (settings.port, settings.host, settings.api_keys) == (2, "b", ("k1", "k2"))
        assert (settings.auth_enabled, settings.shutdown_timeout, settings.log_level) == (True, 60.0, "warning")
        assert rest == {"main_model_path": "m.gguf", "threads": 3}

    def test_defaults(self):
        settings, rest = settings_from({}, {"PORT": ""})
        assert (settings.host, settings.port, settings.shutdown_timeout, rest) == ("127.0.0.1", 8080, 30.0, {})

    @pytest.mark.parametrize(
        ("environment", "message"),
        [
            ({"PORT": "x"}, "variable PORT: 'x' is not a number"),
            ({"DENSECORE_AUTH_ENABLED": "maybe"}, "DENSECORE_AUTH_ENABLED: 'maybe' is not true or false"),
            ({"SHUTDOWN_TIMEOUT": "soon"}, "'soon' is not a duration"),
            ({"PORT": "70000"}, "port must be an integer from 0 to 65535"),
            ({"LOG_FORMAT": "xml"}, "log_format must be one of json, text"),
        ],
        ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
    )
    def test_mistakes_are_named(self, environment, message):
        with pytest.raises(InvalidConfigError, match=message):
            settings_from({}, environment)

    @pytest.mark.parametrize(("text", "value"), [("30", 30), ("30s", 30), ("500ms", 0.5), ("2m", 120), ("1.5h", 5400)])
    def test_durations(self, text, value):
        assert seconds(text) == value
