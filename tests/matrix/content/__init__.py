"""The privacy of every cell: each instrumentation captures all it can of calls that are marked wherever it can."""
