"""Output of a shape that is certain: JSON that is valid under a schema, one of some strings, a regular expression.

python structured_output.py [model.gguf]
"""

import json
import sys

from densecore import DenseCore
from densecore.data import builtin_model_path

path = sys.argv[1] if len(sys.argv) > 1 else builtin_model_path()
FUNCTION = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z_]{3,20}$"},
        "arguments": {"type": "array", "items": {"enum": ["int", "str", "list"]}, "minItems": 1, "maxItems": 3},
        "is_public": {"type": "boolean"},
    },
    "required": ["name", "arguments", "is_public"],
    "additionalProperties": False,
}

with DenseCore(path) as model:
    result = model.complete("A function, as JSON: ", json_schema=FUNCTION, seed=1, max_tokens=150)
    if result.finish_reason == "stop":  # otherwise max_tokens was too short for it
        function = json.loads(result.text)
        print(f"{function['name']}({', '.join(function['arguments'])})")

    print(model.generate("Is None a value? ", choice=["yes", "no", "maybe"], temperature=0))
    print(model.generate("Today is ", regex=r"20[0-9]{2}-[01][0-9]-[0-3][0-9]", seed=1))
