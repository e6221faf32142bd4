"""The reach table: one program, run beside each instrumentation in an environment of its own."""
