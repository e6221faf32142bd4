"""The spans: which ones stand for an LLM, and what is written on them."""
