"""Corpora, tokenizer, dialogues, tasks and preferences: text to token arrays."""
