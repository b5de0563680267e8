"""Text as it is generated: one stream, several at once in asyncio, and one that is given up.

python streaming.py [model.gguf]
"""

import asyncio
import sys

from densecore import DenseCore
from densecore.data import builtin_model_path

path = sys.argv[1] if len(sys.argv) > 1 else builtin_model_path()


async def collect(model: DenseCore, prompt: str) -> str:
    """All of a stream; others run meanwhile."""
    return "".join([piece async for piece in model.stream_async(prompt, max_tokens=20, seed=1)])


async def collect_all(model: DenseCore, prompts: list[str]) -> list[str]:
    return await asyncio.gather(*(collect(model, prompt) for prompt in prompts))


with DenseCore(path) as model:
    for text in model.stream("import os", max_tokens=30, temperature=0):
        print(text, end="", flush=True)
    print("\n---")

    for text in asyncio.run(collect_all(model, ["def add(a, b):", "class Point:", "for i in range"])):
        print(repr(text))
    print("---")

    with model.stream("# Numbers: ", max_tokens=200, temperature=0) as stream:  # leaving the block ends the request
        for number, text in enumerate(stream):
            print(text, end="", flush=True)
            if number == 5:
                break
    print()
