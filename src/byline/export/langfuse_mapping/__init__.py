"""What Langfuse makes of a span, said in its own words."""
