"""Pages of results: a Markdown text with places for the numbers, and what fills them in."""
