"""Models from the Hub: huggingface_hub's real client against a stand-in of its server."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants, scan_cache_dir

from densecore.exceptions import InvalidConfigError, ModelLoadError
from densecore.hub import cached_models, fetch_model, remove_models, repositories
from tests.hub_server import COMMIT, Hub, etag_of, serving

CONTENT = bytes(range(256)) * 400
SPLIT = [f"big-Q8_0-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
Fetch = Callable[..., Path]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    names = ["m-Q2_K.gguf", "m-Q4_K_M.gguf", "mmproj-Q4_K_M.gguf", "m.imatrix.gguf", *SPLIT, "README.md"]
    files = {f"o/m/{name}": name.encode() + CONTENT for name in names}
    files |= {"o/two/a-Q4_K_M.gguf": b"a", "o/two/b-Q4_K_M.gguf": b"b", "o/text/README.md": b"no model"}
    files |= {f"o/gap/{name}": b"x" for name in SPLIT[:2]}
    files |= {"secret/private/m.gguf": b"p", "secret/gated/m.gguf": b"g"}
    with serving(Hub(files, private="secret")) as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.address)
        template = served.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # what arrives of a chunk is lost with a connection
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield served


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "outer" / "cache"


@pytest.fixture
def fetch(hub: Hub, cache: Path, tmp_path: Path) -> Iterator[Fetch]:
    """Downloads without bars into a cache; afterwards nothing may lie outside of it."""
    yield lambda *arguments, **options: fetch_model(
        *arguments, **{"cache_dir": cache, "progress": lambda *_: None} | options
    )
    assert {path.name for path in tmp_path.iterdir()} <= {"outer"}
    assert {path.name for path in cache.parent.iterdir()} <= {"cache"} if cache.parent.exists() else True


@pytest.mark.parametrize(
    ("reference", "filename", "chosen"),
    [
        ("o/m", None, "m-Q4_K_M.gguf"),
        ("o/m:q2_k", None, "m-Q2_K.gguf"),
        ("o/m:m-Q2_K.gguf", None, "m-Q2_K.gguf"),
        ("o/m", "m-Q2_K.gguf", "m-Q2_K.gguf"),
        ("o/m:Q8_0", None, SPLIT[0]),
        ("o/m", SPLIT[1], SPLIT[0]),
        ("secret/gated", "m.gguf", None),
    ],
)
def test_what_is_chosen(fetch: Fetch, hub: Hub, reference: str, filename: str | None, chosen: str | None) -> None:
    if chosen is None:
        with pytest.raises(ModelLoadError, match="access must be granted"):
            fetch(reference, filename)
        return
    path = fetch(reference, filename)
    assert path.name == chosen
    names = SPLIT if chosen == SPLIT[0] else [chosen]
    for name in names:
        assert path.with_name(name).read_bytes() == hub.files[f"o/m/{name}"]
    assert {name for _, name, _ in hub.requests if name.endswith("gguf")} == {
        f"o/m/resolve/{COMMIT}/{name}" for name in names
    }


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("o/m:Q5_K_M", "nothing is quantized as Q5_K_M; there is Q2_K, Q4_K_M, Q8_0"),
        ("o/m:x.gguf", "there is no x.gguf, but .*m-Q2_K.gguf"),
        ("o/two", "several models fit: a-Q4_K_M.gguf, b-Q4_K_M.gguf; name the file"),
        ("o/text", "no GGUF file of a language model"),
        ("o/gap", "of 3 parts of the model, big-Q8_0-00003-of-00003.gguf is missing"),
        ("o/none", "no such repository"),
        ("secret/private", "private one that needs HF_TOKEN"),
    ],
)
def test_what_cannot_be_had(fetch: Fetch, reference: str, words: str) -> None:
    with pytest.raises(ModelLoadError, match=words) as caught:
        fetch(reference)
    assert str(caught.value).isprintable()


def test_a_token_opens_private_repositories(fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert fetch("secret/private").read_bytes() == b"p"


@pytest.mark.parametrize("name", ["o", "../o/m", "o/../m", "/o/m", "o/m:", "o/m:a:b", "", "o/m\n", None, 3])
def test_names_that_are_none(fetch: Fetch, name: object) -> None:
    with pytest.raises((InvalidConfigError, ModelLoadError), match=r"not name a model|not a repository id"):
        fetch(name)


def test_arguments_that_do_not_go_together(fetch: Fetch) -> None:
    with pytest.raises(InvalidConfigError, match="give either filename"):
        fetch("o/m:Q2_K", "m-Q2_K.gguf")
    with pytest.raises(InvalidConfigError, match="must be the name of a GGUF file"):
        fetch("o/m", "README.md")
    with pytest.raises(ModelLoadError, match="no such revision"):
        fetch("o/m", revision="nowhere")


def test_the_cache_is_that_of_huggingface_hub(fetch: Fetch, cache: Path) -> None:
    path = fetch("o/m")
    assert path == cache / "models--o--m" / "snapshots" / COMMIT / "m-Q4_K_M.gguf"
    (found,) = scan_cache_dir(cache).repos
    assert (found.repo_id, found.size_on_disk) == ("o/m", path.stat().st_size)
    assert found.refs["main"].commit_hash == COMMIT


def test_what_is_there_is_not_downloaded_again(fetch: Fetch, hub: Hub) -> None:
    path = fetch("o/m")
    hub.requests.clear()
    assert fetch("o/m") == path
    assert [request[1] for request in hub.requests] == ["api/models/o/m"]


def test_dropped_connections_are_resumed(fetch: Fetch, hub: Hub) -> None:
    hub.cut_at, hub.cuts = 5000, 1
    assert fetch("o/m").read_bytes() == hub.files["o/m/m-Q4_K_M.gguf"]
    assert [given for method, _, given in hub.requests if method == "GET" and given] == ["bytes=5000-"]


def test_an_interrupted_download_goes_on(fetch: Fetch, hub: Hub, cache: Path) -> None:
    def interrupt(filename: str, done: int, total: int | None) -> None:
        if done == 5000:
            raise KeyboardInterrupt

    hub.cut_at, hub.cuts = 5000, 1
    with pytest.raises(KeyboardInterrupt):
        fetch("o/m", progress=interrupt)
    (partial,) = cache.rglob("*.incomplete")
    assert partial.stat().st_size == 5000
    seen: list[int] = []
    path = fetch("o/m", progress=lambda name, done, total: seen.append(done))
    assert path.read_bytes() == hub.files["o/m/m-Q4_K_M.gguf"]
    assert seen[0] == 5000
    assert hub.requests[-1][2] == "bytes=5000-"
    assert not list(cache.rglob("*.incomplete"))


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"ETag": '"../../../evil"'}, "must stay inside"),
        ({"ETag": '"/tmp/evil"'}, "must stay inside"),
        ({"X-Linked-ETag": '"..\\\\evil"'}, "must stay inside"),
        ({"X-Repo-Commit": "../../../../evil"}, "must stay inside"),
        ({"X-Repo-Commit": ""}, "must stay inside|does not answer as"),
        ({"ETag": '"' + "0" * 64 + '"'}, "SHA-256 is"),
        ({"X-Linked-Size": str(10**15)}, "GiB are needed"),
        ({"X-Linked-Size": "10"}, "size|bytes"),
    ],
)
def test_a_server_that_lies(fetch: Fetch, hub: Hub, cache: Path, headers: dict[str, str], words: str) -> None:
    hub.headers = headers
    with pytest.raises(ModelLoadError, match=words):
        fetch("o/m")
    assert not list(cache.rglob("*.gguf"))
    hub.headers = {}
    assert fetch("o/m").read_bytes() == hub.files["o/m/m-Q4_K_M.gguf"]


def test_a_server_that_never_ends(fetch: Fetch, hub: Hub, cache: Path) -> None:
    hub.headers = {"X-Linked-Size": "5000"}
    with pytest.raises(ModelLoadError, match="sends more than the 5000 bytes"):
        fetch("o/m")
    assert all(path.stat().st_size <= 5000 for path in cache.rglob("*.incomplete"))


@pytest.mark.parametrize("sha", ["../../../evil", "main", "", None, 5])
def test_commits_that_are_none(fetch: Fetch, hub: Hub, sha: object) -> None:
    hub.listing = {"sha": sha}
    with pytest.raises(ModelLoadError, match=r"commit .* is not accepted"):
        fetch("o/m")


@pytest.mark.parametrize("siblings", [None, 5, [5], [{}], [{"rfilename": 5}], [{"rfilename": "a\nb.gguf"}]])
def test_listings_that_are_none(fetch: Fetch, hub: Hub, siblings: object) -> None:
    hub.listing = {"siblings": siblings}
    with pytest.raises(ModelLoadError) as caught:
        fetch("o/m")
    assert str(caught.value).isprintable()


def test_a_cache_that_is_none(fetch: Fetch) -> None:
    for cache_dir in (5, "a\0b"):
        with pytest.raises(InvalidConfigError, match="cache_dir must be"):
            fetch("o/m", cache_dir=cache_dir)


@pytest.mark.parametrize("name", ["../../evil-Q4_K_M.gguf", "/tmp/evil.gguf", "a/../../../evil.gguf", "a\\b.gguf"])
def test_names_of_files_that_lead_outside(fetch: Fetch, hub: Hub, cache: Path, name: str) -> None:
    hub.files = {f"o/evil/{name}": b"evil"}
    with pytest.raises(ModelLoadError, match="must stay"):
        fetch("o/evil")
    assert not cache.exists() or not list(cache.rglob("*evil*gguf"))


@pytest.mark.parametrize(
    ("status", "words"), [(401, "private one|token"), (403, "refused"), (404, "no"), (429, "wait"), (503, "later")]
)
def test_statuses(fetch: Fetch, hub: Hub, status: int, words: str) -> None:
    hub.status = status
    with pytest.raises(ModelLoadError, match=words):
        fetch("o/m")


def test_the_cache_serves_when_the_hub_does_not(fetch: Fetch, hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    path = fetch("o/m:Q8_0")
    hub.status = 503
    assert fetch("o/m:Q8_0") == fetch("o/m") == path
    assert "the copy in the cache is used" in caplog.text
    with pytest.raises(ModelLoadError, match="nothing is quantized as Q2_K; there is Q8_0"):
        fetch("o/m:Q2_K")


def test_lists_and_removes(fetch: Fetch, hub: Hub, cache: Path, tmp_path: Path) -> None:
    for reference in ("o/m", "o/m:Q8_0", "o/two:a-Q4_K_M.gguf"):
        fetch(reference)
    first, second = repositories(cache)
    assert (first.repo_id, second.repo_id) == ("o/m", "o/two")
    split, single = cached_models(first)
    assert (split.name, split.quantization, len(split.paths), split.missing_parts) == (SPLIT[0], "Q8_0", 3, ())
    assert split.size_bytes == sum(len(hub.files[f"o/m/{name}"]) for name in SPLIT)
    assert remove_models(first, [split]) == split.size_bytes
    assert cached_models(first) == [single]
    assert single.paths[0].read_bytes() == hub.files["o/m/m-Q4_K_M.gguf"]
    fetch("o/m:Q8_0")
    split.paths[1].unlink()
    assert cached_models(first)[0].missing_parts == (SPLIT[1],)
    assert remove_models(second) == 1 + len(COMMIT)  # the model, and the commit that main is
    assert [found.repo_id for found in repositories(cache)] == ["o/m"]


def test_removing_follows_no_link_out_of_the_repository(fetch: Fetch, cache: Path) -> None:
    path = fetch("o/m")
    other = cache / "precious"
    other.write_bytes(b"precious")
    path.unlink()
    path.symlink_to(other)
    (found,) = repositories(cache)
    assert remove_models(found, cached_models(found)) == 0
    assert other.read_bytes() == b"precious"


def test_etags_are_hashes() -> None:
    assert re.fullmatch("[0-9a-f]{64}", etag_of("m.gguf", b""))
