"""The pages of docs/ that ``python -m tests.docs`` writes from the code, and the tests of all pages."""
