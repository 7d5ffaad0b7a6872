"""A reward of one's own: up to half for being short, half for a docstring."""


def short_and_documented(prompt: str, response: str, **row) -> float:
    """0 to 1. row: what else the prompt's JSON object holds, such as tests."""
    words = len(response.split())
    return 0.5 * min(1.0, 60 / max(1, words)) + 0.5 * ('"""' in response)
