"""The parts of the HTML report: reading, numerals, facts, charts, words, templates."""

__all__: list[str] = []
