"""Which tokens end a reply, and which merely look like control tokens.

A model stops at its end-of-text token, at the end of its turn or of its message, and at whatever else its
publisher trained it to stop at. Files name only some of these by id, so the rest is recognised by its text.
The list of texts is a fact about published vocabularies; it is the one that llama.cpp uses.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["END_TEXTS", "rendered_texts"]

END_TEXTS = frozenset(
    {
        "<|eot_id|>", "<|eom_id|>",  # Llama 3
        "<|im_end|>", "<|endoftext|>",  # ChatML, Qwen, GPT-2
        "<|end|>",  # Phi
        "<|end_of_text|>",  # Llama 3, Granite
        "<|return|>", "<|call|>",  # gpt-oss
        "<|flush|>", "<|calls|>",  # Solar Open
        "<end_of_turn>",  # Gemma
        "<eos>", "<turn|>", "<|tool_response>",  # Gemma 4
        "</s>",
        "<EOT>", "_<EOT>",  # Code Llama
        "[EOT]", "[EOS]",  # Kimi
        "<end_of_utterance>",  # SmolDocling
        "<\uff5cend\u2581of\u2581sentence\uff5c>",  # DeepSeek
        "[e~[",  # MiniMax
        # Fill-in-the-middle: after these, text of another file or padding would follow.
        "<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]",
        "<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>",
        "<|file_sep|>",
    }
)  # fmt: skip

# gpt-oss frames its channels with tokens that readers of the text need to see.
_HARMONY = ("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>")


def rendered_texts(ids: Mapping[str, int]) -> frozenset[str]:
    """Texts that belong to the output of this vocabulary, although other vocabularies end with them.

    Where a reply is made of several messages, ``<|end|>`` ends a message, not the reply; and Gemma 4 has
    an ``</s>`` that is the HTML tag.
    """
    texts = {text for text in _HARMONY if text in ids}
    calls = "<|call|>" in ids or "<|calls|>" in ids
    if calls and ("<|flush|>" in ids or ("<|return|>" in ids and "<|call|>" in ids)):
        texts.add("<|end|>")
    if "<|tool_response>" in ids:
        texts.add("</s>")
    return frozenset(texts)
