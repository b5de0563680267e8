"""Chat templates: the same text as transformers renders, and no template that can hurt.

``chat_goldens.json`` holds conversations and what transformers 5.23 makes of them with published templates.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import datetime
from pathlib import Path

import pytest

from densecore.exceptions import InferenceError, InvalidConfigError, ModelLoadError
from densecore.tokenizer import ChatTemplate, template_process
from tests.conftest import SHARED, shared_path
from tests.tokenizer.vocabs import recorded, tiny

GOLDENS = json.loads(Path(__file__).with_name("chat_goldens.json").read_text("utf-8"))
HELLO = [{"role": "user", "content": "Hello!"}]


def render(source: str, messages=HELLO, **kwargs) -> str:
    return ChatTemplate(source, bos_token="<BOS>", eos_token="<EOS>").render(messages, **kwargs)


@pytest.mark.parametrize("name", GOLDENS["rendered"])
def test_published_templates(name):
    source = shared_path("templates", name).read_text("utf-8")
    for case, conversation in GOLDENS["conversations"].items():
        expected = GOLDENS["rendered"][name][case]
        arguments = {key: value for key, value in conversation.items() if key in ("tools", "add_generation_prompt")}
        arguments |= conversation.get("variables", {})
        if "text" in expected:
            assert render(source, conversation["messages"], **arguments) == expected["text"], case
        else:
            with pytest.raises(InvalidConfigError) as caught:
                render(source, conversation["messages"], **arguments)
            assert expected["error"] in str(caught.value)


def test_all_published_templates_are_compared():
    folder = SHARED / "templates"
    if folder.exists():
        assert {path.name for path in folder.glob("*.jinja")} <= GOLDENS["rendered"].keys()


def test_without_a_template_it_is_chatml():
    template = ChatTemplate(None)
    assert template.is_fallback
    messages = [{"role": "system", "content": "Be brief."}, *HELLO, {"role": "assistant", "content": None}]
    start = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n"
    assert template.render(messages) == start + "<|im_end|>\n<|im_start|>assistant\n"
    assert template.render(messages, add_generation_prompt=False) == start + "<|im_end|>\n"
    assert not ChatTemplate("").is_fallback


def test_the_template_of_a_file(tmp_path):
    tokenizer = tiny(tmp_path, "llama", **{"tokenizer.chat_template": "{{ bos_token }}{{ messages[0].content }}"})
    template = ChatTemplate.for_tokenizer(tokenizer)
    assert not template.is_fallback
    assert template.render(HELLO) == "<s>Hello!"
    ids = tokenizer.encode(template.render(HELLO), add_special=True, parse_special=True)
    assert ids.count(tokenizer.bos_id) == 1
    assert ChatTemplate.for_tokenizer(tiny(tmp_path, "gpt2")).is_fallback
    assert "<|im_start|>user" in ChatTemplate.for_tokenizer(recorded("qwen2")).render(HELLO)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ {'b': '<é&\">', 'a': [1, None]} | tojson }}", '{"b": "<é&\\">", "a": [1, null]}'),
        ("{{ {'a': 1} | tojson(indent=1) }}", '{\n "a": 1\n}'),
        ("{{ 'é' | tojson(ensure_ascii=True) }}", '"\\u00e9"'),
        ("{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}"
         "{{ i }}{% endfor %}", "02"),
        ("a\n  {% if true %}\nb\n  {% endif %}\nc", "a\nb\nc"),
        ("{% generation %}{% set x = 1 %}reply{% endgeneration %}{{ x is defined }}", "replyFalse"),
        ("{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }}", "TrueTrueTrue"),
        ("{{ bos_token }}{{ eos_token }}", "<BOS><EOS>"),
        ("{{ extra.deep[0] }}{{ '<b>' }}", "1<b>"),
        ("{{ missing }}|{{ missing is defined }}", "|False"),
        ("{{ messages[0].content[:2] }}{{ messages | length }}", "He1"),
        ("", ""),
    ],
)  # fmt: skip
def test_conventions(source, expected):
    assert render(source, extra={"deep": [1]}) == expected


def test_strftime_now():
    before = datetime.now().strftime("%d %B %Y")
    assert render("{{ strftime_now('%d %B %Y') }}") in (before, datetime.now().strftime("%d %B %Y"))


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        ("{{ raise_exception('roles must alternate') }}", InvalidConfigError, "refuses .*: roles must alternate$"),
        ("{{ nothing.at.all }}", InvalidConfigError, "'nothing' is undefined"),
        ("{{ 1 + 'a' }}", InvalidConfigError, "TypeError"),
        ("{{ 1 // 0 }}", InvalidConfigError, "ZeroDivisionError"),
        ("{{ ''.__class__.__mro__ }}", InvalidConfigError, "SecurityError.*__class__"),
        ("{{ messages.append(1) }}", InvalidConfigError, "SecurityError"),
        ("{{ messages | tojson | upper | nope }}", ModelLoadError, "No filter named 'nope'"),
        ("{% for %}", ModelLoadError, "line 1"),
        ("a\nb\n{% endif %}", ModelLoadError, "line 3"),
        ("{% include '/etc/passwd' %}", InvalidConfigError, "no loader"),
        ("{{ messages | tojson(default=1) }}", InvalidConfigError, "TypeError"),
    ],
)
def test_errors(source, error, words):
    with pytest.raises(error, match=words):
        render(source)
    assert render("{{ messages[0].role }}") == "user"


def test_long_messages_of_templates_are_cut():
    with pytest.raises(InvalidConfigError) as caught:
        render("{{ raise_exception('x' * 100000) }}")
    assert len(str(caught.value)) < 1200


GROW = "{% set ns = namespace(x=START) %}{% for i in range(60) %}{% set ns.x = STEP %}{% endfor %}{{ ns.x | length }}"
HOSTILE = {
    "long range": "{% for i in range(10 ** 9) %}x{% endfor %}",
    "nested loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "repeated string": "{{ 'a' * 10 ** 9 }}",
    "repeated string, known when compiled": "{{ 'a' * 100000000000 }}",
    "repeated list": "{{ [1] * 10 ** 9 }}",
    "huge power": "{{ 10 ** (10 ** 8) }}",
    "tower of powers": "{{ 9 ** (9 ** (9 ** 9)) }}",
    "huge join": "{{ (['a' * 1000] * 10000) | join('b' * 100000) | length }}",
    "macro that calls itself": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "macro that calls itself twice": "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}"
    "{{ m(60) }}",
    "recursive loop": "{% for i in [[]] recursive %}{{ loop([[]]) }}{% endfor %}",
    "doubled string": GROW.replace("START", "'a'").replace("STEP", "ns.x ~ ns.x"),
    "doubled list": GROW.replace("START", "[1]").replace("STEP", "ns.x + ns.x"),
    "captured output": "{% set ns = namespace(x='a') %}{% for i in range(60) %}"
    "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}{% endfor %}",
    "shared lists": GROW.replace("START", "[1]").replace("STEP", "[ns.x, ns.x]") + "{{ ns.x }}",
    "shared lists as JSON": GROW.replace("START", "[1]").replace("STEP", "[ns.x, ns.x]") + "{{ ns.x | tojson }}",
    "deep list": "{% set ns = namespace(x=[]) %}{% for i in range(90000) %}{% set ns.x = [ns.x] %}{% endfor %}"
    "{{ ns.x }}",
    "padding": "{{ 'a'.center(10 ** 10) }}",
    "width of a number": "{{ '%9999999999d' % 1 }}",
    "width in a format": "{{ '{:>9999999999}'.format(1) }}",
    "endless output": "{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}",
    "much placeholder text": "{{ lipsum(n=10 ** 8) }}",
    "nested parentheses": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "nested blocks": "{% if 1 %}" * 5000 + "{% endif %}" * 5000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_templates_are_stopped(name):
    start = time.monotonic()
    with pytest.raises((InvalidConfigError, ModelLoadError)) as caught:
        render(HOSTILE[name])
    assert time.monotonic() - start < template_process.WALL_SECONDS + 10
    assert str(caught.value).isprintable()
    assert render("{{ messages[0].content }}") == "Hello!"


def test_bounds_do_not_depend_on_the_main_thread():
    errors = []

    def in_thread():
        with pytest.raises(InvalidConfigError) as caught:
            render(HOSTILE["nested loops"])
        errors.append(str(caught.value))

    threads = [threading.Thread(target=in_thread) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(errors) == 2
    assert "processor time" in errors[0]


def test_the_wall_clock_stops_what_the_processor_clock_does_not(monkeypatch):
    """As on systems without such a clock. The rendering process is stopped by the system's signal here."""
    monkeypatch.setattr(template_process, "WALL_SECONDS", 0.5)
    render("started")
    os.kill(template_process._process.pid, signal.SIGSTOP)
    with pytest.raises(InvalidConfigError, match=r"stopped, after 0\.5 seconds"):
        render("{{ 1 }}")
    monkeypatch.undo()
    assert render("{{ 1 }}") == "1"


