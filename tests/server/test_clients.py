"""LangChain and LiteLLM in their basic calls, where they are installed (the extra ``clients``).

They run in a process of their own, as their imports warn of much, and change settings of others.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import textwrap

import pytest

from .conftest import Running

MODEL = "pystd-6m"

LANGCHAIN = f"""
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel

class Point(BaseModel):
    x: bool
    y: bool

def add(a: bool) -> int:
    "Add."
    return 1

def chat(**options):
    return ChatOpenAI(base_url=URL, api_key="x", model="{MODEL}", max_retries=0, **options)

answer = chat(max_tokens=20, temperature=0).invoke("import os")
assert answer.usage_metadata["output_tokens"] == 20
assert answer.response_metadata["finish_reason"] == "length"
pieces = [piece.content for piece in chat(max_tokens=20, temperature=0).stream("import os")]
assert len(pieces) > 2
assert "".join(pieces) == answer.content
for method in ("json_schema", "function_calling"):
    found = chat(max_tokens=60, temperature=0).with_structured_output(Point, method=method).invoke("import os")
    assert isinstance(found, Point)
must_call = chat(max_tokens=60, temperature=0).bind_tools([add], tool_choice="required", parallel_tool_calls=False)
(call,) = must_call.invoke("x").tool_calls
assert call["name"] == "add"
assert isinstance(call["args"]["a"], bool)
assert len(chat(max_tokens=5).batch(["a", "b", "c"])) == 3
assert OpenAI(base_url=URL, api_key="x", model="{MODEL}", max_tokens=8, temperature=0).invoke("import os")
"""

LITELLM = f"""
import litellm

options = {{"model": "openai/{MODEL}", "api_base": URL, "api_key": "x", "num_retries": 0}}
messages = [{{"role": "user", "content": "import os"}}]
answer = litellm.completion(messages=messages, max_tokens=20, temperature=0, **options)
assert answer.usage.completion_tokens == 20
chunks = litellm.completion(messages=messages, max_tokens=20, temperature=0, stream=True, **options)
assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == answer.choices[0].message.content

def raised(**more):
    try:
        litellm.completion(**(options | more))
    except Exception as error:
        return type(error)

assert raised(messages=[{{"role": "user", "content": "x = 1\\n" * 300}}]) is litellm.ContextWindowExceededError
assert raised(messages=messages, model="openai/other") is litellm.NotFoundError
assert raised(messages=messages, temperature=-1) is litellm.BadRequestError
text = {{"model": "text-completion-openai/{MODEL}", "prompt": "import os", "max_tokens": 5, "temperature": 0}}
assert litellm.text_completion(**(options | text)).choices[0].text
properties = {{"a": {{"type": "boolean"}}}}
parameters = {{"type": "object", "properties": properties, "required": ["a"], "additionalProperties": False}}
tools = [{{"type": "function", "function": {{"name": "f", "parameters": parameters}}}}]
options |= {{"max_tokens": 60, "temperature": 0}}
choice = litellm.completion(messages=messages, tools=tools, tool_choice="required", **options).choices[0]
assert choice.message.tool_calls[0].function.name == "f"
assert choice.finish_reason == "tool_calls"
"""


@pytest.mark.parametrize(("package", "script"), [("langchain_openai", LANGCHAIN), ("litellm", LITELLM)])
def test_basic_calls(builtin: Running, package: str, script: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    code = f"URL = {builtin.url + '/v1'!r}\n{textwrap.dedent(script)}"
    environment = os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
