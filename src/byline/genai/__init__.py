"""LLM spans: their recognition, their attribution and their call results."""
