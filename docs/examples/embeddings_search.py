"""Find the text that a question is about: embeddings, and the dot products between them.

python embeddings_search.py MODEL.gguf [QUESTION]        an embedding model, such as all-MiniLM-L6-v2
"""

import sys

import numpy as np

from densecore import DenseCore

TEXTS = [
    "A list keeps its items in the order in which they were added.",
    "A dictionary finds a value by its key.",
    "A set holds each item once and has no order.",
    "A generator computes its items when they are asked for.",
]

path = sys.argv[1]
question = sys.argv[2] if len(sys.argv) > 2 else "How do I look up a value by name?"

with DenseCore(path) as model:
    library = model.embed_batch(TEXTS)  # (num_texts, dim), each of length 1
    wanted = model.embed(question)  # (dim,)
    similarity = library @ wanted  # cosines
    for index in np.argsort(similarity)[::-1]:
        print(f"{similarity[index]:.3f}  {TEXTS[index]}")
