"""A conversation: the whole of it goes to the model with each message, and its KV cache computes none of it twice.

python chat.py [model.gguf]
"""

import sys

from densecore import DenseCore
from densecore.data import builtin_model_path

path = sys.argv[1] if len(sys.argv) > 1 else builtin_model_path()
messages = [{"role": "system", "content": "You answer in Python."}]

with DenseCore(path) as model:
    for question in ("How do I import a module?", "And two of them?"):
        messages.append({"role": "user", "content": question})
        result = model.complete_chat(messages, max_tokens=40, temperature=0)
        messages.append({"role": "assistant", "content": result.text})
        print(f"> {question}\n{result.text.strip()}")
        usage = result.usage
        print(f"[{usage.prompt_tokens} tokens of prompt, {usage.cached_tokens} of them computed before]")
