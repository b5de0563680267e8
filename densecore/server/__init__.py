"""The REST API: OpenAI's, on FastAPI and uvicorn. Needs the extra ``[server]``; see docs/SERVER.md.

A request's way: `middleware` (id, host, key, rate) -> `body` (bytes to a checked request of `schemas`) -> `chat` or
`completions` -> `registry` (the model) -> `output` (text to content, reasoning and tool calls) -> JSON, or `sse`.
"""
