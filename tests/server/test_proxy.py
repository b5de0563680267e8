"""Behind a proxy on the same machine."""

from __future__ import annotations

from pathlib import Path

from .conftest import running


def test_limits_count_the_clients_of_the_proxy(tiny_path: Path) -> None:
    limits = {"rate_limit_enabled": True, "rate_limit_rps": 0.01, "rate_limit_burst": 1}
    with running({"tiny": tiny_path}, **limits) as server:
        found = [
            server.http.get("/v1/models", headers={"X-Forwarded-For": address}).status_code
            for address in ("192.0.2.1", "192.0.2.1", "192.0.2.2")
        ]
        assert found == [200, 429, 200]
