"""Text to token ids and back, and chats to text: the tokenizer and the chat template that a model comes with."""

from densecore.tokenizer.chat_template import ChatTemplate
from densecore.tokenizer.detokenizer import IncrementalDetokenizer
from densecore.tokenizer.tokenizer import Tokenizer

__all__ = ["ChatTemplate", "IncrementalDetokenizer", "Tokenizer"]
