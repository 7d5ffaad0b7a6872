"""The one exception whose message is meant for the person at the keyboard."""


class UserError(Exception):
    """Something the user can put right: one sentence saying what is wrong, where, and what to do."""