def test_a_killed_process_is_replaced():
    render("started")
    pid = template_process._process.pid
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.2)
    assert render("{{ 1 }}") == "1"
    assert template_process._process.pid != pid


def test_one_process_serves_all_and_keeps_few_templates():
    render("started")
    pid = template_process._process.pid
    for number in range(30):
        assert render(f"{{{{ {number} }}}}") == str(number)
    assert template_process._process.pid == pid
    template_process.stop()
    assert template_process._process is None


def test_threads_get_their_own_answers():
    found = {}

    def ask(number):
        found[number] = [
            render("{{ messages[0].content }}", [{"role": "user", "content": str(number)}]) for _ in range(20)
        ]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {number: [str(number)] * 20 for number in range(4)}


def test_without_an_interpreter_there_is_a_clean_error(monkeypatch):
    template_process.stop()
    monkeypatch.setattr(sys, "executable", "/usr/bin/some-program")
    monkeypatch.setattr(sys, "exec_prefix", "/nowhere")
    with pytest.raises(InferenceError, match="no interpreter"):
        render("{{ 1 }}")


def test_without_jinja_there_is_a_clean_error(monkeypatch):
    template_process.stop()
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if "packages" not in entry])
    with pytest.raises(InferenceError, match=r"does not start.*jinja2"):
        render("{{ 1 }}")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_starts_its_own():
    script = """
import os, warnings
from densecore.tokenizer import ChatTemplate
text = ChatTemplate("{{ messages[0].role }}")
assert text.render([{"role": "user", "content": ""}]) == "user"
pid = os.fork()
if pid == 0:
    os._exit(text.render([{"role": "user", "content": ""}]) != "user")
assert os.waitpid(pid, 0)[1] == 0
assert text.render([{"role": "user", "content": ""}]) == "user"
"""
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", script], timeout=60, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        (None, "messages is a NoneType"),
        ("Hello", "messages is a str"),
        ({"role": "user", "content": "x"}, "messages is a dict"),
        ([], "messages is empty"),
        (["Hello"], r"messages\[0\] is a str"),
        ([{"content": "x"}], r"messages\[0\]\.role is None"),
        ([{"role": "", "content": "x"}], r"messages\[0\]\.role is ''"),
        ([{"role": 1, "content": "x"}], r"messages\[0\]\.role is 1"),
        ([*HELLO, {"role": "user"}], r"messages\[1\] has no content"),
        ([{"role": "user", "content": 5}], r"messages\[0\]\.content is a int"),
        ([{"role": "user", "content": {"type": "text"}}], r"messages\[0\]\.content is a dict"),
        ([{"role": "user", "content": ["x"]}], r"messages\[0\]\.content\[0\] is not"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "only text is supported"),
        ([{"role": "user", "content": [{"type": "text", "text": None}]}], r"content\[0\]"),
        ([{"role": "user", "content": "x", "extra": object()}], "messages cannot be written as JSON"),
    ],
)
def test_messages_are_checked(messages, words):
    with pytest.raises(InvalidConfigError, match=words):
        render("{{ 1 }}", messages)


