"""The view of the spans that a destination gets: trace, step, generation, under the caller's own trace id."""