def test_text_parts_are_joined_and_other_fields_pass():
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    call = {"role": "assistant", "tool_calls": [{"name": "f"}]}
    result = {"role": "tool", "content": "3", "tool_call_id": "x"}
    source = "{{ messages[0].content }} {{ messages[1].tool_calls[0].name }} {{ messages[2].tool_call_id }}"
    assert render(source, [{"role": "user", "content": parts}, call, result]) == "one\ntwo f x"


def deep() -> list:
    value: list = []
    for _ in range(100_000):
        value = [value]
    return value


@pytest.mark.parametrize("value", [object(), {1, 2}, b"x", deep()], ids=["object", "set", "bytes", "deep"])
def test_variables_are_checked(value):
    with pytest.raises(InvalidConfigError, match="extra cannot be written as JSON"):
        render("{{ 1 }}", extra=value)


@pytest.mark.parametrize(
    "text",
    ["\ud800", "\x00\u2028\n\r", "\U0001f999" * 1000, "x" * 1_000_000],
    ids=["surrogate", "controls", "wide", "long"],
)
def test_any_text_passes_unchanged(text):
    assert render("{{ messages[0].content }}", [{"role": "user", "content": text}]) == text


def test_a_rendering_is_quick():
    render("started")
    start = time.process_time()
    for _ in range(20):
        ChatTemplate(None).render(HELLO * 50)
    assert time.process_time() - start < 2
